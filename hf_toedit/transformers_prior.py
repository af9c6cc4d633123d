"""A prior on transformers: any causal language model that AutoModelForCausalLM loads.

Shape suffixes: B sequences, T tokens, D hidden, V vocabulary, E requested positions, K candidates.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from .errors import PriorError
from .pretrained import Pretrained, one_clear_line
from .split_model import TILE, SplitModel
from .types import ScoreRequest, Scores

IMPORT_PID = os.getpid()


class TransformersPrior(Pretrained):
    """A causal language model from a folder or the Hub, loaded on first use, once per process.

    model: a folder, a Hub id, or "demo" (the small prior in this package). Safetensors only.
    revision: a Hub branch, tag or commit; resolved to a commit hash and kept. For a folder the attribute `revision`
        is a digest of its files.
    dtype: "auto" (the checkpoint's own on an accelerator, float32 on a CPU, where other batch shapes then give the
        same edits) or the name of a torch dtype.
    device: "auto" (an accelerator where there is one; under several processes, that of the rank) or a torch device.
    max_length: window in tokens; the default is the model's own, at most 4,096.
    stride: context, in tokens, that a token beyond the first window has at least; default half of the window.
    trust_remote_code: run Python code that comes with the model. Off unless you ask for it.

    Raises PriorError, with what to do, if files are missing or broken.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        max_length: int | None = None,
        stride: int | None = None,
        trust_remote_code: bool = False,
        batch_tokens: int = 8192,
    ) -> None:
        super().__init__(
            model, revision=revision, max_length=max_length, stride=stride, trust_remote_code=trust_remote_code
        )
        self.dtype, self.device, self.batch_tokens = dtype, device, batch_tokens

    @cached_property
    def _model(self) -> SplitModel:
        import torch
        from transformers import AutoModelForCausalLM

        if os.getpid() != IMPORT_PID:
            torch.set_num_threads(1)  # the parent's thread pool does not survive a fork
        with one_clear_line(f"device={self.device!r} is not to be had", "give another one, or 'auto'"):
            device = torch.device(_pick_device() if self.device == "auto" else self.device)
            torch.empty(0, device=device)
        dtype: Any = self.dtype
        if dtype == "auto" and device.type == "cpu":
            dtype = torch.float32
        options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        model, info = self._load(AutoModelForCausalLM, "model", **options)
        self._check_model(model, sorted(info["missing_keys"]))
        return SplitModel(model.to(device).eval().requires_grad_(False), self.name)

    def _check_model(self, model: Any, missing: list[str]) -> None:
        """transformers puts random numbers where a checkpoint has no weights; the tokenizer may be another model's."""
        if missing:
            raise PriorError(
                f"prior {self.name!r} has no weights for {missing[0]!r} ({len(missing)} missing in all): "
                "give a whole checkpoint of a causal language model"
            )
        num_ids = model.get_input_embeddings().weight.shape[0]
        last_id = max(self.tokenizer.get_vocab(with_added_tokens=False).values(), default=0)
        if last_id >= num_ids:
            raise PriorError(
                f"prior {self.name!r}: its tokenizer has ids up to {last_id}, its model only {num_ids}: "
                "save the model together with its own tokenizer"
            )

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """Scores of the requested positions; see `Prior.score`."""
        results: list[Scores | None] = [None] * len(requests)
        for batch in self._batches(requests):
            scored = self._model.score([requests[i] for i in batch], self._width(requests[batch[0]]), top_k)
            for i, scores in zip(batch, scored, strict=True):
                results[i] = scores
        return [scores for scores in results if scores is not None]

    def _batches(self, requests: Sequence[ScoreRequest]) -> Iterator[list[int]]:
        """Indices of requests that run together: of the same width, the widest first."""
        order = sorted(range(len(requests)), key=lambda i: -self._width(requests[i]))
        for width, group in itertools.groupby(order, key=lambda i: self._width(requests[i])):
            same = list(group)
            step = max(1, self.batch_tokens // width)
            yield from (same[start : start + step] for start in range(0, len(same), step))

    def _width(self, request: ScoreRequest) -> int:
        """The padded length of a request. The last token is only a target: the model does not read it.

        A width in whole tiles that depends on the request alone: on CPUs the same matrix kernels then see every row
        alike, and its numbers do not depend, to the last bit, on what else is in the batch.
        """
        tiles = -(-(len(request.input_ids) - 1) // TILE)
        return min(tiles * TILE, self.max_length or tiles * TILE)


def _pick_device() -> str:
    """The accelerator of this process's rank, or the CPU."""
    import torch

    if not torch.accelerator.is_available():
        return "cpu"
    kind = torch.accelerator.current_accelerator()
    return f"{kind}:{_process_rank() % torch.accelerator.device_count()}"


def _process_rank() -> int:
    """The rank that a launcher gave this process, else its number among the workers of `map(num_proc=...)`."""
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    from multiprocess import current_process

    identity: tuple[int, ...] = current_process()._identity
    return identity[0] - 1 if identity else 0
