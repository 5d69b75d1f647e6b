"""The rows, the summary and the comparisons of `report.json`, from the sittings of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earwitness.records import Grade, Question
from earwitness.statistics.differences import cluster_permutation, mcnemar
from earwitness.statistics.intervals import bootstrap_intervals, t_interval

Cell = dict[str, Any]  # one entry of a list in report.json
MOST_VALUES = 64  # a tag with more values than this names questions rather than sorting them
SIGNIFICANT = 0.01


@dataclass(frozen=True)
class Sitting:
    """One arm (of one training seed; None: untrained) that sat one exam. `grades` is keyed by question id.

    A question without a grade counts as wrong and unparsed: the denominator is always the whole exam. `mode` is the
    prompt (`direct`, `think`, `plain`, `given-trace`). Raises ValueError for grades of questions that are not in the
    exam.
    """

    exam: str
    variant: str
    arm: str
    seed: int | None
    mode: str
    questions: list[Question]
    grades: dict[str, Grade]

    def __post_init__(self) -> None:
        asked = {q.id for q in self.questions}
        if not asked or len(asked) < len(self.questions):
            raise ValueError(f"{self}: needs questions, each once; got {len(self.questions)}, {len(asked)} distinct")
        if foreign := sorted(set(self.grades) - asked):
            raise ValueError(f"{self}: grades of {len(foreign)} questions that were not asked, first {foreign[0]!r}")

    def __str__(self) -> str:
        return f"sitting of arm {self.arm!r} (seed {self.seed}) in exam {self.exam!r}, variant {self.variant!r}"

    @cached_property
    def right(self) -> NDArray[np.int64]:
        """Whether each question was answered right: 0 or 1, (n,), in the order of the questions."""
        return np.array([int((g := self.grades.get(q.id)) is not None and g.right) for q in self.questions])

    def row(self, category: str, indexes: NDArray[np.int64], low: float, high: float) -> Cell:
        """Return this sitting's row for the questions of a category."""
        grades = [self.grades.get(self.questions[i].id) for i in indexes]
        known = [g.hallucinated for g in grades if g is not None and g.hallucinated is not None]
        correct = int(self.right[indexes].sum())
        return {
            **_place(self, category),
            "arm": self.arm,
            "seed": self.seed,
            "n": len(indexes),
            "correct": correct,
            "accuracy": correct / len(indexes),
            "low": low,
            "high": high,
            "unparsed": sum(g is None or not g.parsed for g in grades),
            "truncated": sum(g is not None and g.truncated for g in grades),
            "hallucinated": sum(known) / len(known) if known else None,
        }


def rows_and_summary(sittings: Sequence[Sitting]) -> tuple[list[Cell], list[Cell]]:
    """Return the `rows` (one per sitting and category) and the `summary` (one per arm and category, over its seeds).

    Accuracies are fractions; intervals are 95 %, bootstrapped by clip. In the summary `seeds` counts the training
    seeds (0: untrained), `sd` is over seeds, and `seed_low`, `seed_high` are the t interval over seeds; null below two.
    """
    rows: list[Cell] = []
    summary: list[Cell] = []
    for together in _groups(sittings, lambda s: (s.exam, s.variant)):
        questions = _same_questions(together)
        arms = _groups(together, lambda s: (s.arm, s.mode))
        for category, indexes in categories(questions).items():
            outcomes = [s.right[indexes] for s in together]
            means = [np.mean([s.right[indexes] for s in arm], axis=0) for arm in arms]
            bounds = bootstrap_intervals([*outcomes, *means], [questions[i].clip.id for i in indexes])
            rows += [s.row(category, indexes, *b) for s, b in zip(together, bounds[: len(together)], strict=True)]
            summary += [
                _summary(arm, category, indexes, b) for arm, b in zip(arms, bounds[len(together) :], strict=True)
            ]
    return rows, summary


def _summary(arm: Sequence[Sitting], category: str, indexes: NDArray[np.int64], bounds: tuple[float, float]) -> Cell:
    accuracies = [float(s.right[indexes].mean()) for s in arm]
    seed_bounds = t_interval(accuracies) or (None, None)
    return {
        **_place(arm[0], category),
        "arm": arm[0].arm,
        "seeds": sum(s.seed is not None for s in arm),
        "mean": float(np.mean(accuracies)),
        "sd": float(np.std(accuracies, ddof=1)) if len(arm) > 1 else None,
        "low": bounds[0],
        "high": bounds[1],
        "seed_low": seed_bounds[0],
        "seed_high": seed_bounds[1],
    }


def comparisons(sittings: Sequence[Sitting], pairs: Sequence[tuple[str, str]], by_category: bool = False) -> list[Cell]:
    """Compare ordered pairs of arms: one entry per seed, then `"seed": "pooled"` over all seeds.

    `difference` is the accuracy of `arm_b` minus that of `arm_a`: what the step from a to b gains. An untrained arm is
    compared with every seed of the other. Arms that answered under different prompts are compared all the same, and
    `mode` then names both (`direct/think`). Only the category `all`, unless `by_category`.
    Raises ValueError where a pair names an arm that sat nothing, or two arms share no seed.
    """
    known = {s.arm for s in sittings}
    if missing := {arm for pair in pairs for arm in pair} - known:
        raise ValueError(f"cannot compare {sorted(missing)}: no such arm sat an exam; arms: {', '.join(sorted(known))}")
    found: list[Cell] = []
    for together in _groups(sittings, lambda s: (s.exam, s.variant)):
        sorts = categories(_same_questions(together))
        for category, indexes in sorts.items() if by_category else [("all", sorts["all"])]:
            for a, b in pairs:
                for first, second in _matched(together, a, b):
                    found += _compare(first, second, category, indexes)
    return found


def claimed(comparison: Mapping[str, Any]) -> bool:
    """Return whether a pooled comparison supports a step: p below 0.01 and the same sign on every seed."""
    if comparison["seed"] != "pooled":
        raise ValueError("a step is claimed on the pooled comparison, not on that of one seed")
    return bool(comparison["p"] < SIGNIFICANT and comparison["same_sign"])


def categories(questions: Sequence[Question]) -> dict[str, NDArray[np.int64]]:
    """Return the question indexes of every category: `all`, then `type:X`, `tag:X` (tag `seen`) and `KEY:X`."""
    sorts: dict[str, list[int]] = {}
    crowded = crowded_tags(questions)
    for i, question in enumerate(questions):
        for key, value in question.tags.items():
            if key not in crowded:
                sorts.setdefault(f"{'tag' if key == 'seen' else key}:{value}", []).append(i)
    ordered = sorted(sorts.items(), key=lambda item: ({"type": 0, "tag": 1}.get(item[0].split(":")[0], 2), item[0]))
    return {"all": np.arange(len(questions))} | {name: np.array(found) for name, found in ordered}


def crowded_tags(questions: Sequence[Question]) -> set[str]:
    """Return the tags with so many values that no table is made of them."""
    values: dict[str, set[str]] = {}
    for question in questions:
        for key, value in question.tags.items():
            values.setdefault(key, set()).add(value)
    return {key for key, found in values.items() if len(found) > MOST_VALUES}


def _compare(a: Sequence[Sitting], b: Sequence[Sitting], category: str, indexes: NDArray[np.int64]) -> list[Cell]:
    """Compare two arms, given as sittings side by side (the same seed, or the untrained arm repeated)."""
    clips = [a[0].questions[i].clip.id for i in indexes]
    place = _place(a[0], category) | {"mode": a[0].mode if a[0].mode == b[0].mode else f"{a[0].mode}/{b[0].mode}"}
    single = len(set(clips)) == len(clips)
    found = []
    for first, second in zip(a, b, strict=True):
        x, y = first.right[indexes], second.right[indexes]
        a_only, b_only, exact = mcnemar(x, y)
        test, p = ("mcnemar", exact) if single else ("permutation", cluster_permutation(x, y, clips))
        seed = second.seed if first.seed is None else first.seed
        counts = {"a_only": a_only, "b_only": b_only, "difference": (b_only - a_only) / len(indexes)}
        names = {"arm_a": first.arm, "arm_b": second.arm}
        found.append({**place, **names, "seed": seed, **counts, "p": p, "test": test, "same_sign": None})
    differences = [cell["difference"] for cell in found]
    all_a, all_b = (np.stack([s.right[indexes] for s in side]) for side in (a, b))
    pooled = {
        "seed": "pooled",
        "a_only": sum(cell["a_only"] for cell in found),
        "b_only": sum(cell["b_only"] for cell in found),
        "difference": float(np.mean(differences)),
        "p": cluster_permutation(all_a, all_b, clips),
        "test": "permutation",
        "same_sign": all(d > 0 for d in differences) or all(d < 0 for d in differences),
    }
    return [*found, found[0] | pooled]


def _matched(together: Sequence[Sitting], a: str, b: str) -> list[tuple[list[Sitting], list[Sitting]]]:
    """Pair the sittings of two arms by seed, once per mode that both have, or across modes where none is shared."""
    first, second = ([s for s in together if s.arm == arm] for arm in (a, b))
    shared = [mode for mode in dict.fromkeys(s.mode for s in first) if any(s.mode == mode for s in second)]
    if shared:
        sides = [([s for s in first if s.mode == m], [s for s in second if s.mode == m]) for m in shared]
    else:
        sides = [(x, y) for x in _groups(first, lambda s: s.mode) for y in _groups(second, lambda s: s.mode)]
    return [_by_seed(x, y) for x, y in sides]


def _by_seed(a: Sequence[Sitting], b: Sequence[Sitting]) -> tuple[list[Sitting], list[Sitting]]:
    of_a, of_b = ({s.seed: s for s in side} for side in (a, b))
    if None in of_a and None not in of_b:
        of_a = dict.fromkeys(of_b, of_a[None])
    elif None in of_b and None not in of_a:
        of_b = dict.fromkeys(of_a, of_b[None])
    seeds = [seed for seed in of_a if seed in of_b]
    if not seeds:
        raise ValueError(f"cannot compare the {a[0]} with the {b[0]}: they share no training seed")
    return [of_a[seed] for seed in seeds], [of_b[seed] for seed in seeds]


def _same_questions(together: Sequence[Sitting]) -> list[Question]:
    """Return the questions that all these sittings answered, or raise: accuracies on other questions do not compare."""
    questions = together[0].questions
    ids = [q.id for q in questions]
    seen: set[tuple[str, str, int | None]] = set()
    for sitting in together:
        if [q.id for q in sitting.questions] != ids:
            raise ValueError(f"the {sitting} answered other questions than the {together[0]}: give all arms the same")
        key = (sitting.arm, sitting.mode, sitting.seed)
        if key in seen:
            raise ValueError(f"the {sitting} is given twice")
        seen.add(key)
    return questions


def _groups(sittings: Sequence[Sitting], key: Any) -> list[list[Sitting]]:
    """Group by key, groups and members in order of appearance."""
    groups: dict[Any, list[Sitting]] = {}
    for sitting in sittings:
        groups.setdefault(key(sitting), []).append(sitting)
    return list(groups.values())


def _place(sitting: Sitting, category: str) -> Cell:
    return {"exam": sitting.exam, "category": category, "mode": sitting.mode, "variant": sitting.variant}
