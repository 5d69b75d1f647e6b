"""Intervals and tests, against scipy and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from earwitness.statistics.differences import (
    cluster_permutation,
    detectable_difference,
    holm,
    mcnemar,
    paired_bootstrap,
)
from earwitness.statistics.intervals import bootstrap_interval, t_interval, t_quantile, wilson_interval
from earwitness.statistics.repeated import pass_at, repeated, rotations, shuffled


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


def test_wilson_has_its_known_values() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert wilson_interval(0, 5)[0] == 0 and wilson_interval(5, 5)[1] == 1


def test_wilson_equals_scipys_and_stays_within_bounds() -> None:
    stats = pytest.importorskip("scipy.stats")
    for correct, n in ((0, 5), (5, 5), (8, 10), (660, 1000)):
        expected = stats.binomtest(correct, n).proportion_ci(method="wilson")
        assert wilson_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    with pytest.raises(ValueError, match="n > 0"):
        wilson_interval(0, 0)


def test_holm_is_bonferroni_for_the_smallest_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_paired_interval_is_of_b_minus_a_and_drawn_by_clip() -> None:
    rng = np.random.default_rng(5)
    a = rng.random(400) < 0.5
    b = a | (rng.random(400) < 0.2)
    low, high = paired_bootstrap(a, b, range(400))
    assert 0 < low < (b.mean() - a.mean()) < high
    assert paired_bootstrap(b, a, range(400)) == pytest.approx((-high, -low))
    shared = paired_bootstrap(np.repeat(a[:40], 10), np.repeat(b[:40], 10), np.repeat(np.arange(40), 10).tolist())
    assert shared[1] - shared[0] > 2 * (high - low)


def test_the_detectable_difference_is_detected_four_times_in_five() -> None:
    assert detectable_difference(1000, 0.2) == pytest.approx(0.04, abs=0.001)
    rng = np.random.default_rng(0)
    n, discordance = 1000, 0.2
    d = detectable_difference(n, discordance)
    found = 0
    for _ in range(400):
        draw = rng.random(n)
        a, b = draw < (discordance - d) / 2, (draw >= (discordance - d) / 2) & (draw < discordance)
        found += mcnemar(a, b)[2] < 0.05
    assert found / 400 == pytest.approx(0.8, abs=0.08)


def test_pass_at_k_is_unbiased_and_no_accuracy() -> None:
    assert pass_at(1, 3, 10) == pytest.approx(0.3)
    assert pass_at(10, 1, 10) == 1.0
    assert pass_at(2, 1, 4) == pytest.approx(0.5)


def test_repeated_answers_are_averaged_voted_on_and_an_even_vote_is_lost() -> None:
    said = [["a", "a", None], ["b", "c", "c"], [None, None, "c"]]
    found = repeated(said, ["a", "b", "c"])
    assert (found.k, found.average, found.majority, found.passed) == (3, pytest.approx(4 / 9), pytest.approx(1 / 3), 1)
    assert repeated([["a", "b"]], ["a"]).majority == 0
    with pytest.raises(ValueError, match="groups"):
        repeated([["a"], ["a", "b"]], ["a", "b"])


def test_shuffled_choices_tell_knowing_from_a_liking_for_the_first() -> None:
    assert rotations(("x", "y", "z")) == [("x", "y", "z"), ("y", "z", "x"), ("z", "x", "y")]
    knows, likes_first, never_answers = ["x", "x", "x"], ["x", "y", "z"], [None, None, None]
    found = shuffled([knows, likes_first, never_answers], ["x", "x", "x"])
    assert (found.average, found.always, found.consistent) == pytest.approx((4 / 9, 1 / 3, 1 / 3))
