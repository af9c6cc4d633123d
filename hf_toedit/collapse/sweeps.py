"""Many simulations at once: settings by workflows by sizes, in one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .extra import extra
from .processes import in_processes
from .setting import Setting
from .simulation import Simulation, simulate
from .workflows import Workflow, label_of

if TYPE_CHECKING:
    from pandas import DataFrame

Cell = tuple[Setting[Any, Any], Workflow, int]


def sweep(
    settings: Sequence[Setting[Any, Any]],
    workflows: Sequence[Workflow],
    sizes: Sequence[int],
    *,
    generations: int,
    runs: int = 100,
    seed: int = 0,
    workers: int = 1,
) -> DataFrame:
    """`simulate(setting, workflow, n=size, ...).table()` of each combination, one below the other.

    The first columns name the combination: `setting`, `workflow` and `n`. workers: processes, which share the
    combinations; their number does not change the table.
    """
    cells: list[Cell] = list(product(settings, workflows, sizes))
    if not cells:
        raise ConfigError("a sweep needs at least one setting, one workflow and one size")
    if workers < 1:
        raise ConfigError(f"workers={workers} must be 1 or more")
    longest_first = sorted(range(len(cells)), key=lambda index: -cells[index][2])
    work = partial(_simulate_cell, generations=generations, runs=runs, seed=seed)
    if workers == 1:
        found = {index: work(cells[index]) for index in longest_first}
    else:
        jobs = [(cells[index],) for index in longest_first]
        with in_processes(work, jobs, workers, _one_thread) as simulations:
            found = dict(zip(longest_first, simulations, strict=True))

    def tables() -> Iterator[DataFrame]:
        for index, (setting, workflow, n) in enumerate(cells):
            which = {"setting": repr(setting), "workflow": label_of(workflow), "n": n}
            table = found[index].table()
            yield table.assign(**which)[[*which, *table.columns]]

    return extra("pandas").concat(tables(), ignore_index=True)


def _simulate_cell(cell: Cell, generations: int, runs: int, seed: int) -> Simulation:
    setting, workflow, n = cell
    return simulate(setting, workflow, n=n, generations=generations, runs=runs, seed=seed)


def _one_thread() -> None:
    """More threads would get in each other's way."""
    extra("threadpoolctl").threadpool_limits(1)
