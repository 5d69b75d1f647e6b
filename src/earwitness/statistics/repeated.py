"""Several answers to the same question: samples of one system, or one system under shuffled choices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Repeated:
    """What k answers to each question come to, as fractions.

    `average` is the mean accuracy of one answer and `error` its standard error over questions; `majority` the accuracy
    of the commonest answer (a tie is wrong, as is a majority of unread replies); `passed` the chance that any of k
    answers is right, which is no accuracy.
    """

    k: int
    average: float
    error: float | None
    majority: float
    passed: float


def repeated(answers: Sequence[Sequence[str | None]], gold: Sequence[str]) -> Repeated:
    """Return avg@k, maj@k and pass@k of k answers to each of n questions (None: nothing was read)."""
    sizes = {len(group) for group in answers}
    if len(answers) != len(gold) or len(sizes) != 1 or not min(sizes):
        raise ValueError(f"repeated: {len(answers)} groups of {sorted(sizes)} answers for {len(gold)} questions")
    (k,) = sizes
    right = np.array([[answer == key for answer in group] for group, key in zip(answers, gold, strict=True)])
    per_question = right.mean(1)
    n = len(gold)
    return Repeated(
        k,
        float(per_question.mean()),
        float(per_question.std(ddof=1)) / math.sqrt(n) if n > 1 else None,
        sum(_commonest(group) == key for group, key in zip(answers, gold, strict=True)) / n,
        float(np.mean([pass_at(k, int(row.sum()), k) for row in right])),
    )


def pass_at(k: int, correct: int, n: int) -> float:
    """Return the unbiased estimate of pass@k from n samples of which `correct` are right.

    1 - C(n - c, k) / C(n, k): Chen et al., arXiv 2107.03374, equation 1.
    """
    if not 0 < k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass_at: needs 0 < k <= n and 0 <= correct <= n, not k={k}, {correct} of {n}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def _commonest(group: Sequence[str | None]) -> str | None:
    (first, times), *rest = Counter(group).most_common(2)
    return None if rest and rest[0][1] == times else first


def rotations(choices: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the cyclic shuffles of a question's choices, the given order first."""
    return [(*choices[i:], *choices[:i]) for i in range(len(choices))]


@dataclass(frozen=True)
class Shuffled:
    """What one system answers under every cyclic shuffle of the choices, as fractions of the questions.

    `average` is the mean accuracy over shuffles, `always` the share that is right under every one (CircularEval of
    MMBench, arXiv 2307.06281), `consistent` the share that gets the same answer, right or wrong, under every one.
    """

    average: float
    always: float
    consistent: float


def shuffled(answers: Sequence[Sequence[str | None]], gold: Sequence[str]) -> Shuffled:
    """Return what answers to each question under each of its shuffles come to (None: nothing was read)."""
    if len(answers) != len(gold) or not all(answers):
        raise ValueError(f"shuffled: {len(answers)} groups of answers for {len(gold)} questions, each needs one")
    pairs = list(zip(answers, gold, strict=True))
    return Shuffled(
        float(np.mean([np.mean([a == key for a in group]) for group, key in pairs])),
        float(np.mean([all(a == key for a in group) for group, key in pairs])),
        float(np.mean([group[0] is not None and len(set(group)) == 1 for group, _ in pairs])),
    )
