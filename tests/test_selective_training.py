"""Selective losses in trainers: what the loss is averaged over, and what takes labels away or leaves them alone."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from conftest import breadth
from datasets import Dataset
from tiny_training import (
    equal,
    make_sft_trainer,
    make_trainer,
    some_rows,
    some_texts,
    tiny_model,
    tokenizer_with_padding,
    train,
    weights_of,
)
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    LlamaForCausalLM,
)

from hf_toedit import SelectiveLabels, ToEditCallback

pytestmark = pytest.mark.usefixtures("fast_collection")


@pytest.fixture(scope="module")
def two_priors():
    """A reference and a base that disagree."""
    torch.manual_seed(1)
    other = tiny_model().eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    tokenizer = tokenizer_with_padding()
    return {"prior": (other, tokenizer), "base": (tiny_model().eval(), tokenizer)}


def labels_of(two_priors, select, **options):
    return SelectiveLabels(
        select=select, tokenizer=tokenizer_with_padding(), stats_column=None, **two_priors, **options
    )


ONE_STEP = {"max_steps": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 12}
WAYS = {
    "one batch": (make_trainer, {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 1}),
    "accumulation": (make_trainer, {}),
    "flattened": (
        make_trainer,
        {"collator": DataCollatorWithFlattening(), "per_device_train_batch_size": 3, "gradient_accumulation_steps": 4},
    ),
    "SFT": (make_sft_trainer, {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4}),
    "SFT, padding-free": (make_sft_trainer, {"padding_free": True, "per_device_train_batch_size": 5}),
    "SFT, packed": (make_sft_trainer, {"packing": True, "max_length": 256}),
}


@pytest.mark.parametrize("way", [breadth(way) if way in ("flattened", "SFT") else way for way in WAYS])
def test_the_loss_is_the_average_over_the_tokens_that_stay(way, two_priors, tmp_path):
    """In all batches of an optimizer step; in float64, and not the average of the batches' averages."""
    make, options = WAYS[way]
    rows, select = some_rows(), {"min_excess": 0.3}
    sums, means = np.zeros(2), []
    for ids, labels in zip(rows["input_ids"], labels_of(two_priors, select)(rows)["labels"], strict=True):
        with torch.no_grad():
            logprobs_TV = tiny_model().eval().double()(torch.tensor([ids])).logits[0].log_softmax(-1)
        kept = [-float(logprobs_TV[t - 1, ids[t]]) for t in range(1, len(ids)) if labels[t] != -100]
        sums += (sum(kept), len(kept))
        means.append(np.mean(kept))
    trainer = make(tmp_path, rows, [ToEditCallback(**two_priors, select=select)], **{**ONE_STEP, **options})
    trainer.train()
    loss = trainer.state.log_history[0]["loss"]
    assert loss == pytest.approx(sums[0] / sums[1], abs=2e-4)  # logs are rounded
    assert abs(loss - np.mean(means)) > 1e-3
    assert trainer.state.log_history[0]["toedit/kept_rate"] == pytest.approx(
        sums[1] / sum(len(ids) - 1 for ids in rows["input_ids"])
    )


class TakesNoCount(LlamaForCausalLM):
    """Averages the loss of each batch by itself: it is not told how many tokens the step has."""

    accepts_loss_kwargs = False


def without_count():
    model = tiny_model()
    model.__class__ = TakesNoCount
    return model


EMPTY = {
    "plain": (make_trainer, tiny_model, {}),
    "label smoothing": (make_trainer, tiny_model, {"label_smoothing_factor": 0.1}),
    "no count": (make_trainer, without_count, {}),
    "SFT": (make_sft_trainer, tiny_model, {}),
}


@pytest.mark.parametrize("is_live", [True, False])
@pytest.mark.parametrize("way", [*map(breadth, ("plain", "SFT")), "label smoothing", "no count"])
def test_a_step_without_a_token_in_the_loss_changes_no_weight(way, is_live, tmp_path):
    make, model, options = EMPTY[way]
    rows = {"input_ids": some_rows(4)["input_ids"]}
    nothing = ToEditCallback((tiny_model(), tokenizer_with_padding()), select={"low": 0.999999})
    if not is_live:
        rows["labels"] = [[-100] * len(ids) for ids in rows["input_ids"]]
    trainer = make(tmp_path, rows, [nothing] if is_live else [], model=model(), max_steps=2, **options)
    before = weights_of(trainer)
    with pytest.warns(UserWarning, match="4 of the 4 sequences|no token left") if is_live else nullcontext():
        assert equal(train(trainer), before)


def test_evaluation_counts_every_label(two_priors, tmp_path):
    rows = some_rows()
    options = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4, "max_steps": 2}
    callback = ToEditCallback(**two_priors, select={"share": 0.4})
    trainer = make_trainer(tmp_path, rows, [callback], evaluated=rows, **options)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    plain = make_trainer(tmp_path, rows, model=trainer.model, per_device_eval_batch_size=4)
    assert losses[-1] == plain.evaluate(Dataset.from_dict(rows))["eval_loss"]
    selected = labels_of(two_priors, {"share": 0.4})(rows)
    assert losses[-1] != plain.evaluate(Dataset.from_dict(selected))["eval_loss"]


CHAT_TEMPLATE = (
    "{% for m in messages %}<|endoftext|>{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}<|endoftext|>{% endgeneration %}{% else %}{{ m.content }}<|endoftext|>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("packing", [False, breadth(True)])
def test_only_what_the_assistant_says_is_selected(packing, two_priors, tmp_path, monkeypatch):
    """Live, and offline in rows that have the masks; with `labels` in the rows the trainer ignores the option."""
    monkeypatch.setattr(tokenizer_with_padding(), "chat_template", CHAT_TEMPLATE)
    chats = [
        {"messages": [{"role": "user", "content": text[:30]}, {"role": "assistant", "content": text[30:]}]}
        for text in some_texts(8)
    ]
    options = {"assistant_only_loss": True, "max_steps": 2}
    if packing:
        options |= {"packing": True, "max_length": 256, "per_device_train_batch_size": 1}
    make, select = partial(make_sft_trainer, tmp_path, **options), {"share": 0.4}
    callback = ToEditCallback(**two_priors, select=select)
    live = train(make(Dataset.from_list(chats), [callback]))

    def tokenized(chat):
        made = tokenizer_with_padding().apply_chat_template(
            chat["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        return {"input_ids": made["input_ids"], "assistant_masks": made["assistant_masks"]}

    offline = Dataset.from_list([tokenized(chat) for chat in chats]).map(labels_of(two_priors, select), batched=True)
    assert all(0 in mask and 1 in mask for mask in offline["assistant_masks"])
    without = partial(make_sft_trainer, tmp_path, **{**options, "assistant_only_loss": False})
    assert equal(live, train(without(offline)))
    of_all = Dataset.from_list(chats).map(labels_of(two_priors, select, chat_template=CHAT_TEMPLATE), batched=True)
    assert not equal(live, train(make(of_all)))


def test_one_collator_makes_new_labels():
    """So the guide warns of it."""
    ids = [ids[:20] for ids in some_rows()["input_ids"] if len(ids) >= 20]
    out = SelectiveLabels("demo", high=0.5, tokenizer=tokenizer_with_padding(), stats_column=None)({"input_ids": ids})
    rows = [dict(zip(out, values, strict=True)) for values in zip(*out.values(), strict=True)]
    kept = sum(label != -100 for labels in out["labels"] for label in labels)
    numbers = {
        type(collate).__name__: int((collate(copy.deepcopy(rows))["labels"] != -100).sum())
        for collate in (
            DataCollatorForSeq2Seq(tokenizer_with_padding()),
            DataCollatorForLanguageModeling(tokenizer_with_padding(), mlm=False),
        )
    }
    assert numbers == {
        "DataCollatorForSeq2Seq": kept,
        "DataCollatorForLanguageModeling": 20 * len(ids)
        - sum(token == tokenizer_with_padding().pad_token_id for row in ids for token in row),
    }
    assert kept < numbers["DataCollatorForLanguageModeling"]
