"""Knowing a recording again after it was encoded anew: bits of how its spectrum moves, after Haitsma and Kalker.

A word of 32 bits is made every 32 ms (A Highly Robust Audio Fingerprinting System, ISMIR 2002): bit m says whether the
difference between the energies of bands m and m + 1 has grown since the frame before. Loudness and codecs leave most
bits alone. What lasts less than two seconds is too little to tell a recording by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
WINDOW, HOP = 4096, 512
BANDS = np.geomspace(200, 3400, 34)  # Hz; telephones and low bit rates keep these
QUIET = 1e-4  # of the loudest frame's energy: codecs make up what is quieter
ERRORS = 0.3  # share of bits that may differ; of unrelated recordings about half do
LEAST = 48  # frames that must be loud on both sides
MOST_PLACES = 64  # where a word is found; one that is everywhere tells nothing
CANDIDATES = 32

Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Print:
    """One recording: words (N,), and which frames are loud enough to count (N,)."""

    words: Words
    loud: NDArray[np.bool_]


def fingerprint(wave: NDArray[np.float32]) -> Print:
    """Return the fingerprint of a waveform (N,), mono at 16 kHz."""
    return _spelled(*_moves(wave))


def _moves(wave: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return (frames, 32) how the energy differences of neighbouring bands move, and which frames are loud."""
    if len(wave) < WINDOW + HOP:
        return np.zeros((0, 32)), np.zeros(0, bool)
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(wave, np.float32), WINDOW)[::HOP]
    edges = np.round(BANDS * WINDOW / RATE).astype(int)
    energy = np.empty((len(frames), 33))
    window = np.hanning(WINDOW).astype(np.float32)
    for begin in range(0, len(frames), 256):  # an hour of sound must not be one matrix of spectra
        power = np.abs(np.fft.rfft(frames[begin : begin + 256] * window)) ** 2
        energy[begin : begin + 256] = np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1)
    whole = energy.sum(1)
    slopes = np.diff(np.log(energy + 1e-12), axis=1)
    loud = whole > QUIET * whole.max() if whole.max() > 0 else np.zeros(len(whole), bool)
    return np.diff(slopes, axis=0), loud[1:] & loud[:-1]


def _spelled(moves: NDArray[np.float64], loud: NDArray[np.bool_]) -> Print:
    bits = (moves > 0).astype(np.uint32)
    return Print((bits << np.arange(32, dtype=np.uint32)).sum(1, dtype=np.uint32), loud)


def pack_print(found: Print) -> str:
    """Return a fingerprint as hexadecimal digits: the words, then a word for each frame that says if it is loud."""
    return found.words.astype("<u4").tobytes().hex() + ":" + np.packbits(found.loud).tobytes().hex()


def unpack_print(text: str) -> Print:
    """Return what `pack_print` wrote."""
    words, _, loud = text.partition(":")
    spelled = np.frombuffer(bytes.fromhex(words), "<u4").astype(np.uint32)
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(loud), np.uint8))[: len(spelled)]
    return Print(spelled, bits.astype(bool))


class Shelf:
    """Fingerprints to look others up in: every loud word with its places, sorted."""

    def __init__(self, prints: Sequence[Print]) -> None:
        self.prints = list(prints)
        words = [p.words[p.loud] for p in self.prints]
        owners = [np.full(len(w), number) for number, w in enumerate(words)]
        frames = [np.flatnonzero(p.loud) for p in self.prints]
        order = np.argsort(np.concatenate([*words, np.zeros(0, np.uint32)]), kind="stable")
        self._words = np.concatenate([*words, np.zeros(0, np.uint32)])[order]
        self._owners = np.concatenate([*owners, np.zeros(0, int)])[order].astype(np.int64)
        self._frames = np.concatenate([*frames, np.zeros(0, int)])[order].astype(np.int64)

    def find(self, one: Print) -> tuple[int, float] | None:
        """Return (number, share of equal bits) of the recording that this one is, or overlaps; None for none."""
        best: tuple[int, float] | None = None
        for owner, offset in self._candidates(one):
            for shift in (-1, 0, 1):
                errors = bit_errors(one, self.prints[owner], offset + shift)
                if errors <= ERRORS and (best is None or 1 - errors > best[1]):
                    best = (owner, 1 - errors)
        return best

    def _candidates(self, one: Print) -> list[tuple[int, int]]:
        """Return the recordings and offsets at which most words are the same, up to a few uncertain bits."""
        at = np.flatnonzero(one.loud)
        found: list[NDArray[np.int64]] = []
        for words in _near(one.words[at]):
            left, right = np.searchsorted(self._words, words, "left"), np.searchsorted(self._words, words, "right")
            counts = np.where(right - left > MOST_PLACES, 0, right - left)
            if not counts.sum():
                continue
            starts = np.repeat(left - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
            places = starts + np.arange(counts.sum())
            found.append(np.stack([self._owners[places], self._frames[places] - np.repeat(at, counts)]))
        if not found:
            return []
        pairs, votes = np.unique(np.concatenate(found, axis=1), axis=1, return_counts=True)
        best = np.argsort(-votes, kind="stable")[:CANDIDATES]
        return [(int(pairs[0, i]), int(pairs[1, i])) for i in best]


def _near(words: Words) -> list[Words]:
    """Return the words, and each with one bit the other way: codecs seldom leave all 32 alone."""
    return [words, *(words ^ np.uint32(1 << bit) for bit in range(32))]


def bit_errors(one: Print, other: Print, offset: int) -> float:
    """Return the share of bits that differ where both are loud, `one` beginning at frame `offset` of `other`.

    1 where they overlap for less than `LEAST` loud frames, or for less than half of the loud frames of the shorter.
    """
    begin, end = max(0, -offset), min(len(one.words), len(other.words) - offset)
    if end - begin < LEAST:
        return 1.0
    mine, theirs = slice(begin, end), slice(begin + offset, end + offset)
    both = one.loud[mine] & other.loud[theirs]
    count = int(both.sum())
    if count < max(LEAST, min(int(one.loud.sum()), int(other.loud.sum())) // 2):
        return 1.0
    differ: Any = np.bitwise_xor(one.words[mine][both], other.words[theirs][both])
    return float(np.unpackbits(differ.astype("<u4").view(np.uint8)).sum()) / (32 * count)
