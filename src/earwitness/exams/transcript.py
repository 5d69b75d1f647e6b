"""Any sound with its transcript, scored by word error rate: what a student forgets shows there, too.

One line is `{"id": "...", "media": "...", "text": "what is said"}`. Rates are jiwer's, over all words of all clips,
after the normalisation `basic`: case folded, punctuation but apostrophes dropped, white space collapsed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from earwitness.exams.exam import Exam, clip
from earwitness.exams.rows import Row, RowError, tags, text
from earwitness.records import Question

TEXT = "Write down what is said."
NORMALISATION = "basic"


def question(row: Row, number: int) -> Question:
    """Return a row's question."""
    words = text(row, "text", "transcript", "transcription")
    if not basic(words):
        raise RowError(f"the transcript {words!r} has no words")
    return Question(
        id=text(row, "id"),
        clip=clip("transcript", text(row, "media", "audio", "audio_path")),
        text=TEXT,
        answer=words,
        tags=tags(row, category="category"),
    )


def basic(words: str) -> str:
    """Return a text as word error rates compare it."""
    folded = unicodedata.normalize("NFC", words).casefold().replace("\u2019", "'")
    return " ".join(re.sub(r"[^\w\s']|_", " ", folded).split())


def measures(gold: Sequence[str], read: Sequence[str | None], raw: Sequence[str]) -> dict[str, float]:
    """Return the word error rate of what was read (nothing: all words deleted), and of the raw text, as it stands."""
    from jiwer import wer

    return {
        "word_error_rate": float(wer([basic(g) for g in gold], [basic(r or "") for r in read])),
        "word_error_rate_raw": float(wer(list(gold), list(raw))),
    }


EXAMS = (
    Exam(
        name="transcript",
        files='a JSON lines file of your own, {"id": ..., "media": ..., "text": ...}, and its sound files',
        question=question,
        why="a transcript is not chosen; the word error rate stands beside",
        task="category",
        measures=measures,
    ),
)
