"""Whether two systems differ on an exam, by how much, and how much they would have to for anyone to notice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from earwitness.compare.sides import Answered, Note, side_of
from earwitness.config import ConfigError
from earwitness.report.tables import Cell, Sitting, categories, comparisons
from earwitness.report.wording import stable
from earwitness.statistics.differences import detectable_difference, holm, paired_bootstrap

_SHOWN = 3


def compare(
    names: Sequence[str],
    exams: Sequence[str] = (),
    data: Path | None = None,
    field: str | None = None,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """Compare systems with the first of them, exam by exam, on the same questions.

    Returns {"comparisons": as in a run's report, "exams": one entry for each exam and pair}. An entry holds `exam`,
    `version`, `mode`, `a`, `b`, `n`, `clips`, `seeds`, the accuracies, their `difference` (b minus a) with its paired
    clustered interval `low`, `high`, the questions that only one has right, `p` of `test` (exact McNemar, where a clip
    has one question and each side one seed, else a permutation of clips), `holm` (p adjusted for all entries),
    `same_sign` over seeds, `detectable` (the true difference that so many questions show four times in five; null where
    none could) and `by` (the same per category). Raises ConfigError, RunError or SourceError where they did not answer
    the same questions.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError("compare takes two systems or more, each once")
    sides = {name: side_of(name, exams, data, field, note) for name in names}
    first, *others = names
    cells: list[Cell] = []
    entries: list[dict[str, Any]] = []
    for other in others:
        shared = _shared(first, sides[first], other, sides[other])
        entries += [entry for exam in shared for entry in _exam(exam, first, sides[first], other, sides[other], cells)]
    for entry, adjusted in zip(entries, holm([entry["p"] for entry in entries]), strict=True):
        entry["holm"] = adjusted
    made: dict[str, Any] = stable({"comparisons": cells, "exams": entries})
    return made


def _shared(a: str, ours: Sequence[Answered], b: str, theirs: Sequence[Answered]) -> list[str]:
    """Return the exams that both sat. Raises ConfigError for none, for two versions, and for other questions."""
    names = [name for name in dict.fromkeys(one.exam for one in ours) if any(o.exam == name for o in theirs)]
    if not names:
        raise ConfigError(
            f"{a} and {b} share no exam: {', '.join(dict.fromkeys(o.exam for o in ours))} against "
            f"{', '.join(dict.fromkeys(o.exam for o in theirs))}"
        )
    for name in names:
        one, other = (next(o for o in side if o.exam == name) for side in (ours, theirs))
        if one.version != other.version:
            raise ConfigError(
                f"{name}: {a} answered version {one.version}, {b} version {other.version}; their numbers do not compare"
            )
        asked = [{q.id: (q.text, q.choices, q.answer) for q in side.questions} for side in (one, other)]
        differ = sorted(i for i in asked[0].keys() | asked[1].keys() if asked[0].get(i) != asked[1].get(i))
        if differ:
            raise ConfigError(
                f"{name}: {a} answered {len(asked[0])} questions, {b} {len(asked[1])}, and {len(differ)} are not the "
                f"same, {', '.join(map(repr, differ[:_SHOWN]))}: let both answer the same ones"
            )
    return names


def _exam(
    exam: str, a: str, ours: Sequence[Answered], b: str, theirs: Sequence[Answered], cells: list[Cell]
) -> list[dict[str, Any]]:
    """Return one entry for each pair of prompts, and add to `cells` what a run's report would hold."""
    own, other = ([one for one in side if one.exam == exam] for side in (ours, theirs))
    questions = own[0].questions
    sittings = [
        Sitting(exam, "default", name, one.seed, one.mode, questions, one.grades)
        for name, side in ((a, own), (b, other))
        for one in side
    ]
    found = comparisons(sittings, [(a, b)], by_category=True)
    cells += found
    sorts = categories(questions)
    entries: dict[str, dict[str, Any]] = {}
    for cell in found:
        if cell["seed"] != "pooled":
            continue
        alike = [c for c in found if c["mode"] == cell["mode"] and c["category"] == cell["category"]]
        seeds = [c for c in alike if c["seed"] != "pooled"]
        told = seeds[0] if len(seeds) == 1 else cell
        made = _entry(told, cell, sittings, [s["seed"] for s in seeds], (a, b), sorts[cell["category"]])
        if cell["category"] == "all":
            entries[cell["mode"]] = {"exam": exam, "version": own[0].version, "mode": cell["mode"], **made, "by": {}}
        else:
            entries[cell["mode"]]["by"][cell["category"]] = made
    return list(entries.values())


def _entry(
    told: Cell,
    pooled: Cell,
    sittings: Sequence[Sitting],
    seeds: Sequence[int | None],
    names: tuple[str, str],
    indexes: np.ndarray[Any, Any],
) -> dict[str, Any]:
    modes = told["mode"].split("/")
    means = []
    for name, mode in zip(names, (modes[0], modes[-1]), strict=True):
        those = [s for s in sittings if (s.arm, s.mode) == (name, mode) and (s.seed in seeds or s.seed is None)]
        means.append(np.mean([s.right[indexes] for s in those], axis=0))
    clips = [sittings[0].questions[i].clip.id for i in indexes]
    low, high = paired_bootstrap(means[0], means[1], clips)
    discordant = (pooled["a_only"] + pooled["b_only"]) / (len(indexes) * len(seeds))
    least = detectable_difference(len(indexes), discordant)
    return {
        "a": names[0],
        "b": names[1],
        "n": len(indexes),
        "clips": len(set(clips)),
        "seeds": len(seeds),
        "accuracy_a": float(means[0].mean()),
        "accuracy_b": float(means[1].mean()),
        "difference": told["difference"],
        "low": low,
        "high": high,
        "a_only": pooled["a_only"],
        "b_only": pooled["b_only"],
        "p": told["p"],
        "test": told["test"],
        "same_sign": pooled["same_sign"],
        "detectable": least if least < discordant * (1 - 1e-9) else None,
    }
