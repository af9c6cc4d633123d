"""The controls of the 2 x 2: is it the position or the token, the input or the target?

Shape suffixes: T tokens of a row, V ids.
"""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from scipy import stats as scipy_stats

from hf_toedit import PriorError, ToEditTransform, TransformersPrior, revert, summarize
from hf_toedit.editing.tokenization import Tokenization

RATE = 0.3


class Unloadable:
    """The demo prior's tokenizer, without a model."""

    name, revision = "unloadable", "1"

    def __init__(self):
        prior = TransformersPrior("demo")
        self.tokenizer, self.max_length, self.stride = prior.tokenizer, prior.max_length, prior.stride

    def score(self, requests, top_k):
        raise PriorError("the model was loaded")


@pytest.fixture(scope="module")
def prior():
    return Unloadable()


@pytest.fixture(scope="module")
def ids(prior, human_texts):
    return [prior.tokenizer.encode(text).ids for text in human_texts]


def changes(before, after):
    """The old and the new id of each changed token."""
    old, new = (np.concatenate([np.asarray(row) for row in rows]) for rows in (before, after))
    return old[old != new], new[old != new]


@pytest.mark.parametrize("distribution", ["uniform", "unigram"])
@pytest.mark.parametrize("stats", ["sampled", "full"])
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


def test_random_changes_depend_on_the_row_alone(prior, ids):
    transform = ToEditTransform(prior, strategy="random", rate=RATE, distribution="uniform")
    at_once = transform({"input_ids": ids})["input_ids"]
    assert at_once == [transform({"input_ids": row})["input_ids"] for row in ids]
    assert at_once[::-1] == transform({"input_ids": ids[::-1]})["input_ids"]


def rows_of(ids):
    """Rows with all kinds of masks: with labels, padded, of a pair, packed."""
    first, second = ids[0][:40], ids[1][:30]
    num_first, num_padded = len(first), 5
    return {
        "plain": {"input_ids": first},
        "labels": {"input_ids": first, "labels": [-100] * 10 + first[10:]},
        "padded": {
            "input_ids": [0] * num_padded + first,
            "attention_mask": [0] * num_padded + [1] * num_first,
        },
        "pair": {"input_ids": first, "completion_mask": [0] * 10 + [1] * (num_first - 10)},
        "assistant": {"input_ids": first, "assistant_masks": [0] * 20 + [1] * (num_first - 20)},
        "packed": {"input_ids": first + second, "seq_lengths": [num_first, len(second)]},
    }


@pytest.mark.parametrize("kind", ["plain", "labels", "padded", "pair", "assistant", "packed"])
@pytest.mark.parametrize("batched", [True, False])
def test_original_targets_change_the_input_and_no_label(prior, ids, kind, batched):
    row = rows_of(ids)[kind]
    ds = Dataset.from_list([row] * 2)
    options = {"strategy": "random", "rate": RATE, "distribution": "uniform"}
    edited = ds.map(ToEditTransform(prior, targets="original", **options), batched=batched)
    follows = ds.map(ToEditTransform(prior, **options), batched=batched)
    assert edited["input_ids"][:] == follows["input_ids"][:] != ds["input_ids"][:]
    context = np.zeros(len(row["input_ids"]), dtype=bool)
    for name in {"attention_mask", "completion_mask", "assistant_masks"} & row.keys():
        context |= np.array(row[name]) == 0
    expected = row.get("labels", np.where(context, -100, row["input_ids"]).tolist())
    assert edited["labels"][:] == [expected] * 2
    back = edited.map(revert, batched=batched)
    assert back.column_names == ds.column_names
    assert back[:] == ds[:]
