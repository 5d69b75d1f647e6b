"""AVQA's validation part (Yang et al. 2022), which papers call its test: questions about ten seconds of VGGSound."""

from __future__ import annotations

from typing import Any

from earwitness.exams.exam import Exam, clip
from earwitness.exams.official import exact_text
from earwitness.exams.rows import Row, choices, gold, tags, text
from earwitness.records import Question
from earwitness.sources.avqa import NONE, clip_name, heard_wording


def question(row: Row, number: int) -> Question:
    """Return a row's question, asked about the audio. The answer is an index in official rows, a text in re-split ones.

    Choices stay as they are, repeated ones too: answers are compared by text, so either of two equal ones is right.
    """
    given = choices(row, "multi_choice")
    answer = gold(_told(row.get("answer"), given), given)
    options = None if given is None else tuple(choice for choice in given if choice != NONE)
    name = clip_name(text(row, "video_name"))
    return Question(
        id=text(row, "id"),
        clip=clip("avqa", name),
        text=heard_wording(text(row, "question_text")),
        choices=options,
        answer=answer,
        tags=tags(row, type="question_type", category="question_relation"),
    )


def _told(answer: Any, given: tuple[str, ...] | None) -> Any:
    """Return an index that went through a CSV file, where every value is text, as a number again."""
    if given is None or not isinstance(answer, str) or not answer.strip().isdecimal() or answer.strip() in given:
        return answer
    return int(answer)


EXAMS = (
    Exam(
        name="avqa-val",
        files="val_qa.json of AVQA (mn.cs.tsinghua.edu.cn/avqa) and the clips of VGGSound",
        question=question,
        official=exact_text,
        task="type",
        size=16909,
    ),
)
