"""From the logits of a head to log-probabilities: what the priors that compute their own head share.

Shape suffixes: V vocabulary, E requested positions, K candidates, M refined tokens, M1 these and the target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..types import FLOAT32_ERROR

if TYPE_CHECKING:
    import torch

REFINED = 32
ROUNDINGS = 2.0  # measured: benchmarks/near_ties.py
USUAL_LOGIT = 16.0


def logit_error(dtype: torch.dtype, largest: float = USUAL_LOGIT) -> float:
    """How far rounding in a dtype moves the difference of two logits of a model, in nats.

    A bound that few positions exceed, not a proof. largest: how far the model's logits are from their mean.
    """
    import torch

    return max(FLOAT32_ERROR, ROUNDINGS * torch.finfo(dtype).eps * largest)


def as_float(raw: torch.Tensor) -> torch.Tensor:
    return raw.float()


def logprobs_from_logits(
    raw_EV: torch.Tensor,
    target_E: torch.Tensor,
    top_k: int,
    exact: Callable[[torch.Tensor], torch.Tensor] | None = None,
    finish: Callable[[torch.Tensor], torch.Tensor] = as_float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The targets' log-probabilities [E], the ids of the likeliest tokens [E, K] and their log-probabilities [E, K].

    Equals `finish(raw_EV).log_softmax(-1)`, gathered at target_E and by topk with K = min(top_k, V); there is one
    log-sum-exp, in float32.

    exact: float32 logits [E, M1] of ids [E, M1]. A head in half precision rounds its logits: p = 0.99 would spread over
        .93 to 1.05. With `exact`, the terms of the likeliest tokens, which hold nearly all of the mass of an eligible
        position, are replaced in the sum, and the target's logit is exact.
    finish: what comes after the head's matrix product, in float32; it keeps the order of the logits.
    """
    import torch

    num_ids = raw_EV.shape[-1]
    num_refined = min(max(REFINED, 2 * top_k) if exact else top_k, num_ids)
    blocks = _row_blocks(raw_EV)
    # The last block may be padded: what it has beyond E rows is cut off.
    ids_EM = torch.cat([block.topk(num_refined, dim=1).indices for block in blocks])[: len(raw_EV)]
    total_E = torch.cat([finish(block).logsumexp(1) for block in blocks])[: len(raw_EV)]
    ids_EM1 = torch.cat([ids_EM, target_E[:, None]], dim=1)
    logits_EM1 = finish(raw_EV.gather(1, ids_EM1))
    if exact:
        # Take the rounded terms of the M likeliest tokens out of the sum, and put their exact terms in. All are
        # divided by the rounded sum: log(sum - rounded + exact) = total + log(1 - rounded / sum + exact / sum).
        exact_EM1 = exact(ids_EM1)
        rounded_E, exact_E = (torch.exp(logits[:, :-1] - total_E[:, None]).sum(1) for logits in (logits_EM1, exact_EM1))
        total_E = total_E + torch.log((1 - rounded_E).clamp(min=0) + exact_E)
        logits_EM1 = exact_EM1
    # Exact logits may be in another order than the rounded ones: hence M > K, and a second topk.
    values_EK, order_EK = logits_EM1[:, :-1].topk(min(top_k, num_ids), dim=1)
    return logits_EM1[:, -1] - total_E, ids_EM.gather(1, order_EK), values_EK - total_E[:, None]


def _row_blocks(raw_EV: torch.Tensor) -> list[torch.Tensor]:
    """On a CPU, blocks with one row for each thread, so that rows stay in the cache; elsewhere one block.

    The last block is padded to the size of the others: the order in which torch adds up a row, and with it the last
    bit, depends on the number of rows.
    """
    import torch

    if raw_EV.device.type != "cpu":
        return [raw_EV]
    num_rows = torch.get_num_threads()
    blocks = list(torch.split(raw_EV, num_rows))
    last = blocks[-1]
    if 0 < len(last) < num_rows:
        blocks[-1] = torch.cat([last, last[:1].expand(num_rows - len(last), -1)])
    return blocks
