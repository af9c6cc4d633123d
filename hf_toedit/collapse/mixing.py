"""What each generation trains on, as functions on `datasets.Dataset`, for a training loop of your own.

    generations = [human]
    for number in range(1, 6):
        model = train(accumulate_subsample(generations, n=10_000, seed=0))
        generations.append(sample(model))

`generations` always begins with the human rows, followed by the rows of each generation, oldest first. The functions
choose rows as the workflows of the same names do in a simulation. They do it by index, without copying; only `toedit`
writes new rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import Generator

from ..editing.checks import checked_integer
from ..errors import ConfigError, RowError
from .generations import rng_of
from .setting import Mixing, check_enough
from .workflows import Accumulate, AccumulateSubsample, Mixture, Replace

if TYPE_CHECKING:
    from datasets import Dataset

    from ..editing.config import ToEditConfig

MOST_NAMED = 8


class DatasetMixing(Mixing["Dataset"]):
    """Pools and subsamples datasets without copying their rows."""

    def num_rows(self, rows: Dataset) -> int:
        return len(rows)

    def pool(self, parts: Sequence[Dataset]) -> Dataset:
        from datasets import concatenate_datasets

        return parts[0] if len(parts) == 1 else concatenate_datasets(list(parts))

    def subsample(self, parts: Sequence[Dataset], n: int, rng: Generator) -> Dataset:
        rows = self.pool(parts)
        check_enough(n, len(rows))
        return rows.select(np.sort(rng.choice(len(rows), n, replace=False)))


def replace(generations: Sequence[Dataset]) -> Dataset:
    """The rows of the latest generation alone: the workflow that collapses (Shumailov et al., arXiv 2305.17493).

    Raises RowError, as all functions here do, for anything but a list of datasets with the same columns.
    """
    return Replace().training_rows(DatasetMixing(), checked(generations), 0, rng_of(0))


def accumulate(generations: Sequence[Dataset]) -> Dataset:
    """All rows so far, human and synthetic (Gerstgrasser et al., arXiv 2404.01413)."""
    return Accumulate().training_rows(DatasetMixing(), checked(generations), 0, rng_of(0))


def accumulate_subsample(generations: Sequence[Dataset], n: int, seed: int | Generator = 0) -> Dataset:
    """n of all rows so far, at random without replacement (Kazdan et al., arXiv 2410.16713).

    seed: may stay the same, and each generation still gets other rows. A Generator is used as it is.

    Raises ConfigError if there are fewer than n rows.
    """
    n = checked_integer("n", n, 1)
    rng = as_rng(seed, len(checked(generations)))
    return AccumulateSubsample().training_rows(DatasetMixing(), generations, n, rng)


def mixture(
    human: Dataset,
    synthetic: Dataset,
    *,
    synthetic_share: float | None = None,
    n: int | None = None,
    seed: int | Generator = 0,
) -> Dataset:
    """Human and synthetic rows in given shares (partially synthetic in Seddik et al., arXiv 2404.05090).

    synthetic_share: the share of synthetic rows among the n, in [0, 1]. None: all rows of both.
    n: by default, as many rows as these shares allow.
    seed: change it in each generation to choose other human rows.

    Raises ConfigError if there are too few rows of either kind.
    """
    human, synthetic = checked([human, synthetic])
    workflow = Mixture(synthetic_share)
    if synthetic_share is None:
        if n is not None:
            raise ConfigError(f"n={n} needs a share: set synthetic_share=, such as 0.5, or leave n out")
        n = len(human) + len(synthetic)
    if n is None:
        n = largest_mixture(len(human), len(synthetic), synthetic_share or 0.0)
    n = checked_integer("n", n, 1)
    return workflow.training_rows(DatasetMixing(), [human, synthetic], n, as_rng(seed))


def toedit(
    generations: Sequence[Dataset],
    prior: Any,
    config: ToEditConfig | Mapping[str, Any] | None = None,
    *,
    anew: bool = False,
    **options: Any,
) -> Dataset:
    """The latest generation, edited by a model: human rows in which each generation resamples tokens (Zhu et al.).

        generations.append(toedit(generations, (model, tokenizer)))

    generations: the human rows, then what this function returned for each generation so far. Each one is edited with
        `generation` raised by one, so that every edit makes draws of its own.
    prior, config: as for ToEditTransform. options: its further arguments, such as `columns`, and fields of the config.
    anew: edit the human rows each time, instead of the latest generation, so that edits don't add up.

    The result has the columns of the human rows. Raises ConfigError, and what ToEditTransform raises.
    """
    from ..transform import ToEditTransform

    rows = checked(generations)[0 if anew else -1]
    transform = ToEditTransform(prior, config, stats_column=None, **options)
    generation = transform.config.generation + len(generations) - 1
    transform.config = dataclasses.replace(transform.config, generation=generation)
    return rows.map(transform, batched=True, features=rows.features)


def largest_mixture(num_human: int, num_synthetic: int, synthetic_share: float) -> int:
    """The largest number of rows that a mixture with this share can have."""
    of_human = num_human / (1 - synthetic_share) if synthetic_share < 1 else math.inf
    of_synthetic = num_synthetic / synthetic_share if synthetic_share > 0 else math.inf
    return int(min(of_human, of_synthetic))


def as_rng(seed: int | Generator, *numbers: int) -> Generator:
    if isinstance(seed, Generator):
        return seed
    return rng_of(checked_integer("seed", seed, 0), *numbers)


def checked(generations: Sequence[Dataset]) -> list[Dataset]:
    """The datasets, if they can be joined. Raises RowError, which says which one can't, and why."""
    from datasets import Dataset

    if isinstance(generations, Dataset):
        raise RowError("generations is one dataset: pass a list that begins with the human rows, [human, synthetic]")
    if not isinstance(generations, (list, tuple)) or not generations:
        raise RowError("generations must be a list that begins with the human rows: [human, synthetic, ...]")
    for number, rows in enumerate(generations):
        _check_dataset(rows, _name(number))
        _check_columns(rows, generations[0], _name(number))
    return list(generations)


def _name(number: int) -> str:
    return f"synthetic dataset {number}" if number else "the human dataset"


def _check_dataset(rows: object, name: str) -> None:
    from datasets import Dataset, DatasetDict, IterableDataset

    if isinstance(rows, DatasetDict):
        splits = ", ".join(map(repr, list(rows)[:MOST_NAMED]))
        raise RowError(f"{name} is a DatasetDict: choose one of its splits ({splits}), such as dataset['train']")
    if isinstance(rows, IterableDataset):
        raise RowError(
            f"{name} is a stream, whose rows can't be chosen by number: load it without streaming=True, or collect it "
            "with Dataset.from_generator"
        )
    if not isinstance(rows, Dataset):
        raise RowError(f"{name} must be a datasets.Dataset, not {type(rows).__name__}")
    if len(rows) == 0:
        raise RowError(f"{name} has no rows")


def _check_columns(rows: Dataset, human: Dataset, name: str) -> None:
    ours, theirs = rows.features, human.features
    for missing in (column for column in theirs if column not in ours):
        raise RowError(f"{name} has no column {missing!r}, which the human dataset has: {_fix(ours, theirs)}")
    for extra in (column for column in ours if column not in theirs):
        raise RowError(f"the human dataset has no column {extra!r}, which {name} has: {_fix(ours, theirs)}")
    for column, feature in theirs.items():
        if ours[column] != feature:
            raise RowError(
                f"column {column!r} of {name} has another type than in the human dataset ({_type(ours[column])}, "
                f"not {_type(feature)}): synthetic.cast(human.features)"
            )


def _fix(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    both = [column for column in theirs if column in ours]
    return f"keep the columns of both, select_columns({both})" if both else "rename its columns"


def _type(feature: Any) -> str:
    return str(getattr(feature, "dtype", feature))
