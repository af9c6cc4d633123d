"""Intervals by resampling against simulation, brute force and scipy.

Shape suffixes: N rows, R resamples, G groups, W words.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom, bootstrap, norm, t

from hf_toedit.measure.frequencies import entropy, log_log_slope
from hf_toedit.measure.intervals import (
    jackknife_error,
    js_divergences,
    percentile_interval,
    resamples,
    scaled,
    shift_test,
    swaps,
    t_interval,
    weighted_quantile,
)

NUM_GROUPS = 32
ZIPF_W = 1 / np.arange(1, 1501)
ZIPF_W /= ZIPF_W.sum()


def within(hits, trials, low=0.93, high=0.98):
    """Whether a coverage is between these, up to what so many trials can tell: 99.9 %."""
    return binom.ppf(0.0005, trials, low) <= hits <= binom.ppf(0.9995, trials, high)


def counts_of(rng, num_rows=200, law_W=ZIPF_W):
    """The words of rows of a population: each row has a length, and a topic that makes some words more likely."""
    rows = []
    for _ in range(num_rows):
        topic_W = law_W * np.where(np.arange(len(law_W)) % 7 == rng.integers(7), 10, 1)
        rows.append(rng.multinomial(5 + rng.poisson(20), topic_W / topic_W.sum()))
    return np.array(rows)


def words_used(counts_W):
    return np.sort(counts_W[counts_W > 0])[::-1]


STATISTICS = {
    "distinct": lambda counts_W: np.count_nonzero(counts_W) / counts_W.sum(),
    "entropy": lambda counts_W: entropy(words_used(counts_W)),
    "zipf_slope": lambda counts_W: log_log_slope(words_used(counts_W)),
    "top_share": lambda counts_W: np.sort(counts_W)[-15:].sum() / counts_W.sum(),
}


def test_jackknife_intervals_cover_what_the_bootstrap_would_miss():
    rng = np.random.default_rng(0)
    values, errors = ({name: [] for name in STATISTICS} for _ in range(2))
    for _ in range(100):
        rows_NW = counts_of(rng)
        groups_GW = np.array([rows_NW[group::NUM_GROUPS].sum(axis=0) for group in range(NUM_GROUPS)])
        total_W = groups_GW.sum(axis=0)
        for name, statistic in STATISTICS.items():
            values[name].append(statistic(total_W))
            errors[name].append(jackknife_error(np.array([statistic(total_W - group_W) for group_W in groups_GW])))
    for name in STATISTICS:
        truth = np.mean(values[name])  # of datasets of this size
        intervals = [t_interval(*pair, 0.95, NUM_GROUPS) for pair in zip(values[name], errors[name], strict=True)]
        hits = sum(low <= truth <= high for low, high in intervals)
        assert within(hits, 100), (name, hits)
    # the plain bootstrap of the last dataset does not even contain its own figure
    drawn_RW = np.concatenate([weights_RN @ rows_NW for weights_RN in resamples(len(rows_NW), 200, rng)])
    drawn_R = np.array([STATISTICS["distinct"](drawn_W) for drawn_W in drawn_RW])
    assert percentile_interval(drawn_R, 0.95, len(rows_NW))[1] < STATISTICS["distinct"](total_W)


@pytest.mark.parametrize("num_rows", [20, 100])
def test_bootstrap_intervals_of_rates_and_quantiles_cover(num_rows):
    rng = np.random.default_rng(1)
    hits = np.zeros(2)
    for _ in range(400):
        tokens_N = 5 + rng.poisson(30, num_rows)
        sure_N = rng.binomial(tokens_N, rng.beta(2, 8, num_rows))  # 0.2 in the population
        value_N = np.sort(rng.normal(size=num_rows))
        rates, medians = [], []
        for weights_RN in resamples(num_rows, 500, rng):
            rates.append((weights_RN @ sure_N) / (weights_RN @ tokens_N))
            medians.append(weighted_quantile(value_N, weights_RN.cumsum(axis=1), 0.5))
        for i, (values, truth) in enumerate(((rates, 0.2), (medians, 0.0))):
            low, high = percentile_interval(np.concatenate(values), 0.95, num_rows)
            hits[i] += low <= truth <= high
    assert within(hits[0], 400, low=0.92)
    assert within(hits[1], 400, low=0.92, high=0.99)


def test_the_percentile_interval_equals_that_of_scipy():
    """Except for its widening, which many rows make invisible."""
    value_N = np.random.default_rng(2).gamma(2, size=5000)
    means = [weights_RN @ value_N / len(value_N) for weights_RN in resamples(5000, 3000, np.random.default_rng(3))]
    ours = percentile_interval(np.concatenate(means), 0.95, 5000)
    theirs = bootstrap((value_N,), np.mean, n_resamples=3000, batch=100, method="percentile", rng=4).confidence_interval
    assert ours == pytest.approx(theirs, rel=2e-3)


def test_the_percentile_interval_of_a_normal_figure_is_that_of_student():
    """With N - 1 degrees of freedom, and an error larger by the square root of N / (N - 1)."""
    value_R = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    for num_rows in (20, 50):
        expected = t.interval(0.95, num_rows - 1, scale=np.sqrt(num_rows / (num_rows - 1)))
        assert percentile_interval(value_R, 0.95, num_rows) == pytest.approx(expected, abs=2e-3)


def test_the_jackknife_interval_of_a_mean_is_that_of_student():
    value_G = np.random.default_rng(13).normal(size=32)
    error = jackknife_error((value_G.sum() - value_G) / 31)
    assert error == pytest.approx(value_G.std(ddof=1) / np.sqrt(32))
    assert t_interval(2.0, error, 0.9, 32) == pytest.approx(t.interval(0.9, 31, loc=2.0, scale=error))


def test_resamples_draw_as_many_rows_and_do_not_depend_on_the_portion(monkeypatch):
    drawn_RN = np.concatenate([*resamples(7, 1000, np.random.default_rng(5))])
    assert drawn_RN.shape == (1000, 7)
    assert (drawn_RN.sum(axis=1) == 7).all()
    assert drawn_RN.mean(axis=0) == pytest.approx(np.ones(7), abs=0.15)
    monkeypatch.setattr("hf_toedit.measure.intervals.CHUNK", 70)
    assert np.array_equal(np.concatenate([*resamples(7, 1000, np.random.default_rng(5))]), drawn_RN)


@pytest.mark.parametrize("level", [0.0, 0.37, 0.5, 0.95, 1.0])
def test_weighted_quantiles_equal_numpy_on_repeated_values(level):
    value_N = np.sort(np.random.default_rng(6).normal(size=9))
    [weights_RN] = resamples(9, 50, np.random.default_rng(7))
    expected = [np.quantile(np.repeat(value_N, weights_N), level) for weights_N in weights_RN]
    assert weighted_quantile(value_N, weights_RN.cumsum(axis=1), level) == pytest.approx(expected)


def test_js_divergences_equal_scipy():
    counts = np.random.default_rng(8).poisson(0.7, size=(2, 20, 50))
    expected = [jensenshannon(p_W, q_W, 2) ** 2 for p_W, q_W in zip(*counts, strict=True)]
    assert js_divergences(*counts) == pytest.approx(expected)


@pytest.mark.parametrize("paired", [True, False])
def test_the_shift_test_is_exact_without_a_shift_and_sees_one(paired):
    rng = np.random.default_rng(9)
    other_W = np.roll(ZIPF_W, 1)

    def p_value(law_W):
        a_GW = rng.multinomial(300, ZIPF_W, size=16)
        return shift_test(a_GW, rng.multinomial(300, law_W, size=16), rng, paired=paired, num_permutations=99)[
            "p_value"
        ]

    hits = sum(p_value(ZIPF_W) <= 0.1 for _ in range(100))
    assert binom.ppf(0.0005, 100, 0.1) <= hits <= binom.ppf(0.9995, 100, 0.1)
    assert p_value(other_W) == 0.01  # the smallest that 99 permutations can give


def test_equal_datasets_have_not_shifted():
    a_GW = np.random.default_rng(10).multinomial(300, ZIPF_W, size=16)
    for paired in (True, False):
        found = shift_test(a_GW, a_GW, np.random.default_rng(11), paired=paired, num_permutations=99)
        assert (found["js_divergence"], found["p_value"]) == (0, 1)


def test_paired_swaps_exchange_groups_with_their_pair():
    taken_R2G = swaps(5, 40, np.random.default_rng(12), paired=True)
    assert (taken_R2G[:, :5] + taken_R2G[:, 5:] == 1).all()
    assert (swaps(5, 40, np.random.default_rng(12), paired=False).sum(axis=1) == 5).all()


def test_few_rows_have_no_interval_and_a_sample_a_wider_one():
    assert np.isnan(percentile_interval(np.ones(10), 0.95, 19)).all()
    assert np.isnan(t_interval(1.0, jackknife_error(np.ones(19)), 0.95, 19)).all()
    assert scaled((0.0, 4.0), 2.0, 10.0, 0.25) == (9.0, 11.0)
