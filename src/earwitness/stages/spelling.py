"""A lesson as the student says it, and what it is asked by."""

from __future__ import annotations

from earwitness.records import Lesson


def prompt_of(lesson: Lesson) -> str:
    """A lesson with thinking is learnt under the prompt that asks for thinking."""
    return "direct" if lesson.think is None else "think"


def spell(lesson: Lesson) -> str:
    """Return what the student is to say."""
    answer = f"<answer>{lesson.answer}</answer>"
    return answer if lesson.think is None else f"<think>{lesson.think}</think>\n{answer}"
