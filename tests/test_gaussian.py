"""Gaussians, generation after generation: closed forms against simulation, and models against numpy.

A mean over runs has to be within z standard errors of the closed form, in all cells at once with 99% confidence
(Bonferroni). The wrong forms beside them are off by far more: how many standard errors, each test says.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hf_toedit.collapse import (
    Accumulate,
    AccumulateSubsample,
    Gaussian,
    GrowingReplace,
    Mixture,
    RecentModels,
    Replace,
    ToEdit,
    accumulate_variance,
    accumulate_variance_limit,
    replace_variance,
    simulate,
    subsample_variance,
    subsample_variance_limit,
    toedit_variance,
)
from hf_toedit.collapse.gaussian import GaussianModel
from hf_toedit.collapse.gaussian_theory import moments
from hf_toedit.errors import ConfigError

WORKFLOWS = [
    Replace(),
    GrowingReplace(),
    Accumulate(),
    AccumulateSubsample(),
    Mixture(),
    Mixture(synthetic_share=0.5),
    RecentModels(window=2),
    ToEdit(share=0.3),
    ToEdit(share=0.3, overlapping=True),
    ToEdit(share=0.5, decay=0.8),
    ToEdit(share=0.3, anew=True),
]


def band(num_cells):
    return stats.norm.ppf(1 - 0.01 / num_cells / 2)


def errors_off(simulation, measure, expected_G):
    """By how many standard errors the means are off, generation by generation."""
    values_RG = simulation.values_RG[measure]
    return np.abs(values_RG.mean(axis=0) - expected_G) / (values_RG.std(axis=0) / np.sqrt(len(values_RG)))


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("workflow", WORKFLOWS, ids=repr)
def test_the_exact_moments_are_those_of_simulation(workflow, unbiased):
    """In every cell of a grid of dimensions, rows and generations. Power: see the next tests."""
    cells = [(1, 4, 4), (3, 6, 6), (2, 5, 9)] if isinstance(workflow, ToEdit) else [(1, 6, 4), (3, 4, 6), (2, 5, 9)]
    for dimensions, n, num_real in cells:
        setting = Gaussian(dimensions, unbiased)
        found = simulate(setting, workflow, n=n, num_real=num_real, generations=4, runs=1500, seed=dimensions)
        for measure in ("squared_error", "trace_ratio"):
            assert (
                errors_off(found, measure, found.expected_G[measure]) < band(2 * 2 * len(WORKFLOWS) * 3 * 4)
            ).all(), measure


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("workflow", WORKFLOWS, ids=repr)
def test_a_single_row_has_no_variance(workflow, unbiased):
    found = simulate(Gaussian(1, unbiased), workflow, n=2, num_real=1, generations=3, runs=4)
    assert found.expected_G["trace_ratio"].tolist() == [0, 0, 0]
    assert found.values_RG["trace_ratio"].max() < 1e-12
    assert found.expected_G["squared_error"].tolist() == [1, 1, 1]


def test_forms_with_one_row_are_zero():
    for form in (replace_variance, accumulate_variance, subsample_variance):
        np.testing.assert_allclose(form(1, np.arange(1, 6)), 0, atol=1e-15)
    np.testing.assert_allclose(subsample_variance([1, 2], 2), [0, 7 / 24])


def test_forms_that_are_off_by_a_term_fall_outside():
    """Kazdan et al.'s product with a term more or less, with 1/(n i) for 1/(n i^2), and the others' like."""
    n, generations = 10, 8
    g = np.arange(1, generations + 1)
    right = {
        Replace(): replace_variance(n, g),
        Accumulate(): accumulate_variance(n, g),
        AccumulateSubsample(): subsample_variance(n, g),
        ToEdit(share=0.3, overlapping=True): toedit_variance(n, [0.3] * (generations - 1)),
    }
    wrong = {
        Replace(): [replace_variance(n, g - 1), replace_variance(n, g, unbiased=True)],
        Accumulate(): [
            accumulate_variance(n, g - 1),
            np.cumprod(1 - 1 / (n * g)),
            accumulate_variance_limit(n) + 0 * g,
        ],
        AccumulateSubsample(): [accumulate_variance(n, g), subsample_variance(n, g + 1), replace_variance(n, g)],
        ToEdit(share=0.3, overlapping=True): [(1 - 1 / n) * (1 - 0.3 / n) ** (g - 1), replace_variance(n, g)],
    }
    for workflow, expected_G in right.items():
        found = simulate(Gaussian(10), workflow, n=n, generations=generations, runs=1500)
        assert (errors_off(found, "trace_ratio", expected_G) < band(4 * generations)).all(), workflow
        assert np.allclose(found.expected_G["trace_ratio"], expected_G)
        for other_G in wrong[workflow]:
            assert errors_off(found, "trace_ratio", other_G).max() > 10, workflow


@pytest.mark.parametrize("workflow", [Replace(), Accumulate()], ids=repr)
@pytest.mark.parametrize("unbiased", [False, True])
def test_the_expected_determinant(workflow, unbiased):
    """The determinant is skewed: few generations, many runs. A generation more or less is off by over 10."""
    for dimensions, n, num_real in [(1, 5, 8), (3, 20, 20), (5, 30, 25)]:
        setting = Gaussian(dimensions, unbiased)
        found = simulate(setting, workflow, n=n, num_real=num_real, generations=3, runs=4000, seed=n)
        expected_G = found.expected_G["determinant_ratio"]
        assert (errors_off(found, "determinant_ratio", expected_G) < band(2 * 2 * 3 * 3)).all()
        if dimensions > 1 and not (unbiased and isinstance(workflow, Accumulate)):
            assert errors_off(found, "determinant_ratio", np.append(1.0, expected_G[:-1])).max() > 10


def test_closed_forms_equal_the_exact_moments_and_tend_to_their_limits():
    generations = 2000
    g = np.arange(1, generations + 1)
    for n in (2, 10, 1000):
        for workflow, form in ((Accumulate(), accumulate_variance), (AccumulateSubsample(), subsample_variance)):
            assert np.allclose(moments(workflow, n, n, 60).variance_G, form(n, g[:60]), rtol=1e-12)
        assert accumulate_variance(n, g) == pytest.approx(np.cumprod(1 - 1 / (n * g.astype(float) ** 2)), rel=1e-9)
        assert accumulate_variance(n, 10**6) == pytest.approx(accumulate_variance_limit(n), rel=1e-5)
        assert subsample_variance(n, 10**6) == pytest.approx(subsample_variance_limit(n), rel=1e-5)
    assert accumulate_variance_limit([10, 32, 100, 1000]) == pytest.approx([0.843, 0.949, 0.984, 0.998], abs=5e-4)
    assert 1e8 * (1 - subsample_variance_limit(1e8)) == pytest.approx(np.pi**2 / 2 - 2, rel=1e-3)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=repr)
def test_what_the_variance_loses_the_mean_gains(workflow):
    """With 1/n, they add up to the true variance in each generation, under each workflow."""
    exact = moments(workflow, 12, 12, 30)
    assert exact.variance_G + exact.square_G == pytest.approx(np.ones(30), rel=1e-12)


def test_models_are_numpys():
    rng = np.random.default_rng(0)
    rows = rng.normal(3, 2, (4, 30, 5))
    for unbiased in (False, True):
        setting = Gaussian(5, unbiased)
        truth = setting.truth(4, 30, rng)
        model = setting.fit(rows, truth)
        distances = setting.distance(model, truth, model)
        for run in range(4):
            covariance = np.cov(rows[run], rowvar=False, bias=not unbiased)
            assert distances["squared_error"][run] == pytest.approx((rows[run].mean(axis=0) ** 2).sum())
            assert distances["trace_ratio"][run] == pytest.approx(np.trace(covariance) / 5)
            assert distances["determinant_ratio"][run] == pytest.approx(np.linalg.det(covariance))
            assert np.cov(setting.sample(model, 20_000, rng)[run].T) == pytest.approx(covariance, abs=0.5)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 40), (25, 8)])
def test_merge_equals_the_fit_of_pooled_rows(sizes):
    rng = np.random.default_rng(1)
    setting = Gaussian(3)
    truth = setting.truth(2, 1, rng)
    parts = [rng.normal(i, 1 + i, (2, n, 3)) for i, n in enumerate(sizes)]
    merged = setting.merge(*(setting.fit(rows, truth) for rows in parts))
    whole = setting.fit(setting.pool(parts), truth)
    assert merged.num_rows == whole.num_rows
    assert merged.mean_RD == pytest.approx(whole.mean_RD)
    assert merged.covariance_RDD == pytest.approx(whole.covariance_RDD)


def numpy_loop(workflow, dimensions, n, generations, rng):
    """Kazdan et al.'s algorithm for one run, step by step: squared error and trace of the last generation."""
    rows = rng.multivariate_normal(np.zeros(dimensions), np.eye(dimensions), n)
    for _ in range(generations):
        chosen = rows[rng.choice(len(rows), n, replace=False)] if workflow == AccumulateSubsample() else rows
        mean, covariance = chosen.mean(axis=0), np.cov(chosen, rowvar=False, bias=True)
        new = rng.multivariate_normal(mean, covariance, n)
        rows = new if workflow == Replace() else np.concatenate([rows, new])
    return (mean**2).sum(), np.trace(covariance) / dimensions


@pytest.mark.parametrize("workflow", [Replace(), Accumulate(), AccumulateSubsample()], ids=repr)
def test_it_is_kazdans_algorithm_in_distribution(workflow):
    """Two-sample Kolmogorov-Smirnov, at 1% over all six. A generation less is found out."""
    rng = np.random.default_rng(2)
    loop = np.array([numpy_loop(workflow, 3, 6, 6, rng) for _ in range(600)]).T
    found = simulate(Gaussian(3), workflow, n=6, generations=6, runs=3000, seed=3).values_RG
    for measure, values in zip(("squared_error", "trace_ratio"), loop, strict=True):
        assert stats.ks_2samp(values, found[measure][:, -1]).pvalue > 0.01 / 6
    assert stats.ks_2samp(loop[1], found["trace_ratio"][:, 0]).pvalue < 1e-6


def test_lost_directions_stay_lost_and_nothing_is_added():
    """Fewer rows than dimensions, and runs that have collapsed: samples stay in the span of the rows."""
    rng = np.random.default_rng(4)
    setting = Gaussian(20)
    truth = setting.truth(3, 5, rng)
    rows = setting.sample(truth, 5, rng)
    model = setting.fit(rows, truth)
    assert (setting.distance(model, truth, model)["determinant_ratio"] == 0).all()
    for run, sampled in enumerate(setting.sample(model, 50, rng)):
        span = np.linalg.svd(rows[run] - rows[run].mean(axis=0))[2][:4]
        off = sampled - rows[run].mean(axis=0)
        assert np.abs(off - off @ span.T @ span).max() < 1e-6
    found = simulate(setting, Replace(), n=5, generations=400, runs=20)
    assert found.values_RG["trace_ratio"][:, -1].max() < 1e-12
    assert simulate(Gaussian(1), Replace(), n=1, generations=3, runs=2).values_RG["trace_ratio"].max() == 0
    constant = GaussianModel(np.ones((1, 2)), np.zeros((1, 2, 2)), 7)
    assert (setting.sample(constant, 3, rng) == 1).all()


def test_bad_dimensions():
    with pytest.raises(ConfigError, match="dimensions=0 must be 1 or more"):
        Gaussian(0)


def test_accumulate_drifts_least_and_replace_most_at_every_cell():
    for n in (2, 10, 32, 1000):
        squares = [
            moments(workflow, n, n, 200).square_G for workflow in (Accumulate(), AccumulateSubsample(), Replace())
        ]
        assert (np.diff(squares, axis=0)[:, 1:] > 0).all(), n
        assert np.ptp([square_G[0] for square_G in squares]) < 1e-12
