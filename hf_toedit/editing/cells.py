"""The unit of editing: a text or a document of token ids, and the cell built from it.

Shape suffixes: T tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..statuses import Status
from ..types import BoolArray, IntArray
from .protect import Span, protected_spans
from .spans import inside_spans, skip_status
from .tokenization import Encoded, Tokenization, byte_offsets
from .windows import begins_with

CHARACTERS_PER_TOKEN = 4


def _no_ids() -> IntArray:
    return np.empty(0, dtype=np.int64)


def _nowhere() -> BoolArray:
    return np.empty(0, dtype=bool)


@dataclasses.dataclass(frozen=True)
class Text:
    """A text to edit.

    value: the text; anything that is not a string is skipped.
    spans: the characters that may be edited, ascending; None for all. Tokens that do not lie entirely inside a span
        are context. Protect rules are applied to each span separately.
    templated: whether a chat template produced the text; if so, no begin-of-text token is added.
    column: the column that its edits name.
    status: why it can't be edited, if that is already known; else None.
    """

    value: Any
    spans: Sequence[Span] | None = None
    templated: bool = False
    column: str = "text"
    status: Status | None = None

    @property
    def num_characters(self) -> int:
        return len(self.value) if isinstance(self.value, str) else 0


@dataclasses.dataclass(frozen=True)
class TokenRow:
    """A document that is already tokenized. Each array has shape [T].

    attention_T: real tokens (padding is left alone). scope_T: tokens that may be edited; the others are context.
    status: as in Text.
    """

    input_ids_T: IntArray
    attention_T: BoolArray
    scope_T: BoolArray
    status: Status | None = None

    @property
    def value(self) -> IntArray:
        return self.input_ids_T

    @property
    def num_characters(self) -> int:
        """Roughly the length of its text."""
        return CHARACTERS_PER_TOKEN * len(self.input_ids_T)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A text or a document of ids, prepared for the draws.

    status: why it can't be edited, or None. A cell that can't be edited has no tokens, and so no draws or requests.
    draw_bytes: the bytes that key its draws.
    prefix_ids: ids that the prior reads before a text but that are not part of it.
    input_ids_T: its tokens, without padding.
    scorable_T: tokens that have context, are in scope and are not special. editable_T: scorable tokens that may be
        changed.
    encoded: the encoded text; None for ids.
    """

    source: Text | TokenRow
    status: Status | None
    draw_bytes: bytes = b""
    prefix_ids: IntArray = dataclasses.field(default_factory=_no_ids)
    input_ids_T: IntArray = dataclasses.field(default_factory=_no_ids)
    scorable_T: BoolArray = dataclasses.field(default_factory=_nowhere)
    editable_T: BoolArray = dataclasses.field(default_factory=_nowhere)
    encoded: Encoded | None = None

    @property
    def is_lossy(self) -> bool:
        """Whether the tokenizer can't represent any part of the text exactly."""
        return self.encoded is not None and not self.encoded.exact and not self.encoded.spliceable_T.any()


def encode(
    sources: Sequence[Text | TokenRow], tokenization: Tokenization, protect: Sequence[str], check_ids: bool
) -> list[Cell]:
    """One cell for each source, in order.

    protect: rules, as in ToEditConfig. check_ids: whether to skip ids that do not look like the tokenizer's own.
    """
    statuses = [_status_of(source, tokenization, check_ids) for source in sources]
    # All texts go to the tokenizer at once; an empty text stands in for ids and for sources that can't be edited.
    texts = [
        source.value if isinstance(source, Text) and not status else ""
        for source, status in zip(sources, statuses, strict=True)
    ]
    cells = []
    for source, status, encoded in zip(sources, statuses, tokenization.encode(texts), strict=True):
        if status:
            cells.append(Cell(source, status))
        elif isinstance(source, Text):
            cells.append(_text_cell(source, encoded, tokenization, protect))
        else:
            cells.append(_ids_cell(source, tokenization, protect))
    return cells


def _status_of(source: Text | TokenRow, tokenization: Tokenization, check_ids: bool) -> Status | None:
    """Why a source can't be edited, or None: it is not valid text, or its ids can't be the prior tokenizer's."""
    if source.status:
        return source.status
    if isinstance(source, Text):
        return skip_status(source.value)
    ids_T = source.input_ids_T[source.attention_T]
    if not tokenization.knows(ids_T):
        return Status.UNKNOWN_TOKEN_ID
    if check_ids and not tokenization.reproduces(ids_T):
        return Status.TOKENIZER_MISMATCH
    return None


def _text_cell(source: Text, encoded: Encoded, tokenization: Tokenization, protect: Sequence[str]) -> Cell:
    text, ids_T, prefix_ids = source.value, encoded.input_ids_T, tokenization.prefix_ids
    if source.templated or begins_with(ids_T, prefix_ids):
        prefix_ids = prefix_ids[:0]
    scorable_T = ~tokenization.lookup(tokenization.is_special_V, ids_T)
    if source.spans is not None:
        inside_T = inside_spans(text, source.spans, encoded)
        scorable_T &= inside_T
        encoded = dataclasses.replace(encoded, spliceable_T=encoded.spliceable_T & inside_T)
    if not len(prefix_ids):
        scorable_T[:1] = False
    editable_T = scorable_T & encoded.spliceable_T
    if protect:
        editable_T &= ~_protected(text, encoded.start_T, encoded.end_T, protect, source.spans)
    return Cell(source, None, text.encode(), prefix_ids, ids_T, scorable_T, editable_T, encoded)


def _ids_cell(source: TokenRow, tokenization: Tokenization, protect: Sequence[str]) -> Cell:
    ids_T = source.input_ids_T[source.attention_T]
    scorable_T = ~tokenization.lookup(tokenization.is_special_V, ids_T) & source.scope_T[source.attention_T]
    scorable_T[:1] = False
    editable_T = scorable_T & tokenization.lookup(tokenization.is_candidate_V, ids_T)
    if protect:
        text = tokenization.join(ids_T).decode("utf-8", "surrogateescape")
        editable_T &= ~_protected(text, *tokenization.spans(ids_T), protect)
    return Cell(source, None, ids_T.astype("<i8").tobytes(), _no_ids(), ids_T, scorable_T, editable_T)


def _protected(
    text: str, start_T: IntArray, end_T: IntArray, protect: Sequence[str], spans: Sequence[Span] | None = None
) -> BoolArray:
    """Tokens that overlap a stretch the rules find in the text, or in each span separately. Shape [T]."""
    byte_of_char = byte_offsets(text)
    depth = np.zeros(int(byte_of_char[-1]) + 1, dtype=np.int64)  # per byte: stretches that start less those that end
    for first, last in [(0, len(text))] if spans is None else spans:
        for start, end in protected_spans(text[first:last], protect):
            depth[byte_of_char[first + start]] += 1
            depth[byte_of_char[first + end]] -= 1
    covered = np.concatenate([[0], np.cumsum(np.cumsum(depth) > 0)])  # number of protected bytes before each byte
    overlaps: BoolArray = covered[end_T] > covered[start_T]
    return overlaps
