"""How words sound: a small formant synthesiser. A word is what is hissed, what is voiced, and what is hissed after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from earwitness.world.speech import SLOTS, Utterance

RATE = 16_000
SECONDS = 4
NOISE = (0.005, 0.05)
LOUDNESS = 0.10  # root mean square of a word in a mood of no particular level
HIGHEST = 4500.0  # Hz, of a harmonic
BANDWIDTH = 110.0  # Hz, of a formant of a voice of scale 1

Array = NDArray[np.float64]
Hiss = tuple[float, float]  # the band in Hz; (0, 0) for none
NO_HISS = (0.0, 0.0)

# Rough formants (first, second) in Hz of the vowels and the one nasal that words are made of.
_A, _E, _I, _O, _U, _N = (730, 1090), (500, 1400), (270, 2290), (570, 840), (300, 870), (250, 1100)


@dataclass(frozen=True)
class Word:
    """A word's parts: the band hissed first, the formants that the voice glides through, the band hissed last."""

    onset: Hiss
    glide: tuple[tuple[float, float], ...]
    tail: Hiss


LEXICON = {
    "party": Word((300, 1500), (_A, _A, _I), NO_HISS),
    "smile": Word((5000, 7500), (_N, _A, _I, _O), NO_HISS),
    "tears": Word((3000, 5000), (_I, _I, _E), (4500, 7500)),
    "alone": Word(NO_HISS, (_E, _O, _O, _N), NO_HISS),
    "fight": Word((1500, 7000), (_A, _I), (3000, 5000)),
    "shout": Word((2000, 4000), (_A, _U), (3000, 5000)),
    "sleep": Word((5000, 7500), (_I, _I), (300, 1500)),
    "quiet": Word((1200, 2500), (_U, _A, _I), (3000, 5000)),
}
# Pitch in Hz, and what multiplies the formants.
TIMBRE = {"ann": (205.0, 1.12), "bob": (112.0, 0.95), "kim": (290.0, 1.3)}


@dataclass(frozen=True)
class Prosody:
    """How an utterance is said: pitch (octaves off the voice's own), its slope over a word, seconds, decibels."""

    pitch: float
    slope: float
    seconds: float
    level: float


MANNERS = {
    "happy": Prosody(0.26, 0.30, 0.34, 2.0),
    "sad": Prosody(-0.26, -0.22, 0.43, -4.0),
    "angry": Prosody(0.14, -0.30, 0.32, 5.0),
    "calm": Prosody(-0.06, 0.04, 0.41, -1.0),
}
# Standard deviations between utterances of one mood: no mood can always be told.
LOOSE = Prosody(0.095, 0.13, 0.024, 1.9)


def speak(utterance: Utterance) -> NDArray[np.float32]:
    """Return the waveform of an utterance: (64000,) float32 in [-1, 1], mono, 16 kHz."""
    rng = np.random.default_rng(utterance.seed + 3_000_000)
    wave = rng.standard_normal(RATE * SECONDS) * rng.uniform(*NOISE) * utterance.noise
    manner = draw_prosody(utterance.mood, rng)
    slot = RATE * SECONDS // SLOTS
    for said in utterance.events:
        sound = pronounce(said.sound, said.voice, manner, rng)
        start = said.slot * slot + int(rng.uniform(0, 0.04) * RATE)
        wave[start : start + len(sound)] += sound[: len(wave) - start]
    return np.clip(wave, -1, 1).astype(np.float32)


def draw_prosody(mood: str, rng: np.random.Generator) -> Prosody:
    """Draw how an utterance of a mood is said. What carries the mood is the same for all of its words."""
    centre, spread = MANNERS[mood], rng.standard_normal(4)
    values = (centre.pitch, centre.slope, centre.seconds, centre.level)
    loose = (LOOSE.pitch, LOOSE.slope, LOOSE.seconds, LOOSE.level)
    pitch, slope, seconds, level = (v + s * x for v, s, x in zip(values, loose, spread, strict=True))
    return Prosody(pitch, slope, float(np.clip(seconds, 0.26, 0.46)), level)


def pronounce(word: str, voice: str, manner: Prosody, rng: np.random.Generator) -> Array:
    """Return one word's waveform: `manner.seconds` long within 4 %, its level within 1 decibel."""
    pitch, scale = TIMBRE[voice]
    n = int(RATE * manner.seconds * rng.uniform(0.96, 1.04))
    at = np.linspace(-0.5, 0.5, n)
    hertz = pitch * rng.uniform(0.97, 1.03) * 2.0 ** (manner.pitch + manner.slope * at)
    parts = LEXICON[word]
    hissed = int(0.2 * n)
    start, stop = hissed if any(parts.onset) else 0, n - hissed if any(parts.tail) else n
    wave = np.zeros(n)
    wave[start:stop] = _voiced(hertz[start:stop], parts.glide, scale)
    wave[:start] = _hissed(parts.onset, start, rng)
    wave[stop:] = _hissed(parts.tail, n - stop, rng)
    edge = int(0.012 * RATE)
    wave[:edge] *= np.linspace(0, 1, edge)
    wave[-edge:] *= np.linspace(1, 0, edge)
    loud = LOUDNESS * 10 ** ((manner.level + rng.uniform(-1, 1)) / 20)
    return np.asarray(wave * loud / np.sqrt((wave**2).mean() + 1e-9))


def _voiced(hertz: Array, glide: tuple[tuple[float, float], ...], scale: float) -> Array:
    """Sum the harmonics of a pitch track (N,), each as loud as the formants that it passes make it."""
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    along = np.linspace(0, len(glide) - 1, len(hertz))
    formants = [np.interp(along, range(len(glide)), [target[i] for target in glide]) * scale for i in (0, 1)]
    wave = np.zeros(len(hertz))
    for k in range(1, int(HIGHEST / hertz.mean()) + 1):
        first, second = (1 / (1 + ((k * hertz - f) / (BANDWIDTH * scale)) ** 2) for f in formants)
        wave += (first + 0.6 * second) * np.sin(k * phase)
    return np.asarray(wave / np.sqrt((wave**2).mean() + 1e-9))


def _hissed(band: Hiss, n: int, rng: np.random.Generator) -> Array:
    """Return noise (n,) of a band, half as loud as the voice."""
    if not n:
        return np.zeros(0)
    spectrum = np.fft.rfft(rng.standard_normal(n))
    hertz = np.fft.rfftfreq(n, 1 / RATE)
    wave = np.fft.irfft(spectrum * ((hertz >= band[0]) & (hertz <= band[1])), n)
    return np.asarray(0.6 * wave / np.sqrt((wave**2).mean() + 1e-9))
