"""Scores of prediction files: as the authors of a benchmark score them, and as they should be read. No model needed.

Three numbers stand side by side: the official rule on the raw text, with its faults and its denominator; the official
rule on the one choice that was read, over all questions; and `strict`, whether that choice is the right one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earwitness.answers import read, same
from earwitness.config import ConfigError
from earwitness.exams import exam_named, world
from earwitness.exams.exam import Exam, by_id
from earwitness.exams.official import Item, letter_of
from earwitness.exams.rows import Row, RowError, read_rows
from earwitness.exams.versions import Version, others_of, registered, version_of
from earwitness.records import Question
from earwitness.score.predictions import Matched, match, read_predictions
from earwitness.sources.problems import SourceError
from earwitness.statistics.intervals import bootstrap_interval

Score = dict[str, Any]  # what `earwitness score --json` prints
Note = Callable[[str], None]
CUT_RULES = ("unclosed-think", "cut-off")
NO_TASK = ""
MISSING = "missing"  # the rule by which nothing is read where no prediction is


@dataclass(frozen=True)
class Judged:
    """One prediction: the choice read (None: none), by which rule, and what each column says (None: left out)."""

    task: str
    clip: str
    choice: str | None
    rule: str
    cut: bool
    official_raw: bool | None
    official: bool | None
    strict: bool


def score_file(
    exam: str | Exam,
    predictions: Path,
    data: Path | None = None,
    field: str | None = None,
    partial: bool = False,
    note: Note = lambda _: None,
) -> Score:
    """Score a file of predictions; see docs/exams.md for each key of what is returned. Shares are in [0, 1].

    Gold answers come from the file itself where it carries questions and answers, else from `data`. `note` is told what
    a person should know. Raises SourceError or ConfigError for whatever cannot be scored honestly.
    """
    return score_matched(*matched_file(exam, predictions, data, field, partial, note))


def matched_file(
    exam: str | Exam,
    predictions: Path,
    data: Path | None = None,
    field: str | None = None,
    partial: bool = False,
    note: Note = lambda _: None,
) -> tuple[Exam, Version, Matched]:
    """Return a file's exam and version, and its predictions beside the questions, as `score_file` reads them."""
    exam = exam if isinstance(exam, Exam) else exam_of(exam)
    rows = read_rows(predictions)
    said = read_predictions(predictions, exam, field, rows)
    questions, version = _gold(exam, predictions, rows, data, partial)
    if others := others_of(exam.name, version):
        raise ConfigError(f"{data or predictions} holds the questions of {' or '.join(others)}, not of {exam.name}")
    graded = [question for question in questions if question.answer is not None]
    if not graded:
        raise ConfigError(
            f"{exam.name}: {data or predictions} holds no answers to score against; they may be withheld: export the "
            "predictions and hand them in"
        )
    if len(graded) < len(questions):
        note(f"{len(questions) - len(graded)} questions have no answer and are not scored")
    note(f"{exam.name}: {version.told()}")
    if exam.name not in world.NAMES:
        said, dropped = said.without(exam.unasked(rows if data is None else read_rows(data)), questions)
        if dropped:
            note(f"{dropped} predictions are about questions that {exam.name} does not ask, and are left out")
    matched = match(said, questions, str(predictions), partial)
    return exam, version, matched.where(lambda question: question.answer is not None)


def exam_of(name: str) -> Exam:
    """Return an exam by its name: a benchmark, one of the world's, or questions of a user's own (`folder:PATH`)."""
    if name in world.NAMES or ":" in name:
        why = world.WHY if name in world.NAMES else "questions of your own have no scorer but ours"
        return Exam(name=name, files="", question=lambda row, number: None, identity=by_id, why=why)
    return exam_named(name)


def _gold(
    exam: Exam, predictions: Path, rows: Sequence[Row], data: Path | None, partial: bool
) -> tuple[list[Question], Version]:
    """Return the questions with their answers, and which version they are."""
    if exam.name in world.NAMES:
        asked = world.load(exam.name, 0)
        return asked, version_of(exam.name, asked)
    own = _own(exam, rows, str(predictions))
    if data is not None:
        asked = exam.read(read_rows(data), str(data))
        version = version_of(exam.name, asked)
        if own and (differ := _differences(own, asked)):
            raise SourceError(
                f"{predictions} was made for another version than {data} ({version.label}): {len(differ)} of its "
                f"{len(own)} questions differ, {differ[0]!r} for example. Name the right file with --data, or none"
            )
        return asked, version
    if not own:
        raise SourceError(
            f"{predictions} carries no questions and answers: name the exam's own file with --data; {exam.files}"
        )
    version = version_of(exam.name, own)
    if len(own) < (size := _size(exam, version, len(own))) and not partial:
        raise SourceError(
            f"{predictions} carries {len(own)} questions of {exam.name}, which has {size}, and no other file is "
            "named: a score over a part is none of the exam. Name the whole file with --data, or say --partial"
        )
    return own, version


def _size(exam: Exam, version: Version, questions: int) -> int:
    """Return how many questions an exam has; a known version and one of more than we know of have those that it has."""
    known = exam.size or min((entry["questions"] for entry in registered().get(exam.name, [])), default=0)
    return questions if version.known else max(known, questions)


def _own(exam: Exam, rows: Sequence[Row], origin: str) -> list[Question]:
    """Return the questions that a file of predictions carries, if it does: one row decides."""

    def carries(row: Row, number: int) -> bool:
        try:
            question = exam.question(row, number)
        except RowError:
            return False
        return question is not None and question.answer is not None

    return exam.read(rows, origin) if any(carries(row, number) for number, row in enumerate(rows, 1)) else []


def _differences(own: Sequence[Question], asked: Sequence[Question]) -> list[str]:
    there = {q.id: (q.text, q.choices, q.answer) for q in asked}
    return [q.id for q in own if there.get(q.id) != (q.text, q.choices, q.answer)]


def score_matched(exam: Exam, version: Version, matched: Matched) -> Score:
    """Score predictions that stand beside their questions, all of which have answers."""
    judged = judge(exam, matched)
    by_task: dict[str, list[Judged]] = {}
    for one in judged:
        by_task.setdefault(one.task, []).append(one)
    told: Score = {
        "exam": exam.name,
        "version": version.label,
        "n": len(judged),
        "missing": len(matched.missing),
        "duplicates": matched.duplicates,
        **_columns(exam, judged),
        "rules": dict(Counter(one.rule for one in judged).most_common()),
        "by": {
            task: {"n": len(those), **_columns(exam, those)}
            for task, those in sorted(by_task.items())
            if task != NO_TASK
        },
        "size": _size(exam, version, len(judged)),
    }
    if exam.measures is not None:
        gold = [question.answer or "" for question in matched.questions]
        told["measures"] = exam.measures(gold, [one.choice for one in judged], [t or "" for t in matched.texts])
    return told


def _columns(exam: Exam, judged: Sequence[Judged]) -> Score:
    strict = [one.strict for one in judged]
    headline = strict if exam.official is None else [bool(one.official) for one in judged]
    counted = [one.official_raw for one in judged if one.official_raw is not None]
    if exam.asks_model and len(counted) < sum(one.rule != MISSING for one in judged):
        counted = []
    low, high = bootstrap_interval(headline, [one.clip for one in judged])
    return {
        "official_raw": sum(counted) / len(counted) if counted else None,
        "official": None if exam.official is None else sum(headline) / len(headline),
        "strict": sum(strict) / len(strict),
        "low": low,
        "high": high,
        "unparsed": sum(one.choice is None for one in judged),
        "truncated": sum(one.cut for one in judged),
    }


def judge(exam: Exam, matched: Matched) -> list[Judged]:
    """Read every prediction once, and let each column judge it."""
    readings = [_read(exam, text, question) for text, question in zip(matched.texts, matched.questions, strict=True)]
    items = [
        Item(q.id, q.choices or (), q.answer or "", q.tags.get(exam.task, NO_TASK), q.tags) for q in matched.questions
    ]
    raw: dict[str, bool] = {}
    canonical: dict[str, bool] = {}
    if exam.official is not None:
        raw = exam.official(items, matched.texts).correct
        chosen = [
            letter_of(item, choice) if exam.letters and choice is not None else choice
            for item, (choice, _) in zip(items, readings, strict=True)
        ]
        canonical = exam.official(items, chosen).correct
    return [
        Judged(
            task=item.task,
            clip=question.clip.id,
            choice=choice,
            rule=rule,
            cut=cut or rule.rpartition("/")[2] in CUT_RULES,
            official_raw=raw.get(item.id),
            official=canonical.get(item.id, False) if exam.official is not None else None,
            strict=choice is not None and same(choice, item.answer),
        )
        for item, question, (choice, rule), cut in zip(items, matched.questions, readings, matched.cut, strict=True)
    ]


def reading_is_right(text: str, choices: Sequence[str] | None, answer: str) -> tuple[bool, bool]:
    """Return (whether a reply names the right choice, whether any could be read from it), for other evaluators."""
    choice = read(text, choices).answer
    return choice is not None and same(choice, answer), choice is not None


def _read(exam: Exam, text: str | None, question: Question) -> tuple[str | None, str]:
    """Return (choice or None, rule) of a prediction; a row without one has the rule `missing`."""
    if text is None:
        return None, MISSING
    reading = read(text, question.choices)
    if reading.answer is None and exam.aliases and (named := exam.aliases.get(read(text, None).answer or "")):
        return named, "alias"
    return reading.answer, reading.rule
