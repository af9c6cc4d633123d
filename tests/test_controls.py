"""The control `random` at a given rate: how often, what, and without the prior.

Shape suffixes: V ids.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from command_line import fail, run
from conftest import breadth
from datasets import Dataset, load_dataset
from scipy import stats as scipy_stats

from hf_toedit import PriorError, ToEditTransform, TransformersPrior, summarize
from hf_toedit.editing.config import ToEditConfig
from hf_toedit.editing.decision import random_positions, redraw_at_random
from hf_toedit.editing.tokenization import Tokenization
from hf_toedit.priors.pretrained import DEMO_FOLDER

RATE = 0.3


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """The demo prior with weights that can't be loaded."""
    folder = tmp_path_factory.mktemp("prior") / "weightless"
    shutil.copytree(DEMO_FOLDER, folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    return TransformersPrior(folder)


@pytest.fixture(scope="module")
def ids(prior, human_texts):
    return [prior.tokenizer.encode(text).ids for text in human_texts]


def changes(before, after):
    """The old and the new id of each changed token."""
    old, new = (np.concatenate([np.asarray(row) for row in rows]) for rows in (before, after))
    return old[old != new], new[old != new]


@pytest.mark.parametrize("distribution", ["uniform", "unigram"])
@pytest.mark.parametrize("stats", ["sampled", breadth("full")])
def test_at_a_given_rate_the_prior_is_not_asked_and_the_share_of_changes_is_binomial(prior, ids, distribution, stats):
    transform = ToEditTransform(prior, strategy="random", rate=RATE, distribution=distribution, stats=stats)
    ds = Dataset.from_dict({"input_ids": ids})
    if distribution == "unigram":
        transform.fit(ds)
    edited = ds.map(transform, batched=True)
    tokens = summarize(edited).tokens
    assert tokens.num_visited == tokens.num_visited_eligible == tokens.num_near_ties == 0
    assert tokens.num_editable > 5000
    assert tokens.num_changed == len(changes(ids, edited["input_ids"])[0])
    assert scipy_stats.binomtest(tokens.num_changed, tokens.num_editable, RATE).pvalue > 1e-3


@pytest.mark.parametrize("distribution", ["uniform", "unigram"])
def test_new_tokens_follow_the_distribution_without_the_old_one(prior, ids, distribution):
    counts_V = np.bincount(np.concatenate(ids), minlength=len(Tokenization(prior.tokenizer).is_candidate_V))
    weight_V = np.where(Tokenization(prior.tokenizer).is_candidate_V, 1 if distribution == "uniform" else counts_V, 0)
    found_V, expected_V = np.zeros(len(weight_V)), np.zeros(len(weight_V))
    for seed in range(4):
        transform = ToEditTransform(prior, strategy="random", rate=0.5, distribution=distribution, seed=seed)
        if distribution == "unigram":
            transform.fit([{"input_ids": row} for row in ids])
        old, new = changes(ids, transform({"input_ids": ids})["input_ids"])
        found_V += np.bincount(new, minlength=len(weight_V))
        for token, count in zip(*np.unique(old, return_counts=True), strict=True):
            others_V = np.where(np.arange(len(weight_V)) == token, 0, weight_V)
            expected_V += count * others_V / others_V.sum()
    assert (found_V[weight_V == 0] == 0).all()
    often = expected_V >= 5
    found, expected = ([*part[often], part[~often].sum()] for part in (found_V, expected_V))
    keep = slice(None) if expected[-1] >= 5 else slice(-1)
    found, expected = np.array(found[keep]), np.array(expected[keep])
    assert scipy_stats.chisquare(found, expected * found.sum() / expected.sum()).pvalue > 1e-3


def test_new_tokens_are_those_of_a_list_with_each_token_as_often_as_it_is_counted():
    """Also where the number falls on the edge of a token, and for tokens that are not counted or are beyond all."""
    counts_V = np.array([3, 0, 2, 5, 0, 1])
    ids_T = np.repeat([0, 1, 2, 3, 5, 9], 60)
    chosen_E = np.random.default_rng(0).permutation(len(ids_T))[:300]
    pick_T = np.empty(len(ids_T))
    expected_T = np.full(len(ids_T), -1)
    for t, old in enumerate(ids_T.tolist()):
        others = [v for v, count in enumerate(counts_V.tolist()) for _ in range(count) if v != old]
        place = t % len(others)
        pick_T[t] = (place + (t % 3) / 3) / len(others)
        if pick_T[t] * len(others) < place:  # rounded
            pick_T[t] = np.nextafter(pick_T[t], 1)
        expected_T[t] = others[place]
    found_T = redraw_at_random(chosen_E, ids_T, pick_T, counts_V)
    is_chosen_T = np.isin(np.arange(len(ids_T)), chosen_E)
    assert found_T.tolist() == np.where(is_chosen_T, expected_T, -1).tolist()
    alone = redraw_at_random(np.array([0]), np.array([2]), np.array([0.5]), np.array([0, 0, 7, 0]))
    assert alone.tolist() == [-1]


def test_random_positions_are_the_editable_ones_with_the_smallest_numbers():
    place_T = np.array([0.5, 0.1, 0.3, 0.0, 0.9, 0.2])
    editable_T = np.array([True, True, True, True, True, False])

    def positions(num_changes=0, **fields):
        return sorted(random_positions(ToEditConfig(strategy="random", **fields), editable_T, place_T, num_changes))

    assert positions(rate=0.3) == [1, 3]
    assert positions(rate=0.0) == []
    assert positions(rate=1.0) == [0, 1, 2, 3, 4]
    assert positions(3) == [1, 2, 3]


def test_random_changes_depend_on_the_row_alone(prior, ids):
    transform = ToEditTransform(prior, strategy="random", rate=RATE, distribution="uniform")
    at_once = transform({"input_ids": ids})["input_ids"]
    assert at_once == [transform({"input_ids": row})["input_ids"] for row in ids]
    assert at_once[::-1] == transform({"input_ids": ids[::-1]})["input_ids"]


def test_the_same_seed_changes_the_same_places_and_a_higher_rate_more(prior, ids):
    def places(**fields):
        transform = ToEditTransform(prior, strategy="random", **fields)
        if transform.config.needs_corpus:
            transform.fit([{"input_ids": row} for row in ids])
        edited = np.concatenate(transform({"input_ids": ids})["input_ids"])
        return set(np.flatnonzero(edited != np.concatenate(ids)))

    some = places(rate=RATE, distribution="uniform")
    assert places(rate=RATE) == some
    assert some < places(rate=0.5)
    assert places(rate=RATE, seed=1) != some != places(rate=RATE, generation=1)
    assert not places(rate=0)


def test_other_edits_need_the_weights(prior):
    with pytest.raises(PriorError, match="can't load the model"):
        ToEditTransform(prior, stats="full")({"text": "Some text."})


@pytest.fixture
def source(tmp_path, human_texts):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in human_texts[:30]), encoding="utf-8")
    return file


@pytest.mark.parametrize("distribution", ["uniform", "unigram"])
def test_the_command_line_edits_at_a_rate_without_the_weights(prior, source, tmp_path, distribution):
    options = (source, "--prior", prior.path, "--strategy", "random", "--rate", ".1", "--distribution", distribution)
    printed = run("edit", *options, "--out", tmp_path / "edited", "--progress", "none")
    edited = load_dataset(str(tmp_path / "edited"), split="train")
    transform = ToEditTransform(prior, strategy="random", rate=0.1, distribution=distribution)
    rows = Dataset.from_json(str(source))
    if distribution == "unigram":
        transform.fit(rows)
    assert edited[:] == rows.map(transform, batched=True)[:]
    stats = json.loads((tmp_path / "edited/stats.json").read_text())
    assert stats["num_visited"] == 0 < stats["num_changed"]
    assert stats["eligible_rate"] is stats["eligible_interval"] is stats["perplexity"] is None
    assert " eligible rate                  - " in printed
    assert "skipped" not in printed
    card = (tmp_path / "edited/README.md").read_text()
    assert "Random tokens were replaced" in card
    assert "with probability 0.1" in card
    assert "the prior, read each text" not in card
    run("report", tmp_path / "edited", "--out", tmp_path / "report.html")
    told = json.loads(run("estimate", *options, "--seconds", "1", "--json"))
    assert told["eligible_rate"] == {"value": None, "low": None, "high": None}
    assert told["changed_rate"]["value"] == pytest.approx(summarize(edited).changed_rate)
    assert "nan" not in run("estimate", *options, "--seconds", "1")


def test_a_rate_of_another_strategy_is_one_line(source, tmp_path):
    line = fail("edit", source, "--prior", "demo", "--rate", ".1", "--out", tmp_path / "edited")
    assert line.endswith("--rate 0.1 has no effect on --strategy 'resample': set --strategy 'random'")
