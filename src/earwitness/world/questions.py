"""Selections of the world as question records."""

from __future__ import annotations

from earwitness.records import Clip, Question
from earwitness.world.puzzles import seen_tag
from earwitness.world.selections import SELECTIONS, draw

DEFAULT_SIZE = 3000


def read_world(name: str, limit: int) -> list[Question]:
    """Return the first `limit` questions (0: 3000) of a selection such as `world:train`."""
    selection = SELECTIONS[name]
    questions = []
    for index in range(limit or DEFAULT_SIZE):
        scene, puzzle = draw(selection, index)
        difficulty = selection.difficulty.name
        clip = Clip(
            id=f"{difficulty}-{scene.seed}",
            media=f"world:{difficulty}:{scene.seed}",
            end=4.0,
            sounds=tuple(dict.fromkeys(scene.heard)),
        )
        tags = {"type": puzzle.kind, "seen": seen_tag(puzzle, scene)}
        questions.append(
            Question(
                id=f"{name.replace(':', '/')}/{index}",
                clip=clip,
                text=puzzle.text,
                choices=puzzle.choices,
                answer=puzzle.answer,
                tags=tags,
            )
        )
    return questions
