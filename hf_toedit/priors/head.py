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
    """How far the rounding of a model that computes in a dtype moves the difference of two logits, in nats.

    A bound that few positions exceed, not a proof. largest: how far logits of this model are from their mean.
    """
    import torch

    return max(FLOAT32_ERROR, ROUNDINGS * torch.finfo(dtype).eps * largest)


def as_float(raw: torch.Tensor) -> torch.Tensor:
    return raw.float()


def law_of_logits(
    raw_EV: torch.Tensor,
    target_E: torch.Tensor,
    top_k: int,
    exact: Callable[[torch.Tensor], torch.Tensor] | None = None,
    finish: Callable[[torch.Tensor], torch.Tensor] = as_float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probability of the targets [E], ids of the likeliest K = min(top_k, V) tokens and their log-probabilities.

    Equals `finish(raw_EV).log_softmax(-1)`, gathered at target_E and by topk; there is one log-sum-exp, in float32.

    exact: float32 logits [E, M1] of ids [E, M1]. A head of 16-bit numbers rounds its logits (p = 0.99 would spread
        over .93 to 1.05): with this, the terms of the likeliest tokens, which hold nearly all of the mass of an
        eligible position, are replaced in the sum, and the target's logit is exact.
    finish: what comes after the head's matrix product, in float32; it keeps the order of the logits.
    """
    import torch

    num_ids = raw_EV.shape[-1]
    likeliest = min(max(REFINED, 2 * top_k) if exact else top_k, num_ids)
    parts = _parts(raw_EV)
    ids_EM = torch.cat([part.topk(likeliest, dim=1).indices for part in parts])[: len(raw_EV)]
    total_E = torch.cat([finish(part).logsumexp(1) for part in parts])[: len(raw_EV)]
    ids_EM1 = torch.cat([ids_EM, target_E[:, None]], dim=1)
    logits_EM1 = finish(raw_EV.gather(1, ids_EM1))
    if exact:
        exact_EM1 = exact(ids_EM1)
        rounded_E, exact_E = (torch.exp(logits[:, :-1] - total_E[:, None]).sum(1) for logits in (logits_EM1, exact_EM1))
        total_E = total_E + torch.log((1 - rounded_E).clamp(min=0) + exact_E)
        logits_EM1 = exact_EM1
    values_EK, order_EK = logits_EM1[:, :-1].topk(min(top_k, num_ids), dim=1)
    return logits_EM1[:, -1] - total_E, ids_EM.gather(1, order_EK), values_EK - total_E[:, None]


def _parts(raw_EV: torch.Tensor) -> list[torch.Tensor]:
    """On a CPU a row for each thread, so that rows stay in the cache; else all at once.

    The last part is filled up: how torch adds up a row, and with it the last bit, depends on how many there are.
    """
    import torch

    if raw_EV.device.type != "cpu":
        return [raw_EV]
    num_rows = torch.get_num_threads()
    parts = list(torch.split(raw_EV, num_rows))
    last = parts[-1]
    if 0 < len(last) < num_rows:
        parts[-1] = torch.cat([last, last[:1].expand(num_rows - len(last), -1)])
    return parts
