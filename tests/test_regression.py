"""Linear regression as a setting: least squares, ToEdit's editing matrix, and the expected errors of each workflow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hf_toedit.collapse import (
    Accumulate,
    AccumulateSubsample,
    GrowingReplace,
    LinearRegression,
    Mixture,
    RecentModels,
    Replace,
    ToEdit,
    least_squares_error,
    mixture_inflation,
    overlapping_inflation,
    simulate,
)
from hf_toedit.collapse.generations import first_generation, next_generation, rng_of
from hf_toedit.errors import ConfigError

SETTING = LinearRegression(dimensions=3, noise_variance=0.5)


def drawn(setting, runs, n, seed=0):
    truth = setting.truth(runs, n, rng_of(seed))
    return truth, setting.sample(truth, n, rng_of(seed, 1))


# least squares


@pytest.mark.parametrize(("dimensions", "n"), [(1, 1), (3, 40), (5, 5), (8, 3)])
def test_weights_are_those_of_lstsq(dimensions, n):
    setting = LinearRegression(dimensions)
    truth, rows = drawn(setting, 4, n)
    for fitted in (truth, drawn(setting, 4, n + 1)[0]):  # rows whose pseudo-inverse is known, and others
        model = setting.fit(rows, fitted)
        for run, table in enumerate(rows):
            expected = np.linalg.lstsq(table[:, :-1], table[:, -1], rcond=None)[0]
            np.testing.assert_allclose(model.weights_RD[run], expected, rtol=1e-8)


def test_repeated_rows_can_leave_fewer_than_dimensions():
    truth, rows = drawn(LinearRegression(6), 3, 10)
    repeated = rows[:, [0, 1, 2, 0, 1, 2, 0, 0, 1]]
    model = LinearRegression(6).fit(repeated, truth)
    for run, table in enumerate(repeated):
        expected = np.linalg.lstsq(table[:, :-1], table[:, -1], rcond=None)[0]
        np.testing.assert_allclose(model.weights_RD[run], expected, rtol=1e-8)


def test_merged_models_are_fitted_to_all_rows():
    truth, rows = drawn(SETTING, 4, 20)
    others = [SETTING.sample(truth, 20, rng_of(number)) for number in (5, 6)]
    model = SETTING.fit(rows, truth)
    for other in others:
        model = SETTING.merge(model, SETTING.fit(other, truth))
    at_once = SETTING.fit(SETTING.pool([rows, *others]), truth)
    np.testing.assert_allclose(model.weights_RD, at_once.weights_RD, rtol=1e-10)
    assert model.num_rows == at_once.num_rows == 60


def test_labels_are_noisy_predictions_on_the_same_inputs():
    truth, rows = drawn(SETTING, 500, 40)
    model = SETTING.fit(rows, truth)
    again = SETTING.sample(model, 40, rng_of(9))
    assert np.array_equal(again[..., :-1], rows[..., :-1])
    noise = again[..., -1] - np.einsum("rnd,rd->rn", again[..., :-1], model.weights_RD)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.var() == pytest.approx(0.5, rel=0.05)


# ToEdit's editing matrix


@pytest.mark.parametrize(
    "workflow",
    [
        pytest.param(ToEdit(share=0.2), id="disjoint"),
        pytest.param(ToEdit(share=0.4), id="disjoint, then once more from the start"),
        pytest.param(ToEdit(share=0.3, overlapping=True), id="overlapping"),
        pytest.param(ToEdit(share=0.5, decay=0.5), id="disjoint and decaying"),
        pytest.param(ToEdit(share=0.5, decay=0.7, overlapping=True), id="overlapping and decaying"),
    ],
)
def test_editing_is_the_editing_matrix(workflow):
    """Y~_n = M Yhat_n + (1 - M) Y~_{n-1} with an explicit diagonal M and the same random numbers, one run at a time."""
    runs, n, edits = 3, 20, 4
    truth = SETTING.truth(runs, n, rng_of(0))
    state = first_generation(SETTING, truth, n, rng_of(1))
    labels = [state.history[-1][run, :, -1] for run in range(runs)]
    edited_before = np.zeros((runs, n))
    start = 0
    for number in range(1, edits + 1):
        state = next_generation(SETTING, workflow, state, truth, n, rng_of(1, number))
        rng = rng_of(1, number)
        num_edited = round(workflow.share * workflow.decay ** (number - 1) * n)
        order = rng.random((runs, n)).argsort(axis=1) if workflow.overlapping else None
        noise = np.sqrt(SETTING.noise_variance) * rng.standard_normal((runs, n, 1))[..., 0]
        for run in range(runs):
            design = truth.design_RTD[run]
            weights = np.linalg.lstsq(design, labels[run], rcond=None)[0]
            chosen = [(start + i) % n for i in range(num_edited)] if order is None else order[run] < num_edited
            editing = np.zeros((n, n))
            editing[np.diag_indices(n)] = np.isin(np.arange(n), chosen) if order is None else chosen
            assert np.trace(editing) == num_edited
            labels[run] = editing @ (design @ weights + noise[run]) + (np.eye(n) - editing) @ labels[run]
            np.testing.assert_allclose(state.history[-1][run, :, -1], labels[run], rtol=1e-9)
            edited_before[run] += np.diag(editing)
        start += num_edited
    if not workflow.overlapping:
        assert edited_before.max() - edited_before.min() <= 1, "no row again before all others"


# expected errors

WHOLE = [Replace(), GrowingReplace(), Accumulate(), Mixture(), ToEdit(share=0.25), ToEdit(share=0.25, overlapping=True)]
SAMPLED = [AccumulateSubsample(), Mixture(synthetic_share=0.4), RecentModels(window=3), RecentModels(window=8)]


def assert_within_the_band(simulation, cells):
    """All generations at once, in all cells of a grid: the chance that one is outside is 1%."""
    expected = simulation.expected_G["test_error"]
    _, low, high = simulation.interval("test_error", 1 - 0.01 / (cells * len(expected)))
    known = ~np.isnan(expected)
    assert known[:2].all()
    assert np.all((low <= expected) & (expected <= high) | ~known), (low, expected, high)


@pytest.mark.parametrize(("dimensions", "n"), [(1, 30), (2, 100), (4, 12), (9, 4)], ids=str)
@pytest.mark.parametrize("workflow", WHOLE, ids=str)
def test_expected_errors_at_any_number_of_rows(workflow, dimensions, n):
    """The band of all cells and generations is 6% to 14% wide on either side, widest for d = 1."""
    simulation = simulate(LinearRegression(dimensions, 2.0), workflow, n=n, generations=5, runs=2000)
    assert_within_the_band(simulation, len(WHOLE) * 4)


@pytest.mark.parametrize("workflow", SAMPLED, ids=str)
def test_expected_errors_of_drawn_rows(workflow):
    """The band is 10% wide on either side."""
    simulation = simulate(LinearRegression(3), workflow, n=240, generations=8, runs=1000)
    assert_within_the_band(simulation, len(SAMPLED))


class EditedAnew(ToEdit):
    """Edit the real rows each time, not those that were edited before."""

    def synthesize(self, setting, model, history, n, number, rng):
        return setting.edit(history[0], model, self.share, None, rng)

    def kept(self, history):
        return [history[0], history[-1]]


def test_editing_the_real_rows_anew_is_a_mixture():
    """1 + f (2-f)/(1-f^2) however often, as the docs advise; editing what was edited is far above after 7 edits."""
    unit = least_squares_error(400, 10)
    simulation = simulate(LinearRegression(10), EditedAnew(share=0.125), n=400, generations=8, runs=600)
    _, low, high = simulation.interval("test_error", 1 - 0.01 / 8)
    expected = unit * mixture_inflation(0.125, 8)
    assert np.all((low <= expected) & (expected <= high))
    assert expected[-1] / unit == pytest.approx(1.238, abs=1e-3)
    assert high[-1] < unit * overlapping_inflation([0.125] * 7)[-1] / 2


def test_no_expected_error_where_none_is_known():
    few = simulate(LinearRegression(3), AccumulateSubsample(), n=60, generations=2, runs=2)
    assert few.expected_G == {}
    twice = simulate(LinearRegression(3), ToEdit(share=0.5), n=60, generations=5, runs=2)
    assert np.isnan(twice.expected_G["test_error"]).tolist() == [False] * 3 + [True] * 2


def test_close_to_as_many_rows_as_dimensions_the_expected_error_is_infinite():
    for n in (4, 5, 6):
        found = simulate(LinearRegression(5), Replace(), n=n, generations=2, runs=2)
        assert np.isinf(found.expected_G["test_error"]).all()


@pytest.mark.parametrize("dimensions", [1, 10])
@pytest.mark.parametrize("n", [32, 100])
def test_accumulating_beats_drawing_from_all_beats_replacing(dimensions, n):
    errors = [
        simulate(LinearRegression(dimensions), workflow, n=n, generations=30, runs=100).values_RG["test_error"][:, -1]
        for workflow in (Accumulate(), AccumulateSubsample(), Replace())
    ]
    means = [values.mean() for values in errors]
    assert means[0] < means[1] < means[2]


# bad values


@pytest.mark.parametrize(
    ("change", "message"),
    [({"dimensions": 0}, "dimensions=0 must be 1 or more"), ({"noise_variance": 0.0}, "noise_variance=0.0 must be")],
)
def test_bad_values(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SETTING, **change)


def test_the_rows_must_be_as_many_as_the_real_ones():
    with pytest.raises(ConfigError, match="n=10 must equal num_real=20"):
        simulate(SETTING, Replace(), n=10, num_real=20, generations=2)


def test_rows_must_reach_for_each_recent_model():
    with pytest.raises(ConfigError, match="n=5 rows can't come from 6 generations: lower window"):
        simulate(SETTING, RecentModels(window=9), n=5, generations=9, runs=2)
