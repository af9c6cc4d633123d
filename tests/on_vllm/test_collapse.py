"""Sampling a generation's rows with vLLM: `make test-vllm`."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
import torch
from conftest import DEMO_FOLDER
from datasets import Dataset
from transformers import AutoModelForCausalLM

from hf_toedit import PriorError, TransformersPrior
from hf_toedit.collapse import LanguageModel
from hf_toedit.collapse.generations import rng_of
from hf_toedit.collapse.language_model import TextSource
from hf_toedit.collapse.vllm_sampling import sample_with_vllm
from hf_toedit.experiments.recipe import Model
from hf_toedit.experiments.sampling import SamplingJob, sample_with_transformers

ENGINE = {"enforce_eager": True, "kv_cache_memory_bytes": 2**26, "dtype": "float32"}


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompts(human_texts):
    prior = TransformersPrior("demo")
    return [prior.tokenizer.encode(text).ids[: 3 + number % 9] for number, text in enumerate(human_texts[:40])]


def test_greedy_completions_are_those_of_transformers(model, prompts):
    job = SamplingJob(prompts, 20, model.config.eos_token_id, temperature=0.0, engine=ENGINE)
    assert sample_with_vllm(model, job) == sample_with_transformers(model, job)
    assert not psutil.Process().children(recursive=True)  # its memory is free again


def test_sampled_tokens_have_the_models_distribution(model, prompts):
    """The first tokens of 4,000 completions, by a chi-square test against the softmax, and seeds."""
    prompt, end, count, temperature = prompts[0], model.config.eos_token_id, 4000, 1.3
    with torch.no_grad():
        logits_V = model(torch.tensor([prompt])).logits[0, -1].double() / temperature
    unwanted = logits_V.topk(3).indices[1:].tolist()
    logits_V[unwanted] = -torch.inf
    logits_V[end] = -torch.inf  # at least one token
    expected_V = count * logits_V.softmax(dim=0).numpy()
    job = {"min_tokens": 1, "temperature": temperature, "unwanted": unwanted, "engine": ENGINE}
    found = sample_with_vllm(model, SamplingJob([prompt] * count, 1, end, **job))
    counts_V = np.bincount([completion[0] for completion in found], minlength=len(expected_V))
    rare_V = expected_V < 10
    observed = np.append(counts_V[~rare_V], counts_V[rare_V].sum())
    expected = np.append(expected_V[~rare_V], expected_V[rare_V].sum())
    chi_square, freedom = ((observed - expected) ** 2 / expected).sum(), len(expected) - 1
    assert chi_square < freedom + 3.3 * np.sqrt(2 * freedom) + 3  # above the 99.9 % quantile
    assert freedom > 10
    again = sample_with_vllm(model, SamplingJob([prompt] * 40, 1, end, seed=5, **job))
    assert again == found[5:45]  # seeds count up


def test_engine_options_that_vllm_refuses(model, prompts):
    with pytest.raises(PriorError, match=r"vLLM ended with code 1 while it sampled: see its messages above"):
        sample_with_vllm(model, SamplingJob(prompts, 5, 0, engine={**ENGINE, "dtype": "int3"}))


def test_language_models_sample_with_it(model, human_texts, monkeypatch):
    """Nearly greedy, the rows are those that transformers samples, save for what near-ties change."""
    monkeypatch.setattr(LanguageModel, "_arguments", lambda *_: None)  # accelerate is not installed here
    rows = Dataset.from_dict({"text": human_texts[:20]})
    settings = {"temperature": 0.01, "prefix_tokens": 6, "max_new_tokens": 12}
    written = [
        LanguageModel(rows, rows, Model(id="demo"), sampler=sampler, engine=ENGINE, **settings).sample(
            TextSource(0, model), 20, rng_of(0)
        )
        for sampler in ("transformers", "vllm")
    ]
    same = [one == other for one, other in zip(*(rows["text"] for rows in written), strict=True)]
    assert sum(same) >= 15, same
