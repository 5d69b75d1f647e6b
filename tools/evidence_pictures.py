"""The pictures of the page of evidence: one of every experiment, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from earwitness.report.plots import BLUE, GREY, ORANGE, STYLE

Report = Mapping[str, Any]
Cell = Mapping[str, Any]
# What a variant called NAME-NUMBER changes, and what that is in the run itself.
SCALES = {"traces": 4, "questions": 3000}
COLOURS = (GREY, ORANGE, BLUE)
POOLS = ("all", "agreed", "verified")


def draw(file: Path, report: Report, name_of: Callable[[tuple[str, str, str]], str]) -> None:
    """Draw a report: curves where something was scaled, else every arm's mean and interval."""
    scales = {scale: found for scale in SCALES if len(found := _scaled(report, scale)) > 1}
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "earwitness", "svg.fonttype": "none"}):
        figure = _curves(report, scales) if scales else _dots(report, name_of)
        figure.savefig(file, bbox_inches="tight", metadata={"Date": None, "Creator": None})


def _scaled(report: Report, scale: str) -> dict[int, str]:
    """Return the variants in which something was scaled, by its number."""
    found = {}
    for variant in dict.fromkeys(c["variant"] for c in report["summary"]):
        name, _, number = variant.rpartition("-")
        if variant == "default" or name == scale:
            found[SCALES[scale] if variant == "default" else int(number)] = variant
    return dict(sorted(found.items()))


def _curves(report: Report, scales: Mapping[str, Mapping[int, str]]) -> Figure:
    """Draw one row per scale: the students' accuracy, and what the pools hold."""
    figure = Figure(figsize=(17.0, 3.1 * len(scales)), layout="constrained")
    rows = figure.subplots(len(scales), 5, squeeze=False)
    for axes, (scale, variants) in zip(rows, scales.items(), strict=True):
        _accuracy(axes[0], report, variants)
        asked = {at: at if scale == "questions" else SCALES["questions"] for at in variants}
        _pools(axes[1], report, variants, lambda t, at, asked=asked: (t["questions"] / asked[at], asked[at]))
        _pools(axes[2], report, variants, lambda t, _: (t["label_right"], t["questions"]))
        _pools(axes[3], report, variants, lambda t, _: (t["absent_sound"], t["questions"]))
        _diversity(axes[4], report, variants)
        titles = ("students right, %", "questions left, %", "labels right, %", "traces with an absent sound, %")
        for axis, title in zip(axes, (*titles, "different ones a question, in all"), strict=True):
            axis.set_title(title)
            axis.set_xscale("log", base=2)
            axis.set_xticks(list(variants), [f"{at:,}" for at in variants])
            axis.set_xlabel(scale)
            axis.legend(frameon=False)
    return figure


def _accuracy(axis: Axes, report: Report, variants: Mapping[int, str]) -> None:
    cells = [c for c in report["summary"] if c["category"] == "all" and c["exam"] == report["summary"][0]["exam"]]
    of = {(c["variant"], c["arm"]): c for c in cells}
    for colour, arm in zip(COLOURS, dict.fromkeys(c["arm"] for c in cells), strict=False):
        line = {at: of[variant, arm] for at, variant in variants.items() if (variant, arm) in of}
        spread = [50 * (c["seed_high"] - c["seed_low"]) for c in line.values()]
        _line(axis, colour, arm, {at: 100 * c["mean"] for at, c in line.items()}, spread)


def _pools(
    axis: Axes, report: Report, variants: Mapping[int, str], share: Callable[[Cell, int], tuple[float | None, int]]
) -> None:
    """Draw a share of each pool, with its 95 % interval over questions."""
    of = {(t["variant"], t["pool"]): t for t in report["traces"]}
    for colour, pool in zip(COLOURS, POOLS, strict=True):
        found = {at: share(of[variant, pool], at) for at, variant in variants.items() if (variant, pool) in of}
        known = {at: (p, n) for at, (p, n) in found.items() if p is not None}
        spread = [196 * math.sqrt(p * (1 - p) / n) for p, n in known.values()]
        _line(axis, colour, pool, {at: 100 * p for at, (p, _) in known.items()}, spread)


def _diversity(axis: Axes, report: Report, variants: Mapping[int, str]) -> None:
    of = {t["variant"]: t for t in report["traces"] if t["pool"] == "all"}
    for colour, key, name in ((ORANGE, "answers", "answers"), (BLUE, "claim_lists", "lists of sounds")):
        _line(axis, colour, name, {at: of[variant][key] for at, variant in variants.items()}, None)


def _line(axis: Axes, colour: str, name: str, points: Mapping[int, float], spread: Sequence[float] | None) -> None:
    values = list(points.values())
    axis.errorbar(list(points), values, yerr=spread, color=colour, marker="o", markersize=4, capsize=2, label=name)


def _dots(report: Report, name_of: Callable[[tuple[str, str, str]], str]) -> Figure:
    """Draw every arm's mean and interval over seeds, one panel an exam."""
    cells = [c for c in report["summary"] if c["category"] == "all"]
    exams = list(dict.fromkeys(c["exam"] for c in cells))
    lines = list(dict.fromkeys((c["variant"], c["arm"], c["mode"]) for c in cells))
    figure = Figure(figsize=(2.0 + 2.6 * len(exams), 0.8 + 0.24 * len(lines)))
    names = [name_of(line).replace("\\", "") for line in lines]
    for axis, exam in zip(figure.subplots(1, len(exams), sharey=True, squeeze=False)[0], exams, strict=True):
        of = {(c["variant"], c["arm"], c["mode"]): c for c in cells if c["exam"] == exam}
        for at, line in enumerate(lines):
            cell = of.get(line)
            if cell is not None:
                half = 0.0 if cell["seed_low"] is None else 50 * (cell["seed_high"] - cell["seed_low"])
                axis.errorbar(
                    100 * cell["mean"], at, xerr=half or None, color=BLUE, marker="o", markersize=4, capsize=2
                )
        axis.set_yticks(range(len(lines)), names)
        axis.set_ylim(len(lines) - 0.5, -0.5)
        axis.set_xlabel("right, %")
        axis.set_title(exam)
        axis.grid(axis="x", color=GREY, alpha=0.25)
    return figure
