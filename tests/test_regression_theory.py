"""The closed forms for linear regression: against explicit covariances, simulation, and what the paper prints."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_toedit.collapse import (
    ACCUMULATE_LIMIT,
    BOUND_AS_PRINTED,
    BOUND_FAILS_AT,
    SUBSAMPLE_LIMIT,
    AccumulateSubsample,
    LinearRegression,
    Mixture,
    Replace,
    ToEdit,
    accumulate_inflation,
    decay_bound_as_printed,
    disjoint_inflation,
    disjoint_limit,
    growing_replace_inflation,
    least_squares_error,
    many_small_edits_inflation,
    mixture_inflation,
    one_edit_inflation,
    overlapping_inflation,
    overlapping_limit,
    replace_inflation,
    simulate,
    slope_in_order,
    subsample_inflation,
    toedit_inflation_as_printed,
    workflow_inflation,
)
from hf_toedit.collapse.regression import trained_on

CONFIDENCE = 0.99


def hat_matrix(num_rows, dimensions, rng):
    orthonormal, _ = np.linalg.qr(rng.standard_normal((num_rows, dimensions)))
    return orthonormal @ orthonormal.T


def edited_covariance(covariance, hat, edited):
    """C' = A C A' + M with A = M P + 1 - M; M has `edited` on its diagonal."""
    step = edited[:, None] * hat + np.diag(1 - edited)
    return step @ covariance @ step.T + np.diag(edited)


def exact_disjoint(shares, num_rows, dimensions, designs):
    """Inflation by the covariance C of the labels' noise: it is tr(P C)/d."""
    rng = np.random.default_rng(0)
    found = np.ones((designs, len(shares) + 1))
    for values in found:
        hat = hat_matrix(num_rows, dimensions, rng)
        covariance, start = np.eye(num_rows), 0
        for number, share in enumerate(shares, 1):
            edited = np.zeros(num_rows)
            edited[start : start + round(share * num_rows)] = 1
            start += round(share * num_rows)
            covariance = edited_covariance(covariance, hat, edited)
            values[number] = np.trace(hat @ covariance) / dimensions
    return found.mean(axis=0)


def exact_overlapping(shares, num_rows, dimensions, designs):
    """The same, with the mean over all M of equal size in each step, by the chance that M has one or two given rows."""
    rng = np.random.default_rng(0)
    found = np.ones((designs, len(shares) + 1))
    for values in found:
        hat = hat_matrix(num_rows, dimensions, rng)
        covariance = np.eye(num_rows)
        for number, share in enumerate(shares, 1):
            pair = np.full((num_rows, num_rows), share * (share * num_rows - 1) / (num_rows - 1))
            np.fill_diagonal(pair, share)  # E m_i m_j
            fitted, cross = hat @ covariance @ hat, hat @ covariance
            one_side = (share - pair) * (cross + cross.T)
            covariance = pair * fitted + one_side + (1 - 2 * share + pair) * covariance + share * np.eye(num_rows)
            values[number] = np.trace(hat @ covariance) / dimensions
    return found.mean(axis=0)


def simulated(workflow, generations, num_rows, dimensions, runs, cells=1):
    """Lower and upper bound of the inflation; `cells` intervals hold at once."""
    simulation = simulate(LinearRegression(dimensions), workflow, n=num_rows, generations=generations, runs=runs)
    unit = least_squares_error(num_rows, dimensions)
    _, low, high = simulation.interval("test_error", 1 - (1 - CONFIDENCE) / cells)
    return low / unit, high / unit


# disjoint edits

SHARES = [[0.5], [0.5, 0.5], [0.1] * 10, [0.05] * 20, [0.3, 0.1, 0.02], [1.0], []]


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_the_limit_of_many_rows_is_the_recursion(shares):
    variance, growth, found = 1.0, 1.0, [1.0]
    for f in shares:
        variance = (1 + f) ** 2 * variance + 2 * f - 2 * (1 + f) * f * growth
        growth *= 1 + f
        found.append(variance)
    np.testing.assert_allclose(disjoint_inflation(shares), found, rtol=1e-12)
    np.testing.assert_allclose(disjoint_inflation(shares, 10**9, 3), found, rtol=1e-6)


@pytest.mark.parametrize(
    ("num_rows", "dimensions", "num_edits", "tolerance"),
    [(100, 10, 1, 0.003), (100, 10, 2, 0.003), (100, 10, 10, 0.008), (40, 2, 10, 0.01), (50, 1, 5, 0.01)],
)
def test_disjoint_edits_at_finite_numbers_of_rows(num_rows, dimensions, num_edits, tolerance):
    """Against explicit covariances. The limit of many rows is further off each time, and more than 1%."""
    shares = [1 / max(num_edits, 2)] * num_edits
    exact = exact_disjoint(shares, num_rows, dimensions, designs=400 if num_rows == 100 else 1500)
    np.testing.assert_allclose(disjoint_inflation(shares, num_rows, dimensions), exact, rtol=tolerance)
    assert disjoint_inflation(shares)[-1] > exact[-1] * 1.01


def test_how_far_off_many_rows_are_at_400_and_10():
    shares = [0.1] * 10
    exact = exact_disjoint(shares, 400, 10, designs=8)[-1]
    assert disjoint_inflation(shares, 400, 10)[-1] == pytest.approx(exact, rel=0.003)
    assert disjoint_inflation(shares)[-1] / exact == pytest.approx(1.026, abs=0.003)


def test_one_edit_at_finite_numbers_of_rows_is_exact():
    """1 + f + f (T-d)/(T+2) (T-k)/(T-1), from the second moments of a random projection."""
    for t, d, k in [(20, 3, 5), (50, 40, 25), (7, 1, 7)]:
        expected = 1 + k / t + k / t * (t - d) / (t + 2) * (t - k) / (t - 1)
        assert disjoint_inflation([k / t], t, d)[-1] == pytest.approx(expected, rel=1e-12)
        assert overlapping_inflation([k / t], t, d)[-1] == pytest.approx(expected, rel=1e-12)


def test_theorem_1_is_right_where_least_squares_interpolates():
    """T <= d: the hat matrix is the identity, as the proof takes it to be; but the theorem needs T >= d+2."""
    shares = [0.25, 0.5, 0.125]
    np.testing.assert_allclose(disjoint_inflation(shares, 8, 8), toedit_inflation_as_printed(shares))
    np.testing.assert_allclose(overlapping_inflation(shares, 8, 20), toedit_inflation_as_printed(shares))
    np.testing.assert_allclose(exact_disjoint(shares, 8, 8, 2), toedit_inflation_as_printed(shares))


def test_one_edit_and_many_small_ones():
    for share in (0.0, 0.1, 0.5, 1.0):
        assert one_edit_inflation(share) == pytest.approx(disjoint_inflation([share])[-1])
    for total in (0.2, 0.405, 1.0):
        assert disjoint_inflation([total / 500] * 500)[-1] == pytest.approx(many_small_edits_inflation(total), rel=4e-3)


def test_where_the_bound_fails():
    assert many_small_edits_inflation(BOUND_FAILS_AT) == pytest.approx(BOUND_AS_PRINTED)
    assert pytest.approx(0.405, abs=5e-4) == BOUND_FAILS_AT
    below, above = ([total / 1000] * 1000 for total in (BOUND_FAILS_AT - 0.005, BOUND_FAILS_AT + 0.005))
    assert disjoint_inflation(below)[-1] < BOUND_AS_PRINTED < disjoint_inflation(above)[-1]


@pytest.mark.parametrize("decay", [0.3, 0.7, 0.9])
def test_where_decaying_disjoint_edits_end(decay):
    share = 0.9 * (1 - decay)
    by_steps = disjoint_inflation([share * decay**i for i in range(60)], 10**12)
    assert disjoint_limit(share, decay) == pytest.approx(by_steps[-1], rel=0.01)
    assert disjoint_limit(share, decay) <= many_small_edits_inflation(0.9)
    assert math.isnan(disjoint_limit(1.2 * (1 - decay), decay))


# overlapping edits


@pytest.mark.parametrize(
    ("num_rows", "dimensions", "share", "tolerance"),
    [(100, 10, 0.12, 0.002), (100, 10, 0.5, 0.002), (40, 10, 0.5, 0.005), (40, 1, 0.1, 0.005), (20, 2, 1.0, 1e-9)],
)
def test_overlapping_edits_at_finite_numbers_of_rows(num_rows, dimensions, share, tolerance):
    exact = exact_overlapping([share] * 20, num_rows, dimensions, designs=60)
    np.testing.assert_allclose(overlapping_inflation([share] * 20, num_rows, dimensions), exact, rtol=tolerance)


def test_overlapping_edits_of_many_rows():
    shares = [0.3, 0.2, 0.9, 0.0]
    expected = 1 + np.cumsum([0, *(2 * f - f**2 for f in shares)])
    np.testing.assert_allclose(overlapping_inflation(shares), expected)
    np.testing.assert_allclose(overlapping_inflation(shares, 10**9, 3), expected, rtol=1e-6)
    np.testing.assert_allclose(overlapping_inflation([1.0] * 9), replace_inflation(10))


def test_overlapping_edits_of_the_papers_share_and_decay():
    """f = 0.125: linear growth again without decay; with the decay of Table 15, the limit is 5.1, not 2."""
    growth = overlapping_inflation([0.125] * 50, 400, 10)
    np.testing.assert_allclose(growth[[10, 20, 30, 40, 50]], [3.4, 5.7, 7.7, 10.1, 12.5], rtol=0.04)  # simulated
    limit = overlapping_limit(0.125, 0.9415)
    assert limit == pytest.approx(5.136, abs=1e-3)
    assert overlapping_inflation([0.125 * 0.9415**i for i in range(300)])[-1] == pytest.approx(limit)


@pytest.mark.parametrize("num_blocks", [1, 2, 8])
def test_edits_in_order_pass_after_pass(num_blocks):
    """Labels without inputs, whose mean is estimated, are T >> d in small: x = 1 for all rows."""
    size = 4
    num_rows = size * num_blocks
    hat, covariance, found = np.full((num_rows, num_rows), 1 / num_rows), np.eye(num_rows), []
    for number in range(20 * num_blocks):
        edited = (np.arange(num_rows) // size == number % num_blocks).astype(float)
        covariance = edited_covariance(covariance, hat, edited)
        found.append(np.trace(hat @ covariance))
    assert found[-1] - found[-2] == pytest.approx(slope_in_order(1 / num_blocks), rel=1e-6)
    assert found[:num_blocks] == pytest.approx(disjoint_inflation([1 / num_blocks] * num_blocks)[1:])
    assert slope_in_order(1 / num_blocks) >= np.diff(overlapping_inflation([1 / num_blocks]))[0]


# against simulation, and what the paper prints

GRID = [  # share, decay, edits, rows, dimensions
    (0.5, 1.0, 1, 100, 2),
    (0.25, 1.0, 4, 100, 2),
    (0.1, 1.0, 10, 100, 2),
    (0.1, 1.0, 10, 30, 3),
    (0.5, 0.5, 6, 64, 2),
    (0.2, 0.8, 9, 60, 6),
]


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize(("share", "decay", "num_edits", "num_rows", "dimensions"), GRID)
def test_edits_are_within_the_band_of_simulation(share, decay, num_edits, num_rows, dimensions, overlapping):
    """The band, of all cells and generations at once, is 5% to 7% wide on either side."""
    workflow = ToEdit(share=share, decay=decay, overlapping=overlapping)
    simulation = simulate(LinearRegression(dimensions), workflow, n=num_rows, generations=num_edits + 1, runs=3000)
    _, low, high = simulation.interval("test_error", 1 - (1 - CONFIDENCE) / (2 * sum(cell[2] + 1 for cell in GRID)))
    expected = simulation.expected_G["test_error"]
    assert np.all((low <= expected) & (expected <= high))


@pytest.mark.parametrize(("share", "num_edits"), [(0.5, 1), (0.25, 4), (0.1, 10)])
def test_theorem_1_is_far_outside(share, num_edits):
    low, high = simulated(ToEdit(share=share), num_edits + 1, num_rows=200, dimensions=10, runs=1500)
    shares = [share] * num_edits
    assert low[-1] <= disjoint_inflation(shares, 200, 10)[-1] <= high[-1]
    assert toedit_inflation_as_printed(shares)[-1] < low[-1] - (high[-1] - low[-1])


@pytest.mark.parametrize(
    ("workflow", "num_edits", "is_broken"),
    [
        (ToEdit(share=0.3), 1, False),
        (ToEdit(share=0.06), 10, True),
        (ToEdit(share=0.5), 2, True),
        (ToEdit(share=0.125, decay=0.9415, overlapping=True), 10, True),
    ],
    ids=str,
)
def test_the_bound_of_theorem_2(workflow, num_edits, is_broken):
    low, high = simulated(workflow, num_edits + 1, num_rows=200, dimensions=10, runs=1500)
    assert low[-1] > BOUND_AS_PRINTED if is_broken else high[-1] < BOUND_AS_PRINTED


def test_the_bound_under_decay_says_little():
    """Its E tr (X'X)^-2 is checked by simulation. At T = 13 d, it is nine times the error that it bounds."""
    rng = np.random.default_rng(0)
    inverses = np.linalg.inv([design.T @ design for design in rng.standard_normal((4000, 40, 3))])
    moment = np.mean(np.sum(inverses**2, axis=(1, 2)))
    eta = math.sqrt(0.9415)
    bound = 1 + math.sqrt(moment * 5) / (1 - eta) / least_squares_error(40, 3)
    assert decay_bound_as_printed(40, 3, 0.125, eta) == pytest.approx(bound, rel=0.01)
    assert bound > 9 * overlapping_limit(0.125, 0.9415)


def test_the_trace_of_equation_36():
    """tr((X'X)^-1 M) multiplies D x D by T x T. Its meaning is the noise that edited rows bring, per sigma^2."""
    rng = np.random.default_rng(0)
    design, edited = rng.standard_normal((12, 3)), np.diag([1.0] * 5 + [0.0] * 7)
    gram = design.T @ design
    with pytest.raises(ValueError, match="mismatch"):
        np.linalg.inv(gram) @ edited
    meant = np.trace(design @ np.linalg.inv(gram @ gram) @ design.T @ edited)
    noise = edited @ rng.standard_normal((12, 40_000))
    assert np.mean(np.sum((np.linalg.pinv(design) @ noise) ** 2, axis=0)) == pytest.approx(meant, rel=0.03)


# the other workflows


def test_known_values_and_limits():
    assert least_squares_error(100, 10, 2.0) == pytest.approx(20 / 89)
    assert least_squares_error(10, 100) == pytest.approx(10 / 89)
    assert replace_inflation(3).tolist() == [1, 2, 3]
    assert growing_replace_inflation(3).tolist() == pytest.approx([1, 1.5, 11 / 6])
    assert accumulate_inflation(3).tolist() == pytest.approx([1, 1.25, 1.25 + 1 / 9])
    assert accumulate_inflation(10**6)[-1] == pytest.approx(ACCUMULATE_LIMIT, rel=1e-5)
    assert subsample_inflation(2)[-1] == 1.75
    assert subsample_inflation(10**6)[-1] == pytest.approx(SUBSAMPLE_LIMIT, rel=1e-4)
    assert mixture_inflation(0.5, 40)[-1] == pytest.approx(2)
    assert growing_replace_inflation(1000)[-1] == pytest.approx(math.log(1000) + np.euler_gamma, rel=1e-3)


def test_limits_where_shares_do_not_shrink_or_there_is_a_single_edit():
    for share in (0.0, 0.3, 1.0):
        assert disjoint_limit(share, 0) == pytest.approx(one_edit_inflation(share))
        assert overlapping_limit(share, 0) == pytest.approx(one_edit_inflation(share))
    assert math.isnan(disjoint_limit(0.3, 1))
    assert overlapping_limit(0.3, 1) == math.inf == decay_bound_as_printed(100, 10, 0.3, 1)
    assert disjoint_limit(0, 1) == overlapping_limit(0, 1) == 1
    assert disjoint_limit(0.1, 0.9) == pytest.approx(disjoint_inflation(0.1 * 0.9 ** np.arange(300))[-1])


def test_workflows_as_fractions_of_batches():
    """The closed forms are those of one linear system, in which a workflow is a matrix."""
    assert workflow_inflation(np.eye(6)) == pytest.approx(replace_inflation(6))
    assert workflow_inflation(np.tri(6)) == pytest.approx(accumulate_inflation(6))
    assert workflow_inflation(np.tri(6) / np.arange(1, 7)[:, None]) == pytest.approx(subsample_inflation(6))
    assert workflow_inflation(trained_on(Mixture(0.3), 10, 6)) == pytest.approx(mixture_inflation(0.3, 6))
    assert mixture_inflation(1.0, 6) == pytest.approx(replace_inflation(6))


def test_levels_read_off_the_figure_of_kazdan_et_al():
    """d = 10, sigma^2 = 1, 100 generations: replace 3.2 and 1, subsample .09 and .03, accumulate .055 and .016."""
    errors = [least_squares_error(n, 10) for n in (316, 1000)]
    for inflation, figure in [
        (replace_inflation(100), (3.2, 1.0)),
        (subsample_inflation(100), (0.09, 0.03)),
        (accumulate_inflation(100), (0.055, 0.016)),
    ]:
        np.testing.assert_allclose(inflation[-1] * np.array(errors), figure, rtol=0.06)


@pytest.mark.parametrize("workflow", [Replace(), AccumulateSubsample()], ids=str)
def test_noise_alone_sets_the_scale(workflow):
    one, ten = (
        simulate(LinearRegression(2, variance), workflow, n=40, generations=4, runs=5).values_RG["test_error"]
        for variance in (1.0, 10.0)
    )
    np.testing.assert_allclose(ten, 10 * one, rtol=1e-9)
