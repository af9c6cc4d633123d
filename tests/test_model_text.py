"""Verdicts on text that a model wrote: drawn from its whole distribution or from a part of it, and human text."""

from __future__ import annotations

import os
from itertools import islice

import made
import numpy as np
import pytest
import torch
from conftest import DEMO_FOLDER
from scipy.stats import binom
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_toedit.experiments.docstrings import docstrings, standard_library
from hf_toedit.measure import Document, read_documents
from hf_toedit.measure.batches import Batch
from hf_toedit.measure.side_by_side import side_by_side
from hf_toedit.measure.tally import Tally

REPEATS = int(os.environ.get("HF_TOEDIT_REPEATS", "30"))
NUM_ROWS, NUM_TOKENS = 300, 64
WHOLE = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
NARROW = {"top_k": {"top_k": 8}, "top_p": {"top_p": 0.9}, "temperature": {"temperature": 0.7}}
pytestmark = pytest.mark.slow


class Setting:
    """A model, and documents that it wrote."""

    def __init__(self, folder):
        self.folder = folder
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.begin = self.tokenizer.bos_token_id  # between the documents that it learned from

    def texts(self, seed, **narrow):
        """Texts of at most NUM_TOKENS tokens, from the beginning of a document to its end."""
        torch.manual_seed(seed)
        start = torch.full((NUM_ROWS, 1), self.begin)
        ids = self.model.generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            max_new_tokens=NUM_TOKENS,
            eos_token_id=self.begin,
            pad_token_id=self.begin,
            **{**WHOLE, **narrow},
        )
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text for text in texts if len(text.split()) > 1]

    def documents(self, seed, **narrow):
        return [*read_documents(self.texts(seed, **narrow), prior=self.folder)]


@pytest.fixture(scope="module")
def setting(pretrained_folder):
    return Setting(pretrained_folder)


@pytest.fixture(scope="module")
def whole(setting):
    return setting.documents(0)


def compared(a, b, seed=0):
    size = min(len(a), len(b))
    tallies = [Tally(len(rows), size, with_prior=True, with_edits=False) for rows in (a, b)]
    for tally, rows in zip(tallies, (a, b), strict=True):
        tally.add(Batch(rows))
    return side_by_side(*tallies, paired=False, seed=seed)


def differs(found):
    return {verdict["figure"]: verdict["differs"] for verdict in found["verdicts"]}


def test_what_a_model_writes_twice_does_not_differ(setting, whole):
    assert set(differs(compared(whole, setting.documents(1))).values()) == {None}


@pytest.mark.parametrize("narrow", NARROW.values(), ids=NARROW)
def test_a_narrowed_distribution_has_lost_its_tail(narrow, setting, whole):
    found = compared(whole, setting.documents(2, **narrow))
    assert [differs(found)[name] for name in ("tail_mass", "geometric_mean_perplexity", "vocabulary")] == ["less"] * 3
    assert differs(found)["js_divergence"] == "shifted"
    assert " has shrunk: from 5" in found["verdicts"][0]["text"]


def test_the_figures_of_the_tail_are_those_of_float64(setting, whole):
    """From the whole softmax of the model itself, text by text."""
    texts = [setting.texts(0), setting.texts(2, top_k=8)]
    found = compared(whole, [*read_documents(texts[1], prior=setting.folder)])
    model = AutoModelForCausalLM.from_pretrained(setting.folder, dtype=torch.float64)
    exact = [np.array([perplexity_of(model, setting.tokenizer.encode(text)) for text in of_side]) for of_side in texts]
    edge = np.quantile(exact[0], 0.95)
    for side, perplexity_N in zip("ab", exact, strict=True):
        figures = {name: figure["value"] for name, figure in found[side]["figures"].items()}
        assert figures["perplexity_95"] == pytest.approx(np.quantile(perplexity_N, 0.95), rel=1e-4)
        assert figures["median_perplexity"] == pytest.approx(np.median(perplexity_N), rel=1e-4)
        assert figures["geometric_mean_perplexity"] == pytest.approx(np.exp(np.log(perplexity_N).mean()), rel=1e-4)
        assert figures["tail_mass"] == pytest.approx(np.mean(perplexity_N > edge))


def perplexity_of(model, ids):
    ids_T = torch.tensor(ids)
    with torch.no_grad():
        logprob_TV = model(ids_T[None]).logits[0].log_softmax(-1)
    return float(torch.exp(-logprob_TV[:-1].gather(1, ids_T[1:, None]).mean()))


def test_beside_human_text_a_narrowed_model_lacks_the_tail():
    """The bundled prior, and the docstrings that it learned from."""
    setting = Setting(DEMO_FOLDER)
    rows = (row["text"] for name in made.PACKAGES for row in docstrings(standard_library() / name))
    starts = setting.tokenizer([*islice(rows, 2 * NUM_ROWS)], truncation=True, max_length=NUM_TOKENS)["input_ids"]
    texts = setting.tokenizer.batch_decode(starts)
    human = [*read_documents([text for text in texts if len(text.split()) > 1], prior="demo")]
    assert differs(compared(human, setting.documents(3, top_k=8)))["tail_mass"] == "less"


def test_halves_of_human_text_differ_no_more_often_than_promised(demo):
    """HF_TOEDIT_REPEATS=200 gives a finer figure, and prints it with -s."""
    scored = [*read_documents(made.human_texts()[:600], prior=demo)]
    documents = [Document(one.text, logprob_E=one.logprob_E) for one in scored]
    false = 0
    for seed in range(REPEATS):
        order = np.random.default_rng(seed).permutation(len(documents))
        halves = [[documents[i] for i in half] for half in np.array_split(order, 2)]
        false += any(differs(compared(*halves, seed=seed)).values())
    print(f"false verdicts: {false}/{REPEATS}")
    assert false <= binom.ppf(0.9995, REPEATS, 0.05)
