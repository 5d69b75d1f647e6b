"""A clip as a server takes it: silent frames as JPEG, sound as WAV, each decoded and encoded once and kept on disk.

All samples and all questions about a clip share it. The file itself never leaves this machine: it holds both tracks.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from earwitness.config import digest
from earwitness.media import RATE, Frames, file_digest, sound_bytes
from earwitness.records import Clip
from earwitness.sources.clips import WORLD, WORLD_VERSION, load_frames, load_sound
from earwitness.sources.kept import Kept, cache_folder

ENCODING = 1  # raised when the bytes made of a clip change: they are part of what an answer is kept under
SMALL = 256  # pixels of the longer side up to which JPEG must not blur colours over neighbours
WAV_HEADER = 44
TOGETHER = 32  # clips that this process remembers


@dataclass(frozen=True)
class Film:
    """Frames as JPEG files, the seconds from the span's start at which each appears, and the span's length.

    `pixels` is the size of each of them.
    """

    pictures: tuple[bytes, ...]
    times: tuple[float, ...]
    duration: float
    pixels: int


def film_of(clip: Clip, count: int) -> Film:
    """Return `count` frames of a clip. Raises MediaError."""
    return _film_of(clip, count, content_of(clip))


def sound_of(clip: Clip) -> bytes:
    """Return a clip's sound as a WAV file, 16 bits, mono, 16 kHz. Raises MediaError."""
    return _sound_of(clip, content_of(clip))


def content_of(clip: Clip) -> str:
    """Return the digest of what a clip's frames and sound are made from: the same wherever its file lies.

    Raises MediaError for a file that is not there.
    """
    if clip.media.startswith(WORLD):
        return digest([ENCODING, WORLD_VERSION, clip.media], 64)
    return digest([ENCODING, file_digest(clip.media), clip.start, clip.end, _library()], 64)


def encode_film(frames: Frames) -> Film:
    """Encode frames: nearly without loss where they are small, at quality 90 where they are large."""
    small = max(frames.images.shape[1:3]) <= SMALL
    pictures = []
    for image in frames.images:
        written = io.BytesIO()
        Image.fromarray(image).save(written, "JPEG", quality=98 if small else 90, subsampling=0 if small else 2)
        pictures.append(written.getvalue())
    return Film(tuple(pictures), tuple(frames.times.tolist()), float(frames.duration), frames.images[0].size // 3)


def encode_sound(wave: NDArray[np.float32]) -> bytes:
    """Encode samples (N,) at 16 kHz as a WAV file of 16 bits."""
    return sound_bytes(wave, RATE)


def samples_in(sound: bytes) -> int:
    """Return how many samples such a WAV file holds."""
    return (len(sound) - WAV_HEADER) // 2


def samples_of(sound: bytes) -> NDArray[np.float32]:
    """Return the samples (N,) of such a WAV file."""
    return np.frombuffer(sound, "<i2", offset=WAV_HEADER).astype(np.float32) / np.float32(32768)


def array_digest(*arrays: NDArray[Any]) -> str:
    """Return the sha256 in hex of arrays' shapes and values, and of how they are encoded."""
    made = hashlib.sha256(f"{ENCODING} ".encode())
    for array in arrays:
        made.update(f"{array.dtype.str} {array.shape} ".encode())
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


@lru_cache(maxsize=1)
def _library() -> str:
    return f"av {version('av')}"


@lru_cache(maxsize=TOGETHER)
def _film_of(clip: Clip, count: int, content: str) -> Film:
    def make() -> Film:
        return encode_film(load_frames(clip, count))

    if clip.media.startswith(WORLD):  # drawn sooner than read
        return make()
    return _unpacked(_kept(digest([content, "frames", count], 64), lambda: _packed(make())))


@lru_cache(maxsize=TOGETHER)
def _sound_of(clip: Clip, content: str) -> bytes:
    def make() -> bytes:
        return encode_sound(load_sound(clip))

    return make() if clip.media.startswith(WORLD) else _kept(digest([content, "sound"], 64), make)


def _kept(name: str, make: Callable[[], bytes]) -> bytes:
    folder = _folder(cache_folder())
    data = folder.get(name)
    if data is None:
        data = make()
        folder.put(name, data)
    return data


@lru_cache(maxsize=1)
def _folder(place: Path) -> Kept:
    return Kept(place)


def _packed(film: Film) -> bytes:
    """Return a film as one line of JSON and the pictures behind it."""
    told = {"times": film.times, "duration": film.duration, "pixels": film.pixels}
    head = {"sizes": [len(picture) for picture in film.pictures], **told}
    return json.dumps(head).encode() + b"\n" + b"".join(film.pictures)


def _unpacked(data: bytes) -> Film:
    line, _, rest = data.partition(b"\n")
    head, pictures, at = json.loads(line), [], 0
    for size in head["sizes"]:
        pictures.append(rest[at : at + size])
        at += size
    return Film(tuple(pictures), tuple(head["times"]), head["duration"], head["pixels"])
