"""Published sets of questions with reasoning, as their authors lay them out: maps of columns, and what must be mended.

What is known of each is in docs/data.md. Nobody can edit them, so rows that break a rule are left out and told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from earwitness.answers import read, same
from earwitness.config import Columns, Questions
from earwitness.sources.avqa import heard_wording, repaired
from earwitness.sources.rows import Table
from earwitness.sources.tables import Reading

_SOUND = re.compile(r"\s*<audio>\s*", re.IGNORECASE)


def avrt(table: Table, settings: Questions) -> Reading:
    """AVRT-20K (Araujo et al.): AVQA's training questions with reasoning merged from what was heard and seen."""
    columns = Columns(
        id="id",
        media="video_name",
        question="question",
        choices="choices",
        answer="answer",
        think="av_reasoning",
        tags={"type": "question_type", "category": "question_relation"},
    )
    return _reading(columns, settings, "avrt/", partial(_mended, reword=settings.reword), clips="avqa")


def audiomcq(table: Table, settings: Questions) -> Reading:
    """AudioMCQ (He et al. 2025): its free reasoning (`unstructured_cot`), and its captions as descriptions."""
    columns = Columns(
        id="id",
        media="audio_path",
        question="question",
        choices="choices",
        answer="answer",
        think="unstructured_cot",
        description="key_caption",
        tags={"type": "question_type", "source": "source_dataset"},
    )
    return _reading(columns, settings, "audiomcq/", _mended)


def cota(table: Table, settings: Questions) -> Reading:
    """CoTA (Xie et al. 2025), the data of Audio-Reasoner: open questions; the response in its four parts answers."""
    media = next((name for name in ("media", "audio_path", "audio") if name in table.columns), "audio")
    return _reading(Columns(media=media, question="user", think="assistant"), settings, "cota/", _spoken)


PRESETS: dict[str, Callable[[Table, Questions], Reading]] = {"avrt": avrt, "audiomcq": audiomcq, "cota": cota}


def _reading(
    columns: Columns,
    settings: Questions,
    ids: str,
    mend: Callable[[dict[str, Any]], dict[str, Any]],
    clips: str | None = None,
) -> Reading:
    return Reading(columns, settings.media, settings.unpack, ids, clips, mend, lenient=True)


def _spoken(asked: dict[str, Any]) -> dict[str, Any]:
    """Leave out the place of the sound before a question: the prompt has its own."""
    question = asked.get("question")
    return asked | {"question": _SOUND.sub("", question, count=1) if isinstance(question, str) else question}


def _mended(asked: dict[str, Any], reword: bool = False) -> dict[str, Any]:
    """Mend choices as AVQA's are, and take reasoning out of its tags; the tag `repaired` says what was done."""
    question, choices, answer, think = (asked.get(key) for key in ("question", "choices", "answer", "think"))
    repairs: list[str] = []
    if choices and isinstance(answer, str) and all(isinstance(choice, str) for choice in choices):
        kept, answer, repairs = repaired(choices, answer)
        choices = list(kept)
    if isinstance(think, str) and "<think>" in think:
        reading = read(think, choices)
        think = reading.think
        if answer is not None and reading.answer is not None and not same(reading.answer, answer):
            think = None
            repairs.append("reasoning for another answer")
    if reword and isinstance(question, str):
        question = heard_wording(question)
    tags = asked["tags"] | ({"repaired": "; ".join(repairs)} if repairs else {})
    return asked | {"question": question, "choices": choices, "answer": answer, "think": think, "tags": tags}
