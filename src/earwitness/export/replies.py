"""A run's replies to a benchmark, as the files that its official script scores.

A file holds the annotation's own rows with the predictions beside them. What is handed in is the choice that was read,
in the form that the script understands: official scripts read raw reasoning badly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from earwitness.config import ConfigError, RunConfig
from earwitness.exams import EXAMS, annotations_of
from earwitness.exams.exam import Exam
from earwitness.exams.media import find_clips
from earwitness.export import new_file, open_run
from earwitness.records import Question, Reply
from earwitness.run import Run, RunError, Table, examinee_key, examinees, read_object
from earwitness.sources.rows import Row, read_rows, write_parquet
from earwitness.stages.workbench import asked_otherwise

NO_LETTER = "no choice"  # neither its first nor its last but one character is a letter that the scripts know


@dataclass(frozen=True)
class Format:
    """One official form: of which exams, under which ending, and the columns that a reply becomes."""

    exams: tuple[str, ...]
    ending: str
    columns: Callable[[Question, Reply], dict[str, str]]


def _mmau(question: Question, reply: Reply) -> dict[str, str]:
    said = reply.answer or ""
    return {"model_output": said, "model_prediction": said}  # the script reads the first, its manual names the second


def _mmar(question: Question, reply: Reply) -> dict[str, str]:
    return {"answer_prediction": reply.answer or "", "thinking_prediction": reply.think or ""}


def _letter(question: Question, reply: Reply) -> dict[str, str]:
    choices = question.choices or ()
    known = reply.answer in choices
    return {"response": "ABCDEFGH"[choices.index(str(reply.answer))] if known else NO_LETTER}


def _mmau_pro(question: Question, reply: Reply) -> dict[str, str]:
    return {"model_output": reply.answer or ""}


FORMATS = {
    "mmau": Format(("mmau-mini", "mmau-test"), ".json", _mmau),
    "mmar": Format(("mmar",), ".jsonl", _mmar),
    "mmsu": Format(("mmsu",), ".jsonl", _letter),
    "airbench": Format(("air-bench",), ".jsonl", _letter),
    "mmau-pro": Format(("mmau-pro",), ".parquet", _mmau_pro),
}


def export_replies(folder: Path, form: str, out: Path, partial: bool = False) -> list[Path]:
    """Write one file for each sitting of the form's exams in a run, and return their paths.

    Raises ConfigError where the run sat none of them, where a question has no reply (unless `partial`, which leaves
    its row out), and where nothing at all could be read: an empty column scores as something else in some scripts.
    """
    run, config = open_run(folder)
    form_of = FORMATS[form]
    exams = [name for name in config.exams.names if name in form_of.exams]
    if not exams:
        raise ConfigError(f"the run {folder} sat no exam of the form {form}, which is for {', '.join(form_of.exams)}")
    return [path for name in exams for path in _exam_files(run, config, EXAMS[name], form_of, out, partial)]


def _exam_files(run: Run, config: RunConfig, exam: Exam, form: Format, out: Path, partial: bool) -> list[Path]:
    source = annotations_of(exam, config.exams)
    rows = read_rows(source)
    questions = exam.read(rows, str(source))
    found = sittings(run, exam.name, find_clips(questions, config.exams.media)[0])
    if not found:
        raise RunError(f"the run {run.path} has no replies to {exam.name} yet")
    written = []
    for name, replies in found.items():
        said = [(row, q, replies[q.id]) for row, q in zip(rows, questions, strict=True) if q.id in replies]
        if len(said) < len(questions) and not partial:
            raise ConfigError(
                f"{name} answers {len(said)} of {len(questions)} questions of {exam.name}: the official script counts "
                "those alone and does not say so. Ask all, or say --partial"
            )
        if not any(reply.answer for _, _, reply in said):
            raise ConfigError(f"{name}: no reply to {exam.name} could be read, so the column would be empty")
        path = new_file(out / f"{exam.name}.{_plain(name)}{form.ending}")
        _write(path, [row | form.columns(question, reply) for row, question, reply in said])
        written.append(path)
    return written


def sittings(run: Run, exam: str, questions: Sequence[Question] = ()) -> dict[str, dict[str, Reply]]:
    """Return the replies by question id of each sitting of an exam, by names such as `sightsound.think`.

    Raises RunError where one of the `questions`, whose clips are on this machine, has changed since it was answered.
    """
    names = examinees(run.path)
    found: dict[str, dict[str, Reply]] = {}
    for place in sorted(run.path.glob("answer-*/settings.json")):
        settings = read_object(place) or {}
        if settings.get("exam") != exam or "way" in settings:  # controls, samples and other orders are no sitting
            continue
        key = examinee_key(settings)
        name = f"{names.get(key, key)}.{settings['answer']['prompt']}"
        if name in found:
            name = f"{name}.{place.parent.name.removeprefix('answer-')}"
        rows = {row.id: row for row in Table(place.parent, "answer", writable=False).rows()}
        if changed := asked_otherwise(run, place.parent, rows, questions):
            raise RunError(
                f"{place.parent} answered other questions than those there now, {changed[0]!r} for example: put the "
                f"annotation of {exam} and its clips back, or sit the exam again"
            )
        found[name] = replies_of(place.parent)
    return found


def replies_of(folder: Path) -> dict[str, Reply]:
    """Return the replies in a table of answers; a question that failed has none."""
    rows = Table(folder, "answer", writable=False).rows()
    return {row.id: Reply.model_validate(row.out[0]) for row in rows if row.out}


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")


def _write(path: Path, rows: list[Row]) -> None:
    if path.suffix == ".parquet":
        write_parquet(path, rows)
        return
    if path.suffix == ".json":
        text = json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
