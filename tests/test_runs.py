"""One small run of the embedded world, from its first question to its report, and what may come after it."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest

import worlds
from earwitness.cli import main
from earwitness.config import RunConfig
from earwitness.driver import drive
from earwitness.table import StaleRow

CONFIG = worlds.world_config()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run: read it, do not write to it."""
    root = tmp_path_factory.mktemp("runs")
    outcome = drive(CONFIG, root, quiet=True)
    assert outcome.failing == [] and outcome.failures == []
    return root / CONFIG.name


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / finished.name)


def stamps(run: Path) -> dict[str, int]:
    wanted = [*run.glob("*/rows.jsonl"), *run.glob("checkpoints/*/final/*.safetensors")]
    return {file.relative_to(run).as_posix(): file.stat().st_mtime_ns for file in wanted}


def test_a_run_leaves_what_it_promises(finished):
    for name in ("config.toml", "report.md", "report.json", "timings.json", "arms.json", "ladder.png"):
        assert (finished / name).stat().st_size > 0
    assert RunConfig.load(finished / "config.toml") == CONFIG
    tables = sorted(p.parent.name.rsplit("-", 1)[0] for p in finished.glob("*/rows.jsonl"))
    assert tables == sorted(["sample", "vote", "verify", "select", "calibrate"] + 3 * ["answer", "grade"])
    for table in finished.glob("*/rows.jsonl"):
        rows = table.read_text().splitlines()
        assert json.loads((table.parent / "done.json").read_text()) == {"rows": len(rows), "failed": 0}
        assert len(rows) == (2 if "calibrate" in table.parent.name else 8)
    trained = sorted(p.parent.name.split("-")[0] for p in finished.glob("checkpoints/*/done.json"))
    assert trained == ["grpo", "sft", "sft"]
    assert not list(finished.glob("checkpoints/*/checkpoint-*"))
    timings = json.loads((finished / "timings.json").read_text())
    assert set(timings) > {"sample", "vote", "verify", "select", "answer", "grade", "calibrate"}
    assert {p.name for p in finished.glob("checkpoints/*")} < set(timings)


def test_practice_leaves_its_rollouts_as_rows(finished):
    (file,) = finished.glob("checkpoints/grpo-*/rollouts.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1] * 4 + [2] * 4  # two questions, groups of two
    assert {row["index"] for row in rows} == {0, 1}
    assert all(row["id"].startswith("world/train/") and row["finish"] in ("stop", "length") for row in rows)
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["id"] == second["id"]
        assert first["advantage"] + second["advantage"] == pytest.approx(0, abs=1e-5)


def test_the_report_holds_what_the_rows_say(finished):
    report = json.loads((finished / "report.json").read_text())
    assert {cell["arm"] for cell in report["rows"]} == set(CONFIG.arms)
    assert {cell["mode"] for cell in report["rows"] if cell["arm"] == "practised"} == {"think"}
    stages = {entry["name"]: entry for entry in report["stages"]}
    assert stages["answer"] == {"name": "answer", "in": 24, "out": 24, "failed": 0}
    assert report["checker"]["n"] == 2
    right = 0
    for table in finished.glob("grade-*/rows.jsonl"):
        right += sum(json.loads(line)["out"][0]["right"] for line in table.read_text().splitlines())
    assert right == sum(cell["correct"] for cell in report["rows"] if cell["category"] == "all")


def test_the_same_run_again_makes_nothing_again(copied):
    before, bytes_before = stamps(copied), worlds.made(copied)
    drive(CONFIG, copied.parent, quiet=True)
    assert stamps(copied) == before
    assert worlds.made(copied) == bytes_before


def test_more_questions_only_add_lines(copied):
    before = {p: p.read_bytes() for p in copied.glob("*/rows.jsonl")}
    checkpoints = set(copied.glob("checkpoints/*"))
    grown = worlds.world_config(questions={"limit": 12}, exams={"limit": 12})
    drive(grown, copied.parent, until="select", quiet=True)
    for path, old in before.items():
        stage = path.parent.name.rsplit("-", 1)[0]
        assert path.read_bytes().startswith(old)
        assert (path.read_bytes() != old) == (stage in ("sample", "vote", "verify", "select"))
    assert set(copied.glob("checkpoints/*")) == checkpoints


def test_another_training_seed_has_a_name_of_its_own(copied, capsys):
    config = worlds.save(CONFIG, copied.parent / "small.toml")
    assert main(["run", str(config), "--root", str(copied.parent), "--until", "train", "train.seeds=[1, 2]"]) == 0
    told = capsys.readouterr().err
    assert "seed 1:" not in told and "training sft of label, seed 2: 3 steps" in told
    assert main(["show", str(copied)]) == 0
    said = capsys.readouterr().out
    assert "trained  practised\n" in said and "trained  practised, seed 2\n" in said


def test_a_question_of_other_content_is_named_with_its_remedy(copied):
    table = next(copied.glob("sample-*/rows.jsonl"))
    lines = table.read_text().splitlines(keepends=True)
    row = json.loads(lines[3]) | {"from": "0" * 32}
    table.write_text("".join([*lines[:3], json.dumps(row) + "\n", *lines[4:]]))
    with pytest.raises(StaleRow, match=r"row 'world/train/3' .*--redo stale.*Changed: the question 'world/train/3'"):
        drive(CONFIG, copied.parent, quiet=True)
    drive(CONFIG, copied.parent, redo="stale", until="select", quiet=True)
    drive(CONFIG, copied.parent, quiet=True)


def test_a_second_driver_stops_at_once(copied, capsys):
    with (copied / "lock").open("a+") as file:
        file.truncate(0)
        file.write("process 4242 on host elsewhere")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        config = worlds.save(CONFIG, copied.parent / "small.toml")
        assert main(["run", str(config), "--root", str(copied.parent)]) == 2
    said = capsys.readouterr().err
    assert "earwitness: run small is being driven by process 4242 on host elsewhere; wait for it" in said


def test_show_tells_where_a_run_stands(finished, capsys):
    assert main(["show", str(finished)]) == 0
    said = capsys.readouterr().out
    assert "8 rows, 0 failed, done  (practised, world, think)" in said
    assert "trained  practised" in said and "report.md" in said


def test_show_tells_the_whole_life_of_a_question(finished, capsys):
    assert main(["show", str(finished), "world/train/1"]) == 0
    said = capsys.readouterr().out
    place = [said.index(f"\n{stage}-") for stage in ("sample", "vote", "verify", "select")]
    assert place == sorted(place) and "the data's answer:" in said
    assert main(["show", str(finished), "world/exam/1"]) == 0
    said = capsys.readouterr().out
    assert said.count("graded right") + said.count("graded wrong") == 3 and "(practised, world, think)" in said


def test_show_names_the_nearest_question(finished, capsys):
    assert main(["show", str(finished), "world/train/11"]) == 2
    assert "such as world/train/1" in capsys.readouterr().err
    assert main(["show", str(finished.parent / "other")]) == 2
    assert "there is no run at" in capsys.readouterr().err


def test_a_run_that_was_moved_can_still_be_listened_to(copied, tmp_path, capsys, monkeypatch):
    assert main(["world", "sample", str(tmp_path / "clips"), "--count", "1"]) == 0
    clip = next((tmp_path / "clips" / "clips").glob("*.mp4"))
    moved = copied.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    asked = [str(clip), "is the bell heard ?", "--choices", "yes,no", "--max-tokens", "12"]
    for model in ("world:student", f"{moved}/practised", "elsewhere/label", f"{moved}/base"):
        assert main(["listen", model, *asked]) == 0
        assert "\n\nanswer: " in capsys.readouterr().out
    assert main(["listen", "elsewhere/nobody", *asked]) == 2
    assert "has no arm 'nobody'; it has base, label, practised" in capsys.readouterr().err
    assert main(["listen", "world:student", "gone.mp4", "what ?"]) == 2
    assert "there is no file gone.mp4" in capsys.readouterr().err


def test_a_step_is_trained_by_hand_from_the_tables_of_a_run(copied, capsys):
    config = worlds.save(CONFIG, copied.parent / "small.toml")
    place = next(copied.glob("checkpoints/grpo-*"))
    weights = (place / "final" / "model.safetensors").read_bytes()
    shutil.rmtree(place)
    command = ["train", str(config), "practised", "2", "--seed", "1", "--root", str(copied.parent)]
    tables = {p: p.read_bytes() for p in copied.glob("*/rows.jsonl")}
    assert main(command) == 0
    assert "trained step 2 of practised, seed 1" in capsys.readouterr().out
    assert (place / "final" / "model.safetensors").read_bytes() == weights
    assert {p: p.read_bytes() for p in copied.glob("*/rows.jsonl")} == tables


def test_a_step_is_not_trained_before_its_tables_and_parents_are_there(copied, capsys):
    config = worlds.save(CONFIG, copied.parent / "small.toml")
    command = ["train", str(config), "practised", "2", "--seed", "7", "--root", str(copied.parent)]
    assert main(command) == 2
    assert "step 1 of arm 'practised' with seed 7 is not trained yet" in capsys.readouterr().err
    assert main([*command, "questions.limit=9"]) == 2
    assert "stage sample has no row for 'world/train/8'" in capsys.readouterr().err
    assert main(["train", str(config), "nobody", "1", "--seed", "1", "--root", str(copied.parent)]) == 2
    assert "there is no arm 'nobody'" in capsys.readouterr().err
    assert main(["train", str(config), "base", "1", "--seed", "1", "--root", str(copied.parent)]) == 2
    assert "arm 'base' has 0 training steps" in capsys.readouterr().err


def test_check_tells_what_a_run_would_do(finished, tmp_path, capsys):
    config = worlds.save(CONFIG, tmp_path / "small.toml")
    assert main(["check", str(config), "--root", str(finished.parent), "train.seeds=[1, 2]"]) == 0
    said = capsys.readouterr().out
    assert "2 traces each: 16 calls to the teacher; 8 rows are on disk" in said
    assert "sft of label: 3 steps of 2, full, 2 seeds" in said
    assert "8 questions x 5 sittings" in said and "largest stage" in said


def test_shards_make_the_rows_that_one_run_makes(finished, tmp_path):
    config = worlds.world_config(questions={"limit": 40}, sample={"traces": 1, "max_tokens": 12})
    drive(config, tmp_path / "one", until="select", quiet=True)
    for i in (2, 1):
        drive(config, tmp_path / "two", shard=(i, 2), quiet=True)
    assert not list((tmp_path / "two").glob("small/checkpoints/*"))
    drive(config, tmp_path / "two", until="select", quiet=True)
    assert worlds.made(tmp_path / "one" / "small") == worlds.made(tmp_path / "two" / "small")
