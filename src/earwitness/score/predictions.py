"""A file of predictions: which column holds them, whose they are, and what is missing, doubled or unknown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from earwitness.exams.exam import Exam, official_id
from earwitness.exams.rows import Row, RowError, plain, read_rows
from earwitness.records import Question
from earwitness.sources.problems import Problems, SourceError, shown

# Names of columns that hold what a model said. A gold answer is never called so.
FIELDS = (
    *("model_output", "model_ouput", "model_prediction", "answer_prediction", "prediction", "predicted_answer", "pred"),
    *("output", "response", "model_response", "model_answer", "generated_text", "generation", "raw", "reply"),
)
FINISH = ("finish", "finish_reason", "stop_reason")
GOLD = ("answer", "answer_gt", "anser", "emo", "emotion", "text", "transcript", "choices", "question", "gold", "label")
_SHOWN = 3
_LISTED = 20  # names of columns in an error: a file of {id: answer} has thousands


@dataclass(frozen=True)
class Predictions:
    """What a file says: texts (None: the row holds none) and whether each was cut off, in the file's order."""

    field: str
    ids: list[str]
    texts: list[str | None]
    cut: list[bool]

    def without(self, ids: Collection[str], questions: Sequence[Question]) -> tuple[Predictions, int]:
        """Return these without the ones of `ids` that are of none of the questions, and how many those were."""
        asked = {official_id(question) for question in questions}
        kept = [place for place, name in enumerate(self.ids) if name in asked or name not in ids]
        found = Predictions(
            self.field,
            [self.ids[place] for place in kept],
            [self.texts[place] for place in kept],
            [self.cut[place] for place in kept],
        )
        return found, len(self.ids) - len(kept)


@dataclass(frozen=True)
class Matched:
    """Predictions beside their questions, in the order of the file; then the questions without one, text None.

    `duplicates` counts rows that say the same as another of the same question.
    """

    questions: list[Question]
    texts: list[str | None]
    cut: list[bool]
    missing: list[str]
    duplicates: int

    def where(self, keep: Callable[[Question], bool]) -> Matched:
        """Return the part of it whose questions are to be kept."""
        places = [place for place, question in enumerate(self.questions) if keep(question)]
        return Matched(
            [self.questions[place] for place in places],
            [self.texts[place] for place in places],
            [self.cut[place] for place in places],
            self.missing,
            self.duplicates,
        )


def read_predictions(path: Path, exam: Exam, field: str | None, rows: Sequence[Row] | None = None) -> Predictions:
    """Read a file of predictions. Raises SourceError where no column, or more than one, can be theirs."""
    rows = read_rows(path) if rows is None else rows
    name = _field(path, rows, field)
    problems = Problems(str(path))
    found = Predictions(name, [], [], [])
    for number, row in enumerate(rows, 1):
        identity, value = _identity(exam, row), row.get(name)
        if identity is None:
            problems.add(number, f"it has no id; its columns are {', '.join(map(str, row))}")
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            problems.add(number, f"{name} is {shown(value)}, not the text of one prediction")
            continue
        found.ids.append(identity)
        found.texts.append(value if isinstance(value, str | None) else plain(value))
        found.cut.append(any(row.get(key) == "length" for key in FINISH))
    problems.raise_any()
    if all(not (text or "").strip() for text in found.texts):
        raise SourceError(f"{path}: the column {name} is empty in every row: there is nothing to score")
    return found


def _identity(exam: Exam, row: Row) -> str | None:
    try:
        return exam.identity(row)
    except RowError:
        return None


def _field(path: Path, rows: Sequence[Row], field: str | None) -> str:
    columns = dict.fromkeys(key for row in rows for key in row)
    more = f" and {len(columns) - _LISTED} more" if len(columns) > _LISTED else ""
    listed = ", ".join(list(map(str, columns))[:_LISTED]) + more
    if field is not None:
        if field not in columns:
            raise SourceError(f"{path} has no column {field!r}; it has {listed}")
        if field in GOLD and any(key in columns for key in GOLD if key != field):
            raise SourceError(
                f"{path}: {field!r} stands beside the questions, so it holds what is right, not what was said"
            )
        return field
    theirs = [name for name in FIELDS if name in columns]
    if not theirs:
        raise SourceError(
            f"{path} has no column of predictions; it has {listed}. Name one with --field; known: {', '.join(FIELDS)}"
        )
    said = [[row.get(name) for row in rows] for name in theirs]
    if any(column != said[0] for column in said[1:]):
        raise SourceError(
            f"{path} has several columns of predictions that differ: {', '.join(theirs)}. Name one with --field"
        )
    return theirs[0]


def match(predictions: Predictions, questions: Sequence[Question], origin: str, partial: bool) -> Matched:
    """Put predictions beside their questions by id.

    Raises SourceError for ids of no question, for two that differ on one question, and, unless `partial`, for
    questions without a prediction. Where a benchmark has an id twice, one prediction answers both, two answer in order.
    """
    asked: dict[str, list[Question]] = {}
    for question in questions:
        asked.setdefault(official_id(question), []).append(question)
    own = {question.id: official_id(question) for question in questions}  # files of ours may write an id in full
    rows: dict[str, list[int]] = {}
    for place, name in enumerate(predictions.ids):
        rows.setdefault(name if name in asked else own.get(name, name), []).append(place)
    _refuse_unknown([name for name in rows if name not in asked], origin, len(asked))
    duplicates = 0
    places: dict[str, int] = {}
    quarrels: list[str] = []
    for name, theirs in rows.items():
        duplicates += max(0, len(theirs) - len(asked[name]))
        if len(theirs) != len(asked[name]) and len({predictions.texts[place] for place in theirs}) > 1:
            quarrels.append(name)
        spread = theirs if len(theirs) == len(asked[name]) else theirs[:1] * len(asked[name])
        places |= {question.id: place for question, place in zip(asked[name], spread, strict=True)}
    if quarrels:
        raise SourceError(
            f"{origin} says different things about one question, for {len(quarrels)} of them: {_some(quarrels)}; "
            "keep one row for each"
        )
    there = {q.id: places[q.id] for q in questions if q.id in places and predictions.texts[places[q.id]] is not None}
    missing = [official_id(q) for q in questions if q.id not in there]
    if missing and not partial:
        raise SourceError(
            f"{origin} answers {len(there)} of {len(questions)} questions; {len(missing)} are missing, "
            f"{_some(missing)}. A score over a part is none of the exam: answer all, or say --partial and see it marked"
        )
    first = sorted((q for q in questions if q.id in there), key=lambda q: there[q.id])
    last = [q for q in questions if q.id not in there]
    return Matched(
        [*first, *last],
        [*(predictions.texts[there[q.id]] for q in first), *([None] * len(last))],
        [*(predictions.cut[there[q.id]] for q in first), *([False] * len(last))],
        missing,
        duplicates,
    )


def _refuse_unknown(strangers: list[str], origin: str, count: int) -> None:
    if strangers:
        raise SourceError(
            f"{origin} has {len(strangers)} ids that are none of the {count} of the exam's file, {_some(strangers)}; "
            "name the annotation file that these predictions were made for with --data"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
