"""Pictures and sound out of requests. Nothing but what a request itself holds is ever read."""

from __future__ import annotations

import base64
import binascii
import io
import struct
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from earwitness.media import RATE, Frames, Limits
from earwitness.serve.refusals import Refused
from earwitness.serve.requests import VideoTimes

LIMITS = Limits()
MOST_FRAMES = 1024
SEQUENCE = "data:video/jpeg;base64,"
PICTURES = {"data:image/jpeg;base64,": "JPEG", "data:image/png;base64,": "PNG"}
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


def sequence(url: str) -> list[Image.Image]:
    """Return the frames of a `data:video/jpeg` URL: JPEG files in base64, separated by commas."""
    if not url.startswith(SEQUENCE):
        raise Refused(f"video_url must be {SEQUENCE}<jpeg>,<jpeg>,...: this server opens no address and no video file")
    coded = url[len(SEQUENCE) :].split(",")
    if len(coded) > MOST_FRAMES:
        raise Refused(f"{len(coded)} frames are more than {MOST_FRAMES}", 413)
    return [_opened(part, "JPEG", f"frame {number}") for number, part in enumerate(coded)]


def picture(url: str) -> Image.Image:
    """Return the picture of an image's data URL."""
    for start, kind in PICTURES.items():
        if url.startswith(start):
            return _opened(url[len(start) :], kind, "image_url")
    raise Refused(f"image_url must be one of {', '.join(f'{start}...' for start in PICTURES)}; no address is opened")


def film(pictures: Sequence[Image.Image], times: VideoTimes) -> Frames:
    """Return the frames of a film. Pictures are decoded here, after the size of all of them is known."""
    count, sizes = len(pictures), {p.size for p in pictures}
    if count > MOST_FRAMES:
        raise Refused(f"{count} frames are more than {MOST_FRAMES}", 413)
    if len(sizes) > 1:
        raise Refused(f"the frames of a film must be of one size, and these are of {len(sizes)}")
    ((width, height),) = sizes
    if width * height > LIMITS.area or count * width * height * 3 > LIMITS.bytes:
        raise Refused(f"{count} frames of {width} x {height} pixels are too much for one request", 413)
    if 0 <= times.num_frames < count:
        raise Refused(f"num_frames is {times.num_frames}, and {count} frames were sent: say -1, for all of them")
    indices = tuple(range(count)) if times.frames_indices is None else times.frames_indices
    if len(indices) != count:
        raise Refused(f"frames_indices has {len(indices)} entries for {count} frames")
    if any(b <= a for a, b in pairwise(indices)):
        raise Refused("frames_indices must rise from frame to frame")
    total = indices[-1] + 1 if times.total_num_frames is None else times.total_num_frames
    if total <= indices[-1]:
        raise Refused(f"frames_indices reach {indices[-1]}, and total_num_frames is {total}")
    images = np.stack([_decoded(p, f"frame {number}") for number, p in enumerate(pictures)])
    return Frames(images, np.array(indices, np.float64) / times.fps, times.duration or total / times.fps)


def wave(coded: str) -> NDArray[np.float32]:
    """Return the samples (N,) of a WAV file in base64: 16 kHz mono, PCM of 16 bits or floats of 32."""
    data = _bytes(coded, "input_audio.data")
    kind, channels, rate, bits, samples = _riff(data)
    if channels != 1 or rate != RATE:
        raise Refused(f"input_audio has {channels} channels at {rate} Hz: send mono at {RATE} Hz; it is not resampled")
    if (kind, bits) not in ((PCM, 16), (FLOAT, 32)):
        raise Refused("input_audio must hold PCM of 16 bits or floats of 32 bits")
    if not samples or len(samples) % (bits // 8):
        raise Refused("input_audio holds no whole samples")
    if kind == PCM:
        return np.frombuffer(samples, "<i2").astype(np.float32) / np.float32(32768)
    found = np.frombuffer(samples, "<f4").astype(np.float32)
    if not np.isfinite(found).all():
        raise Refused("input_audio holds samples that are no numbers")
    return found


def _riff(data: bytes) -> tuple[int, int, int, int, bytes]:
    """Return a WAV file's encoding, channels, rate, bits a sample, and the bytes of its samples."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise Refused("input_audio is not a WAV file")
    at, told = 12, None
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        chunk = data[at + 8 : at + 8 + size]
        if len(chunk) < size:
            break
        if name == b"fmt " and size >= 16:
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
            if kind == EXTENSIBLE and size >= 26:
                (kind,) = struct.unpack_from("<H", chunk, 24)
            told = kind, channels, rate, bits
        elif name == b"data" and told is not None:
            return *told, chunk
        at += 8 + size + size % 2
    raise Refused("input_audio is a WAV file that is cut short")


def _opened(coded: str, kind: str, what: str) -> Image.Image:
    """Read a picture's header; its pixels are not decoded yet."""
    try:
        return Image.open(io.BytesIO(_bytes(coded, what)), formats=(kind,))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise Refused(f"{what} is not a {kind} picture that can be read") from None


def _decoded(found: Image.Image, what: str) -> NDArray[np.uint8]:
    try:
        return np.asarray(found.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise Refused(f"{what} is a picture that is damaged or cut short") from None


def _bytes(coded: str, what: str) -> bytes:
    try:
        return base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"{what} is not base64") from None
