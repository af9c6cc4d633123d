"""Trees, tokenizers and numbers that are not what they seem, each in one line or with a right result."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from conftest import NUM_IDS, load_tokenizer
from datasets import Dataset
from safetensors.torch import load_file, save_file
from strategies import PROSE, one_line
from tiny_training import make_trainer, some_rows
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hf_toedit import (
    RowError,
    Scores,
    StaticPrior,
    ToEditCallback,
    ToEditError,
    ToEditTransform,
    oasst_threads,
    summarize,
)
from hf_toedit.editing.stats import DatasetStats, TokenStats
from hf_toedit.experiments.evaluation import perplexity
from hf_toedit.priors.pretrained import DEMO_FOLDER

# trees


def message(text, *replies):
    return {"text": text, "role": "prompter", "replies": list(replies)}


def test_a_tree_with_a_cycle_is_one_line():
    inner = message("c")
    tree = message("a", message("b", inner), message("d"))
    inner["replies"].append(tree)
    with pytest.raises(RowError, match="twice, or replies to itself") as error:
        oasst_threads(tree)
    one_line(error)
    twin = message("a", message("a"), message("a"))  # equal messages are not the same message
    assert len(oasst_threads(twin)) == 2


def test_a_tree_whose_branches_meet_is_one_line():
    """Thirty levels would be a billion threads."""
    tree = message("leaf")
    for _ in range(30):
        tree = message("x", tree, tree)
    with pytest.raises(RowError, match="twice"):
        oasst_threads(tree)


def test_a_tree_may_be_deeper_than_python_recurses():
    tree = message("leaf")
    for _ in range(3000):
        tree = message("x", tree)
    [thread] = oasst_threads(tree)
    assert len(thread) == 3001


@pytest.mark.parametrize(
    "tree",
    [
        *("text", None, [message("a")], {1: 2}, {**message("a"), "replies": "abc"}),
        *(
            {**message("a"), "replies": {"x": 1}},
            message("a", "reply"),
            message("a", None),
            {"prompt": message("a", 3)},
        ),
    ],
)
def test_what_is_no_tree_is_one_line(tree):
    with pytest.raises(RowError, match="not an Open Assistant tree") as error:
        oasst_threads(tree)
    one_line(error)


# tokenizers


def with_dropout(dropout):
    tokenizer = Tokenizer.from_str(load_tokenizer("demo").to_str())
    tokenizer.model.dropout = dropout
    return tokenizer


def sampling_unigram(alpha):
    letters = [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyzTI.,'\u2581"]
    pairs = [(a + b, -4.5) for a, _ in letters for b, _ in letters]
    model = models.Unigram([("<unk>", -10.0), *letters, *pairs], 0)
    model.alpha, model.nbest_size = alpha, alpha and 8
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer


@pytest.mark.parametrize("make", [with_dropout, sampling_unigram])
def test_random_segmentation_is_switched_off(make):
    """Edits are those of the same tokenizer without it, in each run; the prior's own tokenizer is left as it is."""
    sampling, plain = make(0.5), make(None)
    assert len({tuple(sampling.encode(PROSE).ids) for _ in range(20)}) > 1

    def edit(tokenizer):
        prior = StaticPrior(tokenizer, lambda ids, t: {int(ids[t]): 0.6, 3 + (int(ids[t]) + t) % 300: 0.3})
        return ToEditTransform(prior, threshold=0.5)({"text": [PROSE, PROSE * 3]})

    expected = edit(plain)
    assert expected["text"][0] != PROSE
    assert all(edit(sampling) == expected for _ in range(3))
    assert len({tuple(sampling.encode(PROSE).ids) for _ in range(20)}) > 1


def test_ids_of_a_sampling_tokenizer_are_edited_alike_in_each_run():
    rows = {"input_ids": [with_dropout(None).encode(PROSE).ids] * 2}
    prior = StaticPrior(with_dropout(0.5), lambda ids, t: {int(ids[t]): 0.6, 3 + (int(ids[t]) + t) % 300: 0.3})
    edited = [ToEditTransform(prior, threshold=0.5)(rows) for _ in range(3)]
    assert edited[0] == edited[1] == edited[2]
    assert edited[0]["toedit"][0]["status"] == "edited"


# numbers


class Improbable:
    """Each target has a log-probability of -1,000 nats."""

    def __init__(self):
        self.tokenizer, self.max_length, self.stride = load_tokenizer("demo"), None, 0

    def score(self, requests, top_k):
        targets = [request.input_ids[request.positions] for request in requests]
        ids = [(target_E[:, None] + 1 + np.arange(top_k)) % NUM_IDS for target_E in targets]
        return [Scores(np.full(len(one), -1000.0), one, np.full(one.shape, math.log(0.1))) for one in ids]


@pytest.mark.filterwarnings("error")
def test_a_perplexity_beyond_709_nats_is_infinite_and_null_in_json():
    row = ToEditTransform(Improbable(), stats="full")({"text": PROSE})
    stats = summarize([row["toedit"]])
    assert stats.perplexity == math.inf
    assert json.loads(json.dumps(stats.to_dict(), allow_nan=False))["perplexity"] is None
    for nats, count in [(709.0, 1), (-3.0 * 7, 7), (745.0 * 2, 2)]:
        tokens = TokenStats(num_visited=count, logprob_sum=-abs(nats))
        with np.errstate(over="ignore"):
            expected = float(np.exp(np.float64(abs(nats) / count)))
        assert DatasetStats(1, {}, 0, tokens).perplexity == pytest.approx(expected)


def test_a_trained_model_of_such_a_perplexity_is_one_line(tmp_path):
    for path in DEMO_FOLDER.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(DEMO_FOLDER / "model.safetensors")
    name = "lm_head.weight" if "lm_head.weight" in tensors else "model.embed_tokens.weight"
    save_file({**tensors, name: tensors[name] * 1e4}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ToEditError, match="too large for a number") as error:
        perplexity(tmp_path, Dataset.from_dict({"text": [PROSE]}), {})
    one_line(error)


def test_training_with_such_a_prior_logs_what_json_can_hold(tmp_path):
    trainer = make_trainer(tmp_path, some_rows(4), [ToEditCallback(Improbable(), threshold=0.3)], max_steps=1)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["toedit/visited"] > 0
    json.dumps({name: value for name, value in logged.items() if name.startswith("toedit")}, allow_nan=False)
