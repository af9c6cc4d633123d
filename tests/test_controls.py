"""The controls: changes at random positions, and tokens from elsewhere; how often, what, and whom they ask.

What they decide is held against a float64 oracle in test_decisions.py. Shape suffixes: V ids.
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

from hf_toedit import ConfigError, PriorError, StaticPrior, ToEditConfig, ToEditTransform, TransformersPrior, summarize
from hf_toedit.editing.decision import random_positions, redraw_at_random
from hf_toedit.editing.tokenization import Tokenization
from hf_toedit.hub.method import what_it_does
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


@pytest.mark.parametrize("fields", [{"strategy": "random", "rate": 0.5}, {"exclude_target": True, "threshold": 0.9}])
@pytest.mark.parametrize("distribution", ["uniform", "unigram"])
def test_new_tokens_follow_the_distribution_without_the_old_one(recorder, ids, distribution, fields):
    prior = recorder
    counts_V = np.bincount(np.concatenate(ids), minlength=len(Tokenization(prior.tokenizer).is_candidate_V))
    weight_V = np.where(Tokenization(prior.tokenizer).is_candidate_V, 1 if distribution == "uniform" else counts_V, 0)
    found_V, expected_V = np.zeros(len(weight_V)), np.zeros(len(weight_V))
    for seed in range(4):
        transform = ToEditTransform(prior, **fields, distribution=distribution, seed=seed)
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


@pytest.mark.parametrize(
    "fields",
    [
        {"stats": "full"},
        {"exclude_target": True, "distribution": "uniform"},
        {"strategy": "random", "rate": 1.0, "distribution": "prior"},
    ],
)
def test_other_edits_need_the_weights(prior, fields):
    with pytest.raises(PriorError, match="can't load the model"):
        ToEditTransform(prior, **fields)({"text": "Some text."})


# the other two cells: random tokens where the prior is certain, its tokens at random positions

ALTERNATIVES = {70: 0.004, 71: 0.002, 72: 0.001}
AT_RANDOM = {"strategy": "random", "rate": RATE}


class Recorder(StaticPrior):
    """The old token has a probability of 0.993 if it comes after an even one, else of 0.5; remembers the positions."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, self.probabilities)
        self.asked = []

    def probabilities(self, input_ids, t):
        self.asked.append((tuple(input_ids[:2]), int(t)))
        p = 0.993 if input_ids[t - 1] % 2 == 0 else 0.5
        scale = (1 - p) / 0.007
        return {int(input_ids[t]): p} | {v: q * scale for v, q in ALTERNATIVES.items() if v != input_ids[t]}


@pytest.fixture
def recorder(prior):
    return Recorder(prior.tokenizer)


def places(before, after):
    return [np.flatnonzero(np.asarray(old) != np.asarray(new)).tolist() for old, new in zip(before, after, strict=True)]


def edited_ids(prior, ids, **fields):
    transform = ToEditTransform(prior, **fields)
    if transform.config.needs_corpus:
        transform.fit([{"input_ids": row} for row in ids])
    return transform({"input_ids": ids})


@pytest.mark.parametrize("distribution", ["unigram", "uniform"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"exclude_target": True},
        {"exclude_target": True, "eligible": "below", "threshold": 0.6, "protect": ["[aeiou]"]},
        {"threshold": 0.4, "top_p": 0.8, "targets": "original"},
    ],
)
def test_random_tokens_come_at_exactly_the_positions_that_resample_changes(recorder, ids, distribution, fields):
    ids = [row for row in ids if not {*ALTERNATIVES} & {*row}]
    own = edited_ids(recorder, ids, **fields)
    other = edited_ids(recorder, ids, **fields, distribution=distribution)
    assert places(ids, own["input_ids"]) == places(ids, other["input_ids"])
    assert own["input_ids"] != other["input_ids"]
    stats = [
        [{**row, "edits": None, "fingerprint": None, "num_near_ties": 0} for row in one["toedit"]]
        for one in (own, other)
    ]
    assert stats[0] == stats[1]
    assert sum(row["num_changed"] for row in stats[0]) > 20
    if "targets" in fields:
        assert [label for row in other["labels"] for label in row] == [token for row in ids for token in row]


def test_random_tokens_in_text_come_at_the_positions_that_resample_changes(demo, human_texts):
    own, other = (
        ToEditTransform(demo, threshold=0.5, **fields)({"text": human_texts[:10]})["toedit"]
        for fields in ({"exclude_target": True}, {"exclude_target": True, "distribution": "uniform"})
    )
    starts = [[[edit["start"] for edit in row["edits"]] for row in one] for one in (own, other)]
    assert starts[0] == starts[1]
    assert sum(map(len, starts[0])) > 20


def test_the_priors_tokens_come_at_exactly_the_positions_that_random_changes(recorder, ids):
    random = edited_ids(recorder, ids, **AT_RANDOM, distribution="uniform")["input_ids"]
    assert not recorder.asked
    found = edited_ids(recorder, ids, **AT_RANDOM, distribution="prior")
    assert places(ids, random) == places(ids, found["input_ids"])
    wanted = sorted((tuple(row[:2]), t) for row, at in zip(ids, places(ids, random), strict=True) for t in at)
    assert sorted(recorder.asked) == wanted
    assert [row["num_visited"] for row in found["toedit"]] == [row["num_changed"] for row in found["toedit"]]


def test_a_token_from_the_prior_is_the_one_that_exclude_target_draws_there(recorder, ids):
    """Where both change a token, they read the same number, in whichever order the rows come."""
    ids = ids[:20]
    everywhere = edited_ids(recorder, ids, exclude_target=True, eligible="below", threshold=1.0)["input_ids"]
    for stats in ("sampled", "full"):
        found = edited_ids(recorder, ids[::-1], **AT_RANDOM, distribution="prior", stats=stats)["input_ids"][::-1]
        for row, new, at in zip(everywhere, found, places(ids, found), strict=True):
            assert [row[t] for t in at] == [new[t] for t in at]


def test_tokens_from_the_prior_follow_its_candidates_without_the_old_one(recorder, ids):
    ids = [row for row in ids if not {*ALTERNATIVES} & {*row}]
    edited = edited_ids(recorder, ids, **AT_RANDOM, distribution="prior", top_k=3, temperature=1.5)["input_ids"]
    changed = changes(ids, edited)[1]
    weight = np.array([0.004, 0.002]) ** (1 / 1.5)  # of the three candidates, one is the old token
    found = [(changed == 70).sum(), (changed == 71).sum()]
    assert sum(found) == len(changed) > 300
    assert scipy_stats.chisquare(found, weight / weight.sum() * len(changed)).pvalue > 1e-3


def test_a_token_that_the_prior_offers_no_other_for_stays(prior, ids):
    certain = StaticPrior(prior.tokenizer, lambda input_ids, t: {int(input_ids[t]): 0.999, 0: 0.001})
    assert Tokenization(prior.tokenizer).is_special_V[0]
    for fields in ({**AT_RANDOM, "distribution": "prior"}, {"exclude_target": True, "distribution": "unigram"}):
        assert edited_ids(certain, ids, **fields, top_k=2)["input_ids"] == ids


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


CELLS = {
    "unigram": (
        {"threshold": 0.5, "exclude_target": True, "distribution": "unigram"},
        "As a control, tokens that the prior gives a probability of at least 0.5 are replaced by draws from the "
        "corpus's unigram distribution.",
    ),
    "prior": (
        {**AT_RANDOM, "distribution": "prior"},
        "As a control, each editable token is replaced, with probability 0.3, by a draw from the prior's 8 "
        "likeliest candidates, other than itself, at temperature 1.5.",
    ),
    "some": (
        {"threshold": 0.5, "distribution": "uniform"},
        "As a control, tokens that the prior gives a probability of at least 0.5 are replaced by draws from a uniform "
        "distribution over all tokens, wherever resampling would change them.",
    ),
    "prior, top_p": (
        {**AT_RANDOM, "distribution": "prior", "top_p": 0.9},
        "As a control, each editable token is replaced, with probability 0.3, by a draw from the smallest set of the "
        "prior's 8 likeliest candidates whose probability reaches 0.9, other than itself, at temperature 1.5.",
    ),
    "random, all": (
        {"strategy": "random", "threshold": 0.5, "exclude_target": True},
        "As a control, tokens at random positions are replaced by draws from the corpus's unigram distribution: as "
        "many as there are that the prior gives a probability of at least 0.5.",
    ),
    "random, some": (
        {"strategy": "random", "threshold": 0.5},
        "As a control, tokens at random positions are replaced by draws from the corpus's unigram distribution: as "
        "many as would change if those that the prior gives a probability of at least 0.5 were resampled.",
    ),
}


@pytest.mark.parametrize("cell", CELLS)
def test_cards_say_what_the_cell_is(cell):
    fields, says = CELLS[cell]
    assert what_it_does(ToEditConfig(**fields)) == says


@pytest.mark.parametrize("cell", ["unigram", breadth("prior")])
def test_the_command_line_edits_the_other_cells(source, tmp_path, cell):
    fields, says = CELLS[cell]
    source.write_text("".join(source.read_text().splitlines(keepends=True)[:6]))
    given = [f"--{name.replace('_', '-')}{'' if value is True else f'={value}'}" for name, value in fields.items()]
    run("edit", source, "--prior", "demo", *given, "--out", tmp_path / "edited", "--progress", "none")
    edited = load_dataset(str(tmp_path / "edited"), split="train")
    transform, rows = ToEditTransform("demo", **fields), Dataset.from_json(str(source))
    if cell == "unigram":
        with pytest.raises(ConfigError, match=r"from the corpus's counts: call transform\.fit\(dataset\) first$"):
            transform.editor  # noqa: B018
        transform.fit(rows)
    assert edited[:] == rows.map(transform, batched=True)[:]
    assert summarize(edited).tokens.num_changed > 10
    card = " ".join((tmp_path / "edited/README.md").read_text().split())
    assert says in card
    assert "the prior, read each text" in card


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rate", ".1"], "--rate 0.1 has no effect on --strategy 'resample': set --strategy 'random'"),
        (
            ["--strategy", "drop", "--distribution", "unigram"],
            "--distribution 'unigram' has no effect on --strategy 'drop': set --strategy 'resample' or 'random'",
        ),
        (
            ["--strategy", "random", "--distribution", "prior"],
            "--strategy 'random' with --distribution 'prior' needs the share of tokens to change: set --rate 0.05",
        ),
    ],
)
def test_a_setting_without_effect_is_refused_in_one_line(source, tmp_path, options, says):
    assert fail("edit", source, "--prior", "demo", *options, "--out", tmp_path / "edited").endswith(says)
