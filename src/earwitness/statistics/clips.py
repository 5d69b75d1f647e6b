"""Questions that share a clip: their numbers, and random draws in bounded blocks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2_000_000  # random draws held at a time: bounds memory, and is fixed so that results do not depend on it


def numbered(clusters: Sequence[Hashable], shape: tuple[int, ...]) -> tuple[NDArray[np.int64], int]:
    """Return (cluster number of each question, how many clusters), numbered by first appearance."""
    if (len(clusters),) != tuple(shape):
        raise ValueError(f"clusters: {len(clusters)} names for outcomes of shape {shape}; give one clip per question")
    numbers: dict[Any, int] = {}
    index = np.fromiter((numbers.setdefault(c, len(numbers)) for c in clusters), dtype=np.int64, count=len(clusters))
    return index, len(numbers)


def blocks(rounds: int, width: int) -> list[int]:
    """Split `rounds` into blocks of at most `_BLOCK` draws of `width` numbers each."""
    size = max(1, _BLOCK // width)
    return [min(size, rounds - done) for done in range(0, rounds, size)]
