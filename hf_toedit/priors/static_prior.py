"""A prior with scripted probabilities: a test double, for users too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import final

import numpy as np
from tokenizers import Tokenizer

from ..display import as_call
from ..errors import ConfigError
from ..types import IntArray, ScoreRequest, Scores

FLOOR = 1e-30


@final
class StaticPrior:
    """A prior whose probabilities you write down.

    tokenizer: of tokenizers or transformers.
    distribution: a function of the ids of a request, shape [T], and a position t; returns the probabilities of token
        ids at t. It may look at the target token `input_ids[t]`. Tokens that it leaves out get probability 1e-30.
    max_length, stride, chat_template, special_tokens: as for any prior.

    Raises ConfigError for a tokenizer or a distribution of another type.

        >>> StaticPrior(tokenizer, lambda input_ids, t: {int(input_ids[t]): 0.995, 17: 0.005})
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        distribution: Callable[[IntArray, int], Mapping[int, float]],
        *,
        max_length: int | None = None,
        stride: int | None = None,
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, Tokenizer) or not callable(distribution):
            given = f"{type(tokenizer).__name__} and {type(distribution).__name__}"
            raise ConfigError(
                f"a StaticPrior takes a tokenizer and a function, not {given}: StaticPrior(tokenizer, distribution)"
            )
        self.tokenizer: Tokenizer = backend
        self.distribution = distribution
        self.max_length = max_length
        self.stride = stride if stride is not None else (max_length or 0) // 2
        self.chat_template, self.special_tokens = chat_template, dict(special_tokens or {})

    def __repr__(self) -> str:
        return as_call(self)

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """Scores of the requested positions; see `Prior.score`."""
        return [self._score(request, min(top_k, self.tokenizer.get_vocab_size())) for request in requests]

    def _score(self, request: ScoreRequest, num_candidates: int) -> Scores:
        size = len(request.positions)
        logprob_E = np.empty(size)
        ids_EK = np.empty((size, num_candidates), dtype=np.int64)
        logprob_EK = np.empty((size, num_candidates))
        for e, t in enumerate(request.positions.tolist()):
            probabilities = self.distribution(request.input_ids, t)
            logprob_E[e] = math.log(max(probabilities.get(int(request.input_ids[t]), FLOOR), FLOOR))
            left_out = (i for i in range(len(probabilities) + num_candidates) if i not in probabilities)
            likeliest = sorted(probabilities.items(), key=lambda item: -item[1])[:num_candidates]
            likeliest += [(next(left_out), FLOOR) for _ in range(num_candidates - len(likeliest))]
            ids_EK[e] = [token_id for token_id, _ in likeliest]
            logprob_EK[e] = np.log([max(probability, FLOOR) for _, probability in likeliest])
        return Scores(logprob_E, ids_EK, logprob_EK)
