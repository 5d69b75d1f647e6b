"""MMAU (Sakshi et al. 2024): sound, music and speech; `mmau-mini` has answers, those of `mmau-test` are withheld."""

from __future__ import annotations

from earwitness.exams.exam import Exam, clip
from earwitness.exams.official import token_match
from earwitness.exams.rows import Row, choices, gold, tags, text
from earwitness.records import Question


def question(row: Row, number: int) -> Question:
    """Return a row's question. Some rows have their category in a list; choices may be JSON within a text."""
    options = choices(row)
    return Question(
        id=text(row, "id"),
        clip=clip("mmau", text(row, "audio_id", "audio_path", "id")),
        text=text(row, "question"),
        choices=options,
        answer=gold(row.get("answer"), options),
        tags=tags(
            row,
            task="task",
            category="category",
            **{"sub-category": "sub-category"},
            difficulty="difficulty",
            dataset="dataset",
        ),
    )


EXAMS = (
    Exam(
        name="mmau-mini",
        files="mmau-test-mini.json and test-mini-audios.tar.gz of the MMAU repository (github.com/Sakshi113/MMAU)",
        question=question,
        official=token_match,
        size=1000,
    ),
    Exam(
        name="mmau-test",
        files="mmau-test.json and test-audios.tar.gz of the MMAU repository (github.com/Sakshi113/MMAU)",
        question=question,
        official=token_match,
        size=9000,
    ),
)
