"""How much synthetic data is safe: the paper's bounds, tighter ones, and the budget found by simulation."""

from __future__ import annotations

import itertools
import json
import math
import re
import warnings

import numpy as np
import pytest
from scipy import stats

from hf_toedit.collapse import (
    Categorical,
    Mixture,
    added_variance,
    budget,
    deviation_bound,
    deviation_limit,
    first_deviation,
    guaranteed_amount,
    guaranteed_deviation,
    largest_safe_amount,
    real_rows_for_rule,
    safe_amount,
    simulate,
)
from hf_toedit.collapse.categorical import zipf_probabilities
from hf_toedit.collapse.categorical_theory import C_0, C_1, most_balanced_split, phi, tail_constant
from hf_toedit.collapse.safe_amount import settled_after
from hf_toedit.errors import ConfigError, ToEditWarning


def exact_deviation(probability_V, num_real, n, generation):
    """E||p^(m) - p^(1)||_1, from the Markov chain of one outcome's synthetic count for each of its real counts."""
    count_K = np.arange(n + 1)
    by_count = np.zeros(num_real + 1)
    for real in range(num_real + 1):
        p_K = (real + count_K) / (num_real + n)
        step_KK = stats.binom.pmf(count_K[None], n, p_K[:, None])
        reached_K = stats.binom.pmf(count_K, n, real / num_real) @ np.linalg.matrix_power(step_KK, generation - 2)
        by_count[real] = reached_K @ np.abs(p_K - real / num_real)
    rows = np.arange(num_real + 1)
    return sum(stats.binom.pmf(rows, num_real, p) @ by_count for p in probability_V)


# The paper's bounds


def test_constants():
    assert pytest.approx(3.19, abs=0.01) == C_0
    assert pytest.approx(2.93, abs=0.01) == C_1


def test_tail_constant_in_its_three_ranges():
    n = 10
    assert C_0 * n / math.e + 2 <= 600
    assert tail_constant(n, 600) == pytest.approx(C_1 * 600 * math.exp(C_0 * n / (2 * math.e)))
    s = 12
    assert C_0 * n / 4 + 2 <= s < C_0 * n / math.e + 2
    assert tail_constant(n, s) == pytest.approx(C_1 * s * (C_0 * n / s) ** (s / 2))
    assert tail_constant(n, 5) == 2**5 - 2
    np.testing.assert_array_equal(tail_constant([n, n], [5, 600]), [tail_constant(n, 5), tail_constant(n, 600)])
    assert tail_constant(10, 9) == 2**9 - 2  # between C_0 n/4 and C_0 n/4 + 2
    assert tail_constant(10, 10) == pytest.approx(C_1 * 10 * (C_0 * 10 / 10) ** 5)  # just above it


@pytest.mark.parametrize(("n", "s"), [(4, 2), (10, 5), (10, 12), (50, 3)])
def test_tail_constant_bounds_the_tail(n, s):
    """P(||phat_n - p||_1 >= t) <= G_n(s) exp(-n t^2/2): for uniform p."""
    count_RV = np.random.default_rng(0).multinomial(n, np.full(s, 1 / s), 4000)
    distance_R = np.abs(count_RV / n - 1 / s).sum(axis=1)
    for t in np.linspace(0.1, 2, 15):
        assert (distance_R >= t).mean() <= tail_constant(n, s) * math.exp(-n * t**2 / 2) + 0.02


def test_tail_constant_fails_where_there_are_many_outcomes():
    """Ten rows of 600 equally likely outcomes are nearly always 1.96 away or more; it would allow that in 0.3 %."""
    count_RV = np.random.default_rng(0).multinomial(10, np.full(600, 1 / 600), 2000)
    distance_R = np.abs(count_RV / 10 - 1 / 600).sum(axis=1)
    assert tail_constant(10, 600) * math.exp(-10 * 1.96**2 / 2) < 0.003
    assert (distance_R >= 1.96).mean() > 0.9


def test_with_many_outcomes_theorem_3_says_less_than_the_largest_deviation_there_is():
    """p^(m) - p^(1) = alpha (phat^(m-1) - p^(1)), which is at most 2 alpha < 2n/N."""
    for n, s in itertools.product([1, 2, 5, 30, 400], [2, 3, 4, 8, 30, 600, 50_257]):
        if C_0 * n / 4 + 2 <= s:
            assert deviation_bound(1000, n, s) > 2 * n / 1000
    for N, s, tolerance in [(1e9, 50_257, 0.1), (1e7, 600, 0.1), (1e5, 1000, 1.0)]:
        assert guaranteed_amount(N, s, tolerance) > 1000 * largest_safe_amount(N, s, tolerance)


def test_phi():
    np.testing.assert_allclose(phi([0.5, 0.25, 0.1]), [2, 2 * math.log(3), math.log(9) / 0.8])
    assert phi(0.5 - 4e-5) == pytest.approx(phi(0.5 - 6e-5), abs=1e-8)  # where the series takes over
    assert (np.diff(phi(np.linspace(0.01, 0.5, 99))) < 0).all()


def test_most_balanced_split():
    """Against all sets A, where one outcome has more than half; else 1/4, which is never below."""
    for probabilities in ([0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.25] * 4):
        sums = [sum(chosen) for size in range(5) for chosen in itertools.combinations(probabilities, size)]
        best = max(total * (1 - total) for total in sums)
        assert most_balanced_split(np.array(probabilities)) == pytest.approx(best if max(probabilities) > 0.5 else 0.25)
        assert most_balanced_split(np.array(probabilities)) >= best - 1e-12


def test_theorems_3_and_4_hold_and_are_loose():
    """The exact deviation is below both bounds; Theorem 3 is 1.5 (two outcomes, few rows) to 1e8 times too large."""
    looseness = []
    for N, n, s in itertools.product([20, 60], [2, 10, 40], [2, 5, 30]):
        probability_V = Categorical(s, zipf=1.0).probabilities()
        for generation in (2, 6):
            exact = exact_deviation(probability_V, N, n, generation)
            assert exact <= deviation_bound(N, n, s, generation=generation) <= deviation_bound(N, n, s)
            assert exact <= guaranteed_deviation(N, n, s, generation) <= guaranteed_deviation(N, n, s)
        looseness.append(deviation_bound(N, n, s) / exact_deviation(probability_V, N, n, 40))
    assert min(looseness) < 4
    assert max(looseness) > 1e8
    skewed = deviation_bound(60, 10, 2, most_balanced_split=0.09)
    assert skewed < deviation_bound(60, 10, 2) == pytest.approx(math.sqrt(math.pi * 10 / 2) / 60 * 2)


def test_theorem_4_after_some_generations_sums_the_geometric_series_of_its_proof():
    alpha, limit = 30 / 80, deviation_bound(50, 30, 6)
    series = [(1 - alpha) * sum(alpha**i for i in range(m - 1)) for m in range(1, 6)]
    np.testing.assert_allclose(deviation_bound(50, 30, 6, generation=np.arange(1, 6)), limit * np.array(series))


def test_equation_11_follows_from_theorem_3():
    """At the amount that it allows, Theorem 3's bound is within the tolerance, and it is not much larger there."""
    for s, tolerance, N in [(50_257, 0.1, 1e9), (600, 0.1, 1e7), (1000, 1.0, 1e5)]:
        n = float(largest_safe_amount(N, s, tolerance))
        assert 0 < n < 0.851 * (s - 2)
        assert deviation_bound(N, n, s) < tolerance
        assert deviation_bound(N, 3 * n, s) > tolerance
    assert largest_safe_amount(1e9, 50_257, 0.1) == pytest.approx(5.35, abs=0.005)
    assert largest_safe_amount(1e30, 10, 0.1) == pytest.approx(0.850 * 8, abs=0.01)


def test_equation_11_says_nothing_without_very_many_real_rows():
    """N > 3.67 s/eps; the paper's own s = 600, N = 100 is far from it."""
    assert real_rows_for_rule(600, 0.1) == pytest.approx(3.67 * 6000, rel=1e-3)
    for tolerance in (0.1, 1.0):
        with pytest.warns(ToEditWarning, match=r"equation 11 says nothing here: it needs more than [\d,]+ real rows"):
            assert largest_safe_amount(100, 600, tolerance) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert largest_safe_amount(22_100, 600, 0.1) > 0


# Tighter bounds, and the limit


def test_added_variance_is_that_of_the_model():
    """E||p^(m) - p^(1)||_2^2 = added_variance (1 - S_1), by simulation, in 9 cells at once."""
    for n, N in ((5, 50), (100, 50), (1000, 20)):
        setting = Categorical(12, zipf=1.0)
        runs = 4000
        rng = np.random.default_rng(n)
        first_RV = rng.multinomial(N, setting.probabilities(), runs) / N
        p_RV = first_RV
        for generation in range(2, 12):
            p_RV = (N * first_RV + rng.multinomial(n, p_RV)) / (N + n)
            if generation in (2, 4, 11):
                ratio_R = ((p_RV - first_RV) ** 2).sum(axis=1) - added_variance(generation, N, n) * (
                    1 - (first_RV**2).sum(axis=1)
                )
                assert stats.ttest_1samp(ratio_R, 0).pvalue > 0.01 / 9
    n, N = 70, 30
    assert added_variance(np.inf, N, n) == pytest.approx(n / (N**2 + (2 * N + 1) * n))
    assert added_variance(1, N, n) == 0
    assert added_variance(np.inf, N, 0) == guaranteed_deviation(N, 0, 5) == deviation_bound(N, 0, 5) == 0


def test_guaranteed_amount_is_where_the_guaranteed_deviation_reaches_the_tolerance():
    for N, s, tolerance in itertools.product([10, 1000], [2, 50, 10**5], [0.01, 0.1, 0.7]):
        n = float(guaranteed_amount(N, s, tolerance))
        if math.isinf(n):
            assert guaranteed_deviation(N, 1e15, s) <= tolerance
        else:
            assert guaranteed_deviation(N, n, s) == pytest.approx(tolerance)
            assert guaranteed_deviation(N, 1.01 * n, s) > tolerance


@pytest.mark.parametrize(
    ("num_real", "setting"), [(7, Categorical(3, zipf=1.0)), (50, Categorical(30)), (1, Categorical(4))]
)
def test_first_deviation_is_exact(num_real, setting):
    rows = np.arange(num_real + 1)
    by_hand = sum(stats.binom.pmf(rows, num_real, p) @ np.abs(rows / num_real - p) for p in setting.probabilities())
    assert first_deviation(num_real, setting.probabilities()) == pytest.approx(by_hand)


def test_the_limit_is_that_of_a_dirichlet_distribution():
    """Given the real rows; and the chain comes near it from below as synthetic rows and generations grow."""
    count_V = np.array([6, 3, 1, 0])
    drawn = np.random.default_rng(0).dirichlet(2.0 * count_V[:3], 40_000)
    distance_R = np.abs(drawn - count_V[:3] / 10).sum(axis=1)
    half = stats.norm.ppf(0.995) * stats.sem(distance_R)
    assert abs(distance_R.mean() - deviation_limit(count_V)) < half < 0.01 * distance_R.mean()
    N, probability_V = 10, np.array([0.6, 0.3, 0.1])
    count_RV = np.random.default_rng(1).multinomial(N, probability_V, 40_000)
    limit = deviation_limit(count_RV).mean()
    exact = [exact_deviation(probability_V, N, n, 200) for n in (20, 80, 320)]
    assert exact == sorted(exact)
    assert exact[-1] < limit == pytest.approx(exact[-1], rel=0.03)
    assert deviation_limit(np.array([5, 0])) == 0


# The budget


def test_the_budget_is_where_the_exact_deviation_reaches_the_tolerance():
    """Found by simulation and bisection; the chain says the same to a few percent."""
    found = budget(20, 4, 0.15)
    probability_V = np.full(4, 0.25)
    assert found.synthetic is not None
    at = [
        exact_deviation(probability_V, 20, n, settled_after(20, n) + 1) for n in (found.synthetic, 2 * found.synthetic)
    ]
    assert 0.92 * 0.15 < at[0] <= 0.15 < at[1]
    assert found.deviation_low <= at[0] <= found.deviation_high <= 0.15
    assert found.guaranteed < found.synthetic


def test_the_deviation_is_simulated_until_it_has_stopped_growing():
    uniform_V = np.full(4, 0.25)
    for N, n in ((3, 12), (5, 100)):
        settled = settled_after(N, n) + 1
        assert exact_deviation(uniform_V, N, n, settled) > 0.999 * exact_deviation(uniform_V, N, n, 5 * settled)


def test_any_number_is_allowed_only_where_the_limit_is_surely_within_the_tolerance():
    count_KV = np.array([[k, 6 - k] for k in range(7)])
    limit = float(stats.binom.pmf(range(7), 6, 0.5) @ deviation_limit(count_KV))
    assert 0.2 < limit < 0.201
    assert all(budget(6, 2, 0.2, seed=seed).synthetic is not None for seed in range(10))
    assert budget(6, 2, 0.22).synthetic is None


def test_real_rows_of_many_outcomes_fit_in_memory():
    """Their counts have the distribution of a multinomial's, sorted."""
    probability_V = zipf_probabilities(40, 1.0)
    few_RK, many_RK = (
        safe_amount._real_counts(np.append(probability_V, np.zeros(unlikely)), 30, 4000, seed=unlikely)
        for unlikely in (0, 10**6)
    )
    want_RV = -np.sort(-np.random.default_rng(9).multinomial(30, probability_V, 4000))
    for found_RK in (few_RK, many_RK):
        assert (found_RK.sum(axis=1) == 30).all()
        assert (np.diff(found_RK) <= 0).all()
        for rank in range(10):
            assert stats.ttest_ind(found_RK[:, rank], want_RV[:, rank]).pvalue > 0.01 / 20


def test_the_budget_agrees_with_simulating_the_workflow():
    found = budget(100, 52, 0.15, zipf=1.0)
    again = simulate(
        Categorical(52, zipf=1.0),
        Mixture(),
        n=found.synthetic,
        num_real=100,
        generations=settled_after(100, found.synthetic) + 1,
        runs=400,
        seed=9,
    )
    _, low_G, high_G = again.interval("l1_first")
    assert low_G[-1] <= 0.15
    assert found.deviation_low <= high_G[-1]
    assert low_G[-1] <= found.deviation_high
    np.testing.assert_allclose(found.sum_squares[2], again.expected_G["sum_squares"][-1], rtol=1e-3)


def test_more_tolerance_real_rows_or_skew_allow_more():
    base = budget(50, 20, 0.1, runs=200).synthetic
    assert base < budget(50, 20, 0.13, runs=200).synthetic
    assert base < budget(80, 20, 0.1, runs=200).synthetic
    assert base < budget(50, 20, 0.1, zipf=1.5, runs=200).synthetic
    assert budget(50, 20, 0.1, runs=200, seed=1) != budget(50, 20, 0.1, runs=200)
    assert budget(50, 20, 0.1, runs=200) == budget(50, 20, 0.1, runs=200)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((1000, 50, 0.2), "You can add any number of synthetic rows"),
        ((1000, 50, 0.1), "synthetic rows per context to each generation's real ones"),
        ((10, 2, 0.001), "You can't add any synthetic rows"),
        (
            (1000, 50, 0.1),
            r"Equation 11 of Seddik et al\. says nothing here: to allow one row it needs 5,950 real rows",
        ),
        ((10**9, 50_257, 0.1), r"Safe by equation 11 of Seddik et al\.: 5\."),
        ((1000, 50, 0.1), r"real rows alone is 0\.17\d from the truth"),
        ((1000, 50, 0.1), r"real rows alone 0\.02098, after many generations 0\.0212"),
    ],
)
def test_what_a_budget_says(arguments, says):
    text = " ".join(str(budget(*arguments, runs=50)).split())
    assert re.search(says, text)


def test_what_equation_11_needs_to_allow_one_row():
    needs = budget(1000, 50, 0.1, runs=50).printed_needs
    assert largest_safe_amount(needs, 50, 0.1) == pytest.approx(1)


def test_a_budget_is_a_dict_for_a_file():
    found = budget(30, 5, 0.2, runs=50)
    assert json.loads(json.dumps(found.to_dict()))["synthetic"] == found.synthetic
    assert str(found) == str(budget(30, 5, 0.2, runs=50))


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        ((0, 5, 0.1), "real=0 must be 1 or more"),
        ((10, 1, 0.1), "vocabulary=1 must be 2 or more"),
        ((10, 5, 0.0), "tolerance=0.0 must be between 0 and 2"),
        ((10, 5, 2.0), "tolerance=2.0 must be between 0 and 2"),
        ((10, 5, float("nan")), "tolerance=nan must be"),
        ((10**20, 5, 0.1), "must be 1,000,000,000,000,000 or less"),
        ((10, 10**9, 0.1), "vocabulary=1000000000 must be 10,000,000 or less"),
    ],
)
def test_bad_questions_are_refused_in_one_line(arguments, fix):
    with pytest.raises(ConfigError, match=fix) as found:
        budget(*arguments)
    assert "\n" not in str(found.value)
