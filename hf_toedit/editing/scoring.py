"""Ask a prior, and check its answer before relying on it.

Shape suffixes: E scored positions of all requests, K candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..errors import PriorError
from ..types import Prior, PriorDetails, ScoreRequest, Scores
from .windows import join_scores

ROUNDING = 1e-3  # nats, or probability: far above float32 rounding, far below what matters at a threshold of 0.99
HALF_ROUNDING = 0.25  # nats: with 16-bit logits, a token can rank below others that equal it


def ask(prior: Prior, requests: Sequence[Sequence[ScoreRequest]], top_k: int) -> list[Scores]:
    """The scores of each cell's positions, from the requests for its windows. All cells go to the prior together."""
    scores = iter(checked_scores(prior, [request for of_cell in requests for request in of_cell], top_k))
    return [join_scores([next(scores) for _ in of_cell]) for of_cell in requests]


def checked_scores(prior: Prior, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
    """`prior.score(requests, top_k)`, or PriorError if the result can't be log-probabilities.

    Every distribution must have K = min(top_k, V) distinct candidates, likeliest first. Each log-probability must be at
    most 0, and the probabilities must sum to at most 1, within rounding. The target must have the log-probability of
    its candidate or, if it is not a candidate, must not be likelier than the first one. NaN is let through: see
    `is_usable`. Scores are converted to float64, so that the decision is not computed in half precision.
    """
    if not requests:
        return []
    answers = prior.score(requests, top_k)
    problem = _misshapen(prior, requests, answers, top_k) or _impossible(requests, answers)
    if problem:
        details = PriorDetails(prior)
        who = type(prior).__name__ + (f" {details.name!r}" if details.name else "")
        raise PriorError(f"{who} returned invalid log-probabilities: {problem}; {details.scores_fix}")
    return [
        dataclasses.replace(
            scores,
            logprob_E=np.asarray(scores.logprob_E, dtype=np.float64),
            candidate_logprob_EK=np.asarray(scores.candidate_logprob_EK, dtype=np.float64),
        )
        for scores in answers
    ]


def is_usable(scores: Scores) -> bool:
    """Whether a decision can be based on the scores: no NaN, and no impossible target.

    A candidate may be impossible: -inf is a probability of 0.
    """
    return bool(np.isfinite(scores.logprob_E).all() and not np.isnan(scores.candidate_logprob_EK).any())


def _misshapen(prior: Prior, requests: Sequence[ScoreRequest], answers: Sequence[Scores], top_k: int) -> str:
    """What is wrong with the shapes, or an empty string."""
    if len(answers) != len(requests):
        return f"it answered {len(answers)} of {len(requests)} requests"
    for request, scores in zip(requests, answers, strict=True):
        shape, num_positions = np.shape(scores.candidate_ids_EK), len(request.positions)
        if np.shape(scores.logprob_E) != (num_positions,) or shape != np.shape(scores.candidate_logprob_EK):
            return f"{num_positions} positions were asked for, but the arrays have other shapes"
        if len(shape) != 2 or shape[0] != num_positions:
            return f"{num_positions} positions were asked for, but the candidates have shape {shape}"
        if shape[1] != top_k and not prior.tokenizer.get_vocab_size(with_added_tokens=False) <= shape[1] < top_k:
            return f"{shape[1]} candidates instead of {top_k}"
        if not np.issubdtype(np.asarray(scores.candidate_ids_EK).dtype, np.integer):
            return "candidate ids must be integers"
    return ""


def _impossible(requests: Sequence[ScoreRequest], answers: Sequence[Scores]) -> str:
    """Why no distribution can have these values, or an empty string. Comparisons with NaN are false, so NaN passes."""
    target_E = np.concatenate([request.input_ids[request.positions] for request in requests])
    logprob_E = np.concatenate([scores.logprob_E for scores in answers])
    ids_EK = np.concatenate([scores.candidate_ids_EK for scores in answers])
    logprob_EK = np.concatenate([scores.candidate_logprob_EK for scores in answers])
    highest = max(np.fmax.reduce(array, axis=None, initial=-np.inf) for array in (logprob_E, logprob_EK))
    if highest > ROUNDING:
        return f"one is {highest:.4g}, and none can be above 0"
    is_target_EK = ids_EK == target_E[:, None]
    is_listed_E = is_target_EK.any(axis=1)
    mass_E = np.exp(logprob_EK).sum(axis=1) + np.where(is_listed_E, 0.0, np.exp(logprob_E))
    if (mass_E > 1 + ROUNDING).any():
        return f"the probabilities at a position sum to {np.nanmax(mass_E):.4g}"
    if (logprob_EK[:, 1:] > logprob_EK[:, :-1] + ROUNDING).any():
        return "the candidates are not ordered, likeliest first"
    sorted_EK = np.sort(ids_EK, axis=1)
    if (sorted_EK[:, :1] < 0).any() or (sorted_EK[:, 1:] == sorted_EK[:, :-1]).any():
        return "candidate ids must be different token ids"
    target_EK = np.broadcast_to(logprob_E[:, None], logprob_EK.shape)[is_target_EK]
    listed_EK = logprob_EK[is_target_EK]
    is_close = np.isclose(target_EK, listed_EK, rtol=ROUNDING, atol=ROUNDING)
    if not (is_close | np.isnan(target_EK) | np.isnan(listed_EK)).all():
        return "a token has one log-probability as the target and another as a candidate"
    if logprob_EK.shape[1] and (logprob_E > logprob_EK[:, 0] + HALF_ROUNDING).any():
        return "a target is likelier than the likeliest candidate"
    return ""
