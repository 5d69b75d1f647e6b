"""A teacher's signals made once, ahead of training: the same as live ones, and never lost half-way."""

from __future__ import annotations

import gc
import shutil
import weakref

import pytest
import torch

from earwitness.learn import signals
from earwitness.learn.signals import make_ahead
from earwitness.stages import distil
from earwitness.stages.distil import joint_objective
from earwitness.stages.student import open_student
from earwitness.stages.training import train
from earwitness.stages.workbench import StageError
from objectives import KilledError
from teaching import job, left_by, material, opened, world_tokenizer, write_reader


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return write_reader(tmp_path_factory.mktemp("readers") / "other", world_tokenizer(order=5), layers=3)


@pytest.mark.parametrize("match", ["representation", "distribution"])
def test_signals_made_ahead_teach_what_live_ones_do(tiny_student, reader, tmp_path, monkeypatch, match):
    monkeypatch.setattr(signals, "SHARD", 3)
    lessons, made = material(clips=2, questions=2, each=2), []
    for how in ("live", "ahead"):
        settings = {"signals": how, "top_k": 7, "match": match, "layers": (1, 2), "batch": 6, "softness": 1.5}
        made.append(left_by(job(tiny_student, reader, tmp_path / how, lessons, **settings)))
    for live, ahead in zip(made[0]["log"], made[1]["log"], strict=True):
        assert ahead == pytest.approx(live, rel=1e-3, abs=1e-6)


def test_making_signals_goes_on_with_the_first_shard_that_is_missing(tiny_student, reader, tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "SHARD", 2)
    lessons = material(clips=2, questions=2, each=2)  # four shards
    one_job = job(tiny_student, reader, tmp_path, lessons, signals="live", top_k=5)
    _, objective = opened(one_job)
    reading = objective.reader.reading(one_job.settings, (1, 3, 3, 3))
    pack = lambda numbers: objective.reader.packed([lessons[n] for n in numbers])  # noqa: E731
    listened, real = [], signals.listen_to

    def listen(teacher, batch, how):
        if len(listened) == 2:
            raise KilledError
        listened.append(1)
        return real(teacher, batch, how)

    folder, teacher = tmp_path / "signals", objective.reader.teacher.model
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(signals, "listen_to", listen)
        make_ahead(folder, teacher, len(lessons), pack, reading)
    done = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert sorted(done) == ["000000.safetensors", "000001.safetensors"]
    (folder / "000002.partial").write_bytes(b"half of it")
    asked = []
    for rank in (1, 0):  # as two processes would
        counted = lambda numbers: asked.append((rank, *numbers)) or pack(numbers)  # noqa: B023, E731
        make_ahead(folder, teacher, len(lessons), counted, reading, (rank, 2))
    assert asked == [(1, 6, 7), (0, 4, 5)]
    files = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert len(files) == 4 and files.items() >= done.items()
    order = [6, 1, 1, 4, 3]
    store, live = signals.SignalStore(folder, reading), [real(teacher, pack([n]), reading) for n in order]
    kept = store(order, "cpu")
    assert torch.allclose(kept.states[1], torch.cat([one.states[1] for one in live]), atol=1e-5)
    there = [one.top(slice(0, len(one.states[0]))) for one in live]
    found = kept.top(slice(0, len(kept.states[0])))
    assert torch.equal(found.columns, torch.cat([t.columns for t in there]))
    assert torch.allclose(found.rest, torch.cat([t.rest for t in there]), atol=1e-4)


def test_a_teacher_that_has_said_everything_is_let_go(tiny_student, reader, tmp_path, monkeypatch):
    one_job = job(tiny_student, reader, tmp_path, signals="ahead", top_k=4)
    student, seen, before = open_student(one_job, with_parent=True), [], distil.make_ahead

    def watched(folder, teacher, *rest):
        seen.append(weakref.ref(teacher))
        before(folder, teacher, *rest)

    monkeypatch.setattr(distil, "make_ahead", watched)
    objective = joint_objective(one_job, one_job.settings, student)
    gc.collect()
    assert objective.reader is None and seen[0]() is None


def test_signals_that_would_not_fit_on_the_disk_are_refused_and_finished_ones_are_gone(
    tiny_student, reader, tmp_path, monkeypatch
):
    one_job = job(tiny_student, reader, tmp_path, signals="ahead", top_k=4)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40, 10))
        with pytest.raises(StageError, match=r"would take .* GiB, and 0\.0 GiB are free: name fewer layers"):
            train(one_job)
    assert not (tmp_path / "signals").exists()
    train(one_job)
    assert (tmp_path / "done.json").is_file() and not (tmp_path / "signals").exists()
