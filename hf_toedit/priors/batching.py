"""Scores of many requests from a model in this process: batches of the backbone, and one queue for the head.

Shape suffixes: D hidden, V vocabulary, E requested positions, K candidates, X either D or V (see SplitModel.rows).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import PriorError
from ..types import FloatArray, IntArray, ScoreRequest, Scores
from .split_model import TILE, SplitModel

if TYPE_CHECKING:
    import torch


def score_in_batches(
    model: SplitModel, requests: Sequence[ScoreRequest], top_k: int, limit: int | None
) -> list[Scores]:
    """Scores of the requests, of which there is at least one, in order. limit: the model's window."""
    order: list[int] = []
    head = _HeadQueue(model, top_k)
    for batch, rows_EX in _run_backbone(model, requests, limit):
        order += batch
        head.add(rows_EX, np.concatenate([requests[i].input_ids[requests[i].positions] for i in batch]))
    # The head's results stand one after the other, by `order`: cut them into requests, and sort these.
    ends = np.cumsum([len(requests[i].positions) for i in order])[:-1]
    arrays_of_requests = zip(*(np.split(array, ends) for array in head.finish()), strict=True)
    scores_by_index = {
        i: Scores(logprob_E, ids_EK, logprob_EK, model.logit_error)
        for i, (logprob_E, ids_EK, logprob_EK) in zip(order, arrays_of_requests, strict=True)
    }
    return [scores_by_index[i] for i in range(len(requests))]


def hidden_in_batches(model: SplitModel, requests: Sequence[ScoreRequest], limit: int | None) -> FloatArray:
    """The last hidden states that predict the requested positions, in order, in float64. Shape [E, D].

    limit: the model's window. Raises PriorError for a model that runs whole: it gives nothing but logits.
    """
    if not model.is_split:
        raise PriorError(f"{type(model.model).__name__} gives no hidden states apart from its head: use another model")
    hidden_by_index: dict[int, FloatArray] = {}
    for batch, rows_EX in _run_backbone(model, requests, limit):
        ends = np.cumsum([len(requests[i].positions) for i in batch])[:-1]
        hidden_by_index.update(zip(batch, np.split(rows_EX.cpu().double().numpy(), ends), strict=True))
    return np.concatenate([hidden_by_index[i] for i in range(len(requests))])


def _run_backbone(
    model: SplitModel, requests: Sequence[ScoreRequest], limit: int | None
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield batches: indices of requests, and the rows that the head needs of them. The longest requests go first."""
    import torch

    widths = [_width(request, limit) for request in requests]
    order = sorted(range(len(requests)), key=lambda i: -widths[i])
    start = 0
    while start < len(order):
        width = widths[order[start]]
        fitting = order[start : start + max(1, model.batch_tokens // width)]
        if model.is_on_cpu:  # one width only, see _width; elsewhere padding to the widest wastes little
            fitting = [i for i in fitting if widths[i] == width]
        try:
            with torch.no_grad():
                rows_EX = model.rows([requests[i] for i in fitting], width)
        except RuntimeError as error:
            model.batch_tokens = width * _halve(len(fitting), f"a window of {width} tokens", error)
            continue
        yield fitting, rows_EX
        start += len(fitting)


def _width(request: ScoreRequest, limit: int | None) -> int:
    """The padded length of a request, in whole tiles. Its last token is only a target: the model does not read it.

    The width depends on the request alone. So, on CPUs, every row goes through the same matrix kernels, and its numbers
    do not depend, to the last bit, on what else is in the batch.
    """
    tiles = max(1, -(-(len(request.input_ids) - 1) // TILE))
    return min(tiles * TILE, limit or tiles * TILE)


class _HeadQueue:
    """Collects the rows of several batches and runs the head on many at once, so that its weights are read less often.

    rows, targets: what waits for the head. results: what it gave, in the order of the rows (see SplitModel.logprobs).
    """

    def __init__(self, model: SplitModel, top_k: int) -> None:
        self.model, self.top_k = model, top_k
        self.rows: list[torch.Tensor] = []
        self.targets: list[IntArray] = []
        self.results: list[tuple[torch.Tensor, ...]] = []

    def add(self, rows_EX: torch.Tensor, target_E: IntArray) -> None:
        self.rows.append(rows_EX)
        self.targets.append(target_E)
        if sum(map(len, self.rows)) >= self.model.head_rows:
            self._run(self.model.head_rows)

    def finish(self) -> tuple[FloatArray, IntArray, FloatArray]:
        """Run the head on what waits, and return all results. Only here does the CPU wait for the accelerator."""
        import torch

        self._run(1)
        logprob_E, ids_EK, logprob_EK = (torch.cat(column).cpu() for column in zip(*self.results, strict=True))
        return logprob_E.double().numpy(), ids_EK.numpy(), logprob_EK.double().numpy()

    def _run(self, at_least: int) -> None:
        """Run the head until fewer than `at_least` rows wait."""
        import torch

        rows_EX, target_E = torch.cat(self.rows), torch.from_numpy(np.concatenate(self.targets)).to(self.rows[0].device)
        while len(rows_EX) >= at_least or not self.results:
            size = min(len(rows_EX), self.model.head_rows)
            try:
                with torch.no_grad():
                    self.results.append(self.model.logprobs(rows_EX[:size], target_E[:size], self.top_k))
            except RuntimeError as error:
                self.model.head_rows = _halve(size, "the logits of one token", error)
                continue
            rows_EX, target_E = rows_EX[size:], target_E[size:]
        self.rows, self.targets = [rows_EX], [target_E.cpu().numpy()]


def _halve(size: int, least: str, error: RuntimeError) -> int:
    """Half of a batch size for which memory ran out. Raises PriorError for a batch of one, and any other error.

    least: what a batch of one is, for the message.
    """
    import torch

    # On a CPU, torch has no class of its own for this.
    if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
        raise error
    if size < 2:
        raise PriorError(
            f"not enough memory for {least}: set a smaller max_length, a smaller dtype or another device"
        ) from error
    return size // 2
