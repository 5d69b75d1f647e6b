"""A scene as arrays: its sound as a waveform, its picture as frames. Nothing here knows of files or models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from earwitness.world.scenes import SECONDS, SLOTS, SOUNDS, Scene
from earwitness.world.speech import Utterance
from earwitness.world.voices import speak

RATE = 16_000
FRAMES_PER_SECOND = 4
SIDE = 32
CELL = 16
SHAPE = {name: i // 2 for i, name in enumerate(SOUNDS)}  # twins share a shape, colour tells them apart
COLOUR = {
    "bell": (255, 210, 60),
    "whistle": (80, 200, 255),
    "drum": (230, 70, 60),
    "clap": (250, 180, 160),
    "siren": (70, 90, 255),
    "horn": (255, 140, 20),
    "dog": (160, 100, 50),
    "engine": (60, 200, 90),
}
GREY = (150, 150, 150)
SKIN = (220, 180, 150)
SOFT = (0.045, 0.075)  # root mean square of an event
LOUD = (0.13, 0.20)
NOISE = (0.005, 0.07)

Array = NDArray[np.float64]


def sound(scene: Scene | Utterance) -> NDArray[np.float32]:
    """Return the waveform of a scene or an utterance: (64000,) float32 in [-1, 1], mono, 16 kHz."""
    if isinstance(scene, Utterance):
        return speak(scene)
    rng = np.random.default_rng(scene.seed + 1_000_000)
    wave = rng.standard_normal(RATE * SECONDS) * rng.uniform(*NOISE) * scene.noise
    slot = RATE * SECONDS // SLOTS
    for event in scene.events:
        voice = tone(event.sound, rng) * rng.uniform(*(LOUD if event.loud else SOFT))
        start = event.slot * slot + int(rng.uniform(0, 0.07) * RATE)
        wave[start : start + len(voice)] += voice[: len(wave) - start]
    return np.clip(wave, -1, 1).astype(np.float32)


def picture(scene: Scene | Utterance) -> NDArray[np.uint8]:
    """Return the frames of a scene: (16, 32, 32, 3) uint8, four a second. Movers are big, bright and pulsing.

    Of an utterance there is a still head to be seen, which tells nothing.
    """
    if isinstance(scene, Utterance):
        return _head()
    rng = np.random.default_rng(scene.seed + 2_000_000)
    count = SECONDS * FRAMES_PER_SECOND
    per_slot = count // SLOTS
    frames = np.full((count, SIDE, SIDE, 3), rng.uniform(15, 45))
    moving = set(scene.movers)
    for name, cell in scene.cells.items():
        colour = np.array(GREY if name in scene.blurred else COLOUR[name], dtype=float)
        top, left = cell // 2 * CELL, cell % 2 * CELL
        shift = tuple(rng.integers(-1, 2, 2))
        for i in range(count):
            active = (i // per_slot, name) in moving
            radius = (7.5 if i % 2 else 5.5) if active else 4.0
            mask = np.roll(_outline(SHAPE[name], radius), shift, (0, 1))
            frames[i, top : top + CELL, left : left + CELL][mask] = colour * (1.0 if active else 0.45)
    return np.clip(frames + rng.normal(0, 6, frames.shape), 0, 255).astype(np.uint8)


def _head() -> NDArray[np.uint8]:
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    frames = np.full((SECONDS * FRAMES_PER_SECOND, SIDE, SIDE, 3), 30, dtype=np.uint8)
    frames[:, x * x / 64 + y * y / 121 < 1] = SKIN
    return frames


def _outline(shape: int, radius: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[:CELL, :CELL] - (CELL - 1) / 2
    disc = x * x + y * y < radius * radius
    bar = (abs(x) < radius) & (abs(y) < radius * 0.6)
    diamond = abs(x) + abs(y) < radius * 1.2
    cross = (abs(x) < radius * 0.45) | (abs(y) < radius * 0.45)
    return np.asarray((disc, bar, diamond, cross)[shape])


def tone(name: str, rng: np.random.Generator) -> Array:
    """Return one event's waveform with unit root mean square, 0.34 to 0.42 seconds, pitch varied by 7 %."""
    n = int(RATE * rng.uniform(0.34, 0.42))
    t = np.arange(n) / RATE
    wave = _VOICES[name](t, rng.uniform(0.93, 1.07), rng)
    edge = int(0.01 * RATE)
    wave[:edge] *= np.linspace(0, 1, edge)
    wave[-edge:] *= np.linspace(1, 0, edge)
    return np.asarray(wave / np.sqrt((wave**2).mean() + 1e-9))


def _bell(t: Array, pitch: float, rng: np.random.Generator) -> Array:
    partials = ((1180, 1.0, 7), (2830, 0.6, 9), (4700, 0.3, 14))
    return np.asarray(sum(a * np.sin(2 * np.pi * f * pitch * t) * np.exp(-d * t) for f, a, d in partials))


def _whistle(t: Array, pitch: float, rng: np.random.Generator) -> Array:
    return np.sin(2 * np.pi * (2600 * pitch * t + 40 * np.sin(2 * np.pi * 6 * t) / 6))


def _drum(t: Array, pitch: float, rng: np.random.Generator) -> Array:
    skin = np.sin(2 * np.pi * 95 * pitch * t * np.exp(-0.6 * t)) * np.exp(-9 * t) * 1.6
    return skin + 0.4 * rng.standard_normal(len(t)) * np.exp(-40 * t)


def _clap(t: Array, pitch: float, rng: np.random.Generator) -> Array:
    wave = np.zeros(len(t))
    for start in (0, 0.11, 0.22):
        after = t >= start
        wave[after] += rng.standard_normal(int(after.sum())) * np.exp(-60 * (t[after] - start))
    return wave


def _siren(t: Array, pitch: float, rng: np.random.Generator) -> Array:
    return np.sin(2 * np.pi * (1000 * pitch * t - 400 / (2 * np.pi * 3) * np.cos(2 * np.pi * 3 * t)))


def _horn(t: Array, pitch: float, rng: np.random.Generator) -> Array:
    tones = (np.sin(2 * np.pi * f * pitch * k * t) / k for f in (330, 415) for k in (1, 2, 3))
    return np.asarray(sum(tones)) * 0.5


def _dog(t: Array, pitch: float, rng: np.random.Generator) -> Array:
    wave = np.zeros(len(t))
    for start in (0, 0.18):
        bark = (t >= start) & (t < start + 0.12)
        u = t[bark] - start
        voice = sum(np.sin(2 * np.pi * k * (480 * pitch * u - 900 * u * u)) / k**0.5 for k in range(1, 6))
        wave[bark] += voice * np.sin(np.pi * u / 0.12)
    return wave


def _engine(t: Array, pitch: float, rng: np.random.Generator) -> Array:
    return ((70 * pitch * t) % 1 - 0.5) * (1 + 0.7 * np.sin(2 * np.pi * 14 * t))


_VOICES = {
    "bell": _bell,
    "whistle": _whistle,
    "drum": _drum,
    "clap": _clap,
    "siren": _siren,
    "horn": _horn,
    "dog": _dog,
    "engine": _engine,
}
