"""Randomness that depends on what is drawn, never on when: the same sample gets the same noise in any batch."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def uniforms(count: int, *key: object) -> NDArray[np.float64]:
    """Return `count` numbers in [0, 1) that are a function of the key (seed, stage, question id, sample index, ...)."""
    return generator(*key).random(count)


def generator(*key: object) -> np.random.Generator:
    """Return a generator whose stream is a function of the key."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
