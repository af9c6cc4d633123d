"""What the README of the recipe `small` says of its run is what results.json holds."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import RECIPE_FOLDER, ROOT
from datasets import load_from_disk

from hf_toedit.experiments.data import load as load_data
from hf_toedit.experiments.reading import read_recipe

scipy_stats = pytest.importorskip("scipy.stats")

SMALL = RECIPE_FOLDER / "small"
PAGE = (SMALL / "README.md").read_text(encoding="utf-8")
ARMS = json.loads((SMALL / "results.json").read_text(encoding="utf-8"))["arms"]
PLACES = ("in_domain", "out_of_domain")
CONTROLS = {"toedit": "random", "toedit-exclude-target": "random-exclude-target"}
CONTRASTS = [*((arm, "source") for arm in ARMS if arm != "source"), *CONTROLS.items()]


def values(arm, place):
    return np.array(ARMS[arm]["metrics"][f"{place}/perplexity"]["values"])


def differences(pair, place):
    return values(pair[0], place) - values(pair[1], place)


def p_value(pair, place):
    return float(scipy_stats.ttest_rel(values(pair[0], place), values(pair[1], place)).pvalue)


def holm(p_values):
    """Adjusted p-values by the definition: the step-down maximum of (m - rank) p."""
    m = len(p_values)
    ranked = sorted(p_values)
    return [min(1.0, max((m - rank) * ranked[rank] for rank in range(ranked.index(p) + 1))) for p in p_values]


def detection_rate(effect, deviation, n=5):
    """How often a paired t-test at 5 % finds a true effect (noncentral t)."""
    shift, edge = effect * math.sqrt(n) / deviation, scipy_stats.t.ppf(0.975, n - 1)
    return scipy_stats.nct.sf(edge, n - 1, shift) + scipy_stats.nct.cdf(-edge, n - 1, shift)


def test_the_table_of_contrasts_is_that_of_its_run():
    rows = re.findall(r"^\| `([\w-]+)` minus `([\w-]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert [row[:2] for row in rows] == CONTRASTS
    adjusted = holm([p_value(pair, place) for place in PLACES for pair in CONTRASTS])
    for (arm, other, cells), after in zip(rows, adjusted[: len(rows)], strict=True):
        d = differences((arm, other), "in_domain")
        mean, higher, deviation, p, p_holm, detectable = cells.split(" | ")
        assert (mean, deviation) == (f"{d.mean():+.2f}", f"{d.std(ddof=1):.2f}")
        assert higher == f"{(d > 0).sum()} of 5"
        assert float(p) == round(p_value((arm, other), "in_domain"), 3)
        assert float(p_holm) == round(after, 3)
        assert detection_rate(float(detectable), d.std(ddof=1)) == pytest.approx(0.8, abs=0.03)


def test_its_sentences_on_contrasts_are_true():
    every = {(pair, place): p_value(pair, place) for place in PLACES for pair in itertools.combinations(ARMS, 2)}
    assert len(every) == 42
    own = tuple(sorted(("toedit-exclude-target", "random-exclude-target"), key=list(ARMS).index))
    assert round(holm(list(every.values()))[list(every).index((own, "in_domain"))], 2) == 0.56
    assert "all 42 pairs of arms, .56" in PAGE
    assert min(p_value(pair, "out_of_domain") for pair in CONTRASTS) > 0.33
    at_2 = [detection_rate(2.0, differences(pair, "in_domain").std(ddof=1)) for pair in CONTRASTS]
    assert sum(rate >= 0.8 for rate in at_2) == 3
    for place, bounds in (("in_domain", (1.6, 4.5)), ("out_of_domain", (4.3, 13.6))):
        deviations = [differences(pair, place).std(ddof=1) for pair in CONTRASTS]
        for bound, deviation in zip(bounds, (min(deviations), max(deviations)), strict=True):
            assert detection_rate(bound, deviation) == pytest.approx(0.8, abs=0.02)
            assert f"{bound}" in PAGE
    assert round(values("source", "in_domain").std(ddof=1), 1) == 1.9


def test_its_eligible_rates_by_generation_are_those_of_its_run():
    edits = ARMS["toedit-3-generations"]["edits"]
    rates = np.array([[edit["eligible_rate"] for edit in edits if edit["generation"] == g] for g in range(3)])
    assert ", ".join(f"{rate:.4f}"[1:] for rate in rates.mean(axis=1)) in PAGE
    assert (rates[2] < rates[0]).all()
    visited = np.mean([edit["num_visited"] for edit in edits])
    assert f"{math.sqrt(rates.mean() * (1 - rates.mean()) / visited):.4f}"[1:] in PAGE
    changed = [[edit["changed_rate"] for edit in edits if edit["generation"] == g] for g in range(3)]
    assert {f"{np.mean(one):.4f}" for one in changed} == {"0.0007"}


def test_the_figures_of_the_docs_are_those_of_its_run():
    page = re.sub(r"\s+", " ", (ROOT / "docs/results.md").read_text(encoding="utf-8"))
    mean, p, adjusted = re.search(
        r"\(perplexity (\S+); p = (\S+), or (\S+) when corrected for 16 contrasts\)", page
    ).groups()
    pair = CONTRASTS[-1]
    p_values = [p_value(pair, place) for place in PLACES for pair in CONTRASTS]
    assert mean == f"{differences(pair, 'in_domain').mean():+.2f}"
    assert (differences(pair, "in_domain") > 0).all()
    assert (float(p), float(adjusted)) == (
        round(p_value(pair, "in_domain"), 3),
        round(holm(p_values)[len(CONTRASTS) - 1], 2),
    )


@pytest.mark.usefixtures("folder")
def test_the_recipe_takes_the_first_rows_as_its_run_did():
    rows = [f"{i:05} " + "x" * 1994 for i in range(1000)]
    Path("train.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    recipe = read_recipe(SMALL)
    for data, first, number in ((recipe.data[0], 0, 500), (recipe.evaluate.held_out["in_domain"], 950, 50)):
        folder = Path(f"load-{first}")
        folder.mkdir()
        load_data([dataclasses.replace(data, source="train.jsonl")], folder)
        assert load_from_disk(folder / "data")["text"] == rows[first : first + number]
