"""The engine: planning, memory, precision, overlap. What it leaves out, and that nothing gets lost by it."""

from __future__ import annotations

import dataclasses
import pickle
import threading

import numpy as np
import pytest
import torch
from conftest import load_tokenizer
from contract import some_requests
from test_priors import ARCHITECTURES, NUM_IDS, SMALL, assert_same_scores, own_logprob, save_random
from tiny_training import some_texts
from transformers import AutoConfig, AutoModelForCausalLM

from hf_toedit import (
    ConfigError,
    PriorError,
    ScoreRequest,
    StaticPrior,
    ToEditConfig,
    ToEditTransform,
    TransformersPrior,
)
from hf_toedit.editing import editor as editor_module
from hf_toedit.editing.cells import Text, TokenRow
from hf_toedit.editing.decision import change_bound
from hf_toedit.editing.editor import Editor
from hf_toedit.priors.split_model import SplitModel
from hf_toedit.statuses import Status

THRESHOLD = 0.99


class Recorder:
    """A prior that keeps the requests and leaves the rest to another one."""

    def __init__(self, prior):
        self.prior = prior
        self.tokenizer, self.max_length, self.stride = prior.tokenizer, prior.max_length, prior.stride
        self.requests = []

    def score(self, requests, top_k):
        self.requests += requests
        return self.prior.score(requests, top_k)


def certain_prior(tokenizer, **options):
    return StaticPrior(tokenizer, lambda ids, t: {int(ids[t]): 0.995, 50: 0.003, 60: 0.002}, **options)


# planning


@pytest.mark.parametrize("window", [None, 48])
def test_a_window_ends_at_its_last_visited_position_and_a_text_without_one_is_not_asked_about(window, human_texts):
    prior = Recorder(certain_prior(load_tokenizer("demo"), max_length=window))
    edited = ToEditTransform(prior)({"text": human_texts})
    for request in prior.requests:
        assert len(request.positions)
        assert len(request.input_ids) == request.positions[-1] + 1
    visited = [row["num_visited"] for row in edited["toedit"]]
    assert sum(len(request.positions) for request in prior.requests) == sum(visited)
    if window is None:
        assert 0 < len(prior.requests) == sum(count > 0 for count in visited) < len(human_texts)


@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0])
def test_short_answers_after_long_prompts_mostly_never_reach_the_model(temperature, human_texts):
    """Of rows with n editable tokens, the share (1 - bound)^n has none below the bound."""
    tokenizer = load_tokenizer("made-gpt2")
    rows = {"input_ids": [], "labels": []}
    for i in range(3000):
        prompt = f"{i}. {human_texts[i % 300][:60]}"
        context, ids = (tokenizer.encode(text).ids for text in (prompt, f" {i % 2 == 0}.\n"))
        rows["input_ids"].append(context + ids)
        rows["labels"].append([-100] * len(context) + ids)
    prior = Recorder(certain_prior(tokenizer))
    transform = ToEditTransform(prior, temperature=temperature, tokenizer=tokenizer)
    transform(rows)
    num_editable = np.array([sum(label != -100 for label in labels) for labels in rows["labels"]])
    skipped_share = (1 - change_bound(transform.config)) ** num_editable
    num_skipped = len(num_editable) - len(prior.requests)
    deviation = np.sqrt((skipped_share * (1 - skipped_share)).sum())
    assert abs(num_skipped - skipped_share.sum()) < 4 * deviation
    assert (num_editable == 3).all()
    if temperature == 1.5:
        assert 0.74 < num_skipped / len(num_editable) < 0.81  # 0.918^3 = 0.773


def test_batch_size_does_not_change_the_numbers(demo):
    requests = some_requests([40, 3, 500, 17, 2, 41, 42, 100], NUM_IDS)
    expected = demo.score(requests, 8)
    for batch_tokens in (1, 600, 100_000):
        found = TransformersPrior("demo", batch_tokens=batch_tokens).score(requests, 8)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.logprob_E, other.logprob_E)
            np.testing.assert_array_equal(one.candidate_ids_EK, other.candidate_ids_EK)
            np.testing.assert_array_equal(one.candidate_logprob_EK, other.candidate_logprob_EK)
    with pytest.raises(ConfigError, match="batch_tokens=0"):
        TransformersPrior("demo", batch_tokens=0)


# overlap


def test_the_next_piece_is_prepared_while_the_prior_works(monkeypatch, human_texts):
    """The prior returns only once the text after the one it works on has been drawn, and all results are the same."""
    monkeypatch.setattr(editor_module, "PIECE_CHARACTERS", 1)
    drawn = threading.Semaphore(0)
    tokenizer = load_tokenizer("demo")
    inner = certain_prior(tokenizer)
    texts = human_texts[:8]
    expected = ToEditTransform(inner, exclude_target=True)({"text": texts})

    class Waiting(Recorder):
        def score(self, requests, top_k):
            if len(self.requests) < len(texts) - 1:
                assert drawn.acquire(timeout=20), "nothing was prepared while the prior worked"
            return super().score(requests, top_k)

    transform = ToEditTransform(Waiting(inner), exclude_target=True)
    draw = transform.editor.draw
    seen = []

    def counting(*parts):
        seen.append(threading.current_thread())
        if len(seen) > 1:  # the first piece has nothing to be prepared under
            drawn.release()
        return draw(*parts)

    monkeypatch.setattr(transform.editor, "draw", counting)
    assert transform({"text": texts}) == expected
    assert len(seen) == len(texts)
    assert threading.main_thread() not in seen


def outcome(edited):
    value = edited.value.tolist() if isinstance(edited.value, np.ndarray) else edited.value
    return {**dataclasses.asdict(edited), "value": value}


@pytest.mark.parametrize("most", [1, 1000, 10**9])
def test_texts_and_ids_go_the_same_way_and_what_is_skipped_keeps_its_place(most, monkeypatch, demo):
    monkeypatch.setattr(editor_module, "PIECE_CHARACTERS", most)
    editor = Editor(demo, ToEditConfig(threshold=0.5, exclude_target=True))
    sources = []
    for text in some_texts():
        ids_T = np.array(demo.tokenizer.encode(text).ids)
        row = TokenRow(ids_T, ids_T >= 0, ids_T >= 0)
        known = dataclasses.replace(row, status=Status.LABELS_LENGTH)
        unknown = dataclasses.replace(row, input_ids_T=ids_T + 10**6)
        sources += [Text(text), None, row, Text("\ud800"), known, Text(text, status=Status.TEMPLATE), unknown]
    sources = [Text(source) if source is None else source for source in sources]
    together = [outcome(edited) for edited in editor.edit(sources)]
    assert together == [outcome(*editor.edit([source])) for source in sources]
    assert [edited["status"] for edited in together[:7]] == [
        "edited",
        "skipped:null",
        "edited",
        "skipped:lone_surrogates",
        "skipped:labels_length",
        "skipped:template",
        "skipped:unknown_token_id",
    ]


def test_an_error_beside_the_prior_ends_the_work_at_once(monkeypatch, demo):
    monkeypatch.setattr(editor_module, "PIECE_CHARACTERS", 1)
    editor, asked = Editor(demo, ToEditConfig(threshold=0.5)), []
    ask = editor.ask
    monkeypatch.setattr(editor, "ask", lambda requests: [asked.append(requests), ask(requests)][1])
    monkeypatch.setattr(editor, "decide", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        editor.edit([Text(text) for text in some_texts()])
    assert len(asked) == 2 < len(some_texts())


def test_an_editor_of_another_generation_draws_as_one_that_was_made_for_it(demo):
    sources = [Text(text) for text in some_texts()]
    config = ToEditConfig(threshold=0.5, temperature=3.0)
    editor = Editor(demo, config)
    first = [outcome(edited) for edited in editor.edit(sources)]
    made = Editor(demo, dataclasses.replace(config, generation=3)).edit(sources)
    assert [outcome(edited) for edited in editor.at_generation(3).edit(sources)] == [*map(outcome, made)] != first
    assert [outcome(edited) for edited in editor.edit(sources)] == first


@pytest.mark.parametrize("most", [1, 1000, 10**9])
def test_pieces_change_nothing(most, monkeypatch, demo, human_texts):
    texts = [None, *human_texts[:40], "", 5, "  ", "x"]
    rows = {"input_ids": [demo.tokenizer.encode(text).ids for text in human_texts[:40]]}
    expected = ToEditTransform(demo)({"text": texts}), ToEditTransform(demo)(rows)
    monkeypatch.setattr(editor_module, "PIECE_CHARACTERS", most)
    assert (ToEditTransform(demo)({"text": texts}), ToEditTransform(demo)(rows)) == expected
    assert ToEditTransform(demo)({"text": []}) == {"text": [], "toedit": []}


def test_an_error_of_the_prior_comes_through_the_overlap(monkeypatch, human_texts):
    monkeypatch.setattr(editor_module, "PIECE_CHARACTERS", 1)

    class Broken(Recorder):
        def score(self, requests, top_k):
            raise PriorError("the prior broke")

    prior = Broken(certain_prior(load_tokenizer("demo")))
    with pytest.raises(PriorError, match="the prior broke"):
        ToEditTransform(prior, exclude_target=True)({"text": human_texts[:5]})


# memory


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize("part", ["backbone", "head"])
def test_out_of_memory_halves_the_batch_and_loses_nothing(part, error, demo, monkeypatch):
    requests = some_requests([40] * 30 + [20] * 50 + [300], NUM_IDS)
    expected = demo.score(requests, 8)
    prior = TransformersPrior("demo")
    model = prior._model
    sizes = []
    method = {"backbone": "_run", "head": "logprobs"}[part]
    inner = getattr(model, method)

    def limited(*args, **inputs):
        size = inputs["input_ids"].size if part == "backbone" else len(args[0])
        sizes.append(size)
        if size > {"backbone": 310, "head": 20}[part]:
            raise error("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return inner(*args, **inputs)

    monkeypatch.setattr(model, method, limited)
    found = prior.score(requests, 8)
    assert max(sizes) > 2 * {"backbone": 310, "head": 20}[part]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.logprob_E, other.logprob_E)
        np.testing.assert_array_equal(one.candidate_ids_EK, other.candidate_ids_EK)
    sizes.clear()
    prior.score(requests, 8)
    assert max(sizes) <= 320  # what was learnt is kept
    assert pickle.loads(pickle.dumps(prior)).batch_tokens is None


def test_one_sequence_that_does_not_fit_is_one_clear_line(monkeypatch):
    prior = TransformersPrior("demo")

    def no_memory(*args, **inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(prior._model, "_run", no_memory)
    with pytest.raises(PriorError, match=r"not enough memory for a window of 48 tokens: set a smaller max_length"):
        prior.score(some_requests([40], NUM_IDS), 8)


def test_other_errors_of_the_model_are_not_swallowed(monkeypatch):
    prior = TransformersPrior("demo")

    def broken(*args, **inputs):
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(prior._model, "_run", broken)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        prior.score(some_requests([40], NUM_IDS), 8)


# precision

HEADS = [
    ("llama", {**SMALL, "hidden_size": 64, "vocab_size": 3000}),
    ("llama", {**SMALL, "hidden_size": 64, "vocab_size": 20, "tie_word_embeddings": True}),
    ("phi", {**SMALL, "hidden_size": 64, "head_dim": 16, "vocab_size": 3000}),  # its head has a bias
    ("gemma2", {**SMALL, "vocab_size": 3000, "final_logit_softcapping": 30.0}),
    ("cohere", {**SMALL, "vocab_size": 3000, "logit_scale": 0.25}),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("kind", "fields"), HEADS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_16_bit_head_gives_the_log_probabilities_of_float64(kind, fields, dtype):
    """Of positions that are eligible or near it, to a near-tie; of all others, to a hundredth of a nat."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields))
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.5)
    if model.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    split = SplitModel(model.to(dtype).eval().requires_grad_(False), kind)
    weight = split.head.weight.double()
    target_E = torch.randint(0, len(weight), (400,))
    rows_ED = 0.2 * torch.randn(400, weight.shape[1]).double()
    wanted = (3 + 17 * torch.rand(400)) / split.scale  # from a flat distribution to p far above the threshold
    missing = wanted - (rows_ED * weight[target_E]).sum(1)
    rows_ED += (missing / weight[target_E].pow(2).sum(1))[:, None] * weight[target_E]
    rows_ED = rows_ED.to(dtype)
    logits_EV = rows_ED.double() @ weight.T
    if model.get_output_embeddings().bias is not None:
        logits_EV += split.head.bias.double()
    logits_EV = logits_EV * split.scale
    if split.softcap:
        logits_EV = (logits_EV / split.softcap).tanh() * split.softcap
    logprob_EV = torch.log_softmax(logits_EV, -1)
    with torch.inference_mode():
        target, ids_EK, values_EK = split.logprobs(rows_ED, target_E, 8)
    own_E = logprob_EV.gather(1, target_E[:, None])[:, 0]
    near_E = own_E > np.log(0.9)
    assert 20 < near_E.sum() < 380
    near = 1e-4 if dtype != torch.float32 else 1e-5
    assert (target - own_E)[near_E].abs().max() < near
    assert (target - own_E).abs().max() < (1e-2 if dtype != torch.float32 else 1e-5)
    assert (values_EK - logprob_EV.gather(1, ids_EK)).abs().max() < 1e-2
    torch.testing.assert_close(values_EK.double(), logprob_EV.topk(8, -1).values, rtol=0, atol=1e-2)
    decided = (own_E - np.log(THRESHOLD)).abs() > near
    assert torch.equal((target >= np.log(THRESHOLD))[decided], (own_E >= np.log(THRESHOLD))[decided])


# packed sequences


@pytest.mark.parametrize(("kind", "fields"), ARCHITECTURES, ids=lambda value: value if isinstance(value, str) else "")
def test_packed_sequences_do_not_see_each_other(kind, fields, tmp_path, monkeypatch):
    """Where an architecture keeps them apart by their position ids they are packed, else padded; exact both ways."""
    model = save_random(kind, fields, tmp_path)
    monkeypatch.setattr("hf_toedit.priors.split_model.PACKED_ATTENTION", ("sdpa",))
    prior = TransformersPrior(tmp_path)
    assert prior._model.is_packed or kind not in ("llama", "qwen2", "qwen3", "mistral", "olmo2", "smollm3")
    requests = some_requests([2, 5, 33, 64, 40, 40, 40], NUM_IDS)
    for request, scores in zip(requests, prior.score(requests, 8), strict=True):
        assert_same_scores(scores, own_logprob(model, request), request, 8)


# what from_pretrained takes


def test_model_init_kwargs_reach_the_model_and_name_another_prior(demo):
    eager = TransformersPrior("demo", model_init_kwargs={"attn_implementation": "eager"})
    requests = some_requests([50], NUM_IDS)
    np.testing.assert_allclose(eager.score(requests, 8)[0].logprob_E, demo.score(requests, 8)[0].logprob_E, atol=1e-4)
    assert eager._model.model.config._attn_implementation == "eager"
    assert pickle.dumps(eager) != pickle.dumps(demo)


def test_an_int8_prior_is_another_prior(demo):
    torchao = pytest.importorskip("torchao.quantization", reason="needs torchao")
    from transformers import TorchAoConfig

    def new_prior():
        config = TorchAoConfig(torchao.Int8WeightOnlyConfig())
        return TransformersPrior("demo", model_init_kwargs={"quantization_config": config})

    prior = new_prior()
    requests = [ScoreRequest(np.arange(1, 60), np.arange(1, 59))]
    own, exact = (one.score(requests, 8)[0].logprob_E for one in (prior, demo))
    assert 0 < np.abs(own - exact).max() < 0.5
    assert pickle.dumps(prior) == pickle.dumps(new_prior()) != pickle.dumps(demo)
