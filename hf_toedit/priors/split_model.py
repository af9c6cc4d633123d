"""A causal language model as backbone and head, so that the head runs on the requested positions alone.

Shape suffixes: B sequences, T tokens, D hidden, V vocabulary, E requested positions, K candidates, M chosen ids,
X either D or V.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..types import FLOAT32_ERROR, ScoreRequest
from .head import logit_error, logprobs_from_logits

if TYPE_CHECKING:
    import torch

TILE = 16
SCALES = ("logit_scale", "lm_head_multiplier")  # what configs call a factor on the logits
PACKED_ATTENTION = ("flash_attention", "flex_attention")  # they keep packed sequences apart at no cost


class SplitModel:
    """A causal model as backbone and head. Where the two together do not give the model's logits, it runs whole.

    name: what warnings call it.
    batch_tokens, head_rows: how much goes through backbone and head at once; smaller once memory has run out.
    autocast: returns the context in which the backbone runs in mixed precision; the head keeps its own dtype.

    is_split: backbone and head run apart. is_packed: sequences are concatenated in one row, without padding.
    logit_error: see Scores; that of the coarsest dtype that the model computes in.

    Gradients are off, but no tensor is in inference mode: a model may keep some (rotary tables) for its training.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        batch_tokens: int | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.model = model
        self.autocast = autocast
        self.is_on_cpu = model.device.type == "cpu"
        self.batch_tokens = batch_tokens or (2048 if self.is_on_cpu else 16384)
        self.head_rows = 128 if self.is_on_cpu else 512
        self.backbone = model.base_model
        self.head = model.get_output_embeddings()
        config = model.config.get_text_config()
        self.softcap = getattr(config, "final_logit_softcapping", None)
        scales = [getattr(config, attribute, None) for attribute in SCALES]
        self.scale = math.prod(scale for scale in scales if scale is not None)
        self.scale /= getattr(config, "logits_scaling", None) or 1.0
        logits_TV = self._probe_logits()
        self.is_split = self._adds_up(logits_TV)
        # A model that runs whole rounds its logits too, by their size and not by their distance from the mean.
        size_TV = logits_TV - logits_TV.mean(1, keepdim=True) if self.is_split else logits_TV
        largest = size_TV.abs().nan_to_num(0.0, 0.0).max().item()
        self.logit_error = max(logit_error(dtype, largest) for dtype in self._dtypes())
        if not self.is_split:
            warnings.warn(f"{name}: {self._why_whole()}", stacklevel=2)
        self.is_packed = str(config._attn_implementation).startswith(PACKED_ATTENTION) and self._packs()

    def _dtypes(self) -> list[torch.dtype]:
        """What the model computes in: its own dtype, and that of mixed precision."""
        import torch

        if self.autocast is None or not self.is_split:
            return [self.model.dtype]
        with self.autocast():
            return [self.model.dtype, torch.get_autocast_dtype(self.model.device.type)]

    def _why_whole(self) -> str:
        reason = "backbone and head do not add up to its logits; running the whole model (slower)"
        if self.logit_error == FLOAT32_ERROR:
            return reason
        error = min(self.logit_error, 100.0)
        odds = [99 * math.exp(shift) for shift in (-error, error)]
        low, high = (ratio / (1 + ratio) for ratio in odds)
        dtype = str(self.model.dtype).removeprefix("torch.")
        return (
            f"{reason}. Its logits are rounded to {dtype}, so that a probability of 0.99 can come out "
            f"anywhere between {low:.4f} and {high:.4f}: load it with dtype='float32'"
        )

    @property
    def _probe(self) -> torch.Tensor:
        """A few tokens. Shape [1, T]."""
        import torch

        num_ids = int(self.model.get_input_embeddings().weight.shape[0])
        return torch.arange(8, device=self.model.device)[None] % num_ids

    def _probe_logits(self) -> torch.Tensor:
        """The whole model's logits of the probe, in float32. Shape [T, V]."""
        import torch

        with torch.no_grad():
            logits_TV: torch.Tensor = self.model(input_ids=self._probe, use_cache=False).logits[0].float()
        return logits_TV

    def _adds_up(self, logits_TV: torch.Tensor) -> bool:
        """Whether backbone and head give the logits that the whole model has of the probe."""
        import torch

        if self.head is None or self.backbone is self.model:
            return False
        with torch.no_grad():
            split_TV = self._finish(self.head(self._hidden(input_ids=self._probe)[0]))
        return self._are_close(logits_TV, split_TV)

    def _packs(self) -> bool:
        """Whether packed sequences give what the same ones give in a padded batch."""
        import torch

        ids = np.arange(12) % self.model.get_input_embeddings().weight.shape[0]
        requests = [ScoreRequest(ids[:size], np.arange(1, size)) for size in (12, 3, 7)]
        with torch.no_grad():
            return self._are_close(self._padded(requests, 11), self._packed(requests))

    def _are_close(self, expected: torch.Tensor, computed: torch.Tensor) -> bool:
        """Whether two tensors are equal but for rounding, by the size of the largest number."""
        import torch

        tolerance = 1e-4 if self.model.dtype == torch.float32 and self.autocast is None else 2e-2
        largest = expected.float().abs().nan_to_num().max().clamp(min=1.0).item()
        return torch.allclose(expected.float(), computed.float(), rtol=0, atol=tolerance * largest, equal_nan=True)

    def rows(self, requests: Sequence[ScoreRequest], width: int) -> torch.Tensor:
        """The last hidden states [E, D] that predict the requested positions; logits [E, V] of a model that runs whole.

        width: what sequences are padded to. The last token of a request is only a target: the model does not read it.
        """
        return self._packed(requests) if self.is_packed else self._padded(requests, width)

    def _padded(self, requests: Sequence[ScoreRequest], width: int) -> torch.Tensor:
        """Padding stands on the right, where no scored token can see it: no mask is needed."""
        ids_BT = np.zeros((len(requests), width), dtype=np.int64)
        for row, request in zip(ids_BT, requests, strict=True):
            row[: len(request.input_ids) - 1] = request.input_ids[:-1]
        # Hidden state t - 1 predicts position t; it is row b * width + t - 1 of the flattened batch.
        rows_E = np.concatenate([b * width + request.positions - 1 for b, request in enumerate(requests)])
        return self._run(rows_E, input_ids=ids_BT)

    def _packed(self, requests: Sequence[ScoreRequest]) -> torch.Tensor:
        """Position ids that start again tell transformers where a sequence begins."""
        sizes = [len(request.input_ids) - 1 for request in requests]
        starts = np.cumsum([0, *sizes[:-1]])
        rows_E = np.concatenate(
            [start + request.positions - 1 for start, request in zip(starts, requests, strict=True)]
        )
        input_ids = np.concatenate([request.input_ids[:-1] for request in requests])[None]
        position_ids = np.concatenate([np.arange(size) for size in sizes])[None]
        return self._run(rows_E, input_ids=input_ids, position_ids=position_ids)

    def _run(self, rows_E: np.ndarray, **inputs: np.ndarray) -> torch.Tensor:
        """Run the model on inputs [B, T], and take these rows of its flattened output [B * T, X]."""
        import torch

        on_device = {name: torch.from_numpy(array).to(self.model.device) for name, array in inputs.items()}
        taken_E = torch.from_numpy(rows_E).to(self.model.device)
        output_BTX = self._hidden(**on_device) if self.is_split else self.model(**on_device, use_cache=False).logits
        rows_EX: torch.Tensor = output_BTX.flatten(0, 1)[taken_E]
        return rows_EX

    def _hidden(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Last hidden states [B, T, D], in the dtype that the head takes."""
        with nullcontext() if self.autocast is None else self.autocast():
            hidden_BTD: torch.Tensor = self.backbone(**inputs, use_cache=False)[0]
        return hidden_BTD if self.autocast is None else hidden_BTD.to(self.head.weight.dtype)

    def logprobs(
        self, rows_EX: torch.Tensor, target_E: torch.Tensor, top_k: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities [E] of the targets, candidate ids [E, K] and their log-probabilities [E, K].

        rows_EX: what `rows` gave.
        """
        import torch

        if not self.is_split:
            return logprobs_from_logits(rows_EX, target_E, top_k)
        missing = -len(rows_EX) % TILE  # whole tiles, as in batching._width
        tiles = torch.cat([rows_EX, rows_EX[:1].expand(missing, -1)]) if missing else rows_EX
        raw_EV = self.head(tiles)[: len(rows_EX)]
        is_half = raw_EV.dtype in (torch.bfloat16, torch.float16)
        # The weight is not all there is to a head with an active adapter.
        is_plain = not hasattr(self.head, "base_layer") or self.head.disable_adapters
        exact = partial(self._exact, rows_EX) if is_half and is_plain else None
        return logprobs_from_logits(raw_EV, target_E, top_k, exact, self._finish)

    def _finish(self, raw: torch.Tensor) -> torch.Tensor:
        """What comes after the head's matrix product, in float32. It keeps the order of the logits."""
        logits = raw.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return (logits / self.softcap).tanh() * self.softcap if self.softcap else logits

    def _exact(self, rows_ED: torch.Tensor, ids_EM: torch.Tensor) -> torch.Tensor:
        """The logits [E, M] of some ids, computed in float32."""
        import torch

        raw_EM = torch.einsum("ed,emd->em", rows_ED.float(), self.head.weight[ids_EM].float())
        bias = getattr(self.head, "bias", None)
        return self._finish(raw_EM if bias is None else raw_EM + bias[ids_EM].float())
