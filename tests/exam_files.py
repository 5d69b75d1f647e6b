"""Small annotation files of our own with the anomalies of the public ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from earwitness.exams import EXAMS
from earwitness.exams.rows import read_rows
from earwitness.records import Question

OWN = Path(__file__).parent / "data" / "exams"
FILES = {
    "mmau-mini": "mmau.json",
    "mmar": "mmar.jsonl",
    "mmau-pro": "mmau_pro.jsonl",
    "mmsu": "mmsu.jsonl",
    "air-bench": "air_bench.json",
    "avqa-val": "avqa.json",
    "music-avqa": "music_avqa.json",
    "music-avqa-whole": "music_avqa.json",
    "meld": "meld.csv",
    "iemocap": "iemocap.jsonl",
    "transcript": "transcript.jsonl",
}


def own(exam: str) -> list[Question]:
    """Return the questions of an exam's small file."""
    return EXAMS[exam].read(read_rows(OWN / FILES[exam]), FILES[exam])


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON or JSON lines, by the path's ending."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]", encoding="utf-8")
    return path
