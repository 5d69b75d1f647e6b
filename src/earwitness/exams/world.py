"""The embedded world's own exams: `world` (as trained), `world-easy`, and `world-ood` (out of domain)."""

from __future__ import annotations

from earwitness.records import Question
from earwitness.world.questions import read_world

NAMES = ("world", "world-easy", "world-ood")
DEFAULT_SIZE = 2400


def load(name: str, limit: int) -> list[Question]:
    """Return an exam's questions (0: 2400 of them)."""
    return read_world(f"{name}:exam", limit or DEFAULT_SIZE)
