"""Reading a run: where it stands, and the whole life of a question, as text for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from earwitness.run import Run, RunError
from earwitness.terminal import clean

ORDER = ("sample", "vote", "verify", "select", "calibrate", "answer", "grade")


def standing(folder: Path) -> str:
    """Return a run's stages with their rows, its checkpoints, and where its report is."""
    run = _open(folder)
    lines = [f"{run.name}", ""]
    for table in _tables(run.path):
        rows = [json.loads(line) for line in _lines(table)]
        failed = sum("error" in row for row in rows)
        state = "done" if (table / "done.json").is_file() else "under way"
        lines.append(f"  {table.name:24} {len(rows):7} rows, {failed} failed, {state}")
        reasons = {row["error"] for row in rows if "error" in row}
        lines += [f"      {clean(reason)}" for reason in sorted(reasons)[:5]]
    for place in sorted((run.path / "checkpoints").glob("*")):
        done = Run.finished(place)
        lines.append(f"  {place.name:24} {'trained' if done else 'under way'}")
    report = run.path / "report.md"
    lines += ["", f"report: {report}" if report.is_file() else "no report yet: the same `earwitness run` goes on"]
    return "\n".join(lines)


def life_of(folder: Path, question: str) -> str:
    """Return everything that a run has made of one question, stage by stage."""
    run = _open(folder)
    found = [(t, row) for t in _tables(run.path) for row in _rows(t, question)]
    if not found:
        raise RunError(f"{run.path} has no row of a question {question!r}; `grep -ho '\"id\":\"[^\"]*\"'` lists the ids")
    lines = [question]
    for table, row in found:
        lines += ["", f"{table.name}  {_setting(table)}"]
        if "error" in row:
            lines.append(f"  failed: {clean(row['error'])}")
        lines += [f"  {_one_line(record)}" for record in row["out"]]
    return "\n".join(lines)


def _open(folder: Path) -> Run:
    if not folder.is_dir():
        raise RunError(f"there is no run at {folder}; runs lie under --root, by their names")
    return Run.read(folder.parent, folder.name)


def _tables(path: Path) -> list[Path]:
    tables = [p.parent for p in path.glob("*/rows.jsonl")]
    stage = lambda p: p.name.rsplit("-", 1)[0]  # noqa: E731
    return sorted(tables, key=lambda p: (ORDER.index(stage(p)) if stage(p) in ORDER else len(ORDER), p.name))


def _lines(table: Path) -> Iterator[str]:
    with (table / "rows.jsonl").open(encoding="utf-8") as file:
        yield from (line for line in file if line.endswith("\n"))


def _rows(table: Path, question: str) -> list[dict[str, Any]]:
    needle = json.dumps(question, ensure_ascii=False)
    return [row for line in _lines(table) if needle in line and (row := json.loads(line))["id"] == question]


def _setting(table: Path) -> str:
    """Say which examinee and exam an answer table is of."""
    try:
        settings = json.loads((table / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    examinee = settings.get("examinee")
    name = examinee.get("name") if isinstance(examinee, dict) else examinee
    return clean(f"({name}, {settings.get('exam')})") if examinee else ""


def _one_line(record: dict[str, Any]) -> str:
    return "  ".join(f"{key}={_value(value)}" for key, value in record.items() if value not in (None, [], ""))


def _value(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict) and "heard" in value[0]:
        return "[" + ", ".join(f"{clean(c['text'])} {'heard' if c['heard'] else 'NOT HEARD'} {c['score']}" for c in value) + "]"
    return clean(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
