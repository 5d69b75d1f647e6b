"""How sure an accuracy is: intervals that respect that several questions share a clip.

Everything is deterministic for a given seed. Outcomes are 0/1 (or means over training seeds) per question.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from earwitness.statistics.clips import blocks, numbered

Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def bootstrap_interval(
    correct: ArrayLike, clusters: Sequence[Hashable], rounds: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of `correct` (n,), drawing whole clips (`clusters`, n names).

    The clustered bootstrap: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8. Each
    resample's mean is over the questions drawn, so clips with more questions weigh more, as they do in the accuracy.
    """
    return bootstrap_intervals([correct], clusters, rounds, seed)[0]


def bootstrap_intervals(
    outcomes: Sequence[ArrayLike], clusters: Sequence[Hashable], rounds: int = 2000, seed: int = 0
) -> list[tuple[float, float]]:
    """Return `bootstrap_interval` of each of several outcomes (n,) on the same questions, drawing the clips once."""
    values = np.asarray(outcomes, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"bootstrap_intervals: every outcome must be (n,) with n > 0, not {values.shape[1:]}")
    index, count = numbered(clusters, values.shape[1:])
    sums = np.stack([np.bincount(index, weights=row, minlength=count) for row in values], axis=1)
    sizes = np.bincount(index, minlength=count).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = []
    for block in blocks(rounds, count):
        drawn = rng.integers(0, count, size=(block, count)) + np.arange(block)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=block * count).reshape(block, count).astype(np.float64)
        means.append((times @ sums) / (times @ sizes)[:, None])
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of n independent questions (JASA 22 (1927), 209-212).

    It knows nothing of clips: where several questions share one it is too narrow, and the bootstrap is to be believed.
    """
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"wilson_interval: needs 0 <= correct <= n and n > 0, not {correct} of {n}")
    share, square = correct / n, Z**2 / n
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def t_interval(values: ArrayLike) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of a few independent values by Student's t; None for fewer than two."""
    x = np.asarray(values, dtype=np.float64)
    if x.size < 2:
        return None
    half = t_quantile(0.975, x.size - 1) * float(x.std(ddof=1)) / math.sqrt(x.size)
    return float(x.mean()) - half, float(x.mean()) + half


def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t with whole degrees of freedom, for a probability in (1/2, 1), by bisection."""
    if freedom < 1 or not 0.5 < probability < 1:
        raise ValueError(f"t_quantile: needs freedom >= 1 and 1/2 < p < 1, not {freedom} and {probability}")
    low, high = 0.0, 1.0
    while _within(high, freedom) < 2 * probability - 1:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 2 * probability - 1 else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """Return P(|T| <= t): Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for i in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (i - 1) / i
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + math.sin(angle) * total)
