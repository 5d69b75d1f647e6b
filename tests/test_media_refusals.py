"""What is damaged, hostile or too large is refused, and what crashes or hangs the decoder costs one error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import media_files as files
from earwitness import media
from earwitness.media import RATE, Limits, MediaError, process


def numbers(frames: media.Frames) -> list[int]:
    return [files.number_of(image) for image in frames.images]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def clip(folder):
    return files.ordinary(folder)


@pytest.fixture
def hostile_child(monkeypatch):
    """A child that crashes or hangs on files of that name, and is otherwise the real one."""
    code = (
        "import os, time\n"
        "from earwitness.media import child\n"
        "honest = child.answer\n"
        "def answer(request):\n"
        "    if 'crash' in request['path']: os.abort()\n"
        "    if 'hang' in request['path']: time.sleep(60)\n"
        "    return honest(request)\n"
        "child.answer = answer\n"
        "child.main()\n"
    )
    process.decoder.close()
    monkeypatch.setattr(process, "COMMAND", [sys.executable, "-c", code])
    yield
    process.decoder.close()


# Refusals


def test_missing_tracks_are_said(folder):
    silent = files.write_pictures(folder / "silent.mp4", [Fraction(i, 10) for i in range(5)])
    with pytest.raises(MediaError, match=r"silent\.mp4: has no sound track"):
        media.read_sound(silent)
    media.write_sound(folder / "only.wav", np.zeros(800, np.float32), RATE)
    with pytest.raises(MediaError, match=r"only\.wav: has no picture track"):
        media.read_frames(folder / "only.wav", 2)


@pytest.mark.parametrize(
    "start, end, said",
    [
        (3, 3, "no span from 3 to 3"),
        (4, 3, "give 0 <= start < end"),
        (-1, 3, "give 0 <= start"),
        (12, None, "nothing at 12 s"),
        (3, 12, "10.00 s long"),
        (0, float("nan"), "not finite"),
        (float("inf"), None, "not finite"),
    ],
)
def test_spans_outside_the_file_are_refused(clip, start, end, said):
    for read in (lambda: media.read_sound(clip, start, end), lambda: media.read_frames(clip, 2, start, end)):
        with pytest.raises(MediaError, match=said):
            read()


def test_a_span_may_pass_the_end_by_a_blink_and_is_still_whole(clip):
    samples = media.read_sound(clip, 9, 10.1)
    assert len(samples) == round(1.1 * RATE) and not samples[RATE + 10 :].any()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.98])
def test_half_a_file_is_never_a_shorter_clip(clip, share):
    for short in (files.cut(files.fast_start(clip), share), files.cut(clip, share)):
        with pytest.raises(MediaError, match=r"cut short|damaged"):
            media.read_sound(short)
        with pytest.raises(MediaError, match=r"cut short|damaged"):
            media.read_frames(short, 8)


@pytest.mark.parametrize(
    "codec, sample_format, name",
    [
        ("pcm_s16le", "s16", "h.wav"),
        ("flac", "s16", "h.flac"),
        ("pcm_u8", "u8", "h.avi"),
        ("libmp3lame", "fltp", "h.mp3"),
        ("libopus", "flt", "h.ogg"),
        ("libopus", "flt", "h.mka"),
        ("pcm_s16be", "s16", "h.aiff"),
    ],
)
def test_half_a_sound_is_refused_in_every_format_that_tells(folder, codec, sample_format, name):
    beep = files.beeps([0.5], 4, 48_000)
    path = files.write_stereo(folder / name, beep, beep, 48_000, codec, sample_format)
    assert len(media.read_sound(path, 0, 4)) == 4 * RATE
    with pytest.raises(MediaError, match=r"cut short|damaged"):
        media.read_sound(files.cut(path, 0.5))


def test_a_wav_whose_writer_could_not_know_its_size_is_read(folder):
    media.write_sound(folder / "known.wav", files.beeps([0.5], 1, RATE), RATE)
    data = bytearray((folder / "known.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    (folder / "piped.wav").write_bytes(data)
    np.testing.assert_array_equal(media.read_sound(folder / "piped.wav"), media.read_sound(folder / "known.wav"))


def test_what_is_no_media_file_is_refused(folder):
    (folder / "garbage.mp4").write_bytes(np.random.default_rng(1).bytes(50_000))
    (folder / "empty.mp4").write_bytes(b"")
    os.mkfifo(folder / "pipe.mp4")
    refusals = {
        "garbage.mp4": "not a media file",
        "empty.mp4": "is empty",
        "pipe.mp4": "pipe, socket",
        "missing.mp4": "cannot be read",
        ".": "is a folder",
        "/dev/zero": "device",
        "a\0b": "no possible file name",
    }
    for name, said in refusals.items():
        with pytest.raises(MediaError, match=said):
            media.read_sound(folder / name)


def test_playlists_that_name_other_files_are_refused(folder, clip):
    name = files.write_pictures(folder / "secret.ts", [Fraction(i, 10) for i in range(20)]).as_uri()
    playlists = {
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{name}\n#EXT-X-ENDLIST\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{clip.name}'\n",
        "dash.mkv": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet>'
        "<Representation><BaseURL>secret.ts</BaseURL></Representation></AdaptationSet></Period></MPD>",
    }
    for file, text in playlists.items():
        (folder / file).write_text(text)
        with pytest.raises(MediaError, match="not a media file"):
            media.read_frames(folder / file, 2)


def test_limits_on_what_is_decoded(clip, folder):
    for limits, said in [
        (Limits(area=1000), "64x48"),
        (Limits(seconds=5), "above 5"),
        (Limits(bytes=1000), "bytes of images"),
    ]:
        with pytest.raises(MediaError, match=said):
            media.read_frames(clip, 4, limits=limits)
    for limits, said in [
        (Limits(bytes=1000), "bytes of sound"),
        (Limits(seconds=5), "above 5"),
        (Limits(rate=40_000), "sampling rate of 44100"),
    ]:
        with pytest.raises(MediaError, match=said):
            media.read_sound(clip, limits=limits)
    stereo = files.write_stereo(folder / "c.wav", np.zeros(800), np.zeros(800), RATE, "pcm_s16le", "s16")
    with pytest.raises(MediaError, match="2 sound channels"):
        media.read_sound(stereo, limits=Limits(channels=1))
    assert len(media.read_frames(clip, 4).images) == 4, "a small limit must not outlive its call"


def test_memory_is_limited(folder):
    path = files.write_pictures(folder / "wide.mp4", [Fraction(i, 10) for i in range(3)], size=(360, 640))
    with pytest.raises(MediaError, match=r"more than 1\.0 GiB of memory"):
        media.read_frames(path, 4000, limits=Limits(memory=1 << 30, bytes=4 << 30))
    assert len(media.read_frames(path, 2).images) == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=20), st.booleans())
def test_damage_is_a_media_error_or_a_reading_and_nothing_else(clip, tmp_path, changes, keep_header):
    data = bytearray(files.fast_start(clip).read_bytes())
    first = 4096 if keep_header else 0
    for place, value in changes:
        data[first + int(place * (len(data) - first - 1))] = value
    (tmp_path / "damaged.mp4").write_bytes(data)
    for read in (lambda p: media.read_sound(p), lambda p: media.read_frames(p, 3)):
        try:
            read(tmp_path / "damaged.mp4")
        except MediaError as error:
            assert "crashed" not in str(error)


# The child


def test_a_file_that_crashes_the_decoder_costs_one_error(hostile_child, clip, folder):
    crash = folder / "crash.mp4"
    crash.write_bytes(clip.read_bytes())
    assert len(media.read_sound(clip)) == 10 * RATE
    with pytest.raises(MediaError, match=r"crash\.mp4: the file crashed the decoder \(SIGABRT\)"):
        media.read_sound(crash)
    assert len(media.read_sound(clip)) == 10 * RATE


def test_a_file_that_hangs_the_decoder_is_stopped(hostile_child, clip, folder):
    hang = folder / "hang.mp4"
    hang.write_bytes(clip.read_bytes())
    began = time.monotonic()
    with pytest.raises(MediaError, match=r"hang\.mp4: decoding took more than 0\.5 s"):
        media.read_frames(hang, 2, limits=Limits(deadline=0.5))
    assert time.monotonic() - began < 5
    assert len(media.read_sound(clip)) == 10 * RATE


def test_the_child_is_reused_replaced_when_killed_and_serves_threads(clip):
    media.probe(clip)
    first = process.decoder._all[0]._process
    media.probe(clip)
    assert first is not None and process.decoder._all[0]._process is first
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    results = []
    threads = [threading.Thread(target=lambda: results.append(len(media.read_sound(clip)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [10 * RATE] * 4


def test_threads_decode_side_by_side_in_as_many_children_as_are_allowed(clip, monkeypatch):
    """Whoever asks servers decodes in many threads: in one child the servers would wait."""
    together, most = threading.Barrier(2), []
    honest = process.Decoder._exchange

    def exchange(self, *request):
        together.wait(20)  # breaks unless two are at work at once
        most.append(self)
        return honest(self, *request)

    monkeypatch.setattr(process.Decoder, "_exchange", exchange)
    pool = process.Decoders(2)
    monkeypatch.setattr(media, "decoder", pool)
    with ThreadPoolExecutor(6) as threads:
        lengths = [len(wave) for wave in threads.map(lambda _: media.read_sound(clip), range(6))]
    pool.close()
    assert lengths == [10 * RATE] * 6 and len(set(most)) == 2


def test_a_forked_worker_has_its_own_child(clip):
    media.probe(clip)
    mine = process.decoder._all[0]._process
    worker = os.fork()
    if worker == 0:
        good = len(media.read_sound(clip)) == 10 * RATE and process.decoder._all[0]._process is not mine
        process.decoder.close()
        os._exit(0 if good else 1)
    assert os.waitpid(worker, 0)[1] == 0
    assert len(media.read_sound(clip)) == 10 * RATE and process.decoder._all[0]._process is mine


def test_the_child_dies_with_its_parent(clip):
    code = (
        "import os, sys\n"
        "from earwitness import media\n"
        "from earwitness.media.process import decoder\n"
        "media.probe(sys.argv[1])\n"
        "print(decoder._all[0]._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.run([sys.executable, "-c", code, str(clip)], capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    assert _gone(int(parent.stdout))


def test_an_interrupt_does_not_put_answers_out_of_step(hostile_child, clip, folder):
    hang = folder / "hang.mp4"
    hang.write_bytes(clip.read_bytes())
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        media.read_frames(hang, 2)
    assert len(media.read_sound(clip)) == 10 * RATE


def test_neither_side_loads_torch(clip):
    code = (
        "import sys\n"
        "from earwitness import media\n"
        "from earwitness.media.process import decoder\n"
        "assert decoder._all[0]._process is None\n"
        "media.probe(sys.argv[1])\n"
        "maps = open(f'/proc/{decoder._all[0]._process.pid}/maps').read() if sys.platform == 'linux' else ''\n"
        "assert 'torch' not in sys.modules and 'libtorch' not in maps\n"
    )
    subprocess.run([sys.executable, "-c", code, str(clip)], check=True)


def _gone(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False
