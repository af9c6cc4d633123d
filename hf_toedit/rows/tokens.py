"""Rows that are already tokenized: masks, labels, packed documents, and the tokenizer that made them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ..editing.cells import TokenRow
from ..editing.config import Targets
from ..editing.editor import Edited
from ..editing.splice import Edit
from ..errors import PriorError
from ..statuses import Status
from ..types import BoolArray, IntArray, Prior
from .formats import is_sequence

IGNORED = -100  # the label of a token that the loss ignores
SCOPE_COLUMNS = ("completion_mask", "assistant_masks")
MASKS = ("attention_mask", "labels", "seq_lengths", *SCOPE_COLUMNS)


# Rules shared by dataset rows and training batches.


def in_scope(masks: Mapping[str, IntArray], shape: tuple[int, ...]) -> BoolArray:
    """Which tokens may be edited: label not -100, and included in `completion_mask` and `assistant_masks`."""
    scope = np.ones(shape, dtype=bool)
    for name in ("labels", *SCOPE_COLUMNS):
        if name in masks:
            scope &= masks[name] != (IGNORED if name == "labels" else 0)
    return scope


def follow(labels: IntArray, old: IntArray, new: IntArray) -> IntArray:
    """The labels, with the new id where a label equalled the old one. Any shape."""
    return np.where(labels == old, new, labels)


def document_starts(attention_T: BoolArray, lengths: IntArray) -> IntArray:
    """The start of each document in a packed row but the first. lengths: each document's length, without padding."""
    attended, starts = np.flatnonzero(attention_T), np.cumsum(lengths[lengths > 0])
    return attended[starts[starts < len(attended)]]


def documents_of(row: TokenRow, starts: IntArray) -> list[TokenRow]:
    """A row split before each start."""
    columns = (np.split(column_T, starts) for column_T in (row.input_ids_T, row.attention_T, row.scope_T))
    return [TokenRow(*document) for document in zip(*columns, strict=True)]


# Dataset rows.


@dataclasses.dataclass(frozen=True)
class TokenColumns:
    """The documents of a row: several if it is packed. Each has its own draws, because it is documents that repeat.

    made: the columns that were made of the row's text, if it has any.
    """

    cells: list[TokenRow]
    made: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_ids(row: Mapping[str, Any]) -> TokenColumns:
    """A row's ids and masks, or a skip status if they do not fit together."""
    ids_T = as_ids(row["input_ids"])
    masks = _masks_of(row)
    if status := _no_ids(row["input_ids"], ids_T) or _misfit(masks, len(ids_T)):
        nowhere = np.zeros(len(ids_T), dtype=bool)
        return TokenColumns([TokenRow(ids_T, nowhere, nowhere, status)])
    attention_T = _attention(masks, len(ids_T))
    whole = TokenRow(ids_T, attention_T, in_scope(masks, ids_T.shape))
    if "seq_lengths" not in masks:
        return TokenColumns([whole])
    return TokenColumns(documents_of(whole, document_starts(attention_T, masks["seq_lengths"])))


def _masks_of(row: Mapping[str, Any]) -> dict[str, IntArray]:
    return {name: as_ids(row[name], "iub") for name in MASKS if row.get(name) is not None}


def _attention(masks: Mapping[str, IntArray], num_tokens: int) -> BoolArray:
    attended_T: BoolArray = masks.get("attention_mask", np.ones(num_tokens, dtype=np.int64)) != 0
    return attended_T


def _no_ids(value: Any, ids_T: IntArray) -> Status | None:
    """Why a value holds no ids, or None if it does."""
    if len(ids_T):
        return None
    if value is None:
        return Status.NULL
    return Status.EMPTY if is_sequence(value) and not len(value) else Status.NOT_TOKEN_IDS


def _misfit(masks: Mapping[str, IntArray], num_tokens: int) -> Status | None:
    """The status for the first mask that does not fit `num_tokens` tokens, or None."""
    for name, mask in masks.items():
        num_attended = np.count_nonzero(masks.get("attention_mask", np.ones(num_tokens)))
        fits = mask.sum() == num_attended if name == "seq_lengths" else len(mask) == num_tokens
        if not fits:
            return Status(f"skipped:{name}_length")
    return None


def write_ids(
    row: Mapping[str, Any], documents: Sequence[Edited], targets: Targets = "edited"
) -> tuple[dict[str, Any], list[Edited]]:
    """The columns of a row with the new ids, labels updated to match, and the outcome for each document.

    With targets="original", labels stay as they are; a row without the column gets them.

    Every document gets the row's status: `edited` if any of them was edited, skipped if all were skipped. The first one
    carries the edits, with their positions in the whole row.
    """
    statuses = [document.status for document in documents]
    status = next((status for status in (Status.EDITED, Status.UNCHANGED) if status in statuses), statuses[0])
    follows = ("input_ids",) if targets == "original" else ("input_ids", "labels")
    values, edits = {name: row[name] for name in follows if name in row}, list[Edit]()
    if status == Status.EDITED:
        old_T, new_T = as_ids(row["input_ids"]), np.concatenate([document.value for document in documents])
        for name, value in values.items():
            if value is not None:
                values[name], changes = _replace_ids(name, as_ids(value), old_T, new_T)
                edits += changes
    if targets == "original" and "labels" not in row:
        values["labels"] = original_labels(row)
    first, *others = (dataclasses.replace(document, status=status) for document in documents)
    return values, [dataclasses.replace(first, edits=edits), *others]


def original_labels(row: Mapping[str, Any]) -> list[int] | None:
    """The labels of a row that has none: its ids, or -100 where a mask says context. None if these do not fit."""
    ids_T, masks = as_ids(row["input_ids"]), _masks_of(row)
    if _no_ids(row["input_ids"], ids_T) not in (None, Status.EMPTY) or _misfit(masks, len(ids_T)):
        return None
    is_target_T = _attention(masks, len(ids_T)) & in_scope(masks, ids_T.shape)
    labels: list[int] = np.where(is_target_T, ids_T, IGNORED).tolist()
    return labels


def _replace_ids(column: str, values: IntArray, old_T: IntArray, new_T: IntArray) -> tuple[list[int], list[Edit]]:
    """A column's values after the edit, and its changes."""
    replaced = follow(values, old_T, new_T)
    places = np.flatnonzero(replaced != values).tolist()
    return replaced.tolist(), [Edit(column, t, str(int(old_T[t])), str(int(new_T[t])), kind="ids") for t in places]


def as_ids(value: Any, kinds: str = "iu") -> IntArray:
    """Ids as an array; an empty one for None, text or anything else whose dtype kind is not in `kinds`."""
    try:
        ids = np.asarray([] if value is None else value)
    except (ValueError, TypeError):
        return np.empty(0, dtype=np.int64)
    return ids.astype(np.int64) if ids.ndim == 1 and ids.dtype.kind in kinds else np.empty(0, dtype=np.int64)


def check_same_tokenizer(tokenizer: Any, prior: Prior) -> None:
    """Raise PriorError unless a tokenizer (from transformers or tokenizers) has the prior's vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        raise PriorError(
            f"tokenizer= must be a tokenizer with a tokenizer.json, not {type(tokenizer).__name__}: "
            "pass what AutoTokenizer.from_pretrained(...) returns"
        )
    theirs, ours = (either.get_vocab(with_added_tokens=True) for either in (backend, prior.tokenizer))
    if theirs != ours:
        different = next(token for token in {**theirs, **ours} if theirs.get(token) != ours.get(token))
        raise PriorError(
            f"the prior's tokenizer is not the one that made input_ids (they differ at token {different!r}): "
            "use a prior with the same tokenizer, or edit the text column before tokenizing"
        )
