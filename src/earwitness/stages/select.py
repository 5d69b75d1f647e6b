"""select: which traces, and which bare labels, become lessons. A lesson names every pool it belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from earwitness.config import Select
from earwitness.records import Ballot, Lesson, Pool, Question, Trace, Verdict


def select(
    question: Question, traces: Sequence[Trace], ballot: Ballot | None, verdicts: Sequence[Verdict], settings: Select
) -> list[Lesson]:
    """Return the lessons of one question; `ballot` is None where no teacher was asked.

    `labels` is the vote's answer without thinking; `all` every trace that can be read; `agreed` those behind an
    agreed vote; `heard` those that the checker accepted; `verified` both; `gold` the data's own answer, a control;
    `given` the data's own reasoning and answer, a control likewise.
    """
    lessons = [] if ballot is None else _taught(traces, ballot, verdicts, settings)
    if question.answer is not None:
        own = Lesson(think=None, answer=question.answer, index=None, pools=("gold",), by="data")
        lessons.append(own)
        if question.think is not None:
            lessons.append(own.model_copy(update={"think": question.think, "pools": ("given",)}))
    return lessons


def _taught(traces: Sequence[Trace], ballot: Ballot, verdicts: Sequence[Verdict], settings: Select) -> list[Lesson]:
    accepted = {v.index for v in verdicts if v.accepted}
    lessons = [
        Lesson(
            think=trace.think,
            answer=trace.answer,
            index=trace.index,
            pools=_pools(trace.index, ballot, accepted),
            by=trace.by,
        )
        for trace in traces
        if trace.think and trace.answer is not None
    ]
    lessons = _at_most(lessons, settings.traces)
    if ballot.answer is not None:
        lessons.append(Lesson(think=None, answer=ballot.answer, index=None, pools=("labels",), by="vote"))
    return lessons


def _pools(index: int, ballot: Ballot, accepted: set[int]) -> tuple[Pool, ...]:
    agreed = ballot.agreed and index in ballot.indexes
    heard = index in accepted
    member: dict[Pool, bool] = {"all": True, "agreed": agreed, "heard": heard, "verified": agreed and heard}
    return tuple(pool for pool, belongs in member.items() if belongs)


def _at_most(lessons: list[Lesson], limit: int) -> list[Lesson]:
    """Keep the first `limit` lessons of every pool (0: all), so that pools can be compared at equal numbers."""
    if not limit:
        return lessons
    kept: list[Lesson] = []
    seen: dict[Pool, int] = {}
    for lesson in lessons:
        pools = tuple(pool for pool in lesson.pools if seen.get(pool, 0) < limit)
        for pool in pools:
            seen[pool] = seen.get(pool, 0) + 1
        if pools:
            kept.append(lesson.model_copy(update={"pools": pools}))
    return kept
