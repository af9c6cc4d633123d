"""A causal language model as backbone and head, so that the head runs on the requested positions alone.

Shape suffixes: B sequences, T tokens, D hidden, V vocabulary, E requested positions, K candidates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .types import FloatArray, IntArray, ScoreRequest, Scores

if TYPE_CHECKING:
    import torch

HEAD_ROWS = 1024
TILE = 32
SCALES = ("logit_scale", "lm_head_multiplier")  # what configs call a factor on the logits


class SplitModel:
    """A causal model as backbone and head. Where the two together do not give the model's own logits, it runs whole."""

    def __init__(self, model: Any, name: str) -> None:
        self.model = model
        self.backbone = model.base_model
        self.head = model.get_output_embeddings()
        config = model.config.get_text_config()
        self.softcap = getattr(config, "final_logit_softcapping", None)
        scales = [getattr(config, attribute, None) for attribute in SCALES]
        self.scale = math.prod(scale for scale in scales if scale is not None)
        self.scale /= getattr(config, "logits_scaling", None) or 1.0
        self.is_split = self._is_exact()
        if not self.is_split:
            warnings.warn(
                f"{name}: backbone and head do not add up to its logits; running the whole model (slower)", stacklevel=2
            )

    def _is_exact(self) -> bool:
        """Compare with the model's own logits on a few tokens."""
        import torch

        if self.head is None or self.backbone is self.model:
            return False
        ids_BT = torch.arange(8, device=self.model.device)[None] % self.head.weight.shape[0]
        with torch.inference_mode():
            own_TV = self.model(input_ids=ids_BT, use_cache=False).logits[0].float()
            ours_TV = self._logits(self._hidden(ids_BT)[0])
        tolerance = 1e-4 if self.head.weight.dtype == torch.float32 else 2e-2
        largest = own_TV.abs().nan_to_num().max().clamp(min=1.0).item()
        return torch.allclose(own_TV, ours_TV, rtol=0, atol=tolerance * largest, equal_nan=True)

    def score(self, requests: Sequence[ScoreRequest], width: int, top_k: int) -> list[Scores]:
        import torch

        ids_BT = np.zeros((len(requests), width), dtype=np.int64)
        for row, request in zip(ids_BT, requests, strict=True):
            row[: len(request.input_ids) - 1] = request.input_ids[:-1]
        counts = [len(request.positions) for request in requests]
        row_E = np.repeat(np.arange(len(requests)), counts)
        position_E = np.concatenate([request.positions for request in requests])
        target_E = np.concatenate([request.input_ids[request.positions] for request in requests])
        with torch.inference_mode():
            # Padding stands on the right, where no scored token can see it: no mask is needed.
            device = self.model.device
            inputs = torch.from_numpy(ids_BT).to(device)
            index = (torch.from_numpy(row_E).to(device), torch.from_numpy(position_E - 1).to(device))
            if self.is_split:
                rows_ED = self._hidden(inputs)[index]
            else:
                rows_ED = self.model(input_ids=inputs, use_cache=False).logits[index]
            scored = self._law(rows_ED, torch.from_numpy(target_E).to(device), top_k)
        cuts = np.cumsum(counts)[:-1]
        return [Scores(*parts) for parts in zip(*(np.split(array, cuts) for array in scored), strict=True)]

    def _hidden(self, ids_BT: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.backbone(input_ids=ids_BT, use_cache=False)[0]
        return hidden

    def _logits(self, hidden_ED: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import linear

        bias = getattr(self.head, "bias", None)
        logits_EV: torch.Tensor = linear(
            hidden_ED.float(), self.head.weight.float(), None if bias is None else bias.float()
        )
        logits_EV = logits_EV * self.scale
        return (logits_EV / self.softcap).tanh() * self.softcap if self.softcap else logits_EV

    def _law(
        self, rows_ED: torch.Tensor, target_E: torch.Tensor, top_k: int
    ) -> tuple[FloatArray, IntArray, FloatArray]:
        """Target log-probability and candidates, from one float32 log-sum-exp, some rows at a time."""
        import torch

        parts = []
        for start in range(0, max(1, len(rows_ED)), HEAD_ROWS):
            rows = rows_ED[start : start + HEAD_ROWS]
            missing = -len(rows) % TILE  # whole tiles, as in TransformersPrior._width
            tiles = torch.cat([rows, rows[:1].expand(missing, -1)]) if missing else rows
            logits_EV = self._logits(tiles)[: len(rows)] if self.is_split else rows.float()
            total_E = logits_EV.logsumexp(-1)
            target = logits_EV.gather(-1, target_E[start : start + HEAD_ROWS, None])[:, 0] - total_E
            values_EK, ids_EK = logits_EV.topk(min(top_k, logits_EV.shape[-1]), -1)
            parts.append((target, ids_EK, values_EK - total_E[:, None]))
        joined = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]
        return joined[0].double().numpy(), joined[1].numpy(), joined[2].double().numpy()
