"""Texts and tokenizers made on the spot, so that the claims of the tests depend on no file from elsewhere.

There is one tokenizer for each family that the package reads, named after a well-known member.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from hf_toedit.experiments.docstrings import docstrings, standard_library

PACKAGES = ["asyncio", "email", "importlib", "json", "logging", "unittest"]
NUM_PIECES = 1200
# Characters of several bytes, often enough that some tokens end inside one.
OTHER_SCRIPTS = [
    "naïve café",
    "日本語のテキスト",
    "中文，",
    "한국어",
    "😀 👩‍👩‍👧 🇩🇪",
    "שלום עולם",
    "مرحبا",
    "Привет, мир",
] * 50
# Qwen2's pattern: digits one by one, contractions in either case, punctuation with the line break behind it.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def human_texts() -> tuple[str, ...]:
    """Over a thousand paragraphs of 60 to 300 characters from the standard library's docstrings, each on one line."""
    paragraphs = [
        " ".join(paragraph.split())
        for name in PACKAGES
        for row in docstrings(standard_library() / name)
        for paragraph in row["text"].split("\n\n")
    ]
    return tuple(dict.fromkeys(line for line in paragraphs if 60 <= len(line) <= 300 and line.isascii()))


def familiar_texts() -> list[str]:
    """Five docstrings of 700 to 1,500 characters. The embedded prior is nearly certain of many of their tokens."""
    found = (row["text"] for name in ("json", "unittest") for row in docstrings(standard_library() / name))
    return [text for text in found if 700 < len(text) < 1500 and text.isascii()][:5]


def _train(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator([*human_texts(), *OTHER_SCRIPTS], trainer)
    return tokenizer


def _byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer, special_tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_PIECES, special_tokens=special_tokens, initial_alphabet=alphabet, show_progress=False
    )
    return _train(tokenizer, trainer)


def _gpt2() -> Tokenizer:
    return _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])


def _qwen() -> Tokenizer:
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special_tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return _byte_level(pre_tokenizers.Sequence([split, byte_level]), special_tokens)


def _llama() -> Tokenizer:
    """SentencePiece's BPE: U+2581 for a space, one put in front; bytes for what has no piece; <s> before a text."""
    special_tokens, num_bytes = ["<unk>", "<s>", "</s>"], 256
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for training alone
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_PIECES,
        special_tokens=[*special_tokens, *(f"<0x{byte:02X}>" for byte in range(num_bytes))],
        show_progress=False,
    )
    _train(tokenizer, trainer)
    tokenizer.post_processor = _template(tokenizer, "<s> $A", "<s>")
    state = json.loads(tokenizer.to_str())
    state["pre_tokenizer"] = None
    state["added_tokens"] = state["added_tokens"][: len(special_tokens)]  # the bytes are ordinary pieces
    return Tokenizer.from_str(json.dumps(state))


def _t5() -> Tokenizer:
    """Unigram behind a normaliser: white space and compatibility characters are folded, other scripts are unknown.

    Its pieces are those of the BPE above, each about as likely as the next, so that a word has as few as may be.
    """
    special_tokens = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{i}>" for i in reversed(range(100)))]
    ids = _llama().get_vocab(with_added_tokens=False)
    pieces = [piece for piece in sorted(ids, key=ids.get) if piece.replace("▁", "").isascii() and "<" not in piece[:-1]]
    pieces.remove("▁")  # so that any character can begin a word:
    pieces += [f"▁{c}" for c in string.printable[:94] if f"▁{c}" not in ids]
    scores = [-8 - 1e-3 * rank for rank in range(len(pieces))]
    vocabulary = [*((token, 0.0) for token in special_tokens), *zip(pieces, scores, strict=True)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=special_tokens.index("<unk>")))
    tokenizer.add_special_tokens(special_tokens)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = _template(tokenizer, "$A </s>", "</s>")
    return tokenizer


def _template(tokenizer: Tokenizer, single: str, token: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=single, special_tokens=[(token, tokenizer.token_to_id(token))])


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "made-gpt2": _gpt2,
    "made-qwen": _qwen,
    "made-llama": _llama,
    "made-t5": _t5,
}
