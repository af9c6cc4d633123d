"""VLLMPrior and VLLMServerPrior on vLLM itself: `make test-vllm`, in an environment of its own."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import pickle
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import torch
from command_line import run
from conftest import NUM_IDS, shared_path
from contract import check_contract, largest_difference, some_requests
from datasets import load_dataset
from datasets.fingerprint import Hasher
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hf_toedit import (
    PriorError,
    ScoreRequest,
    SelectiveLabels,
    ToEditTransform,
    TransformersPrior,
    VLLMPrior,
    VLLMServerPrior,
)
from hf_toedit.editing.decision import change_bound
from hf_toedit.measure import Perplexity, measure, read_documents
from hf_toedit.priors.pretrained import DEMO_FOLDER
from hf_toedit.priors.vllm_model import logits_of_ids

ENGINE = {"enforce_eager": True, "kv_cache_memory_bytes": 2**26}
START_SECONDS = 240

SMALL = {
    "vocab_size": NUM_IDS,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GPT = {"vocab_size": NUM_IDS, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 0}
ARCHITECTURES = [
    ("llama", {**SMALL, "tie_word_embeddings": False}),
    ("qwen2", SMALL),
    ("qwen3", SMALL),
    ("gpt2", {**GPT, "eos_token_id": 0}),
    ("olmo2", SMALL),
    ("phi", SMALL),  # a head with a bias
    # vLLM's CPU kernel caps attention inexactly (by 0.04 nats here): without.
    ("gemma2", {**SMALL, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 32, "attn_logit_softcapping": None}),
    ("cohere", {**SMALL, "logit_scale": 0.25}),
    ("granite", {**SMALL, "logits_scaling": 4.0}),
]


@contextlib.contextmanager
def loaded(model, **options):
    """A VLLMPrior; its engine is gone afterwards."""
    prior = VLLMPrior(model, **{"engine": ENGINE, **options})
    try:
        yield prior
    finally:
        prior.__dict__.pop("_model", None)
        gc.collect()


def save_random(kind, fields, folder, dtype=torch.float32, sharpness=1.0):
    """A random model of an architecture, with the demo tokenizer. `sharpness` is about that of its logits."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields))
    for name, parameter in model.named_parameters():  # the usual small weights would hide a wrong scale
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
        if name == "model.norm.weight":
            parameter.data *= sharpness
    model.to(dtype).save_pretrained(folder)
    copy_tokenizer(DEMO_FOLDER, folder)


def copy_tokenizer(source, folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)


def widen_heads(source, folder, head_dim):
    """The same function with wider attention heads, padded with zeros: vLLM's CPU kernels have none of 8.

    Pair i of the rotary embedding goes to where it turns at the same frequency; q makes up for the scale.
    """
    config = AutoConfig.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source)
    old, half = config.head_dim, config.head_dim // 2
    step = head_dim // old
    place = torch.cat([torch.arange(half) * step, torch.arange(half) * step + head_dim // 2])
    config.head_dim = head_dim
    wide = AutoModelForCausalLM.from_config(config)
    state = model.state_dict()
    for name, weight in state.items():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            heads = torch.zeros(weight.shape[0] // old, head_dim, weight.shape[1])
            heads[:, place if "v_proj" not in name else torch.arange(old)] = weight.view(-1, old, weight.shape[1])
            state[name] = heads.flatten(0, 1) * (step**0.5 if "q_proj" in name else 1.0)
        elif name.endswith("o_proj.weight"):
            heads = torch.zeros(weight.shape[0], weight.shape[1] // old, head_dim)
            heads[:, :, :old] = weight.view(weight.shape[0], -1, old)
            state[name] = heads.flatten(1)
    wide.load_state_dict(state)
    wide.save_pretrained(folder)
    copy_tokenizer(source, folder)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """(folder, texts): stories260K with human texts where they are, else the embedded prior with docstrings."""
    try:
        source = shared_path("models/stories260K")
        with shared_path("data/flan_cot_creak.jsonl").open(encoding="utf-8") as lines:
            texts = [json.loads(line)["cot"] for line in lines][:100]
    except pytest.skip.Exception:
        modules = (json, shutil, socket, subprocess, urllib.request, contextlib, pickle, argparse)
        docs = [getattr(module, name).__doc__ or "" for module in modules for name in dir(module)]
        return DEMO_FOLDER, sorted({doc for doc in docs if 50 < len(doc) < 400})[:100]
    folder = tmp_path_factory.mktemp("stories")
    widen_heads(source, folder, 32)
    return folder, texts


@pytest.fixture(scope="module")
def reference(real):
    return TransformersPrior(real[0], dtype="float32")


@pytest.fixture(scope="module")
def lazy(real):
    with loaded(real[0], dtype="float32") as prior:
        yield prior


@pytest.fixture(scope="module")
def plain(real):
    with loaded(real[0], dtype="float32", lazy=False) as prior:
        yield prior


@contextlib.contextmanager
def running_server(folder, log):
    """The url of vLLM's server, which is stopped however the tests end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    command += ["--kv-cache-memory-bytes", str(2**26)]
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not is_up(url):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def is_up(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def server_url(real, tmp_path_factory):
    with running_server(real[0], tmp_path_factory.mktemp("server") / "log") as url:
        yield url


@pytest.fixture(scope="module")
def served(real, server_url):
    return VLLMServerPrior(real[0], server_url, max_in_flight=8)


@pytest.fixture(params=["lazy", "plain", "served"])
def prior(request):
    return request.getfixturevalue(request.param)


def test_contract(prior):
    # vLLM's server gives at most 20 candidates unless it is started otherwise.
    check_contract(prior, tolerance=1e-4, sums_to_one=isinstance(prior, VLLMPrior))


def test_scores_agree_with_transformers(prior, reference):
    """Whatever the window, here the longest of the three ways, not with the batch."""
    lengths = [2, 3, 17, 100, prior.max_length, prior.max_length - 1, *[60] * 40]
    requests = some_requests(lengths, reference.tokenizer.get_vocab_size())
    assert largest_difference(prior.score(requests, 8), reference.score(requests, 8)) < 1e-3


def test_windows(lazy, plain, served, reference):
    assert reference.max_length == lazy.max_length == 512
    assert plain.max_length == served.max_length == 511


def test_edits_agree_with_transformers(prior, reference, real):
    """Texts differ only where there is a near-tie."""
    options = {"threshold": 0.9, "temperature": 3.0}
    texts = real[1]
    results = [ToEditTransform(one, **options)({"text": texts}) for one in (prior, reference)]
    num_changed = num_different = num_near_ties = 0
    for ours, theirs, text, other in zip(
        *(result["toedit"] for result in results), *(result["text"] for result in results), strict=True
    ):
        near = max(ours["num_near_ties"], theirs["num_near_ties"])
        num_near_ties += near
        num_changed += theirs["num_changed"]
        num_different += text != other
        assert text == other or near
        assert ours["num_visited"] == theirs["num_visited"]
    assert num_changed > 20
    assert num_different <= max(1, num_near_ties)


class Asked:
    """A prior that keeps what it was asked and what it said."""

    def __init__(self, prior, max_length):
        self.prior, self.tokenizer, self.max_length, self.stride = prior, prior.tokenizer, max_length, max_length // 2
        self.requests, self.scores = [], []

    def score(self, requests, top_k):
        self.requests += requests
        self.scores += self.prior.score(requests, top_k)
        return self.scores[-len(requests) :]


def test_text_ids_and_rendered_text_are_read_alike(prior, reference, real):
    """Long ones, in windows: the begin-of-text token stands in front of each, once, as for transformers."""
    text = " ".join(real[1])[:6000]
    encoding = reference.tokenizer.encode(text)
    begin = reference.tokenizer.id_to_token(encoding.ids[0])
    assert encoding.ids[0] in reference.tokenizer.get_added_tokens_decoder()
    rows = {"text": {"text": text}, "rendered": {"text": begin + text}, "ids": {"input_ids": encoding.ids}}
    found = {}
    for name, one in {"reference": reference, **dict.fromkeys(rows, prior)}.items():
        found[name] = Asked(one, prior.max_length)
        ToEditTransform(found[name], stats="full")(rows.get(name, rows["text"]))
    wanted = found.pop("reference")
    assert len(wanted.requests) > 3
    for one in found.values():
        for ours, theirs in zip(one.requests, wanted.requests, strict=True):
            np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)
            np.testing.assert_array_equal(ours.positions, theirs.positions)
            assert ours.input_ids[0] == encoding.ids[0]
        assert largest_difference(one.scores, wanted.scores) < 1e-3


def perturbed(folder):
    """The model with other weights, in memory: a base to compare with."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * parameter.std() * torch.randn_like(parameter)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def test_measurements_agree_with_transformers(prior, real):
    """Token by token, also in several windows of the same length; and so do the figures."""
    reference = TransformersPrior(real[0], dtype="float32", max_length=prior.max_length)
    rows = [*real[1][:40], " ".join(real[1])[:6000], "", None]
    found, expected = ([*read_documents(rows, prior=one)] for one in (prior, reference))
    assert [one.scores_status for one in found] == [one.scores_status for one in expected]
    assert sum(one.scores_status is None for one in found) == 41
    for ours, theirs in zip(found[:41], expected, strict=False):
        assert len(ours.logprob_E) == len(theirs.logprob_E) > 5
        np.testing.assert_allclose(ours.logprob_E, theirs.logprob_E, rtol=0, atol=1e-3)
    perplexity, of_reference = (measure(rows, Perplexity(), prior=one)["perplexity"] for one in (prior, reference))
    assert perplexity["num_measured"] == 41
    for name in ("min", "max", "geometric_mean"):
        assert perplexity[name] == pytest.approx(of_reference[name], rel=1e-3)


@pytest.mark.parametrize("select", [{"low": 0.05, "high": 0.9}, {"min_excess": 0.05}], ids=str)
def test_selective_labels_agree_with_transformers(select, prior, reference, real):
    """Labels differ only at tokens whose log-probability, or excess, is at the edge itself."""
    base = perturbed(real[0]) if "min_excess" in select else None
    tokenizer = AutoTokenizer.from_pretrained(real[0])
    rows = [tokenizer(text)["input_ids"] for text in real[1][:40]]
    found, expected = (
        SelectiveLabels(one, select, base=base, tokenizer=tokenizer)({"input_ids": rows})["labels"]
        for one in (prior, reference)
    )
    scores = reference.score([ScoreRequest(np.array(ids), np.arange(1, len(ids))) for ids in rows], 1)
    values = [one.logprob_E for one in scores]
    edges = [np.log(edge) for edge in (select.get("low"), select.get("high")) if edge]
    if base is not None:
        values = [ours - theirs for ours, theirs in zip(values, logprobs_of(base[0], rows), strict=True)]
        edges = [select["min_excess"]]
    num_near = num_left = 0
    for value_E, ours, theirs in zip(values, found, expected, strict=True):
        near_E = np.abs(value_E[:, None] - edges).min(axis=1) < 2e-3
        np.testing.assert_array_equal(np.array(ours[1:])[~near_E], np.array(theirs[1:])[~near_E])
        num_near, num_left = num_near + near_E.sum(), num_left + theirs.count(-100)
    num_tokens = sum(map(len, rows))
    assert num_near < 0.02 * num_tokens < num_left < 0.98 * num_tokens


def logprobs_of(model, rows):
    """log P(x_t | x_<t) for t = 1, 2, ... of each row."""
    for ids in rows:
        with torch.no_grad():
            logprob_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        yield logprob_TV[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].numpy()


def test_the_command_line_scores_and_filters_through_the_server(real, server_url, tmp_path):
    """The kept rows are those of transformers; no two perplexities here are nearly equal."""
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in real[1][:40]), encoding="utf-8")
    kept, perplexities = [], []
    for name, options in {"served": ["--url", server_url], "here": ["--dtype", "float32"]}.items():
        prior = [source, "--prior", real[0], *options]
        run("filter", *prior, "--perplexity-quantile", "0.1:0.8", "--out", tmp_path / name)
        kept.append(load_dataset(str(tmp_path / name), split="train")["text"][:])
        perplexities.append(json.loads(run("score", *prior, "--json"))["perplexity"])
    assert kept[0] == kept[1]
    assert len(kept[0]) == 28
    assert perplexities[0] == pytest.approx(perplexities[1], rel=1e-3)


def test_the_head_runs_on_visited_positions_alone(lazy, real):
    rows = []

    def watch(model):
        whole = type(model).compute_logits
        model.compute_logits = lambda hidden: rows.append(len(hidden)) or whole(model, hidden)

    lazy._model.apply_model(watch)
    try:
        result = ToEditTransform(lazy)({"text": real[1]})
    finally:
        lazy._model.apply_model(lambda model: delattr(model, "compute_logits"))
    visited = sum(row["num_visited"] for row in result["toedit"])
    num_tokens = sum(row["num_tokens"] for row in result["toedit"])
    assert sum(rows) == visited
    assert 0 < visited < 1.5 * change_bound(ToEditTransform(lazy).config) * num_tokens
    assert len(rows) < visited / 10  # rows of many requests together


def test_pickle_and_fingerprint_hold_no_engine(lazy):
    lazy.score(some_requests([5], NUM_IDS), 8)
    pickled = pickle.dumps(lazy)
    assert len(pickled) < 2000
    fresh = VLLMPrior(lazy.name, dtype="float32", engine=ENGINE)
    assert Hasher.hash(ToEditTransform(lazy)) == Hasher.hash(ToEditTransform(fresh))


@pytest.mark.parametrize(("kind", "fields"), ARCHITECTURES, ids=lambda value: value if isinstance(value, str) else "")
def test_any_architecture(kind, fields, tmp_path):
    save_random(kind, fields, tmp_path)
    requests = some_requests([2, 5, 33, 64, 40], NUM_IDS)
    expected = TransformersPrior(tmp_path, dtype="float32").score(requests, 8)
    with loaded(tmp_path) as prior:
        assert largest_difference(prior.score(requests, 8), expected) < 1e-3


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "plain"])
def test_pieces_of_prompts(real, reference, lazy):
    """Steps of 64 tokens: most requests come in several pieces, and several requests share a step."""
    requests = some_requests([500, 30, 70, 2, 200, *[40] * 20, 500], NUM_IDS)
    requests += [ScoreRequest(requests[0].input_ids[:300], np.array([250, 299]))] * 2
    engine = {**ENGINE, "max_num_batched_tokens": 64, "max_num_seqs": 16, "enable_chunked_prefill": True}
    with loaded(real[0], dtype="float32", lazy=lazy, engine=engine) as prior:
        found = prior.score(requests, 8)
    assert largest_difference(found, reference.score(requests, 8)) < 1e-3


@pytest.mark.parametrize(
    "fields",
    [{}, {"kind": "gemma2", "final_logit_softcapping": 50.0}, {"kind": "granite", "logits_scaling": 2.0}],
    ids=["llama", "capped", "scaled"],
)
def test_half_precision_keeps_the_logprobs(fields, tmp_path):
    """In bfloat16, the head of lazy scores gives the log-probabilities of a head in float32."""
    fields = {**SMALL, "vocab_size": 4000, "tie_word_embeddings": True, "query_pre_attn_scalar": 32, **fields}
    save_random(fields.pop("kind", "llama"), fields, tmp_path, torch.bfloat16, 15.0)
    requests = sure_requests(tmp_path)
    scores = {}
    for name, options in {"lazy": {}, "plain": {"lazy": False}}.items():
        with loaded(tmp_path, max_length=60, **options) as prior:
            scores[name] = prior.score(requests, 8)
    exact = np.concatenate([one.logprob_E for one in scores["plain"]])
    found = np.concatenate([one.logprob_E for one in scores["lazy"]])
    sure = exact > np.log(0.95)
    assert sure.sum() > 10
    assert np.abs(found - exact)[sure].max() < 1e-3
    assert np.abs(found - exact).max() < 1e-2


def sure_requests(folder):
    """Requests whose targets the model itself finds likeliest."""
    prior = TransformersPrior(folder, dtype="bfloat16", max_length=60)
    requests = [ScoreRequest(np.random.default_rng(seed).integers(1, NUM_IDS, 60), np.arange(1, 60)) for seed in (0, 1)]
    for t in range(1, 60):
        for request, scores in zip(requests, prior.score(requests, 1), strict=True):
            request.input_ids[t] = scores.candidate_ids_EK[t - 1, 0]
    return requests


def test_a_head_that_the_model_changes_runs_in_float32(tmp_path, monkeypatch):
    """Where the logits that matter can't be had from the weights, all are computed in float32."""
    save_random("llama", {**SMALL, "tie_word_embeddings": True}, tmp_path, torch.bfloat16)
    requests = some_requests([30, 60], NUM_IDS)
    with loaded(tmp_path) as prior:
        expected = prior.score(requests, 8)
    monkeypatch.setattr("hf_toedit.priors.vllm_model.logits_of_ids", lambda *parts: logits_of_ids(*parts) * 3)
    with loaded(tmp_path) as prior:
        found = prior.score(requests, 8)
        assert prior._model.apply_model(lambda model: model.pooler.refines) == [False]
    assert largest_difference(found, expected) < 1e-2


def test_tensor_parallel(real, reference):
    """Two processes, each with half of the vocabulary."""
    requests = some_requests([2, 17, 100, 300], NUM_IDS)
    with loaded(real[0], dtype="float32", engine={**ENGINE, "tensor_parallel_size": 2}) as prior:
        found = prior.score(requests, 8)
    assert largest_difference(found, reference.score(requests, 8)) < 1e-3


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "plain"])
def test_what_vllm_refuses_is_one_clear_line(real, lazy):
    requests = some_requests([9], NUM_IDS)
    for options, told in [
        ({"max_length": 5000}, "vLLM can't run prior .*5001|4999.*engine="),
        ({"engine": {"dtype": "float7"}}, "vLLM can't run prior .*validation error.*dtype"),
        ({"engine": {"no_such_option": 1}}, "vLLM can't run prior .*no_such_option"),
    ]:
        with pytest.raises(PriorError, match=told) as caught:
            VLLMPrior(real[0], lazy=lazy, **options).score(requests, 8)
        assert "\n" not in str(caught.value)
    with pytest.raises(PriorError, match="a request has 600 tokens"):
        VLLMPrior(real[0], lazy=lazy).score(some_requests([600], NUM_IDS), 8)


def test_an_architecture_that_vllm_lacks_is_one_clear_line(tmp_path):
    save_random("llama", SMALL, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["NobodysForCausalLM"]}))
    with pytest.raises(PriorError, match="vLLM has no model of its own for it: set lazy=False"):
        VLLMPrior(tmp_path).score(some_requests([9], NUM_IDS), 8)


def test_what_the_server_refuses_is_one_clear_line(real, server_url, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(DEMO_FOLDER, other)
    requests = some_requests([9], NUM_IDS)
    with pytest.raises(PriorError, match=r"serves .*, not '.*other'"):
        VLLMServerPrior(other, server_url).score(requests, 8)
    with pytest.raises(PriorError, match=r"refused \(40[04]: .*--max-logprobs there"):
        VLLMServerPrior(real[0], server_url).score(requests, 50)
    with pytest.raises(PriorError, match="takes 511 tokens, not max_length=512"):
        VLLMServerPrior(real[0], server_url, max_length=512).score(requests, 8)
