"""Types shared between the package's folders.

Shape suffixes: T tokens of a row, E scored positions, K candidates, V ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
FLOAT32_ERROR = 1e-4


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
    """Ask a prior for its distributions at some positions of one sequence.

    input_ids: shape [T], at most the prior's `max_length` tokens. The prior reads them as they are: they include a
        begin-of-text token if the rule in `hf_toedit.editing.windows` adds one.
    positions: shape [E], ascending, each in 1..T-1 (position 0 has no context, and so no probability).
    """

    input_ids: IntArray
    positions: IntArray


@dataclasses.dataclass(frozen=True)
class Scores:
    """The distributions at the requested positions, in nats, at temperature 1.

    logprob_E: log P(x_t | x_<t) of the token x_t at each position. NaN where the prior returned none.
    candidate_ids_EK: the K likeliest tokens at each position, likeliest first.
    candidate_logprob_EK: their log-probabilities.
    logit_error: the most that rounding may have changed the difference between two logits, in nats. Positions where
        that could change the decision are counted as near-ties.
    """

    logprob_E: FloatArray
    candidate_ids_EK: IntArray
    candidate_logprob_EK: FloatArray
    logit_error: float = FLOAT32_ERROR


class Prior(Protocol):
    """A language model that says how likely tokens are.

    tokenizer: the tokenizer whose ids it reads.
    max_length: the maximum number of tokens in a request; None for no limit.
    stride: the minimum context, in tokens, for a token beyond the first window.

    These and `score` are all a prior needs. It can also have any of the following attributes:

    name: a string that identifies it in messages and records.
    revision: a string, such as a commit or a digest, that differs between priors whose probabilities differ. Without
        it, rows can't say which edit made them.
    hub_id: the id of its model on the Hub, for records and cards to link to. None for a folder or a model in memory.
    options: a mapping of any settings its probabilities depend on, other than its revision and its window.
    chat_template: a Jinja template that renders conversations, as in transformers.
    special_tokens: a mapping from the names used in chat templates (`bos_token`, `eos_token`, ...) to tokens.
    scores_fix: a string that says what to do about invalid scores, such as which setting is usually wrong.
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


@dataclasses.dataclass(frozen=True)
class PriorDetails:
    """The optional attributes listed in `Prior`, each with a fallback if the prior lacks it.

    They are read from the prior only when used, because a chat template may require loading files.
    """

    prior: Prior

    @property
    def name(self) -> str | None:
        name = getattr(self.prior, "name", None)
        return name if isinstance(name, str) else None

    @property
    def revision(self) -> str | None:
        revision: str | None = getattr(self.prior, "revision", None)
        return revision

    @property
    def hub_id(self) -> str | None:
        name = getattr(self.prior, "hub_id", None)
        return name if isinstance(name, str) else None

    @property
    def options(self) -> Mapping[str, Any]:
        options = getattr(self.prior, "options", None)
        return options if isinstance(options, Mapping) else {}

    @property
    def chat_template(self) -> str | None:
        template: str | None = getattr(self.prior, "chat_template", None)
        return template

    @property
    def special_tokens(self) -> Mapping[str, str]:
        tokens: Mapping[str, str] | None = getattr(self.prior, "special_tokens", None)
        return tokens or {}

    @property
    def scores_fix(self) -> str:
        fix: str = getattr(self.prior, "scores_fix", "its score() must return log-probabilities, as Prior.score says")
        return fix
