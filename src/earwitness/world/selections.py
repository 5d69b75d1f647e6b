"""The named difficulties of the world, and which seeds belong to which purpose. Seed ranges never overlap."""

from __future__ import annotations

import random
from dataclasses import dataclass

from earwitness.world.puzzles import KINDS, LOOKUPS, Puzzle, draw_puzzle
from earwitness.world.scenes import Difficulty, Scene, draw_scene

EASY = Difficulty("easy", events=(5, 7))
DEFAULT = Difficulty("default", blurred=0.6, blurred_again=0.5, off_screen=0.25, noise=1.5)
CROWDED = Difficulty("crowded", kinds=(4,), events=(6, 7), noise=1.5)
# What the weights are made from: an ear that knows few silent movers, an eye that knows none.
EAR_SCHOOL = Difficulty("ear-school", silent_movers=0.3, blurred=0.3, off_screen=0.12)
EYE_SCHOOL = Difficulty("eye-school", silent_movers=0.0, off_screen=0.0)
DIFFICULTIES = {d.name: d for d in (EASY, DEFAULT, CROWDED, EAR_SCHOOL, EYE_SCHOOL)}

BUILD_SEEDS = 110_000_000
HELD_OUT_SEEDS = 120_000_000


@dataclass(frozen=True)
class Selection:
    """A named run of seeds: a difficulty, the kinds of question asked, and the first seed."""

    difficulty: Difficulty
    first_seed: int
    kinds: tuple[str, ...] = KINDS
    deepest: int = 4
    size: int = 10_000_000


SELECTIONS = {
    "world:train": Selection(DEFAULT, 200_000_000),
    "world:validation": Selection(DEFAULT, 210_000_000),
    "world:exam": Selection(DEFAULT, 220_000_000),
    "world-easy:train": Selection(EASY, 300_000_000, LOOKUPS),
    "world-easy:validation": Selection(EASY, 310_000_000, LOOKUPS),
    "world-easy:exam": Selection(EASY, 320_000_000, LOOKUPS),
    "world-ood:validation": Selection(CROWDED, 410_000_000, (*KINDS, "last"), deepest=5),
    "world-ood:exam": Selection(CROWDED, 420_000_000, (*KINDS, "last"), deepest=5),
}


def draw(selection: Selection, index: int) -> tuple[Scene, Puzzle]:
    """Draw the `index`-th scene of a selection and its question; each scene is asked one."""
    if not 0 <= index < selection.size:
        raise IndexError(f"a selection has {selection.size} scenes, there is none with index {index}")
    scene = draw_scene(selection.first_seed + index, selection.difficulty)
    rng = random.Random(f"puzzle {selection.difficulty.name} {scene.seed}")
    return scene, draw_puzzle(scene, rng, selection.kinds, selection.deepest)
