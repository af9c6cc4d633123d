"""Priors: one contract, and backbone plus head equal the model's own logits for every architecture."""

from __future__ import annotations

import argparse
import pickle
import shutil
import types
import warnings

import numpy as np
import pytest
import torch
from conftest import NUM_IDS, load_tokenizer
from contract import check_contract, some_requests
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hf_toedit import ConfigError, StaticPrior, ToEditTransform, TransformersPrior, VLLMPrior, VLLMServerPrior
from hf_toedit.editing.windows import windows
from hf_toedit.priors.pretrained import DEMO_FOLDER, resolve_revision
from hf_toedit.types import PriorDetails

SMALL = {
    "vocab_size": NUM_IDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GPT = {
    "vocab_size": NUM_IDS,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
OPT = {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 16}
ARCHITECTURES = [
    ("llama", {**SMALL, "tie_word_embeddings": False}),
    ("llama", {**SMALL, "tie_word_embeddings": True}),
    ("qwen2", SMALL),
    ("qwen3", SMALL),
    ("gemma2", {**SMALL, "final_logit_softcapping": 5.0}),
    ("gemma3_text", {**SMALL, "final_logit_softcapping": 3.0}),
    ("gpt2", GPT),
    ("gpt_neox", SMALL),
    ("olmo", SMALL),
    ("olmo2", SMALL),
    ("phi", SMALL),
    ("mistral", SMALL),
    ("falcon", {**{k: v for k, v in SMALL.items() if k != "head_dim"}, "num_kv_heads": 2}),
    ("opt", OPT),
    ("cohere", {**SMALL, "logit_scale": 0.25}),
    ("granite", {**SMALL, "logits_scaling": 4.0}),
    ("smollm3", SMALL),
    ("mixtral", {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2}),
]


def save_random(kind, fields, folder):
    """A random model of an architecture, with the demo tokenizer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields))
    for parameter in model.parameters():  # the usual small initial weights would hide a wrong scale
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_FOLDER / name, folder / name)
    return model.eval()


def own_logprob(model, request):
    with torch.inference_mode():
        logits_TV = model(input_ids=torch.from_numpy(request.input_ids)[None]).logits[0].double()
    return torch.log_softmax(logits_TV, -1)[request.positions - 1].numpy()


def assert_same_scores(scores, logprob_EV, request, top_k, tolerance=2e-5):
    target = np.take_along_axis(logprob_EV, request.input_ids[request.positions][:, None], 1)[:, 0]
    np.testing.assert_allclose(scores.logprob_E, target, atol=tolerance)
    best = -np.sort(-logprob_EV, axis=1)[:, :top_k]
    np.testing.assert_allclose(scores.candidate_logprob_EK, best, atol=tolerance)
    own = np.take_along_axis(logprob_EV, scores.candidate_ids_EK, 1)
    np.testing.assert_allclose(scores.candidate_logprob_EK, own, atol=tolerance)


@pytest.mark.parametrize(("kind", "fields"), ARCHITECTURES, ids=lambda value: value if isinstance(value, str) else "")
def test_backbone_and_head_equal_the_models_own_logits(kind, fields, tmp_path):
    model = save_random(kind, fields, tmp_path)
    prior = TransformersPrior(tmp_path)
    requests = some_requests([2, 5, 33, 64, 40], NUM_IDS)
    for request, scores in zip(requests, prior.score(requests, 8), strict=True):
        assert_same_scores(scores, own_logprob(model, request), request, 8)
    assert prior._model.is_split


def test_a_model_that_cannot_be_split_runs_whole_says_so_and_stays_exact(tmp_path, monkeypatch):
    model = save_random("cohere", {**SMALL, "logit_scale": 0.25}, tmp_path)
    monkeypatch.setattr("hf_toedit.priors.split_model.SCALES", ())
    prior = TransformersPrior(tmp_path)
    requests = some_requests([20, 64], NUM_IDS)
    with pytest.warns(UserWarning, match="running the whole model"):
        found = prior.score(requests, 8)
    for request, scores in zip(requests, found, strict=True):
        assert_same_scores(scores, own_logprob(model, request), request, 8)


def test_real_weights_agree_with_float64(pretrained, pretrained_folder):
    """As close as 1e-4, or as the model's own float32 logits where these are further off."""
    model, naive = (
        AutoModelForCausalLM.from_pretrained(pretrained_folder, dtype=dtype) for dtype in (torch.float64, torch.float32)
    )
    requests = some_requests([2, 100, 512], NUM_IDS)
    for request, scores in zip(requests, pretrained.score(requests, 8), strict=True):
        exact_EV = own_logprob(model, request)
        tolerance = max(1e-4, np.abs(own_logprob(naive, request) - exact_EV).max(initial=0.0))
        assert_same_scores(scores, exact_EV, request, 8, tolerance=tolerance)


@pytest.fixture(params=["static", "demo"])
def prior(request, demo):
    return demo if request.param == "demo" else StaticPrior(load_tokenizer("demo"), lambda ids, t: {int(ids[t]): 0.9})


def test_contract(prior):
    check_contract(prior, sums_to_one=not isinstance(prior, StaticPrior))


@pytest.mark.parametrize(
    "prior",
    [TransformersPrior("demo"), VLLMPrior("demo"), VLLMServerPrior("demo", "http://localhost:1")],
    ids=lambda prior: type(prior).__name__,
)
def test_priors_on_a_checkpoint_say_what_it_is(prior):
    details = PriorDetails(prior)
    assert (details.name, details.revision) == ("demo", resolve_revision(str(DEMO_FOLDER), None))
    assert details.options["trust_remote_code"] is False
    expected = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    assert (details.chat_template, details.special_tokens) == (expected.chat_template, expected.special_tokens_map)
    assert prior.tokenizer.to_str() == expected.backend_tokenizer.to_str()


def test_what_a_bare_prior_does_not_say_has_a_stand_in():
    bare = types.SimpleNamespace(score=None)
    details = PriorDetails(bare)
    assert (details.name, details.revision, details.chat_template) == (None, None, None)
    assert (details.options, details.special_tokens) == ({}, {})
    assert details.scores_fix.startswith("its score() must")
    bare.name, bare.options = 7, ["dtype"]  # of the wrong type: as if absent
    assert (details.name, details.options) == (None, {})


@pytest.mark.parametrize("num_tokens", [1, 2, 9, 10, 11, 19, 20, 100])
@pytest.mark.parametrize(("capacity", "stride"), [(10, 4), (10, 9), (10, 50), (2, 1), (10, 0)])
def test_windows_score_every_token_once_with_enough_context(num_tokens, capacity, stride):
    cuts = windows(num_tokens, capacity, stride)
    scored = [t for _, first, end in cuts for t in range(first, end)]
    assert scored == list(range(num_tokens))
    for start, first, end in cuts:
        assert end - start <= capacity
        assert first == 0 or first - start >= min(max(stride, 1), capacity - 1)


def test_windows_without_room_are_an_error():
    with pytest.raises(ConfigError, match="max_length"):
        windows(5, 1, 1)


def test_knobs_of_the_window_change_the_context():
    text = argparse.__doc__
    found = {}
    for name, options in {
        "default": {},
        "short": {"max_length": 64},
        "stride": {"max_length": 64, "stride": 60},
    }.items():
        row = ToEditTransform(TransformersPrior("demo", **options), strategy="none", stats="full")({"text": text})
        found[name] = row["toedit"]["logprob_sum"]
        assert row["toedit"]["num_visited"] == row["toedit"]["num_tokens"]
    assert found["default"] > found["stride"] > found["short"]  # more context, likelier text


def test_pickle_holds_no_model_and_names_the_revision(demo, tmp_path):
    demo.score(some_requests([5], NUM_IDS), 8)
    pickled = pickle.dumps(demo)
    assert len(pickled) < 2000
    assert pickle.loads(pickled).revision == demo.revision
    assert str(DEMO_FOLDER).encode() not in pickled  # which is elsewhere on another machine
    shutil.copytree(DEMO_FOLDER, tmp_path / "same")
    assert TransformersPrior(tmp_path / "same").revision == demo.revision
    config = tmp_path / "same" / "config.json"
    config.write_text(config.read_text().replace("{", "{ ", 1))
    assert TransformersPrior(tmp_path / "same").revision != demo.revision


def test_bfloat16_is_close(demo):
    requests = some_requests([50], NUM_IDS)
    low = TransformersPrior("demo", dtype="bfloat16").score(requests, 8)[0]
    np.testing.assert_allclose(low.logprob_E, demo.score(requests, 8)[0].logprob_E, atol=0.2)


def test_loading_is_silent(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TransformersPrior("demo").score(some_requests([5], NUM_IDS), 8)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
