"""What synthetic rows are worth beside real ones (Kazdan et al., arXiv 2410.16713, Figure 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from ..types import FloatArray
from .extra import extra
from .generations import rng_of
from .setting import Setting
from .simulation import mean_interval

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_AT_A_TIME = 100  # runs


def cardinality(
    setting: Setting[Any, Any],
    *,
    num_real: Sequence[int],
    num_synthetic: Sequence[int],
    generator_rows: int | None = None,
    runs: int = 100,
    seed: int = 0,
) -> DataFrame:
    """How far models drift that are trained on some real rows and some rows of one generator, as a table.

    A row per measure and pair of numbers: `measure`, `num_real`, `num_synthetic`, `mean`, `low`, `high` (99%), and
    `change`, `change_low`, `change_high`: what the synthetic rows add to the measure, run by run; NaN where there is
    no model of the real rows alone to compare with.

    generator_rows: real rows that the generator is trained on, by default the largest of num_real. The real rows of
    each model are some of these, at random, and the same ones whatever its number of synthetic rows.
    """
    generator_rows = max(num_real, default=1) if generator_rows is None else generator_rows
    check(num_real, num_synthetic, generator_rows, runs)
    chunks = [min(MOST_AT_A_TIME, runs - start) for start in range(0, runs, MOST_AT_A_TIME)]
    found = [
        _distances(setting, num_real, num_synthetic, generator_rows, size, (seed, chunk))
        for chunk, size in enumerate(chunks)
    ]

    def lines() -> Iterator[dict[str, Any]]:
        for real, synthetic in found[0]:
            for measure in found[0][real, synthetic]:
                values_R = np.concatenate([part[real, synthetic][measure] for part in found])
                mean, low, high = mean_interval(values_R)
                line = {"measure": measure, "num_real": real, "num_synthetic": synthetic}
                line |= {"mean": mean, "low": low, "high": high}
                if (real, 0) in found[0]:
                    alone_R = np.concatenate([part[real, 0][measure] for part in found])
                    change = mean_interval(values_R - alone_R)
                    line |= dict(zip(("change", "change_low", "change_high"), change, strict=True))
                yield line

    table = extra("pandas").DataFrame(lines())
    return table.sort_values(["measure", "num_real", "num_synthetic"], ignore_index=True)


def _distances(
    setting: Setting[Any, Any],
    num_real: Sequence[int],
    num_synthetic: Sequence[int],
    generator_rows: int,
    runs: int,
    key: tuple[int, int],
) -> dict[tuple[int, int], dict[str, FloatArray]]:
    """The measures of some runs by the numbers of rows, with one value per run."""
    truth = setting.truth(runs, generator_rows, rng_of(*key, 0))
    real = setting.sample(truth, generator_rows, rng_of(*key, 1))
    generator = setting.fit(real, truth)
    synthetic = setting.sample(generator, max(num_synthetic), rng_of(*key, 2)) if max(num_synthetic) else None
    found = {}
    for r in num_real:
        for s in num_synthetic:
            parts = [setting.subsample([real], r, rng_of(*key, 3, r))] if r else []
            if s:
                parts.append(setting.subsample([synthetic], s, rng_of(*key, 4, s)))
            if parts:
                found[r, s] = setting.distance(setting.fit(setting.pool(parts), truth), truth, generator)
    return found


def check(num_real: Sequence[int], num_synthetic: Sequence[int], generator_rows: int, runs: int) -> None:
    if not num_real or not num_synthetic or min(*num_real, *num_synthetic) < 0:
        raise ConfigError("num_real and num_synthetic need numbers that are 0 or more")
    if max(*num_real, *num_synthetic) == 0:
        raise ConfigError("there is nothing to train on: add a number of rows above 0")
    if generator_rows < max(1, *num_real):
        raise ConfigError(f"generator_rows={generator_rows} must be at least the largest of num_real, {max(num_real)}")
    if runs < 1:
        raise ConfigError(f"runs={runs} must be 1 or more")
