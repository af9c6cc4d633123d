"""What no prior may answer: numbers that can't be log-probabilities are one line, wherever they come from."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from conftest import NUM_IDS, load_tokenizer
from strategies import PROSE, one_line
from tiny_training import make_trainer, some_rows
from vllm_server import serving

from hf_toedit import PriorError, Scores, StaticPrior, ToEditCallback, ToEditTransform, VLLMServerPrior

FIELDS = {"threshold": 0.3, "stats": "full"}


def flat(input_ids, t):
    """Two thirds of the targets are likely; the others are no candidates."""
    target, sure = int(input_ids[t]), int(input_ids[:t].sum()) % 3 > 0
    return {target: 0.9 if sure else 1e-4, (target + t) % NUM_IDS: 0.05, NUM_IDS - 1 - target % 7: 0.02}


class Spoiled:
    """A prior whose scores are changed on their way."""

    def __init__(self, spoil):
        self.prior, self.spoil = StaticPrior(load_tokenizer("demo"), flat), spoil
        self.tokenizer, self.max_length, self.stride = self.prior.tokenizer, 200, 100

    def score(self, requests, top_k):
        arrays = [(s.logprob_E, s.candidate_ids_EK, s.candidate_logprob_EK) for s in self.prior.score(requests, top_k)]
        return [Scores(*self.spoil(*one)) for one in arrays]


def with_entry(array, place, value):
    changed = array.copy()
    changed[place] = value
    return changed


IMPOSSIBLE = {
    "raw logits": (lambda p, ids, c: (p + 20, ids, c + 20), "none can be above 0"),
    "probabilities": (lambda p, ids, c: (np.exp(p), ids, np.exp(c)), "none can be above 0"),
    "huge": (lambda p, ids, c: (p, ids, with_entry(c, (3, 0), 1e308)), r"one is 1e\+308, and none"),
    "infinite": (lambda p, ids, c: (with_entry(p, 3, math.inf), ids, c), "one is inf, and none"),
    "a sum above 1": (lambda p, ids, c: (p, ids, np.where(ids == ids[:, :1], c, -0.5)), "sum to"),
    "no order": (lambda p, ids, c: (p, ids[:, ::-1], c[:, ::-1]), "not ordered"),
    "a token twice": (lambda p, ids, c: (p, with_entry(ids, (0, 7), ids[0, 6]), c), "different token ids"),
    "a negative token": (lambda p, ids, c: (p, with_entry(ids, (0, 7), -1), c), "different token ids"),
    "floats for tokens": (lambda p, ids, c: (p, ids.astype(float), c), "must be integers"),
    "two numbers for one token": (lambda p, ids, c: (p - 1, ids, c), "as the target and another as a candidate"),
    "fewer candidates": (lambda p, ids, c: (p, ids[:, :5], c[:, :5]), "5 candidates instead of 8"),
    "too many candidates": (
        lambda p, ids, c: (p, np.c_[ids, 300 + ids[:, :1]], np.c_[c, np.full(len(c), -99.0)]),
        "9 candidates instead of 8",
    ),
    "fewer positions": (lambda p, ids, c: (p[1:], ids, c), "other shapes"),
    "one candidate list": (lambda p, ids, c: (p, ids[0], c[0]), "the candidates have shape"),
}


@pytest.mark.parametrize(("spoil", "told"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_scores_that_no_distribution_has_are_one_line(spoil, told):
    right = ToEditTransform(Spoiled(lambda *arrays: arrays), **FIELDS)({"text": PROSE})
    assert right["toedit"]["status"] == "edited"
    with pytest.raises(PriorError, match=told) as error:
        ToEditTransform(Spoiled(spoil), **FIELDS)({"text": PROSE})
    assert one_line(error).startswith("Spoiled returned invalid log-probabilities: ")
    assert "Prior.score" in str(error.value)


def test_a_target_above_the_first_candidate_is_one_line():
    def spoil(p, ids, c):
        others = np.arange(400, 408) + 0 * ids
        return np.full_like(p, math.log(0.4)), others, np.full_like(c, math.log(0.01))

    with pytest.raises(PriorError, match="likelier than the likeliest candidate") as error:
        ToEditTransform(Spoiled(spoil), **FIELDS)({"text": PROSE})
    one_line(error)


def test_one_answer_for_two_requests_is_told():
    prior = Spoiled(lambda *arrays: arrays)
    texts = [PROSE, PROSE[::-1]]
    prior.score = lambda requests, top_k: Spoiled.score(prior, requests[:1], top_k)
    with pytest.raises(PriorError, match="answered 1 of 2 requests"):
        ToEditTransform(prior, **FIELDS)({"text": texts})


def test_truncation_in_training_believes_no_such_scores_either(tmp_path):
    callback = ToEditCallback(Spoiled(IMPOSSIBLE["raw logits"][0]), select={"high": 0.3})
    trainer = make_trainer(tmp_path, some_rows(4), [callback], max_steps=1)
    with pytest.raises(PriorError, match="none can be above 0"):
        trainer.train()


def test_what_rounding_does_is_believed():
    """In float16, and 1e-4 above 0."""
    rounded = Spoiled(lambda p, ids, c: (p.astype(np.float16) + 0.0, ids, c.astype(np.float16) + 0.0))
    certain = StaticPrior(rounded.tokenizer, lambda ids, t: {int(ids[t]): 1.0001})
    for prior in (rounded, certain):
        assert ToEditTransform(prior, **FIELDS)({"text": PROSE})["toedit"]["num_visited_eligible"]


@pytest.mark.parametrize("field", ["logprob_E", "candidate_logprob_EK"])
def test_a_nan_anywhere_skips_the_row_and_no_other(field):
    """Also among the candidates: it would take part in a draw."""
    texts = [PROSE, "Another text of some words, and some more."]

    def spoil(p, ids, c):
        is_first = len(p) > 40
        return (
            with_entry(p, 3, math.nan) if is_first and field == "logprob_E" else p,
            ids,
            with_entry(c, (3, 4), math.nan) if is_first and field != "logprob_E" else c,
        )

    edited = ToEditTransform(Spoiled(spoil), **FIELDS)({"text": texts})
    assert edited["text"][0] == texts[0]
    assert [struct["status"] for struct in edited["toedit"]] == ["skipped:nonfinite", "edited"]


def test_an_impossible_candidate_is_no_nan():
    """-inf is a probability of 0: the row is edited, as with a candidate of probability 1e-30."""
    spoiled = Spoiled(lambda p, ids, c: (p, ids, with_entry(c, (slice(None), 7), -math.inf)))
    right = Spoiled(lambda *arrays: arrays)
    edited = [ToEditTransform(prior, **FIELDS)({"text": PROSE}) for prior in (spoiled, right)]
    assert edited[0]["text"] == edited[1]["text"] != PROSE


# a server


def every(change):
    """A spoilt table of a server: `change` of each entry's log-probability."""
    return lambda table: [
        column and {key: {"logprob": change(entry["logprob"])} for key, entry in column.items()} for column in table
    ]


def first_five(table):
    return [column and dict(list(column.items())[:5]) for column in table]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (every(lambda value: value + 20), "above 0.*--logprobs-mode raw_logprobs.*--max-logprobs"),
        (every(lambda value: 1e308), "above 0"),
        (every(lambda value: math.exp(value)), "above 0"),
        (every(lambda value: -0.1), "sum to .*--logprobs-mode raw_logprobs"),
        (every(lambda value: True), "no prompt_logprobs"),
        (every(lambda value: False), "no prompt_logprobs"),
        (every(lambda value: str(value)), "no prompt_logprobs"),
        (every(lambda value: 10**400), "no prompt_logprobs"),
        (first_five, "5 candidates instead of 8"),
        (lambda table: [*table[:9], first_five(table)[9], *table[10:]], "candidates instead of 8"),
        (lambda table: [column and {**column, "999999": {"logprob": -0.0001}} for column in table], "another model"),
    ],
    ids=["logits", "1e308", "probabilities", "sum", "true", "false", "text", "10**400", "five", "some five", "ids"],
)
def test_a_server_that_gives_no_log_probabilities_is_told_the_option(spoil, told):
    def distribution(input_ids, t):
        return {int(input_ids[t]): 0.4, **dict.fromkeys(range(300, 310), 0.01)}

    server = serving(StaticPrior(load_tokenizer("demo"), distribution), spoil=spoil)
    with server as (url, _), pytest.raises(PriorError, match=told) as error:
        ToEditTransform(VLLMServerPrior("demo", url), **FIELDS)({"text": PROSE})
    assert "raw_logprobs" in one_line(error) or url in str(error.value)


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_server_without_a_finite_number_skips_the_row(value):
    def spoil(table):
        key = list(table[9])[1]
        table[9][key]["logprob"] = value
        return table

    assert json.loads(json.dumps(value)) != 0  # Python's JSON knows NaN
    with serving(StaticPrior(load_tokenizer("demo"), flat), spoil=spoil) as (url, _):
        row = ToEditTransform(VLLMServerPrior("demo", url), **FIELDS)({"text": PROSE})
    assert (row["text"], row["toedit"]["status"]) == (PROSE, "skipped:nonfinite")
