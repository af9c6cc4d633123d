"""Rows that are already tokens: masks, labels, packed documents, and the tokenizer that made them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ..editing.editor import EditedIds, TokenRow
from ..editing.splice import Edit
from ..errors import PriorError
from ..statuses import Status
from ..types import IntArray, Prior

IDS = ("input_ids",)
SCOPE_COLUMNS = ("completion_mask", "assistant_masks")
MASKS = ("attention_mask", "labels", "seq_lengths", *SCOPE_COLUMNS)


def is_sequence(value: Any) -> bool:
    """A list, a tuple, an array or a tensor; not a string, not a number."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0


def as_ids(value: Any, kinds: str = "iu") -> IntArray:
    """Ids as an array; None, text and the like (dtypes that are none of `kinds`) as an empty one."""
    try:
        ids = np.asarray([] if value is None else value)
    except (ValueError, TypeError):
        return np.empty(0, dtype=np.int64)
    return ids.astype(np.int64) if ids.ndim == 1 and ids.dtype.kind in kinds else np.empty(0, dtype=np.int64)


def token_row(row: Mapping[str, Any], ids: IntArray) -> tuple[Status | None, TokenRow]:
    """A row's ids with its masks, or why it must be skipped."""
    attention_T = np.ones(len(ids), dtype=bool)
    scope_T = np.ones(len(ids), dtype=bool)
    reason = None
    if not len(ids):
        value = row["input_ids"]
        reason = (
            Status.NULL
            if value is None
            else Status.EMPTY
            if is_sequence(value) and not len(value)
            else Status.NOT_TOKEN_IDS
        )
    for name, values in row.items():
        if name == "input_ids" or values is None or reason:
            continue
        mask = as_ids(values, "iub")
        if name == "seq_lengths":
            reason = None if mask.sum() == attention_T.sum() else Status.SEQ_LENGTHS_LENGTH
        elif len(mask) != len(ids):
            reason = Status(f"skipped:{name}_length")
        elif name == "attention_mask":
            attention_T = mask != 0
        elif name == "labels":
            scope_T &= mask != -100
        elif name in SCOPE_COLUMNS:
            scope_T &= mask != 0
    return reason, TokenRow(ids, attention_T, scope_T)


def unpacked(row: TokenRow, lengths: Any) -> list[TokenRow]:
    """The documents of a row that was packed, each of so many tokens; the row itself where there are no lengths."""
    if lengths is None:
        return [row]
    ends = np.cumsum(np.array([length for length in as_ids(lengths) if length > 0], dtype=np.int64))
    starts = np.flatnonzero(row.attention_T)[ends[:-1]]
    parts = (np.split(part, starts) for part in (row.input_ids_T, row.attention_T, row.scope_T))
    return [TokenRow(*part) for part in zip(*parts, strict=True)]


def packed_status(documents: list[EditedIds]) -> Status:
    """Of a packed row: `edited` where a document of it is, skipped where all of them are."""
    statuses = [document.status for document in documents]
    return next((status for status in (Status.EDITED, Status.UNCHANGED) if status in statuses), statuses[0])


def replace_ids(column: str, values: IntArray, old_T: IntArray, new_T: IntArray) -> tuple[list[int], list[Edit]]:
    """Give `values` the new ids where they equalled the old ones and these changed."""
    places = np.flatnonzero((old_T != new_T) & (values == old_T))
    replaced = values.copy()
    replaced[places] = new_T[places]
    edits = [Edit(column, t, str(int(old_T[t])), str(int(new_T[t])), kind="ids") for t in places.tolist()]
    return replaced.tolist(), edits


def check_same_tokenizer(tokenizer: Any, prior: Prior) -> None:
    """Raise PriorError unless a tokenizer (of transformers or tokenizers) has the prior's vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        raise PriorError(
            f"tokenizer= must be a tokenizer with a tokenizer.json, not {type(tokenizer).__name__}: "
            "pass what AutoTokenizer.from_pretrained(...) returns"
        )
    theirs, ours = (one.get_vocab(with_added_tokens=True) for one in (backend, prior.tokenizer))
    if theirs != ours:
        different = next(token for token in {**theirs, **ours} if theirs.get(token) != ours.get(token))
        raise PriorError(
            f"the prior's tokenizer is not the one that made input_ids (they differ at token {different!r}): "
            "use a prior with the same tokenizer, or edit the text column before tokenizing"
        )
