"""MUSIC-AVQA (Li et al. 2022) and its second version: questions about music videos, answered in one of 42 words.

`music-avqa` asks the audio and audio-visual questions, `music-avqa-whole` the visual ones, too, as the paper counts.
Every question has all 42 words as its choices, as the paper's classifier has.
"""

from __future__ import annotations

import json
import re

from earwitness.config import digest
from earwitness.exams.exam import Exam, clip
from earwitness.exams.instruments import WORDS
from earwitness.exams.official import music_avqa
from earwitness.exams.rows import Row, RowError, identity, listed, text
from earwitness.records import Question

KINDS = {"Audio": "A", "Visual": "V", "Audio-Visual": "AV"}
_PLACEHOLDER = re.compile(r"<[A-Za-z]+>")


def question(row: Row, number: int) -> Question:
    """Return a row's question. Its answer is called `anser`; rows of the second version may have no id of their own."""
    video, answer, name = text(row, "video_id"), text(row, "anser", "answer"), _id(row)
    if name is None:
        raise RowError("question_id is missing, and question_content, too")
    if answer not in WORDS:
        raise RowError(f"anser is {answer!r}, none of the 42 words")
    kind = listed(row.get("type"), "type")
    if len(kind) != 2 or kind[0] not in KINDS:
        raise RowError(f"type is {kind}, not two words such as Audio and Counting")
    return Question(
        id=name,
        clip=clip("music_avqa", f"{video}.mp4"),
        text=filled(text(row, "question_content"), listed(row.get("templ_values"), "templ_values")),
        choices=WORDS,
        answer=answer,
        tags={"type": f"{KINDS[kind[0]]}-{kind[1]}"},
    )


def heard(row: Row, number: int) -> Question | None:
    """Return a row's question, or None where the picture alone can answer it."""
    asked = question(row, number)
    return None if asked.tags["type"].startswith("V-") else asked


def filled(template: str, values: list[object]) -> str:
    """Put values into a template's `<Object>`, `<LR>`, ... from left to right. Raises RowError if they do not fit."""
    slots = _PLACEHOLDER.findall(template)
    if len(slots) != len(values):
        raise RowError(f"{json.dumps(template)} has {len(slots)} places, and {len(values)} values are there for them")
    words = iter(values)
    done = _PLACEHOLDER.sub(lambda _: str(next(words)), template)
    if left := _PLACEHOLDER.search(done):
        raise RowError(f"the question still has {left[0]} in it")
    return done


def _id(row: Row) -> str | None:
    """Return a row's id, made of its video and a digest of what it asks where it has none of its own."""
    own, video = identity(row, "question_id", "id"), identity(row, "video_id")
    if own is not None or video is None or "question_content" not in row:
        return own
    return f"{video}-{digest([row['question_content'], listed(row.get('templ_values'), 'templ_values')], 8)}"


_FILES = "{} of MUSIC-AVQA (github.com/GeWu-Lab/MUSIC-AVQA; the second version: MUSIC-AVQA-v2.0), and its videos"
EXAMS = tuple(
    Exam(
        name=name,
        files=_FILES.format(file),
        question=reader,
        identity=_id,
        official=music_avqa,
        task="type",
        repeats=True,
    )
    for name, reader, file in (
        ("music-avqa", heard, "avqa-test.json"),
        ("music-avqa-whole", question, "avqa-test.json"),
        ("music-avqa-val", heard, "avqa-val.json"),
    )
)
