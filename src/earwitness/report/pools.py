"""What the pools of lessons hold, measured against the truth where it is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from earwitness.answers import same
from earwitness.claims import listed
from earwitness.needs import OWN_POOLS
from earwitness.records import Lesson, Pool, Question
from earwitness.report.tables import categories
from earwitness.report.wording import escaped, is_control, markdown_table, percent


def pool_rows(
    variant: str, questions: Sequence[Question], lessons_of: Callable[[Question], Sequence[Lesson]]
) -> list[dict[str, Any]]:
    """Return, per pool, its questions and traces, the share of right labels, and of traces with an absent sound.

    `answers` and `claim_lists` are how many different ones there are to a question, on average: how much traces vary.

    Shares are None where the truth is not known. Used for measuring only: nothing is chosen by it. The bare answers of
    the data are left out, and so are reasoning of the data's own and the teacher's pools where there is none at all.
    """
    own = _row(variant, "given", questions, lessons_of)
    taught = [_row(variant, pool, questions, lessons_of) for pool in get_args(Pool) if pool not in OWN_POOLS]
    return [*(taught if any(row["traces"] for row in taught) else ()), *((own,) if own["traces"] else ())]


def left_rows(
    questions: Sequence[Question], lessons_of: Callable[[Question], Sequence[Lesson]]
) -> list[dict[str, Any]]:
    """Return, per kind of question and pool, the share of those asked that left a lesson, and that of right labels."""
    pools = [pool for pool in get_args(Pool) if pool not in OWN_POOLS]
    return [
        {
            "category": category,
            "asked": len(indexes),
            "pool": pool,
            "left": row["questions"] / len(indexes),
            "label_right": row["label_right"],
        }
        for category, indexes in categories(questions).items()
        for pool in pools
        for row in [_row("", pool, [questions[i] for i in indexes], lessons_of)]
    ]


def left_section(left: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the vote and the checker leave of each kind of question as a section of the page."""
    kinds = list(dict.fromkeys(cell["category"] for cell in left))
    if len(kinds) < 2 or not any(cell["left"] for cell in left):
        return []
    pools = list(dict.fromkeys(cell["pool"] for cell in left))
    of = {(cell["category"], cell["pool"]): cell for cell in left}
    asked = {cell["category"]: str(cell["asked"]) for cell in left}
    table = [[escaped(kind), asked[kind], *(_left(of[kind, pool]) for pool in pools)] for kind in kinds]
    told = (
        "The share of the questions asked of which a lesson is left, and in brackets how many of the labels are right."
    )
    head = ["kind of question", "asked", *(escaped(pool) for pool in pools)]
    return ["## What is left of each kind of question", "", told, "", *markdown_table(head, table), ""]


def _left(cell: Mapping[str, Any]) -> str:
    right = "" if cell["label_right"] is None else f" ({percent(cell['label_right'])})"
    return percent(cell["left"]) + right


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
        "answers": _distinct([(q.id, lesson.answer) for q, lesson in members]),
        "claim_lists": _distinct([(q.id, listed(lesson.think)) for q, lesson in members if lesson.think is not None]),
    }


def _distinct(found: Sequence[tuple[str, object]]) -> float | None:
    """Return how many different things there are to a question, on average."""
    return len(set(found)) / len({name for name, _ in found}) if found else None


def section(traces: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the report's section about the pools, without its picture."""
    if not traces:
        return []
    head = ["pool", "variant", "questions", "lessons", "label right", "claims an absent sound"]
    head += ["answers a question", "lists of sounds a question"]
    table = []
    for t in traces:
        pool = escaped(t["pool"]) + (" (control)" if is_control(t["pool"], OWN_POOLS) else "")
        numbers = [str(t["questions"]), str(t["traces"]), percent(t["label_right"]), percent(t["absent_sound"])]
        several = ["\u2013" if t[key] is None else f"{t[key]:.2f}" for key in ("answers", "claim_lists")]
        table.append([pool, escaped(t["variant"]), *numbers, *several])
    measured = "Measured against the truth where it is known; nothing was chosen by it."
    return ["## The pools of lessons", "", measured, "", *markdown_table(head, table), ""]


def _share(values: list[bool]) -> float | None:
    return sum(values) / len(values) if values else None
