"""Benchmarks: loading and official scoring, one file each."""

from __future__ import annotations

from earwitness.config import ConfigError
from earwitness.exams import world
from earwitness.records import Question


def load_exam(name: str, limit: int) -> list[Question]:
    """Return an exam's questions (0: all of them), or raise ConfigError naming the exams that there are."""
    if name in world.NAMES:
        return world.load(name, limit)
    raise ConfigError(
        f"there is no exam {name!r}; there are {', '.join(world.NAMES)}, and any source "
        "(folder:PATH, jsonl:PATH, avqa:val)"
    )
