"""Recordings known again after they were encoded anew, and no others."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earwitness.config import ConfigError, Model
from earwitness.fingerprints import Print, Shelf, bit_errors, fingerprint, pack_print, unpack_print
from earwitness.media import read_sound, write_sound
from earwitness.records import Clip
from earwitness.run import RunError
from earwitness.sit import Beside, sit, sitting_config
from earwitness.sources.clips import load_sound
from exam_files import write
from media_files import write_sound_file

CODECS = {
    "m4a": ("aac", "fltp", 44100),
    "mp3": ("libmp3lame", "fltp", 44100),
    "ogg": ("libopus", "flt", 48000),
    "wav": ("pcm_s16le", "s16", 8000),
}


def scene(number: int) -> np.ndarray:
    return load_sound(Clip(id=str(number), media=f"world:default:{number}"))


@pytest.fixture(scope="module")
def shelf():
    """The fingerprints of a hundred scenes."""
    return Shelf([fingerprint(scene(number)) for number in range(100)])


def encoded(path, wave, ending, rate_of_wave=16000):
    codec, sample_format, rate = CODECS[ending]
    at = np.arange(round(len(wave) * rate / rate_of_wave)) * rate_of_wave / rate
    spectrum = np.fft.rfft(wave)
    spectrum[int(len(spectrum) * min(1, rate / rate_of_wave)) :] = 0  # nothing above what the new rate can hold
    resampled = np.interp(at, np.arange(len(wave)), np.fft.irfft(spectrum, len(wave))).astype(np.float32)
    samples = resampled if sample_format != "s16" else (resampled * 32767).astype(np.int16)
    path = path.with_suffix(f".{ending}")
    return write_sound_file(path, samples[None], rate, codec=codec, sample_format=sample_format, layout="mono")


@pytest.mark.parametrize("ending", CODECS)
def test_a_recording_is_known_after_it_was_encoded_anew(shelf, tmp_path, ending):
    for number in range(10):
        path = encoded(tmp_path / f"s{number}", scene(number), ending)
        owner, share = shelf.find(fingerprint(read_sound(path)))
        assert owner == number and share > 0.7


def test_a_part_of_a_recording_is_known_whatever_its_loudness(shelf):
    for number in range(10):
        owner, _ = shelf.find(fingerprint(0.2 * scene(number)[7000:50000]))
        assert owner == number


def test_unrelated_recordings_are_not_taken_for_each_other(shelf):
    assert [n for n in range(1000, 1150) if shelf.find(fingerprint(scene(n)))] == []


def test_silence_and_steady_noise_are_nobodys_recording(shelf):
    rng = np.random.default_rng(0)
    silent = fingerprint(np.zeros(64000, np.float32))
    noises = [fingerprint(rng.standard_normal(64000).astype(np.float32)) for _ in range(10)]
    assert not silent.loud.any() and Shelf([silent, *noises[:5]]).find(silent) is None
    assert all(Shelf(noises[:5]).find(other) is None for other in noises[5:])
    assert len(fingerprint(np.zeros(10, np.float32)).words) == 0
    assert Shelf([]).find(noises[0]) is None and Shelf([fingerprint(np.zeros(10, np.float32))]).find(noises[0]) is None


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.booleans()), max_size=40))
def test_what_is_written_of_a_fingerprint_is_read(frames):
    one = Print(np.array([w for w, _ in frames], np.uint32), np.array([loud for _, loud in frames], bool))
    again = unpack_print(pack_print(one))
    assert np.array_equal(again.words, one.words) and np.array_equal(again.loud, one.loud)


def test_two_short_overlaps_are_no_match():
    words = np.random.default_rng(0).integers(0, 2**32, 200, dtype=np.uint32)
    one = Print(words, np.ones(200, bool))
    assert bit_errors(one, one, 0) == 0 and bit_errors(one, one, 160) == 1


def test_an_exam_tells_which_clips_were_learnt_from(tmp_path):
    learnt = tmp_path / "learnt"
    learnt.mkdir()
    rows, questions = [], []
    for number in range(4):
        write_sound(tmp_path / f"e{number}.wav", scene(number), 16000)
        rows.append(
            {
                "id": f"m{number}",
                "audio_id": f"./e{number}.wav",
                "question": "what is heard ?",
                "choices": ["dog", "bell"],
                "answer": "dog",
            }
        )
    for number, source in enumerate((1, 50, 51)):  # the exam's second clip under another name and in another form
        path = encoded(learnt / f"t{number}", scene(source), "mp3")
        questions.append({"id": f"t{number}", "media": path.name, "question": "what is heard ?"})
    (learnt / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    exams = {"names": ["mmau-mini"], "annotations": {"mmau-mini": str(write(tmp_path / "mmau.json", rows))}}
    spec = Model(kind="world", name="student")
    overrides = ["answer.max_tokens=8", "train.parallel=1"]
    config = sitting_config(spec, exams | {"media": [str(tmp_path)]}, "sat", "direct", overrides)
    outcome = sit(config, Beside(against=str(learnt)), tmp_path / "runs", quiet=True)
    (shared,) = outcome.report["shared"]
    assert (shared["clips"], shared["learnt"], shared["same_name"], shared["same_sound"]) == (4, 3, 0, 1)
    assert shared["questions"] == 1 and shared["examples"][0][0] == "mmau/e1"
    assert "1 the sound of one of the 3 clips" in outcome.text
    shutil.copy(learnt / "t1.mp3", learnt / "t0.mp3")
    with pytest.raises(RunError, match="t0"):  # the file was replaced: its fingerprint is stale
        sit(config, Beside(against=str(learnt)), tmp_path / "runs", quiet=True)


def test_what_is_no_training_set_is_refused(tmp_path):
    spec = Model(kind="world", name="student")
    config = sitting_config(spec, {"names": ["world"], "limit": 2}, "sat", "direct", ["train.parallel=1"])
    with pytest.raises(ConfigError, match="name a run's folder"):
        sit(config, Beside(against=str(tmp_path)), tmp_path / "runs", quiet=True)
