"""Training tiny models for a few steps: by a callback, or on rows that were edited before."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from conftest import NUM_IDS
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from hf_toedit import ToEditCallback, ToEditTransform
from hf_toedit.experiments.docstrings import docstrings, standard_library
from hf_toedit.priors.pretrained import DEMO_FOLDER

MANY = {"threshold": 0.5, "exclude_target": True}  # the demo prior then changes one token in four
Weights = dict[str, torch.Tensor]


@cache
def tokenizer_with_padding() -> Any:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@cache
def some_texts(number: int = 12) -> tuple[str, ...]:
    """Docstrings of many lengths."""
    found = (row["text"] for row in docstrings(standard_library() / "json"))
    found = [text for text in found if len(text) > 40]
    texts = [text[: 50 + 31 * (i % 7)] for i, text in enumerate(found * number)]
    return tuple(texts[:number])


def some_rows(number: int = 12, mask: str | None = None) -> dict[str, list[list[int]]]:
    """Columns of pre-tokenised rows that end with the end-of-text token. mask: a column that leaves every third out."""
    tokenizer = tokenizer_with_padding()
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in some_texts(number)]
    columns = {"input_ids": ids}
    if mask == "labels":
        columns[mask] = [[token if t % 3 else -100 for t, token in enumerate(row)] for row in ids]
    elif mask:
        columns[mask] = [[int(t >= len(row) // 3) for t in range(len(row))] for row in ids]
    return columns


def edit_offline(prior: Any, rows: dict[str, list[Any]], **fields: Any) -> dict[str, list[Any]]:
    """The rows after `map`, without a `toedit` column."""
    transform = ToEditTransform(
        prior, columns="input_ids", stats_column=None, tokenizer=tokenizer_with_padding(), **{**MANY, **fields}
    )
    if transform.config.needs_corpus:
        transform.fit(Dataset.from_dict(rows))
    return Dataset.from_dict(rows).map(transform, batched=True, batch_size=5).to_dict()


def tiny_model(dropout: float = 0.0, num_ids: int = NUM_IDS) -> LlamaForCausalLM:
    """A random Llama, always the same."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=num_ids,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        attention_dropout=dropout,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config)


def demo_model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32)


def lora_on_demo(**options: Any) -> Any:
    """The demo model with an adapter, always the same."""
    torch.manual_seed(0)
    return get_peft_model(demo_model(), LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **options}))


def pad_batch(
    features: list[dict[str, list[int]]], side: str = "right", shift: bool = False
) -> dict[str, torch.Tensor]:
    """Collate rows by padding; labels default to the ids. shift: give shift_labels as well."""
    width = max(len(feature["input_ids"]) for feature in features)

    def padded(rows: list[list[int]], value: int) -> torch.Tensor:
        missing = [[value] * (width - len(row)) for row in rows]
        return torch.tensor(
            [[*gap, *row] if side == "left" else [*row, *gap] for row, gap in zip(rows, missing, strict=True)]
        )

    ids = [feature["input_ids"] for feature in features]
    batch = {
        "input_ids": padded(ids, 0),
        "attention_mask": padded([[1] * len(row) for row in ids], 0),
        "labels": padded([feature.get("labels", feature["input_ids"]) for feature in features], -100),
    }
    if shift:
        batch["shift_labels"] = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:].contiguous()
    return batch


def arguments(folder: Path, kind: type = TrainingArguments, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "dataloader_pin_memory": False,
    }
    if kind is SFTConfig:
        defaults |= {"bf16": False, "activation_checkpointing": False, "max_length": None}
    return kind(**(defaults | options))


def dataset_of(rows: Any, is_stream: bool = False) -> Any:
    dataset = Dataset.from_dict(rows) if isinstance(rows, dict) else rows
    return dataset.to_iterable_dataset() if is_stream else dataset


def make_trainer(
    folder: Path,
    rows: Any,
    callbacks: Any = (),
    *,
    model: Any = None,
    collator: Any = None,
    is_stream: bool = False,
    evaluated: Any = None,
    **options: Any,
) -> Trainer:
    """A plain Trainer on pre-tokenised rows, padded on the right."""
    return Trainer(
        model=tiny_model() if model is None else model,
        args=arguments(folder, remove_unused_columns=False, **options),
        train_dataset=dataset_of(rows, is_stream),
        eval_dataset=dataset_of(evaluated),
        data_collator=collator or pad_batch,
        processing_class=tokenizer_with_padding(),
        callbacks=list(callbacks),
    )


def make_sft_trainer(
    folder: Path,
    rows: Any,
    callbacks: Any = (),
    *,
    model: Any = None,
    collator: Any = None,
    is_stream: bool = False,
    peft_config: Any = None,
    **options: Any,
) -> SFTTrainer:
    """TRL's, with a collator of its own."""
    return SFTTrainer(
        model=tiny_model() if model is None else model,
        args=arguments(folder, SFTConfig, **options),
        train_dataset=dataset_of(rows, is_stream),
        data_collator=collator,
        processing_class=tokenizer_with_padding(),
        peft_config=peft_config,
        callbacks=list(callbacks),
    )


def train(trainer: Trainer, **options: Any) -> Weights:
    """The weights after training."""
    trainer.train(**options)
    return weights_of(trainer)


def weights_of(trainer: Trainer) -> Weights:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def equal(one: Weights, other: Weights) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def check_equivalence(make: Callable[[Any, list[Any]], Any], rows: Any, edited: Any, prior: Any) -> None:
    """make: a trainer of rows and callbacks. edited: the rows, edited offline with MANY."""
    assert edited["input_ids"] != rows["input_ids"]
    offline = train(make(edited, []))
    assert equal(train(make(rows, [ToEditCallback(prior, **MANY)])), offline)
    assert not equal(train(make(rows, [])), offline)


left_padded = partial(pad_batch, side="left")
with_shift_labels = partial(pad_batch, shift=True)
