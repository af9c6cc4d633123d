"""Splicing: write chosen tokens into a text, check how it encodes, and undo edits that fail the check."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..types import BoolArray, IntArray
from .decision import DELETED, UNCHANGED
from .tokenization import Encoded, Tokenization, byte_offsets


@dataclasses.dataclass(frozen=True)
class Edit:
    """One change. `start` is a character offset in the original text (for token ids, a position in the original list).

    kind: what `column` names: a column of text (`text`), one of token ids (`ids`), or a text in a column of messages
        (`message`).
    """

    column: str
    start: int
    old: str
    new: str
    kind: str = "text"


@dataclasses.dataclass(frozen=True)
class Spliced:
    """An edited text: its edits, the new tokens, and whether it encodes to ids other than the chosen ones."""

    text: str
    edits: list[Edit]
    new_T: IntArray
    drifted: bool


def splice_text(
    text: str, encoded: Encoded, new_T: IntArray, tokenization: Tokenization, column: str, stable_only: bool
) -> Spliced:
    """Write the new tokens (or nothing, for DELETED) over the bytes of the old ones; all other bytes stay the same.

    With `stable_only`, and always if the tokens' bytes differ from the text, edits that do not survive re-encoding are
    undone. So are those that would spell out a special token that was not there, or destroy one.
    """
    new_T = np.where(_is_no_change(text, encoded, new_T, tokenization), UNCHANGED, new_T)
    special_before = _only_special(encoded.input_ids_T, tokenization)
    while True:
        spliced, edits, shift_T = _write(text, encoded, new_T, tokenization, column)
        wanted_T = np.where(new_T >= 0, new_T, encoded.input_ids_T)[new_T != DELETED]
        read_again = tokenization.encode_ids(spliced)
        drifted = not np.array_equal(read_again, wanted_T)
        must_survive = stable_only or not encoded.exact
        if not drifted or not (must_survive or _only_special(read_again, tokenization) != special_before):
            return Spliced(spliced, edits, new_T, drifted)
        new_T[_culprits(spliced, encoded, new_T, shift_T, tokenization)] = UNCHANGED


def _is_no_change(text: str, encoded: Encoded, new_T: IntArray, tokenization: Tokenization) -> BoolArray:
    """Where the new token reads like the old one, or is empty: some decoders strip a space at the start of a text."""
    is_same_T = np.zeros(len(new_T), dtype=bool)
    for t in np.flatnonzero(new_T[:1] >= 0).tolist():
        new = tokenization.own_text(int(new_T[t]), at_start=True)
        is_same_T[t] = not new or text.encode()[encoded.start_T[t] : encoded.end_T[t]] == new
    return is_same_T


def _only_special(ids: IntArray, tokenization: Tokenization) -> list[int]:
    special: list[int] = ids[tokenization.lookup(tokenization.is_special_V, ids)].tolist()
    return special


def _write(
    text: str, encoded: Encoded, new_T: IntArray, tokenization: Tokenization, column: str
) -> tuple[str, list[Edit], IntArray]:
    """The spliced text, its edits, and how many bytes each token's start moved by."""
    data = text.encode()
    byte_of_char = byte_offsets(text)
    pieces, edits, position = [], [], 0
    shift_T = np.zeros(len(new_T), dtype=np.int64)
    for t in np.flatnonzero(new_T != UNCHANGED).tolist():
        start, end = int(encoded.start_T[t]), int(encoded.end_T[t])
        new = b"" if new_T[t] == DELETED else tokenization.own_text(int(new_T[t]), at_start=t == 0)
        pieces += [data[position:start], new]
        position = end
        shift_T[t + 1 : t + 2] = len(new) - (end - start)
        char = int(np.searchsorted(byte_of_char, start))
        edits.append(Edit(column, char, data[start:end].decode(), new.decode()))
    pieces.append(data[position:])
    return b"".join(pieces).decode(), edits, np.cumsum(shift_T)


def _culprits(
    spliced: str, encoded: Encoded, new_T: IntArray, shift_T: IntArray, tokenization: Tokenization
) -> IntArray:
    """The changed tokens nearest to each place where the spliced text does not encode to the wanted tokens.

    For example, in `un|do it` the token `do` was changed to `til`, and `until` encodes to a single token. `un` at byte
    0 and `til` at byte 2 are wanted but missing, so 0 and 2 are such places; `til` is the change nearest to both.
    T counts the tokens before the edit; `again` has those of the spliced text.
    """
    changed = np.flatnonzero(new_T != UNCHANGED)
    again = tokenization.encode([spliced])[0]
    # Whether a token starts at its space or after it depends on how it was aligned: move all starts past spaces.
    data = np.frombuffer(spliced.encode(), dtype=np.uint8)
    behind_space = np.append(np.flatnonzero(data != ord(" ")), len(data))
    start_T = behind_space[np.searchsorted(behind_space, encoded.start_T + shift_T)]
    again_start_T = behind_space[np.searchsorted(behind_space, again.start_T)]
    kept_T = new_T != DELETED
    ids_T = np.where(new_T >= 0, new_T, encoded.input_ids_T)
    wanted = set(zip(start_T[kept_T].tolist(), ids_T[kept_T].tolist(), strict=True))
    read_again = set(zip(again_start_T.tolist(), again.input_ids_T.tolist(), strict=True))
    # Missing tokens mark the places; only if none is missing do unexpected ones.
    places = np.array(sorted({start for start, _ in wanted - read_again or read_again - wanted}), dtype=np.int64)
    if not len(places):  # the same tokens in a different order: all edits are suspect
        return changed
    # For each place, the changes before and after it, as indices into `changed`; the nearer one is suspect.
    right = np.minimum(np.searchsorted(start_T[changed], places), len(changed) - 1)
    left = np.maximum(right - 1, 0)
    nearer_left = np.abs(start_T[changed[left]] - places) <= np.abs(start_T[changed[right]] - places)
    culprits: IntArray = changed[np.unique(np.where(nearer_left, left, right))]
    return culprits
