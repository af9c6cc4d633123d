"""The types that pass between the layers.

Shape suffixes: T tokens of a row, E scored positions, K candidates, V ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
FLOAT32_ERROR = 1e-4


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
    """Ask a prior for the distribution of some tokens of one sequence.

    input_ids: shape [T], at most the prior's `max_length` tokens. Read as they are: a begin-of-text token is among them
        where the rule in `hf_toedit.editing.windows` puts one.
    positions: shape [E], ascending, each in 1..T-1 (position 0 has no context and so no probability).
    """

    input_ids: IntArray
    positions: IntArray


@dataclasses.dataclass(frozen=True)
class Scores:
    """The distributions at the requested positions, in nats, at temperature 1.

    logprob_E: log P(x_t | x_<t) of the token that stands there. NaN where the prior gave none.
    candidate_ids_EK: the K likeliest tokens of each position, likeliest first.
    candidate_logprob_EK: their log-probabilities.
    logit_error: how far rounding may have moved the difference of two logits, in nats. Positions where this could
        change the decision are counted as near-ties.
    """

    logprob_E: FloatArray
    candidate_ids_EK: IntArray
    candidate_logprob_EK: FloatArray
    logit_error: float = FLOAT32_ERROR


class Prior(Protocol):
    """A language model that says how likely tokens are.

    tokenizer: the tokenizer whose ids it reads.
    max_length: the most tokens of one request; None for no limit.
    stride: the least context, in tokens, of a token beyond the first window.

    A prior for conversations may also have `chat_template` (Jinja, as in transformers) and `special_tokens` (a mapping
    that names its `bos_token`, `eos_token`, ...).

    Rows can say which edit made them only if the prior has a `revision`: a string, such as a commit or a digest, that
    differs between priors whose probabilities differ. It may also have a `name`, and a mapping `options` of whatever
    else its probabilities depend on. An attribute `scores_fix` says what to do about scores that can't be right.
    """

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def stride(self) -> int: ...

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """One `Scores` per request, in order, with K = min(top_k, V) candidates. Never truncates."""
        ...
