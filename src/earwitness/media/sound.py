"""Sound as 16 kHz mono samples on the file's clock. Runs in the child alone."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from earwitness.media.container import check_sound, opened, span, walk
from earwitness.media.limits import RATE, Limits, MediaError

_PREROLL = 1.0  # seconds decoded before the span: codecs and the resampler's filter both look back
_TAIL = 0.1  # seconds after it, for the filter
_JITTER = 0.1  # seconds by which time stamps may wander before it counts as a gap
_SETTLE = 16  # frames whose stamps together say when the first of them begins


def read_sound(path: str, start: float, end: float | None, limits: Limits) -> np.ndarray[Any, Any]:
    """Return float32 (N,): the mean of all channels from `start` to `end`, or to where the track ends."""
    with opened(path, limits) as source:
        if source.audio is None:
            raise MediaError("has no sound track; an audio model needs one: leave the file out")
        start, last = span(source, start, end, limits)
        tape = None
        for time, frame in steadied(walk(source, source.audio, start - _PREROLL, limits)):
            if tape is None:
                tape = Tape(frame.sample_rate, start, last, limits)
            check_sound(frame.sample_rate, len(frame.layout.channels), limits)
            if frame.sample_rate != tape.rate:
                raise MediaError("changes its sampling rate midway; re-encode it at one rate")
            if tape.lay(time, mean_of_channels(frame)):
                break
    samples, heard = (None, 0) if tape is None else tape.finish()
    if samples is None or heard <= 0:
        raise MediaError(f"has no sound between {start:g} and {last:g} s; choose another span")
    return samples if end is not None else samples[:heard]


def steadied(frames: Iterator[tuple[float, AudioFrame]]) -> Iterator[tuple[float, AudioFrame]]:
    """Yield the frames with a first time that the next ones confirm.

    Stamps are often rounded to milliseconds, and in downloaded clips single ones are off by a whole packet: what
    follows is laid end to end, so only the first one counts, and it is set by the median of what the others say.
    """
    head = list(itertools.islice(frames, _SETTLE))
    says, length = [], 0.0
    for time, frame in head:
        says.append(time - length)
        length += frame.samples / frame.sample_rate
    if head and abs((begin := statistics.median_low(says)) - head[0][0]) <= _JITTER:
        head[0] = (begin, head[0][1])
    yield from head
    yield from frames


def mean_of_channels(frame: AudioFrame) -> np.ndarray[Any, Any]:
    """Return float32 (N,) in [-1, 1]: the plain mean, which a loudness-keeping downmix is not."""
    data = frame.to_ndarray()
    channels = len(frame.layout.channels)
    planes = data if frame.format.is_planar else data.reshape(-1, channels).T
    if planes.dtype.kind == "u":
        middle = 1 << (planes.dtype.itemsize * 8 - 1)
        planes = (planes.astype(np.float64) - middle) / middle
    elif planes.dtype.kind == "i":
        planes = planes / float(1 << (planes.dtype.itemsize * 8 - 1))
    return np.asarray(planes.sum(axis=0) / channels, np.float32)


class Tape:
    """Samples of any rate, laid at their times and resampled onto a grid that starts at the file's zero.

    The grid does not depend on where reading began, so a span equals the same stretch of the whole.
    """

    def __init__(self, rate: int, start: float, end: float, limits: Limits) -> None:
        self.rate = rate
        self._first, self._last = round(start * RATE), round(end * RATE)
        if (self._last - self._first) * 4 > limits.bytes:
            raise MediaError(f"would give {(self._last - self._first) * 4} bytes of sound; ask for a shorter span")
        common = math.gcd(rate, RATE)
        period = rate // common  # input samples after which the two grids meet again
        self._at = max(0, math.floor((start - _PREROLL / 2) * rate)) // period * period
        self._out = self._at // period * (RATE // common)
        self._stop = math.ceil((end + _TAIL) * rate)
        self._begun = False
        self._heard = 0
        self._samples = np.zeros(self._last - self._first, np.float32)
        self._resampler = None if rate == RATE else AudioResampler(format="flt", layout="mono", rate=RATE)

    def lay(self, time: float, samples: np.ndarray[Any, Any]) -> bool:
        """Lay samples at `time`, silence where there is a gap; True when the span is complete."""
        place = round(time * self.rate)
        if self._begun and abs(place - self._at) <= _JITTER * self.rate:
            place = self._at
        samples = samples[max(0, self._at - place) :]
        if len(samples):
            self._begun = True
            while self._at < min(place, self._stop):
                self._feed(np.zeros(min(self.rate, place - self._at, self._stop - self._at), np.float32))
            self._feed(samples)
            self._heard = self._at
        return self._at >= self._stop

    def finish(self) -> tuple[np.ndarray[Any, Any], int]:
        """Return float32 (N,), silent after the track's end, and how many of the samples the track covers."""
        if self._resampler is not None and self._begun:
            for frame in self._resampler.resample(None):
                self._write(frame.to_ndarray()[0])
        heard = math.ceil(self._heard * RATE / self.rate) - self._first
        return self._samples, min(heard, len(self._samples))

    def _feed(self, samples: np.ndarray[Any, Any]) -> None:
        at, self._at = self._at, self._at + len(samples)
        if self._resampler is None:
            self._write(samples)
            return
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format="flt", layout="mono")
        frame.sample_rate = self.rate
        frame.pts = at
        for part in self._resampler.resample(frame):
            self._write(part.to_ndarray()[0])

    def _write(self, samples: np.ndarray[Any, Any]) -> None:
        place, self._out = self._out - self._first, self._out + len(samples)
        low, high = max(0, place), min(len(self._samples), place + len(samples))
        if low < high:
            self._samples[low:high] = samples[low - place : high - place]
