"""IEMOCAP's fifth session by EmoBox's list: four emotions, "excited" counted as "happy" as in most papers."""

from __future__ import annotations

from earwitness.exams.emotions import IEMOCAP, MERGED, NAMES, label
from earwitness.exams.exam import Exam, clip
from earwitness.exams.meld import TEXT, measures
from earwitness.exams.official import exact_text
from earwitness.exams.rows import Row, RowError, identity, text
from earwitness.records import Question


def question(row: Row, number: int) -> Question:
    """Return a row's question."""
    name = _id(row)
    if name is None:
        raise RowError("it has no key")
    given = text(row, "emo")
    emotion = label(given, NAMES["iemocap"], MERGED)
    if emotion not in IEMOCAP:
        raise RowError(f"the emotion is {given!r}, none of {', '.join(IEMOCAP)} or excited")
    return Question(
        id=name,
        clip=clip("iemocap", text(row, "wav")),
        text=TEXT,
        choices=IEMOCAP,
        answer=emotion,
        tags={"emotion": emotion, "session": name[:5]},
    )


def _id(row: Row) -> str | None:
    name = identity(row, "key", "id")
    return None if name is None else name.removeprefix("iemocap-")


EXAMS = (
    Exam(
        name="iemocap",
        files="fold_5/iemocap_test_fold_5.jsonl of EmoBox (github.com/emo-box/EmoBox), and the sound of IEMOCAP",
        question=question,
        identity=_id,
        official=exact_text,
        task="emotion",
        size=1241,
        aliases={**NAMES["iemocap"], **MERGED},
        measures=measures,
    ),
)
