"""Lessons of the data's own: learnt without a teacher, and marked as what they are."""

from __future__ import annotations

import json

import pytest

import worlds
from earwitness.cli import main
from earwitness.config import RunConfig
from earwitness.cota import FourParts, think_of
from earwitness.driver import drive
from earwitness.flow import lessons, material
from earwitness.preflight import read_questions
from earwitness.records import Description
from earwitness.run import Run
from earwitness.stages.workbench import Rows, StageError, Workbench
from earwitness.workers import Workers
from worlds import MODELS, reading_config

PARTS = FourParts("plan", "a kettle boils", "so", "in short")


def rows_of(run, stage: str) -> list[dict]:
    return [json.loads(line) for table in run.glob(f"{stage}-*/rows.jsonl") for line in table.open()]


@pytest.fixture(scope="module")
def own_lessons(tmp_path_factory):
    """A folder of the world's clips whose questions carry reasoning in four parts."""
    folder = tmp_path_factory.mktemp("own")
    assert main(["world", "sample", str(folder), "--count", "6"]) == 0
    rows = [json.loads(line) for line in (folder / "questions.jsonl").open()]
    rows[0] |= {"think": f"<THINK>{think_of(PARTS)}</THINK><RESPONSE>{rows[0]['answer']}</RESPONSE>", "answer": None}
    for row in rows[1:5]:
        row["think"] = think_of(PARTS)
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def given_config(folder, **sections) -> RunConfig:
    data = reading_config(
        questions={"train": [f"folder:{folder}"], "choose": [], "limit": 0},
        sft={"steps": 2, "batch": 2, "checkpoint_every": 1},
        grpo={"steps": 1, "batch": 1, "group": 2, "max_tokens": 12},
        arms={"base": [], "mine": [{"stage": "sft", "lessons": "given"}, {"stage": "grpo", "prompts": "given"}]},
        **sections,
    ).model_dump(mode="json")
    return RunConfig.parse(data | {"models": {"student": MODELS["student"]}})


def test_the_datas_own_lessons_are_learnt_without_a_teacher(own_lessons, tmp_path, capsys):
    config = given_config(own_lessons)
    file = worlds.save(config, tmp_path / "small.toml")
    assert main(["check", str(file), "--root", str(tmp_path)]) == 0
    assert "no teacher is asked for any" in capsys.readouterr().out
    outcome = drive(config, tmp_path, quiet=True)
    run = tmp_path / config.name
    assert {p.parent.name.split("-")[0] for p in run.glob("*/rows.jsonl")} == {"select", "answer", "grade"}
    made = [[(x["pools"], x["think"]) for x in row["out"]] for row in rows_of(run, "select")]
    assert made == [[(["gold"], None), (["given"], think_of(PARTS))]] * 5 + [[(["gold"], None)]]
    assert outcome.report is not None and outcome.report["controls"] == ["mine"]
    assert [(t["pool"], t["traces"], t["label_right"]) for t in outcome.report["traces"]] == [("given", 5, 1.0)]
    page = (run / "report.md").read_text()
    assert "| given (control) |" in page and "mine (control)" in page and "Not calibrated" in page
    assert {(c["arm"], c["mode"]) for c in outcome.report["rows"]} == {("base", "direct"), ("mine", "think")}
    assert main(["show", str(run), "default-200000001"]) == 0
    assert "the data's own reasoning to " in capsys.readouterr().out


def test_a_step_of_the_datas_own_lessons_is_trained_by_hand(own_lessons, tmp_path, capsys):
    config = given_config(own_lessons)
    drive(config, tmp_path, until="select", quiet=True)
    file = worlds.save(config, tmp_path / "small.toml")
    assert main(["train", str(file), "mine", "1", "--seed", "1", "--root", str(tmp_path)]) == 0
    assert "trained step 1 of mine" in capsys.readouterr().out


def bench_of(config: RunConfig, run: Run) -> Workbench:
    return Workbench(config, run, Workers(1))


def test_given_lessons_and_their_labels_and_what_is_missing(own_lessons, tmp_path):
    config = given_config(own_lessons)
    questions = read_questions(config, print).train
    with Run.open(tmp_path, "run") as run:
        made = lessons(bench_of(config, run), questions)
        bare = [q.model_copy(update={"think": None, "id": f"{q.id}-bare"}) for q in questions]
        nothing = lessons(bench_of(config, run), bare)
    assert made is not None and nothing is not None
    assert [lesson.think for _, lesson in material(made, "given", False)] == [think_of(PARTS)] * 5
    labels = material(made, "given", True)
    assert [(lesson.think, lesson.answer) for _, lesson in labels] == [(None, q.answer) for q in questions[:5]]
    with pytest.raises(StageError, match="no question has both a think and an answer of its own"):
        material(nothing, "given", False)


# what distilling arms read


def test_the_questions_that_are_learnt_from_are_described(own_lessons, tmp_path):
    distil = {"both": [{"stage": "distil", "lessons": "given"}]}
    config = given_config(own_lessons, describe={"source": "caption"})
    config = config.model_copy(update={"arms": reading_config(arms=distil).arms})
    questions = read_questions(config, print).train
    with Run.open(tmp_path, "run") as run:
        made = lessons(bench_of(config, run), questions)
        again = lessons(bench_of(config, run), questions, "describe")
    assert made is not None and again is not None and isinstance(made.descriptions, Rows)
    assert [made.descriptions.of(q) for q in questions] == [[Description(text="a kettle boils", by="data")]] * 5 + [[]]
    assert again.descriptions == made.descriptions


def test_a_rehearsal_of_the_datas_own_lessons_needs_no_teacher(own_lessons, tmp_path, capsys):
    file = worlds.save(given_config(own_lessons), tmp_path / "small.toml")
    assert main(["run", str(file), "--rehearse", "--root", str(tmp_path / "runs")]) == 0
    assert "sample" not in capsys.readouterr().err
