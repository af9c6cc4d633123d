"""The law: which visited tokens change, and into what.

Notation of the paper (arXiv 2412.14689, Equation 2): an eligible token has p = P(x_t | x_<t) >= threshold. With
weights w = P^(1/temperature), T that of the target token and S the sum of the other candidates', the draw changes the
token with probability c = S / (T + S). One uniform number u decides (u < c) and picks the alternative (where
u (T + S) falls in the cumulated weights). Shape suffixes: E visited positions, K candidates, V ids.
"""

from __future__ import annotations

import math

import numpy as np

from .config import ToEditConfig
from .types import BoolArray, FloatArray, IntArray, Scores

NEAR_TIE_NATS = 1e-4
UNCHANGED = -1
DELETED = -2


def needs_every_position(config: ToEditConfig) -> bool:
    """Whether the text depends on positions that no bound on u can leave out."""
    deletes = config.strategy in ("drop", "resample_and_drop")
    return config.exclude_target or config.eligible == "below" or deletes


def change_bound(config: ToEditConfig) -> float:
    """An upper bound of the change probability of any token, known before the model is asked.

    For temperature b >= 1, S <= (k-1)^(1-1/b) (1-p)^(1/b) by concavity; for b < 1, S <= (1-p)^(1/b). Leaving
    candidates out only lowers S. A position with u at or above the bound can't change, whatever the prior says.
    """
    if config.strategy == "none":
        return 0.0
    if needs_every_position(config):
        return 1.0
    inverse = 1.0 / config.temperature
    others = (1.0 - config.threshold) ** inverse * (config.top_k - 1) ** max(0.0, 1.0 - inverse)
    target = config.threshold**inverse
    total = target + others
    return others / total if total > 0 else 1.0


def is_eligible(scores: Scores, config: ToEditConfig) -> BoolArray:
    """Whether p_t >= threshold (of `eligible="below"`, p_t <= threshold), in logarithms."""
    cut = math.log(config.threshold)
    eligible: BoolArray = scores.logprob_E >= cut if config.eligible == "above" else scores.logprob_E <= cut
    return eligible


def decide(
    scores: Scores,
    target_E: IntArray,
    u_E: FloatArray,
    editable_E: BoolArray,
    allowed_EK: BoolArray,
    config: ToEditConfig,
) -> tuple[IntArray, int]:
    """The new id of each visited position, or UNCHANGED, or DELETED; and the number of near-ties.

    A near-tie is an editable position that lies so close to a decision (NEAR_TIE_NATS of the threshold, or of u to c)
    that another batch shape or dtype may decide it otherwise.
    """
    new_E = np.full(len(target_E), UNCHANGED, dtype=np.int64)
    near_E = np.zeros(len(target_E), dtype=bool)
    if config.strategy in ("resample", "resample_and_drop", "random"):
        near_E |= np.abs(scores.logprob_E - math.log(config.threshold)) < NEAR_TIE_NATS
        eligible_E = is_eligible(scores, config) & editable_E
        drawn_E, near_draw_E = _resample(scores, target_E, u_E, allowed_EK, config)
        new_E = np.where(eligible_E, drawn_E, new_E)
        near_E |= near_draw_E & eligible_E
    if config.strategy in ("drop", "resample_and_drop"):
        low = math.log(config.drop_below) if config.drop_below > 0 else -math.inf
        high = math.log(config.drop_above) if config.drop_above < 1 else math.inf
        for cut in (low, high):
            near_E |= np.abs(scores.logprob_E - cut) < NEAR_TIE_NATS
        outside_E = (scores.logprob_E < low) | (scores.logprob_E > high)
        new_E = np.where(outside_E & editable_E, DELETED, new_E)
    return new_E, int((near_E & editable_E).sum())


def _resample(
    scores: Scores, target_E: IntArray, u_E: FloatArray, allowed_EK: BoolArray, config: ToEditConfig
) -> tuple[IntArray, BoolArray]:
    inverse = 1.0 / config.temperature
    other_EK = scores.candidate_ids_EK != target_E[:, None]
    if scores.candidate_ids_EK.shape[1] == config.top_k:
        # The target is one of the k candidates: where it is not among the likeliest k, the last of them gives way.
        other_EK[other_EK.all(axis=1), -1] = False
    log_weight_EK = np.where(other_EK & allowed_EK, scores.candidate_logprob_EK * inverse, -np.inf)
    log_target_E = np.full(len(target_E), -np.inf) if config.exclude_target else scores.logprob_E * inverse
    # Relative to the largest weight: at a low temperature all of them would round to 0.
    top_E = np.maximum(log_target_E, log_weight_EK.max(axis=1))
    top_E[np.isneginf(top_E)] = 0.0
    weight_EK, target_weight_E = np.exp(log_weight_EK - top_E[:, None]), np.exp(log_target_E - top_E)
    if config.top_p is not None:
        weight_EK = _nucleus(weight_EK, target_weight_E, config.top_p)
    cumulated_EK = np.cumsum(weight_EK, axis=1)
    others_E = cumulated_EK[:, -1]
    total_E = target_weight_E + others_E
    x_E = u_E * total_E
    changed_E = x_E < others_E
    column_E = np.minimum((cumulated_EK <= x_E[:, None]).sum(axis=1), weight_EK.shape[1] - 1)
    drawn_E = scores.candidate_ids_EK[np.arange(len(target_E)), column_E]
    edges_EK = np.concatenate([cumulated_EK, others_E[:, None]], axis=1)
    near_E = (np.abs(edges_EK - x_E[:, None]) < NEAR_TIE_NATS * others_E[:, None]).any(axis=1)
    return np.where(changed_E, drawn_E, UNCHANGED), near_E


def _nucleus(weight_EK: FloatArray, target_weight_E: FloatArray, top_p: float) -> FloatArray:
    """Zero the candidates beyond the likeliest that together reach top_p of the mass; the target always stays."""
    total_E = target_weight_E + weight_EK.sum(axis=1)
    target_EK = np.where(target_weight_E[:, None] >= weight_EK, target_weight_E[:, None], 0.0)
    before_EK = np.cumsum(weight_EK, axis=1) - weight_EK + target_EK
    kept_EK: FloatArray = np.where(before_EK < top_p * total_E[:, None], weight_EK, 0.0)
    return kept_EK


def redraw_at_random(
    num_changes: int,
    input_ids_T: IntArray,
    editable_T: BoolArray,
    place_T: FloatArray,
    pick_T: FloatArray,
    counts_V: IntArray,
) -> IntArray:
    """The control arm: as many changes, at random positions, tokens from the corpus' unigram law.

    place_T, pick_T: independent uniform numbers. The positions are the editable ones with the smallest place numbers;
    the new token is drawn from `counts_V` without the old one. Returns new ids or UNCHANGED, shape [T].
    """
    new_T = np.full(len(input_ids_T), UNCHANGED, dtype=np.int64)
    possible = np.flatnonzero(editable_T)
    chosen = possible[np.argsort(place_T[possible], kind="stable")[:num_changes]]
    cumulated_V = np.cumsum(counts_V)
    for t in chosen.tolist():
        old = int(input_ids_T[t])
        own = int(counts_V[old]) if old < len(counts_V) else 0
        rest = int(cumulated_V[-1]) - own
        if rest <= 0:
            continue
        x = pick_T[t] * rest
        if own and x >= cumulated_V[old] - own:
            x += own
        new_T[t] = np.searchsorted(cumulated_V, x, side="right")
    return new_T
