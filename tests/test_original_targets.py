"""targets="original": the input changes and the labels stay those of the unedited row."""

from __future__ import annotations

import copy
import itertools
import re
import shutil
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run
from conftest import breadth
from datasets import Dataset, DatasetDict, load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_training import (
    equal,
    make_sft_trainer,
    make_trainer,
    some_rows,
    some_texts,
    tokenizer_with_padding,
    train,
)
from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq, DataCollatorWithFlattening

from hf_toedit import (
    ConfigError,
    RowError,
    StaticPrior,
    ToEditCallback,
    ToEditTransform,
    TransformersPrior,
    revert,
    summarize,
)
from hf_toedit.priors.pretrained import DEMO_FOLDER
from hf_toedit.training.batches import with_ids

RANDOM = {"strategy": "random", "rate": 0.3, "distribution": "uniform"}
TEMPLATE = (
    "{% for message in messages %}<|endoftext|>{{ message.role }}: "
    "{% generation %}{{ message.content }}<|endoftext|>{% endgeneration %}{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant: {% endif %}"
)
pytestmark = pytest.mark.usefixtures("fast_collection")


@cache
def formats() -> dict[str, list[dict[str, Any]]]:
    """Rows of text in each format that SFTTrainer reads."""
    texts = some_texts()
    chats = [
        [
            {"role": "user", "content": question[:50]},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": question[50:80]},
            {"role": "assistant", "content": answer[:20]},
        ]
        for question, answer in zip(texts, texts[::-1], strict=True)
    ]
    return {
        "text": [{"text": text} for text in texts],
        "pair": [{"prompt": text[:33], "completion": text[33:]} for text in texts],
        "messages": [{"messages": chat} for chat in chats],
        "conversations": [
            {"conversations": [{"from": message["role"], "value": message["content"]} for message in chat]}
            for chat in chats
        ],
        "pair of messages": [{"prompt": chat[:3], "completion": chat[3:]} for chat in chats],
    }


@pytest.fixture
def templated(monkeypatch):
    """The tokenizer of the trainers, with a chat template."""
    monkeypatch.setattr(tokenizer_with_padding(), "chat_template", TEMPLATE)


@pytest.fixture(scope="module")
def prior():
    return TransformersPrior("demo")


def transform_of(prior, **fields):
    return ToEditTransform(prior, chat_template=TEMPLATE, targets="original", **{**RANDOM, **fields})


def prepared(tmp_path, rows, **options):
    """The tokens and labels that SFTTrainer makes of rows."""
    return make_sft_trainer(tmp_path, Dataset.from_list(rows), **options).train_dataset


@pytest.mark.parametrize("kind", formats())
def test_rows_of_text_get_the_tokens_and_labels_that_sft_makes_of_them(kind, templated, tmp_path, prior):
    rows = formats()[kind]
    theirs = prepared(tmp_path, rows)
    ds = Dataset.from_list(rows)
    edited = ds.map(transform_of(prior), batched=True)
    unedited = ds.map(transform_of(prior, rate=0.0), batched=True)
    assert unedited["input_ids"][:] == theirs["input_ids"][:]
    assert edited["labels"][:] == unedited["labels"][:] == theirs["labels"][:]
    assert edited["input_ids"][:] != theirs["input_ids"][:]
    assert edited.select_columns(ds.column_names)[:] == ds[:]
    for row, whole in zip(edited, theirs["input_ids"], strict=True):
        changed = np.array(row["input_ids"]) != whole
        assert changed.sum() == row["toedit"]["num_changed"] == len(row["toedit"]["edits"])
        assert not (changed & (np.array(row["labels"]) == -100)).any()
    again = prepared(tmp_path, edited.to_list())
    assert again["labels"][:] == theirs["labels"][:]
    assert again["input_ids"][:] == edited["input_ids"][:]


def test_in_conversations_only_the_chosen_roles_change(templated, prior):
    rows = formats()["messages"]
    decode = tokenizer_with_padding().decode
    for roles in ("assistant", "user"):
        edited = Dataset.from_list(rows).map(
            ToEditTransform(prior, chat_template=TEMPLATE, targets="original", roles=roles, **{**RANDOM, "rate": 1.0})
        )
        for row in edited:
            labels, ids = row["labels"], row["input_ids"]
            kept = "".join(decode([a]) if a == b else "\0" for a, b in zip(ids, labels, strict=True))
            turns = kept.split("<|endoftext|>")
            said = {role: [turn.partition(": ")[2] for turn in turns if turn.startswith(role)] for role in ROLES}
            assert "\0" in "".join(said[roles])
            [other] = ROLES - {roles}
            assert "\0" not in "".join(said[other])


ROLES = {"user", "assistant"}


def as_stream(ds, transform):
    return Dataset.from_list(list(ds.to_iterable_dataset().map(transform, batched=True, batch_size=5)))


def as_arrow(ds, transform):
    return Dataset(transform(ds.with_format("arrow")[:]))


WAYS = {
    "batched": lambda ds, transform: ds.map(transform, batched=True, batch_size=5),
    "row by row": lambda ds, transform: ds.map(transform),
    "splits": lambda ds, transform: DatasetDict(train=ds).map(transform, batched=True)["train"],
    "stream": as_stream,
    "with_transform": lambda ds, transform: Dataset.from_list(list(ds.with_transform(transform))),
    "arrow": as_arrow,
}


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        *[(way, "text") for way in WAYS],
        ("batched", "messages"),
        ("row by row", "input_ids"),
        *[breadth(way, "messages") for way in WAYS if way != "batched"],
        *[breadth(way, "input_ids") for way in WAYS if way != "row by row"],
    ],
)
def test_every_way_to_edit_gives_the_same_rows_and_all_can_be_reverted(way, kind, prior):
    ds = Dataset.from_dict(some_rows()) if kind == "input_ids" else Dataset.from_list(formats()[kind])
    expected = ds.map(transform_of(prior), batched=True)
    edited = WAYS[way](ds, transform_of(prior))
    assert edited[:] == expected[:]
    assert summarize(edited).tokens.num_changed > 100
    for back in (edited.map(revert), edited.map(revert, batched=True)):
        assert back.column_names == ds.column_names
        assert back[:] == ds[:]


def rows_of(ids):
    """Rows with all kinds of masks: with labels, padded, of a pair, packed."""
    first, second = ids[0][:40], ids[1][:30]
    num_first, num_padded = len(first), 5
    return {
        "plain": {"input_ids": first},
        "labels": {"input_ids": first, "labels": [-100] * 10 + first[10:]},
        "padded": {"input_ids": [0] * num_padded + first, "attention_mask": [0] * num_padded + [1] * num_first},
        "pair": {"input_ids": first, "completion_mask": [0] * 10 + [1] * (num_first - 10)},
        "assistant": {"input_ids": first, "assistant_masks": [0] * 20 + [1] * (num_first - 20)},
        "packed": {"input_ids": first + second, "seq_lengths": [num_first, len(second)]},
    }


@pytest.mark.parametrize("kind", ["plain", "labels", "padded", "pair", "assistant", "packed"])
@pytest.mark.parametrize("batched", [True, breadth(False)])
def test_rows_of_ids_keep_or_get_the_labels_of_their_old_ids(prior, kind, batched):
    row = rows_of(some_rows()["input_ids"])[kind]
    ds = Dataset.from_list([row] * 2)
    edited = ds.map(ToEditTransform(prior, targets="original", **RANDOM), batched=batched)
    follows = ds.map(ToEditTransform(prior, **RANDOM), batched=batched)
    assert edited["input_ids"][:] == follows["input_ids"][:] != ds["input_ids"][:]
    context = np.zeros(len(row["input_ids"]), dtype=bool)
    for name in {"attention_mask", "completion_mask", "assistant_masks"} & row.keys():
        context |= np.array(row[name]) == 0
    expected = row.get("labels", np.where(context, -100, row["input_ids"]).tolist())
    assert edited["labels"][:] == [expected] * 2
    back = edited.map(revert, batched=batched)
    assert back.column_names == ds.column_names
    assert back[:] == ds[:]


@pytest.mark.parametrize("kind", ["text", "input_ids"])
def test_the_command_line_keeps_the_labels_and_reverts_all_of_it(kind, tmp_path, prior):
    ds = Dataset.from_dict(some_rows()) if kind == "input_ids" else Dataset.from_list(formats()[kind])
    ds.to_parquet(source := tmp_path / "rows.parquet")
    options = ("--prior", "demo", "--strategy", "random", "--rate", ".3", "--distribution", "uniform")
    edited = tmp_path / "edited"
    run("edit", source, *options, "--targets", "original", "--out", edited, "--progress", "none", "--unit-size", "1KB")
    expected = ds.map(ToEditTransform(prior, targets="original", **RANDOM), batched=True)
    rows = load_dataset(str(edited), split="train")
    assert rows[:] == expected[:]
    assert rows.features == expected.features
    run("revert", edited, "--out", tmp_path / "reverted")
    back = load_dataset(str(tmp_path / "reverted"), split="train")
    assert back.column_names == ds.column_names
    assert back[:] == ds[:]
    run("report", edited, "--out", tmp_path / "report.html", "--against", source)
    assert "reverting the edits gives the source" in (tmp_path / "report.html").read_text().lower()
    card = (edited / "README.md").read_text()
    assert "Only `input_ids` change: `labels` hold the original tokens." in card
    assert "can't restore" not in card


def test_what_was_reverted_stays_and_no_label_of_other_rows_is_lost(prior):
    row = transform_of(prior)(formats()["text"][0])
    assert row["toedit"]["added"] == ["input_ids", "labels"]
    original = revert(row)
    assert revert({**original, "toedit": row["toedit"]}) == original == formats()["text"][0]
    unedited = {**row, "toedit": None}
    batch = {name: [row[name], unedited[name]] for name in row}
    with pytest.raises(RowError, match="can't revert: some rows had 'input_ids' before the edit, and others got it"):
        revert(batch)
    batch |= {"input_ids": [row["input_ids"], None], "labels": [row["labels"], None]}
    assert revert(batch) == {"text": [row["text"]] * 2}
    with pytest.raises(RowError, match="changed after editing"):
        revert({**row, "input_ids": row["input_ids"][1:]})


TOKENS = st.integers(0, 60)


@st.composite
def rows_of_ids(draw):
    """A row of ids with any of the masks, packed or not."""
    length = draw(st.integers(1, 12))
    columns = st.lists(st.integers(0, 1), min_size=length, max_size=length)
    row: dict[str, Any] = {"input_ids": draw(st.lists(TOKENS, min_size=length, max_size=length))}
    for name in draw(st.sets(st.sampled_from(["attention_mask", "completion_mask", "assistant_masks"]))):
        row[name] = draw(columns)
    if draw(st.booleans()):
        row["labels"] = [a if kept else -100 for a, kept in zip(row["input_ids"], draw(columns), strict=True)]
    if draw(st.booleans()):
        num_tokens = sum(row.get("attention_mask", [1] * length))
        first = draw(st.integers(0, num_tokens))
        row["seq_lengths"] = [size for size in (first, num_tokens - first) if size]
    return row


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows_of_ids())
def test_labels_of_any_row_are_those_of_its_own_ids_where_it_learns_them(everything, row):
    edited = everything(row)
    is_learned = np.ones(len(row["input_ids"]), dtype=bool)
    for name in {"attention_mask", "completion_mask", "assistant_masks"} & row.keys():
        is_learned &= np.array(row[name]) == 1
    assert edited["labels"] == row.get("labels", np.where(is_learned, row["input_ids"], -100).tolist())
    changed = np.array(edited["input_ids"]) != row["input_ids"]
    assert not changed[np.array(edited["labels"]) == -100].any()
    assert changed.sum() == edited["toedit"]["num_changed"]
    assert {name: edited[name] for name in row if name != "input_ids"} == {
        name: row[name] for name in row if name != "input_ids"
    }
    assert revert(edited) == row


@pytest.fixture(scope="module")
def everything(prior):
    """A transform that changes every token it may change, whichever tokenizer made it."""
    transform = ToEditTransform(prior, targets="original", **{**RANDOM, "rate": 1.0})
    transform.same_tokenizer = True
    return transform


# training

MANY = {"threshold": 0.5, "exclude_target": True}
TRAINERS = {
    "Trainer": make_trainer,
    "flattened": partial(make_trainer, collator=DataCollatorWithFlattening()),
    "SFTTrainer": make_sft_trainer,
    "padding-free": partial(make_sft_trainer, padding_free=True),
    "packed": partial(make_sft_trainer, packing=True, max_length=256, per_device_train_batch_size=1),
}


def check_training(make, rows, edited, prior, **fields):
    """Training with the callback equals training on the edited rows, and neither clean nor noisy labels do."""
    offline = train(make(edited))
    callback = ToEditCallback(prior, targets="original", **fields)
    assert equal(train(make(rows, [callback])), offline)
    assert not equal(train(make(rows)), offline)
    assert not equal(train(make(rows, [ToEditCallback(prior, **fields)])), offline)


@pytest.mark.parametrize("kind", ["Trainer", "SFTTrainer", "packed", breadth("flattened"), breadth("padding-free")])
def test_training_with_the_callback_equals_training_on_edited_rows(kind, tmp_path, prior):
    rows, fields = some_rows(mask="labels"), MANY if kind == "SFTTrainer" else RANDOM
    transform = ToEditTransform(prior, targets="original", tokenizer=tokenizer_with_padding(), **fields)
    edited = Dataset.from_dict(rows).map(transform, batched=True).remove_columns("toedit").to_dict()
    assert edited["labels"] == rows["labels"]
    check_training(partial(TRAINERS[kind], tmp_path), rows, edited, prior, **fields)


QUICK = [("text", "padding-free"), ("pair", "packed"), ("messages", "SFTTrainer")]
ALL = itertools.product(["text", "pair", "messages"], ["SFTTrainer", "padding-free", "packed"])


@pytest.mark.parametrize(("kind", "mode"), [*QUICK, *(breadth(*pair) for pair in ALL if pair not in QUICK)])
def test_training_on_texts_with_the_callback_equals_training_on_edited_ones(kind, mode, monkeypatch, tmp_path, prior):
    template = "{% for message in messages %}{{ message.content }}<|endoftext|>{% endfor %}"  # all of it may change
    monkeypatch.setattr(tokenizer_with_padding(), "chat_template", template)
    rows = Dataset.from_list(formats()[kind])
    transform = ToEditTransform(prior, chat_template=template, targets="original", roles=[*ROLES], **RANDOM)
    check_training(partial(TRAINERS[mode], tmp_path), rows, rows.map(transform, batched=True), prior, **RANDOM)


@pytest.mark.parametrize("packing", [True, breadth(False)])
def test_training_on_what_the_assistant_says(packing, templated, tmp_path, prior):
    options = {"assistant_only_loss": True}
    rows = prepared(tmp_path, formats()["messages"], **options).remove_columns("messages")
    edited = rows.map(ToEditTransform(prior, targets="original", **RANDOM), batched=True)
    if packing:
        options |= {"packing": True, "max_length": 256, "per_device_train_batch_size": 1}
    make = partial(make_sft_trainer, tmp_path, **options)
    assert any(-100 in labels for labels in edited["labels"])
    offline = train(partial(make_sft_trainer, tmp_path, **{**options, "assistant_only_loss": False})(edited))
    live = train(make(Dataset.from_list(formats()["messages"]), [ToEditCallback(prior, targets="original", **RANDOM)]))
    assert equal(live, offline)


def test_random_changes_in_training_need_no_weights_and_the_card_counts_them(tmp_path):
    shutil.copytree(DEMO_FOLDER, folder := tmp_path / "weightless")
    (folder / "model.safetensors").write_bytes(b"no weights")
    weightless, rows, fields = TransformersPrior(folder), some_rows(), {"strategy": "random", "rate": 0.3}
    transform = ToEditTransform(weightless, targets="original", **fields).fit(Dataset.from_dict(rows))
    edited = Dataset.from_dict(rows).map(transform, batched=True).remove_columns("toedit").to_dict()
    trainer = make_sft_trainer(tmp_path, rows, [ToEditCallback(weightless, targets="original", **fields)])
    assert equal(train(trainer), train(make_sft_trainer(tmp_path, edited)))
    logs = trainer.state.log_history[0]
    assert logs["toedit/visited"] == 0 < logs["toedit/changed_rate"]
    assert not {"toedit/eligible_rate", "toedit/prior_perplexity"} & logs.keys()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "each editable token is replaced, with probability 0.3, by a draw from the corpus's unigram" in card
    assert "Only `input_ids` change: `labels` hold the original tokens." in card
    assert re.search(r"\| scored by the prior \| 0 \|\n\| changed \| \d+ \|\n\| changed rate, of all tokens", card)
    assert "eligible rate" not in card


def test_a_collator_of_transformers_that_makes_labels_of_the_new_ids_and_one_that_does_not(prior):
    transform = ToEditTransform(prior, targets="original", stats_column=None, **RANDOM)
    row = transform({"input_ids": some_rows()["input_ids"][0]})
    pads = DataCollatorForSeq2Seq(tokenizer_with_padding())([row])
    makes = DataCollatorForLanguageModeling(tokenizer_with_padding(), mlm=False)([row])
    assert pads["labels"][0].tolist() == row["labels"] != row["input_ids"]
    assert makes["labels"][0].tolist() != row["labels"]


# what is refused


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"instruction": "a", "output": "b"}, {}, "not 'instruction' and 'output': name the columns so"),
        ({"a": "a", "b": "b"}, {"columns": ["a", "b"]}, "not 'a' and 'b': name the columns so"),
        ({"text": "a", "labels": 1}, {}, "column 'labels' already exists, and targets='original' would overwrite it"),
        (
            {"text": "a", "input_ids": [1]},
            {"columns": "text"},
            "column 'input_ids' already exists, and targets='original' would overwrite it",
        ),
    ],
)
def test_rows_without_a_place_for_the_labels_are_refused(row, options, message, prior):
    with pytest.raises(RowError, match=re.escape(message)):
        ToEditTransform(prior, targets="original", **RANDOM, **options)(row)


def test_what_sft_could_not_tokenize_is_refused(prior):
    bare = StaticPrior(prior.tokenizer, lambda ids, t: {})
    with pytest.raises(ConfigError, match="ends a text with the eos_token, as SFTTrainer does, and the prior's"):
        ToEditTransform(bare, targets="original", **RANDOM)({"text": "a b c"})
    with pytest.raises(ConfigError, match="needs a chat template to tokenize conversations as SFTTrainer does: set"):
        ToEditTransform(prior, targets="original", **RANDOM)(formats()["messages"][0])
    with pytest.raises(ConfigError, match="documents have no labels"):
        ToEditTransform(prior, targets="original", **RANDOM).to_datatrove()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": None}, "null"),
        ({"text": ""}, "empty"),
        ({"text": 7}, "not_text"),
        ({"text": "a\ud800"}, "lone_surrogates"),
        ({"prompt": "a", "completion": None}, "null"),
        ({"prompt": None, "completion": "a"}, "null"),
        ({"prompt": "a", "completion": 7}, "not_text"),
        ({"messages": [{"role": "assistant", "content": "a\ud800"}]}, "lone_surrogates"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no_text"),
        ({"messages": [{"role": "assistant"}, "what"]}, "not_messages"),
    ],
)
def test_a_row_that_can_not_be_edited_is_skipped_with_what_sft_would_make_of_it(row, reason, prior):
    chat = [{"role": "assistant", "content": "a b c"}]
    good = {name: chat if name == "messages" else "a b c" for name in row}
    edited = transform_of(prior)({name: [row[name], good[name]] for name in row})
    tokenizer = tokenizer_with_padding()
    ids = tokenizer(tokenizer.eos_token)["input_ids"] if row == {"text": ""} else None
    if reason == "no_text":
        ids = tokenizer("<|endoftext|>user: a<|endoftext|>", add_special_tokens=False)["input_ids"]
    assert (edited["input_ids"][0], edited["labels"][0]) == (ids, ids)
    assert edited["toedit"][0]["status"] == f"skipped:{reason}"
    assert edited["labels"][1][-1] == tokenizer.eos_token_id


def test_the_eos_token_of_the_trainers_tokenizer_is_used(prior):
    tokenizer = copy.copy(tokenizer_with_padding())
    tokenizer.eos_token = "!"
    transform = ToEditTransform(prior, targets="original", tokenizer=tokenizer, **RANDOM)
    assert transform({"text": "a b c"})["labels"][-1] == tokenizer.convert_tokens_to_ids("!")
    assert transform.fingerprint != ToEditTransform(prior, targets="original", **RANDOM).fingerprint


def test_a_batch_without_labels_is_refused(prior):
    batch = {"input_ids": torch.tensor([[1, 2, 3]])}
    with pytest.raises(RowError, match="targets='original' needs labels in the training batches"):
        with_ids(batch, [(0, 0, np.array([1, 2, 4]))], "original")


def test_where_no_token_changes_there_is_nothing_to_keep(prior):
    with pytest.raises(ConfigError, match="select= changes no token: leave out targets='original'"):
        ToEditCallback(prior, targets="original", select={"high": 0.99})
