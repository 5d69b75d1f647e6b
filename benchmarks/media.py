"""What it costs to read a clip through the decoding child, against bare PyAV that reads the same frames and sound.

CPU seconds of both processes, per clip of 10 s, 640 x 360, H.264 and AAC. What encoding costs, as JPEG and as WAV, and
how long it takes to find a clip in the cache, are told apart.

python benchmarks/media.py [--clips 12] [--runs 5] [--flicker 14] [--tiny]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from earwitness.media import RATE, read_frames, read_sound, write_clip
from earwitness.media.process import decoder
from earwitness.records import Clip
from earwitness.sources import encoded
from measure import fresh, median, say, take_turns

FRAMES = 16
SECONDS, HEIGHT, WIDTH, PER_SECOND, SOUND_RATE = 10, 360, 640, 30, 44_100
TINY = (2, 48, 64, 10, 44_100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="sizes for a test")
    parser.add_argument("--flicker", type=int, default=14, help="of 255: 14 makes 2.1 Mb/s, 8 makes 0.5 (default: 14)")
    parser.add_argument("--arm", choices=("bare", "ours"), help="of a single run")
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    if options.arm:
        return say((bare if options.arm == "bare" else ours)(options.file, options.clips))
    with tempfile.TemporaryDirectory() as folder:
        file = synthetic(Path(folder) / "clip.mp4", options.tiny, options.flicker)
        rest = ("--file", str(file), "--clips", str(2 if options.tiny else options.clips))
        arms = {arm: fresh(__file__, "--arm", arm, *rest) for arm in ("bare", "ours")}
        results = take_turns(arms, 1 if options.tiny else options.runs)
        gap = largest_gap(file)
        size = file.stat().st_size
    made = {f"{arm}_seconds": round(median(results[arm], "seconds"), 4) for arm in arms}
    parts = ("jpeg_seconds", "wav_seconds", "cached_seconds")
    made |= {part: round(median(results["ours"], part), 5) for part in parts}
    share = round(made["bare_seconds"] / made["ours_seconds"], 3)
    return say({"share_of_bare_decode": share, **made, "largest_gap": gap, "file_bytes": size, "frames": FRAMES})


def synthetic(path: Path, tiny: bool, flicker: int) -> Path:
    """Write a clip of a texture that drifts and flickers, with a chord: AAC decoders make up noise by themselves."""
    seconds, height, width, per_second, rate = TINY if tiny else (SECONDS, HEIGHT, WIDTH, PER_SECOND, SOUND_RATE)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (height // 4 + 40, width // 4 + 40, 3))
    texture = coarse.repeat(4, 0).repeat(4, 1)
    count = seconds * per_second
    images = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        top, left = i % 160, i // 2
        images[i] = texture[top : top + height, left : left + width] + rng.integers(0, flicker, (height, width, 1))
    wave = sum(0.1 * np.sin(np.arange(seconds * rate) * pitch) for pitch in (0.03, 0.07, 0.14))
    write_clip(path, images, per_second, wave.astype(np.float32), rate)
    return path


def bare(file: Path, clips: int) -> dict[str, float]:
    """Return the CPU seconds that one clip takes in this process with PyAV alone."""
    duration = float(read_header(file))
    decode(file, duration)  # the libraries are warm
    started = time.process_time()
    for _ in range(clips):
        decode(file, duration)
    return {"seconds": (time.process_time() - started) / clips}


def read_header(file: Path) -> float:
    with av.open(str(file)) as container:
        return (container.duration or 0) / av.time_base


def decode(file: Path, duration: float) -> tuple[np.ndarray, np.ndarray]:
    """Read the frames on screen in the middle of each part, and the sound, in one pass on one thread."""
    targets = (np.arange(FRAMES) + 0.5) * duration / FRAMES
    pictures: list[np.ndarray] = []
    samples: list[np.ndarray] = []
    with av.open(str(file)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        video.codec_context.thread_count = audio.codec_context.thread_count = 1
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        held = None
        for packet in container.demux(video, audio):
            for frame in packet.decode():
                if packet.stream is audio:
                    samples += [part.to_ndarray()[0] for part in resampler.resample(frame)]
                    continue
                while len(pictures) < FRAMES and held is not None and frame.time > targets[len(pictures)]:
                    pictures.append(held.to_ndarray(format="rgb24"))
                held = frame
        pictures += [held.to_ndarray(format="rgb24")] * (FRAMES - len(pictures))
        samples += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.stack(pictures), np.concatenate(samples)


def ours(file: Path, clips: int) -> dict[str, float]:
    """Return the CPU seconds of this process and its child for one clip, and those of what is done with it."""
    read_frames(file, FRAMES), read_sound(file)  # the child is there, and warm
    started = spent()
    for _ in range(clips):
        frames, wave = read_frames(file, FRAMES), read_sound(file)
    seconds = (spent() - started) / clips
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EARWITNESS_CACHE"] = folder
        clip = Clip(id="clip", media=str(file))
        encoded.film_of(clip, FRAMES), encoded.sound_of(clip)
        return {
            "seconds": seconds,
            "jpeg_seconds": each(lambda: encoded.encode_film(frames), clips),
            "wav_seconds": each(lambda: encoded.encode_sound(wave), clips),
            "cached_seconds": each(lambda: from_disk(clip), clips),
        }


def from_disk(clip: Clip) -> None:
    encoded._film_of.cache_clear()
    encoded._sound_of.cache_clear()
    encoded.film_of(clip, FRAMES), encoded.sound_of(clip)


def each(work: Callable[[], Any], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times


def spent() -> float:
    """Return the CPU seconds of this process and of its decoding children, who are told apart by their numbers."""
    told = 0
    for child in (one._process for one in decoder._all):
        if child is not None:
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            told += int(fields[11]) + int(fields[12])
    return time.process_time() + told / os.sysconf("SC_CLK_TCK")


def largest_gap(file: Path) -> float:
    """Return by how much the two arms differ at most: in a pixel (of 255), or in a sample, whichever is more."""
    pictures, samples = decode(file, read_header(file))
    frames, wave = read_frames(file, FRAMES), read_sound(file)
    count = min(len(samples), len(wave)) - RATE // 10  # where the track ends, the two pad differently
    pixels = float(np.abs(pictures.astype(int) - frames.images).max()) / 255
    return round(max(pixels, float(np.abs(samples[:count] - wave[:count]).max())), 5)


if __name__ == "__main__":
    main()
