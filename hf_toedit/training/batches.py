"""A trainer's batch: its sequences, where each begins, which tokens are learned; and the batch with new ids.

Shape suffixes: B rows of a batch, T tokens, S tokens of a sequence.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..editing.cells import TokenRow
from ..editing.config import Targets
from ..errors import RowError
from ..rows.tokens import IGNORED, SCOPE_COLUMNS, document_starts, documents_of, follow, in_scope
from ..types import BoolArray, IntArray

if TYPE_CHECKING:
    import torch

LABELS = (("labels", 0), ("shift_labels", -1))  # and how far to roll the ids to line up with them
BOUNDARIES = ("position_ids", "seq_idx", "cu_seq_lens_q", "seq_lengths")
# ref_chosen_logps, old_per_token_logps, teacher_logits; but logits_to_keep is a number
STALE = re.compile(r"(^|_)(logps?|log_?probs?|logits(?!_to_keep))(_|$)")
NO_TEXT = re.compile(r"pixel_values|input_features|input_values|inputs_embeds|decoder_input_ids")


def cut(batch: Any, is_paired: bool = False) -> list[tuple[int, int, TokenRow]]:
    """The sequences of a batch, as (row of the batch, start, tokens). One-token sequences are left out.

    is_paired: the first half of the rows is chosen, the second rejected; the prefix a pair shares is context.
    Raises RowError for a batch whose loss would not follow the edits.
    """
    _check(batch, is_paired)
    batch = _without_nulls(batch)
    ids_BT = as_array(batch["input_ids"])
    attention_BT = np.ones(ids_BT.shape, dtype=bool)
    if "attention_mask" in batch:
        attention_BT = _field(batch, "attention_mask") != 0
    scope_BT, begins_BT = _scope(batch, ids_BT), _begins(batch, attention_BT)
    if is_paired:
        scope_BT = scope_BT & _behind_shared_prefix(ids_BT, attention_BT)
    sequences = []
    for b, ids_T in enumerate(ids_BT):
        starts, whole = np.flatnonzero(begins_BT[b]), TokenRow(ids_T, attention_BT[b], scope_BT[b])
        for start, sequence in zip(starts.tolist(), documents_of(whole, starts[1:]), strict=True):
            if sequence.attention_T.sum() > 1:
                sequences.append((b, start, sequence))
    return sequences


def _check(batch: Any, is_paired: bool) -> None:
    if not isinstance(batch, Mapping):
        raise RowError(f"a training batch is a {type(batch).__name__} without input_ids: edit the dataset instead")
    has = f"(it has {', '.join(map(repr, batch))})"
    if batch.get("input_ids") is None:
        raise RowError(f"a training batch has no input_ids to edit {has}: edit the dataset instead")
    ids = batch["input_ids"]
    shape = tuple(ids.shape) if hasattr(ids, "detach") else None
    if shape is None or len(shape) != 2:
        what = f"a {type(ids).__name__}" if shape is None else f"of shape {shape}"
        raise RowError(
            f"input_ids of a training batch must be a tensor of rows and tokens, but they are {what}: "
            "edit the dataset instead"
        )
    if is_paired and shape[0] % 2:
        raise RowError(
            f"a training batch has {shape[0]} rows: it must have the chosen ones, then as many rejected ones"
        )
    for name in map(str, _without_nulls(batch)):
        if STALE.search(name):
            raise RowError(
                f"{name!r} of a training batch belongs to the unedited tokens: take it out of the dataset and have the "
                "trainer compute it at each step (precompute_ref_log_probs=False), or edit the dataset first"
            )
        if NO_TEXT.search(name):
            raise RowError(
                f"a training batch has {name!r}, and the prior reads token ids alone: edit the dataset instead"
            )


def _without_nulls(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Models treat None like a missing field."""
    return {name: value for name, value in batch.items() if value is not None}


def says_where_rows_begin(batch: Mapping[str, Any]) -> bool:
    """Whether packed sequences can be told apart."""
    return any(batch.get(name) is not None for name in BOUNDARIES)


def _begins(batch: Mapping[str, Any], attention_BT: BoolArray) -> BoolArray:
    """Where sequences begin: at the first token, and wherever positions are not consecutive, as in transformers."""
    begins_BT = np.zeros(attention_BT.shape, dtype=bool)
    begins_BT[:, :1] = True
    if "position_ids" in batch:
        begins_BT[:, 1:] |= np.diff(_field(batch, "position_ids")) != 1
    if "seq_idx" in batch:
        begins_BT[:, 1:] |= np.diff(_field(batch, "seq_idx")) != 0
    if "cu_seq_lens_q" in batch:
        starts = as_array(batch["cu_seq_lens_q"])
        begins_BT[:, starts[starts < attention_BT.shape[1]]] = True
    if "seq_lengths" in batch:
        for begins_T, attention_T, lengths in zip(begins_BT, attention_BT, _lengths(batch), strict=True):
            begins_T[document_starts(attention_T, lengths)] = True
    return begins_BT


def _lengths(batch: Mapping[str, Any]) -> list[IntArray]:
    """The lengths of the sequences packed into each row; rows may have been flattened into one."""
    lengths, num_rows = [np.ravel(row) for row in batch["seq_lengths"]], len(batch["input_ids"])
    if num_rows == 1:
        return [np.concatenate(lengths)]
    if len(lengths) != num_rows:
        raise RowError(f"seq_lengths of a training batch are those of {len(lengths)} rows: it has {num_rows}")
    return lengths


def _scope(batch: Mapping[str, Any], ids_BT: IntArray) -> BoolArray:
    """Tokens that the model learns: all of them if there are neither labels nor masks."""
    scope_BT = in_scope({name: _field(batch, name) for name in SCOPE_COLUMNS if name in batch}, ids_BT.shape)
    for name, offset in LABELS:  # both agree except on the first token, which never changes
        if name in batch:
            labels_BT = _labels(batch, name, np.roll(ids_BT, offset, axis=1))
            scope_BT &= np.roll(in_scope({"labels": labels_BT}, ids_BT.shape), -offset, axis=1)
    return scope_BT


def _labels(batch: Mapping[str, Any], name: str, ids_BT: IntArray) -> IntArray:
    """The labels, each of which must be the id at its position or -100. Shape [B, T]."""
    labels_BT = as_array(batch[name])
    if labels_BT.shape != ids_BT.shape or ((labels_BT != IGNORED) & (labels_BT != ids_BT)).any():
        raise RowError(
            f"{name} of a training batch must be its input_ids or {IGNORED}, as in next-token training (not masked, "
            "shifted by the collator, of unedited tokens, or classes): edit the dataset instead"
        )
    return labels_BT


def _behind_shared_prefix(ids_BT: IntArray, attention_BT: BoolArray) -> BoolArray:
    """Tokens after the longest common prefix of row i and row i + B/2."""
    scope_BT: BoolArray = attention_BT.copy()
    for chosen_T, rejected_T in zip(*np.split(np.arange(len(ids_BT)), 2), strict=True):
        places = [np.flatnonzero(attention_BT[b]) for b in (chosen_T, rejected_T)]
        length = min(map(len, places))
        is_same = ids_BT[chosen_T, places[0][:length]] == ids_BT[rejected_T, places[1][:length]]
        shared = length if is_same.all() else int(is_same.argmin())
        for b, places_T in zip((chosen_T, rejected_T), places, strict=True):
            scope_BT[b, places_T[:shared]] = False
    return scope_BT


def _field(batch: Mapping[str, Any], name: str) -> IntArray:
    """A tensor of the batch with one number per token. Shape [B, T]."""
    array, shape = as_array(batch[name]), tuple(batch["input_ids"].shape)
    if array.ndim > 2 or array.shape[-1:] != shape[-1:] or array.shape[:-1] not in ((), (1,), shape[:-1]):
        raise RowError(f"{name} of a training batch has the shape {array.shape}: it must be that of input_ids, {shape}")
    return np.broadcast_to(array, shape)


def with_ids(
    batch: Mapping[str, Any], ids: Sequence[tuple[int, int, IntArray]], targets: Targets = "edited"
) -> Mapping[str, Any]:
    """A batch with new ids starting at (row, start); labels follow, except with targets="original".

    The tensors are new, because the old ones may belong to the dataset.
    """
    old_BT = as_array(batch["input_ids"])
    new_BT = old_BT.copy()
    for b, start, ids_S in ids:
        new_BT[b, start : start + len(ids_S)] = ids_S
    edited: Any = copy.copy(batch)
    edited["input_ids"] = _tensor(new_BT, batch["input_ids"])
    if targets == "original":
        _check_labels(batch, "targets='original'")
        return edited  # type: ignore[no-any-return]
    for name, offset in LABELS:  # rolling is safe because no sequence's first token changes
        if batch.get(name) is not None:
            labels_BT = as_array(batch[name])
            labels_BT = follow(labels_BT, np.roll(old_BT, offset, axis=1), np.roll(new_BT, offset, axis=1))
            edited[name] = _tensor(labels_BT, batch[name])
    if batch.get("KL_input_ids") is not None:
        edited["KL_input_ids"] = _mismatched(batch, new_BT)
    return edited  # type: ignore[no-any-return]


def _check_labels(batch: Mapping[str, Any], setting: str) -> None:
    """Raise RowError for a batch without labels."""
    if all(batch.get(name) is None for name, _ in LABELS):
        raise RowError(f"{setting} needs labels in the training batches (they have {', '.join(map(repr, batch))})")


def _mismatched(batch: Mapping[str, Any], new_BT: IntArray) -> torch.Tensor:
    """KTO's `KL_input_ids`: each prompt with the edited completion of the previous row. Shape [B, T].

    If max_length cuts that row shorter than its completion here, the rest of the completion stays unchanged; so does a
    completion whose row is in another batch (as in the last batch on several ranks, which is filled up).
    """
    names = ("input_ids", "completion_mask", "KL_input_ids", "KL_completion_mask")
    old_BT, mask_BT, kl_BT, kl_mask_BT = (as_array(batch[name]) for name in names)
    kl_BT, num_found = kl_BT.copy(), 0
    for b in range(len(kl_BT)):
        places, theirs = np.flatnonzero(kl_mask_BT[b]), np.flatnonzero(mask_BT[b - 1])
        length = min(len(places), len(theirs))
        if np.array_equal(kl_BT[b, places[:length]], old_BT[b - 1, theirs[:length]]):
            kl_BT[b, places[:length]] = new_BT[b - 1, theirs[:length]]
            num_found += 1
    if not num_found:
        raise RowError("KL_input_ids of a training batch are not the completions of its rows: edit the dataset instead")
    return _tensor(kl_BT, batch["KL_input_ids"])


def without_labels(batch: Mapping[str, Any], leaving: Sequence[tuple[int, int, BoolArray]]) -> Mapping[str, Any]:
    """A batch without the labels of the tokens that leave the loss."""
    _check_labels(batch, "select=")
    leaves_BT = np.zeros(tuple(batch["input_ids"].shape), dtype=bool)
    for b, start, leaves_S in leaving:
        leaves_BT[b, start : start + len(leaves_S)] = leaves_S
    selected: Any = copy.copy(batch)
    for name, offset in LABELS:
        if batch.get(name) is not None:
            mask_BT = _tensor(np.roll(leaves_BT, offset, axis=1), batch[name])
            selected[name] = batch[name].masked_fill(mask_BT.bool(), IGNORED)
    return selected  # type: ignore[no-any-return]


def as_array(tensor: torch.Tensor) -> IntArray:
    array: IntArray = tensor.detach().cpu().long().numpy().copy()
    return array


def _tensor(array: Any, like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.from_numpy(array).to(device=like.device, dtype=like.dtype)
