"""What leaves a run: replies that official scripts accept, lessons that other trainers read, tasks for lmms-eval."""

from __future__ import annotations

import importlib.util
import json
import wave
from pathlib import Path

import pytest
import yaml

import worlds
from earwitness.cli import main
from earwitness.compare import compare
from earwitness.config import ConfigError
from earwitness.driver import drive
from earwitness.exams.official import Item, token_match
from earwitness.exams.rows import read_rows
from earwitness.export.lessons import export_lessons
from earwitness.export.lmms_eval import export_tasks
from earwitness.export.replies import FORMATS, NO_LETTER, export_replies
from earwitness.media.write import write_sound
from earwitness.records import Clip, Question, Reply
from earwitness.run import RunError
from earwitness.score import score_file
from earwitness.sources.clips import load_sound
from earwitness.world.questions import read_world
from exam_files import write

COUNT = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run that sat a small MMAU and a small MMAR of the world's sounds, and the folder that it is in."""
    root = tmp_path_factory.mktemp("exports")
    mmau, mmar = [], []
    for number, question in enumerate(read_world("world:train", COUNT)):
        write_sound(root / f"u{number}.wav", load_sound(question.clip), 16_000)
        row = {"id": f"u{number}", "question": question.text, "choices": question.choices, "answer": question.answer}
        mmau.append(row | {"audio_id": f"./test-mini-audios/u{number}.wav", "task": "sound", "category": ["Reasoning"]})
        mmar.append(row | {"audio_path": f"./audio/u{number}.wav", "modality": "sound", "rubric": []})
    annotations = {
        "mmau-mini": str(write(root / "mmau.json", mmau)),
        "mmar": str(write(root / "mmar.jsonl", mmar)),
    }
    exams = {"names": ["mmau-mini", "mmar"], "limit": 0, "annotations": annotations, "media": [str(root)]}
    arms = {"base": [], "label": [{"stage": "sft", "lessons": "labels"}]}
    drive(worlds.world_config(exams=exams, arms=arms), root)
    return root / "small"


def test_mmau_files_score_alike_under_the_official_rule_and_ours(run, tmp_path):
    paths = export_replies(run, "mmau", tmp_path)
    assert [path.name for path in paths] == ["mmau-mini.base.direct.json", "mmau-mini.label.direct.json"]
    for path in paths:
        rows = json.loads(path.read_text())
        assert len(rows) == COUNT and all(row["model_output"] == row["model_prediction"] for row in rows)
        assert rows[0]["category"] == ["Reasoning"]  # the annotation's own row, whole
        items = [Item(row["id"], tuple(row["choices"]), row["answer"]) for row in rows]
        score = score_file("mmau-mini", path, run.parent / "mmau.json")
        assert token_match(items, [row["model_output"] for row in rows]).accuracy == score["official_raw"]
        assert score["official_raw"] == score["official"]


def test_mmar_files_hold_the_answer_and_the_thinking_apart(run, tmp_path):
    base, _ = export_replies(run, "mmar", tmp_path)
    rows = read_rows(base)
    assert len(rows) == COUNT and all(
        set(row) >= {"answer_prediction", "thinking_prediction", "rubric"} for row in rows
    )
    assert score_file("mmar", base, run.parent / "mmar.jsonl")["n"] == COUNT


def test_a_form_of_an_exam_that_was_not_sat_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="sat no exam of the form mmsu, which is for mmsu"):
        export_replies(run, "mmsu", tmp_path)
    with pytest.raises(RunError, match=r"holds no config\.toml"):
        export_replies(tmp_path, "mmau", tmp_path)


def test_answers_to_an_annotation_that_changed_are_neither_exported_nor_compared(run, tmp_path):
    path = run.parent / "mmau.json"
    before = path.read_text()
    rows = json.loads(before)
    rows[1]["answer"] = next(choice for choice in rows[1]["choices"] if choice != rows[1]["answer"])
    try:
        write(path, rows)
        with pytest.raises(RunError, match="answered other questions than those there now, 'mmau-mini/u1'"):
            export_replies(run, "mmau", tmp_path)
        with pytest.raises(RunError, match="1 of 4, or their clips, have changed since, 'mmau-mini/u1'"):
            compare([f"{run}/base", f"{run}/label"], ["mmau-mini"])
    finally:
        path.write_text(before)
    assert compare([f"{run}/base", f"{run}/label"], ["mmau-mini"])["exams"][0]["n"] == COUNT


def test_nothing_is_written_over(run, tmp_path):
    export_replies(run, "mmau", tmp_path)
    with pytest.raises(ConfigError, match="exists; name another folder"):
        export_replies(run, "mmau", tmp_path)


def test_a_part_and_an_empty_column_are_refused(run, tmp_path):
    (table, *_) = (p for p in run.glob("answer-*") if '"mmar"' in (p / "settings.json").read_text())
    kept = (table / "rows.jsonl").read_text()
    try:
        (table / "rows.jsonl").write_text("".join(kept.splitlines(keepends=True)[1:]))
        with pytest.raises(ConfigError, match=f"answers {COUNT - 1} of {COUNT} questions of mmar"):
            export_replies(run, "mmar", tmp_path / "whole")
        part, *_ = export_replies(run, "mmar", tmp_path / "part", partial=True)
        assert {len(read_rows(path)) for path in part.parent.glob("*")} == {COUNT - 1, COUNT}
        rows = [json.loads(line) for line in kept.splitlines()]
        silent = [row | {"out": [row["out"][0] | {"answer": None}]} for row in rows]
        (table / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in silent))
        with pytest.raises(ConfigError, match="the column would be empty"):
            export_replies(run, "mmar", tmp_path / "empty")
    finally:
        (table / "rows.jsonl").write_text(kept)


def test_letters_for_scripts_that_read_letters():
    question = Question(id="x/1", clip=Clip(id="c", media="c"), text="?", choices=("None", "red", "blue"), answer="red")

    def column(answer):
        reply = Reply(raw="", think=None, answer=answer, rule="", finish="stop")
        return FORMATS["mmsu"].columns(question, reply)["response"]

    assert [column(answer) for answer in ("None", "blue", None)] == ["A", "C", NO_LETTER]
    assert not {NO_LETTER[0], NO_LETTER[-2]} & set("ABCD")


@pytest.mark.parametrize("to", ["messages", "sharegpt"])
def test_lessons_become_chats_with_their_sound(run, tmp_path, to):
    (path,) = export_lessons(run, to, tmp_path, "all")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.name == "lessons.all.jsonl" and rows
    for row in rows:
        if to == "messages":
            (sound, asked), (said,) = (turn["content"] for turn in row["messages"])
            name, text, answer = sound["audio"], asked["text"], said["text"]
        else:
            (name,) = row["audios"]
            text, answer = (turn["value"] for turn in row["conversations"])
            assert text.count("<audio>") == 1
        assert "Output the thinking process" in text and answer.startswith("<think>") and "</answer>" in answer
        with wave.open(str(tmp_path / name)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16_000, 1, 64_000)


def test_lessons_as_a_table_and_pools_without_lessons(run, tmp_path):
    pytest.importorskip("pyarrow")
    (path,) = export_lessons(run, "parquet", tmp_path, "labels")
    rows = read_rows(path)
    assert all(row["think"] is None and row["response"] == f"<answer>{row['answer']}</answer>" for row in rows)
    with pytest.raises(ConfigError, match="has no lesson in the pool 'given'; there are "):
        export_lessons(run, "messages", tmp_path, "given")


def test_a_task_folder_for_lmms_eval_scores_by_our_reading(run, tmp_path):
    mmau, _ = export_tasks(run, tmp_path)
    assert mmau == tmp_path / "earwitness_mmau_mini" / "earwitness_mmau_mini.yaml"

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    task = yaml.load(mmau.read_text(), Loader)
    spec = importlib.util.spec_from_file_location("utils", mmau.parent / "utils.py")
    assert spec is not None and spec.loader is not None
    functions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(functions)
    docs = read_rows(Path(task["dataset_kwargs"]["data_files"]["test"]))
    assert task["task"] == "earwitness_mmau_mini" and len(docs) == COUNT
    named = [task[key].removeprefix("utils.") for key in ("doc_to_visual", "doc_to_text", "process_results")]
    sound, asked, judged = (getattr(functions, name) for name in named)
    (heard,) = sound(docs[0])
    assert heard["array"].shape == (64_000,) and heard["sampling_rate"] == 16_000
    assert docs[0]["question"] in asked(docs[0], {})
    assert judged(docs[0], [f"<answer>{docs[0]['answer']}</answer>"]) == {"accuracy": 1.0, "unparsed": 0.0}
    assert judged(docs[0], [""]) == {"accuracy": 0.0, "unparsed": 1.0}


def test_the_command_names_what_it_wrote(run, tmp_path, capsys):
    assert main(["export", str(run), "--format", "mmau", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"wrote {tmp_path / 'mmau-mini.base.direct.json'}"
    assert main(["export", str(run), "--to", "messages", "--pool", "given", "--out", str(tmp_path)]) == 2
