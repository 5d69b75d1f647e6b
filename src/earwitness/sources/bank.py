"""A bank of known sounds for calibrating a checker: a folder of sound files, or the embedded world's own sounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from earwitness import media
from earwitness.records import Clip
from earwitness.sources.clips import WORLD
from earwitness.world import render
from earwitness.world.scenes import SOUNDS


@dataclass(frozen=True)
class Bank:
    """Sounds by name; `sound(name, rng)` gives a waveform (N,) at 16 kHz."""

    names: tuple[str, ...]
    sound: Callable[[str, np.random.Generator], NDArray[np.float32]]


def open_bank(folder: str | None, clip: Clip) -> Bank:
    """Return the bank for a clip: a user's folder (files named by what they hold), or the world's sounds."""
    if folder is not None:
        files = {p.stem.replace("_", " "): p for p in sorted(Path(folder).glob("*")) if p.is_file()}
        return Bank(tuple(files), lambda name, rng: media.read_sound(str(files[name])))
    if clip.media.startswith(WORLD):
        return Bank(SOUNDS, lambda name, rng: render.tone(name, rng).astype(np.float32))
    return Bank((), lambda name, rng: np.zeros(0, np.float32))
