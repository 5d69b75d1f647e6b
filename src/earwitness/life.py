"""Reading a run: where it stands, and the whole life of a question, as text for people."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from earwitness.config import ConfigError, RunConfig
from earwitness.models.places import ModelError
from earwitness.preflight import read_questions
from earwitness.records import Question
from earwitness.run import CUT, DamagedTable, Run, RunError, examinee_key, examinees, read_object
from earwitness.sources.questions import SourceError
from earwitness.table import EARLIER
from earwitness.terminal import clean

ORDER = ("ask", "sample", "vote", "verify", "select", "describe", "calibrate", "answer", "grade")
REASONS = 5
Entry = dict[str, Any]


def standing(folder: Path) -> str:
    """Return a run's stages with their rows, its checkpoints, and where its report is."""
    run = _open(folder)
    names = examinees(run.path)
    lines = [run.name, ""]
    for table in _tables(run.path):
        rows = list(_rows(table))
        failed = [row["error"] for row in rows if "error" in row]
        state = "done" if (table / "done.json").is_file() else "under way"
        whose = f"  {_whose(table, names)}"
        lines.append(f"  {table.name:26}{len(rows):7} rows, {len(failed)} failed, {state}{whose}".rstrip())
        if noted := sum("note" in row for row in rows):
            lines.append(f"      {noted} about clips of which only the beginning was heard")
        here = [why for why in failed if not why.startswith(EARLIER)]
        reasons = list(dict.fromkeys(here))
        lines += [f"      {here.count(why)} x {clean(why)}" for why in reasons[:REASONS]]
        if len(reasons) > REASONS:
            lines.append(f"      and {len(reasons) - REASONS} reasons more in {table / 'rows.jsonl'}")
    lines += _shards(run.path)
    for place in sorted((run.path / "checkpoints").glob("*")):
        state = "trained" if Run.finished(place) else "under way"
        lines.append(f"  {place.name:26}{state}  {names.get(place.name, '')}".rstrip())
    report = run.path / "report.md"
    lines += ["", f"report: {report}" if report.is_file() else "no report yet: the same `earwitness run` goes on"]
    return "\n".join(lines)


def _shards(path: Path) -> list[str]:
    """Say how far the shards are, where a run is cut into some."""
    count = (read_object(path / CUT) or {}).get("shards", 0)
    tables = sorted({file.parent for file in path.glob(f"*/rows.*-of-{count}.jsonl")}) if count else []
    done = {table: len(list(table.glob(f"done.*-of-{count}.json"))) for table in tables}
    return [f"  {table.name:26}{finished:7} of {count} shards done" for table, finished in done.items()]


def life_of(folder: Path, question: str) -> str:
    """Return everything that a run has made of one question, stage by stage."""
    run = _open(folder)
    names = examinees(run.path)
    tables = [table for table in _tables(run.path) if not table.name.startswith("grade-")]
    found = [(table, row) for table in tables if (row := _row(table, question)) is not None]
    if not found:
        raise RunError(_unknown(run.path, question))
    lines = [question, *_words(run.path, question)]
    for table, row in found:
        lines += ["", f"{table.name}  {_whose(table, names)}".rstrip()]
        if "error" in row:
            lines.append(f"  failed: {clean(row['error'])}")
        if "note" in row:
            lines.append(f"  {clean(row['note'])}")
        tell = TOLD.get(_stage(table), _plain)
        lines += [f"  {clean(tell(record))}" for record in row["out"]]
        lines += [f"  graded {_graded(grade)}" for grade in _grades(run.path, table, question)]
    return "\n".join(lines)


def _open(folder: Path) -> Run:
    folder = folder.resolve()
    if not folder.is_dir():
        raise RunError(f"there is no run at {folder}; runs lie under --root, by their names")
    if not (folder / "config.toml").is_file():
        raise RunError(f"{folder} is not a run: it holds no config.toml")
    return Run.read(folder.parent, folder.name)


def _stage(table: Path) -> str:
    return table.name.rsplit("-", 1)[0]


def _tables(path: Path) -> list[Path]:
    tables = [p.parent for p in path.glob("*/rows.jsonl")]
    return sorted(tables, key=lambda p: (ORDER.index(_stage(p)) if _stage(p) in ORDER else len(ORDER), p.name))


def _rows(table: Path, needle: str = "") -> Iterator[Entry]:
    with (table / "rows.jsonl").open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return  # being written, or cut short
            if needle not in line:
                continue
            try:
                yield json.loads(line)
            except ValueError:
                raise DamagedTable(f"{table / 'rows.jsonl'}, line {number}, is not a row: delete the line") from None


def _row(table: Path, question: str) -> Entry | None:
    needle = json.dumps(question, ensure_ascii=False)
    return next((row for row in _rows(table, needle) if row["id"] == question), None)


def _unknown(path: Path, question: str) -> str:
    ids = list(dict.fromkeys(row["id"] for table in _tables(path) for row in _rows(table)))
    if not ids:
        return f"{path} has no rows yet"
    near = difflib.get_close_matches(question, ids, n=3) or ids[:3]
    return f"{path} has no row of a question {question!r}; there are {len(ids)}, such as {', '.join(near)}"


def _words(path: Path, question: str) -> list[str]:
    """Return the question itself, from its source: a run keeps only what was made of it."""
    try:
        found = _source_of(RunConfig.load(path / "config.toml"), question)
    except (ConfigError, SourceError, ModelError) as error:
        return [f"  (its source cannot be read: {clean(str(error)).splitlines()[0]})"]
    if found is None:
        return []
    choices = f"  ({', '.join(found.choices)})" if found.choices else ""
    answer = f"; the data's answer: {found.answer}" if found.answer is not None else ""
    return [f"  {clean(found.text)}{clean(choices)}", f"  {clean(found.clip.media)}{clean(answer)}"]


def _source_of(config: RunConfig, question: str) -> Question | None:
    asked = read_questions(config, lambda _: None)
    every = [asked.train, asked.choose, *asked.exams.values()]
    return next((q for questions in every for q in questions if q.id == question), None)


def _whose(table: Path, names: dict[str, str]) -> str:
    """Say which arm and exam a table of answers or grades is of."""
    settings = read_object(table / "settings.json") or {}
    if _stage(table) == "grade":
        return _whose(table.parent / settings["of"], names) if "of" in settings else ""
    if "exam" not in settings:
        return ""
    key = examinee_key(settings)
    return clean(f"({names.get(key, key)}, {settings['exam']}, {settings['answer']['prompt']})")


def _grades(path: Path, table: Path, question: str) -> list[Entry]:
    grades = (p for p in path.glob("grade-*") if (read_object(p / "settings.json") or {}).get("of") == table.name)
    rows = (_row(grade, question) for grade in grades if (grade / "rows.jsonl").is_file())
    return [record for row in rows if row is not None for record in row["out"]]


def _draft(record: Entry) -> str:
    choices = f" ({', '.join(record['choices'])}; proposed: {record['proposed']})" if record["choices"] else ""
    return f"{record['number']}: {record['text']}{choices}{f'  DROPPED: {why}' if (why := record['dropped']) else ''}"


def _trace(record: Entry) -> str:
    end = " (cut off)" if record["finish"] == "length" else ""
    return f"{record['index']}: {record['raw']}{end}"


def _ballot(record: Entry) -> str:
    if record["answer"] is None:
        return "no trace gave an answer that can be read"
    behind = ", ".join(map(str, record["indexes"]))
    return (
        f"{record['answer']}: {record['share']:.0%} of the votes (traces {behind}), "
        f"{'agreed' if record['agreed'] else 'not agreed'}"
    )


def _verdict(record: Entry) -> str:
    claims = ", ".join(
        f"{c['text']} {'heard' if c['heard'] else 'NOT HEARD'} {c['score']:.2f}" for c in record["claims"]
    )
    return f"{record['index']}: {record['reason'] or 'accepted'}{f'  [{claims}]' if claims else ''}"


def _lesson(record: Entry) -> str:
    what = "the bare answer" if record["think"] is None else f"trace {record['index']}"
    what = "the data's own reasoning to" if record["pools"] == ["given"] else what
    return f"{what} {record['answer']!r}, by {record['by']}: {', '.join(record['pools'])}"


def _description(record: Entry) -> str:
    lines = record["text"].replace("\n", "\n    ")
    return f"by {record['by']}: {lines}"


def _reply(record: Entry) -> str:
    read = "nothing" if record["answer"] is None else repr(record["answer"])
    return f"{record['raw']}  (read: {read}, by {record['rule']})"


def _graded(record: Entry) -> str:
    word = "right" if record["right"] else "wrong"
    claims = {None: "", True: ", claims a sound that is not there", False: ", claims only sounds that are there"}
    return word + claims[record["hallucinated"]]


def _plain(record: Entry) -> str:
    return "  ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in record.items())


TOLD: dict[str, Callable[[Entry], str]] = {
    "ask": _draft,
    "sample": _trace,
    "vote": _ballot,
    "verify": _verdict,
    "select": _lesson,
    "describe": _description,
    "answer": _reply,
}
