"""Discrete distributions: the setting, collapse times, and each closed form against simulation."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from scipy import stats

from hf_toedit.collapse import (
    Accumulate,
    AccumulateSubsample,
    Categorical,
    Mixture,
    RecentModels,
    Replace,
    ToEdit,
    categorical_theory,
    collapse_probability_bounds,
    collapse_time,
    collapse_time_bounds,
    collapse_time_exact,
    collapse_time_limit,
    expected_sum_squares,
    simulate,
    sum_squares_accumulate,
    sum_squares_partly_synthetic,
    sum_squares_partly_synthetic_as_printed,
    sum_squares_partly_synthetic_limit,
)
from hf_toedit.collapse.categorical import zipf_probabilities
from hf_toedit.errors import ConfigError

SEDDIK = Categorical(outcomes=600, support=52, sum_squares=0.1)


# The setting


def test_sum_squares_is_solved_for():
    for support, target in itertools.product([2, 10, 52, 600], [0.002, 0.1, 0.5, 0.999999]):
        if target > 1 / support:
            probability_V = Categorical(600, support, target).probabilities()
            assert (probability_V**2).sum() == pytest.approx(target, rel=1e-9)
            assert probability_V.sum() == pytest.approx(1)
            assert (probability_V > 0).sum() == support


def test_the_default_is_uniform_and_zipf_is_a_power_of_the_rank():
    np.testing.assert_allclose(Categorical(8).probabilities(), np.full(8, 1 / 8))
    np.testing.assert_allclose(Categorical(3, zipf=1.0).probabilities(), np.array([6, 3, 2]) / 11)
    np.testing.assert_allclose(Categorical(8, sum_squares=1 / 8).probabilities(), np.full(8, 1 / 8))


def test_measures_by_hand():
    setting = Categorical(4, support=3)
    truth = setting.truth(2, 4, np.random.default_rng(0))
    first = setting.fit(np.array([[2, 1, 1, 0], [2, 2, 0, 0]]), truth)
    model = setting.fit(np.array([[4, 0, 0, 0], [1, 3, 0, 0]]), truth)
    found = setting.distance(model, truth, first)
    np.testing.assert_allclose(found["sum_squares"], [1, 10 / 16])
    np.testing.assert_allclose(found["l1_truth"], [4 / 3, 1 / 12 + 5 / 12 + 1 / 3])
    np.testing.assert_allclose(found["l1_first"], [1, 0.5])
    np.testing.assert_array_equal(found["collapsed"], [1, 0])
    np.testing.assert_allclose(found["entropy"], [0, stats.entropy([1, 3])])
    np.testing.assert_array_equal(found["missing"], [2, 1])


def test_merged_models_are_those_of_all_rows():
    setting = Categorical(5, zipf=1.0)
    truth = setting.truth(3, 10, np.random.default_rng(0))
    parts = [setting.sample(truth, n, np.random.default_rng(n)) for n in (7, 12)]
    merged = setting.merge(*[setting.fit(part, truth) for part in parts])
    pooled = setting.fit(setting.pool(parts), truth)
    np.testing.assert_allclose(merged.probability, pooled.probability)
    assert merged.num_rows == pooled.num_rows == 19


@pytest.mark.parametrize(
    ("fields", "fix"),
    [
        ({"outcomes": 0}, "outcomes=0 must be 1 or more"),
        ({"support": 11}, "support=11 must be between 1 and outcomes=10"),
        ({"support": 0}, "support=0 must be between"),
        ({"sum_squares": 0.05}, "at least 0.1"),
        ({"sum_squares": 1.0}, "must be below 1"),
        ({"sum_squares": float("nan")}, "must be below 1"),
        ({"zipf": -1.0}, "zipf=-1.0 must be between 0 and 60"),
        ({"sum_squares": 0.5, "zipf": 1.0}, "leave one out"),
    ],
)
def test_bad_fields_say_how_to_fix_them(fields, fix):
    with pytest.raises(ConfigError, match=fix) as found:
        Categorical(**fields)
    assert "\n" not in str(found.value)


def test_toedit_needs_a_share_and_no_order():
    with pytest.raises(ConfigError, match="set share="):
        simulate(Categorical(), ToEdit(), n=10, generations=2, runs=2)
    with pytest.raises(ConfigError, match="set overlapping=True"):
        simulate(Categorical(), ToEdit(share=0.1), n=10, generations=2, runs=2)


# S_m within the simultaneous 99 % band, for each workflow over a grid

GRID = list(itertools.product([10, 100], [20, 100], [(10, 0.1), (10, 0.3), (52, 0.1)]))  # n, N, (support, S_0)
GENERATIONS, RUNS = 8, 600


def band(values_R, cells):
    """The mean over runs and its 99 % interval, which holds for all cells at once (Bonferroni)."""
    mean = values_R.mean()
    half = stats.t.ppf(1 - 0.005 / cells, len(values_R) - 1) * stats.sem(values_R)
    return mean - half, mean + half


def settle(workflow, support, S_0, n, num_real, runs=RUNS):
    setting = Categorical(support, sum_squares=S_0)
    return simulate(setting, workflow, n=n, num_real=num_real, generations=GENERATIONS, runs=runs, seed=1)


@pytest.mark.parametrize(
    "workflow",
    [
        Replace(),
        Accumulate(),
        Mixture(),
        Mixture(synthetic_share=0.3),
        AccumulateSubsample(),
        RecentModels(window=3),
        ToEdit(share=0.3, overlapping=True, decay=0.9),
    ],
    ids=str,
)
def test_sum_squares_is_as_expected(workflow):
    slow = not isinstance(workflow, Replace | Accumulate | Mixture) or workflow == Mixture(synthetic_share=0.3)
    grid = [(n, N, shape) for n, N, shape in GRID if not slow or (shape[0] == 10 and n <= N)]
    for n, num_real, (support, S_0) in grid:
        found = settle(workflow, support, S_0, n, num_real)
        for generation in (0, 1, GENERATIONS - 1):
            low, high = band(found.values_RG["sum_squares"][:, generation], len(grid) * 3)
            assert low <= found.expected_G["sum_squares"][generation] <= high, (n, num_real, support, S_0, generation)


def test_closed_forms_are_the_solution_of_their_recursions():
    """E sum p^2 from the second moments that each step adds, in place of the sums that the theorems give."""
    generation_G = np.arange(1, 40)
    for n, N, S_0 in itertools.product([1, 7, 300], [2, 50, 1000], [0.01, 0.4]):
        first = 1 / N + (1 - 1 / N) * S_0
        replaced, mixed, accumulated = [first], [first], [first]
        alpha = n / (N + n)
        for g in range(1, 39):
            replaced.append(1 / n + (1 - 1 / n) * replaced[-1])
            phat = 1 / n + (1 - 1 / n) * mixed[-1]
            mixed.append((1 - alpha) ** 2 * first + 2 * alpha * (1 - alpha) * first + alpha**2 * phat)
            added = n / (N + g * n)
            accumulated.append(accumulated[-1] + added**2 * (1 - accumulated[-1]) / n)
        for workflow, expected in ((Replace(), replaced), (Mixture(), mixed), (Accumulate(), accumulated)):
            np.testing.assert_allclose(expected_sum_squares(workflow, n, N, 39, S_0), expected, rtol=1e-12)
        added_G = first + categorical_theory.added_variance(generation_G, N, n) * (1 - first)
        np.testing.assert_allclose(added_G, mixed, rtol=1e-12)


def test_one_recent_model_is_replace_and_half_the_rows_edited_at_random_is_in_between():
    for n, N in ((10, 10), (10, 30)):
        one = expected_sum_squares(RecentModels(window=1), n, N, 9, 0.2)
        np.testing.assert_allclose(one, expected_sum_squares(Replace(), n, N, 9, 0.2), rtol=1e-12)
    all_synthetic = expected_sum_squares(Mixture(synthetic_share=1.0), 10, 30, 9, 0.2)
    np.testing.assert_allclose(all_synthetic, expected_sum_squares(Replace(), 10, 30, 9, 0.2), rtol=1e-12)
    edited = expected_sum_squares(ToEdit(share=1.0, overlapping=True), 30, 30, 9, 0.2)
    np.testing.assert_allclose(edited, expected_sum_squares(Replace(), 30, 30, 9, 0.2), rtol=1e-12)
    assert expected_sum_squares(ToEdit(), 30, 30, 9, 0.2) is None
    assert expected_sum_squares(ToEdit(share=0.3), 30, 30, 9, 0.2) is None  # in order: another distribution


def test_accumulating_is_the_product_of_the_gaussian_variances():
    n = 10
    limit = np.sin(np.pi / np.sqrt(n)) / (np.pi / np.sqrt(n))
    assert (1 - sum_squares_accumulate(10**6, n, 0.3)) / 0.7 == pytest.approx(limit, abs=1e-6)


# Theorem 2: the printed sign is wrong


def test_theorem_2_with_its_sign_corrected():
    """N = 100, S_0 = 0.1: values of an independent simulation and of both formulas."""
    corrected = {100: [0.10900, 0.11123, 0.11178], 1000: [0.1090, 0.10974, 0.11034]}
    printed = {100: [0.10834, 0.11106, 0.11174], 1000: [0.10806, 0.10896, 0.1097]}
    for n in (100, 1000):
        np.testing.assert_allclose(sum_squares_partly_synthetic([1, 2, 3], 100, n, 0.1), corrected[n], atol=6e-6)
        np.testing.assert_allclose(
            sum_squares_partly_synthetic_as_printed([1, 2, 3], 100, n, 0.1), printed[n], atol=6e-6
        )


def test_the_printed_theorem_2_is_outside_the_band():
    """For generations 1 and 2, at which it is 4 or more standard errors off; the corrected form is inside."""
    setting = Categorical(20, sum_squares=0.1)
    cells = list(itertools.product([100, 1000], [1, 2]))
    for n in (100, 1000):
        found = simulate(setting, Mixture(), n=n, num_real=100, generations=2, runs=20_000, seed=2)
        for generation in (1, 2):
            low, high = band(found.values_RG["sum_squares"][:, generation - 1], len(cells))
            assert low < sum_squares_partly_synthetic(generation, 100, n, 0.1) < high
            if (n, generation) != (100, 2):  # there, the two differ by 1.7e-4 alone
                assert sum_squares_partly_synthetic_as_printed(generation, 100, n, 0.1) < low


def test_theorem_2_starts_from_the_real_rows_and_tends_to_its_limit():
    for N, n, S_0 in itertools.product([3, 100], [1, 50, 10_000], [0.02, 0.5]):
        first = 1 / N + (1 - 1 / N) * S_0
        assert sum_squares_partly_synthetic(1, N, n, S_0) == pytest.approx(first)
        assert abs(sum_squares_partly_synthetic_as_printed(1, N, n, S_0) - first) > 1e-6
        limit = sum_squares_partly_synthetic_limit(N, n, S_0)
        assert sum_squares_partly_synthetic(10**7, N, n, S_0) == pytest.approx(limit)
        assert limit == pytest.approx(first + (1 - first) * n / (N**2 + (2 * N + 1) * n))


# Collapse


def test_collapse_time_is_that_of_the_markov_chain():
    """Exact from the transition matrix, for few outcomes; the last is Kazdan's ten outcomes with ten rows."""
    cells = [(2, [0.5, 0.5]), (8, [0.7, 0.3]), (12, [0.5, 0.3, 0.2]), (5, [0.4, 0.3, 0.2, 0.1]), (10, [0.1] * 10)]
    assert collapse_time_exact(2, [0.5, 0.5]) == pytest.approx(2)  # a fair coin that falls on the same side twice
    assert collapse_time_exact(1, [0.5, 0.5]) == collapse_time_exact(9, [1.0]) == pytest.approx(1)
    for n, probabilities in cells:
        probabilities = np.array(probabilities)
        low, high = band(collapse_time(Given(probabilities), n, runs=10_000, seed=n), len(cells))
        assert low <= collapse_time_exact(n, probabilities) <= high
        assert high - low < 0.07 * high


class Given:
    """Probabilities that are no power of the rank."""

    def __init__(self, probability_V):
        self.probability_V = probability_V

    def probabilities(self):
        return self.probability_V


def test_collapse_time_is_linear_in_the_number_of_rows():
    """Kazdan et al., ten outcomes: about 17, 200 and 1,800 generations (read off a figure) for 10, 100, 1,000 rows."""
    mean = {n: collapse_time(Categorical(10), n, runs=runs).mean() for n, runs in ((10, 2000), (100, 500), (1000, 200))}
    for n, paper in {10: 17, 100: 200, 1000: 1800}.items():
        assert mean[n] == pytest.approx(paper, rel=0.15)
    assert np.polyfit(np.log10(list(mean)), np.log10(list(mean.values())), 1)[0] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("support", "S_0"), [(2, 0.5), (10, 0.1), (52, 0.1), (52, 0.6)])
def test_the_limit_of_the_collapse_time(support, S_0):
    """-2 n sum (1 - p) log(1 - p), at n = 300: what it leaves out is of a lower order than the band is wide."""
    setting = Categorical(support, sum_squares=S_0)
    low, high = band(collapse_time(setting, 300, runs=1500, seed=3), 4)
    assert low <= collapse_time_limit(300, setting.probabilities()) <= high
    assert high - low < 0.2 * high


def test_theorem_1_bounds_the_collapse_time():
    """S_0 = 0.1, 52 outcomes. The lower bound is about half of the truth, the upper one is 5 to 50 times too large."""
    n_G = np.array([10, 50, 100])
    low_G, high_G = collapse_time_bounds(n_G, 0.1, 52)
    np.testing.assert_allclose(low_G, [9.3, 46.0, 91.8], atol=0.06)
    mean_G = np.array([collapse_time(SEDDIK, n, runs=400).mean() for n in n_G])
    np.testing.assert_allclose(mean_G, [17.6, 93.9, 184], rtol=0.15)
    np.testing.assert_allclose(low_G / mean_G, 0.5, atol=0.08)
    np.testing.assert_allclose(high_G / mean_G, [4.7, 23, 47], rtol=0.15)


def test_theorem_1_bounds_the_probability_of_collapse():
    for n, (support, S_0) in itertools.product([2, 10, 50], [(2, 0.5), (10, 0.3), (52, 0.1)]):
        time_R = collapse_time(Categorical(support, sum_squares=S_0), n, runs=2000)
        generation_G = np.unique(np.geomspace(1, 6 * n, 12).astype(int))
        reached_G = (time_R[:, None] <= generation_G).mean(axis=0)
        low_G, high_G = collapse_probability_bounds(generation_G, n, S_0, support)
        slack = 4.5 * np.sqrt(0.25 / len(time_R))
        assert (reached_G > low_G - slack).all()
        assert (reached_G < high_G + slack).all()
        assert low_G[-1] > 0.5


def test_each_outcome_is_the_last_with_its_own_probability():
    """Proposition 1, by a chi-square test."""
    setting = Categorical(4, zipf=1.0)
    found = simulate(setting, Replace(), n=5, generations=120, runs=4000, seed=4)
    assert found.values_RG["collapsed"][:, -1].all()
    last_R = found.values_RG["l1_truth"][:, -1]  # 2 (1 - p_i), which tells i
    count_V = [(np.isclose(last_R, 2 * (1 - p))).sum() for p in setting.probabilities()]
    assert sum(count_V) == 4000
    assert stats.chisquare(count_V, 4000 * setting.probabilities()).pvalue > 0.001
    assert stats.chisquare(count_V, np.full(4, 1000.0)).pvalue < 1e-9


def test_collapse_times_are_reproducible_and_agree_with_simulate():
    np.testing.assert_array_equal(collapse_time(SEDDIK, 9, seed=5), collapse_time(SEDDIK, 9, seed=5))
    assert (collapse_time(SEDDIK, 9, seed=5) != collapse_time(SEDDIK, 9, seed=6)).any()
    assert (collapse_time(SEDDIK, 9, num_real=1) == 1).all()
    found = simulate(SEDDIK, Replace(), n=9, generations=20, runs=1000, seed=7)
    shares = found.values_RG["collapsed"].mean(axis=0)[[9, 19]]
    times = [(collapse_time(SEDDIK, 9, runs=1000, seed=8) <= generation).mean() for generation in (10, 20)]
    np.testing.assert_allclose(shares, times, atol=4 * np.sqrt(0.5 / 1000))
    with pytest.raises(ConfigError, match="n=0 must be 1 or more"):
        collapse_time(SEDDIK, 0)


def test_what_is_too_large_for_the_chain_is_refused():
    with pytest.raises(ConfigError, match="too many counts to list: simulate instead"):
        collapse_time_exact(100, zipf_probabilities(10, 0.0))


# Windows and the past (Seddik et al., Figure 6)


def test_recent_models_keep_their_rows_while_they_are_in_the_window():
    """Two generations in a row share all but one of the parts: p^(m+1) - p^(m) is the newest part less the oldest."""
    setting, K, n = Categorical(30), 3, 30
    workflow = RecentModels(window=K)
    rng = np.random.default_rng(0)
    truth = setting.truth(4, n, rng)
    history = [setting.sample(truth, n, rng)]
    models = [setting.fit(history[0], truth)]
    before = oldest = history[0]
    for number in range(1, 8):
        history = [*history, workflow.synthesize(setting, models[-1], history, n, number, rng)]
        rows = workflow.training_rows(setting, history, n, rng)
        assert (rows.sum(axis=1) == sum(n // min(number + 1, K) for _ in range(min(number + 1, K)))).all()
        history = workflow.kept(history)
        if number > K + 1:  # the rows of the first models, of which there are more, have left the window
            np.testing.assert_array_equal(rows - before, history[-1] - oldest)
        before, oldest = rows, history[0]
        models.append(setting.fit(rows, truth))


def test_larger_windows_collapse_later_and_the_whole_past_hardly_ever():
    """n = 10, S_0 = 0.1, 52 of 600 outcomes, as in the paper but for 200 generations."""
    workflows = [Replace(), RecentModels(window=2), RecentModels(window=5), AccumulateSubsample()]
    found = [simulate(Categorical(52, sum_squares=0.1), w, n=10, generations=200, runs=60) for w in workflows]
    at_50 = [f.values_RG["collapsed"][:, 49].mean() for f in found]
    assert at_50 == sorted(at_50, reverse=True)
    at_200 = [f.values_RG["collapsed"][:, -1].mean() for f in found]
    assert at_200[0] == at_200[1] == 1.0
    assert at_200[2] > 0.8
    assert at_200[3] < 0.1


def test_partly_synthetic_keeps_the_same_real_rows():
    """Seddik et al. define p^(m) = (N p^(1) + n phat^(m-1))/(N + n): here, with counts."""
    setting, rng = Categorical(6), np.random.default_rng(0)
    truth = setting.truth(3, 40, rng)
    real = setting.sample(truth, 40, rng)
    history, model = [real], setting.fit(real, truth)
    for number in range(1, 5):
        synthetic = Mixture().synthesize(setting, model, history, 7, number, rng)
        assert (synthetic.sum(axis=1) == 7).all()
        history = Mixture().kept([*history, synthetic])
        model = setting.fit(Mixture().training_rows(setting, history, 7, rng), truth)
        np.testing.assert_allclose(model.probability, (real + synthetic) / 47)


def test_no_warnings_at_the_edges():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(Categorical(1), Replace(), n=1, generations=3, runs=2)
        simulate(Categorical(3, support=2, zipf=60.0), ToEdit(share=0.0, overlapping=True), n=1, generations=3, runs=1)
        simulate(Categorical(3), RecentModels(window=1), n=1, num_real=3, generations=3, runs=2)
