"""Clips that a student hears the beginning of: nobody has to find out from a warning."""

from __future__ import annotations

import json
import warnings

import pytest

import worlds
from earwitness.cli import main
from earwitness.config import Model
from earwitness.driver import drive
from earwitness.models import connected
from earwitness.models.exchange import HeardInPart
from earwitness.preflight import read_questions
from earwitness.run import Run
from earwitness.stages.describe import DescribeClips
from earwitness.world.questions import read_world
from tiny_families import write_family

NOTE = "only the first 1 s of 4.0 s were heard"
SHORT = {"steps": 1, "batch": 2, "checkpoint_every": 1}
ARMS = {
    "base": [],
    "practised": [{"stage": "sft", "lessons": "labels"}, {"stage": "grpo", "prompts": "labels"}],
}


def config(student: str, **sections):
    """A run whose student hears one second of clips of four."""
    models = {
        "teacher": {"kind": "world", "name": "teacher"},
        "checker": {"kind": "world", "name": "checker"},
        "student": {"kind": "local", "name": student, "long_clips": "truncate"},
    }
    small = {
        "models": models,
        "questions": {"limit": 4, "choose": []},
        "exams": {"limit": 4},
        "sft": SHORT,
        "grpo": SHORT | {"max_tokens": 6, "filter_samples": 0},
        "arms": ARMS,
    }
    return worlds.world_config(**small | sections)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> str:
    return str(write_family("qwen2_audio", tmp_path_factory.mktemp("student")))


@pytest.fixture(scope="module")
def told(student, tmp_path_factory):
    """A finished run, and what it said meanwhile."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        said: list[str] = []
        patch.setattr("earwitness.terminal.ProgressLine.say", lambda _, text: said.append(text))
        drive(config(student), root)
    return root / "small", said, [w for w in seen if w.category is HeardInPart]


def rows(run, stage: str) -> list[dict]:
    return [json.loads(line) for file in run.glob(f"{stage}-*/rows.jsonl") for line in file.read_text().splitlines()]


def test_the_rows_of_who_listened_say_what_was_heard(told):
    run, _, _ = told
    assert [row["note"] for row in rows(run, "answer")] == [NOTE] * 8
    for stage in ("sample", "vote", "verify", "select", "grade"):
        assert rows(run, stage) and not any("note" in row for row in rows(run, stage))


def test_terminal_report_and_readers_of_the_run_tell_how_many(told, capsys):
    run, said, _ = told
    first = rows(run, "answer")[0]["id"]
    whole = f"4 of 4 questions are about clips that were not heard whole, first {first}: {NOTE}"
    assert [text for text in said if "heard whole" in text and "answer" in text] == [
        f"answer (base, world): {whole}",
        f"answer (practised, world): {whole}",
    ]
    page = (run / "report.md").read_text()
    assert "8 of 8 questions of answer are about clips of which only the beginning was heard" in page
    stages = json.loads((run / "report.json").read_text())["stages"]
    assert {"name": "answer", "in": 8, "out": 8, "failed": 0} in stages
    assert main(["show", str(run)]) == 0
    assert "4 about clips of which only the beginning was heard" in capsys.readouterr().out
    assert main(["show", str(run), first]) == 0
    assert f"  {NOTE}\n" in capsys.readouterr().out


def test_training_counts_the_draws_that_it_heard_in_part(student, told):
    run, said, warned = told
    for place in run.glob("checkpoints/*"):
        (line,) = map(json.loads, (place / "log.jsonl").read_text().splitlines())
        assert line["in_part"] == 2
        assert Run.finished(place)["in_part"] == 2
    trained = [text for text in said if text.startswith("trained ")]
    assert len(trained) == 2
    assert all("2 draws were about clips that it did not hear whole" in text for text in trained)
    learnt = {question.clip.id for question in read_questions(config(student), print).train}
    assert {str(w.message).split(": ")[0] for w in warned} <= learnt, "where rows tell, no warning is needed"


def test_notes_come_from_worker_processes_as_from_this_one(student, told, tmp_path):
    alone, _, _ = told
    untrained = {"arms": {"base": []}, "train": {"seeds": [1], "parallel": 2}}
    drive(config(student, **untrained), tmp_path, quiet=True)
    (ours,), theirs = tmp_path.glob("small/answer-*/rows.jsonl"), list(alone.glob("answer-*/rows.jsonl"))
    assert ours.read_bytes() in [file.read_bytes() for file in theirs]


def test_who_reads_hears_no_clip_at_all_and_who_describes_one_notes_it(student, tmp_path):
    reads = {"arms": {"reads": [{"stage": "answer", "sees": "oracle"}]}, "questions": {"limit": 4, "choose": []}}
    drive(config(student, **reads), tmp_path, quiet=True)
    assert connected.cache_info().currsize == 1, "nobody was opened to hear"
    assert len(rows(tmp_path / "small", "answer")) == 4
    assert not any("note" in row for row in rows(tmp_path / "small", "answer"))
    describer = Model(kind="local", name=student, long_clips="truncate")
    (asked,) = read_world("world:validation", 1)
    DescribeClips(describer, 2)([asked])
    assert connected(describer, "describer").notes == {asked.clip: NOTE}


def test_who_hears_everything_has_nothing_to_note(tmp_path, capsys):
    small = worlds.world_config(arms={"base": []}, questions={"limit": 4}, exams={"limit": 4})
    assert main(["run", str(worlds.save(small, tmp_path / "small.toml")), "--root", str(tmp_path)]) == 0
    assert "heard whole" not in capsys.readouterr().err
    assert not any("note" in row for stage in ("verify", "answer") for row in rows(tmp_path / "small", stage))
