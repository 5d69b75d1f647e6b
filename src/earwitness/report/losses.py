"""Where training hurts: kinds of questions that a trained student answers worse than the untouched one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from earwitness.report.tables import Cell, Sitting, claimed, comparisons
from earwitness.report.wording import arm_names, escaped, markdown_table, percent, points, shown

PLACE = ("exam", "variant", "category")


def losses(sittings: Sequence[Sitting], summary: Sequence[Cell], helped: Collection[str]) -> list[Cell]:
    """Return the claimed losses, one entry per exam, variant, category and arm, against the first untrained student.

    An entry is a pooled comparison with the accuracies `before` and `after`. Arms that were `helped`, and examinees
    that are no student, are left out.
    """
    means = {(*(c[key] for key in PLACE), c["arm"], c["mode"]): c["mean"] for c in summary}
    own = [s for s in sittings if s.arm not in helped]
    found = []
    for exam, variant in dict.fromkeys((s.exam, s.variant) for s in own):
        here = [s for s in own if (s.exam, s.variant) == (exam, variant)]
        untouched = next((s.arm for s in here if s.seed is None), None)
        trained = dict.fromkeys(s.arm for s in here if s.seed is not None)
        if untouched is not None:
            found += comparisons(here, [(untouched, arm) for arm in trained], by_category=True)
    return [_with_means(c, means) for c in found if c["seed"] == "pooled" and claimed(c) and c["difference"] < 0]


def _with_means(cell: Cell, means: Mapping[tuple[str, ...], float]) -> Cell:
    place, modes = tuple(cell[key] for key in PLACE), cell["mode"].split("/")
    before, after = means[(*place, cell["arm_a"], modes[0])], means[(*place, cell["arm_b"], modes[-1])]
    return {**cell, "before": before, "after": after}


def section(report: Mapping[str, Any]) -> list[str]:
    """Return the losses as a section of the page, nothing where there are none."""
    if not report["losses"]:
        return []
    names = arm_names(report["summary"], report["controls"])
    head = ["exam", "category", "arm", "untouched", "trained", "points"]
    table = [
        [
            escaped(shown(c["exam"])) + ("" if c["variant"] == "default" else f" ({escaped(c['variant'])})"),
            escaped(c["category"]),
            escaped(names[c["arm_b"], c["mode"].split("/")[-1]]),
            percent(c["before"]),
            percent(c["after"]),
            points(c["difference"]),
        ]
        for c in report["losses"]
    ]
    told = "Kinds of questions on which a trained student is worse than the untouched one: claimed losses only."
    return ["## Where training hurts", "", told, "", *markdown_table(head, table), ""]
