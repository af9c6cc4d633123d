"""Seddik's statistical language model: a discrete distribution for each context."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hf_toedit.collapse import AccumulateSubsample, Mixture, NextToken, RecentModels, Replace, ToEdit, simulate
from hf_toedit.collapse.categorical import Frequencies
from hf_toedit.errors import ConfigError


def test_each_context_has_n_rows_of_its_own():
    setting = NextToken(vocabulary=3, context_length=4)
    rng = np.random.default_rng(0)
    truth = setting.truth(2, 50, rng)
    assert truth.probability.shape == (2, 81, 3)  # Figure 1: s = 3, l = 4, c = 81
    assert (setting.sample(truth, 50, rng).sum(axis=-1) == 50).all()
    assert setting.fit(setting.sample(truth, 50, rng), truth).num_rows == 50


def test_measures_are_means_over_the_contexts():
    setting = NextToken(vocabulary=2, context_length=1)
    truth = Frequencies(np.array([[[0.5, 0.5], [0.75, 0.25]]]))
    model = setting.fit(np.array([[[4, 0], [1, 3]]]), truth)
    found = setting.distance(model, truth, truth)
    assert {measure: float(value[0]) for measure, value in found.items()} == pytest.approx(
        {
            "sum_squares": (1 + 10 / 16) / 2,
            "l1_truth": 1.0,
            "l1_first": 1.0,
            "collapsed": 0.5,
            "entropy": stats.entropy([1, 3]) / 2,
            "missing": 0.5,
        }
    )


@pytest.mark.parametrize("workflow", [Replace(), Mixture(), RecentModels(window=2), AccumulateSubsample()], ids=str)
def test_sum_squares_is_as_expected_over_contexts(workflow):
    """The truth is drawn anew for each run, with E S_0 = 2/(V + 1): the band holds for three generations at once."""
    found = simulate(NextToken(3, 2), workflow, n=20, generations=6, num_real=30, runs=300)
    low_G, high_G = found.interval("sum_squares", 1 - 0.01 / 3)[1:]
    for generation in (0, 2, 5):
        assert low_G[generation] <= found.expected_G["sum_squares"][generation] <= high_G[generation]
    assert (high_G - low_G)[-1] < 0.05


def test_without_a_share_only_what_the_model_is_almost_certain_of_is_edited():
    setting = NextToken(vocabulary=3, context_length=1, threshold=0.9)
    model = Frequencies(np.tile([[0.95, 0.05, 0.0], [0.89, 0.11, 0.0], [1.0, 0.0, 0.0]], (4000, 1, 1)))
    rows = np.tile([[95, 5, 0], [89, 11, 0], [100, 0, 0]], (4000, 1, 1))
    edited = setting.edit(rows, model, None, None, np.random.default_rng(0))
    assert (edited.sum(axis=-1) == 100).all()
    np.testing.assert_array_equal(edited[:, 1:], rows[:, 1:])  # below the threshold; and all rows alike
    resampled_R = edited[:, 0, 1] - 5  # of 95 eligible rows, those that were resampled to another token
    assert (resampled_R >= 0).all()
    assert stats.ttest_1samp(resampled_R, 95 * 0.05).pvalue > 0.001
    assert stats.kstest(resampled_R + np.random.default_rng(1).random(4000), binomial_spread).pvalue > 0.001


def test_a_token_exactly_at_the_threshold_is_edited():
    setting = NextToken(vocabulary=2, context_length=0, threshold=0.5)
    rows = np.tile([[40, 0]], (100, 1, 1))
    edited = setting.edit(rows, Frequencies(np.full((100, 1, 2), 0.5)), None, None, np.random.default_rng(0))
    assert 15 < edited[:, 0, 1].mean() < 25


def binomial_spread(value):
    """The distribution of a Binomial(95, 0.05) number plus a uniform one."""
    whole = np.floor(value)
    below = stats.binom.cdf(whole - 1, 95, 0.05)
    return below + (value - whole) * stats.binom.pmf(whole, 95, 0.05)


def test_toedit_by_threshold_hardly_changes_this_model_and_a_lower_threshold_does():
    found = {
        threshold: simulate(NextToken(threshold=threshold), ToEdit(), n=100, generations=15, runs=8)
        for threshold in (0.99, 0.5)
    }
    final = {threshold: simulation.values_RG["l1_first"][:, -1].mean() for threshold, simulation in found.items()}
    assert final[0.99] < 0.01 < 0.1 < final[0.5]
    assert found[0.99].expected_G == {}


def test_editing_by_threshold_flattens_and_then_stops():
    """The likeliest token goes from p to p^2, p^4, ... until it is below the threshold: here 0.95, 0.9025, 0.8145."""
    setting = NextToken(vocabulary=3, context_length=0, threshold=0.9)
    n, rng = 10_000, np.random.default_rng(0)
    rows = np.tile([[9500, 300, 200]], (50, 1, 1))
    truth = Frequencies(rows / n)
    top = []
    for number in range(1, 6):
        model = setting.fit(rows, truth)
        rows = ToEdit().synthesize(setting, model, [rows], n, number, rng)
        top.append(float(rows[:, 0, 0].mean() / n))
    np.testing.assert_allclose(top[:2], [0.95**2, 0.95**4], atol=0.01)
    assert top[1] == top[2] == top[4]
    np.testing.assert_allclose(rows[:, 0, 1].mean() / rows[:, 0, 2].mean(), 1.5, rtol=0.05)


def test_a_share_is_edited_as_in_all_settings_of_counts():
    found = simulate(NextToken(), ToEdit(share=0.2, overlapping=True), n=30, generations=4, runs=40)
    low_G, high_G = found.interval("sum_squares", 1 - 0.01 / 4)[1:]
    assert (low_G <= found.expected_G["sum_squares"]).all()
    assert (found.expected_G["sum_squares"] <= high_G).all()


@pytest.mark.parametrize(
    ("fields", "fix"),
    [
        ({"vocabulary": 1}, "vocabulary=1 must be 2 or more"),
        ({"context_length": -1}, "context_length=-1 must be 0 or more"),
        ({"threshold": 0.0}, "threshold=0.0 must be above 0 and at most 1"),
        ({"threshold": float("nan")}, "must be above 0"),
        ({"vocabulary": 1000, "context_length": 1000}, "lower one of them"),
    ],
)
def test_bad_fields_say_how_to_fix_them(fields, fix):
    with pytest.raises(ConfigError, match=fix) as found:
        NextToken(**fields)
    assert "\n" not in str(found.value)
