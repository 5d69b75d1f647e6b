"""What the pools of lessons hold, measured against the truth where it is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from earwitness.answers import same
from earwitness.claims import listed
from earwitness.needs import OWN_POOLS
from earwitness.records import Lesson, Pool, Question


def pool_rows(
    variant: str, questions: Sequence[Question], lessons_of: Callable[[Question], Sequence[Lesson]]
) -> list[dict[str, Any]]:
    """Return, per pool, its questions and traces, the share of right labels, and of traces with an absent sound.

    Shares are None where the truth is not known. Used for measuring only: nothing is chosen by it. The bare answers of
    the data are left out, and so are reasoning of the data's own and the teacher's pools where there is none at all.
    """
    own = _row(variant, "given", questions, lessons_of)
    taught = [_row(variant, pool, questions, lessons_of) for pool in get_args(Pool) if pool not in OWN_POOLS]
    return [*(taught if any(row["traces"] for row in taught) else ()), *((own,) if own["traces"] else ())]


def _row(
    variant: str, pool: Pool, questions: Sequence[Question], lessons_of: Callable[[Question], Sequence[Lesson]]
) -> dict[str, Any]:
    members = [(q, lesson) for q in questions for lesson in lessons_of(q) if pool in lesson.pools]
    right = [same(lesson.answer, q.answer) for q, lesson in members if q.answer is not None]
    absent = [
        not set(listed(lesson.think)) <= set(q.clip.sounds)
        for q, lesson in members
        if lesson.think is not None and q.clip.sounds is not None
    ]
    return {
        "variant": variant,
        "pool": pool,
        "questions": len({q.id for q, _ in members}),
        "traces": len(members),
        "label_right": _share(right),
        "absent_sound": _share(absent),
    }


def _share(values: list[bool]) -> float | None:
    return sum(values) / len(values) if values else None
