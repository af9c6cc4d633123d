"""Selective losses: which tokens stay in the loss, judged by how likely one or two models find them.

Shape suffixes: T tokens of a row, E scored positions of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypedDict

import numpy as np

from ..display import as_call
from ..errors import ConfigError, nearest
from ..statuses import Status
from ..types import BoolArray, FloatArray, IntArray, Prior
from .cells import Cell, TokenRow, encode
from .checks import checked_number
from .logprobs import Logprobs, score_cells
from .stats import TokenStats, probability_histogram
from .tokenization import Tokenization

DIGITS = 4  # of the excess in nats; FLOAT32_ERROR, at which rounding begins


class SelectionFields(TypedDict, total=False):
    """The fields of LossSelection as keyword arguments, for code completion and type checkers."""

    low: float | None
    high: float | None
    share: float | None
    min_excess: float | None


@dataclasses.dataclass(frozen=True)
class LossSelection:
    """Which tokens stay in the loss: those that meet every condition that is set. At least one must be.

        LossSelection(high=0.99)  # truncated cross-entropy (ForTIFAI, arXiv 2509.08972)
        LossSelection(share=0.6)  # of each row; Rho-1 (arXiv 2404.07965) takes it of a batch

    low, high: keep tokens of probability low <= p < high under the prior. Both in [0, 1].
    share: of the n scored tokens of each row, keep the ceil(share * n) that have the largest excess, the earlier one
        of two that are equal to four decimals. In (0, 1].
    min_excess: keep tokens whose excess is at least this, in nats.

    The excess of a token is log p(prior) - log p(base): how much better a reference model, the prior, predicts it than
    a base model. It is the excess loss of Rho-1 (Section 2.2), whose base is the model in training, and the score of
    token cleaning (arXiv 2502.01968). Rho-1 ranks the tokens of a batch, and token cleaning those of the whole dataset.
    `share` ranks those of a row, so that batch sizes, the order of rows and the number of processes make no difference.
    For a share of the whole dataset, SelectiveLabels.fit finds the `min_excess`.

    Raises ConfigError if a value is out of range, or if there is no condition.
    """

    low: float | None = None
    high: float | None = None
    share: float | None = None
    min_excess: float | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high", "share"):
            self._check_number(name, 0.0, 1.0, above=name != "low")
        self._check_number("min_excess")
        if self.low == 0:
            object.__setattr__(self, "low", None)  # so that equal selections are equal
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ConfigError(f"low={self.low:g} must be below high={self.high:g}, or no token stays in the loss")
        if not self.to_dict():
            raise ConfigError("this keeps every token: set high=, such as 0.99, or another field of LossSelection")

    def _check_number(self, name: str, *bounds: float, above: bool = False) -> None:
        value = getattr(self, name)
        if value is not None:
            object.__setattr__(self, name, checked_number(name, value, *bounds, above=above))

    def __repr__(self) -> str:
        return as_call(self)

    @property
    def compares(self) -> bool:
        """Whether a base is needed, to compare the prior with."""
        return self.share is not None or self.min_excess is not None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> LossSelection:
        """Build a selection from a mapping. An unknown field is an error that names the nearest known one."""
        if not isinstance(fields, Mapping):
            kind = type(fields).__name__
            raise ConfigError(f"a selection is a mapping of fields, such as {{'high': 0.99}}, not {kind}")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise ConfigError(f"unknown field {name!r} of LossSelection{nearest(str(name), known)}")
        return cls(**fields)

    def to_dict(self) -> dict[str, float]:
        """The conditions that are set, JSON-ready; `from_dict` is its inverse."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def keeps(self, logprob_E: FloatArray, base_logprob_E: FloatArray | None = None) -> BoolArray:
        """Which tokens of one row stay in the loss. Shape [E]. Probabilities are compared as logarithms.

        base_logprob_E: under the base, if `compares`.
        """
        kept_E = np.ones(len(logprob_E), dtype=bool)
        if self.low is not None:
            kept_E &= logprob_E >= math.log(self.low)
        if self.high is not None:
            kept_E &= logprob_E < math.log(self.high)
        if base_logprob_E is not None:
            excess_E = logprob_E - base_logprob_E
            if self.share is not None:
                kept_E &= _is_among_largest(excess_E, self.share)
            if self.min_excess is not None:
                kept_E &= excess_E >= self.min_excess
        return kept_E


def _is_among_largest(value_E: FloatArray, share: float) -> BoolArray:
    """The ceil(share * E) largest values; of equal ones, the first.

    They are compared to DIGITS decimals. Many tokens are certain under both models, and have an excess of 0 but for the
    rounding of the models, which depends on the batch.
    """
    value_E = np.round(value_E, DIGITS)
    largest_E = np.zeros(len(value_E), dtype=bool)
    largest_E[np.argsort(-value_E, kind="stable")[: number_of(share, len(value_E))]] = True
    return largest_E


def number_of(share: float, total: int) -> int:
    """ceil(share * total), with the share as it is written: in floats, 0.7 * 10 is above 7."""
    return math.ceil(Fraction(str(share)) * total)


@dataclasses.dataclass(frozen=True)
class Selected:
    """What a selection does to a row.

    status: `unchanged`, `no_labels` if no token of it is left in the loss, or why it was skipped.
    leaves_T: the tokens that leave the loss; none of a skipped row.
    stats: of the scored tokens; `num_visited_eligible` counts those that leave.
    """

    status: Status
    leaves_T: BoolArray
    stats: TokenStats


class Selector:
    """Selects tokens of documents of ids, with one prior, one selection and, if it compares, a base.

    prior, base: must have the same tokenizer.

    Every token in scope that has a token before it is scored, special ones too. One that has none has no probability
    and is never predicted: its label stays as it is.
    """

    def __init__(self, selection: LossSelection, prior: Prior, base: Prior | None = None) -> None:
        self.selection, self.prior, self.base = selection, prior, base
        self.tokenization = Tokenization(prior.tokenizer)
        self.base_tokenization = self.tokenization if base is None else Tokenization(base.tokenizer)

    def select(self, rows: Sequence[TokenRow], *, check_ids: bool) -> list[Selected]:
        """One result for each row, in order. All rows go to the prior together.

        check_ids: whether to skip rows whose ids do not look like those of the prior's tokenizer.
        """
        scored = self._score(rows, check_ids)
        return [self._selected(row, *parts) for row, parts in zip(rows, scored, strict=True)]

    def excess(self, rows: Sequence[TokenRow], *, check_ids: bool) -> list[tuple[Status, FloatArray]]:
        """The status of each row, in order, and the excess of its scored tokens, shape [E]; none of a skipped row.

        As in `select`, whose conditions don't matter here; there must be a base.
        """
        found = []
        for _, scores, based in self._score(rows, check_ids):
            assert based is not None
            status = scores.status or based.status
            excess_E = np.empty(0) if status else scores.logprob_E - based.logprob_E
            found.append((status or Status.UNCHANGED, excess_E))
        return found

    def _score(self, rows: Sequence[TokenRow], check_ids: bool) -> list[tuple[Cell, Logprobs, Logprobs | None]]:
        """The cell of each row, and its log-probabilities under the prior and under the base."""
        cells = encode(rows, self.tokenization, (), check_ids)
        wanted = [_predicted(row, cell) for row, cell in zip(rows, cells, strict=True)]
        scores = score_cells(self.prior, self.tokenization, cells, wanted)
        based: Sequence[Logprobs | None] = [None] * len(rows)
        if self.base is not None:
            based = score_cells(self.base, self.base_tokenization, cells, wanted)
        return list(zip(cells, scores, based, strict=True))

    def _selected(self, row: TokenRow, cell: Cell, scores: Logprobs, based: Logprobs | None) -> Selected:
        leaves_T = np.zeros(len(row.input_ids_T), dtype=bool)
        if status := scores.status or (based.status if based else None):
            return Selected(status, leaves_T, TokenStats(num_tokens=len(cell.input_ids_T)))
        kept_E = self.selection.keeps(scores.logprob_E, based.logprob_E if based else None)
        leaves_T[np.flatnonzero(row.attention_T)[scores.positions_E[~kept_E]]] = True
        stats = TokenStats(
            num_tokens=len(cell.input_ids_T),
            num_editable=len(kept_E),
            num_scorable=len(kept_E),
            num_visited=len(kept_E),
            num_visited_eligible=int((~kept_E).sum()),
            logprob_sum=float(scores.logprob_E.sum()),
            histogram=probability_histogram(scores.logprob_E),
        )
        return Selected(Status.UNCHANGED if kept_E.any() else Status.NO_LABELS, leaves_T, stats)


def _predicted(row: TokenRow, cell: Cell) -> IntArray:
    """Tokens of a cell that are in scope and have a token before them; none if it is skipped. Shape [E]."""
    in_scope = np.flatnonzero(row.scope_T[row.attention_T])
    return in_scope[:0] if cell.status else in_scope[in_scope > 0]
