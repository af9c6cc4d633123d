"""ToEditCallback: training with it equals, bit for bit, training on rows that were edited before."""

from __future__ import annotations

import gc
import math
import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NUM_IDS, breadth, load_tokenizer
from contract import check_contract, largest_difference, some_requests
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from strategies import one_line
from tiny_training import (
    MANY,
    arguments,
    check_equivalence,
    demo_model,
    edit_offline,
    equal,
    left_padded,
    lora_on_demo,
    make_sft_trainer,
    make_trainer,
    pad_batch,
    some_rows,
    some_texts,
    tiny_model,
    tokenizer_with_padding,
    train,
    weights_of,
    with_shift_labels,
)
from transformers import DataCollatorForLanguageModeling, DataCollatorWithFlattening, TrainerCallback
from trl import DPOConfig, DPOTrainer

from hf_toedit import (
    ConfigError,
    PriorError,
    RowError,
    StaticPrior,
    ToEditCallback,
    ToEditTransform,
    ToEditWarning,
    summarize,
)
from hf_toedit.priors.model_prior import ModelPrior
from hf_toedit.priors.transformers_prior import TransformersPrior
from hf_toedit.training.batches import cut, with_ids, without_labels

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "gate_proj"], init_lora_weights=False)


pytestmark = pytest.mark.usefixtures("fast_collection")


class Recorder(TrainerCallback):
    """Keeps the batches and the weights of each step, before and after editing. Attach it first."""

    def __init__(self, trainer: Any, callback: ToEditCallback) -> None:
        self.before: list[Any] = []
        self.after: list[Any] = []
        self.weights: list[Any] = []
        self._wrap(trainer, self.before)
        callback.attach(trainer)
        self._wrap(trainer, self.after)

    def _wrap(self, trainer: Any, into: list[Any]) -> None:
        original = trainer.get_batch_samples

        def keep(*args: Any) -> Any:
            batches, num_items = original(*args)
            into.append(([{name: value.clone() for name, value in batch.items()} for batch in batches], num_items))
            if into is self.before:
                self.weights.append(weights_of(trainer))
            return batches, num_items

        trainer.get_batch_samples = keep


# equal to training on edited rows

KINDS = {"Trainer": make_trainer, "SFTTrainer": make_sft_trainer}
BOTH: dict[str, dict[str, Any]] = {
    "plain": {},
    "left padded": {"collator": left_padded},
    "accumulation": {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2, "max_steps": 2},
    "workers": {"dataloader_num_workers": 1},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "streamed": {"is_stream": True},
    "checkpointing": {"activation_checkpointing": True},
    "mixed precision": {"bf16": True},
}
ONLY = {
    "Trainer": {
        "shift labels": {"collator": with_shift_labels},
        "transformers' collator": {"collator": DataCollatorForLanguageModeling(tokenizer_with_padding(), mlm=False)},
        "flattened": {"collator": DataCollatorWithFlattening()},
        "flattened, seq_idx": {"collator": DataCollatorWithFlattening(return_seq_idx=True)},
    },
    "SFTTrainer": {
        "padding-free": {"padding_free": True},
        "bfd": {"packing": True, "max_length": 256, "per_device_train_batch_size": 1},
        "lora": {"peft_config": LORA},
    },
}


BREADTH = {  # each is run with the other trainer
    "Trainer": ["left padded", "accumulation", "streamed", "mixed precision"],
    "SFTTrainer": ["workers", "label smoothing", "checkpointing"],
}


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        breadth(kind, mode) if mode in BREADTH[kind] else (kind, mode)
        for kind in KINDS
        for mode in {**BOTH, **ONLY[kind]}
    ],
)
def test_training_equals_training_on_edited_rows(kind, mode, tmp_path, demo):
    rows = some_rows()
    make = partial(KINDS[kind], tmp_path, **{**BOTH, **ONLY[kind]}[mode])
    check_equivalence(make, rows, edit_offline(demo, rows), demo)


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_trains_other_weights(kind, tmp_path, demo):
    one, other = (
        train(KINDS[kind](tmp_path, some_rows(), [ToEditCallback(demo, seed=seed, **MANY)])) for seed in (0, 1)
    )
    assert not equal(one, other)


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_that_are_masked_stay_masked_and_are_context(side, tmp_path, demo):
    rows = some_rows(mask="labels")
    edited = edit_offline(demo, rows)
    for old, new, label in zip(rows["input_ids"], edited["input_ids"], edited["labels"], strict=True):
        assert all(a == b for a, b, kept in zip(old, new, label, strict=True) if kept == -100)
    make = partial(make_trainer, tmp_path, collator=partial(pad_batch, side=side))
    check_equivalence(make, rows, edited, demo)


def test_the_default_config_is_lazy_and_equal_too(tmp_path, demo):
    """Most positions are not visited; the edits are those of the same config offline."""
    fields = {"threshold": 0.8, "exclude_target": False}
    rows = some_rows()
    edited = edit_offline(demo, rows, **fields)
    assert edited != rows
    callback = ToEditCallback(demo, **fields)
    trainer = make_trainer(tmp_path, rows, [callback])
    assert equal(train(trainer), train(make_trainer(tmp_path, edited)))
    num_tokens = sum(map(len, rows["input_ids"]))
    visited = sum(entry["toedit/visited"] for entry in trainer.state.log_history if "toedit/visited" in entry)
    assert 0 < visited < 0.7 * num_tokens


class Epochs(torch.utils.data.IterableDataset):
    """Other rows on each pass."""

    def __init__(self, epochs: list[Any]) -> None:
        self.epochs, self.passes = epochs, 0

    def __iter__(self) -> Any:
        rows = self.epochs[self.passes]
        self.passes += 1
        return iter([{"input_ids": ids} for ids in rows["input_ids"]])


@pytest.mark.parametrize("redraw", [True, False])
def test_epochs_redraw_or_repeat(redraw, tmp_path, demo):
    """The generation follows the epoch, also where no one knows how long an epoch is."""
    rows = some_rows(4)
    epochs = [edit_offline(demo, rows, generation=2 + epoch * redraw) for epoch in range(3)]
    assert (epochs[0] == epochs[1]) != redraw
    options = {"max_steps": 6, "per_device_train_batch_size": 2}
    offline = train(make_trainer(tmp_path, Epochs(epochs), **options))
    callback = ToEditCallback(demo, generation=2, redraw=redraw, **MANY)
    assert equal(train(make_trainer(tmp_path, Epochs([rows] * 3), [callback], **options)), offline)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumed_in_mid_epoch_goes_on_with_the_same_edits(kind, tmp_path, demo):
    def make(**options: Any) -> Any:
        callback = ToEditCallback(demo, **MANY, **options)
        return KINDS[kind](tmp_path, some_rows(), [callback], max_steps=6, save_strategy="steps", save_steps=4)

    through = train(make())
    checkpoint = str(tmp_path / "checkpoint-4")
    assert equal(train(make(), resume_from_checkpoint=checkpoint), through)
    assert not equal(train(make(redraw=False), resume_from_checkpoint=checkpoint), through)


# parts and packs


@pytest.mark.parametrize("mask", ["completion_mask", "assistant_masks"])
@pytest.mark.parametrize("packing", [False, True])
def test_sft_with_loss_on_a_part_of_each_row(mask, packing, tmp_path, demo):
    rows = some_rows(mask=mask)
    options = {"completion_only_loss": True}
    if packing:
        options |= {"packing": True, "max_length": 256, "per_device_train_batch_size": 1}
    make = partial(make_sft_trainer, tmp_path, **options)
    check_equivalence(make, rows, edit_offline(demo, rows), demo)


def edit_pieces(prior: Any, packed: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Packed rows with each sequence edited by itself. Without lengths a row is one sequence."""
    edited: dict[str, list[Any]] = {**packed, "input_ids": [], "labels": []}
    for i, ids in enumerate(packed["input_ids"]):
        cuts = np.cumsum(packed["seq_lengths"][i])[:-1] if "seq_lengths" in packed else []
        pieces = {
            name: [piece.tolist() for piece in np.split(packed[name][i], cuts)] for name in ("input_ids", "labels")
        }
        new = edit_offline(prior, pieces)
        for name in pieces:
            edited[name].append([token for piece in new[name] for token in piece])
        assert len(edited["input_ids"][-1]) == len(ids)
    return edited


@pytest.mark.parametrize("packing", ["bfd", "bfd_split", "wrapped"])
def test_where_packing_cuts_a_document_the_piece_is_the_row(packing, tmp_path, demo):
    """max_length is shorter than most documents."""
    options = {"packing": True, "packing_strategy": packing, "max_length": 64}
    rows = some_rows()
    packed = make_sft_trainer(tmp_path, rows, **options).train_dataset.with_format(None).to_dict()
    assert max(map(len, packed["input_ids"])) <= 64 < max(map(len, rows["input_ids"]))
    edited = edit_pieces(demo, packed)
    assert edited != packed
    ready = {**options, "dataset_kwargs": {"skip_prepare_dataset": True}}
    offline = train(make_sft_trainer(tmp_path, edited, **ready))
    assert equal(train(make_sft_trainer(tmp_path, rows, [ToEditCallback(demo, **MANY)], **options)), offline)
    assert not equal(train(make_sft_trainer(tmp_path, rows, **options)), offline)


def test_in_preference_pairs_the_completions_alone_are_edited(tmp_path, demo):
    texts = some_texts(7)[-4:]
    tiny_model().save_pretrained(tmp_path / "model")
    tokenizer_with_padding().save_pretrained(tmp_path / "model")
    pairs = [
        {"prompt": text[:30], "chosen": text[30:], "rejected": other[30:]}
        for text, other in zip(texts, reversed(texts), strict=True)
    ]
    options = arguments(tmp_path, DPOConfig, max_steps=1, bf16=False, activation_checkpointing=False)
    trainer = DPOTrainer(
        model=str(tmp_path / "model"),
        args=options,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer_with_padding(),
    )
    recorder = Recorder(trainer, ToEditCallback(demo, **MANY))
    trainer.train()
    ([before], _), ([after], _) = recorder.before[0], recorder.after[0]
    is_changed = before["input_ids"] != after["input_ids"]
    is_completion = before["completion_mask"] == 1
    assert len(is_changed) == 8
    assert (~is_completion & (before["attention_mask"] == 1)).any(1).all()
    assert not is_changed[~is_completion].any()
    assert is_changed.any(1).all(), "the chosen, which come first, and the rejected"
    assert all(torch.equal(before[name], after[name]) for name in before if name != "input_ids")


@pytest.mark.parametrize("mask", ["completion_mask", "assistant_masks"])
def test_masks_of_a_batch_are_its_scope(mask):
    ids = torch.arange(8).reshape(2, 4)
    part = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]])
    labels = torch.tensor([[-100, 1, 2, -100], [4, 5, 6, 7]])
    for batch, expected in (
        ({}, torch.ones(2, 4)),
        ({mask: part}, part),
        ({mask: part, "labels": labels}, part * (labels != -100)),
        ({mask: part, "completion_mask": torch.ones(2, 4), "assistant_masks": part}, part),
    ):
        found = [row.scope_T.tolist() for _, _, row in cut({"input_ids": ids, **batch})]
        assert found == (expected != 0).tolist()


def test_text_rows_of_sft_are_edited_as_tokens(tmp_path, demo):
    """What SFTTrainer makes of prompts and completions, edited offline, trains the same."""
    texts = some_texts()
    rows = {"prompt": [text[:30] for text in texts], "completion": [text[30:] for text in texts]}
    tokens = make_sft_trainer(tmp_path, rows).train_dataset.with_format(None).to_dict()
    tokens = {name: tokens[name] for name in ("input_ids", "labels")}
    edited = edit_offline(demo, tokens)
    assert edited != tokens
    offline = train(make_sft_trainer(tmp_path, edited))
    assert equal(train(make_sft_trainer(tmp_path, rows, [ToEditCallback(demo, **MANY)])), offline)
    assert not equal(train(make_sft_trainer(tmp_path, rows)), offline)


# priors in training


def test_base_edits_as_the_base_loaded_apart(tmp_path, demo):
    rows = some_rows()
    make = partial(make_trainer, tmp_path, rows, learning_rate=3e-2)
    apart = train(make([ToEditCallback(demo, **MANY)], model=lora_on_demo()))
    assert equal(train(make([ToEditCallback("base", **MANY)], model=lora_on_demo())), apart)
    assert not equal(train(make([ToEditCallback("self", **MANY)], model=lora_on_demo())), apart)


def test_base_scores_as_the_base_loaded_apart(demo):
    """Adapters that do something, and dropout, make no difference."""
    prior = ModelPrior(lora_on_demo(init_lora_weights=False, lora_dropout=0.5), tokenizer_with_padding(), base=True)
    check_contract(prior)
    requests = some_requests([200, 30], NUM_IDS)
    assert largest_difference(prior.score(requests, 8), demo.score(requests, 8)) == 0
    prior.base = False
    assert largest_difference(prior.score(requests, 8), demo.score(requests, 8)) > 0.1


def test_self_scores_as_the_model_saved_and_loaded(tmp_path):
    """With dropout, and an adapter on the head too."""
    lora = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False, lora_dropout=0.5)
    model = get_peft_model(tiny_model(dropout=0.5), lora).train()
    prior = ModelPrior(model, tokenizer_with_padding())
    requests = some_requests([200, 30], NUM_IDS)
    model.get_base_model().model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    found = prior.score(requests, 8)
    assert modes == [module.training for module in model.modules()]
    assert set(modes) == {True, False}
    model.merge_and_unload().save_pretrained(tmp_path)
    tokenizer_with_padding().save_pretrained(tmp_path)
    assert largest_difference(found, TransformersPrior(tmp_path).score(requests, 8)) < 1e-4


@pytest.mark.parametrize("prior", ["base", "self"])
def test_asking_the_model_in_training_leaves_it_as_it_was(prior, tmp_path):
    """With dropout a changed mode or a used random number would show. threshold=1 changes no token."""
    states = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            states.append((model.training, [p.requires_grad for p in model.parameters()]))

    def run(callbacks: list[Any]) -> Any:
        model = lora_on_demo(lora_dropout=0.3)
        model.base_model.model.model.layers[0].self_attn.q_proj.lora_B.default.weight.requires_grad_(False)
        return train(make_trainer(tmp_path, some_rows(), [*callbacks, Watch()], model=model))

    callback = ToEditCallback(prior, threshold=1.0, exclude_target=True)
    plain = run([])
    assert equal(run([callback]), plain)
    assert states[:3] == states[3:]
    assert states[0][0]


def test_self_edits_with_the_weights_of_the_step(tmp_path):
    """Each step's edits are those that a copy of the model, saved at that step, makes offline."""
    callback = ToEditCallback("self", **MANY)
    trainer = make_trainer(tmp_path / "out", some_rows(), model=demo_model(), max_steps=3, learning_rate=1e-3)
    recorder = Recorder(trainer, callback)
    trainer.train()
    for (before, _), (after, _), weights in zip(recorder.before, recorder.after, recorder.weights, strict=True):
        copy = demo_model()
        copy.load_state_dict(weights)
        copy.save_pretrained(tmp_path / "copy")
        tokenizer_with_padding().save_pretrained(tmp_path / "copy")
        rows = {name: before[0][name].tolist() for name in ("input_ids", "attention_mask", "labels")}
        edited = edit_offline(TransformersPrior(tmp_path / "copy"), rows)
        assert edited != rows
        assert {name: after[0][name].tolist() for name in rows} == edited


def test_mixed_precision_asks_the_model_in_training(tmp_path, demo):
    callback = ToEditCallback("self", **MANY)
    trainer = make_trainer(tmp_path, some_rows(), [callback], model=demo_model(), bf16=True, max_steps=1)
    trainer.train()
    expected = summarize(
        ToEditTransform(demo, columns="input_ids", **MANY)({"input_ids": some_rows()["input_ids"]})["toedit"]
    )
    logged = trainer.state.log_history[0]
    assert logged["toedit/prior_perplexity"] == pytest.approx(expected.perplexity, rel=0.5)
    assert logged["toedit/changed_rate"] > 0


class CountTensors(TrainerCallback):
    """Bytes of the parameters that are alive when training ends."""

    num_bytes = 0

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gc.collect()
        alive = {id(one): one.nbytes for one in gc.get_objects() if issubclass(type(one), torch.nn.Parameter)}
        self.num_bytes = sum(alive.values())


def test_base_holds_no_second_model(tmp_path):
    def bytes_alive(callbacks: list[Any]) -> int:
        count = CountTensors()
        train(make_trainer(tmp_path, some_rows(), [*callbacks, count], model=lora_on_demo(), max_steps=2))
        return count.num_bytes

    gc.collect()
    alone = bytes_alive([])
    assert bytes_alive([ToEditCallback("base", **MANY)]) == alone
    assert bytes_alive([ToEditCallback("self", **MANY)]) == alone
    size = sum(parameter.nbytes for parameter in demo_model().parameters())
    assert bytes_alive([ToEditCallback(TransformersPrior("demo"), **MANY)]) == alone + size


# controls

AT_RATE = {"strategy": "random", "rate": 0.2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("has_corpus", [True, False])
def test_random_edits_are_those_of_random_offline(kind, has_corpus, tmp_path, demo):
    rows = some_rows()
    edited = edit_offline(demo, rows, strategy="random")
    assert edited != rows
    assert edited != edit_offline(demo, rows)
    callback = ToEditCallback(demo, strategy="random", corpus=Dataset.from_dict(rows) if has_corpus else None, **MANY)
    make = partial(KINDS[kind], tmp_path, is_stream=has_corpus)
    assert equal(train(make(rows, [callback])), train(make(edited)))


@pytest.mark.parametrize(
    ("kind", "options", "fields"),
    [
        ("Trainer", {}, {"distribution": "unigram"}),
        ("SFTTrainer", {"padding_free": True}, {**AT_RATE, "distribution": "prior"}),
        breadth("Trainer", {}, {**AT_RATE, "distribution": "prior"}),
        breadth("SFTTrainer", ONLY["SFTTrainer"]["bfd"], {"distribution": "unigram"}),
        breadth("SFTTrainer", ONLY["SFTTrainer"]["bfd"], {**AT_RATE, "distribution": "prior"}),
    ],
)
def test_other_tokens_and_other_positions_are_those_of_the_edit_offline(kind, options, fields, tmp_path, demo):
    rows = some_rows()
    edited = edit_offline(demo, rows, **fields)
    assert edited not in (rows, edit_offline(demo, rows))
    make = partial(KINDS[kind], tmp_path, **options)
    assert equal(train(make(rows, [ToEditCallback(demo, **{**MANY, **fields})])), train(make(edited)))


def test_none_is_plain_training(tmp_path, demo):
    callback = ToEditCallback(demo, strategy="none")
    trainer = make_trainer(tmp_path, some_rows(), [callback])
    assert equal(train(trainer), train(make_trainer(tmp_path, some_rows())))
    assert trainer.state.log_history[0]["toedit/changed_rate"] == 0


def certain_labels(model: Any, rows: list[list[int]], threshold: float) -> list[list[int]]:
    """Truncated cross-entropy by the book: no label where the model gives the token p >= threshold."""
    labels = []
    for ids in rows:
        with torch.no_grad():
            p = model(torch.tensor([ids])).logits[0].double().softmax(-1)
        keep = [ids[0], *(-100 if p[t - 1, ids[t]] >= threshold else ids[t] for t in range(1, len(ids)))]
        labels.append(keep)
    return labels


@pytest.mark.parametrize("collator", [pad_batch, left_padded, with_shift_labels, DataCollatorWithFlattening()])
def test_truncated_cross_entropy_equals_training_without_the_certain_labels(collator, tmp_path, demo):
    rows = some_rows()
    truncated = {**rows, "labels": certain_labels(demo_model().eval(), rows["input_ids"], 0.5)}
    share = np.mean([label == -100 for labels in truncated["labels"] for label in labels])
    assert 0.1 < share < 0.9
    options = {"collator": collator, "gradient_accumulation_steps": 2, "max_steps": 2, "per_device_train_batch_size": 2}
    callback = ToEditCallback(demo, select={"high": 0.5})
    trainer = make_trainer(tmp_path, rows, [callback], **options)
    assert equal(train(trainer), train(make_trainer(tmp_path, truncated, **options)))
    assert trainer.state.log_history[0]["toedit/kept_rate"] == pytest.approx(1 - share, rel=0.2)


def test_truncated_cross_entropy_of_the_model_itself(tmp_path):
    """ForTIFAI's own setting; the tokens themselves stay, masked labels are not scored, and the items are counted."""
    callback = ToEditCallback("self", select={"high": 0.5})
    trainer = make_trainer(tmp_path, some_rows(mask="labels"), model=demo_model(), max_steps=3, learning_rate=1e-3)
    recorder = Recorder(trainer, callback)
    trainer.train()
    for (before, _), (after, num_items), weights in zip(recorder.before, recorder.after, recorder.weights, strict=True):
        model = demo_model().eval()
        model.load_state_dict(weights)
        assert torch.equal(before[0]["input_ids"], after[0]["input_ids"])
        for ids, mask, old, new in zip(
            *(before[0][name] for name in ("input_ids", "attention_mask", "labels")), after[0]["labels"], strict=True
        ):
            length = int(mask.sum())
            [certain] = certain_labels(model, [ids[:length].tolist()], 0.5)
            expected = [-100 if keep == -100 else label for keep, label in zip(certain, old.tolist(), strict=False)]
            assert new.tolist() == expected + [-100] * (len(ids) - length)
        assert num_items == (after[0]["labels"][:, 1:] != -100).sum()


class SometimesNaN:
    """The demo prior, but for one request of each call it gives one number that is none."""

    def __init__(self, prior: Any) -> None:
        self.prior = prior
        self.tokenizer, self.max_length, self.stride = prior.tokenizer, 64, 32

    def score(self, requests: Any, top_k: int) -> Any:
        scores = self.prior.score(requests, top_k)
        scores[1].logprob_E[-1] = np.nan
        return scores


def test_a_sequence_without_finite_numbers_keeps_its_labels_and_is_counted(tmp_path, demo):
    """Of a long sequence one window is enough."""
    rows = {name: [[*ids, *ids] for ids in column] for name, column in some_rows(4).items()}
    trainer = make_trainer(tmp_path, rows, max_steps=1)
    recorder = Recorder(trainer, ToEditCallback(SometimesNaN(demo), select={"high": 0.3}))
    trainer.train()
    ([before], _), ([after], _) = recorder.before[0], recorder.after[0]
    assert before["attention_mask"][0].sum() > 64
    same = (before["labels"] == after["labels"]).all(1)
    assert same.tolist() == [True, False, False, False]
    logged = trainer.state.log_history[0]
    assert logged["toedit/skipped_rate"] == 0.25
    assert logged["toedit/visited"] == (before["attention_mask"][1:].sum(1) - 1).sum()
    assert math.isfinite(logged["toedit/prior_perplexity"])


@pytest.mark.parametrize("selects", [True, False])
def test_sequences_of_another_tokenizer_stay_and_are_counted(selects, tmp_path):
    """Its ids are all known to the prior."""
    prior = StaticPrior(load_tokenizer("made-llama"), lambda ids, t: {int(ids[t]): 0.5, 70: 0.5})
    trainer = make_trainer(tmp_path, some_rows(4), max_steps=1)
    trainer.processing_class = None
    fields = {"select": {"high": 0.3}} if selects else {**MANY, "threshold": 0.3}
    recorder = Recorder(trainer, ToEditCallback(prior, **fields))
    with pytest.warns(UserWarning, match=r"edits nothing: every .* \(4 rows\): .* the tokenizer that made them"):
        trainer.train()
    ([before], _), ([after], _) = recorder.before[0], recorder.after[0]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert trainer.state.log_history[0]["toedit/skipped_rate"] == 1


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("options", [{}, {"label_smoothing_factor": 0.1}, {"gradient_accumulation_steps": 2}])
def test_a_batch_without_any_label_left_is_no_disaster(accepts, options, tmp_path, demo):
    """Of the shorter sequences nothing is left; with batches of one, they are batches. accepts: num_items_in_batch."""
    rows = some_rows()
    longest = sorted(map(len, rows["input_ids"]))[4]
    prior = StaticPrior(demo.tokenizer, lambda ids, t: {int(ids[t]): 0.999 if len(ids) < longest else 0.5})
    options = {**options, "per_device_train_batch_size": 1, "num_train_epochs": 1, "max_steps": -1}
    trainer = make_trainer(tmp_path, rows, [ToEditCallback(prior, select={"high": 0.99})], **options)
    trainer.model_accepts_loss_kwargs = accepts
    before = weights_of(trainer)
    after = train(trainer)
    assert not equal(before, after)
    assert all(torch.isfinite(value).all() for value in after.values())
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(math.isfinite(entry["loss"]) for entry in logs)
    num_batches = options.get("gradient_accumulation_steps", 1)
    assert sum(entry["toedit/no_labels_rate"] * num_batches for entry in logs) == 4
    assert all(entry["toedit/skipped_rate"] == 0 for entry in logs)


def test_a_run_without_any_label_left_says_so_once(tmp_path, demo):
    prior = StaticPrior(demo.tokenizer, lambda ids, t: {int(ids[t]): 0.999})
    callback = ToEditCallback(prior, select={"high": 0.99})
    trainer = make_trainer(tmp_path, some_rows(), [callback])
    with pytest.warns(ToEditWarning, match="12 of the 12 sequences so far have no token left in the loss") as caught:
        weights = train(trainer)
    assert len([one for one in caught if "no token left" in str(one.message)]) == 1
    assert all(torch.isfinite(value).all() for value in weights.values())
    [edit] = callback.history.edits(trainer)
    assert edit.stats.statuses == {"no_labels": 12}
    assert edit.record["select"] == {"high": 0.99}


# the trainer


def test_logs_say_what_the_offline_statistics_say(tmp_path, demo):
    rows = some_rows()
    callback = ToEditCallback(demo, **MANY)
    trainer = make_trainer(tmp_path, rows, [callback], max_steps=6, logging_steps=3, per_device_train_batch_size=2)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [3, 6]
    offline = summarize(ToEditTransform(demo, columns="input_ids", **MANY)({"input_ids": rows["input_ids"]})["toedit"])
    visited = [entry["toedit/visited"] for entry in logs]
    assert sum(visited) == offline.tokens.num_visited
    eligible = sum(entry["toedit/eligible_rate"] * entry["toedit/visited"] for entry in logs)
    assert eligible == pytest.approx(offline.tokens.num_visited_eligible)
    nats = sum(math.log(entry["toedit/prior_perplexity"]) * entry["toedit/visited"] for entry in logs)
    assert nats == pytest.approx(-offline.tokens.logprob_sum)
    assert all(0 < entry["toedit/changed_rate"] <= entry["toedit/eligible_rate"] for entry in logs)
    assert all(entry["toedit/skipped_rate"] == 0 for entry in logs)
    assert not any(name.startswith("toedit") for entry in trainer.state.log_history[2:] for name in entry)
    ours = {name for entry in logs for name in entry if name.startswith("toedit")}
    selected = make_trainer(tmp_path, rows, [ToEditCallback(demo, select={"high": 0.5})], max_steps=1)
    selected.train()
    ours |= {name for name in selected.state.log_history[0] if name.startswith("toedit")}
    assert ours == set(re.findall(r"`(toedit/\w+)`", ToEditCallback.__doc__ or "")), "each is documented"


@pytest.mark.parametrize("selects", [True, False])
def test_sequences_with_ids_that_the_prior_does_not_know_stay_and_are_counted(selects, tmp_path, demo):
    """Without a tokenizer nothing could be compared before."""
    rows = some_rows(4)
    rows["input_ids"][1][5] = 450
    fields = {"select": {"high": 0.5}} if selects else MANY
    trainer = make_trainer(tmp_path, rows, model=tiny_model(num_ids=500), max_steps=1)
    trainer.processing_class = None
    recorder = Recorder(trainer, ToEditCallback(demo, **fields))
    trainer.train()
    (before, _), (after, _) = recorder.before[0], recorder.after[0]
    is_same = [all(torch.equal(before[0][name][b], after[0][name][b]) for name in before[0]) for b in range(4)]
    assert is_same == (before[0]["input_ids"] == 450).any(1).tolist()
    assert trainer.state.log_history[0]["toedit/skipped_rate"] == 0.25


def test_evaluation_is_left_alone(tmp_path, demo):
    rows = some_rows()
    options = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}
    trainer = make_trainer(tmp_path, rows, [ToEditCallback(demo, **MANY)], evaluated=rows, **options)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    plain = make_trainer(tmp_path, rows, model=trainer.model, per_device_eval_batch_size=4)
    assert losses[-1] == plain.evaluate(Dataset.from_dict(rows))["eval_loss"]
    edited = plain.evaluate(Dataset.from_dict(edit_offline(demo, rows)))["eval_loss"]
    assert losses[-1] != edited


def test_training_that_raised_can_be_started_again(tmp_path, demo):
    callback = ToEditCallback(demo, **MANY)
    trainer = make_trainer(tmp_path, some_rows(), [callback])
    start = weights_of(trainer)
    step, trainer.training_step = trainer.training_step, None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        trainer.train()
    trainer.training_step = step
    trainer.model.load_state_dict(start)
    assert equal(train(trainer), train(make_trainer(tmp_path, some_rows(), [ToEditCallback(demo, **MANY)])))


def test_attached_twice_is_attached_once_and_removed_is_removed(tmp_path, demo):
    """Through several calls of train, which keep the weights and the optimizer."""
    rows, callback = some_rows(), ToEditCallback(demo, **MANY)
    edited = edit_offline(demo, rows)
    offline, trainer = make_trainer(tmp_path, edited), make_trainer(tmp_path, rows, [callback])
    callback.attach(trainer)
    callback.attach(trainer)
    first = train(offline)
    assert equal(train(trainer), first)
    assert equal(train(trainer), train(offline))
    trainer.remove_callback(callback)
    offline.train_dataset = trainer.train_dataset
    assert equal(train(trainer), train(offline))
    assert equal(train(make_trainer(tmp_path, rows, [callback])), first), "the callback serves another trainer"


def test_the_rows_of_the_dataset_are_not_written_to(tmp_path, demo):
    """A dataset may hand out its own tensors."""
    batch = pad_batch([{"input_ids": ids} for ids in some_rows(4)["input_ids"]])
    before = {name: value.clone() for name, value in batch.items()}
    trainer = make_trainer(tmp_path, [batch] * 4, [ToEditCallback(demo, **MANY)], collator=lambda rows: rows[0])
    plain = make_trainer(tmp_path, [batch] * 4, collator=lambda rows: rows[0])
    assert not equal(train(trainer), train(plain))
    assert all(torch.equal(batch[name], before[name]) for name in batch)


def test_sequences_are_cut_as_the_model_reads_them():
    ids = torch.arange(10)[None]
    layouts = [
        {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2, 3, 0]])},
        {"cu_seq_lens_q": torch.tensor([0, 3, 5, 9, 10], dtype=torch.int32)},
        {"seq_idx": torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2, 3]])},
    ]
    for layout in layouts:
        found = cut({"input_ids": ids, **layout})
        assert [(start, row.input_ids_T.tolist()) for _, start, row in found] == [
            (0, [0, 1, 2]),
            (3, [3, 4]),
            (5, [5, 6, 7, 8]),
        ]
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1, 1]])
    [(_, _, row)] = cut({"input_ids": ids, "attention_mask": mask, "position_ids": mask.cumsum(-1) - 1})
    assert row.input_ids_T[row.attention_T].tolist() == list(range(3, 10))


# bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "drop"}, "edit the dataset instead"),
        ({"strategy": "none", "select": {"high": 0.9}}, "leave out strategy='none'"),
        ({"treshold": 0.9}, "did you mean 'threshold'"),
    ],
)
def test_settings_that_make_no_sense(arguments, message, demo):
    with pytest.raises(ConfigError, match=message) as error:
        ToEditCallback(demo, **arguments)
    one_line(error)


def test_trainers_that_do_not_fit(tmp_path, demo):
    other = StaticPrior(load_tokenizer("demo"), lambda ids, t: {})
    other.tokenizer.add_special_tokens(["<extra>"])
    prompt = get_peft_model(tiny_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    biased = lora_on_demo(bias="all")
    no_tokenizer = make_trainer(tmp_path, some_rows(), [ToEditCallback("self")])
    no_tokenizer.processing_class = None
    counting = [ToEditCallback(demo, strategy="random")]
    cases = [
        (make_trainer(tmp_path, some_rows(), [ToEditCallback(other)]), PriorError, "<extra>"),
        (make_trainer(tmp_path, some_rows(), [ToEditCallback("base")]), ConfigError, "give a prior by name"),
        (make_trainer(tmp_path, some_rows(), [ToEditCallback("self")], model=prompt), ConfigError, "prompt learning"),
        (make_trainer(tmp_path, some_rows(), [ToEditCallback("base")], model=biased), ConfigError, "set bias='none'"),
        (no_tokenizer, ConfigError, "processing_class="),
        (make_trainer(tmp_path, some_rows(), counting, is_stream=True), ConfigError, "pass rows to count as corpus="),
    ]
    for trainer, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            trainer.train()
        one_line(error)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"inputs_embeds": torch.zeros(1, 3, 4)}, "has no input_ids"),
        (
            {"input_ids": torch.zeros(1, 3), "attention_mask": torch.zeros(1, 1, 3, 3)},
            "attention_mask of a training batch has the shape",
        ),
        (
            {"input_ids": torch.zeros(1, 3), "position_ids": torch.zeros(3, 1, 3)},
            "position_ids of a training batch has the shape",
        ),
        ({"input_ids": None, "inputs_embeds": torch.zeros(1, 3, 4)}, "has no input_ids"),
        ({"input_ids": torch.arange(4)}, r"a tensor of rows and tokens, but they are of shape \(4,\)"),
        ({"input_ids": torch.zeros(2, 3, 4), "labels": torch.zeros(2, 3, 4)}, r"of shape \(2, 3, 4\)"),
        ({"input_ids": [[71, 72, 73]]}, "but they are a list: edit the dataset instead"),
    ],
)
def test_batches_that_can_not_be_edited(batch, message):
    with pytest.raises(RowError, match=message) as error:
        cut(batch)
    assert "71" not in one_line(error)


def test_pairs_must_be_pairs():
    with pytest.raises(RowError, match="has 3 rows: it must have the chosen ones, then as many rejected") as error:
        cut({"input_ids": torch.zeros(3, 4).long()}, is_paired=True)
    one_line(error)


NAMES = ("position_ids", "shift_labels", "seq_lengths", "pixel_values", "ref_chosen_logps", "KL_input_ids")


@pytest.mark.parametrize("extra", [dict.fromkeys(NAMES), {"logits_to_keep": 0}, {"attention_mask": torch.bfloat16}])
@pytest.mark.parametrize("selects", [True, False])
def test_what_else_a_model_takes_makes_no_difference(extra, selects):
    """None is what is not given, logits_to_keep says nothing about tokens, and a mask may have any dtype."""

    def put(batch: Any) -> tuple[list[Any], Any]:
        pieces = [(b, start, row.input_ids_T, row.attention_T, row.scope_T) for b, start, row in cut(batch)]
        if selects:
            return pieces, without_labels(batch, [(b, start, scope) for b, start, _, _, scope in pieces])
        return pieces, with_ids(batch, [(b, start, ids + 1) for b, start, ids, _, _ in pieces])

    plain = pad_batch([{"input_ids": ids} for ids in some_rows()["input_ids"]])
    batch = plain | {name: plain[name].to(of) if isinstance(of, torch.dtype) else of for name, of in extra.items()}
    (found, after), (expected, wanted) = put(batch), put(plain)
    assert len(found) == len(plain["input_ids"])
    for one, other in zip(found, expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(torch.equal(after[name], wanted[name]) for name in ("input_ids", "labels"))
    assert not torch.equal(after["labels"], plain["labels"])
    assert after.keys() == batch.keys()
