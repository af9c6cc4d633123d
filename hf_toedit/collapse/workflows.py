"""What each generation trains on. A workflow does not know which setting it runs."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.random import Generator

from ..errors import ConfigError
from .setting import Mixing, Setting

RowsT = TypeVar("RowsT")


class Workflow(ABC):
    """What to sample for a generation, and what to train it on."""

    def synthesize(
        self, setting: Setting[Any, RowsT], model: Any, history: Sequence[RowsT], n: int, number: int, rng: Generator
    ) -> RowsT:
        """The synthetic rows of model number 1, 2, ... history: as in training_rows."""
        return setting.sample(model, n, rng)

    @abstractmethod
    def training_rows(self, setting: Mixing[RowsT], history: Sequence[RowsT], n: int, rng: Generator) -> RowsT:
        """What the next generation trains on. history: the real rows, then the synthetic rows of each generation."""

    def kept(self, history: Sequence[RowsT]) -> list[RowsT]:
        """The part of the history that later generations need."""
        return list(history)


@dataclass(frozen=True)
class Replace(Workflow):
    """Train on the latest generation's rows alone (Shumailov et al.; fully synthetic in Seddik et al.)."""

    def training_rows(self, setting: Mixing[RowsT], history: Sequence[RowsT], n: int, rng: Generator) -> RowsT:
        return history[-1]

    def kept(self, history: Sequence[RowsT]) -> list[RowsT]:
        return [history[-1]]


@dataclass(frozen=True)
class GrowingReplace(Workflow):
    """Train on the latest generation's rows alone, but as many as `Accumulate` has (Gerstgrasser et al., Table 2).

    The second generation trains on 2n rows of the first model, the third on 3n of the second, and so on.
    """

    def synthesize(
        self, setting: Setting[Any, RowsT], model: Any, history: Sequence[RowsT], n: int, number: int, rng: Generator
    ) -> RowsT:
        return setting.pool([setting.sample(model, n, rng) for _ in range(number + 1)])

    def training_rows(self, setting: Mixing[RowsT], history: Sequence[RowsT], n: int, rng: Generator) -> RowsT:
        return history[-1]

    def kept(self, history: Sequence[RowsT]) -> list[RowsT]:
        return [history[-1]]


@dataclass(frozen=True)
class Accumulate(Workflow):
    """Train on everything so far: the real rows and all synthetic ones (Gerstgrasser et al.)."""

    def training_rows(self, setting: Mixing[RowsT], history: Sequence[RowsT], n: int, rng: Generator) -> RowsT:
        return setting.pool(history)


@dataclass(frozen=True)
class AccumulateSubsample(Workflow):
    """Train on a random n of all rows so far (Kazdan et al.; randomly sampled data in Seddik et al.)."""

    def training_rows(self, setting: Mixing[RowsT], history: Sequence[RowsT], n: int, rng: Generator) -> RowsT:
        return setting.subsample(history, n, rng)


@dataclass(frozen=True)
class Mixture(Workflow):
    """Train on real rows and the latest generation's (partially synthetic in Seddik et al.).

    synthetic_share: the share of synthetic rows among n. None: all real rows and all n synthetic ones.
    """

    synthetic_share: float | None = None

    def __post_init__(self) -> None:
        if self.synthetic_share is not None:
            check_share("synthetic_share", self.synthetic_share)

    def training_rows(self, setting: Mixing[RowsT], history: Sequence[RowsT], n: int, rng: Generator) -> RowsT:
        real, latest = history[0], history[-1]
        if self.synthetic_share is None:
            return setting.pool([real, latest])
        num_synthetic = round(self.synthetic_share * n)
        return setting.pool(
            [setting.subsample([real], n - num_synthetic, rng), setting.subsample([latest], num_synthetic, rng)]
        )

    def kept(self, history: Sequence[RowsT]) -> list[RowsT]:
        return [history[0], history[-1]]


@dataclass(frozen=True)
class RecentModels(Workflow):
    """Train on n rows in equal parts from the latest `window` generations (Seddik et al., most recent models).

    Each part has floor(n / window) rows, which stay the same as long as its model is among the latest. With fewer
    generations than that, each part has floor(n / their number) rows.
    """

    window: int = 5

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"window={self.window} must be 1 or more")

    def synthesize(
        self, setting: Setting[Any, RowsT], model: Any, history: Sequence[RowsT], n: int, number: int, rng: Generator
    ) -> RowsT:
        rows = setting.sample(model, n, rng)
        return setting.subsample([rows], n // min(number + 1, self.window), rng)

    def training_rows(self, setting: Mixing[RowsT], history: Sequence[RowsT], n: int, rng: Generator) -> RowsT:
        latest = history[-self.window :]
        if n < len(latest):
            raise ConfigError(f"n={n} rows can't come from {len(latest)} generations: lower window")
        return setting.pool([setting.subsample([rows], n // len(latest), rng) for rows in latest])

    def kept(self, history: Sequence[RowsT]) -> list[RowsT]:
        return list(history[-self.window :])


@dataclass(frozen=True)
class ToEdit(Workflow):
    """Train on the real rows, a share of which each generation's model resamples (Zhu et al., section 4.2).

    share: the share of rows that the first edit resamples. None for language models, whose threshold chooses tokens.
    overlapping: choose the rows at random each time. Otherwise no row is edited again before all others have been.
    decay: the factor by which the share shrinks with each edit (eta in the paper; 0.94 in its Table 15).
    anew: each edit starts from the real rows, and chooses among them at random, so that edits don't add up. Otherwise
        it edits the result of the last edit, as in the paper.
    """

    share: float | None = None
    overlapping: bool = False
    decay: float = 1.0
    anew: bool = False

    def __post_init__(self) -> None:
        if self.share is not None:
            check_share("share", self.share)
        check_share("decay", self.decay)
        if self.anew and (self.overlapping or self.decay != 1):
            name = "overlapping" if self.overlapping else "decay"
            raise ConfigError(f"{name}= is for edits of edited rows, but anew=True edits the real rows: leave one out")

    def share_of(self, number: int) -> float | None:
        """The share that edit number 1, 2, ... resamples."""
        return None if self.share is None else self.share * self.decay ** (number - 1)

    def start_of(self, number: int, num_rows: int) -> int | None:
        """Where edit number 1, 2, ... starts; None if its rows are chosen at random."""
        if self.share is None or self.overlapping or self.anew:
            return None
        return sum(round(self.share * self.decay**i * num_rows) for i in range(number - 1)) % num_rows

    def synthesize(
        self, setting: Setting[Any, RowsT], model: Any, history: Sequence[RowsT], n: int, number: int, rng: Generator
    ) -> RowsT:
        rows = history[0] if self.anew else history[-1]
        start = self.start_of(number, setting.num_rows(rows))
        return setting.edit(rows, model, self.share_of(number), start, rng)

    def training_rows(self, setting: Mixing[RowsT], history: Sequence[RowsT], n: int, rng: Generator) -> RowsT:
        return history[-1]

    def kept(self, history: Sequence[RowsT]) -> list[RowsT]:
        return [history[0], history[-1]] if self.anew else [history[-1]]


def as_mixture(workflow: Workflow, n: int, num_real: int) -> tuple[Workflow, int]:
    """An equivalent workflow and its n: editing a share of the real rows anew is a mixture."""
    if isinstance(workflow, ToEdit) and workflow.anew and workflow.share is not None:
        return Mixture(workflow.share), num_real
    return workflow, n


def check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}={value} must be between 0 and 1")


def name_of(workflow: type[Workflow]) -> str:
    """The name of a workflow on the command line: `accumulate-subsample`."""
    return "toedit" if workflow is ToEdit else re.sub(r"(?<=.)(?=[A-Z])", "-", workflow.__name__).lower()


def label_of(workflow: Workflow) -> str:
    """A workflow's name and the settings that differ from their defaults: `toedit share=0.1`."""
    words = [name_of(type(workflow))]
    if dataclasses.is_dataclass(workflow):
        given = {field.name: (getattr(workflow, field.name), field.default) for field in dataclasses.fields(workflow)}
        words += [f"{name}={value}" for name, (value, default) in given.items() if value != default]
    return " ".join(words)
