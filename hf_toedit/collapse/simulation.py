"""A workflow in a setting, many times over: `simulate` and its table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..errors import ConfigError, ToEditError, any_of, one_clear_line
from ..types import FloatArray
from .extra import extra
from .generations import first_generation, next_generation, rng_of
from .processes import in_processes
from .setting import Setting
from .workflows import Workflow, label_of

if TYPE_CHECKING:
    from pandas import DataFrame

CONFIDENCE = 0.99
CHUNK_BYTES = 2**28  # of rows that are in memory at a time; part of what makes equal seeds give equal tables
MOST_AT_A_TIME = 100  # runs
FIX = "lower n, num_real, generations, workers or the size of the setting"


@dataclass(frozen=True)
class Simulation:
    """What a simulation found.

    values_RG: for each measure, a number per run and generation; the first is that of generation 1, trained on real
    rows. expected_G: closed forms, where known.
    """

    setting: Setting[Any, Any]
    workflow: Workflow
    n: int
    num_real: int
    seed: int
    values_RG: dict[str, FloatArray]
    expected_G: dict[str, FloatArray]

    @property
    def title(self) -> str:
        """The setting, with its short fields, and the sizes."""
        fields: dict[str, Any] = vars(self.setting) if is_dataclass(self.setting) else {}
        given = ", ".join(f"{name}={value}" for name, value in fields.items() if isinstance(value, (str, int, float)))
        num_runs = len(next(iter(self.values_RG.values())))
        return f"{type(self.setting).__name__}({given}), n={self.n:,}, {num_runs:,} runs"

    def interval(self, measure: str, confidence: float = CONFIDENCE) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The mean over the runs and the bounds of its interval (Student's t), per generation.

        Too narrow where a few runs dominate the mean, as in the variance of Gaussians after many replacements:
        after 30, with n = 10 and 100 runs, only two in three of the 99% intervals contain the expected value.
        """
        return mean_interval(self.values_RG[measure], confidence)

    def table(self, confidence: float = CONFIDENCE) -> DataFrame:
        """A row per measure and generation: `measure`, `generation`, `mean`, `low`, `high`, `expected`."""
        pandas = extra("pandas")

        def frames() -> Iterator[DataFrame]:
            for measure in self.values_RG:
                mean_G, low_G, high_G = self.interval(measure, confidence)
                expected_G = self.expected_G.get(measure, np.full_like(mean_G, np.nan))
                columns = {"mean": mean_G, "low": low_G, "high": high_G, "expected": expected_G}
                yield pandas.DataFrame({"measure": measure, "generation": range(1, len(mean_G) + 1), **columns})

        return pandas.concat(frames(), ignore_index=True)


def table_of(simulations: Sequence[Simulation], confidence: float = CONFIDENCE) -> DataFrame:
    """The tables of several simulations in one, with the label of each workflow in the first column, `workflow`."""
    frames = [simulation.table(confidence) for simulation in simulations]
    for frame, simulation in zip(frames, simulations, strict=True):
        frame.insert(0, "workflow", label_of(simulation.workflow))
    return extra("pandas").concat(frames, ignore_index=True)


def mean_interval(values: FloatArray, confidence: float = CONFIDENCE) -> tuple[Any, Any, Any]:
    """The mean over the first dimension, the runs, and the bounds of its interval (Student's t)."""
    mean = values.mean(axis=0)
    if len(values) < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    half = extra("scipy.stats").t.ppf((1 + confidence) / 2, len(values) - 1) * error
    return mean, mean - half, mean + half


def simulate(
    setting: Setting[Any, Any],
    workflow: Workflow,
    *,
    n: int,
    generations: int,
    num_real: int | None = None,
    runs: int = 100,
    seed: int = 0,
    workers: int = 1,
    progress: bool = False,
) -> Simulation:
    """Train `generations` models one after the other, in `runs` independent runs.

    n: synthetic rows from each model. num_real: rows of real data, by default n. workers: processes; a script
    that wants several calls this below `if __name__ == "__main__":`. Equal seeds give equal results, whatever the
    number of workers; workflows with equal seeds start from the same real rows. progress: show a bar on stderr.

    Raises ConfigError for sizes out of range, and ToEditError if the memory is full or a worker is killed.
    """
    for given in (setting, workflow):
        if isinstance(given, type):
            raise ConfigError(f"{given.__name__} is a class: give an instance, such as {given.__name__}()")
    num_real = n if num_real is None else num_real
    counts = {"n": n, "generations": generations, "num_real": num_real, "runs": runs, "workers": workers}
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name}={value} must be 1 or more")
    work = partial(_simulate_chunk, setting, workflow, n, num_real, generations, seed)
    total, title = runs * (generations - 1), label_of(workflow)
    full = one_clear_line(ToEditError, "the memory is full", FIX, catches=any_of(MemoryError))
    with full, tqdm(total=total, unit=" models", desc=title, disable=not progress) as bar:
        sizes = list(_chunks(setting, max(n, num_real) * generations, runs))
        if workers == 1 or len(sizes) == 1:
            found = [work(chunk, size, bar) for chunk, size in enumerate(sizes)]
        else:
            found = []
            with in_processes(work, [*enumerate(sizes)], workers) as parts:
                for part, size in zip(parts, sizes, strict=True):
                    found.append(part)
                    bar.update(size * (generations - 1))
    values = {measure: np.concatenate([part[measure] for part in found]) for measure in found[0]}
    expected = setting.expected(workflow, n, num_real, generations)
    return Simulation(setting, workflow, n, num_real, seed, values, expected)


def _chunks(setting: Setting[Any, Any], num_rows: int, runs: int) -> Iterator[int]:
    """How many runs are computed at a time. It depends only on the setting and the number of rows."""
    most = 1 if setting.one_run_at_a_time else _most_at_a_time(setting, num_rows)
    for start in range(0, runs, most):
        yield min(most, runs - start)


def _most_at_a_time(setting: Setting[Any, Any], num_rows: int) -> int:
    rng = rng_of(0)
    model = setting.truth(1, 1000, rng)
    row_bytes = setting.sample(model, 1000, rng).nbytes / 1000
    model_bytes = sum(getattr(value, "nbytes", 0) for value in getattr(model, "__dict__", {}).values())
    return int(np.clip(CHUNK_BYTES // max(row_bytes * num_rows, model_bytes), 1, MOST_AT_A_TIME))


def _simulate_chunk(
    setting: Setting[Any, Any],
    workflow: Workflow,
    n: int,
    num_real: int,
    generations: int,
    seed: int,
    chunk: int,
    runs: int,
    bar: tqdm | None = None,
) -> dict[str, FloatArray]:
    """The measures of some runs: for each, an array of shape [R, G]."""
    truth = setting.truth(runs, num_real, rng_of(seed, chunk, 0))
    state = first_generation(setting, truth, num_real, rng_of(seed, chunk, 1))
    first = state.model
    found = [setting.distance(first, truth, first)]
    while state.generation < generations:
        rng = rng_of(seed, chunk, state.generation + 1)
        state = next_generation(setting, workflow, state, truth, n, rng)
        found.append(setting.distance(state.model, truth, first))
        if bar is not None:
            bar.update(runs)
    return {measure: np.stack([distances[measure] for distances in found], axis=1) for measure in found[0]}
