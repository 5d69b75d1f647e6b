"""Writing the report: `report.json` for programs, `report.md` and pictures for people, a ladder for the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earwitness.report import plots
from earwitness.report.causes import causes
from earwitness.report.causes import section as causes_section
from earwitness.report.gap import gaps
from earwitness.report.gap import section as gaps_section
from earwitness.report.hearing import section as checker_section
from earwitness.report.losses import losses
from earwitness.report.losses import section as losses_section
from earwitness.report.pools import left_section
from earwitness.report.pools import section as pools_section
from earwitness.report.tables import (
    MOST_VALUES,
    SIGNIFICANT,
    Cell,
    Sitting,
    claimed,
    comparisons,
    crowded_tags,
    rows_and_summary,
)
from earwitness.report.wording import (
    Arm,
    arm_names,
    escaped,
    is_control,
    markdown_table,
    p_value,
    percent,
    points,
    shown,
    stable,
    text_table,
)

Chance = dict[tuple[str, str], float | None]


def write(
    folder: Path,
    run_name: str,
    sittings: Sequence[Sitting],
    pairs: Sequence[tuple[str, str]],
    traces: Sequence[Cell],
    stages: Sequence[Cell],
    checker: Mapping[str, Any] | None,
    meta: Mapping[str, Any],
    by_category: bool = False,
    judged: Sequence[Cell] = (),
    left: Sequence[Cell] = (),
) -> dict[str, Any]:
    """Write `report.json`, `report.md` and the pictures into the folder, and return what `report.json` holds.

    `pairs` are the steps (from, to) to be tested; `meta` holds `version`, `config_sha256`, `weights_sha256`, and the
    arms that are `controls`, `readers` and `helped`. What `stages` count as `in_part` is told in a note. Equal runs
    write equal files: floats keep six significant digits and nothing tells the time.
    """
    rows, summary = rows_and_summary(sittings)
    report: dict[str, Any] = stable(
        {
            "run": run_name,
            **{key: meta.get(key) for key in ("version", "config_sha256", "weights_sha256")},
            "rows": rows,
            "summary": summary,
            "comparisons": comparisons(sittings, pairs, by_category),
            "causes": causes([sitting for sitting in sittings if sitting.arm not in meta.get("helped", ())]),
            "gaps": gaps(summary, meta.get("readers", ()), meta.get("helped", ())),
            "traces": list(traces),
            "stages": [{key: stage[key] for key in ("name", "in", "out", "failed")} for stage in stages],
            "controls": list(meta.get("controls", ())),
            "judged": list(judged),
            "left": list(left),
            "losses": losses(sittings, summary, meta.get("helped", ())),
            "checker": dict(checker or {"false_accept": None, "false_reject": None, "n": 0}),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    chance = _chance(sittings)
    pictures = plots.draw(folder, report, chance, _names(report))
    _replace(folder / "report.md", markdown(report, chance, pictures, [*_notes(sittings), *_in_part(stages)]))
    _replace(folder / "report.json", json.dumps(report, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return report


def table_text(report: Mapping[str, Any]) -> str:
    """Return the ladder of every exam and what its steps came to, as aligned text for a terminal."""
    lines: list[str] = []
    names = _names(report)
    for exam, variant in _panels(report):
        lines += [f"{shown(exam)}{_of_variant(variant)}"]
        lines += [f"  {line}" for line in text_table(*_ladder(report, exam, variant, names))] + [""]
    head = ["step", "exam", "points", "p", "seeds", "verdict"]
    steps = []
    for c in _pooled(report):
        if c["category"] == "all":
            numbers = [points(c["difference"]), p_value(c["p"]), _signs(c, _seeds(report, c))]
            steps.append([_step(c, names), shown(c["exam"] + _of_variant(c["variant"])), *numbers, _verdict(c)])
    return "\n".join([*lines, *(text_table(head, steps) if steps else [])]).rstrip()


def markdown(
    report: Mapping[str, Any],
    chance: Mapping[tuple[str, str], float | None],
    pictures: Sequence[str],
    notes: Sequence[str],
) -> str:
    """Return `report.md`: the ladder, which steps are claimed, and what stands behind them."""
    names = {arm: escaped(name) for arm, name in _names(report).items()}
    lines = [f"# {escaped(report['run'])}", ""]
    made_of = f"configuration `{_short(report['config_sha256'])}`, weights `{_short(report['weights_sha256'])}`"
    lines += [f"earwitness {escaped(str(report['version']))}, {made_of}", ""]
    lines += _ladders(report, chance, names, pictures)
    lines += [*_steps(report, names), *_categories(report, names, pictures)]
    lines += [*losses_section(report), *gaps_section(report["gaps"]), *causes_section(report["causes"])]
    lines += [*_pools(report, pictures), *left_section(report["left"])]
    lines += [*checker_section(report["checker"], report["judged"]), *_stages(report["stages"])]
    lines += _reading(names, notes)
    return "\n".join(lines).rstrip() + "\n"


# --- the sections of the page -----------------------------------------------------------------------------------------


def _ladders(
    report: Mapping[str, Any],
    chance: Mapping[tuple[str, str], float | None],
    names: Mapping[Arm, str],
    pictures: Sequence[str],
) -> list[str]:
    lines = ["## The ladder", ""]
    if not report["summary"]:
        return [*lines, "No exam was sat.", ""]
    for exam, variant in _panels(report):
        asked = next(
            r["n"] for r in report["rows"] if (r["exam"], r["variant"], r["category"]) == (exam, variant, "all")
        )
        guess = chance.get((exam, variant))
        guessing = f"; guessing gives {percent(guess)}" if guess is not None else ""
        lines += [f"### {escaped(exam)}{escaped(_of_variant(variant))}", "", f"{asked} questions{guessing}.", ""]
        lines += [*markdown_table(*_ladder(report, exam, variant, names)), ""]
    return lines + _picture(pictures, "ladder.png", "accuracy of every arm")


def _ladder(
    report: Mapping[str, Any], exam: str, variant: str, names: Mapping[Arm, str]
) -> tuple[list[str], list[list[str]]]:
    """Return (head, rows) of one exam's ladder; names are written as given, escaped for a page."""
    head = ["arm", "mode", "accuracy", "95 %", "seeds", "over seeds", "hallucinated", "unparsed", "truncated"]
    table = []
    for cell in report["summary"]:
        if (cell["exam"], cell["variant"], cell["category"]) == (exam, variant, "all"):
            keys = ("exam", "variant", "category", "arm", "mode")
            rows = [r for r in report["rows"] if all(r[k] == cell[k] for k in keys)]
            table.append(_rung(cell, rows, names))
    return head, table


def _rung(cell: Cell, rows: Sequence[Cell], names: Mapping[Arm, str]) -> list[str]:
    known = [r["hallucinated"] for r in rows if r["hallucinated"] is not None]
    asked = sum(r["n"] for r in rows)
    half = None if cell["seed_low"] is None else (cell["seed_high"] - cell["seed_low"]) / 2
    return [
        names[cell["arm"], cell["mode"]],
        cell["mode"],
        percent(cell["mean"]),
        f"{100 * cell['low']:.1f} to {100 * cell['high']:.1f}",
        str(cell["seeds"]) if cell["seeds"] else "untrained",
        "\u2013" if half is None else f"\u00b1 {100 * half:.1f}",
        percent(sum(known) / len(known) if known else None),
        percent(sum(r["unparsed"] for r in rows) / asked),
        percent(sum(r["truncated"] for r in rows) / asked),
    ]


def _steps(report: Mapping[str, Any], names: Mapping[Arm, str]) -> list[str]:
    pooled = _pooled(report)
    if not pooled:
        return []
    rule = f"A step is claimed when p over all seeds is below {SIGNIFICANT} and its sign is the same on every seed."
    head = ["step", "exam", "category", "seed", "only before", "only after", "difference", "p", "test"]
    table = []
    for c in report["comparisons"]:
        counts = [str(c["a_only"]), str(c["b_only"]), points(c["difference"]), p_value(c["p"]), c["test"]]
        place = [escaped(c["exam"] + _of_variant(c["variant"])), escaped(c["category"])]
        table.append([_step(c, names), *place, "untrained" if c["seed"] is None else str(c["seed"]), *counts])
    sentences = [f"- {_sentence(cell, names, _seeds(report, cell), report.get('controls', ()))}" for cell in pooled]
    detail = ["<details><summary>Every seed</summary>", "", *markdown_table(head, table), "", "</details>", ""]
    return ["## The steps", "", rule, "", *sentences, "", *detail]


def _sentence(cell: Cell, names: Mapping[Arm, str], seeds: int, controls: Sequence[str]) -> str:
    """Say in words what a pooled comparison shows, and whether it is claimed."""
    where = escaped(cell["exam"] + _of_variant(cell["variant"]))
    if cell["category"] != "all":
        where += f", {escaped(cell['category'])}"
    told = any(is_control(cell[arm], controls) for arm in ("arm_a", "arm_b"))
    control = " A control: it was told the data's answers, or the truth about the clips." if told else ""
    p = f"p {p_value(cell['p'])}" if cell["p"] < 1e-4 else f"p = {p_value(cell['p'])}"
    numbers = f"{points(cell['difference'])} points, {p}, {_signs(cell, seeds)}"
    return f"{_step(cell, names)} on {where}: **{_verdict(cell)}** ({numbers}).{control}"


def _signs(cell: Cell, seeds: int) -> str:
    if seeds == 0:
        return "no trained seeds"
    if seeds == 1:
        return "one seed only"
    if not cell["difference"]:
        return "no difference at all"
    return f"same sign on all {seeds} seeds" if cell["same_sign"] else f"not the same sign on all {seeds} seeds"


def _verdict(cell: Cell) -> str:
    if not claimed(cell):
        return "not claimed"
    return "a gain is claimed" if cell["difference"] > 0 else "a loss is claimed"


def _pooled(report: Mapping[str, Any]) -> list[Cell]:
    return [cell for cell in report["comparisons"] if cell["seed"] == "pooled"]


def _seeds(report: Mapping[str, Any], pooled: Cell) -> int:
    """Return how many training seeds stand behind a pooled comparison."""
    keys = ("exam", "category", "mode", "variant", "arm_a", "arm_b")
    same = [c["seed"] for c in report["comparisons"] if all(c[k] == pooled[k] for k in keys)]
    return sum(isinstance(seed, int) for seed in same)


def _categories(report: Mapping[str, Any], names: Mapping[Arm, str], pictures: Sequence[str]) -> list[str]:
    """Tables of accuracy per arm (columns) and category (rows), one per exam and kind of category."""
    lines: list[str] = []
    for exam, variant in _panels(report):
        cells = [
            c for c in report["summary"] if (c["exam"], c["variant"]) == (exam, variant) and c["category"] != "all"
        ]
        for kind in dict.fromkeys(cell["category"].split(":")[0] for cell in cells):
            of_kind = [c for c in cells if c["category"].split(":")[0] == kind]
            lines += [f"### {escaped(exam)}{escaped(_of_variant(variant))}, by {escaped(kind)}", ""]
            lines += [*markdown_table(*_crossed(report, of_kind, names)), ""]
    if not lines:
        return []
    return ["## By kind of question", "", *_picture(pictures, "by-type.png", "accuracy by kind of question"), *lines]


def _crossed(
    report: Mapping[str, Any], cells: Sequence[Cell], names: Mapping[Arm, str]
) -> tuple[list[str], list[list[str]]]:
    arms = list(dict.fromkeys((c["arm"], c["mode"]) for c in cells))
    means = {(c["category"], c["arm"], c["mode"]): c["mean"] for c in cells}
    place = (cells[0]["exam"], cells[0]["variant"])
    asked = {r["category"]: r["n"] for r in report["rows"] if (r["exam"], r["variant"]) == place}
    rows = [
        [
            escaped(category.partition(":")[2]),
            str(asked[category]),
            *(percent(means.get((category, *arm))) for arm in arms),
        ]
        for category in dict.fromkeys(c["category"] for c in cells)
    ]
    return [escaped(cells[0]["category"].split(":")[0]), "n", *(names[arm] for arm in arms)], rows


def _pools(report: Mapping[str, Any], pictures: Sequence[str]) -> list[str]:
    lines = pools_section(report["traces"])
    return [*lines, *_picture(pictures, "pools.png", "what the pools hold")] if lines else []


def _stages(stages: Sequence[Cell]) -> list[str]:
    if not stages:
        return []
    table = [[escaped(s["name"]), str(s["in"]), str(s["out"]), str(s["failed"])] for s in stages]
    failed = sum(s["failed"] for s in stages)
    word = f"{failed} rows failed; `earwitness show` says why each did." if failed else "Nothing failed."
    return ["## The stages", "", word, "", *markdown_table(["stage", "in", "out", "failed"], table), ""]


def _reading(names: Mapping[Arm, str], notes: Sequence[str]) -> list[str]:
    lines = [
        "## How to read this",
        "",
        "- Accuracy is the mean over training seeds. Its interval is a bootstrap over clips; `over seeds` is half the "
        "width of the t interval over training seeds, which says how much luck in training matters.",
        "- A reply from which no choice can be read counts as wrong. `hallucinated` is the share of thinking replies "
        "that claim at least one sound that is not in the clip.",
        "- The p over all seeds takes the trained models as given; that is why the sign must also hold on every seed.",
    ]
    if any("control" in name for name in names.values()):
        lines.append(
            "- A control was told the data's own answers, or the truth about the clips: it shows what is possible, and "
            "is no result of a method without them."
        )
    return [*lines, *(f"- {note}" for note in notes), ""]


# --- small things -----------------------------------------------------------------------------------------------------


def _names(report: Mapping[str, Any]) -> dict[Arm, str]:
    return arm_names(report["summary"], report.get("controls", ()))


def _chance(sittings: Sequence[Sitting]) -> Chance:
    """Return the accuracy of guessing per (exam, variant): None where a question is open."""
    chance: Chance = {}
    for s in sittings:
        if all(q.choices for q in s.questions):
            chance[s.exam, s.variant] = sum(1 / len(q.choices or ()) for q in s.questions) / len(s.questions)
    return chance


def _notes(sittings: Sequence[Sitting]) -> list[str]:
    """Return what a reader must know about these exams: missing grades, open questions, tags without a table."""
    notes = []
    for s in sittings:
        if missing := len(s.questions) - len(s.grades):
            notes.append(f"The {escaped(str(s))}, has {missing} questions without a grade; they count as wrong.")
    for exam, questions in {s.exam: s.questions for s in sittings}.items():
        if opened := sum(not q.choices for q in questions):
            notes.append(f"{opened} questions of {escaped(exam)} are open: graded by equal normalised text.")
        if crowded := sorted(crowded_tags(questions)):
            tags = ", ".join(escaped(tag) for tag in crowded)
            notes.append(f"No table of {escaped(exam)} by {tags}: more than {MOST_VALUES} values.")
    return notes


def _in_part(stages: Sequence[Cell]) -> list[str]:
    """Return which stages' questions are about clips that were not heard whole."""
    counts = [(escaped(s["name"]), s.get("in_part", 0), s["in"]) for s in stages]
    return [
        f"{n} of {asked} questions of {name} are about clips of which only the beginning was heard (`long_clips`); the "
        "`note` of each row says how much."
        for name, n, asked in counts
        if n
    ]


def _panels(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((cell["exam"], cell["variant"]) for cell in report["summary"]))


def _of_variant(variant: str) -> str:
    return "" if variant == "default" else f", variant {variant}"


def _step(cell: Cell, names: Mapping[Arm, str]) -> str:
    modes = cell["mode"].split("/")
    return f"{names[cell['arm_a'], modes[0]]} \u2192 {names[cell['arm_b'], modes[-1]]}"


def _picture(pictures: Sequence[str], name: str, words: str) -> list[str]:
    return [f"![{words}]({name})", ""] if name in pictures else []


def _short(digest: Any) -> str:
    return re.sub(r"[^0-9A-Za-z]", "", str(digest))[:12]


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
