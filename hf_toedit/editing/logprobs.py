"""How likely a prior finds tokens that stay as they are: what selective losses and measurements are computed from.

Shape suffixes: E scored positions of a cell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..statuses import Status
from ..types import FloatArray, IntArray, Prior
from .cells import Cell
from .scoring import ask, is_usable
from .tokenization import Tokenization
from .windows import requests_for


@dataclasses.dataclass(frozen=True)
class Logprobs:
    """The log-probabilities of a cell's tokens.

    status: why there are none, or None. positions_E: the tokens, ascending.
    logprob_E: log P(x_t | x_<t) of each under the prior, in nats; finite. Both are empty if there is a status.
    """

    status: Status | None
    positions_E: IntArray
    logprob_E: FloatArray


def score_cells(
    prior: Prior, tokenization: Tokenization, cells: Sequence[Cell], wanted: Sequence[IntArray] | None = None
) -> list[Logprobs]:
    """The log-probabilities of tokens, one result for each cell, in order. All cells go to the prior together.

    Equals what an edit of these cells compares with the threshold: same prefix, same windows, same checks.

    tokenization: of the prior. cells: as from `encode`.
    wanted: for each cell, ascending positions of tokens that have context; default: its scorable tokens.

    Raises PriorError if the prior's answer can't be log-probabilities.
    """
    if wanted is None:
        wanted = [np.flatnonzero(cell.scorable_T) for cell in cells]
    requests = [
        requests_for(cell.prefix_ids, cell.input_ids_T, wanted_E, tokenization.prefix_ids, prior)
        for cell, wanted_E in zip(cells, wanted, strict=True)
    ]
    results = []
    for cell, wanted_E, scores in zip(cells, wanted, ask(prior, requests, top_k=1), strict=True):
        status = cell.status or (None if is_usable(scores) else Status.NONFINITE)
        size = 0 if status else len(wanted_E)
        results.append(Logprobs(status, wanted_E[:size], scores.logprob_E[:size]))
    return results
