"""Media against real files: right frames, right samples."""

from __future__ import annotations

import hashlib
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import media_files as files
from earwitness import media
from earwitness.media import RATE, MediaError

VARIABLE = [
    *(Fraction(i, 60) for i in range(60)),
    *(1 + Fraction(i, 2) for i in range(10)),
    *(6 + Fraction(i, 30) for i in range(60)),
]


def numbers(frames: media.Frames) -> list[int]:
    return [files.number_of(image) for image in frames.images]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def clip(folder):
    return files.ordinary(folder)


# Pictures


def test_frames_are_those_on_screen_in_the_middle_of_equal_parts(clip):
    frames = media.read_frames(clip, 8)
    assert numbers(frames) == [5, 15, 25, 35, 45, 55, 65, 75]
    assert frames.times == pytest.approx([(i + 0.5) * 10 / 8 for i in range(8)])
    assert frames.duration == pytest.approx(10)
    assert frames.images.shape == (8, files.HEIGHT, files.WIDTH, 3) and frames.images.dtype == np.uint8


def test_frames_of_a_span_are_timed_from_its_start(clip):
    frames = media.read_frames(clip, 5, 3, 8)
    assert numbers(frames) == [28, 36, 44, 52, 60]
    assert frames.times == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5])
    assert frames.duration == 5


@pytest.mark.parametrize("name", ["variable.mp4", "variable.mkv", "b-frames.mp4"])
def test_variable_frame_rate_is_read_by_time_and_not_by_index(folder, name):
    options = {"bf": "3", "g": "12"} if name.startswith("b") else {}
    path = files.write_pictures(folder / name, VARIABLE, stream_options=options)
    frames = media.read_frames(path, 8, 0, 8)
    middles = [i + 0.5 for i in range(8)]
    assert numbers(frames) == [max(n for n, at in enumerate(VARIABLE) if at <= t) for t in middles]
    assert frames.times == pytest.approx(middles, abs=0.002)


def test_a_frame_that_lasts_is_given_once_and_appears_at_the_start_of_its_span(folder):
    path = files.write_pictures(folder / "slides.mp4", [Fraction(0), Fraction(4), Fraction(8), Fraction(12)])
    frames = media.read_frames(path, 16, 0, 12)
    assert (numbers(frames), frames.times.tolist()) == ([0, 1, 2], [0, 4, 8])
    within = media.read_frames(path, 4, 5, 7)
    assert (numbers(within), within.times.tolist()) == ([1], [0])


def test_one_frame_is_one_frame(folder):
    path = files.write_pictures(folder / "one.mp4", [Fraction(0)])
    assert numbers(media.read_frames(path, 8)) == [0]


@pytest.mark.parametrize("spacing", [10, 4000])
def test_few_frames_of_a_long_film_are_found_whether_or_not_key_frames_are_near(folder, spacing):
    options = {"g": str(spacing), "sc_threshold": "0"}
    times = [Fraction(i) for i in range(600)]
    path = files.write_pictures(folder / f"film{spacing}.mp4", times, size=(16, 32), stream_options=options)
    frames = media.read_frames(path, 4, 0, 599)
    assert frames.times.tolist() == [74, 224, 374, 524]
    assert numbers(frames) == [second % 256 for second in (74, 224, 374, 524)]
    assert numbers(media.read_frames(path, 2, 500, 510)) == [502 % 256, 507 % 256]


def test_large_pictures_shrink_in_proportion_to_even_sizes(folder):
    path = files.write_pictures(folder / "large.mp4", [Fraction(i, 10) for i in range(3)], size=(722, 1282))
    assert media.read_frames(path, 1).images.shape == (1, 360, 640, 3)
    small = media.read_frames(path, 1, max_side=101).images
    assert small.shape == (1, 56, 100, 3) and files.number_of(small[0]) == 1


def test_a_picture_that_the_file_says_to_turn_is_turned_clockwise(folder):
    path = files.turned(files.write_pictures(folder / "upright.mp4", [Fraction(0), Fraction(1)]))
    image = media.read_frames(path, 1, 1).images[0]
    assert image.shape == (files.WIDTH, files.HEIGHT, 3)
    rows = image.mean(
        axis=(1, 2)
    )  # the number 1 is one bright bar at the left, which a clockwise turn brings to the top
    assert rows[:6].min() > 150 > 50 > rows[10:].max()


# Sound


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000])
def test_beeps_are_where_they_were_put(folder, rate):
    path = folder / f"beeps{rate}.mp4"
    media.write_clip(path, np.stack([files.numbered(0)] * 80), 8, files.beeps(files.BEEPS, 10, rate), rate)
    samples = media.read_sound(path)
    assert (samples.dtype, samples.shape) == (np.float32, (10 * RATE,))
    assert files.onsets(samples, RATE) == pytest.approx(files.BEEPS, abs=0.002)


@pytest.mark.parametrize("span", [(0.0, 10.0), (2.345, 6.1), (7.2, 7.21), (9.99, 10.0)])
def test_a_span_is_that_stretch_of_the_whole_to_the_sample(clip, span):
    whole, part = media.read_sound(clip), media.read_sound(clip, *span)
    first, last = (round(t * RATE) for t in span)
    np.testing.assert_array_equal(part, whole[first:last])


def test_16_khz_wav_comes_back_as_it_is(folder):
    noise = np.random.default_rng(0).uniform(-1, 1, 4000).astype(np.float32)
    media.write_sound(folder / "noise.wav", noise, RATE)
    np.testing.assert_allclose(media.read_sound(folder / "noise.wav"), noise, rtol=0, atol=1 / 32768)


def test_resampling_keeps_a_tone_in_phase(folder):
    at = np.arange(2 * 44_100) / 44_100
    media.write_sound(folder / "tone.wav", 0.5 * np.sin(2 * np.pi * 997 * at).astype(np.float32), 44_100)
    samples = media.read_sound(folder / "tone.wav", 0.5, 1.5)
    expected = 0.5 * np.sin(2 * np.pi * 997 * (0.5 + np.arange(RATE) / RATE))
    assert np.abs(samples - expected).max() < 2e-3


@pytest.mark.parametrize(
    "codec, sample_format, name",
    [
        ("pcm_s16le", "s16", "a.wav"),
        ("flac", "s16", "a.flac"),
        ("pcm_s32le", "s32", "a32.wav"),
        ("pcm_u8", "u8", "a.avi"),
        ("libmp3lame", "fltp", "a.mp3"),
        ("libopus", "flt", "a.ogg"),
    ],
)
def test_the_channels_are_averaged_in_every_sample_format(folder, codec, sample_format, name):
    left = files.beeps([0.5], 2, 48_000)
    path = files.write_stereo(folder / name, left, np.zeros_like(left), 48_000, codec, sample_format)
    samples = media.read_sound(path, 0, 2)
    middle = samples[round(0.52 * RATE) : round(0.58 * RATE)]
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.25, rel=0.1)
    assert files.onsets(samples, RATE) == pytest.approx([0.5], abs=0.003)


def test_sound_is_whole_from_its_first_sample(folder):
    """Decoders of AAC warm up on packets that stand before zero: without them the first milliseconds are silent."""
    time = np.arange(2 * 44_100) / 44_100
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    media.write_clip(folder / "tone.mp4", np.stack([files.numbered(i) for i in range(16)]), 8, tone, 44_100)
    heard = media.read_sound(folder / "tone.mp4")
    told = 0.5 * np.sin(2 * np.pi * 440 * np.arange(320) / RATE)
    assert np.abs(heard[:320] - told).max() < 0.1


def test_sound_that_starts_late_stays_with_its_picture(folder):
    path = files.write_pictures(
        folder / "late.mp4",
        [Fraction(i, 10) for i in range(40)],
        sound=files.beeps([1.0], 3, 44_100),
        sound_start=Fraction(1, 2),
    )
    samples = media.read_sound(path, 0, 4)
    assert len(samples) == 4 * RATE and not samples[: RATE // 2 - 100].any()
    assert files.onsets(samples, RATE) == pytest.approx([1.5], abs=0.003)
    assert media.read_frames(path, 4, 0, 4).times == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.11)


def test_a_picture_that_starts_late_stays_with_its_sound(folder):
    path = files.write_pictures(
        folder / "late picture.mp4", [2 + Fraction(i, 10) for i in range(40)], sound=files.beeps([3.0], 6, 44_100)
    )
    assert files.onsets(media.read_sound(path), RATE) == pytest.approx([3.0], abs=0.003)
    frames = media.read_frames(path, 6)
    assert frames.times == pytest.approx([2, 2.5, 3.5, 4.5, 5.5], abs=0.01)
    with pytest.raises(MediaError, match="no picture between 0 and 1 s"):
        media.read_frames(path, 2, 0, 1)


def test_twenty_milliseconds_are_returned(folder):
    media.write_sound(folder / "short.wav", files.beeps([0], 0.02, 48_000), 48_000)
    assert media.read_sound(folder / "short.wav").shape == (320,)


# Headers, names, digests


def test_probe(clip, folder):
    assert media.probe(clip) == media.Tracks(10.0, sound=True, picture=True)
    media.write_sound(folder / "s.wav", np.zeros(800, np.float32), RATE)
    assert media.probe(folder / "s.wav") == media.Tracks(0.05, sound=True, picture=False)


@pytest.mark.parametrize("name", ["-dash.mp4", "two words.mp4", "Küche 台所.mp4", "concat:x.mp4", "100%d.mp4"])
def test_odd_names_are_only_names(clip, folder, name, monkeypatch):
    (folder / name).write_bytes(clip.read_bytes())
    monkeypatch.chdir(folder)
    assert numbers(media.read_frames(name, 1)) == [40]


def test_digest(clip, tmp_path):
    assert media.file_digest(clip) == hashlib.sha256(clip.read_bytes()).hexdigest()
    with pytest.raises(MediaError, match=r"nothing\.mp4: cannot be read"):
        media.file_digest(tmp_path / "nothing.mp4")
    with pytest.raises(MediaError, match="not an ordinary file"):
        media.file_digest(tmp_path)


def test_writers_refuse_what_the_file_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="even"):
        media.write_clip(tmp_path / "x.mp4", np.zeros((2, 5, 4, 3), np.uint8), 8, np.zeros(9, np.float32), RATE)
    with pytest.raises(ValueError, match="finite"):
        media.write_sound(tmp_path / "x.wav", np.full(9, np.nan, np.float32), RATE)


@pytest.mark.skipif("EARWITNESS_DATA" not in os.environ, reason="EARWITNESS_DATA names a folder of data sets")
def test_downloaded_clips():
    clips = sorted(Path(os.environ["EARWITNESS_DATA"], "avqa", "clips").glob("*.mp4"))
    for path in clips:
        samples, frames = media.read_sound(path), media.read_frames(path, 16)
        assert len(frames.times) == 16 and abs(len(samples) / RATE - frames.duration) < 0.1
    assert clips
