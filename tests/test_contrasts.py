"""What the report of a recipe says of its numbers, against scipy and brute force."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from hf_toedit import ConfigError
from hf_toedit.experiments import results
from hf_toedit.experiments.contrasts import (
    Planned,
    contrast_lines,
    contrasts,
    detectable,
    holm,
    interval,
    needed_pairs,
    upper_sd,
)
from hf_toedit.experiments.reading import chosen_arms, read_recipe

PLAIN = Path(__file__).parent / "recipes" / "plain"


def random_metrics(arms, num_seeds=5, names=("loss", "accuracy")):
    draws = np.random.default_rng(3)
    return {arm: {seed: {name: draws.normal(3, 1) for name in names} for seed in range(num_seeds)} for arm in arms}


def test_each_arm_is_compared_with_its_source_and_its_control():
    metrics = random_metrics(("source", "toedit", "random", "drop"))
    found = contrasts(metrics, {"toedit": "random"})
    pairs = [("toedit", "source"), ("toedit", "random"), ("random", "source"), ("drop", "source")]
    assert [(one["arm"], one["against"]) for one in found] == [pair for pair in pairs for _ in range(2)]
    for one in found:
        mine, theirs = ([metrics[one[arm]][seed][one["metric"]] for seed in range(5)] for arm in ("arm", "against"))
        expected = scipy_stats.ttest_rel(mine, theirs)
        low, high = expected.confidence_interval(0.95)
        assert one["p"] == pytest.approx(expected.pvalue)
        assert (one["low"], one["high"]) == (pytest.approx(low), pytest.approx(high))
        assert one["sd"] == pytest.approx(np.std(np.subtract(mine, theirs), ddof=1))
        assert one["detectable"] == pytest.approx(detectable(one["sd"], 5))
    assert [one["p_holm"] for one in found] == holm([one["p"] for one in found])


def test_seeds_that_one_arm_has_alone_are_left_out():
    metrics = random_metrics(("source", "toedit"))
    del metrics["source"][2]
    [one] = [one for one in contrasts(metrics, {}) if one["metric"] == "loss"]
    assert one["values"] == [metrics["toedit"][s]["loss"] - metrics["source"][s]["loss"] for s in (0, 1, 3, 4)]
    del metrics["source"]
    assert contrasts(metrics, {"toedit": "random"}) == []


def rejected(p_values, level):
    """Holm's procedure by its definition as a closed test: reject what every set that holds it rejects (Bonferroni)."""
    indices = range(len(p_values))
    subsets = [set(one) for size in indices for one in itertools.combinations(indices, size + 1)]
    return [
        all(min(p_values[j] for j in subset) <= level / len(subset) for subset in subsets if i in subset)
        for i in indices
    ]


def test_holm_is_the_closed_test_of_bonferroni():
    draws = np.random.default_rng(5)
    for _ in range(20):
        p_values = (draws.random(5) ** 3).tolist()
        adjusted = holm(p_values)
        for level in (0.01, 0.05, 0.2, 0.6, *[p * (1 - 1e-9) for p in adjusted], *[p * (1 + 1e-9) for p in adjusted]):
            if level < 1:
                assert [p <= level for p in adjusted] == rejected(p_values, level)
    assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert holm([]) == []


@pytest.mark.parametrize("num_pairs", [2, 5, 30])
def test_the_detectable_difference_is_found_four_times_in_five(num_pairs):
    draws = np.random.default_rng(7)
    shift = detectable(1.5, num_pairs)
    differences = draws.normal(shift, 1.5, (40_000, num_pairs))
    found = scipy_stats.ttest_1samp(differences, 0, axis=1).pvalue <= 0.05
    assert found.mean() == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 40_000))


def detection_rate(effect, sd, num_pairs, level, num_runs=40_000):
    """How often a paired t-test finds a true effect, by simulation."""
    differences = np.random.default_rng(11).normal(effect, sd, (num_runs, num_pairs))
    return (scipy_stats.ttest_1samp(differences, 0, axis=1).pvalue <= level).mean()


@pytest.mark.parametrize(
    ("sd", "level", "power", "expected"),
    # expected: G*Power's figures for dz = 1 and 0.5
    [(0.0296, 0.05, 0.8, 10), (0.0592, 0.05, 0.8, 34), (0.0592, 0.05, 0.95, 54), (0.0296, 0.05 / 24, 0.8, None)],
)
def test_the_needed_pairs_are_the_fewest_that_find_a_difference_so_often(sd, level, power, expected):
    num_pairs = needed_pairs(sd, 0.0296, power, level)
    assert expected in (None, num_pairs)
    noise = 4 * math.sqrt(power * (1 - power) / 40_000)
    assert detection_rate(0.0296, sd, num_pairs, level) >= power - noise
    assert detection_rate(0.0296, sd, num_pairs - 1, level) < power + noise
    assert detectable(sd, num_pairs, power, level) <= 0.0296 < detectable(sd, num_pairs - 1, power, level)
    assert needed_pairs(sd, -0.0296, power, level) == num_pairs


def test_more_spread_and_stricter_tests_need_more_pairs():
    numbers = [[needed_pairs(sd, 0.03, level=0.05 / m) for sd in (0.001, 0.01, 0.02, 0.1)] for m in (1, 5, 30)]
    assert all(row == sorted(row) and row[0] >= 2 for row in [*numbers, *map(list, zip(*numbers, strict=True))])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: needed_pairs(0.01, 0.03, power=80), r"power=80 must be in \(0, 1\)"),
        (lambda: needed_pairs(0.01, 0.03, level=5), "level=5 must be in"),
        (lambda: needed_pairs(0, 0.03), "sd=0 must be above 0"),
        (lambda: needed_pairs(0.01, 0), "difference=0 other than 0"),
        (lambda: upper_sd(0.01, 1), "num_pairs=1 must be at least 2"),
    ],
)
def test_a_plan_out_of_range_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("num_pairs", [2, 4, 12])
def test_the_true_deviation_is_below_its_upper_bound_as_often_as_it_says(num_pairs):
    sds = np.random.default_rng(13).normal(0, 1.5, (20_000, num_pairs)).std(axis=1, ddof=1)
    for confidence in (0.8, 0.95):
        below = np.mean(sds * upper_sd(1.0, num_pairs, confidence) >= 1.5)
        assert below == pytest.approx(confidence, abs=4 * math.sqrt(0.25 / 20_000))


def test_planned_contrasts_are_corrected_for_their_own_number():
    metrics = random_metrics(("source", "toedit", "random", "drop"), names=("loss", "accuracy", "samples/entropy"))
    planned = Planned([["toedit", "random"], ["drop", "source"], ["absent", "source"]], ["loss", "accuracy"])
    found = contrasts(metrics, {"toedit": "source"}, planned)
    assert [(one["arm"], one["against"]) for one in found] == [("toedit", "random")] * 3 + [("drop", "source")] * 3
    tested = [one for one in found if one["metric"] != "samples/entropy"]
    assert [one["p_holm"] for one in tested] == holm([one["p"] for one in tested])
    others = [one for one in found if one["metric"] == "samples/entropy"]
    assert all(one["p_holm"] is None and 0 < one["p"] < 1 for one in others)
    page = "\n".join(contrast_lines(found))
    assert "adjusted for the 4 contrasts that have one" in page
    everything = contrasts(metrics, {}, Planned([["toedit", "random"]]))
    assert [one["p_holm"] for one in everything] == holm([one["p"] for one in everything])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([["toedit"]], "must name two arms, such as"),
        ([["toedit", "toedit"]], "must name two arms"),
        ([["toedit", "source"], ["source", "toedit"]], "twice"),
        ([["toedit", "sauce"]], "contrasts.pairs: there is no arm 'sauce'; did you mean 'source'"),
    ],
)
def test_a_pair_that_cannot_be_compared_is_refused(pairs, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(PLAIN, [f"contrasts={json.dumps({'pairs': pairs})}"])


def test_perplexities_are_compared_by_their_logarithms():
    metrics = {"source": {0: {"a/perplexity": 10.0}, 1: {"a/perplexity": 20.0}}}
    metrics["toedit"] = {seed: {"a/perplexity": 1.03 * one["a/perplexity"]} for seed, one in metrics["source"].items()}
    [one] = contrasts(metrics, {})
    assert one["metric"] == "log a/perplexity"
    assert one["values"] == pytest.approx([math.log(1.03)] * 2)


@pytest.mark.parametrize("values", [[1.0], [0.25, 0.25, 0.25]], ids=["one seed", "no variance"])
def test_where_there_is_nothing_to_test_there_is_no_p(values):
    metrics = {
        "source": {seed: {"loss": 2.0} for seed in range(len(values))},
        "toedit": {seed: {"loss": 2.0 + value} for seed, value in enumerate(values)},
    }
    [one] = contrasts(metrics, {})
    assert (one["p"], one["p_holm"], one["detectable"]) == (None, None, None)
    assert "| - | - | - |" in "\n".join(contrast_lines([one]))
    assert json.loads(json.dumps(one, allow_nan=False)) == one


def test_accuracies_that_differ_by_as_much_with_each_seed_give_no_p():
    """Rounding tells 0.12 - 0.1 and 0.32 - 0.3 apart; taken for a spread, it would be a p of 4e-16."""
    for first, num_docs in itertools.product(range(5, 40), (50, 64, 100)):
        values = [first / num_docs, (first + 1) / num_docs, (first + 7) / num_docs]
        others = [(first + 2) / num_docs, (first + 3) / num_docs, (first + 9) / num_docs]
        metrics = {
            arm: {seed: {"acc": value} for seed, value in enumerate(accuracies)}
            for arm, accuracies in {"source": values, "toedit": others}.items()
        }
        [one] = contrasts(metrics, {})
        assert (one["sd"], one["p"], one["p_holm"], one["detectable"]) == (0, None, None, None)
    metrics["toedit"][2]["acc"] += 1 / num_docs
    [one] = contrasts(metrics, {})
    assert 0 < one["p"] < 1


def test_the_control_of_an_arm_is_its_random_twin_or_the_one_it_names():
    assert read_recipe(PLAIN).controls() == {
        "toedit": "random",
        "toedit-exclude-target": "random-exclude-target",
    }
    three = ["arms.random-3.strategy=random", "arms.random-3.generations=3"]
    assert read_recipe(PLAIN, three).controls()["toedit-3-generations"] == "random-3"
    named = read_recipe(PLAIN, ["arms.drop.control=random-exclude-target"])
    assert named.controls()["drop"] == "random-exclude-target"
    assert "drop" not in chosen_arms(named, ["source", "drop"]).controls()
    with pytest.raises(ConfigError, match="arm 'drop': control='randon' must be another arm; did you mean 'random'"):
        read_recipe(PLAIN, ["arms.drop.control=randon"])
    with pytest.raises(ConfigError, match="arm 'drop': control='drop' must be another arm"):
        read_recipe(PLAIN, ["arms.drop.control=drop"])


def test_the_report_of_a_run_holds_them(tmp_path):
    metrics = random_metrics(("source", "toedit", "random"))
    for arm, seeds in metrics.items():
        for seed, found in seeds.items():
            folder = tmp_path / f"{arm}{seed}"
            folder.mkdir()
            (folder / "metrics.json").write_text(json.dumps(found))
    evaluations = {arm: {seed: tmp_path / f"{arm}{seed}" for seed in seeds} for arm, seeds in metrics.items()}
    results.report(evaluations, {}, {"toedit": "random"}, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["contrasts"] == contrasts(metrics, {"toedit": "random"})
    minus = report["arms"]["toedit"]["minus_source"]["loss"]
    assert minus == interval([metrics["toedit"][s]["loss"] - metrics["source"][s]["loss"] for s in range(5)])
    page = (tmp_path / "report.md").read_text()
    assert "| loss | toedit | random | " in page
    assert "adjusted for the 6 contrasts" in page


@pytest.mark.parametrize(("sd", "expected"), [(0.001, 2), (0.005, 3), (0.01, 4)])
def test_few_pairs_can_be_enough(sd, expected):
    """As many as a simulation of the t-test needs, and no more."""
    rng = np.random.default_rng(0)
    found = {}
    for num_pairs in range(2, expected + 1):
        drawn = rng.normal(0.03, sd, size=(4000, num_pairs))
        found[num_pairs] = (scipy_stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05).mean() >= 0.8
    assert needed_pairs(sd, 0.03) == expected == min(num for num, is_enough in found.items() if is_enough)
