"""Whether two systems differ: paired tests and intervals, on the same questions, and several exams at once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from earwitness.statistics.clips import blocks, numbered
from earwitness.statistics.intervals import Z, bootstrap_interval

POWER = 0.8416212335729143  # the 80 % quantile of the normal distribution


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
    index, count = numbered(clusters, difference.shape)
    per_clip = np.bincount(index, weights=difference, minlength=count)  # whole numbers, exact in float64
    per_clip = per_clip[per_clip != 0]
    observed = abs(per_clip.sum())
    rng = np.random.default_rng(seed)
    hits = 0
    for block in blocks(rounds, max(len(per_clip), 1)):
        signs = rng.integers(0, 2, size=(block, len(per_clip)), dtype=np.int8) * 2.0 - 1.0
        hits += int((np.abs(signs @ per_clip) >= observed).sum())
    return (1 + hits) / (1 + rounds)


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable], rounds: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy of `b` minus that of `a`, each (n,), drawing whole clips for both."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired_bootstrap: outcomes of shape {first.shape} against {second.shape}")
    return bootstrap_interval(second - first, clusters, rounds, seed)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number by Holm's step-down method (Scand. J. Stat. 6 (1979), 65-70)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def detectable_difference(n: int, discordance: float) -> float:
    """Return the smallest true difference in accuracy that n paired questions show with 80 % power at p < 0.05.

    `discordance` is the share of questions that one system has right and the other wrong. Solves
    d sqrt(n) = z(97.5 %) sqrt(c) + z(80 %) sqrt(c - d^2) for d: Connor, Biometrics 43 (1987), 207-211.
    """
    if n < 1 or not 0 <= discordance <= 1:
        raise ValueError(f"detectable_difference: needs n > 0 and a share, not {n} and {discordance}")
    low, high = 0.0, discordance
    for _ in range(100):
        d = (low + high) / 2
        enough = d * math.sqrt(n) >= Z * math.sqrt(discordance) + POWER * math.sqrt(max(discordance - d * d, 0.0))
        low, high = (low, d) if enough else (d, high)
    return high
