"""A task folder for lmms-eval: the exam's questions, their clips' paths, and our reading in place of its guesses.

Nothing here imports lmms-eval, and what is generated imports only this package: `--include_path FOLDER`.
"""

from __future__ import annotations

import json
from pathlib import Path

from earwitness.config import ConfigError
from earwitness.exams import EXAMS
from earwitness.export import new_file, open_run
from earwitness.preflight import read_exam
from earwitness.records import Question

_TASK = """\
# Written by `earwitness export`. Run: python -m lmms_eval --include_path {folder} --tasks {task} ...
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.sound
doc_to_text: !function utils.asked
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 1024
  temperature: 0
  do_sample: false
process_results: !function utils.judged
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
  - metric: unparsed
    aggregation: mean
    higher_is_better: false
"""

_FUNCTIONS = '''\
"""Written by `earwitness export`: how lmms-eval hears, asks and scores these questions."""

from earwitness.media import RATE, read_sound
from earwitness.prompts import question_prompt
from earwitness.score import reading_is_right


def sound(doc):
    return [{"array": read_sound(doc["media"], doc["start"], doc["end"]), "sampling_rate": RATE}]


def asked(doc, lmms_eval_specific_kwargs=None):
    return question_prompt("plain", "think", doc["question"], doc["choices"])


def judged(doc, results):
    right, read = reading_is_right(results[0], doc["choices"], doc["answer"])
    return {"accuracy": float(right), "unparsed": float(not read)}
'''


def export_tasks(folder: Path, out: Path) -> list[Path]:
    """Write a task folder for each benchmark that a run names as an exam, and return the paths of their YAML files."""
    _, config = open_run(folder)
    names = [name for name in config.exams.names if name in EXAMS]
    if not names:
        raise ConfigError(f"the run {folder} names no public benchmark as an exam")
    return [_write_task(name, read_exam(config, name), out) for name in names]


def _write_task(exam: str, questions: list[Question], out: Path) -> Path:
    task = f"earwitness_{exam.replace('-', '_')}"
    folder = out / task
    path, data = new_file(folder / f"{task}.yaml"), folder / "questions.jsonl"
    data.write_text("".join(json.dumps(_doc(q), ensure_ascii=False) + "\n" for q in questions), encoding="utf-8")
    (folder / "utils.py").write_text(_FUNCTIONS, encoding="utf-8")
    place = json.dumps(str(data.absolute()), ensure_ascii=False)  # a quoted scalar of YAML, too
    path.write_text(_TASK.format(task=task, folder=json.dumps(str(out)), data=place), encoding="utf-8")
    return path


def _doc(question: Question) -> dict[str, object]:
    return {
        "id": question.id,
        "media": question.clip.media,
        "start": question.clip.start,
        "end": question.clip.end,
        "question": question.text,
        "choices": None if question.choices is None else list(question.choices),
        "answer": question.answer,
        "task": question.tags.get("task", ""),
    }
