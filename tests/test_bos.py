"""The begin-of-text token and the windows: every row format and every prior gives the same tokens the same scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import breadth, load_tokenizer, shared_path
from contract import largest_difference
from datasets import Dataset
from tiny_training import arguments, pad_batch, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Trainer
from vllm_server import serving

from hf_toedit import ToEditCallback, ToEditTransform, TransformersPrior, VLLMServerPrior

WINDOW, STRIDE = 64, 24
EVERYWHERE = {"threshold": 1e-6, "exclude_target": True}  # visits every position
WITH_BOS = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
WITHOUT_BOS = "{% for message in messages %}{{ message.content }}{% endfor %}"
WORDS = "Once upon a time there was a little girl who liked to play in the park with her dog and a red ball ."


class Recorder:
    """A prior that keeps what it was asked and what it said."""

    def __init__(self, prior):
        self.prior = prior
        self.tokenizer, self.max_length, self.stride = prior.tokenizer, prior.max_length, prior.stride
        self.special_tokens, self.chat_template = prior.special_tokens, None
        self.requests, self.scores = [], []

    def score(self, requests, top_k):
        found = self.prior.score(requests, top_k)
        self.requests += requests
        self.scores += found
        return found

    @property
    def asked(self):
        return [(request.input_ids.tolist(), request.positions.tolist()) for request in self.requests]


class Case:
    """A prior with a window of 64 tokens, its tokenizer and its bare model."""

    def __init__(self, folder):
        self.prior = TransformersPrior(folder, max_length=WINDOW, stride=STRIDE)
        self.tokenizer = AutoTokenizer.from_pretrained(self.prior.path)
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(self.prior.path, dtype=torch.float64).eval()
        self.bos = self.tokenizer("x").input_ids[0]
        assert self.bos == self.tokenizer.bos_token_id  # both priors put one in front
        words = np.random.default_rng(0).choice(WORDS.split(), 200)
        self.text = " ".join(words)
        self.ids = self.tokenizer(self.text).input_ids
        assert len(self.ids) > 3 * WINDOW


def save_random_llama(folder):
    """A random model with a tokenizer like SentencePiece's."""
    tokenizer = load_tokenizer("made-llama")
    tiny_model(num_ids=tokenizer.get_vocab_size()).save_pretrained(folder)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["demo", "made-llama", breadth("stories260K")])
def case(request, tmp_path_factory):
    if request.param == "made-llama":
        return Case(save_random_llama(tmp_path_factory.mktemp("llama")))
    return Case("demo" if request.param == "demo" else shared_path("models/stories260K"))


def expected_requests(ids, prefix, first_scored):
    """By hand: the body of a sequence in windows, behind the prefix; each token once."""
    body, found, first = ids[len(prefix) :], [], 0
    while first < len(body):
        start = max(0, first - STRIDE)
        end = min(len(body), start + WINDOW - len(prefix))
        skip = max(first - start, first_scored if first == 0 else 0)
        found.append((prefix + body[start:end], list(range(len(prefix) + skip, len(prefix) + end - start))))
        first = end
    return found


def own_logprobs(model, asked):
    """log P of the wanted tokens by the bare model, in float64. One array for each request."""
    found = []
    for ids, positions in asked:
        with torch.no_grad():
            logprob_TV = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        found.append(np.array([logprob_TV[t - 1, ids[t]].item() for t in positions]))
    return found


def through(prior, row, **options):
    """What a prior was asked, and its scores, when a row was edited."""
    recorder = Recorder(prior)
    edited = ToEditTransform(recorder, **EVERYWHERE, **options)(row)
    assert edited["toedit"]["status"] == "edited"
    return recorder


def through_trainer(case, rows, folder, **options):
    """What the prior was asked in one step of training."""
    recorder = Recorder(case.prior)
    trainer = Trainer(
        model=tiny_model(num_ids=len(case.tokenizer)),
        args=arguments(folder, remove_unused_columns=False, max_steps=1),
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        data_collator=pad_batch,
        processing_class=case.tokenizer,
        callbacks=[ToEditCallback(recorder, **options)],
    )
    trainer.train()
    return recorder


ROUTES = {
    "text": lambda case, _: through(case.prior, {"text": case.text}),
    "text that is rendered": lambda case, _: through(case.prior, {"text": case.tokenizer.bos_token + case.text}),
    "ids": lambda case, _: through(case.prior, {"input_ids": case.ids}),
    "conversation": lambda case, _: through(
        case.prior, {"messages": [{"role": "assistant", "content": case.text}]}, chat_template=WITH_BOS
    ),
    "contents": lambda case, _: through(
        case.prior, {"messages": [{"role": "assistant", "content": case.text}]}, chat_template=""
    ),
    "training": lambda case, folder: through_trainer(case, [case.ids], folder, **EVERYWHERE),
    "truncated": lambda case, folder: through_trainer(case, [case.ids], folder, select={"high": 0.9}),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_reads_the_prefix_in_front_of_every_window(route, case, tmp_path):
    recorder = ROUTES[route](case, tmp_path)
    wanted = expected_requests(case.ids, [case.bos], 0)
    assert len(wanted) > 3
    assert all(ids[0] == case.bos and case.bos not in ids[1:] for ids, _ in wanted)
    assert recorder.asked == wanted
    for scores, own in zip(recorder.scores, own_logprobs(case.model, wanted), strict=True):
        np.testing.assert_allclose(scores.logprob_E, own, atol=1e-4)


@pytest.mark.parametrize("route", ["conversation", "ids", "training"])
def test_nothing_is_added_to_templates_and_rows_without_the_prefix(route, case, tmp_path):
    """As in TRL and apply_chat_template(tokenize=True): these decide themselves. Text without a prefix has none."""
    ids = case.ids[1:]
    if route == "conversation":
        messages = [{"role": "assistant", "content": case.text}]
        assert ids == case.tokenizer.apply_chat_template(messages, chat_template=WITHOUT_BOS, return_dict=False)
        recorder = through(case.prior, {"messages": messages}, chat_template=WITHOUT_BOS)
    elif route == "ids":
        recorder = through(case.prior, {"input_ids": ids})
    else:
        recorder = through_trainer(case, [ids], tmp_path, **EVERYWHERE)
    assert recorder.asked == expected_requests(ids, [], 1)


def test_a_pair_is_text(case):
    prompt, completion = case.text[:60], case.text[60:]
    recorder = through(case.prior, {"prompt": prompt, "completion": completion})
    last_windows = expected_requests(case.ids, [case.bos], 0)[1:]
    assert recorder.asked[1:] == last_windows
    assert recorder.asked[0][0][0] == case.bos


def test_a_server_is_asked_alike_and_says_alike(case):
    """Over HTTP: the prompts are ids, of the same windows."""
    models = [{"id": case.prior.name, "root": case.prior.path, "max_model_len": WINDOW + 1}]
    with serving(case.prior, models=models) as (url, server):
        served = VLLMServerPrior(case.prior.name, url, max_length=WINDOW, stride=STRIDE)
        recorder, local = (through(prior, {"text": case.text}) for prior in (served, case.prior))
        assert sorted(body["prompt"] for body in server.bodies) == sorted(ids for ids, _ in local.asked)
    assert recorder.asked == local.asked
    assert largest_difference(recorder.scores, local.scores) == 0


@pytest.mark.parametrize("num_prefix", [1, 2, 3])
@pytest.mark.parametrize("max_length", [None, 12, 200])
def test_longer_prefixes_are_read_whole(case, num_prefix, max_length):
    """Some tokenizers put two tokens in front; those of the prefix itself belong to the first window."""
    from hf_toedit.editing.windows import requests_of

    prefix, body = list(range(1, 1 + num_prefix)), list(range(50, 90))
    prior = TransformersPrior(case.prior.name, max_length=max_length or WINDOW, stride=4)
    if max_length is None:
        prior = type("Endless", (), {"max_length": None, "stride": 0})()
    ids = np.array(prefix + body)
    requests = requests_of(ids, np.arange(1, len(ids)), np.array(prefix), prior)
    scored = [request.input_ids[t] for request in requests for t in request.positions]
    assert scored == [*prefix[1:], *body]
    assert all(request.input_ids[:num_prefix].tolist() == prefix for request in requests)
    assert all(len(request.input_ids) <= (max_length or len(ids)) for request in requests)
    assert (len(requests) > 3) == (max_length == 12)
