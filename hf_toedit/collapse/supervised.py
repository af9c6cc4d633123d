"""Supervised fine-tuning on prompts and completions: the part of `LanguageModel` that plain text doesn't need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..experiments.training import optional
from .generations import rng_of

Rows = Any  # a datasets.Dataset
TEXT, PROMPT, COMPLETION = "text", "prompt", "completion"
DEFAULTS = {
    "max_length": None,
    "bf16": False,
    "activation_checkpointing": False,
}  # nothing is cut; float32 as for texts
AS_TEXTS = (
    "make them texts, prompt=tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True) "
    "and completion=messages[-1]['content']"
)


def is_supervised(rows: Rows) -> bool:
    return PROMPT in rows.column_names and COMPLETION in rows.column_names


def columns_of(rows: Rows) -> list[str]:
    """The columns to train a model on."""
    return [PROMPT, COMPLETION] if is_supervised(rows) else [TEXT]


def check_texts(name: str, rows: Rows, columns: Sequence[str] | None = None) -> None:
    """Raise ConfigError if a model can't be trained or evaluated on the rows. name: of the argument that has them."""
    from datasets import Dataset, DatasetDict

    if isinstance(rows, DatasetDict):
        raise ConfigError(f"{name}= is a DatasetDict: choose a split, such as dataset['train']")
    if not isinstance(rows, Dataset):
        raise ConfigError(f"{name}= must be a Dataset, not {type(rows).__name__}")
    given, columns = rows.column_names, columns or columns_of(rows)
    if missing := [column for column in columns if column not in given]:
        if "messages" in given or "conversations" in given:
            raise ConfigError(f"{name}= has conversations, which can't be continued turn by turn: {AS_TEXTS}")
        raise ConfigError(
            f"{name}= needs a column 'text', or 'prompt' and 'completion', but has no {missing[0]!r}, only "
            f"{', '.join(map(repr, given))}: rename the columns"
        )
    if not len(rows):
        raise ConfigError(f"{name}= has no rows: give it some human text")
    for column in columns:
        if getattr(rows.features[column], "dtype", None) not in ("string", "large_string"):
            raise ConfigError(f"column {column!r} of {name}= does not hold texts: {AS_TEXTS}")
        texts = [text for batch in rows.select_columns(column).iter(1000) for text in batch[column]]
        if None in texts:
            raise ConfigError(
                f"column {column!r} of {name}= has {texts.count(None):,} rows without a text (null): remove them"
            )
        if column != PROMPT and not any(texts):
            raise ConfigError(f"column {column!r} of {name}= has only empty texts: give it some human text")


def completion_trainer(model: Any, tokenizer: Any, arguments: Any, rows: Rows, work: Path) -> Any:
    """TRL's SFTTrainer: the loss is that of the completions, each with its end. work: a folder for what TRL caches."""
    from datasets import load_from_disk

    rows.save_to_disk(work / "rows")
    return optional("trl").SFTTrainer(
        model=model, args=arguments, train_dataset=load_from_disk(work / "rows"), processing_class=tokenizer
    )


def chosen(human: Rows, n: int, seed: int) -> Rows:
    """The n human rows of a run, or the rows whose prompts its models answer: the same ones in each generation.

    If there are fewer than n, they repeat.
    """
    order_N = rng_of(seed).permutation(len(human))
    return human.select(np.resize(order_N, n))


def prompt_ids(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """As TRL tokenizes them."""
    ids: list[list[int]] = tokenizer(text=list(prompts))["input_ids"]
    return ids


def answered(
    rows: Rows, tokenizer: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> Rows:
    """The rows' prompts with other completions, given as ids, decoded in context."""
    from datasets import Dataset, Features

    def decoded(ids: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts

    before = decoded(prompts)
    whole = decoded([[*ids, *more] for ids, more in zip(prompts, completions, strict=True)])
    texts = [text[len(prompt) :] for prompt, text in zip(before, whole, strict=True)]
    features = Features({column: rows.features[column] for column in (PROMPT, COMPLETION)})
    return Dataset.from_dict({PROMPT: rows[PROMPT], COMPLETION: texts}, features=features)
