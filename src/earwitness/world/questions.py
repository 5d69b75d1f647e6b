"""Selections of the world as question records."""

from __future__ import annotations

from earwitness.records import Clip, Question
from earwitness.world.puzzles import Puzzle, reason, seen_tag
from earwitness.world.scenes import Scene
from earwitness.world.selections import SELECTIONS, draw, part_of
from earwitness.world.speech import Utterance

DEFAULT_SIZE = 3000


def read_world(name: str, limit: int) -> list[Question]:
    """Return the first `limit` questions (0: 3000) of a selection such as `world:train`."""
    selection = SELECTIONS[name]
    questions = []
    for index in range(limit or DEFAULT_SIZE):
        scene, puzzle = draw(selection, index)
        difficulty = part_of(selection, index)[0].difficulty.name
        clip = Clip(
            id=f"{difficulty}-{scene.seed}",
            media=f"world:{difficulty}:{scene.seed}",
            end=4.0,
            sounds=tuple(dict.fromkeys(scene.heard)),
        )
        questions.append(
            Question(
                id=f"{name.replace(':', '/')}/{index}",
                clip=clip,
                text=puzzle.text,
                choices=puzzle.choices,
                answer=puzzle.answer,
                think=reason(puzzle, scene.events)[0] if selection.think else None,
                tags=_tags(puzzle, scene),
            )
        )
    return questions


def _tags(puzzle: Puzzle, scene: Scene | Utterance) -> dict[str, str]:
    """Return the kind of question, and whether an eye (or, of moods, the meaning of the words) could answer it."""
    if isinstance(scene, Scene):
        return {"type": puzzle.kind, "seen": seen_tag(puzzle, scene)}
    words = {"words": "agree" if scene.theme == scene.mood else "conflict"} if puzzle.kind == "mood" else {}
    return {"type": puzzle.kind, **words}
