"""What the priors on vLLM share: a request as a prompt, and scores out of vLLM's `prompt_logprobs`.

Shape suffixes: E requested positions, K candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import PriorError
from ..types import ScoreRequest, Scores
from .head import logit_error


def prompt_of(request: ScoreRequest) -> list[int]:
    """The tokens up to the last requested one."""
    ids: list[int] = request.input_ids[: request.positions[-1] + 1].tolist()
    return ids


def check_lengths(requests: Sequence[ScoreRequest], name: str, max_length: int) -> None:
    """Raise PriorError for a request that is longer than the window of the prior of this name."""
    longest = max(len(request.input_ids) for request in requests)
    if longest > max_length:
        raise PriorError(
            f"a request has {longest} tokens, prior {name!r} takes {max_length}: cut the text into windows"
        )


def scores_of(request: ScoreRequest, logprobs_E: Sequence[dict[int, float]], num_candidates: int) -> Scores:
    """Scores from the log-probabilities by token id that vLLM gives for each position.

    These are the likeliest ids, and the target where it is not among them. The scores have as many candidates as every
    position has, at most num_candidates. NaN comes first, so that it is seen.
    """
    targets = request.input_ids[request.positions].tolist()
    target_E = np.array([logprobs[target] for logprobs, target in zip(logprobs_E, targets, strict=True)], dtype=float)
    size = min(num_candidates, *map(len, logprobs_E))
    likeliest_EK = [
        sorted(logprobs.items(), key=lambda item: (item[1] == item[1], -item[1]))[:size] for logprobs in logprobs_E
    ]
    pairs_EK2 = np.array(likeliest_EK, dtype=float)  # (id, log-probability)
    return Scores(target_E, pairs_EK2[..., 0].astype(np.int64), pairs_EK2[..., 1])


def fill_in(
    scores: Sequence[Scores], requests: Sequence[ScoreRequest], num_candidates: int, error: float
) -> list[Scores]:
    """One `Scores` for each request: the given ones in order, and empty ones where no position was requested.

    error: their `logit_error`.
    """
    shape = (0, num_candidates)
    empty = Scores(np.empty(0), np.empty(shape, dtype=np.int64), np.empty(shape))
    given = iter(scores)
    filled = [next(given) if len(request.positions) else empty for request in requests]
    return [dataclasses.replace(scores_of_one, logit_error=error) for scores_of_one in filled]


def rounding_of(dtype: str, config: Any) -> float:
    """The `logit_error` of a model that runs in a dtype; "auto" is the one that its configuration names."""
    import torch

    name = getattr(config, "dtype", None) if dtype == "auto" else dtype
    known = getattr(torch, str(name).removeprefix("torch."), None)
    return logit_error(known if isinstance(known, torch.dtype) else torch.bfloat16)
