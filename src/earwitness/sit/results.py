"""What the answers to one exam come to: its score, and what other ways of asking say about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from earwitness.answers import same
from earwitness.exams.versions import Version
from earwitness.records import Question, Reply
from earwitness.score import Score, exam_of, judge, score_matched
from earwitness.score.predictions import Matched
from earwitness.stages.answer import Way
from earwitness.stages.workbench import Rows
from earwitness.statistics.differences import paired_bootstrap
from earwitness.statistics.intervals import bootstrap_interval, wilson_interval
from earwitness.statistics.repeated import repeated, shuffled

PLAIN = Way()


@dataclass(frozen=True)
class Sat:
    """One exam as it was sat: its version and whole size, the questions asked, and the replies in each way."""

    exam: str
    version: Version
    size: int
    questions: list[Question]
    ways: Mapping[Way, Rows[Reply]]

    def replies(self, way: Way) -> list[list[Reply]]:
        """Return each question's replies; none where it failed."""
        return [self.ways[way].of(question) for question in self.questions]


def result(sat: Sat) -> Score:
    """Return what `earwitness score` says of the replies, and beside it what else was asked.

    `size` is how many questions the exam has, `wilson_low` and `wilson_high` the interval that knows nothing of
    clips, `words` the mean words of the thinking and of the whole reply. `samples`, `shuffles` are null and `controls`
    is empty where they were not asked for. Shares are fractions.
    """
    exam = exam_of(sat.exam)
    score = score_matched(exam, sat.version, matched(sat, PLAIN))
    headline = _headline(sat, PLAIN)
    low, high = wilson_interval(sum(headline), len(headline))
    given = [group[0] for group in sat.replies(PLAIN) if group]
    return {
        **score,
        "size": max(sat.size, score["size"]),
        "wilson_low": low,
        "wilson_high": high,
        "words": {
            "thought": _mean([len((reply.think or "").split()) for reply in given]),
            "reply": _mean([len(reply.raw.split()) for reply in given]),
        },
        "samples": _samples(sat),
        "shuffles": _shuffles(sat),
        "controls": [_control(sat, way, headline) for way in sat.ways if way.hears != "clip"],
    }


def matched(sat: Sat, way: Way) -> Matched:
    """Put the first reply to each question beside it, as a file of predictions would be."""
    firsts = [next(iter(group), None) for group in sat.replies(way)]
    return Matched(
        sat.questions,
        [None if reply is None else reply.raw for reply in firsts],
        [reply is not None and reply.finish == "length" for reply in firsts],
        [q.id for q, reply in zip(sat.questions, firsts, strict=True) if reply is None],
        0,
    )


def _headline(sat: Sat, way: Way) -> list[bool]:
    """Return for each question whether the choice read is right by the official rule, or by ours for lack of one."""
    judged = judge(exam_of(sat.exam), matched(sat, way))
    return [one.strict if one.official is None else one.official for one in judged]


def _control(sat: Sat, way: Way, headline: Sequence[bool]) -> dict[str, Any]:
    """Compare with the same questions about no sound, or another: what the sound adds, and who answers without it."""
    heard = _headline(sat, way)
    clips = [question.clip.id for question in sat.questions]
    low, high = bootstrap_interval(heard, clips)
    gain_low, gain_high = paired_bootstrap(heard, headline, clips)
    pairs = list(zip(_answers(sat, PLAIN), _answers(sat, way), strict=True))
    return {
        "control": way.hears,
        "accuracy": _mean(heard),
        "low": low,
        "high": high,
        "difference": _mean(headline) - _mean(heard),
        "difference_low": gain_low,
        "difference_high": gain_high,
        "same": sum(a is not None and a == b for a, b in pairs) / len(pairs),
    }


def _samples(sat: Sat) -> dict[str, Any] | None:
    way = next((way for way in sat.ways if way.samples > 1), None)
    if way is None:
        return None
    answers = [
        [_as_gold(reply, q) for reply in group] or [None] * way.samples
        for q, group in zip(sat.questions, sat.replies(way), strict=True)
    ]
    return {"temperature": way.temperature, **vars(repeated(answers, [q.answer or "" for q in sat.questions]))}


def _shuffles(sat: Sat) -> dict[str, Any] | None:
    """Read the answers under every order of the choices; questions without choices have one order."""
    turned = sorted((way for way in sat.ways if way.rotation), key=lambda way: way.rotation)
    if not turned:
        return None
    columns = [sat.replies(way) for way in [PLAIN, *turned]]
    answers = [
        [_as_gold(next(iter(column[number]), None), q) for column in columns[: max(1, len(q.choices or ()))]]
        for number, q in enumerate(sat.questions)
    ]
    return vars(shuffled(answers, [q.answer or "" for q in sat.questions]))


def _answers(sat: Sat, way: Way) -> list[str | None]:
    return [group[0].answer if group else None for group in sat.replies(way)]


def _as_gold(reply: Reply | None, question: Question) -> str | None:
    """Return the answer read, spelled as the right one where it is that."""
    answer = None if reply is None else reply.answer
    right = answer is not None and question.answer is not None and same(answer, question.answer)
    return question.answer if right else answer


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
