"""Decisions from their definition, in float64 and by brute force. Nothing is imported from hf_toedit.

Reads models whose tokenizer is byte-level, or SentencePiece-like: U+2581 for a space, `<0x..>` for a byte, one space
put in front of a text.
Shape suffixes: T tokens of a text, V ids.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

Numbers = Mapping[str, Sequence[float]]  # stream -> the uniform number of each position
NEAR = 1e-4
DELETED = -2
MASK64 = 2**64 - 1


@dataclasses.dataclass(frozen=True)
class Draw:
    """The draw at one eligible position: the other candidates, likeliest first, their weights and the target's."""

    others: list[int]
    weights: list[float]
    target_weight: float

    @property
    def change_probability(self) -> float:
        total = sum(self.weights) + self.target_weight
        return sum(self.weights) / total if total else 0.0

    def pick(self, u: float) -> int | None:
        """The new id, or None for the target."""
        x = u * (sum(self.weights) + self.target_weight)
        for token_id, weight in zip(self.others, self.weights, strict=True):
            if x < weight:
                return token_id
            x -= weight
        return None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a row must become. `changes` maps positions to new ids or DELETED; `near` are positions close to a tie."""

    visited: list[int]
    eligible: list[int]
    changes: dict[int, int]
    near: set[int]


class Oracle:
    """A model in float64. window, stride: as of the prior that is tested."""

    def __init__(self, folder: Path, window: int = 512, stride: int = 256) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.window, self.stride = window, stride
        self.bos = self.tokenizer.encode("").ids[:1]
        names = [self.tokenizer.id_to_token(i) for i in range(self.tokenizer.get_vocab_size())]
        self.special = set(self.tokenizer.get_added_tokens_decoder())
        is_byte_level = '"ByteLevel"' in self.tokenizer.to_str()
        self.space = b"" if is_byte_level else b" "  # in front of a text
        self.bytes_of = [(_byte_level_bytes if is_byte_level else _bytes_of)(name) for name in names]
        self.is_clean = [i not in self.special and _is_clean(content) for i, content in enumerate(self.bytes_of)]
        whole = {content for name, content in zip(names, self.bytes_of, strict=True) if not name.startswith("<0x")}
        # The byte token of a character that has a token of its own is never a candidate.
        self.may_be_chosen = [
            clean and not (name.startswith("<0x") and content in whole)
            for clean, name, content in zip(self.is_clean, names, self.bytes_of, strict=True)
        ]
        self._logprobs: dict[tuple[int, ...], np.ndarray] = {}

    # tokens

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def spans(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """The bytes of the text that each token stands for; the space in front of the first is none of them."""
        ends = np.cumsum([len(self.bytes_of[i]) for i in ids]) - len(self.space)
        return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))

    def is_exact(self, text: str) -> bool:
        return b"".join(self.bytes_of[i] for i in self.encode(text)) == self.space + text.encode()

    def editable(self, ids: Sequence[int]) -> list[bool]:
        return [self.is_clean[i] and end > start for i, (start, end) in zip(ids, self.spans(ids), strict=True)]

    def splice(self, text: str, ids: Sequence[int], changes: dict[int, int]) -> tuple[str, list[tuple[int, str, str]]]:
        """The edited text and its edits (character, old, new)."""
        data, parts, edits = text.encode(), [], []
        for t, (start, end) in enumerate(self.spans(ids)):
            old = new = data[start:end]
            if t in changes:
                new = b"" if changes[t] == DELETED else self.bytes_of[changes[t]]
                if t == 0 and changes[t] != DELETED:
                    new = new.removeprefix(self.space)
                    if new in (b"", old):  # reads as nothing, or as before: no change
                        parts.append(old)
                        continue
                edits.append((len(data[:start].decode()), old.decode(), new.decode()))
            parts.append(new)
        return b"".join(parts).decode(), edits

    # the decision

    def windows(self, num_tokens: int) -> Iterator[tuple[int, int, int]]:
        """(start, first scored, end): each token once, with `stride` tokens of context beyond the first window."""
        first = 0
        while first < num_tokens:
            start = first - self.stride if first else 0
            end = min(num_tokens, start + self.window - len(self.bos))
            yield start, first, end
            first = end

    def requests(self, ids: Sequence[int], visited: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """The shortest inputs that give the distributions at the visited positions: ids, and positions in them."""
        found = []
        for start, first, end in self.windows(len(ids)):
            inside = [t for t in visited if first <= t < end]
            if inside:
                ids_T = [*self.bos, *ids[start : inside[-1] + 1]]
                found.append((ids_T, [t - start + len(self.bos) for t in inside]))
        return found

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """log P(v | BOS, x_<t) over the whole vocabulary. Shape [T, V]."""
        key = tuple(ids)
        if key not in self._logprobs:
            rows = []
            for start, first, end in self.windows(len(ids)):
                inputs = torch.tensor([[*self.bos, *ids[start:end]]])
                with torch.no_grad():
                    logprob_NV = self.model(input_ids=inputs, use_cache=False).logits[0].log_softmax(-1)
                assert logprob_NV.dtype == torch.float64
                rows.append(logprob_NV[len(self.bos) - 1 + first - start : -1])
            self._logprobs[key] = torch.cat(rows).numpy()
        return self._logprobs[key]

    def draw(self, logprob_V: np.ndarray, target: int, config) -> Draw:
        """Candidates and weights of one position."""
        order = np.argsort(-logprob_V, kind="stable").tolist()[: config.top_k]
        if target not in order:
            order[-1] = target
        stays = not config.exclude_target and config.rate is None
        order = [i for i in order if (i == target and stays) or (i != target and self._allowed(i))]
        if not order:
            return Draw([], [], 0.0)
        top = max(logprob_V[i] for i in order)
        weight = {i: math.exp((logprob_V[i] - top) / config.temperature) for i in order}
        if config.top_p is not None:
            mass, total = 0.0, sum(weight.values())
            for i in sorted(order, key=lambda i: -weight[i]):
                mass += weight[i]
                if mass - weight[i] >= config.top_p * total and i != target:
                    del weight[i]
        target_weight = weight.pop(target, 0.0)
        return Draw(list(weight), list(weight.values()), target_weight)

    def other_token(self, target: int, pick: float, counts=None) -> int | None:
        """One of the corpus's tokens (counts=None: of all) other than the target, each as likely as it is frequent."""
        times = self.may_be_chosen if counts is None else np.where(self.may_be_chosen, counts, 0)
        corpus = np.repeat(np.arange(len(times)), times)
        corpus = corpus[corpus != target]
        return int(corpus[int(pick * len(corpus))]) if len(corpus) else None

    def _allowed(self, token_id: int) -> bool:
        return self.may_be_chosen[token_id]

    def bound(self, config) -> float:
        """The largest change probability: of all ways to share out 1 - p, an equal share for j candidates is worst."""
        if config.strategy == "none":
            return 0.0
        if config.rate is not None:
            return config.rate
        if config.exclude_target or config.eligible == "below" or "drop" in config.strategy:
            return 1.0
        best = 0.0
        for j in range(1, config.top_k):
            odds = j * ((1 - config.threshold) / j / config.threshold) ** (1 / config.temperature)
            best = max(best, odds / (1 + odds))
        return best

    def edit(self, ids: Sequence[int], numbers: Numbers, editable: Sequence[bool], config, counts=None) -> Outcome:
        """Eligibility, draws and deletions by their definition, read literally, one position after the other.

        counts: how often the corpus has each token, for a config that draws from them.
        """
        logprob_TV = self.logprobs(ids)
        bound, u_T = self.bound(config), numbers["resample"]
        which_T = u_T if config.rate is None else numbers["place"]
        visited = [t for t, i in enumerate(ids) if i not in self.special and which_T[t] < bound]
        eligible, changes, near = [], {}, set()
        for t in visited:
            if not editable[t]:
                continue
            logprob = logprob_TV[t, ids[t]]
            if abs(logprob - math.log(config.threshold)) < NEAR:
                near.add(t)
            p, cut = math.exp(logprob), config.threshold
            is_eligible = p >= cut if config.eligible == "above" else p <= cut
            if is_eligible:
                eligible.append(t)
            if (is_eligible or config.rate is not None) and config.strategy != "drop":
                draw = self.draw(logprob_TV[t], ids[t], config)
                new = draw.pick(u_T[t])
                if new is not None and config.distribution in ("unigram", "uniform"):
                    new = self.other_token(ids[t], numbers["pick"][t], counts)
                if new is not None:
                    changes[t] = new
                if _is_near(draw, u_T[t]) or (new is not None and _is_order_near(logprob_TV[t], config.top_k)):
                    near.add(t)
            if "drop" in config.strategy:
                cuts = [cut for cut in (config.drop_below, config.drop_above) if 0 < cut < 1]
                if any(abs(logprob - math.log(cut)) < NEAR for cut in cuts):
                    near.add(t)
                if p < config.drop_below or p > config.drop_above:
                    changes[t] = DELETED
        return Outcome(visited, eligible, changes, near)


def _bytes_of(name: str) -> bytes:
    match = re.fullmatch("<0x(..)>", name)
    return bytes.fromhex(match[1]) if match else name.replace("\u2581", " ").encode()


def _byte_level_bytes(name: str) -> bytes:
    """GPT-2's alphabet: bytes that print stand for themselves, the others follow from U+0100 in order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in plain]
    return bytes(ord(symbol) if ord(symbol) < 256 else hidden[ord(symbol) - 256] for symbol in name)


def _is_clean(content: bytes) -> bool:
    text = content.decode(errors="replace")
    return text != "" and "\ufffd" not in text


def _is_near(draw: Draw, u: float) -> bool:
    total = sum(draw.weights) + draw.target_weight
    edges = np.cumsum(draw.weights)
    return bool(len(edges)) and bool((np.abs(u * total - edges) < NEAR * edges[-1]).any())


def _is_order_near(logprob_V: np.ndarray, top_k: int) -> bool:
    return bool((np.diff(np.sort(-logprob_V)[: top_k + 1]) < 1e-5).any())


def philox4x64(key: tuple[int, int], num_words: int) -> list[int]:
    """Output words of Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""
    words = []
    for block in range(-(-num_words // 4)):
        counter, (k0, k1) = [block + 1, 0, 0, 0], key  # numpy counts up before it draws
        for _ in range(10):
            product0, product1 = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
            counter = [
                (product1 >> 64) ^ counter[1] ^ k0,
                product1 & MASK64,
                (product0 >> 64) ^ counter[3] ^ k1,
                product0 & MASK64,
            ]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK64, (k1 + 0xBB67AE8584CAA73B) & MASK64
        words += counter
    return words[:num_words]
