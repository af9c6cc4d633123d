"""What the report of a recipe says of its numbers, against scipy and brute force."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from conftest import RECIPE_FOLDER
from scipy import stats as scipy_stats

from hf_toedit import ConfigError
from hf_toedit.experiments import results
from hf_toedit.experiments.contrasts import contrast_lines, contrasts, detectable, holm, interval
from hf_toedit.experiments.reading import chosen_arms, read_recipe

SMALL = RECIPE_FOLDER / "small"


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
    assert read_recipe(SMALL).controls() == {
        "toedit": "random",
        "toedit-exclude-target": "random-exclude-target",
    }
    three = ["arms.random-3.strategy=random", "arms.random-3.generations=3"]
    assert read_recipe(SMALL, three).controls()["toedit-3-generations"] == "random-3"
    named = read_recipe(SMALL, ["arms.drop.control=random-exclude-target"])
    assert named.controls()["drop"] == "random-exclude-target"
    assert "drop" not in chosen_arms(named, ["source", "drop"]).controls()
    with pytest.raises(ConfigError, match="arm 'drop': control='randon' must be another arm; did you mean 'random'"):
        read_recipe(SMALL, ["arms.drop.control=randon"])
    with pytest.raises(ConfigError, match="arm 'drop': control='drop' must be another arm"):
        read_recipe(SMALL, ["arms.drop.control=drop"])


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
    assert "adjusted for all 6 contrasts" in page


def test_the_contrasts_of_a_run_that_is_stored():
    arms = json.loads((SMALL / "results.json").read_text())["arms"]
    metrics = {
        arm: {i: {name: one["values"][i] for name, one in found["metrics"].items()} for i in range(5)}
        for arm, found in arms.items()
    }
    found = contrasts(metrics, read_recipe(SMALL).controls())
    for one in found:
        values = [arms[arm]["metrics"][one["metric"]]["values"] for arm in (one["arm"], one["against"])]
        assert one["p"] == pytest.approx(scipy_stats.ttest_rel(*values).pvalue)
        if one["against"] == "source":
            assert one["mean"] == pytest.approx(arms[one["arm"]]["minus_source"][one["metric"]]["mean"])
    label = ("toedit-exclude-target", "random-exclude-target", "in_domain/perplexity")
    [one] = [one for one in found if (one["arm"], one["against"], one["metric"]) == label]
    assert min(one["values"]) > 0
    assert f"{one['mean']:.2f} {one['p']:.3f}" == "1.75 0.014"
    assert one["p_holm"] == pytest.approx(min(1, 16 * one["p"]))
