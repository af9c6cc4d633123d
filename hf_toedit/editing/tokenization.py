"""Text and tokens: which bytes of a text each token stands for, and which tokens may be edited or chosen.

The tokenizer is treated as a table of bytes with one entry per id. If the concatenated bytes of the ids equal the text,
every token owns a known span of it and splicing is exact by construction. If they differ (the tokenizer normalises, the
text contains U+2581, ...), the tokenizer's offsets are used for tokens whose bytes appear there unchanged, and an edit
must survive re-encoding (see splice.py).

Shape suffixes: T tokens of a row, V ids.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ..errors import PriorError, is_panic
from ..types import BoolArray, IntArray

REPLACEMENT = "\ufffd"
MISMATCH = 0.05
MOST_IDS = 2**22  # the tables have one entry per id
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A text as tokens.

    input_ids_T: ids without the tokens that the tokenizer adds before or after the text.
    start_T, end_T: the range of bytes in the text's UTF-8 that each token stands for.
    spliceable_T: whether the token's own bytes are exactly those, form whole characters, and it is not special.
    exact: whether the concatenated bytes of all tokens equal the text.
    """

    input_ids_T: IntArray
    start_T: IntArray
    end_T: IntArray
    spliceable_T: BoolArray
    exact: bool


@contextlib.contextmanager
def _clear_panics() -> Iterator[None]:
    """Turn a panic in the tokenizer, such as a pattern that backtracks endlessly, into a PriorError."""
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        # The panic's own message may quote the text.
        raise PriorError("the tokenizer broke down on a text (its pattern may never end): use another prior") from error


class Tokenization:
    """Byte-level view of a `tokenizers.Tokenizer` (a copy without truncation, padding or BPE dropout).

    prefix_ids: the ids that the tokenizer adds before a text (a begin-of-text token, or nothing).
    is_special_V: special and added tokens; never edited, never chosen. Ids beyond the table count as special.
    is_candidate_V: tokens that may be chosen: not special, valid UTF-8 without U+FFFD, one per text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if size > MOST_IDS:
            raise PriorError(f"the tokenizer has ids up to {size - 1:,}, more than any model has: use another prior")
        self.tokenizer: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        if getattr(self.tokenizer.model, "dropout", None):
            self.tokenizer.model.dropout = None  # it would produce different ids, and so different edits, in each run
        self.prefix_ids = self._prefix_ids()
        added = self.tokenizer.get_added_tokens_decoder()
        read_bytes, self._strips_space = _byte_reader(self.tokenizer)
        self.bytes_of: list[bytes] = []
        special = [True] * (size + 1)
        candidate = [False] * (size + 1)
        owners: dict[bytes, int] = {}
        for token_id in range(size):
            token = self.tokenizer.id_to_token(token_id)
            is_added = token_id in added
            content = b"" if token is None else token.encode() if is_added else read_bytes(token)
            self.bytes_of.append(content)
            special[token_id] = is_added or token is None
            if special[token_id] or not _is_clean_text(content):
                continue
            # Two ids can share their bytes (`A` and `<0x41>`): only the first that is not a byte token can be chosen.
            other = owners.get(content)
            if other is None or BYTE_TOKEN.fullmatch(self.tokenizer.id_to_token(other) or ""):
                if other is not None:
                    candidate[other] = False
                owners[content] = token_id
                candidate[token_id] = True
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        if unknown is None:
            unknown = _unigram_unknown(self.tokenizer)
        if unknown is not None and (unknown_id := self.tokenizer.token_to_id(unknown)) is not None:
            special[unknown_id], candidate[unknown_id] = True, False
        self.is_special_V: BoolArray = np.array(special)
        self.is_candidate_V: BoolArray = np.array(candidate)
        self._length_V: IntArray = np.array([len(content) for content in self.bytes_of], dtype=np.int64)
        is_text = [_is_clean_text(content) for content in self.bytes_of]
        self._is_spliceable_V: BoolArray = np.array([*is_text, False]) & ~self.is_special_V

    def lookup(self, table_V: BoolArray, ids: IntArray) -> BoolArray:
        """`table_V[ids]`, where ids outside the table read its last entry."""
        inside = (ids >= 0) & (ids < len(table_V) - 1)
        entries: BoolArray = table_V[np.where(inside, ids, len(table_V) - 1)]
        return entries

    def knows(self, ids: IntArray) -> bool:
        """Whether every id has an entry in the tables."""
        return bool(((ids >= 0) & (ids < len(self.bytes_of))).all())

    def join(self, ids: IntArray) -> bytes:
        """The concatenated bytes of known ids; a leading space that the decoder strips is kept."""
        return b"".join([self.bytes_of[i] for i in ids.tolist()])

    @_clear_panics()
    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode texts, which must be valid Unicode, in order. Nothing is truncated."""
        rows = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._align(text, np.array(row.ids, dtype=np.int64)) for text, row in zip(texts, rows, strict=True)]

    @_clear_panics()
    def encode_ids(self, text: str, *, add_special_tokens: bool = False) -> IntArray:
        # A batch of one row: this call skips the offsets, which take most of the time.
        [row] = self.tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return np.array(row.ids, dtype=np.int64)

    def reproduces(self, ids: IntArray) -> bool:
        """Whether known ids look like this tokenizer's own: decoding and re-encoding returns nearly all of them.

        Truncated rows and edited rows lose a few tokens; those from another tokenizer usually lose one in ten. Some
        tokenizers start over after a special token (in chats and packed documents) and some don't: both are accepted.
        """
        special_T = self.lookup(self.is_special_V, ids)
        stretches = np.split(ids, np.flatnonzero(special_T[1:] | special_T[:-1]) + 1)
        return self._come_back(ids, [ids]) or self._come_back(ids, stretches)

    @_clear_panics()
    def _come_back(self, ids: IntArray, stretches: Sequence[IntArray]) -> bool:
        """Whether ids stay nearly the same when decoded and re-encoded stretch by stretch."""
        texts = []
        for stretch in stretches:
            joined = self.join(stretch)
            strips = self._strips_space and joined.startswith(b" ")
            texts.append(joined[strips:].decode("utf-8", "ignore"))  # a truncated row can start inside a character
        rows = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        again = Counter(token_id for row in rows for token_id in row.ids)
        common = (Counter(ids.tolist()) & again).total()
        return max(len(ids), again.total()) - common <= max(2, MISMATCH * len(ids))

    def spans(self, input_ids_T: IntArray) -> tuple[IntArray, IntArray]:
        """Start and end of each token in the concatenated bytes."""
        length_T = self._length_V[input_ids_T]
        end_T: IntArray = np.cumsum(length_T)
        return end_T - length_T, end_T

    def own_text(self, token_id: int, at_start: bool) -> bytes:
        """The bytes that a token decodes to; some decoders strip one space at the start of a text."""
        content = self.bytes_of[token_id]
        return content[1:] if at_start and self._strips_space and content.startswith(b" ") else content

    def _align(self, text: str, ids: IntArray) -> Encoded:
        data = text.encode()
        joined = self.join(ids)
        start_T, end_T = self.spans(ids)
        if self._strips_space and joined.startswith(b" "):
            joined, start_T, end_T = joined[1:], np.maximum(start_T - 1, 0), end_T - 1
        if joined == data:
            spliceable_T = self.lookup(self._is_spliceable_V, ids) & (end_T > start_T)
            return Encoded(ids, start_T, end_T, spliceable_T, exact=True)
        return self._align_by_offsets(text, data, ids)

    def _align_by_offsets(self, text: str, data: bytes, ids: IntArray) -> Encoded:
        """Align by the tokenizer's offsets: tokens whose bytes appear there unchanged can be spliced.

        For example, `\ufb01ne day`, with a ligature, is read as `▁fine` from characters 0 to 3 and `▁day` from 4 to 7.
        The text does not contain `fine` there, so it is left alone. It does contain `day` after a space, so ` day` may
        change.
        """
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        byte_of_char = byte_offsets(text)
        offsets_T2 = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        start_T, end_T = byte_of_char[offsets_T2[:, 0]], byte_of_char[offsets_T2[:, 1]]
        # Offsets can overlap (if a character spans several tokens): find how far the earlier tokens reach, and where
        # the first of the later ones begins.
        previous_end_T = np.concatenate([[0], np.maximum.accumulate(end_T)[:-1]])
        next_start_T = np.concatenate([np.minimum.accumulate(start_T[::-1])[::-1][1:], [len(data)]])
        spliceable_T = np.zeros(len(ids), dtype=bool)
        for t in np.flatnonzero(self.lookup(self._is_spliceable_V, ids)).tolist():
            content = self.own_text(int(ids[t]), at_start=t == 0)
            # Some tokenizers leave a token's leading space out of its offsets.
            start = int(start_T[t]) - (content[:1] == b" " and data[start_T[t] : start_T[t] + 1] != b" ")
            alone = previous_end_T[t] <= start and end_T[t] <= next_start_T[t]
            if alone and content and data[start : end_T[t]] == content:
                start_T[t], spliceable_T[t] = start, True
        return Encoded(ids, start_T, end_T, spliceable_T, exact=False)

    @_clear_panics()
    def _prefix_ids(self) -> IntArray:
        """The ids added before a text, found by encoding one with and without special tokens."""
        bare = self.tokenizer.encode("x", add_special_tokens=False).ids
        full = self.tokenizer.encode("x", add_special_tokens=True).ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return np.array(full[:start], dtype=np.int64)
        return np.array([], dtype=np.int64)


def byte_offsets(text: str) -> IntArray:
    """The UTF-8 byte offset at which each character starts, and the total length. Shape [len(text) + 1]."""
    if text.isascii():
        return np.arange(len(text) + 1, dtype=np.int64)
    data = np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    is_escape = (codes >= 0xDC80) & (codes <= 0xDCFF)  # one byte each under surrogateescape
    length = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    offsets: IntArray = np.concatenate([[0], np.cumsum(np.where(is_escape, 1, length))])
    assert offsets[-1] == len(data)
    return offsets


def _is_clean_text(content: bytes) -> bool:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    return bool(text) and REPLACEMENT not in text


def _byte_reader(tokenizer: Tokenizer) -> tuple[Any, bool]:
    """A function from a token's name to its bytes, and whether decoding strips a leading space."""
    decoder = json.loads(tokenizer.to_str())["decoder"]
    steps = [] if decoder is None else decoder.get("decoders", [decoder])
    kinds = [step["type"] for step in steps]
    if "ByteLevel" in kinds:
        alphabet = {symbol: byte for byte, symbol in enumerate(_byte_alphabet())}
        return lambda token: _from_alphabet(token, alphabet), False
    space = next((step["replacement"] for step in steps if step["type"] == "Metaspace"), None)
    for step in steps:
        if step["type"] == "Replace" and step["content"] == " " and "String" in step["pattern"]:
            space = step["pattern"]["String"]
    if space is None:
        raise PriorError(
            f"the tokenizer's decoder ({'+'.join(kinds) or 'none'}) is not supported: "
            "use a prior whose tokenizer is byte-level or SentencePiece-like"
        )
    has_bytes = "ByteFallback" in kinds
    strips = any(step["type"] == "Strip" and step["content"] == " " and step["start"] == 1 for step in steps)
    strips |= any(step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never" for step in steps)

    def read(token: str) -> bytes:
        match = BYTE_TOKEN.fullmatch(token) if has_bytes else None
        return bytes([int(match[1], 16)]) if match else token.replace(space, " ").encode()

    return read, strips


def _byte_alphabet() -> list[str]:
    """The visible character that byte-level BPE uses for each byte (GPT-2's table)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(256)]


def _from_alphabet(token: str, alphabet: dict[str, int]) -> bytes:
    try:
        return bytes([alphabet[symbol] for symbol in token])
    except KeyError:
        return token.encode()  # a token outside the byte alphabet stands for its own text


def _unigram_unknown(tokenizer: Tokenizer) -> str | None:
    model = json.loads(tokenizer.to_str())["model"]
    unknown = model.get("unk_id")
    return None if unknown is None else str(model["vocab"][unknown][0])
