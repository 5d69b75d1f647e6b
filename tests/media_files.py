"""Real media files for tests: pictures that carry their number, beeps at known times, and ways to damage a file."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from earwitness.media import write_clip

HEIGHT, WIDTH = 48, 64
BEEPS = [1.0, 2.5, 7.25]
_BITS = 8


def numbered(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """An image (H, W, 3) whose vertical bars are the bits of `number`: it survives encoding and scaling."""
    bits = [(number >> bit) & 1 for bit in range(_BITS)]
    columns = np.repeat(np.array(bits, np.uint8) * 200 + 25, -(-width // _BITS))[:width]
    return np.broadcast_to(columns[None, :, None], (height, width, 3)).copy()


def number_of(image: np.ndarray) -> int:
    """Read the number back."""
    columns = image.mean(axis=(0, 2))
    middles = [columns[int((bit + 0.5) * len(columns) / _BITS)] for bit in range(_BITS)]
    return sum(1 << bit for bit, value in enumerate(middles) if value > 128)


def beeps(starts: list[float], seconds: float, rate: int, length: float = 0.1) -> np.ndarray:
    """Float32 (N,) silence with a 1 kHz beep of `length` seconds at each of `starts`."""
    time = np.arange(round(seconds * rate)) / rate
    samples = np.zeros(len(time), np.float32)
    for start in starts:
        within = (time >= start) & (time < start + length)
        samples[within] = 0.5 * np.sin(2 * np.pi * 1000 * (time[within] - start))
    return samples


def onsets(samples: np.ndarray, rate: int) -> list[float]:
    """Where beeps begin, in seconds."""
    loud = np.convolve(np.abs(samples), np.ones(rate // 200) / (rate // 200), "full")[: len(samples)] > 0.02
    steps = np.flatnonzero(np.diff(loud.astype(int), prepend=0) > 0)
    return [float(step) / rate for step in steps]


def ordinary(folder: Path) -> Path:
    """Ten seconds: 8 numbered frames per second, and BEEPS."""
    path = folder / "ordinary clip.mp4"
    write_clip(path, np.stack([numbered(i) for i in range(80)]), 8, beeps(BEEPS, 10, 44_100), 44_100)
    return path


def write_pictures(
    path: Path,
    times: list[Fraction],
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (HEIGHT, WIDTH),
    options: dict[str, str] | None = None,
    stream_options: dict[str, str] | None = None,
    sound: np.ndarray | None = None,
    sound_start: Fraction = Fraction(0),
    form: str | None = None,
) -> Path:
    """A file whose i-th frame shows the number i and is presented at `times[i]`; optional 44.1 kHz AAC from a start."""
    base = Fraction(1, 90_000)
    with av.open(str(path), "w", format=form, options=options or {}) as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        stream.options = stream_options or {}
        track = None if sound is None else container.add_stream("aac", rate=44_100, layout="mono")
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered(index, *size), format="rgb24")
            frame.pts, frame.time_base = int(time / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track is not None:
            write_audio(container, track, sound[None], "fltp", "mono", 44_100, sound_start)
    return path


def write_sound_file(
    path: Path, samples: np.ndarray, rate: int, *, codec: str, sample_format: str, layout: str, form: str | None = None
) -> Path:
    """An audio file of samples (C, N), or (1, N * C) where `sample_format` is packed."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.format = sample_format
        write_audio(container, stream, samples, sample_format, layout, rate, Fraction(0))
    return path


def write_audio(container, stream, samples, sample_format, layout, rate, start) -> None:
    channels = 1 if sample_format.endswith("p") else len(av.AudioLayout(layout).channels)
    step = (stream.codec_context.frame_size or 1024) * channels
    for at in range(0, samples.shape[1], step):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples[:, at : at + step]), format=sample_format, layout=layout
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, int(start * rate) + at // channels, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def fast_start(path: Path) -> Path:
    """The same clip with its index in front, so that a file cut in half still opens."""
    front = path.with_name("front-" + path.name)
    with av.open(str(path)) as given, av.open(str(front), "w", options={"movflags": "faststart"}) as made:
        tracks = {s.index: made.add_stream_from_template(s) for s in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = tracks[packet.stream.index]
                made.mux(packet)
    return front


def cut(path: Path, share: float) -> Path:
    """The first `share` of a file's bytes."""
    data = path.read_bytes()
    short = path.with_name("cut-" + path.name)
    short.write_bytes(data[: int(len(data) * share)])
    return short


def write_stereo(path: Path, left: np.ndarray, right: np.ndarray, rate: int, codec: str, sample_format: str) -> Path:
    """A stereo file from two float tracks in [-1, 1] of equal length, in any codec's sample format."""
    both = np.stack([left, right])
    whole = {"s16": (np.int16, 1 << 15), "s32": (np.int32, 1 << 31)}
    if sample_format == "u8":
        both = (both * 127 + 128).astype(np.uint8)
    elif sample_format in whole:
        kind, scale = whole[sample_format]
        both = (both * (scale - 1)).astype(kind)
    else:
        both = both.astype(np.float32)
    if not sample_format.endswith("p"):
        both = both.T.reshape(1, -1)
    both = np.ascontiguousarray(both)
    return write_sound_file(path, both, rate, codec=codec, sample_format=sample_format, layout="stereo")


def turned(path: Path) -> Path:
    """The same MP4 with the display matrix of a picture that was filmed a quarter turn to the side."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    other = path.with_name("turned-" + path.name)
    other.write_bytes(data)
    return other
