"""Training text as rows of `input_ids` of one length. Cut before the edit, so that all arms train on the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RowError
from .data import EDITABLE, ROWS, read_rows, remove_work
from .recipe import Model
from .training import load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 100  # texts that are tokenized at once


def cut(rows: Path, model: Model, num_tokens: int, folder: Path) -> None:
    """Write the texts of an earlier stage as pieces of `num_tokens` tokens."""
    from datasets import Dataset

    texts, tokenizer = read_rows(rows), load_tokenizer(model)

    def generated() -> Iterator[dict[str, Any]]:
        yield from pieces(texts, tokenizer, num_tokens)

    if next(generated(), None) is None:
        raise RowError(f"the texts have fewer tokens than piece_tokens={num_tokens:,}: lower it, or give more data")
    Dataset.from_generator(generated, cache_dir=str(folder / "work")).save_to_disk(folder / ROWS)
    remove_work(folder)


def pieces(texts: Dataset, tokenizer: Any, num_tokens: int) -> Iterator[dict[str, Any]]:
    """The texts, each followed by the tokenizer's end, cut into rows of `num_tokens` ids; the last tokens are left out.

    `labels` are the ids, so that an edit can change one without the other.
    In a mixture, text that may be edited and text that may not never share a row.
    """
    is_mixture, end = EDITABLE in texts.column_names, tokenizer.eos_token_id
    rest, before = list[int](), True
    for batch in texts.iter(BATCH):
        flags = batch[EDITABLE] if is_mixture else [True] * len(batch["text"])
        for ids, flag in zip(tokenizer(batch["text"])["input_ids"], flags, strict=True):
            rest = [*(rest if flag == before else []), *ids, *([] if ids[-1:] == [end] else [end])]
            before = flag
            num_whole = len(rest) // num_tokens * num_tokens
            for start in range(0, num_whole, num_tokens):
                piece = rest[start : start + num_tokens]
                yield {"input_ids": piece, "labels": piece, **({EDITABLE: flag} if is_mixture else {})}
            rest = rest[num_whole:]
