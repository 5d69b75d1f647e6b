"""One way to the sound and the picture of any clip, whether it lies in a file or is a scene of the embedded world."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from earwitness import media
from earwitness.records import Clip
from earwitness.world import render
from earwitness.world.scenes import SECONDS, Scene
from earwitness.world.selections import DIFFICULTIES, draw_clip
from earwitness.world.speech import Utterance

WORLD = "world:"
WORLD_VERSION = "world 1"  # part of what rows and answers are made from: it changes when the scenes do


def load_sound(clip: Clip) -> NDArray[np.float32]:
    """Return a clip's sound: (N,) float32, mono, 16 kHz. Raises MediaError where it cannot be read whole."""
    if clip.media.startswith(WORLD):
        return render.sound(scene_of(clip))
    return media.read_sound(clip.media, clip.start, clip.end)


def load_frames(clip: Clip, count: int) -> media.Frames:
    """Return `count` frames of a clip, evenly spread by presentation time, with their times in seconds."""
    if clip.media.startswith(WORLD):
        images = render.picture(scene_of(clip))
        times = np.arange(len(images)) / render.FRAMES_PER_SECOND
        keep = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int))
        return media.Frames(images[keep], times[keep], float(SECONDS))
    return media.read_frames(clip.media, count, clip.start, clip.end)


def seconds_of(clip: Clip) -> float:
    """Return how long a clip's sound is, by its file's header where that says so. Raises MediaError."""
    if clip.media.startswith(WORLD):
        return float(SECONDS)
    if clip.end is not None:
        return clip.end - clip.start
    whole = media.probe(clip.media).duration
    return len(load_sound(clip)) / media.RATE if whole is None else max(0.0, whole - clip.start)


def scene_of(clip: Clip) -> Scene | Utterance:
    """Return the scene or utterance behind a `world:DIFFICULTY:SEED` clip."""
    _, difficulty, seed = clip.media.split(":")
    return draw_clip(DIFFICULTIES[difficulty], int(seed))
