"""MUSIC-AVQA (Li et al. 2022) and its second version: questions about music videos, answered in one of 42 words.

`music-avqa` asks the audio and audio-visual questions, `music-avqa-whole` the visual ones, too, as the paper counts.
Every question has all 42 words as its choices, as the paper's classifier has.
"""

from __future__ import annotations

from earwitness.exams.exam import Exam, clip
from earwitness.exams.official import music_avqa
from earwitness.exams.rows import Row, identity
from earwitness.records import Question
from earwitness.sources.music_avqa import WORDS, made_id, read_row


def question(row: Row, number: int) -> Question:
    """Return a row's question; rows of the second version may have no id of their own."""
    asked = read_row(row | {"question_id": _id(row)})
    return Question(
        id=asked.id,
        clip=clip("music_avqa", f"{asked.video}.mp4"),
        text=asked.text,
        choices=WORDS,
        answer=asked.answer,
        tags={"type": asked.kind},
    )


def heard(row: Row, number: int) -> Question | None:
    """Return a row's question, or None where the picture alone can answer it."""
    asked = question(row, number)
    return None if asked.tags["type"].startswith("V-") else asked


def _id(row: Row) -> str | None:
    """Return a row's id, made where it has none of its own, or None where it does not say enough."""
    own, video = identity(row, "question_id", "id"), identity(row, "video_id")
    if own is not None or video is None or "question_content" not in row:
        return own
    return made_id(video, row)


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
