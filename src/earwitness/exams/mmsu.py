"""MMSU (Wang et al. 2025): 47 tasks of perceiving and reasoning about speech, two or four choices."""

from __future__ import annotations

from earwitness.exams.exam import Exam, clip
from earwitness.exams.official import mmsu
from earwitness.exams.rows import Row, RowError, gold, plain, tags, text
from earwitness.records import Question


def lettered(row: Row) -> tuple[str, ...]:
    """Return the choices in `choice_a` to `choice_d`; the last ones may be null. The text "None" is a choice, too.

    A gap before a choice would move the letters behind it, and is refused.
    """
    given = [row.get(f"choice_{letter}") for letter in "abcd"]
    while given and given[-1] in (None, ""):
        given.pop()
    if len(given) < 2 or any(c is None or not str(c).strip() for c in given):
        raise RowError("choice_a to choice_d: at least the first two must be there, and none may be missing between")
    if not all(isinstance(c, str | int | float) and not isinstance(c, bool) for c in given):
        raise RowError("a choice is not text")
    return tuple(plain(c) for c in given if c is not None)


def question(row: Row, number: int) -> Question:
    """Return a row's question."""
    options = lettered(row)
    return Question(
        id=text(row, "id"),
        clip=clip("mmsu", text(row, "audio_path", "id")),
        text=text(row, "question"),
        choices=options,
        answer=gold(row.get("answer_gt"), options),
        tags=tags(row, task="task_name", category="category", **{"sub-category": "sub-category"}),
    )


EXAMS = (
    Exam(
        name="mmsu",
        files="question/mmsu.jsonl and the audio folder of the Hugging Face data set ddwang2000/MMSU",
        question=question,
        official=mmsu,
        letters=True,
        size=5000,
    ),
)
