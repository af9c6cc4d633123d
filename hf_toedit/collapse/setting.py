"""What a setting is: data to sample, a model to fit to it, and measures of how far the model has drifted.

Arrays begin with a dimension R, the runs, which are independent and computed together. N rows, V outcomes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..errors import ConfigError
from ..types import FloatArray, IntArray

MOST_COUNTED = 10**9  # numpy's hypergeometric distribution takes fewer
ModelT = TypeVar("ModelT")
RowsT = TypeVar("RowsT")
Rows = NDArray[Any]


class Mixing(ABC, Generic[RowsT]):
    """How to combine rows of any kind: all that a workflow does to rows by itself."""

    @abstractmethod
    def num_rows(self, rows: RowsT) -> int:
        """How many rows these are, in each run."""

    @abstractmethod
    def pool(self, parts: Sequence[RowsT]) -> RowsT:
        """All rows of all parts."""

    @abstractmethod
    def subsample(self, parts: Sequence[RowsT], n: int, rng: Generator) -> RowsT:
        """n of the rows of all parts, at random without replacement."""


class Setting(Mixing[RowsT], Generic[ModelT, RowsT]):
    """What is sampled and fitted, generation after generation. To add a setting, write a frozen dataclass that inherits
    from `RowSetting` and defines `truth`, `sample`, `fit` and `distance`; every workflow then works with it.
    """

    one_run_at_a_time: ClassVar[bool] = False  # or as many together as memory allows

    @abstractmethod
    def truth(self, runs: int, num_real: int, rng: Generator) -> ModelT:
        """What the real data comes from, for each run: a model that `sample` takes."""

    @abstractmethod
    def sample(self, model: ModelT, n: int, rng: Generator) -> RowsT:
        """n rows from the model, for each run."""

    @abstractmethod
    def fit(self, rows: RowsT, truth: ModelT) -> ModelT:
        """The model fitted to the rows. truth: in case models keep something of it, such as a fixed design."""

    @abstractmethod
    def distance(self, model: ModelT, truth: ModelT, first: ModelT) -> dict[str, FloatArray]:
        """How far the model has drifted: the values of each measure, one per run.

        first: the model of generation 1, which was fitted to the real rows.
        """

    @abstractmethod
    def edit(self, rows: RowsT, model: ModelT, share: float | None, start: int | None, rng: Generator) -> RowsT:
        """The rows, a share of them resampled from the model: those from number `start` on, or at random if it is None.

        share: None if the setting itself chooses what to resample.
        """

    def expected(self, workflow: Any, n: int, num_real: int, generations: int) -> dict[str, FloatArray]:
        """The expected values of each measure in generations 1, 2, ..., where they are known."""
        return {}


@runtime_checkable
class Mergeable(Protocol):
    """A setting whose models can be merged, so that accumulating data doesn't mean fitting all of it again."""

    def merge(self, one: Any, other: Any) -> Any:
        """The model fitted to the rows of both models."""


class RowSetting(Setting[ModelT, Rows]):
    """A setting whose rows are arrays of shape [R, N, ...]."""

    def num_rows(self, rows: Rows) -> int:
        return int(rows.shape[1])

    def pool(self, parts: Sequence[Rows]) -> Rows:
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def subsample(self, parts: Sequence[Rows], n: int, rng: Generator) -> Rows:
        num_rows = sum(rows.shape[1] for rows in parts)
        check_enough(n, num_rows)
        runs = range(len(parts[0]))
        return gathered(parts, np.stack([rng.choice(num_rows, n, replace=False) for _ in runs]))

    def edit(self, rows: Rows, model: ModelT, share: float | None, start: int | None, rng: Generator) -> Rows:
        num_rows = self.num_rows(rows)
        num_edited = round(needed(share) * num_rows)
        if start is None:
            edited_RN = rng.random(rows.shape[:2]).argsort(axis=1) < num_edited
        else:
            edited_RN = np.broadcast_to((np.arange(num_rows) - start) % num_rows < num_edited, rows.shape[:2])
        resampled = self.sample(model, num_rows, rng)
        return np.where(edited_RN.reshape(*edited_RN.shape, *[1] * (rows.ndim - 2)), resampled, rows)


def gathered(parts: Sequence[Rows], chosen_RN: IntArray) -> Rows:
    """`np.concatenate(parts, axis=1)[r, chosen_RN[r]]` for each run r, without a copy of all parts."""
    chosen = chosen_RN.ravel()
    order = chosen.argsort()
    ends = np.cumsum([rows.shape[1] for rows in parts])
    bounds = np.searchsorted(chosen[order], ends)
    found = np.empty((len(chosen), *parts[0].shape[2:]), parts[0].dtype)
    for part, rows in enumerate(parts):
        here = order[bounds[part - 1] if part else 0 : bounds[part]]
        found[here] = rows[here // chosen_RN.shape[1], chosen[here] - (ends[part] - rows.shape[1])]
    return found.reshape(*chosen_RN.shape, *found.shape[1:])


class CountSetting(Setting[ModelT, IntArray]):
    """A setting whose rows are outcomes, kept as counts of shape [R, ..., V]: equal rows are one number."""

    def num_rows(self, rows: IntArray) -> int:
        return int(rows.sum(axis=-1).flat[0])

    def pool(self, parts: Sequence[IntArray]) -> IntArray:
        total: IntArray = np.sum(parts, axis=0, dtype=np.int64)
        return total

    def subsample(self, parts: Sequence[IntArray], n: int, rng: Generator) -> IntArray:
        return subsampled(self.pool(parts), n, rng)

    def edit(self, rows: IntArray, model: ModelT, share: float | None, start: int | None, rng: Generator) -> IntArray:
        if start is not None:
            raise ConfigError("counted outcomes have no order: set overlapping=True")
        num_rows = self.num_rows(rows)
        num_edited = round(needed(share) * num_rows)
        return subsampled(rows, num_rows - num_edited, rng) + self.sample(model, num_edited, rng)


def subsampled(counts: IntArray, n: int, rng: Generator) -> IntArray:
    """Counts of n of the counted rows, at random without replacement, along the last axis."""
    check_enough(n, int(counts.sum(axis=-1).min(initial=n)))
    remaining = counts.sum(axis=-1)
    if (remaining == n).all():
        return counts
    if remaining.max(initial=0) >= MOST_COUNTED:
        raise ConfigError(
            f"can't take rows without replacement of {remaining.max():,}, only of fewer than {MOST_COUNTED:,}: "
            "lower n, num_real or generations"
        )
    missing = np.full_like(remaining, n)
    chosen = np.zeros_like(counts)
    for outcome in np.flatnonzero(counts.any(axis=tuple(range(counts.ndim - 1)))):
        good = counts[..., outcome]
        remaining = remaining - good
        chosen[..., outcome] = rng.hypergeometric(good, remaining, missing)
        missing = missing - chosen[..., outcome]
    return chosen


def check_enough(n: int, num_rows: int) -> None:
    if n > num_rows:
        raise ConfigError(f"can't take {n:,} of {num_rows:,} rows without replacement: lower n, or add real rows")


def needed(share: float | None) -> float:
    if share is None:
        raise ConfigError("this setting needs to know how many rows to edit: set share=, such as 0.125")
    return share
