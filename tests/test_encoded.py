"""Clips as servers take them: true times, the sound as it was, decoded once, kept within bounds."""

from __future__ import annotations

import io
import os
import shutil
import wave

import numpy as np
import pytest
from PIL import Image

from earwitness.media import RATE, MediaError, read_frames, read_sound
from earwitness.records import Clip
from earwitness.sources import encoded
from earwitness.sources.clips import load_frames, load_sound
from earwitness.sources.encoded import content_of, encode_sound, film_of, samples_in, samples_of, sound_of
from earwitness.sources.kept import Kept, cache_folder
from media_files import number_of, ordinary

SCENE = Clip(id="scene", media="world:default:7")


@pytest.fixture
def clip(tmp_path, monkeypatch):
    monkeypatch.setenv("EARWITNESS_CACHE", str(tmp_path / "cache"))
    forget()
    return Clip(id="ordinary", media=str(ordinary(tmp_path)))


def forget():
    encoded._film_of.cache_clear()
    encoded._sound_of.cache_clear()


def opened(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)))


def test_a_film_shows_what_the_clip_shows_when_it_shows_it(clip):
    film, frames = film_of(clip, 10), read_frames(clip.media, 10)
    assert film.times == tuple(frames.times)
    assert film.duration == frames.duration
    assert [number_of(opened(p)) for p in film.pictures] == [number_of(image) for image in frames.images]
    assert film.pixels == frames.images[0].size // 3


def test_the_sound_is_the_clips_to_16_bits(clip):
    made, samples = sound_of(clip), read_sound(clip.media)
    with wave.open(io.BytesIO(made)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        assert file.getnframes() == len(samples) == samples_in(made)
    assert np.abs(samples_of(made) - samples).max() <= 0.5 / 32768 + 1e-7


def test_a_scene_is_drawn_as_it_is_for_models_in_process():
    film, frames = film_of(SCENE, 8), load_frames(SCENE, 8)
    assert film.times == tuple(frames.times)
    gaps = [np.abs(opened(p).astype(int) - image).mean() for p, image in zip(film.pictures, frames.images, strict=True)]
    assert max(gaps) < 2  # of 255
    assert np.abs(samples_of(sound_of(SCENE)) - load_sound(SCENE)).max() <= 0.5 / 32768 + 1e-7


def test_a_clip_is_decoded_once_however_often_it_is_asked_for(clip, monkeypatch):
    first = film_of(clip, 4), sound_of(clip)
    monkeypatch.setattr(encoded, "load_frames", refuse)
    monkeypatch.setattr(encoded, "load_sound", refuse)
    assert (film_of(clip, 4), sound_of(clip)) == first
    forget()  # as in another process
    assert (film_of(clip, 4), sound_of(clip)) == first
    moved = shutil.copy(clip.media, clip.media.replace("ordinary", "moved"))
    assert sound_of(Clip(id="moved", media=str(moved))) == first[1]
    with pytest.raises(AssertionError, match="decoded again"):
        film_of(clip, 5)


def refuse(*_):
    raise AssertionError("decoded again")


def test_what_is_kept_is_of_a_content_and_a_span(clip):
    one = content_of(clip)
    assert content_of(clip.model_copy(update={"start": 1.0})) != one
    with open(clip.media, "ab") as file:  # noqa: PTH123
        file.write(b"\0" * 8)
    assert content_of(clip) != one


def test_a_damaged_entry_is_made_again(clip):
    made = sound_of(clip)
    (entry,) = [file for file in cache_folder().glob("*/*") if file.stat().st_size > len(made)]
    for damage in (entry.read_bytes()[:-9], b"", entry.read_bytes()[:40] + b"x" + entry.read_bytes()[41:]):
        entry.write_bytes(damage)
        forget()
        assert sound_of(clip) == made


def test_what_cannot_be_decoded_is_not_kept(clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    with pytest.raises(MediaError):
        sound_of(Clip(id="broken", media=str(broken)))
    with pytest.raises(MediaError, match="absent"):
        film_of(Clip(id="absent", media=str(tmp_path / "absent.mp4")), 4)
    assert not list(cache_folder().glob("*/*"))


def test_the_least_used_is_thrown_out_first(tmp_path):
    kept = Kept(tmp_path, limit=10_000)
    for number in range(8):
        kept.put(f"{number:02d}", bytes(1000))
        os.utime(tmp_path / f"{number:02d}" / f"{number:02d}", (number, number))
    assert kept.get("00") is not None  # used now
    for number in range(8, 12):
        kept.put(f"{number:02d}", bytes(1000))
    there = {number for number in range(12) if kept.get(f"{number:02d}") is not None}
    assert {0, 11} <= there
    assert not {1, 2} & there
    assert sum(file.stat().st_size for file in tmp_path.glob("*/*")) <= 10_000


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    kept = Kept(tmp_path / "file" / "clips")
    with pytest.warns(UserWarning, match="EARWITNESS_CACHE"):
        kept.put("name", b"data")
    assert kept.get("name") is None


def test_sound_beyond_full_scale_is_clipped_not_wrapped():
    assert samples_of(encode_sound(np.array([2.0, -2.0], np.float32))).tolist() == [32767 / 32768, -1.0]
