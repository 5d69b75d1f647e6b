"""Intervals and tests, against scipy and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from earwitness.report.statistics import bootstrap_interval, cluster_permutation, mcnemar, t_interval, t_quantile


def test_mcnemar_counts_and_equals_the_exact_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n in (1, 7, 40, 3000):
        a, b = rng.random((2, n)) < np.array([[0.6], [0.5]])
        a_only, b_only, p = mcnemar(a, b)
        assert (a_only, b_only) == ((a & ~b).sum(), (~a & b).sum())
        expected = stats.binomtest(a_only, a_only + b_only).pvalue if a_only + b_only else 1.0
        assert p == pytest.approx(expected, rel=1e-9)
    assert mcnemar([1, 0], [1, 0]) == (0, 0, 1.0)
    assert mcnemar([1] * 10, [0] * 10) == (10, 0, 2 / 2**10)


def test_t_quantiles_and_intervals_equal_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 4, 5, 9, 30, 101):
        assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
    values = [0.4, 0.43, 0.5]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert t_interval(values) == pytest.approx(expected)
    assert t_interval([0.4]) is None


def test_bootstrap_of_single_questions_is_near_the_normal_interval_and_repeats_itself() -> None:
    correct = np.arange(1000) % 10 < 4
    low, high = bootstrap_interval(correct, range(1000), seed=3)
    half = 1.96 * (0.4 * 0.6 / 1000) ** 0.5
    assert (low, high) == pytest.approx((0.4 - half, 0.4 + half), abs=0.006)
    assert bootstrap_interval(correct, range(1000), seed=3) == (low, high)
    assert bootstrap_interval(correct, range(1000), seed=4) != (low, high)


def test_questions_that_share_a_clip_widen_the_interval() -> None:
    correct = np.repeat(np.arange(100) % 2, 10)
    apart = bootstrap_interval(correct, range(1000))
    shared = bootstrap_interval(correct, np.repeat(np.arange(100), 10).tolist())
    assert shared[1] - shared[0] > 2.5 * (apart[1] - apart[0])


def test_permutation_agrees_with_mcnemar_on_clips_of_one_question() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 200)) < np.array([[0.5], [0.4]])
    assert cluster_permutation(a, b, range(200)) == pytest.approx(mcnemar(a, b)[2], abs=0.015)
    assert cluster_permutation(a, b, range(200)) == cluster_permutation(b, a, range(200))


def test_permutation_keeps_its_promise_where_mcnemar_would_not() -> None:
    rng = np.random.default_rng(2)
    clips = np.repeat(np.arange(30), 10)
    false_alarms_clustered = false_alarms_naive = 0
    for _ in range(150):
        a, b = (np.repeat(rng.random(30) < 0.5, 10) for _ in "ab")
        false_alarms_clustered += cluster_permutation(a, b, clips.tolist(), rounds=500) < 0.05
        false_alarms_naive += mcnemar(a, b)[2] < 0.05
    assert false_alarms_clustered / 150 < 0.1 < false_alarms_naive / 150


def test_permutation_pools_seeds_broadcasts_an_untrained_arm_and_never_says_zero() -> None:
    base = np.zeros(50, dtype=int)
    trained = np.ones((3, 50), dtype=int)
    assert cluster_permutation(trained, base, range(50), rounds=999) == 1 / 1000
    assert cluster_permutation(base, base, range(50), rounds=999) == 1.0
    mixed = np.vstack([base, np.ones(50, dtype=int)])
    assert cluster_permutation(mixed, mixed[::-1], range(50)) == 1.0


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one clip per question"):
        bootstrap_interval([1, 0], ["a"])
    with pytest.raises(ValueError, match="n > 0"):
        bootstrap_interval([], [])
    with pytest.raises(ValueError, match="questions against"):
        cluster_permutation([1, 0], [1], ["a", "b"])
    with pytest.raises(ValueError, match="mcnemar"):
        mcnemar([1, 0], [1])
    with pytest.raises(ValueError, match="freedom"):
        t_quantile(0.975, 0)
