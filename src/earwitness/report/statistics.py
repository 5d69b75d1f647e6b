"""The statistics of an exam: intervals and tests that respect that several questions share a clip.

Everything is deterministic for a given seed. Outcomes are 0/1 (or means over training seeds) per question.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BLOCK = 2_000_000  # random draws held at a time: bounds memory, and is fixed so that results do not depend on it


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
    index, count = _numbered(clusters, values.shape[1:])
    sums = np.stack([np.bincount(index, weights=row, minlength=count) for row in values], axis=1)
    sizes = np.bincount(index, minlength=count).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = []
    for block in _blocks(rounds, count):
        drawn = rng.integers(0, count, size=(block, count)) + np.arange(block)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=block * count).reshape(block, count).astype(np.float64)
        means.append((times @ sums) / (times @ sizes)[:, None])
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def mcnemar(a: ArrayLike, b: ArrayLike) -> tuple[int, int, float]:
    """Return (questions only `a` has right, only `b` has right, exact two-sided p) for outcomes (n,) of two systems.

    McNemar's test in its exact form: of the discordant pairs, each side's share is Binomial(m, 1/2) under the null;
    p = min(1, 2 P(X <= smaller side)). Fay, Biostatistics 11 (2010), 373-374.
    """
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"mcnemar: both outcomes must be (n,), not {first.shape} and {second.shape}")
    a_only, b_only = int((first & ~second).sum()), int((second & ~first).sum())
    return a_only, b_only, _binomial_two_sided(min(a_only, b_only), a_only + b_only)


def _binomial_two_sided(k: int, m: int) -> float:
    """Return min(1, 2 P(X <= k)) for X ~ Binomial(m, 1/2), k <= m/2, in whole numbers until the last division."""
    term = total = 1
    for i in range(1, k + 1):
        term = term * (m - i + 1) // i
        total += term
    return min(1.0, float(2 * total / 2**m))


def cluster_permutation(
    a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable], rounds: int = 10000, seed: int = 0
) -> float:
    """Return the two-sided p of the difference between outcomes `a` and `b`, each (n,) or (seeds, n).

    Under the null the two systems can be exchanged on a clip, so the sign of each clip's summed difference is flipped
    at random; p = (1 + hits) / (1 + rounds), which is never 0 (Phipson and Smyth, SAGMB 9 (2010), article 39).
    With several seeds the difference is summed over them: the trained models are taken as they are.
    """
    first, second = np.atleast_2d(np.asarray(a, dtype=np.int64)), np.atleast_2d(np.asarray(b, dtype=np.int64))
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"cluster_permutation: {first.shape[1]} questions against {second.shape[1]}")
    difference = (first - second).sum(axis=0)
    index, count = _numbered(clusters, difference.shape)
    per_clip = np.bincount(index, weights=difference, minlength=count)  # whole numbers, exact in float64
    per_clip = per_clip[per_clip != 0]
    observed = abs(per_clip.sum())
    rng = np.random.default_rng(seed)
    hits = 0
    for block in _blocks(rounds, max(len(per_clip), 1)):
        signs = rng.integers(0, 2, size=(block, len(per_clip)), dtype=np.int8) * 2.0 - 1.0
        hits += int((np.abs(signs @ per_clip) >= observed).sum())
    return (1 + hits) / (1 + rounds)


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


def _numbered(clusters: Sequence[Hashable], shape: tuple[int, ...]) -> tuple[NDArray[np.int64], int]:
    """Return (cluster number of each question, how many clusters), numbered by first appearance."""
    if (len(clusters),) != tuple(shape):
        raise ValueError(f"clusters: {len(clusters)} names for outcomes of shape {shape}; give one clip per question")
    numbers: dict[Any, int] = {}
    index = np.fromiter((numbers.setdefault(c, len(numbers)) for c in clusters), dtype=np.int64, count=len(clusters))
    return index, len(numbers)


def _blocks(rounds: int, width: int) -> list[int]:
    """Split `rounds` into blocks of at most `_BLOCK` draws of `width` numbers each."""
    size = max(1, _BLOCK // width)
    return [min(size, rounds - done) for done in range(0, rounds, size)]
