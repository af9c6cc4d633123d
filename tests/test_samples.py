"""The texts that trained models write, and their measurements."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from tiny_training import tokenizer_with_padding
from transformers import AutoModelForCausalLM

from hf_toedit import ConfigError
from hf_toedit.experiments.reading import read_recipe
from hf_toedit.experiments.recipe import Samples
from hf_toedit.experiments.samples import measure_texts, write_and_measure, write_texts
from hf_toedit.measure import NGrams, measure
from hf_toedit.priors.pretrained import DEMO_FOLDER

PLAIN = Path(__file__).parent / "recipes" / "plain"
TEXTS = ["To be, or not to be: that is the question.", "The rest is silence.", "To be is to do."]
HELD_OUT = Dataset.from_dict({"text": ["The question is not the rest.", "Silence!"]})


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(DEMO_FOLDER)


def test_a_model_writes_so_many_texts_and_the_seed_decides_which(model):
    tokenizer, settings = tokenizer_with_padding(), Samples(num=5, new_tokens=24)
    texts = write_texts(model, tokenizer, settings, 3)
    assert len(texts) == 5
    assert write_texts(model, tokenizer, settings, 3) == texts != write_texts(model, tokenizer, settings, 4)
    assert all(tokenizer.eos_token not in text for text in texts)
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert 16 < min(lengths) <= max(lengths) <= 24  # a text may encode to fewer tokens than it was written with


def test_no_text_ends_early_even_if_the_model_would(model, monkeypatch):
    tokenizer, head = tokenizer_with_padding(), model.get_output_embeddings()
    forward = head.forward

    def wants_to_end(hidden):
        logits = forward(hidden)
        logits[..., tokenizer.eos_token_id] += 100
        return logits

    monkeypatch.setattr(head, "forward", wants_to_end)
    assert all(len(text) > 8 for text in write_texts(model, tokenizer, Samples(num=5, new_tokens=24), 3))


def test_texts_longer_than_the_model_reads_are_refused(model):
    tokenizer = tokenizer_with_padding()
    with pytest.raises(ConfigError, match=r"too few for a start and evaluate.samples.new_tokens=1,000: lower it"):
        write_texts(model, tokenizer, Samples(num=1, new_tokens=1000), 0)


def test_the_measurements_of_texts_against_brute_force():
    words = [re.findall(r"\w+|[^\w\s]+", text.lower()) for text in TEXTS]
    found = measure_texts(TEXTS, HELD_OUT)
    for n in (1, 2, 3):
        grams = [tuple(line[i : i + n]) for line in words for i in range(len(line) - n + 1)]
        assert found[f"distinct_{n}"] == len({*grams}) / len(grams)
    counts = Counter(word for line in words for word in line)
    assert found["entropy"] == pytest.approx(entropy(list(counts.values())))
    theirs, ours = NGrams(), NGrams()
    measure(HELD_OUT, theirs)
    measure(TEXTS, ours)
    p, q = theirs.counts_D / theirs.counts_D.sum(), ours.counts_D / ours.counts_D.sum()
    assert found["js_divergence"] == pytest.approx(jensenshannon(p, q, 2) ** 2)
    assert found["total_variation"] == pytest.approx(np.abs(p - q).sum() / 2)
    assert found.keys() - measure_texts(TEXTS, None).keys() == {
        "js_divergence",
        "total_variation",
        "over_concentration",
    }
    with pytest.raises(ConfigError, match=r"too few words for distinct_1: raise evaluate.samples.num"):
        measure_texts([" ", ""], None)


def test_an_evaluation_keeps_the_texts_and_returns_their_measurements(tmp_path):
    settings = Samples(num=6, new_tokens=32, like="b")
    held_out = {"a": Dataset.from_dict({"text": ["Something else."]}), "b": HELD_OUT}
    found = write_and_measure(DEMO_FOLDER, settings, held_out, 1, tmp_path)
    texts = [json.loads(line)["text"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(texts) == 6
    assert found == {f"samples/{name}": value for name, value in measure_texts(texts, HELD_OUT).items()}


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ("{num: 0}", "evaluate.samples.num=0 must be at least 1"),
        ("{like: in_domian}", "evaluate.samples.like='in_domian' must be one of held_out; did you mean 'in_domain'"),
        ("{numb: 1}", "unknown key 'evaluate.samples.numb'; did you mean 'num'"),
    ],
)
def test_samples_that_cannot_be_are_refused(samples, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(PLAIN, [f"evaluate.samples={samples}"])
