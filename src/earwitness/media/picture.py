"""Frames by presentation time. Runs in the child alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from earwitness.media.container import Source, opened, span, walk
from earwitness.media.limits import Limits, MediaError

_LEAP = 20.0  # seconds between two wanted frames from which seeking pays


def read_frames(
    path: str, count: int, start: float, end: float | None, max_side: int, limits: Limits
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
    """Return images (F, H, W, 3) uint8, times (F,) float64 in seconds from `start`, and the span's length."""
    if count < 1 or max_side < 2:
        raise MediaError(f"was asked for {count} frames of side {max_side}; ask for at least 1 frame of side 2")
    with opened(path, limits) as source:
        if source.video is None:
            raise MediaError("has no picture track; a teacher that watches needs one: name a video file")
        start, last = span(source, start, end, limits)
        targets = start + (np.arange(count) + 0.5) * (last - start) / count
        pictures = _Pictures(count, max_side, limits)
        times = []
        for time, frame in on_screen(source, targets.tolist(), limits):
            if time < last:
                pictures.add(frame)
                times.append(max(time, start) - start)
    if not times:
        raise MediaError(f"shows no picture between {start:g} and {last:g} s; choose another span")
    return pictures.images(), np.array(times, np.float64), last - start


def on_screen(source: Source, targets: list[float], limits: Limits) -> Iterator[tuple[float, VideoFrame]]:
    """Yield the last frame that began at or before each of the rising `targets`; none twice.

    Before its first frame a file is taken to show that frame. One frame is held at a time.
    """
    assert source.video is not None
    frames = walk(source, source.video, targets[0], limits)
    at, held, leaping = 0, None, True
    while at < len(targets):
        step = next(frames, None)
        if step is not None and (held is None or step[0] <= targets[at]):
            held = step if held is None or step[0] >= held[0] else held
            continue
        if held is not None:
            yield held
        if step is None:
            return
        while at < len(targets) and step[0] > targets[at]:
            at += 1
        held = step
        if leaping and at < len(targets) and targets[at] - step[0] > _LEAP:
            frames = walk(source, source.video, targets[at], limits)
            held = next(frames, None)
            leaping = held is not None and held[0] > step[0]  # where key frames are rare, leaping leads back


class _Pictures:
    """Images of one size, filled one by one."""

    def __init__(self, count: int, max_side: int, limits: Limits) -> None:
        self._count, self._max_side, self._limits = count, max_side, limits
        self._images: np.ndarray[Any, Any] | None = None
        self._filled = 0
        self._size = (0, 0)

    def add(self, frame: VideoFrame) -> None:
        if self._images is None:
            self._size = fitted(frame.width, frame.height, self._max_side)
        width, height = self._size
        picture = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
        picture = np.rot90(picture, frame.rotation // 90 % 4)
        if self._images is None:
            self._images = self._allocate(picture.shape)
        if picture.shape != self._images.shape[1:]:
            raise MediaError("turns its picture midway; cut it there into two files")
        self._images[self._filled] = picture
        self._filled += 1

    def _allocate(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        size = self._count * int(np.prod(shape))
        if size > self._limits.bytes:
            raise MediaError(f"would give {size} bytes of images, above {self._limits.bytes}; ask for fewer or smaller")
        return np.empty((self._count, *shape), np.uint8)

    def images(self) -> np.ndarray[Any, Any]:
        assert self._images is not None
        return self._images[: self._filled]


def fitted(width: int, height: int, max_side: int) -> tuple[int, int]:
    """Return the even size, of the same proportions, whose longer side is at most `max_side` (and never enlarged)."""
    scale = min(1.0, max_side / max(width, height))
    return max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2)
