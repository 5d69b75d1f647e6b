"""MELD's test part (Poria et al. 2019): the emotion of an utterance from a television series, one of seven.

Rows are those of MELD's CSV or of EmoBox. Accuracy says little, nearly half of all is neutral: `measures` has more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict

from earwitness.exams.emotions import MELD, NAMES, emotion_scores, label
from earwitness.exams.exam import Exam, clip
from earwitness.exams.official import exact_text
from earwitness.exams.rows import Row, RowError, identity, text
from earwitness.records import Question

TEXT = "Which emotion does the speaker express?"
CUT = {"dia38_utt4": "wrongly cut", "dia220_utt0": "wrongly cut"}  # minutes long in the released videos
_NAME = re.compile(r"dia\d+_utt\d+")


def question(row: Row, number: int) -> Question:
    """Return a row's question."""
    name = _id(row)
    if name is None:
        raise RowError("it has neither Dialogue_ID and Utterance_ID nor EmoBox's key")
    emotion = label(text(row, "Emotion", "emo"), NAMES["meld"])
    if emotion not in MELD:
        raise RowError(f"the emotion is {emotion!r}, none of {', '.join(MELD)}")
    return Question(
        id=name,
        clip=clip("meld", f"{name}.mp4"),
        text=TEXT,
        choices=MELD,
        answer=emotion,
        tags={"emotion": emotion} | ({"broken": CUT[name]} if name in CUT else {}),
    )


def measures(gold: Sequence[str], read: Sequence[str | None], raw: Sequence[str]) -> dict[str, float]:
    """Return weighted and unweighted accuracy, and macro and weighted F1."""
    scores = asdict(emotion_scores(gold, read))
    return {name: scores[name] for name in ("accuracy", "unweighted_accuracy", "weighted_f1", "macro_f1")}


def _id(row: Row) -> str | None:
    if row.get("Dialogue_ID") not in (None, "") and row.get("Utterance_ID") not in (None, ""):
        return f"dia{text(row, 'Dialogue_ID')}_utt{text(row, 'Utterance_ID')}"
    found = _NAME.search(identity(row, "key", "id") or "")
    return found[0] if found else None


EXAMS = (
    Exam(
        name="meld",
        files="test_sent_emo.csv and output_repeated_splits_test of MELD (github.com/declare-lab/MELD)",
        question=question,
        identity=_id,
        official=exact_text,
        task="emotion",
        size=2610,
        aliases=NAMES["meld"],
        measures=measures,
    ),
)
