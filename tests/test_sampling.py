"""Completions sampled with transformers, against the model's own softmax; vLLM's are tested in on_vllm."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from hf_toedit import ConfigError
from hf_toedit.collapse.vllm_sampling import sample_with_vllm
from hf_toedit.experiments.sampling import SamplingJob, sample_with_transformers
from hf_toedit.priors.pretrained import DEMO_FOLDER


@pytest.fixture
def model():
    return AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32)


PROMPTS = [[0, 52, 260], [0, 41, 70, 274, 50], [0, 33]]


def logits_after(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].double()


def test_the_likeliest_completions_are_those_of_an_argmax(model):
    """Token by token, without padding, against one padded batch."""
    end = model.config.eos_token_id
    found = sample_with_transformers(model, SamplingJob(PROMPTS, 12, end, temperature=0.0))
    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids = list(prompt)
        while len(ids) < len(prompt) + 12 and (token := int(logits_after(model, ids).argmax())) != end:
            ids.append(token)
        assert completion == ids[len(prompt) :]


def test_tokens_are_drawn_from_the_softmax(model):
    """A chi-square test of 3,000 first tokens. The model's own generation_config would spoil them."""
    model.generation_config.update(repetition_penalty=3.0, top_k=2, no_repeat_ngram_size=1)
    own, model.training = model.generation_config, True
    end, count, temperature = model.config.eos_token_id, 3000, 1.3
    logits_V = logits_after(model.eval(), PROMPTS[1]) / temperature
    model.train()
    unwanted = logits_V.topk(2).indices.tolist()
    logits_V[[*unwanted, end]] = -torch.inf
    expected_V = count * logits_V.softmax(dim=0).numpy()
    job = SamplingJob([PROMPTS[1]] * count, 1, end, 1, temperature, unwanted, seed=3, batch_size=500)
    found = sample_with_transformers(model, job)
    counts_V = np.bincount([completion[0] for completion in found], minlength=len(expected_V))
    rare_V = expected_V < 10
    observed = np.append(counts_V[~rare_V], counts_V[rare_V].sum())
    assert len(observed) > 10
    assert stats.chisquare(observed, np.append(expected_V[~rare_V], expected_V[rare_V].sum())).pvalue > 0.001
    assert model.generation_config is own
    assert model.training


def test_lengths_and_seeds(model):
    job = SamplingJob(PROMPTS * 4, 6, model.config.eos_token_id, min_tokens=4)
    before = torch.get_rng_state()
    found = sample_with_transformers(model, job)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(4 <= len(completion) <= 6 for completion in found)
    assert sample_with_transformers(model, job) == found
    assert sample_with_transformers(model, dataclasses.replace(job, seed=1)) != found


def test_without_vllm(model, monkeypatch):
    monkeypatch.setattr("hf_toedit.collapse.vllm_sampling.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sampler='vllm' needs vLLM, which is not installed: pip install vllm"):
        sample_with_vllm(model, SamplingJob(PROMPTS, 5, 0))
