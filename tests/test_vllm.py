"""Priors on vLLM, as far as they can be tested without it: the client of a server, logits, the pooler, errors.

`make test-vllm` tests them on vLLM itself (`tests/on_vllm`).
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import os
import pickle
import socket
import sys
import types
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import NUM_IDS, load_tokenizer
from contract import check_contract, largest_difference, some_requests
from datasets import Dataset
from datasets.fingerprint import Hasher
from typer.testing import CliRunner
from vllm_server import serving

from hf_toedit import (
    ConfigError,
    PriorError,
    ScoreRequest,
    StaticPrior,
    ToEditTransform,
    TransformersPrior,
    VLLMPrior,
    VLLMServerPrior,
)
from hf_toedit.cli.command import app
from hf_toedit.priors.devices import is_worker
from hf_toedit.priors.head import logprobs_from_logits
from hf_toedit.priors.vllm_model import Scorer, logits_of_ids, pack_request, unpack_scores


@pytest.fixture(scope="module")
def scripted():
    """Probabilities that depend on the position and on what stands before it."""

    def distribution(input_ids, t):
        p = 0.2 + 0.7 * (int(input_ids[:t].sum()) * 37 % 1000) / 1000
        return {int(input_ids[t]): p, (int(input_ids[t]) + t) % NUM_IDS: (1 - p) / 2, 383: (1 - p) / 3}

    return StaticPrior(load_tokenizer("demo"), distribution, max_length=200)


@pytest.fixture
def waits(monkeypatch):
    """The seconds that the client would have waited between its attempts."""
    seconds, sleep = [], asyncio.sleep

    async def skip(delay):
        seconds.append(delay)
        await sleep(0)

    monkeypatch.setattr("hf_toedit.priors.server_prior.asyncio.sleep", skip)
    return seconds


def test_contract_of_the_server(scripted):
    with serving(scripted) as (url, _):
        check_contract(VLLMServerPrior("demo", url), sums_to_one=False)


def test_a_server_gives_the_scores_of_its_prior(scripted):
    requests = some_requests([100, 2, 30], NUM_IDS)
    with serving(scripted) as (url, server):
        prior = VLLMServerPrior("demo", f"{url}/v1/")
        assert prior.max_length == 200
        assert largest_difference(prior.score(requests, 8), scripted.score(requests, 8)) == 0
        text = "Return True if the string is a valid Python identifier, False otherwise."
        options = {"threshold": 0.5, "stats": "full"}
        ours, theirs = (ToEditTransform(one, **options)({"text": text}) for one in (prior, scripted))
        # A server is taken to run in the checkpoint's dtype, here half precision.
        assert ours["toedit"].pop("num_near_ties") > theirs["toedit"].pop("num_near_ties")
        assert ours["toedit"].pop("fingerprint") is not None
        assert theirs["toedit"].pop("fingerprint") is None  # a scripted prior has no revision
        assert ours == theirs
    assert all(body["max_tokens"] == 1 and body["prompt_logprobs"] == 8 for body in server.bodies)


def test_the_server_gets_no_hub_token_but_its_own_key(scripted, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(scripted) as (url, server):
        VLLMServerPrior("demo", url).score(some_requests([9], NUM_IDS), 8)
        assert len(server.headers_seen) == 2
        assert "secret" not in str(server.headers_seen)
        monkeypatch.setenv("VLLM_API_KEY", "own")
        VLLMServerPrior("demo", url).score(some_requests([9], NUM_IDS), 8)
        assert [seen["Authorization"] for seen in server.headers_seen[2:]] == ["Bearer own"] * 2


def test_what_fails_by_load_is_repeated(scripted, waits):
    requests = some_requests([20], NUM_IDS)
    with serving(scripted, failures=[503, 429, 500]) as (url, server):
        found = VLLMServerPrior("demo", url).score(requests, 8)
    assert largest_difference(found, scripted.score(requests, 8)) == 0
    assert len(server.bodies) == 4
    assert waits == sorted(waits)
    assert len(waits) == 3


@pytest.mark.parametrize("bound", [1, 3])
def test_no_more_requests_are_in_flight_than_allowed(scripted, bound):
    requests = some_requests([20] * 12, NUM_IDS)
    with serving(scripted, seconds=0.05) as (url, server):
        found = VLLMServerPrior("demo", url, max_in_flight=bound).score(requests, 8)
    assert largest_difference(found, scripted.score(requests, 8)) == 0
    assert server.num_in_flight == [0, bound]


@pytest.mark.parametrize(
    ("state", "options", "told"),
    [
        (
            {"models": [{"id": "other"}, {"id": "next"}]},
            {},
            "serves 'other', 'next', not 'demo'.*served-model-name demo",
        ),
        ({"models": []}, {}, "serves nothing, not 'demo'"),
        ({"models": "?"}, {}, "lists no models: give the url"),
        ({"models": [{"id": "demo"}]}, {}, "reports no max_model_len"),
        (
            {"answer": {"choices": [{"text": ""}]}},
            {},
            "returned no prompt_logprobs for .* tokens: it must be a recent vLLM",
        ),
        ({"answer": {"choices": [{"prompt_logprobs": [None]}]}}, {}, "returned no prompt_logprobs"),
        ({"answer": {}}, {}, "returned no prompt_logprobs"),
        ({"answer": b"<html>"}, {}, "did not return JSON"),
        ({"failures": [400]}, {}, r"refused \(400: .*not now.*\): .*--max-logprobs"),
        ({"failures": [401]}, {}, "refused .*: set VLLM_API_KEY"),
        ({"failures": [503] * 20}, {}, "no answer from the vLLM server.*; start it"),
        (
            {},
            {"max_length": 201},
            "takes 200 tokens, not max_length=201: set max_length=200, or start it with --max-mod",
        ),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_what_a_server_can_get_wrong_is_one_clear_line(scripted, waits, state, options, told):
    with serving(scripted, **state) as (url, _):
        prior = VLLMServerPrior("demo", url, **options)
        with pytest.raises(PriorError, match=told) as caught:
            prior.score(some_requests([20, 30], NUM_IDS), 8)
    assert "\n" not in str(caught.value)


def test_no_server_a_wrong_path_and_a_long_prompt_are_one_clear_line(scripted, waits):
    with serving(scripted) as (url, _):
        with pytest.raises(PriorError, match=r"refused \(404: .*without a path"):
            VLLMServerPrior("demo", f"{url}/elsewhere").score(some_requests([9], NUM_IDS), 8)
        with pytest.raises(PriorError, match=r"a request has 201 tokens, prior 'demo' takes 200: cut"):
            VLLMServerPrior("demo", url).score(some_requests([201], NUM_IDS), 8)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(PriorError, match=r"no answer from the vLLM server at http.*; start it, or give its url"):
        VLLMServerPrior("demo", url).score(some_requests([9], NUM_IDS), 8)
    assert VLLMServerPrior("demo", url).score([], 8) == []


def test_arguments_are_checked():
    for url in ("localhost:8000", "ftp://localhost", "http://", ""):
        with pytest.raises(ConfigError, match=r"not the address of a server: give one such as http://localhost:8000"):
            VLLMServerPrior("demo", url)
    with pytest.raises(ConfigError, match="max_in_flight=0"):
        VLLMServerPrior("demo", "http://localhost:8000", max_in_flight=0)
    with pytest.raises(ConfigError, match="max_length=0"):
        VLLMPrior("demo", max_length=0)


def test_pickles_hold_nothing_that_is_loaded(scripted):
    with serving(scripted) as (url, _):
        prior = VLLMServerPrior("demo", url)
        before = Hasher.hash(ToEditTransform(prior))
        prior.score(some_requests([9], NUM_IDS), 8)
        assert Hasher.hash(ToEditTransform(prior)) == before
        assert pickle.loads(pickle.dumps(prior)).score(some_requests([9], NUM_IDS), 8)
    assert len(pickle.dumps(VLLMPrior("demo"))) < 2000
    assert Hasher.hash(ToEditTransform(VLLMPrior("demo"))) != Hasher.hash(
        ToEditTransform(VLLMPrior("demo", lazy=False))
    )


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is there")
def test_without_vllm_one_line_says_what_to_install():
    with pytest.raises(PriorError, match=r"can't be imported: No module named 'vllm'; pip install vllm$"):
        VLLMPrior("demo").score(some_requests([9], NUM_IDS), 8)


# log-probabilities from logits, and the pooler


def head(dtype, num_rows=50, num_ids=2000, scale=1.0, soft_cap=None):
    """(logits of a dtype, the same in float32 from the same weights, targets, a function for exact logits)."""
    generator = torch.Generator().manual_seed(0)
    hidden_ED = torch.randn(num_rows, 64, generator=generator).to(dtype)
    weight_VD = torch.randn(num_ids, 64, generator=generator).to(dtype)
    target_E = torch.randint(num_ids, (num_rows,), generator=generator)
    for row in range(0, num_rows, 2):  # make every second row sure of its target, with p around 0.99
        weight = weight_VD[target_E[row]].float()
        hidden_ED[row] = (weight * (14 / weight.square().sum())).to(dtype)
    processor = types.SimpleNamespace(soft_cap=soft_cap, scale=scale)
    exact = functools.partial(logits_of_ids, processor, weight_VD, hidden_ED, None)
    every = torch.arange(num_ids).expand(num_rows, -1)
    rounded_EV = exact(every).to(dtype)
    return rounded_EV, exact(every), target_E, exact


def expected_logprobs(logits_EV, target_E, top_k):
    logprob_EV = logits_EV.double().log_softmax(-1)
    best = logprob_EV.topk(top_k, -1)
    return logprob_EV.gather(-1, target_E[:, None])[:, 0], best.indices, best.values


@pytest.mark.parametrize("options", [{}, {"scale": 0.5}, {"soft_cap": 30.0}], ids=["plain", "scaled", "capped"])
def test_logprobs_of_half_precision_logits_are_those_of_exact_ones(options):
    rounded_EV, logits_EV, target_E, exact = head(torch.bfloat16, **options)
    wanted, ids_EK, logprob_EK = expected_logprobs(logits_EV, target_E, 8)
    found = logprobs_from_logits(rounded_EV, target_E, 8, exact)
    np.testing.assert_array_equal(found[1], ids_EK)
    np.testing.assert_allclose(found[0], wanted, atol=2e-3)
    np.testing.assert_allclose(found[2], logprob_EK, atol=2e-3)
    sure = wanted > np.log(0.95)
    assert sure.any() or "scale" in options
    np.testing.assert_allclose(found[0][sure], wanted[sure], atol=5e-5)
    rough, _, _ = logprobs_from_logits(rounded_EV, target_E, 8)
    assert (rough - wanted).abs().max() > 0.01


@pytest.mark.parametrize(("num_ids", "top_k"), [(2000, 8), (2000, 100), (20, 8), (5, 8)])
def test_logprobs_of_float32_logits_are_log_softmax(num_ids, top_k):
    _, logits_EV, target_E, exact = head(torch.float32, num_ids=num_ids)
    for function in (None, exact):
        found = logprobs_from_logits(logits_EV.clone(), target_E, top_k, function)
        for one, other in zip(found, expected_logprobs(logits_EV, target_E, min(top_k, num_ids)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_is_not_finite_stays_so():
    logits_EV = torch.zeros(3, 10)
    logits_EV[0, 4] = torch.nan
    logits_EV[1, 5] = -torch.inf
    logprob_E, _, _ = logprobs_from_logits(logits_EV, torch.tensor([1, 5, 2]), 3)
    assert logprob_E[0].isnan()
    assert logprob_E[1] == -torch.inf
    assert logprob_E[2].isclose(torch.tensor(0.1).log())


def pooler(monkeypatch, compute_logits):
    monkeypatch.setattr(Scorer, "__init__", lambda self: None)
    scorer = Scorer()
    scorer.model = types.SimpleNamespace(compute_logits=compute_logits)
    scorer.exact_logits = None
    return scorer


def step(scorer, hidden_TD, parts, states):
    """One step of vLLM: parts (request, tokens computed so far, tokens before this step)."""
    params = [types.SimpleNamespace(extra_kwargs=pack_request(request, 4)) for request, _, _ in parts]
    seen, before = np.array([end for _, end, _ in parts]), np.array([start for _, _, start in parts])
    cursor = types.SimpleNamespace(
        num_scheduled_tokens_cpu=torch.from_numpy(seen - before),
        seq_lens_cpu=torch.from_numpy(seen),
        get_finished_mask=lambda: [int(request.positions[-1]) == end for request, end, _ in parts],
    )
    metadata = types.SimpleNamespace(pooling_params=params, pooling_states=states, get_pooling_cursor=lambda: cursor)
    return scorer(hidden_TD, metadata)


class State:
    def __init__(self):
        self.hidden_states_cache = []

    def clean(self):
        self.hidden_states_cache.clear()


@pytest.mark.parametrize("interrupted", [False, True])
def test_requests_in_pieces_are_put_together(monkeypatch, interrupted):
    weight_VD = torch.randn(30, 6)
    rows = []

    def compute_logits(hidden_ED):
        rows.append(len(hidden_ED))
        return hidden_ED @ weight_VD.T

    scorer = pooler(monkeypatch, compute_logits)
    requests = [ScoreRequest(np.arange(20), np.array([1, 5, 6, 12, 19])), ScoreRequest(np.arange(9), np.array([3, 8]))]
    hidden = [torch.randn(19, 6), torch.randn(8, 6)]
    states = [State(), State()]
    if interrupted:
        assert step(scorer, hidden[0][:6], [(requests[0], 6, 0)], states[:1]) == [None]
    parts = [(requests[0], 5, 0), (requests[1], 8, 0)]
    first = step(scorer, torch.cat([hidden[0][:5], hidden[1]]), parts, states)
    assert first[0] is None
    assert step(scorer, hidden[0][5:11], [(requests[0], 11, 5)], states[:1]) == [None]
    assert step(scorer, hidden[0][11:11], [(requests[0], 11, 11)], states[:1]) == [None]  # no row to score
    [last] = step(scorer, hidden[0][11:], [(requests[0], 19, 11)], states[:1])
    for request, found, hidden_TD in zip(requests, (last, first[1]), hidden, strict=True):
        scores = unpack_scores(found)
        logprob_EV = (hidden_TD[request.positions - 1] @ weight_VD.T).double().log_softmax(-1).numpy()
        np.testing.assert_allclose(
            scores.logprob_E, logprob_EV[np.arange(len(logprob_EV)), request.input_ids[request.positions]], atol=1e-5
        )
        np.testing.assert_allclose(scores.candidate_logprob_EK, -np.sort(-logprob_EV)[:, :4], atol=1e-5)
    assert sum(rows) == 7 + (3 if interrupted else 0)


def test_ranks_without_logits_return_nothing(monkeypatch):
    scorer = pooler(monkeypatch, lambda hidden_ED: None)
    request = ScoreRequest(np.arange(9), np.array([3, 8]))
    assert step(scorer, torch.randn(8, 6), [(request, 8, 0)], [State()]) == [None]


def test_command_line(tmp_path):
    """`--url` asks a server and gives the edits of the prior that it serves; options that do nothing are refused."""
    (tmp_path / "texts.txt").write_text("He opened the door.\nShe closed the window.\n" * 4)
    source = ["edit", str(tmp_path / "texts.txt"), "--prior", "demo", "--threshold", "0.3"]

    def run(*options):
        return CliRunner().invoke(app, [*source, *options])

    with serving(TransformersPrior("demo")) as (url, server):
        assert run("--out", str(tmp_path / "served"), "--url", url).exit_code == 0
        assert server.bodies
    assert run("--out", str(tmp_path / "own")).exit_code == 0
    served, own = (Dataset.from_parquet(str(tmp_path / name / "data/*.parquet")) for name in ("served", "own"))
    assert served["text"] == own["text"]
    assert any(row["edits"] for row in own["toedit"])
    out = ["--out", str(tmp_path / "refused")]
    for options, line in [
        (["--url", "http://127.0.0.1:9", "--device", "cpu"], "--device has no effect on VLLMServerPrior"),
        (["--url", "http://127.0.0.1:9", "--dtype", "float32"], "--dtype has no effect on VLLMServerPrior"),
        (["--engine", "vllm", "--device", "cuda"], "--device has no effect on VLLMPrior"),
        (["--engine", "vllm", "--workers", "2"], "--workers 2 can't be combined with --engine vllm"),
    ]:
        result = run(*out, *options)
        assert result.exit_code == 2
        assert line in result.stderr


@pytest.mark.parametrize("library", ["multiprocessing", "multiprocess"])
def test_a_worker_knows_that_it_is_one(library):
    with importlib.import_module(library).get_context("spawn").Pool(1) as pool:
        assert pool.apply(is_worker)
    assert not is_worker()


@pytest.mark.parametrize(
    ("in_worker", "given", "seen"), [(True, None, "0"), (True, "1", "1"), (False, None, None), (False, "0", "0")]
)
def test_an_engine_ends_with_its_worker(monkeypatch, in_worker, given, seen):
    """vLLM's default is a process of its own, which outlives a worker that is killed."""
    name = "VLLM_ENABLE_V1_MULTIPROCESSING"
    with mock.patch.dict(os.environ, {name: given} if given else {}):
        if given is None:
            os.environ.pop(name, None)
        llm = lambda *_, **__: os.environ.get(name)  # noqa: E731
        monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=llm))
        monkeypatch.setattr("hf_toedit.priors.vllm_prior.is_worker", lambda: in_worker)
        assert VLLMPrior("demo", lazy=False)._model == seen
