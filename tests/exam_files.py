"""Small annotation files of our own with the anomalies of the public ones, and where the public ones may lie."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

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


def public(name: str) -> Path:
    """Return a public annotation file, or skip the test where it is not on this machine.

    They lie in the folder named by EARWITNESS_DATA, or in `shared/data` beside or above the repository.
    """
    root = Path(__file__).parent.parent
    places = [root / "shared" / "data", root.parent / "shared" / "data", root.parent.parent / "shared" / "data"]
    if folder := os.environ.get("EARWITNESS_DATA"):
        places = [Path(folder)]
    found = next((place / name for place in places if (place / name).is_file()), None)
    if found is None:
        pytest.skip(f"{name} is not here; name the folder of public annotation files in EARWITNESS_DATA")
    return found


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON or JSON lines, by the path's ending."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]", encoding="utf-8")
    return path
