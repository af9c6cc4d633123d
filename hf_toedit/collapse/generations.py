"""One generation after another: what simulating and training language models have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.random import Generator

from ..errors import ConfigError
from .setting import Mergeable, ModelT, RowsT, Setting
from .workflows import Accumulate, Workflow


@dataclass(frozen=True)
class State(Generic[ModelT, RowsT]):
    """Where a run stands: the number of its latest generation (1 is trained on real rows), that generation's model,
    and as much of the history as later generations need.
    """

    generation: int
    model: ModelT
    history: list[RowsT]


def rng_of(seed: int, *numbers: int) -> Generator:
    """The random numbers of a generation, independent of those of other generations."""
    if seed < 0:
        raise ConfigError(f"seed={seed} must be 0 or more")
    return np.random.default_rng((seed, *numbers))


def first_generation(
    setting: Setting[ModelT, RowsT], truth: ModelT, num_real: int, rng: Generator
) -> State[ModelT, RowsT]:
    real = setting.sample(truth, num_real, rng)
    return State(1, setting.fit(real, truth), [real])


def next_generation(
    setting: Setting[ModelT, RowsT],
    workflow: Workflow,
    state: State[ModelT, RowsT],
    truth: ModelT,
    n: int,
    rng: Generator,
) -> State[ModelT, RowsT]:
    synthetic = workflow.synthesize(setting, state.model, state.history, n, state.generation, rng)
    if isinstance(workflow, Accumulate) and isinstance(setting, Mergeable):  # as if fitted to all rows, but cheaper
        merged = setting.merge(state.model, setting.fit(synthetic, truth))
        return State(state.generation + 1, merged, [synthetic])
    history = [*state.history, synthetic]
    model = setting.fit(workflow.training_rows(setting, history, n, rng), truth)
    return State(state.generation + 1, model, workflow.kept(history))
