"""Runs on a folder of somebody's clips: through every stage, and past what is wrong with some of them."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import worlds
from earwitness.cli import main
from earwitness.media import write_clip, write_sound
from media_files import beeps, cut, fast_start, numbered, write_pictures

CHOICES = ["dog", "bell"]
RATE = 16_000
TINY = {"steps": 2, "batch": 2, "checkpoint_every": 1}


def folder_config(folder: Path, **sections):
    """A small run that learns from a folder and is examined on it."""
    source = f"folder:{folder}"
    small = {
        "questions": {"train": [source], "choose": [], "limit": 0},
        "exams": {"names": [source], "limit": 0},
        "sample": {"traces": 2, "max_tokens": 24, "frames": 4},
        "verify": {"calibrate": 0.0},
        "sft": TINY,
        "grpo": TINY | {"group": 2, "max_tokens": 12},
        "answer": {"max_tokens": 12},
    }
    return worlds.world_config(**small | sections)


def ask(folder: Path, *rows: dict) -> None:
    lines = [json.dumps({"question": "is the bell heard ?", "choices": CHOICES, "answer": "dog"} | row) for row in rows]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(config, root: Path, *arguments: str) -> int:
    return main(["run", str(worlds.save(config, root / "small.toml")), "--root", str(root), *arguments])


def rows_of(root: Path, stage: str) -> dict[str, dict]:
    lines = [line for table in root.glob(f"small/{stage}-*/rows.jsonl") for line in table.read_text().splitlines()]
    return {row["id"]: row for row in map(json.loads, lines)}


def test_the_world_as_video_files_goes_through_every_stage(tmp_path, capsys):
    assert main(["world", "sample", str(tmp_path / "clips"), "--count", "6"]) == 0
    config = folder_config(tmp_path / "clips")
    assert run(config, tmp_path) == 0
    said = capsys.readouterr()
    assert "shares 6 of its 6 clips with the training questions" in said.err
    assert "practised   think" in said.out
    asked = [json.loads(line) for line in (tmp_path / "clips" / "questions.jsonl").read_text().splitlines()]
    for stage in ("sample", "vote", "verify", "select", "answer", "grade"):
        rows = rows_of(tmp_path, stage)
        assert list(rows) == [row["id"] for row in asked]
        assert all(row["out"] and "error" not in row for row in rows.values())
    assert str(tmp_path) not in "".join(p.read_text() for p in tmp_path.glob("small/*/rows.jsonl"))
    assert len(list(tmp_path.glob("small/checkpoints/*/done.json"))) == 3
    report = json.loads((tmp_path / "small" / "report.json").read_text())
    (learnt,) = [c for c in report["rows"] if (c["arm"], c["category"]) == ("practised", "all")]
    assert learnt["n"] == 6


def odd_clips(folder: Path) -> dict[str, str]:
    """Make clips of every kind beside a good one. Returns, by file name, what is wrong with it ('': nothing)."""
    good = next((folder / "clips").glob("*.mp4"))
    (folder / "Straße").mkdir()
    for name in ("two words.mp4", "-rf.mp4", "Straße/日本.mp4"):
        shutil.copy(good, folder / name)
    (folder / "empty.mp4").touch()
    (folder / "garbage.mp4").write_bytes(np.random.default_rng(1).bytes(5000))
    cut(fast_start(good), 0.5).rename(folder / "half.mp4")
    uneven = [Fraction(n, 30) for n in (0, 1, 2, 40, 41, 90, 105)]
    write_pictures(folder / "silent.mp4", uneven)
    write_pictures(folder / "uneven.mp4", uneven, sound=beeps([1.0], 3.6, 44_100))
    write_sound(folder / "blind.wav", beeps([0.5], 3, RATE), RATE)
    for name, seconds, per_second in (("blink.mp4", 0.02, 50), ("long.mp4", 40, 2)):
        frames = np.stack([numbered(i) for i in range(int(seconds * per_second))])
        write_clip(folder / name, frames, per_second, beeps([0.0], seconds, RATE), RATE)
    return {
        "two words.mp4": "",
        "-rf.mp4": "",
        "Straße/日本.mp4": "",
        "uneven.mp4": "",
        "long.mp4@10-13.5": "",
        "gone.mp4": "failed in sample: gone.mp4: cannot be read (No such file or directory)",
        "empty.mp4": "failed in sample: empty.mp4: is empty",
        "garbage.mp4": "failed in sample: garbage.mp4: is not a media file of a known kind",
        "half.mp4": "failed in sample: half.mp4: is damaged or cut short",
        "blind.wav": "failed in sample: blind.wav: has no picture track",
        "silent.mp4": "failed in verify: silent.mp4: has no sound track",
        "blink.mp4": "failed in verify: blink.mp4: 20 ms of sound are too short",
        "long.mp4": "failed in verify: long.mp4: 40.0 s of sound do not fit the model's window of 4",
        "two words.mp4@3-12": "failed in sample: two words.mp4@3-12: is 4.00 s long and has nothing at 3 to 12 s",
    }


def clip_rows(clips: dict[str, str]) -> list[dict]:
    rows = []
    for number, name in enumerate(clips):
        media, _, span = name.partition("@")
        start, end = map(float, span.split("-")) if span else (0.0, None)
        rows.append({"id": f"odd-{number}", "media": media, "start": start, "end": end})
    return rows


def test_what_is_wrong_with_a_clip_costs_its_row_and_the_run_goes_on(tmp_path, capsys):
    folder = tmp_path / "clips"
    assert main(["world", "sample", str(folder), "--count", "6"]) == 0
    good = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    clips = odd_clips(folder)
    ask(folder, *good, *clip_rows(clips))
    assert run(folder_config(folder, arms={"base": [], "label": worlds.ARMS["label"]}), tmp_path) == 1
    said = capsys.readouterr().err
    assert "more than 5% of the questions failed in sample, " in said and "--redo failed" in said
    assert "sample: 6 of 20 questions failed, first odd-5: gone.mp4: cannot be read" in said
    assert "verify: 3 of 20 questions failed, first odd-10: silent.mp4: has no sound track" in said
    for rows in (rows_of(tmp_path, "select"), rows_of(tmp_path, "answer")):
        assert len(rows) == 20
        assert [i for i in rows if i.startswith("default") and "error" in rows[i]] == []
    for number, (name, expected) in enumerate(clips.items()):
        row = rows_of(tmp_path, "select")[f"odd-{number}"]
        assert row.get("error", "")[: len(expected) or None] == expected, name
        assert bool(row["out"]) == (not expected)
    # The student needs no picture: it is asked about whatever can be heard.
    unheard = {n for n, why in enumerate(clips.values()) if why} - {list(clips).index("blind.wav")}
    assert {i for i, row in rows_of(tmp_path, "answer").items() if "error" in row} == {f"odd-{n}" for n in unheard}
    report = json.loads((tmp_path / "small" / "report.json").read_text())
    assert {cell["n"] for cell in report["rows"] if cell["category"] == "all"} == {20}
    assert main(["show", str(tmp_path / "small")]) == 0
    assert "1 x empty.mp4: is empty; fetch it again" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "small"), "odd-8"]) == 0
    assert "failed: half.mp4: is damaged or cut short" in capsys.readouterr().out


def test_a_mended_clip_is_asked_again_and_a_few_bad_ones_are_no_failure(tmp_path, capsys):
    assert main(["world", "sample", str(tmp_path / "clips"), "--count", "1"]) == 0
    good = json.loads((tmp_path / "clips" / "questions.jsonl").read_text())
    rows = [good | {"id": f"q{n}"} for n in range(20)]
    ask(tmp_path / "clips", *rows, good | {"id": "bad", "media": "gone.mp4"})
    config = folder_config(tmp_path / "clips", sample={"traces": 1, "max_tokens": 12, "frames": 2})
    assert run(config, tmp_path, "--until", "select") == 0
    assert "sample: 1 of 21 questions failed, first bad: gone.mp4" in capsys.readouterr().err
    shutil.copy(tmp_path / "clips" / good["media"], tmp_path / "clips" / "gone.mp4")
    assert run(config, tmp_path, "--until", "select") == 2
    assert "Changed: the question 'bad' or its clip" in capsys.readouterr().err
    assert run(config, tmp_path, "--redo", "stale", "--until", "select") == 0
    assert "error" not in rows_of(tmp_path, "select")["bad"]


@pytest.mark.parametrize(
    "line, said",
    [
        ("{not json", "questions.jsonl:2: not valid JSON"),
        ({"id": "good"}, "questions.jsonl:2: id 'good' is that of line 1 too"),
        ({"id": "x", "answer": "cat"}, "questions.jsonl:2: answer 'cat' is not among the choices"),
        ({"id": "x", "question": "what is <|AUDIO|> ?"}, "<|AUDIO|>"),
        ({"id": "x", "question": "{question}"}, "{question}"),
        ({"id": "x", "media": "../secret.mp4"}, "questions.jsonl:2: media '../secret.mp4' leaves its folder"),
    ],
)
def test_a_malformed_line_stops_a_run_before_it_begins(line, said, tmp_path, capsys):
    ask(tmp_path, {"id": "good", "media": "a.mp4"})
    with (tmp_path / "questions.jsonl").open("a") as file:
        good = {"media": "a.mp4", "question": "what ?", "choices": CHOICES}
        file.write(line if isinstance(line, str) else json.dumps(good | line))
    assert run(folder_config(tmp_path), tmp_path) == 2
    told = capsys.readouterr().err
    assert told.startswith("earwitness: 1 problem in ") and said in told
    assert not (tmp_path / "small").exists()
