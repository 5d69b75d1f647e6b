"""MMAR (Ma et al. 2025): reasoning about sound, music, speech and their mixtures, 1,000 questions."""

from __future__ import annotations

from earwitness.exams.exam import Exam, clip
from earwitness.exams.official import token_match
from earwitness.exams.rows import Row, choices, gold, tags, text
from earwitness.records import Question


def question(row: Row, number: int) -> Question:
    """Return a row's question. Language may be null, the time stamp several spans: neither is read."""
    options = choices(row)
    return Question(
        id=text(row, "id"),
        clip=clip("mmar", text(row, "audio_path", "id")),
        text=text(row, "question"),
        choices=options,
        answer=gold(row.get("answer"), options),
        tags=tags(
            row, modality="modality", category="category", **{"sub-category": "sub-category"}, language="language"
        ),
    )


EXAMS = (
    Exam(
        name="mmar",
        files="MMAR-meta.jsonl and mmar-audio.tar.gz of the Hugging Face data set BoJack/MMAR",
        question=question,
        official=token_match,
        task="modality",
        size=1000,
    ),
)
