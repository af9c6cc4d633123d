"""What is edited by itself, a text or a document of token ids, and the cell that is made of it.

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

    value: the text; anything else is skipped.
    spans: the characters that may be edited, ascending; None for all. Tokens that do not lie wholly inside a span are
        context. Protect rules look at each span by itself.
    templated: a chat template made the text; no begin-of-text token is put in front.
    column: what its edits name as their column.
    status: why it can't be edited, where that is known before; else None.
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
    """A document that is already tokens. Shape [T] each.

    attention_T: real tokens (padding is left alone). scope_T: tokens that may be edited; the others are context.
    status: as of Text.
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
        """About as many as its text would have."""
        return CHARACTERS_PER_TOKEN * len(self.input_ids_T)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A text or a document of ids, ready for its draws.

    status: why it can't be edited, or None. Such a cell has no tokens, and so no draws and no requests.
    draw_bytes: what its draws are keyed by.
    prefix_ids: what the prior reads in front of a text but is not part of it.
    input_ids_T: its tokens, without padding.
    scorable_T: has context, is in scope and is no special token. editable_T: a scorable token that may be changed.
    encoded: of a text.
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
        """Whether the tokenizer can't represent the text, nor any part of it, exactly."""
        return self.encoded is not None and not self.encoded.exact and not self.encoded.spliceable_T.any()


def encode(
    sources: Sequence[Text | TokenRow], tokenization: Tokenization, protect: Sequence[str], check_ids: bool
) -> list[Cell]:
    """One cell for each source, in order.

    protect: rules as of ToEditConfig. check_ids: skip ids that do not look like the tokenizer's own.
    """
    statuses = [_status_of(source, tokenization, check_ids) for source in sources]
    # All texts go to the tokenizer at once; an empty one stands in for ids and for what can't be edited.
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
    """Why a source can't be edited, or None: what is no text, or ids that can't come from the prior's tokenizer."""
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
    """Tokens that overlap a stretch that the rules find in the text, or in each of the spans by itself. Shape [T]."""
    byte_of_char = byte_offsets(text)
    depth = np.zeros(int(byte_of_char[-1]) + 1, dtype=np.int64)  # of each byte: how many stretches open or close there
    for first, last in [(0, len(text))] if spans is None else spans:
        for start, end in protected_spans(text[first:last], protect):
            depth[byte_of_char[first + start]] += 1
            depth[byte_of_char[first + end]] -= 1
    covered = np.concatenate([[0], np.cumsum(np.cumsum(depth) > 0)])  # how many bytes in front are protected
    overlaps: BoolArray = covered[end_T] > covered[start_T]
    return overlaps
