"""What the README of the recipe `small` says of its run is what results.json holds."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import RECIPE_FOLDER
from datasets import load_from_disk

from hf_toedit.experiments.contrasts import detectable, needed_pairs, upper_sd
from hf_toedit.experiments.data import load as load_data
from hf_toedit.experiments.reading import read_recipe

scipy_stats = pytest.importorskip("scipy.stats")

SMALL = RECIPE_FOLDER / "small"
PAGE = (SMALL / "README.md").read_text(encoding="utf-8")
RECIPE = read_recipe(SMALL)
RESULTS = json.loads((SMALL / "results.json").read_text(encoding="utf-8"))
ARMS = RESULTS["arms"]
PLACES = {"in_domain": "in domain", "out_of_domain": "out of domain"}
SAMPLED = ["distinct_1", "distinct_2", "entropy", "compression_ratio", "js_divergence", "over_concentration"]
PAIRS = [tuple(pair) for pair in RECIPE.contrasts.pairs]
GRID = [  # prior's tokens, corpus's tokens
    ("toedit-exclude-target", "toedit-exclude-target-unigram"),  # at positions that the prior is certain of
    ("random-exclude-target-prior", "random-exclude-target"),  # at random positions
]
AT_CERTAIN_POSITIONS, AT_PRIORS_TOKENS = GRID[0], (GRID[0][0], GRID[1][0])
PLANNED = [(pair, place) for pair in PAIRS for place in PLACES]


def values(arm, metric):
    return np.array(ARMS[arm]["metrics"][metric]["values"])


def differences(pair, place):
    """In nats per token."""
    one, other = (np.log(values(arm, f"{place}/perplexity")) for arm in pair)
    return one - other


def p_value(pair, place):
    return float(scipy_stats.ttest_1samp(differences(pair, place), 0).pvalue)


def holm(p_values):
    """Adjusted p-values by the definition: the step-down maximum of (m - rank) p."""
    m, ranked = len(p_values), sorted(p_values)
    return [min(1.0, max((m - rank) * ranked[rank] for rank in range(ranked.index(p) + 1))) for p in p_values]


ADJUSTED = dict(zip(PLANNED, holm([p_value(*one) for one in PLANNED]), strict=True))


def detection_rate(effect, deviation, n, level):
    """How often a paired t-test finds a true effect (noncentral t)."""
    shift, edge = effect * math.sqrt(n) / deviation, scipy_stats.t.isf(level / 2, n - 1)
    return scipy_stats.nct.sf(edge, n - 1, shift)


def interval(sample):
    """Mean, low and high by scipy."""
    low, high = scipy_stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    return [float(np.mean(sample)), float(low), float(high)]


def shown_p(p):
    return "< .0001" if p < 0.0001 else "1" if round(p, 4) == 1 else f"{p:.4f}"[1:]


def rows_of(title):
    """The rows of the table that begins with this header, as lists of cells."""
    table = PAGE[PAGE.index(f"| {title} |") :].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def numbers_in(cell):
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", cell)]


def test_all_arms_of_the_recipe_ran_with_all_its_seeds():
    assert list(ARMS) == list(RECIPE.arms)
    for arm in ARMS.values():
        assert {len(metric["values"]) for metric in arm["metrics"].values()} == {len(RECIPE.seeds)}


def test_the_results_hold_the_contrasts_that_were_planned():
    tested = {
        ((one["arm"], one["against"]), one["metric"]): one for one in RESULTS["contrasts"] if one["p_holm"] is not None
    }
    assert tested.keys() == {(pair, f"log {place}/perplexity") for pair, place in PLANNED}
    for pair, place in PLANNED:
        one = tested[pair, f"log {place}/perplexity"]
        assert one["values"] == pytest.approx(differences(pair, place).tolist())
        assert one["p_holm"] == pytest.approx(ADJUSTED[pair, place])


def test_the_needed_seeds_are_those_of_the_pilot():
    assert needed_pairs(upper_sd(0.0091, 4), math.log(1.03), level=0.05 / 24) == len(RECIPE.seeds) == 9
    assert "0.0296, power=0.8, level=0.05 / 24" in PAGE
    assert needed_pairs(upper_sd(0.0091, 4), math.log(1.03), level=0.05 / len(PLANNED)) == 10
    assert f"power=0.8, level=0.05 / {len(PLANNED)}) for sd in (0.0087, 0.0139, 0.0207)] == [6, 9, 13]" in PAGE
    for sd, percent in {0.0087: 1.7, 0.0139: 2.7, 0.0207: 4.1}.items():
        assert round(100 * math.expm1(detectable(sd, 9, level=0.05 / len(PLANNED))), 1) == percent


def test_the_table_of_perplexities_is_that_of_its_run():
    rows = rows_of("arm | changed tokens | perplexity in domain | out of domain")
    assert [row[0].strip("`") for row in rows] == list(ARMS)
    for name, changed, *places in rows:
        arm = ARMS[name.strip("`")]
        rates = [edit["changed_rate"] for edit in arm["edits"]]
        assert changed == (f"{100 * rates[0]:.2f} %" if rates else "0")
        for cell, place in zip(places, PLACES, strict=True):
            expected = interval(values(name.strip("`"), f"{place}/perplexity"))
            assert numbers_in(cell) == [round(number, 2) for number in expected]


@pytest.mark.parametrize("place", PLACES)
def test_the_table_of_contrasts_is_that_of_its_run(place):
    header = "difference | perplexity | higher in | sd | p | p (Holm) | detectable"
    rows = rows_of(f"contrast, {PLACES[place]} | {header}")
    assert [tuple(re.findall(r"`([\w-]+)`", row[0])) for row in rows] == PAIRS
    for pair, (_, difference, ratio, higher, deviation, p, p_holm, smallest) in zip(PAIRS, rows, strict=True):
        d = differences(pair, place)
        assert numbers_in(difference) == pytest.approx([round(number, 4) for number in interval(d)], abs=1e-9)
        assert (ratio, higher) == (f"{100 * math.expm1(d.mean()):+.1f} %", f"{(d > 0).sum()} of {len(d)}")
        assert deviation == f"{d.std(ddof=1):.4f}"
        assert (p, p_holm) == (shown_p(p_value(pair, place)), shown_p(ADJUSTED[pair, place]))
        [percent] = numbers_in(smallest)
        rates = [
            detection_rate(math.log1p((percent + off) / 100), d.std(ddof=1), len(d), 0.05 / len(PLANNED))
            for off in (-0.06, 0.06)
        ]
        assert rates[0] <= 0.8 <= rates[1]


def test_the_table_of_samples_is_that_of_its_run():
    rows = rows_of("arm | " + " | ".join(SAMPLED))
    assert [row[0].strip("`") for row in rows] == list(ARMS)
    for arm, *cells in rows:
        for cell, name in zip(cells, SAMPLED, strict=True):
            expected = [round(number, 4) for number in interval(values(arm.strip("`"), f"samples/{name}"))]
            assert numbers_in(cell) == pytest.approx(expected, abs=1e-9)


SENTENCES = {  # what the README says it costs, in domain
    (
        "toedit-exclude-target",
        "random-exclude-target",
    ): "costs 9.3 % more perplexity in domain than",
    ("uniform-exclude-target", "random-exclude-target"): "Uniform tokens at random positions cost 1.3 % more than",
    ("toedit-exclude-target-unigram", "random-exclude-target"): "+11.9 %",
    ("toedit-exclude-target", "random-exclude-target-prior"): "+12.1 %",
    ("toedit-exclude-target", "toedit-exclude-target-unigram"): "estimate is the same, 2.4 % less in all nine seeds",
    ("random-exclude-target-prior", "random-exclude-target"): "the prior's tokens cost 2.5 % less than the corpus's",
    ("truncate", "source"): "(3.6 % of all), and costs 9.1 %",
    ("toedit-exclude-target-clean", "source"): "`toedit-exclude-target` costs 4.2 %",
    ("toedit-exclude-target", "source"): "4.2 % instead of 15.9 %",
    ("random-exclude-target-clean", "source"): "`random-exclude-target` 3.1 %",
    ("random-exclude-target", "source"): "3.1 % instead of 6.1 %",
    ("toedit", "source"): "its perplexity in domain is 0.2 % above that of the source",
    ("toedit", "random"): "0.1 % above that of as many random changes",
    ("drop", "source"): "(`drop`) costs 1.2 %",
}


def test_its_sentences_are_true():
    page = re.sub(r"\s+", " ", PAGE)
    for pair, sentence in SENTENCES.items():
        assert sentence in page
        assert f"{abs(100 * math.expm1(differences(pair, 'in_domain').mean())):.1f} %" in sentence
    found = {one for one, p in ADJUSTED.items() if p < 0.05}
    assert {pair for pair, place in found if place == "out_of_domain"} == {PAIRS[5], AT_PRIORS_TOKENS}
    assert {pair for pair, place in set(ADJUSTED) - found if place == "in_domain"} == {*PAIRS[:2], AT_CERTAIN_POSITIONS}
    assert f"{100 * math.expm1(differences(AT_PRIORS_TOKENS, 'out_of_domain').mean()):.1f} % more than random" in page
    assert f"{-100 * math.expm1(differences(PAIRS[5], 'out_of_domain').mean()):.1f} % lower" in page
    spread = [
        differences(pair, "in_domain").std(ddof=1) for pair in (PAIRS[2], PAIRS[3], PAIRS[4], ("truncate", "source"))
    ]
    assert [f"{sd:.4f}"[1:] in page for sd in spread] == [True] * 4
    assert max(spread[:3]) < upper_sd(0.0091, 4)
    rates = [ARMS["toedit"]["edits"][0]["changed_rate"], ARMS["toedit-exclude-target"]["edits"][0]["changed_rate"]]
    assert [round(10_000 * rates[0]), round(1000 * rates[1])] == [9, 35]


def test_the_2_x_2_is_that_of_its_run():
    rows = rows_of("perplexity in domain, against `source` | the prior's tokens | the corpus's tokens | difference")
    cells = [
        [f"{100 * math.expm1(differences((arm, 'source'), 'in_domain').mean()):+.1f} %" for arm in arms]
        for arms in GRID
    ]
    assert [row[1:3] for row in rows[:2]] == cells
    by_token = [
        f"{100 * math.expm1(differences((prior, corpus), 'in_domain').mean()):+.1f} %" for prior, corpus in GRID
    ]
    by_position = [
        f"{100 * math.expm1(differences(pair, 'in_domain').mean()):+.1f} %" for pair in zip(*GRID, strict=True)
    ]
    assert [row[3] for row in rows] == [*by_token, ""]
    assert rows[2][1:3] == by_position
    contrasts = {*GRID, *zip(*GRID, strict=True)}
    assert contrasts == {*PAIRS[-4:]}
    for pair in contrasts:
        assert abs(np.sign(differences(pair, "in_domain")).sum()) == len(RECIPE.seeds)
        assert (ADJUSTED[pair, "in_domain"] < 1e-4) == (pair != AT_CERTAIN_POSITIONS)
    assert f"is not significant (p = {ADJUSTED[AT_CERTAIN_POSITIONS, 'in_domain']:.3f})".replace("0.", ".") in PAGE
    interaction = differences(GRID[0], "in_domain") - differences(GRID[1], "in_domain")
    assert "by {:.4f} [{:+.4f}, {:+.4f}]".format(*interval(interaction)) in PAGE


def test_its_sentences_on_samples_are_true():
    mean = {name: {arm: values(arm, f"samples/{name}").mean() for arm in ARMS} for name in SAMPLED}
    changed = [arm for arm in ARMS if "exclude-target" in arm or arm == "truncate"]
    for name in ("distinct_1", "entropy", "js_divergence"):
        assert all(mean[name][arm] > mean[name]["source"] for arm in changed)
    for name in ("distinct_1", "entropy"):
        for end in ("", "-clean"):
            assert mean[name][f"random-exclude-target{end}"] > mean[name][f"toedit-exclude-target{end}"]
        for prior, corpus in GRID:
            assert mean[name][prior] < mean[name][corpus]
        for certain, anywhere in zip(*GRID, strict=True):
            assert mean[name][certain] < mean[name][anywhere]
        assert interval(values("drop", f"samples/{name}"))[2] > interval(values("source", f"samples/{name}"))[1]
        assert mean[name]["drop"] == min(mean[name].values())
    assert mean["compression_ratio"]["truncate"] == max(mean["compression_ratio"].values())


@pytest.mark.usefixtures("folder")
def test_the_recipe_takes_the_first_rows_as_its_run_did():
    rows = [f"{i:05} " + "x" * 1994 for i in range(1000)]
    Path("train.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    for data, first, number in ((RECIPE.data[0], 0, 500), (RECIPE.evaluate.held_out["in_domain"], 950, 50)):
        folder = Path(f"load-{first}")
        folder.mkdir()
        load_data([dataclasses.replace(data, source="train.jsonl")], folder)
        assert load_from_disk(folder / "data")["text"] == rows[first : first + number]
