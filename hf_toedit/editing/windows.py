"""What the prior reads of a sequence of tokens. The same rule applies to every row format and every prior:

- A text is read as the tokenizer encodes it: preceded by a begin-of-text token (the prefix) if the tokenizer adds one,
  unless the text already begins with it. The same goes for contents joined without a chat template, and for pairs.
- A conversation is read as its chat template renders it, and rows of ids, from a dataset or in training, are read as
  they are: nothing is added.
- A sequence longer than the prior's window is read in overlapping windows. If the sequence begins with the prefix,
  every window begins with it, since some models produce nonsense without it; otherwise none does.

Shape suffixes: T tokens of a sequence, E wanted positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError
from ..types import IntArray, Prior, ScoreRequest, Scores


def begins_with(input_ids_T: IntArray, prefix_ids: IntArray) -> bool:
    """Whether there is a prefix and the sequence begins with it."""
    return len(prefix_ids) > 0 and np.array_equal(input_ids_T[: len(prefix_ids)], prefix_ids)


def requests_for(
    before: IntArray, input_ids_T: IntArray, wanted_E: IntArray, prefix_ids: IntArray, prior: Prior
) -> list[ScoreRequest]:
    """The windows, as in `requests_of`, of a cell's tokens. before: ids that the prior reads in front of them."""
    return requests_of(np.concatenate([before, input_ids_T]), wanted_E + len(before), prefix_ids, prior)


def requests_of(input_ids_T: IntArray, wanted_E: IntArray, prefix_ids: IntArray, prior: Prior) -> list[ScoreRequest]:
    """The windows of a sequence that contain wanted positions, each cut off after its last one.

    wanted_E: ascending positions in the sequence, each at least 1. The requests' positions keep their order.
    prefix_ids: the ids that the prior's tokenizer adds before a text.
    """
    skipped = len(prefix_ids) if begins_with(input_ids_T, prefix_ids) else 0
    num_tokens = len(input_ids_T) - skipped
    capacity = max(2, num_tokens) if prior.max_length is None else prior.max_length - skipped
    requests = []
    for start, first, end in windows(num_tokens, capacity, prior.stride):
        edges = [skipped + first if first else 0, skipped + end]  # the prefix itself belongs to the first window
        inside = wanted_E[slice(*np.searchsorted(wanted_E, edges))]
        if len(inside):
            ids = np.concatenate([input_ids_T[:skipped], input_ids_T[skipped + start : inside[-1] + 1]])
            requests.append(ScoreRequest(ids, inside - start))
    return requests


def join_scores(of_windows: Sequence[Scores]) -> Scores:
    """The scores of a sequence, joined from those of its windows."""
    if not of_windows:
        return Scores(np.empty(0), np.empty((0, 1), dtype=np.int64), np.empty((0, 1)))
    if len(of_windows) == 1:
        return of_windows[0]
    return Scores(
        np.concatenate([window.logprob_E for window in of_windows]),
        np.concatenate([window.candidate_ids_EK for window in of_windows]),
        np.concatenate([window.candidate_logprob_EK for window in of_windows]),
        max(window.logit_error for window in of_windows),
    )


def windows(num_tokens: int, capacity: int, stride: int) -> list[tuple[int, int, int]]:
    """Split a text into windows `(start, first scored, end)` of at most `capacity` tokens.

    Each token is scored once. Beyond the first window it has at least `stride` tokens of context, or as many as the
    capacity allows, and never fewer than one.
    """
    if capacity < 2:
        raise ConfigError(f"the prior's window leaves room for {capacity} tokens of text: set a larger max_length")
    context = max(1, min(stride, capacity - 1))
    placed, first = [(0, 0, min(num_tokens, capacity))], min(num_tokens, capacity)
    while first < num_tokens:
        start = first - context
        end = min(num_tokens, start + capacity)
        placed.append((start, first, end))
        first = end
    return placed
