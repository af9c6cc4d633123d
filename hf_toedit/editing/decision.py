"""The decision: which visited tokens change, and what they become.

Notation follows the paper (arXiv 2412.14689, Equation 2): a token is eligible if p = P(x_t | x_<t) >= threshold. Each
candidate has the weight w = P^(1/temperature). If T is the weight of the target token and S the sum of the other
candidates' weights, the draw changes the token with probability c = S / (T + S). A single uniform number u decides
whether it changes (u < c) and picks the alternative (where u (T + S) falls in the cumulative weights).
Shape suffixes: E visited positions, K candidates, V ids.
"""

from __future__ import annotations

import math

import numpy as np

from ..types import BoolArray, FloatArray, IntArray, Scores
from .config import SHORTENING, ToEditConfig

UNCHANGED = -1
DELETED = -2
CERTAIN = -(2.0**-24)  # log of the largest float32 below 1
TINY = float(np.finfo(np.float64).tiny)


def needs_every_position(config: ToEditConfig) -> bool:
    """Whether every position can matter, so that no bound on u rules any of them out."""
    return config.exclude_target or config.eligible == "below" or config.strategy in SHORTENING


def change_bound(config: ToEditConfig) -> float:
    """An upper bound on any token's probability of changing, known before the prior is asked; for `random`, its rate.

    For temperature b >= 1, S <= (k-1)^(1-1/b) (1-p)^(1/b) by concavity; for b < 1, S <= (1-p)^(1/b). Leaving
    out candidates only lowers S. A position with u at or above the bound can't change, whatever the prior says.
    """
    if config.strategy == "none" or not config.needs_prior:
        return 0.0
    if config.rate is not None:
        return config.rate
    if needs_every_position(config):
        return 1.0
    inverse = 1.0 / config.temperature
    others = (1.0 - config.threshold) ** inverse * (config.top_k - 1) ** max(0.0, 1.0 - inverse)
    target = config.threshold**inverse
    total = target + others
    return others / total if total > 0 else 1.0


def is_eligible(scores: Scores, config: ToEditConfig) -> BoolArray:
    """Whether p_t >= threshold (with `eligible="below"`, p_t <= threshold), compared as logarithms."""
    edge = math.log(config.threshold)
    eligible: BoolArray = scores.logprob_E >= edge if config.eligible == "above" else scores.logprob_E <= edge
    return eligible


def decide(
    scores: Scores,
    target_E: IntArray,
    u_E: FloatArray,
    editable_E: BoolArray,
    allowed_EK: BoolArray,
    config: ToEditConfig,
) -> tuple[IntArray, BoolArray]:
    """The new id of each visited position, UNCHANGED or DELETED, and whether it is a near-tie. Shape [E] each.

    A near-tie is an editable position whose outcome could differ if the difference between any two logits moved by
    `scores.logit_error`: because p crosses the threshold, `drop_below` or `drop_above`, because u crosses c or an edge
    between two alternatives, or because the chosen alternative swaps places with another one. p, u and the edges are
    compared as log-odds, which move by at most that error (divided by the temperature, for the draw). Tokens that are
    not candidates can't be compared, so a swap between the last alternative and the next token is not counted. If new
    tokens aren't drawn from the prior, what counts is whether a token changes, not which alternative it would become.

    u_E: the uniform numbers. editable_E: positions that may change; with a rate, those chosen at random, which all
    change. allowed_EK: candidates that may be chosen; the target never counts as an alternative.
    """
    new_E = np.full(len(target_E), UNCHANGED, dtype=np.int64)
    near_E = np.zeros(len(target_E), dtype=bool)
    if config.strategy in ("resample", "resample_and_drop", "random"):
        is_chosen = config.rate is not None
        eligible_E = editable_E if is_chosen else is_eligible(scores, config) & editable_E
        crosses_E = np.zeros_like(near_E) if is_chosen else _is_near(scores, config.threshold) & editable_E
        drawing = np.flatnonzero(eligible_E | crosses_E)  # draws at the other positions do not matter
        if len(drawing):
            part = Scores(
                scores.logprob_E[drawing],
                scores.candidate_ids_EK[drawing],
                scores.candidate_logprob_EK[drawing],
                scores.logit_error,
            )
            drawn_E, near_draw_E = _resample(part, target_E[drawing], u_E[drawing], allowed_EK[drawing], config)
            new_E[drawing] = np.where(eligible_E[drawing], drawn_E, UNCHANGED)
            near_E[drawing] = near_draw_E | (crosses_E[drawing] & (drawn_E != UNCHANGED))
    if config.strategy in SHORTENING:
        low = math.log(config.drop_below) if config.drop_below > 0 else -math.inf
        high = math.log(config.drop_above) if config.drop_above < 1 else math.inf
        dropped_E = ((scores.logprob_E < low) | (scores.logprob_E > high)) & editable_E
        new_E = np.where(dropped_E, DELETED, new_E)
        near_E &= ~dropped_E
        for edge in (config.drop_below, config.drop_above):
            if 0 < edge < 1:
                near_E |= _is_near(scores, edge)
    return new_E, near_E & editable_E


def _is_near(scores: Scores, probability: float) -> BoolArray:
    """Whether rounding could put p_t on the other side of `probability`."""
    edge = _log_odds(np.array(math.log(probability)))
    near_E: BoolArray = np.abs(_log_odds(scores.logprob_E) - edge) <= scores.logit_error
    return near_E


def _log_odds(logprob: FloatArray) -> FloatArray:
    """log(p / (1 - p)), computed from log p; finite where p was rounded to 1."""
    log_odds: FloatArray = logprob - np.log(-np.expm1(np.minimum(logprob, CERTAIN)))
    return log_odds


def _resample(
    scores: Scores, target_E: IntArray, u_E: FloatArray, allowed_EK: BoolArray, config: ToEditConfig
) -> tuple[IntArray, BoolArray]:
    """The token each position draws (UNCHANGED for its own), and whether rounding could make it draw another.

    For example, at temperature 1, take the candidates `cat .90, dog .05, cow .03` with cat as the target. The
    alternatives have the weights `0 .05 .03`, so T = .90, S = .08 and c = .082. A draw below .05 / .98 picks dog; one
    between that and c picks cow.
    """
    inverse = 1.0 / config.temperature
    excludes_target = config.exclude_target or config.rate is not None
    other_EK = (scores.candidate_ids_EK != target_E[:, None]) & allowed_EK
    # The target takes one of the k places whatever its rank: the alternatives are among the k - 1 likeliest others.
    alternative_EK = other_EK & (np.cumsum(scores.candidate_ids_EK != target_E[:, None], axis=1) < config.top_k)
    log_weight_EK = np.where(alternative_EK, scores.candidate_logprob_EK * inverse, -np.inf)
    log_target_E = np.full(len(target_E), -np.inf) if excludes_target else scores.logprob_E * inverse
    # Relative to the largest weight: otherwise, at a low temperature, all of them would round to 0.
    top_E = np.maximum(log_target_E, log_weight_EK.max(axis=1))
    top_E[np.isneginf(top_E)] = 0.0
    weight_EK, target_weight_E = np.exp(log_weight_EK - top_E[:, None]), np.exp(log_target_E - top_E)
    kept_EK = weight_EK if config.top_p is None else _nucleus(weight_EK, target_weight_E, config.top_p)
    column_E = _pick(kept_EK, target_weight_E, u_E)
    changed_E = column_E < weight_EK.shape[1]
    places = np.arange(len(target_E)), np.where(changed_E, column_E, 0)  # where nothing changes, any column will do
    # From here on: would the draw differ if two logits moved apart or together by the logit error?
    margin = min(scores.logit_error * inverse, 700.0)  # in log-odds of the draw; exp(700) is still finite
    is_drawn = config.draws_from == "prior"  # or is only whether the token changes decided here?
    near_E = _is_near_edge(kept_EK if is_drawn else kept_EK.sum(axis=1, keepdims=True), target_weight_E, u_E, margin)
    if config.top_p is not None:
        near_E |= _is_near_nucleus(weight_EK, target_weight_E, u_E, column_E, margin, config.top_p)
        gap_EK = np.abs(scores.candidate_logprob_EK - scores.logprob_E[:, None])
        near_E |= (alternative_EK & (gap_EK <= scores.logit_error)).any(axis=1)  # target and candidate may swap
    new_E = np.where(changed_E, scores.candidate_ids_EK[places], UNCHANGED)
    if not is_drawn:
        return new_E, near_E
    with np.errstate(invalid="ignore"):  # -inf - -inf: both candidates are impossible
        distance_EK = np.abs(scores.candidate_logprob_EK - scores.candidate_logprob_EK[places][:, None])
    near_E |= changed_E & (((distance_EK <= scores.logit_error) & other_EK).sum(axis=1) > 1)  # one is the pick itself
    return new_E, near_E


def _pick(weight_EK: FloatArray, target_weight_E: FloatArray, u_E: FloatArray) -> IntArray:
    """The column of the alternative that each position draws; K if the target stays."""
    cumulated_EK = np.cumsum(weight_EK, axis=1)
    x_E = u_E * (target_weight_E + cumulated_EK[:, -1])
    column_E: IntArray = (cumulated_EK <= x_E[:, None]).sum(axis=1)
    return column_E


def _is_near_edge(weight_EK: FloatArray, target_weight_E: FloatArray, u_E: FloatArray, margin: float) -> BoolArray:
    """Whether u lies within `margin`, in log-odds, of an edge between two alternatives or of c itself."""
    before_EK = np.cumsum(weight_EK, axis=1)
    from_here_EK = np.cumsum(weight_EK[:, ::-1], axis=1)[:, ::-1]
    behind_EK = np.repeat(target_weight_E[:, None], weight_EK.shape[1], axis=1)
    behind_EK[:, :-1] += from_here_EK[:, 1:]
    edge_EK = np.log(np.maximum(before_EK, TINY)) - np.log(np.maximum(behind_EK, TINY))
    log_odds_E = np.log(np.maximum(u_E, TINY)) - np.log1p(-u_E)
    near_EK = np.abs(edge_EK - log_odds_E[:, None]) <= margin
    near_E: BoolArray = near_EK.any(axis=1) & (before_EK[:, -1] > 0)
    return near_E


def _is_near_nucleus(
    weight_EK: FloatArray,
    target_weight_E: FloatArray,
    u_E: FloatArray,
    column_E: IntArray,
    margin: float,
    top_p: float,
) -> BoolArray:
    """Whether the draw changes, or comes near an edge, when rounding adds or removes a candidate under top_p."""
    near_E = np.zeros(len(u_E), dtype=bool)
    for shift in (-margin, margin):
        kept_EK = _nucleus(weight_EK, target_weight_E, top_p / (top_p + (1.0 - top_p) * math.exp(-shift)))
        near_E |= _pick(kept_EK, target_weight_E, u_E) != column_E
        near_E |= _is_near_edge(kept_EK, target_weight_E, u_E, margin)
    return near_E


def _nucleus(weight_EK: FloatArray, target_weight_E: FloatArray, top_p: float) -> FloatArray:
    """Zero all but the likeliest candidates that together reach top_p of the mass; the target always stays."""
    total_E = target_weight_E + weight_EK.sum(axis=1)
    target_EK = np.where(target_weight_E[:, None] >= weight_EK, target_weight_E[:, None], 0.0)
    before_EK = np.cumsum(weight_EK, axis=1) - weight_EK + target_EK
    kept_EK: FloatArray = np.where(before_EK < top_p * total_E[:, None], weight_EK, 0.0)
    return kept_EK


def redraw_at_random(chosen_E: IntArray, input_ids_T: IntArray, pick_T: FloatArray, counts_V: IntArray) -> IntArray:
    """A control: new tokens at the chosen positions, drawn from `counts_V` without the old token.

    pick_T: uniform numbers. Returns new ids or UNCHANGED, shape [T]; UNCHANGED also where there is no other token.
    """
    new_T = np.full(len(input_ids_T), UNCHANGED, dtype=np.int64)
    cumulated_V, old_E = np.cumsum(counts_V), input_ids_T[chosen_E]
    is_counted_E = old_E < len(counts_V)
    place_E = np.where(is_counted_E, old_E, 0)
    old_count_E = np.where(is_counted_E, counts_V[place_E], 0)
    rest_E = cumulated_V[-1] - old_count_E
    x_E = pick_T[chosen_E] * rest_E
    x_E += np.where(x_E >= cumulated_V[place_E] - old_count_E, old_count_E, 0)  # skip the old token
    picked_E = np.searchsorted(cumulated_V, x_E, side="right")
    new_T[chosen_E] = np.where(rest_E > 0, picked_E, UNCHANGED)
    return new_T


def random_positions(config: ToEditConfig, editable_T: BoolArray, place_T: FloatArray, num_changes: int) -> IntArray:
    """Where `random` changes tokens: the editable positions whose place number is below `rate`; without a rate, the
    `num_changes` with the smallest place numbers. Shape [E]."""
    possible = np.flatnonzero(editable_T)
    if config.rate is not None:
        return possible[place_T[possible] < config.rate]
    return possible[np.argsort(place_T[possible], kind="stable")[:num_changes]]
