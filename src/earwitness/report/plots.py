"""The report's pictures. Colours are Okabe and Ito's, and cividis: both keep their meaning for the colour-blind."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from earwitness.needs import OWN_POOLS
from earwitness.report.wording import Arm, arms_of, is_control, shown

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8C8C8C", "#222222"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "text.parse_math": False,  # a name with two dollar signs is a name, not a formula
}


def draw(
    folder: Path, report: Mapping[str, Any], chance: Mapping[tuple[str, str], float | None], names: Mapping[Arm, str]
) -> list[str]:
    """Draw `ladder.png`, `by-type.png` and `pools.png` into the folder, each where there is something to show.

    `chance` is the accuracy of guessing per (exam, variant); `names` is what each arm is called. Returns file names.
    """
    with matplotlib.rc_context(STYLE):
        figures = {
            "ladder.png": _ladder(report, chance, names),
            "by-type.png": _by_type(report, names),
            "pools.png": _pools(report["traces"]),
        }
        for name, figure in figures.items():
            if figure is not None:
                figure.savefig(folder / name, dpi=150, bbox_inches="tight", metadata={"Software": None})
    return [name for name, figure in figures.items() if figure is not None]


def _ladder(
    report: Mapping[str, Any], chance: Mapping[tuple[str, str], float | None], names: Mapping[Arm, str]
) -> Figure | None:
    """Accuracy per arm, one panel per exam: mean with its 95 % interval, a small dot per seed, a line for guessing."""
    summary = [cell for cell in report["summary"] if cell["category"] == "all"]
    panels = list(dict.fromkeys((cell["exam"], cell["variant"]) for cell in summary))
    if not panels:
        return None
    most = max(sum((c["exam"], c["variant"]) == panel for c in summary) for panel in panels)
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(1.4 + 3.4 * columns, lines * (1.2 + 0.34 * most)), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for axis, panel in zip(axes.flat, panels, strict=False):
        cells = [cell for cell in summary if (cell["exam"], cell["variant"]) == panel]
        rows = [row for row in report["rows"] if (row["exam"], row["variant"], row["category"]) == (*panel, "all")]
        _rungs(axis, cells, rows, names, report.get("controls", ()))
        if (guess := chance.get(panel)) is not None:
            axis.axvline(guess, color=GREY, linestyle="--", linewidth=1, zorder=0)
            axis.annotate("guessing", (guess, 1), (-9, -2), xycoords=("data", "axes fraction"), color=GREY,
                          textcoords="offset points", fontsize=7, rotation=90, va="top")  # fmt: skip
        axis.set_title(_panel_title(*panel))
        axis.set_xlabel("accuracy (%)")
    figure.supxlabel("bars: 95 % intervals by clip; small dots: training seeds", fontsize=7, color=GREY)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    return figure


def _rungs(
    axis: Any,
    cells: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    names: Mapping[Arm, str],
    controls: Sequence[str],
) -> None:
    for height, cell in enumerate(cells):
        control = is_control(cell["arm"], controls)
        colour = ORANGE if control else BLUE
        error = [[max(0.0, cell["mean"] - cell["low"])], [max(0.0, cell["high"] - cell["mean"])]]
        axis.errorbar(cell["mean"], height, xerr=error, fmt="D" if control else "o", color=colour, markersize=6,
                      elinewidth=1.6, capsize=3)  # fmt: skip
        seeds = [row["accuracy"] for row in rows if (row["arm"], row["mode"]) == (cell["arm"], cell["mode"])]
        if len(seeds) > 1:
            axis.plot(seeds, [height + 0.26] * len(seeds), "o", color=GREY, markersize=2.6, alpha=0.9)
        axis.annotate(f"{100 * cell['mean']:.1f}", (cell["high"], height), (5, 0), textcoords="offset points",
                      va="center", fontsize=8)  # fmt: skip
    axis.set_yticks(range(len(cells)), [_wrapped(names[cell["arm"], cell["mode"]]) for cell in cells])
    axis.set_ylim(len(cells) - 0.4, -0.6)
    axis.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f}")
    axis.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.margins(x=0.14)


def _by_type(report: Mapping[str, Any], names: Mapping[Arm, str]) -> Figure | None:
    """Accuracy per arm and category as a heat map, one panel per exam, the number in every cell."""
    summary = [
        c for c in report["summary"] if c["category"].startswith(("type:", "tag:")) and c["variant"] == "default"
    ]
    exams = list(dict.fromkeys(cell["exam"] for cell in summary))
    if not exams:
        return None
    tables = [_grid([cell for cell in summary if cell["exam"] == exam]) for exam in exams]
    heights = [0.8 + 0.3 * len(arms) for arms, _, _ in tables]
    width = 2.2 + 0.62 * max(len(columns) for _, columns, _ in tables)
    figure = Figure(figsize=(width, sum(heights) + 0.9), layout="constrained")
    axes = figure.subplots(len(exams), 1, squeeze=False, height_ratios=heights)[:, 0]
    image: Any = None
    least, most = (f([np.nanmin(v) if f is min else np.nanmax(v) for _, _, v in tables]) for f in (min, max))
    span = (np.floor(10 * least) / 10, max(np.ceil(10 * most) / 10, np.floor(10 * least) / 10 + 0.1))
    for axis, exam, (arms, columns, values) in zip(axes, exams, tables, strict=True):
        image = axis.imshow(values, cmap="cividis", vmin=span[0], vmax=span[1], aspect="auto")
        axis.set_title(shown(exam))
        axis.set_yticks(range(len(arms)), [_wrapped(names[arm]) for arm in arms])
        axis.set_xticks(range(len(columns)), [_column(column) for column in columns], rotation=35, ha="right",
                        rotation_mode="anchor", fontsize=8)  # fmt: skip
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        if 0 < (types := sum(column.startswith("type:") for column in columns)) < len(columns):
            axis.axvline(types - 0.5, color="white", linewidth=4)  # left of it kinds, right of it tags
        for (i, j), value in np.ndenumerate(values):
            if not np.isnan(value):
                axis.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if value < np.mean(span) else "black")  # fmt: skip
    bar = figure.colorbar(image, ax=list(axes), fraction=0.03, pad=0.02, format=lambda x, _: f"{100 * x:.0f}")
    bar.set_label("accuracy (%)")
    bar.outline.set_visible(False)
    return figure


def _grid(cells: Sequence[Mapping[str, Any]]) -> tuple[list[Arm], list[str], np.ndarray[Any, Any]]:
    arms = arms_of(cells)
    columns = list(dict.fromkeys(cell["category"] for cell in cells))
    values = np.full((len(arms), len(columns)), np.nan)
    for cell in cells:
        values[arms.index((cell["arm"], cell["mode"])), columns.index(cell["category"])] = cell["mean"]
    return arms, columns, values


def _pools(traces: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Per pool: the share of right labels, and of chains of thought that claim a sound that is not there."""
    known = [t for t in traces if t["variant"] == "default" and (t["label_right"], t["absent_sound"]) != (None, None)]
    if not known:
        return None
    figure = Figure(figsize=(6.4, 1.3 + 0.5 * len(known)), layout="constrained")
    axis = figure.subplots()
    for offset, key, colour, hatch, label in (
        (-0.19, "label_right", BLUE, "", "label right"),
        (0.19, "absent_sound", ORANGE, "////", "thinking claims an absent sound"),
    ):
        heights = [i + offset for i, t in enumerate(known) if t[key] is not None]
        if not heights:
            continue  # not known of any pool: no place in the legend
        values = [t[key] for t in known if t[key] is not None]
        axis.barh(heights, values, 0.36, color=colour, hatch=hatch, edgecolor="white", label=label)
        for height, value in zip(heights, values, strict=True):
            axis.annotate(
                f"{100 * value:.1f}", (value, height), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
    axis.set_yticks(range(len(known)), [f"{_wrapped(_pool_name(t))}\n{t['traces']} lessons" for t in known])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.08)
    axis.set_xticks(np.linspace(0, 1, 6))
    axis.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f}")
    axis.set_xlabel("share (%)")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _pool_name(trace: Mapping[str, Any]) -> str:
    return shown(trace["pool"]) + (" (control)" if is_control(trace["pool"], OWN_POOLS) else "")


def _panel_title(exam: str, variant: str) -> str:
    return shown(exam) if variant == "default" else f"{shown(exam)}, variant {shown(variant)}"


def _column(category: str) -> str:
    kind, _, value = category.partition(":")
    return _wrapped(shown(value if kind in ("type", "tag") else category))


def _wrapped(name: str) -> str:
    """Break a long name in two lines: a picture has less room than a page."""
    return "\n".join(textwrap.wrap(name, 20, max_lines=2, placeholder="\u2026"))
