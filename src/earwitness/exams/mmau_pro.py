"""MMAU-Pro (2025): expert questions, some about several clips, some open, some about following instructions."""

from __future__ import annotations

from earwitness.exams.exam import Exam, clip
from earwitness.exams.media import SEVERAL
from earwitness.exams.rows import Row, RowError, choices, gold, listed, tags, text
from earwitness.records import Question


def question(row: Row, number: int) -> Question:
    """Return a row's question. What asks about several clips is marked so, and can be scored but not asked here."""
    options = choices(row)
    files = [row["audio_path"]] if _one(row.get("audio_path")) else listed(row.get("audio_path"), "audio_path")
    if not files or not all(isinstance(file, str) and file.strip() for file in files):
        raise RowError("audio_path names no file")
    several = {SEVERAL: str(len(files))} if len(files) > 1 else {}
    return Question(
        id=text(row, "id"),
        clip=clip("mmau-pro", files[0]),
        text=text(row, "question"),
        choices=options,
        answer=gold(row.get("answer"), options),
        tags=tags(row, category="category", length="length_type") | several,
    )


def _one(value: object) -> bool:
    return isinstance(value, str) and not value.lstrip().startswith("[")


EXAMS = (
    Exam(
        name="mmau-pro",
        files="test.parquet and data.zip of the Hugging Face data set gamma-lab-umd/MMAU-Pro",
        question=question,
        why="the official scorer compares embeddings of NV-Embed-v2 and asks Qwen2.5-7B about open answers",
        task="category",
        size=5305,
    ),
)
