"""The named difficulties of the world, and which seeds belong to which purpose. Seed ranges never overlap."""

from __future__ import annotations

import random
from dataclasses import dataclass

from earwitness.world.puzzles import GLANCES, KINDS, LOOKUPS, SPOKEN, Puzzle, draw_puzzle
from earwitness.world.scenes import Difficulty, Scene, draw_scene
from earwitness.world.speech import Talk, Utterance, draw_utterance

EASY = Difficulty("easy", events=(5, 7))
PLAIN = Difficulty("plain", events=(5, 7), silent_movers=0.0, blurred=0.0, off_screen=0.0)
DEFAULT = Difficulty("default", blurred=0.6, blurred_again=0.5, off_screen=0.25, noise=1.5)
CROWDED = Difficulty("crowded", kinds=(4,), events=(6, 7), noise=1.5)
# What the weights are made from: an ear that knows few silent movers, an eye that knows none.
EAR_SCHOOL = Difficulty("ear-school", silent_movers=0.3, blurred=0.3, off_screen=0.12)
EYE_SCHOOL = Difficulty("eye-school", silent_movers=0.0, off_screen=0.0)
SPEECH = Talk("speech")
CHATTER = Talk("chatter", words=(6, 8), noise=1.5)
FEELING = Talk("mood", words=(3, 6), voices=(1, 1), themed=1.0)
# Words that share a mood say nothing of the prosody's here: the four moods are equally likely.
SPEECH_SCHOOL = Talk("speech-school", themed=0.7, agree=0.25)
DIFFICULTIES: dict[str, Difficulty | Talk] = {
    d.name: d for d in (EASY, PLAIN, DEFAULT, CROWDED, EAR_SCHOOL, EYE_SCHOOL, SPEECH, CHATTER, FEELING, SPEECH_SCHOOL)
}

BUILD_SEEDS = 110_000_000
HELD_OUT_SEEDS = 120_000_000


@dataclass(frozen=True)
class Selection:
    """A named run of seeds: a difficulty, the kinds of question asked, and the first seed.

    With `think` its questions carry the chain of thought that leads to their answers. Every other question comes from
    the selection `besides`, if there is one.
    """

    difficulty: Difficulty | Talk
    first_seed: int
    kinds: tuple[str, ...] = KINDS
    deepest: int = 4
    size: int = 10_000_000
    think: bool = False
    besides: Selection | None = None


SELECTIONS = {
    "world:train": Selection(DEFAULT, 200_000_000),
    "world:validation": Selection(DEFAULT, 210_000_000),
    "world:exam": Selection(DEFAULT, 220_000_000),
    "world-easy:train": Selection(EASY, 300_000_000, LOOKUPS),
    "world-easy:validation": Selection(EASY, 310_000_000, LOOKUPS),
    "world-easy:exam": Selection(EASY, 320_000_000, LOOKUPS),
    "world-onehop:train": Selection(PLAIN, 350_000_000, GLANCES),
    "world-onehop:validation": Selection(PLAIN, 360_000_000, GLANCES),
    "world-onehop:exam": Selection(PLAIN, 370_000_000, GLANCES),
    "world-ood:validation": Selection(CROWDED, 410_000_000, (*KINDS, "last"), deepest=5),
    "world-ood:exam": Selection(CROWDED, 420_000_000, (*KINDS, "last"), deepest=5),
    "world-speech:train": Selection(SPEECH, 500_000_000, SPOKEN, think=True),
    "world-speech:validation": Selection(SPEECH, 510_000_000, SPOKEN),
    "world-speech:exam": Selection(SPEECH, 520_000_000, SPOKEN),
    "world-speech-ood:validation": Selection(CHATTER, 610_000_000, (*SPOKEN, "last")),
    "world-speech-ood:exam": Selection(CHATTER, 620_000_000, (*SPOKEN, "last")),
    "world-mood:validation": Selection(FEELING, 710_000_000, ("mood",)),
    "world-mood:exam": Selection(FEELING, 720_000_000, ("mood",)),
    "world-given:train": Selection(
        DEFAULT, 800_000_000, think=True, besides=Selection(SPEECH, 810_000_000, SPOKEN, think=True)
    ),
    "world-reasoned:train": Selection(DEFAULT, 900_000_000, think=True),
}


def draw(selection: Selection, index: int) -> tuple[Scene | Utterance, Puzzle]:
    """Draw the `index`-th clip of a selection and its question; each clip is asked one."""
    if not 0 <= index < selection.size:
        raise IndexError(f"a selection has {selection.size} scenes, there is none with index {index}")
    part, index = part_of(selection, index)
    scene = draw_clip(part.difficulty, part.first_seed + index)
    rng = random.Random(f"puzzle {part.difficulty.name} {scene.seed}")
    return scene, draw_puzzle(scene, rng, part.kinds, part.deepest)


def part_of(selection: Selection, index: int) -> tuple[Selection, int]:
    """Return the selection that the `index`-th question comes from, and its index there."""
    if selection.besides is None:
        return selection, index
    return selection.besides if index % 2 else selection, index // 2


def draw_clip(difficulty: Difficulty | Talk, seed: int) -> Scene | Utterance:
    """Draw the scene or, of a talk, the utterance of a seed."""
    return draw_utterance(seed, difficulty) if isinstance(difficulty, Talk) else draw_scene(seed, difficulty)
