"""Why hearing got worse, where it did: forgotten, or misled by words.

An exam of perception whose words carry a meaning of their own, which agrees with what is heard or conflicts with it
(the tag `words`), is asked directly and after thinking. What was forgotten is missing from direct answers too; who is
misled goes wrong only after having written the words down, and only where they conflict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earwitness.records import Question
from earwitness.report.tables import SIGNIFICANT, Cell, Sitting
from earwitness.report.wording import escaped, markdown_table, percent, points, shown
from earwitness.statistics.differences import cluster_permutation
from earwitness.statistics.intervals import bootstrap_interval

TAG, AGREE, CONFLICT = "words", "agree", "conflict"
Outcomes = NDArray[np.int64]


def causes(sittings: Sequence[Sitting]) -> list[Cell]:
    """Return one entry for every arm that was asked both ways, in exams whose words agree or conflict.

    `direct_agree` and so on are accuracies. `forgotten` is the step from the untrained arm's direct answers to this
    arm's, over all questions; `misled` the step from its direct answers to those after thinking, over the conflicting
    ones: each a difference with its p, and the sign on every seed. `beyond_agreeing` (with its 95 % interval, by clip)
    is by how much more thinking costs on conflicting questions than on agreeing ones.
    """
    found = []
    for exam, variant in dict.fromkeys((s.exam, s.variant) for s in sittings):
        here = [s for s in sittings if (s.exam, s.variant) == (exam, variant)]
        questions = here[0].questions
        words = np.array([q.tags.get(TAG) for q in questions])
        both = [
            a for a in dict.fromkeys(s.arm for s in here) if {s.mode for s in here if s.arm == a} >= {"direct", "think"}
        ]
        if {AGREE, CONFLICT} <= set(words.tolist()):
            start = next((s for s in here if s.seed is None and s.mode == "direct" and s.arm in both), None)
            place = {"exam": exam, "variant": variant}
            found += [place | _cause(arm, [s for s in here if s.arm == arm], words, start) for arm in both]
    return found


def verdict(cell: Cell) -> str:
    """Return in a word or two what an entry of `causes` says."""
    forgot = cell["forgotten"] is not None and _falls(cell["forgotten"])
    misled = _falls(cell["misled"]) and cell["beyond_agreeing"]["high"] < 0
    return {(0, 0): "neither", (1, 0): "forgotten", (0, 1): "misled by words", (1, 1): "both"}[int(forgot), int(misled)]


def section(cells: Sequence[Cell]) -> list[str]:
    """Return the entries as a section of the page, nothing where there are none."""
    if not cells:
        return []
    head = ["exam", "arm", *(f"{mode}, {w}" for mode in ("direct", "thinking") for w in ("agreeing", "conflicting"))]
    head += ["direct, since the base", "thinking, where they conflict", "verdict"]
    table = [
        [
            escaped(shown(cell["exam"])) + ("" if cell["variant"] == "default" else f" ({escaped(cell['variant'])})"),
            escaped(cell["arm"]),
            *(percent(cell[f"{mode}_{words}"]) for mode in ("direct", "think") for words in (AGREE, CONFLICT)),
            points(cell["forgotten"]["difference"]) if cell["forgotten"] else "",
            points(cell["misled"]["difference"]),
            verdict(cell),
        ]
        for cell in cells
    ]
    return [
        "## Forgotten, or misled by words?",
        "",
        "Questions about what only the sound tells, where words agree with it or conflict, asked directly and after "
        "thinking. What was forgotten is missing from direct answers too; who is misled by words goes wrong after "
        "writing them down, and where they conflict. Either is said only where p < 0.01 and every seed agrees.",
        "",
        *markdown_table(head, table),
        "",
    ]


def _falls(step: Cell) -> bool:
    return bool(step["difference"] < 0 and step["p"] < SIGNIFICANT and step["same_sign"])


def _cause(arm: str, sittings: Sequence[Sitting], words: NDArray[Any], start: Sitting | None) -> Cell:
    questions = sittings[0].questions
    direct, think = (
        np.stack([s.right for s in sorted(sittings, key=lambda s: s.seed or 0) if s.mode == mode])
        for mode in ("direct", "think")
    )
    agree, conflict = words == AGREE, words == CONFLICT
    told = (agree | conflict).nonzero()[0]
    share = {
        f"{mode}_{name}": float(right[:, which].mean())
        for mode, right in (("direct", direct), ("think", think))
        for name, which in (("agree", agree), ("conflict", conflict))
    }
    base = None if start is None or start.arm == arm else np.broadcast_to(start.right, direct.shape)
    return {
        "arm": arm,
        "seeds": sum(s.seed is not None for s in sittings) // 2,
        **share,
        "forgotten": None if base is None else _step(base, direct, questions),
        "misled": _step(direct[:, conflict], think[:, conflict], [questions[i] for i in conflict.nonzero()[0]]),
        "beyond_agreeing": _interaction((think - direct).mean(0)[told], conflict[told], [questions[i] for i in told]),
    }


def _step(before: Outcomes, after: Outcomes, questions: Sequence[Question]) -> Cell:
    differences = (after - before).mean(1)
    return {
        "difference": float(differences.mean()),
        "p": cluster_permutation(before, after, [q.clip.id for q in questions]),
        "same_sign": bool((differences > 0).all() or (differences < 0).all()),
    }


def _interaction(effect: NDArray[np.float64], conflict: NDArray[np.bool_], questions: Sequence[Question]) -> Cell:
    """Return the mean effect on conflicting questions less that on agreeing ones."""
    # One mean over all of them, with weights that make it the difference of the two means.
    weight = np.where(conflict, 1 / conflict.mean(), -1 / (~conflict).mean())
    low, high = bootstrap_interval(effect * weight, [q.clip.id for q in questions])
    return {"difference": float((effect * weight).mean()), "low": low, "high": high}
