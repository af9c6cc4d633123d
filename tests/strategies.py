"""Hypothesis strategies for texts, and scripted distributions that offer every kind of token as a change."""

from __future__ import annotations

import random
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import pytest
from conftest import load_tokenizer
from hypothesis import strategies as st
from tokenizers import Tokenizer

from hf_toedit import StaticPrior, ToEditConfig, ToEditError, ToEditTransform
from hf_toedit.editing.editor import Editor
from hf_toedit.editing.tokenization import Tokenization

PROSE = "The quick brown fox jumps over the lazy dog, and then it sleeps in the warm sun for an hour or two. "
FRAGMENTS = [
    *["word", " the quick brown fox", ".", ", and", "It's", "don't", "x", " naïve", "1,234.5", "Hello World"],
    *["👩‍👩‍👧", "🏳️‍🌈", " 😀", "🇩🇪", "e\u0301", "A\u030a", "\u0327", "ﬁ", "①", "한국어", "\u1112\u1161\u11ab"],
    *[
        "日本語のテキスト",
        "中文",
        "，",
        "שלום עולם",
        "مرحبا",
        "\u202eabc\u202c",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u00a0",
    ],
    *["\r\n", "\n", "\n\n", "\t", "\r", "\x00", "\x01", "\x1b[0m", "\x7f", "\x85", "\u2028", "\u3000"],
    *["\ufffd", "\u2581", "▁the", "<unk>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "[INST]", "<extra_id_0>"],
    *[
        "<0x41>",
        "<0x0A>",
        "<s",
        "</s",
        "<|endoftext|",
        ">",
        "<|",
        "|>",
        " ",
        "  ",
        "   ",
        "Ġ",
        "Ċ",
        "\U0010ffff",
        "\U0001d11e",
    ],
]
texts = st.lists(
    st.one_of(
        st.sampled_from(FRAGMENTS),
        st.sampled_from(FRAGMENTS[:5]),
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=12,
).map("".join)


@cache
def tokenizer_of(name: str) -> Tokenizer:
    """A tokenizer of conftest.TOKENIZERS: the oracle. Editors work on a copy of their own."""
    return load_tokenizer(name)


@cache
def tokenization_of(name: str) -> Tokenization:
    return Tokenization(tokenizer_of(name))


@cache
def odd_ids(name: str) -> list[int]:
    """Special and added tokens, byte tokens, pieces of characters, U+FFFD, empty tokens, whitespace, brackets."""
    tokenizer = tokenizer_of(name)
    added, ids = tokenizer.get_added_tokens_decoder(), []
    for token, token_id in sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1]):
        text = tokenizer.decode([token_id], skip_special_tokens=False)
        is_odd = not text.strip() or "\ufffd" in text or token.startswith("<0x") or text in ("<", ">", "|>", "s>")
        if is_odd or token_id in added:
            ids.append(token_id)
    return ids


class Distribution:
    """Probabilities that look like a model's: a hash of (position, previous id, seed) picks target and alternatives.

    low: the share of tokens of probability 1e-5 (`drop` deletes them). The others have `target`.
    """

    def __init__(self, name: str, target: float = 0.995, low: float = 0.0, seed: int = 0) -> None:
        self.size = tokenizer_of(name).get_vocab_size(with_added_tokens=True)
        self.odd = odd_ids(name)
        self.target, self.low, self.seed = target, low, seed

    def alternatives(self, input_ids: Any, t: int) -> list[int]:
        draw = random.Random(((self.seed * 1_000_003 + t) * 1_000_003 + int(input_ids[t - 1])) * 7 + 1)
        odd = [self.odd[int(draw.random() * len(self.odd))] for _ in range(4)]
        return odd + [int(draw.random() * self.size) for _ in range(3)]

    def __call__(self, input_ids: Any, t: int) -> dict[int, float]:
        is_low = (t * 2_654_435_761 + int(input_ids[t - 1]) * 40_503 + self.seed) % 1000 < 1000 * self.low
        target = 1e-5 if is_low else self.target
        return {**dict.fromkeys(self.alternatives(input_ids, t), (1 - target) / 7), int(input_ids[t]): target}


def make_editor(name: str, distribution: Distribution, **fields: Any) -> Editor:
    """An Editor on a shared Tokenization: the byte table of a large vocabulary takes a second to build."""
    counts = np.ones(len(tokenization_of(name).bytes_of), dtype=np.int64)
    with mock.patch("hf_toedit.editing.editor.Tokenization", return_value=tokenization_of(name)):
        return Editor(StaticPrior(tokenizer_of(name), distribution), ToEditConfig(**fields), unigram_counts_V=counts)


def make_transform(name: str, distribution: Any, **options: Any) -> ToEditTransform:
    """The same for a ToEditTransform."""
    transform = ToEditTransform(StaticPrior(tokenizer_of(name), distribution), **options)
    with mock.patch("hf_toedit.editing.editor.Tokenization", return_value=tokenization_of(name)):
        assert transform.editor is not None
    return transform


def one_line(error: pytest.ExceptionInfo[ToEditError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    return message
