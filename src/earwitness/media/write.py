"""Writing ordinary media files: MP4 with H.264 and AAC, and 16-bit WAV."""

from __future__ import annotations

import io
import wave
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer


def write_clip(
    path: Path | str, images: np.ndarray[Any, Any], fps: float, samples: np.ndarray[Any, Any], rate: int
) -> None:
    """Write an MP4 of images (T, H, W, 3) uint8, H and W even, and samples (N,) float32 mono at `rate` per second.

    Raises ValueError for shapes or types that such a file cannot hold.
    """
    import av  # here, because most that is asked of this package writes no film

    _check_images(images)
    with av.open(str(path), "w", format="mp4") as container:
        picture = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        picture.height, picture.width = images.shape[1:3]
        picture.pix_fmt = "yuv420p"
        picture.options = {"crf": "18", "preset": "veryfast"}
        picture.codec_context.thread_count = 1  # equal input, equal file
        sound = container.add_stream("aac", rate=rate, layout="mono")
        for image in images:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(picture.encode(None))
        _encode_sound(container, sound, samples, rate)


def write_sound(path: Path | str, samples: np.ndarray[Any, Any], rate: int) -> None:
    """Write a mono 16-bit WAV of samples (N,) float32; what is beyond [-1, 1] is clipped."""
    Path(path).write_bytes(sound_bytes(samples, rate))


def sound_bytes(samples: np.ndarray[Any, Any], rate: int) -> bytes:
    """Return the bytes of a mono 16-bit WAV of samples (N,) float32; what is beyond [-1, 1] is clipped."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.clip(np.round(_mono(samples) * 32768), -32768, 32767).astype("<i2").tobytes())
    return written.getvalue()


def _check_images(images: np.ndarray[Any, Any]) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"images must be (T, H, W, 3) uint8 with T > 0, not {images.shape} {images.dtype}")
    if images.shape[1] % 2 or images.shape[2] % 2:
        raise ValueError(f"height and width must be even for H.264 in yuv420p, not {images.shape[1:3]}")


def _mono(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
        raise ValueError(f"samples must be (N,), N > 0 and finite, not {samples.shape}")
    return np.ascontiguousarray(samples, np.float32)


def _encode_sound(container: OutputContainer, stream: AudioStream, samples: np.ndarray[Any, Any], rate: int) -> None:
    from av.audio.frame import AudioFrame

    samples = _mono(samples)
    for at in range(0, len(samples), 1024):
        frame = AudioFrame.from_ndarray(samples[None, at : at + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, at
        frame.time_base = Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
