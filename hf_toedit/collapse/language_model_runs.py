"""Language models trained generation after generation. Each is a folder, so that an interrupted run can resume.

OUT/seed-0/generation-1/          model/, rows/ (the real ones), metrics.json; all workflows start from it
OUT/seed-0/replace/generation-2/  model/, rows/ (those that generation 1 wrote), metrics.json
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..editing.stats import summarize
from ..errors import ConfigError, SourceError, any_of, one_clear_line
from ..experiments.results import broken, read_json
from ..experiments.stage import Stage, check_place, perform
from ..priors.pretrained import one_clear_line as one_line_if_broken
from ..report.files import write_json
from ..types import FloatArray
from .generations import State, first_generation, next_generation, rng_of
from .language_model import STATS, LanguageModel, Texts, TextSource
from .simulation import Simulation
from .workflows import Workflow, label_of

if TYPE_CHECKING:
    from datasets import Dataset

MODEL, ROWS, METRICS = "model", "rows", "metrics.json"
SECONDS = "seconds"
RATES = ("eligible_rate", "changed_rate")


@dataclass(frozen=True)
class _Run:
    """One workflow and one seed."""

    setting: LanguageModel
    workflow: Workflow
    n: int
    num_real: int
    seed: int
    out: Path

    @property
    def truth(self) -> TextSource:
        return self.setting.truth(1, self.num_real, rng_of(self.seed, 0, 0))

    def stage(self, number: int) -> Stage:
        inputs = {**self.setting.settings(), "num_real": self.num_real, "seed": self.seed, "generation": number}
        if number > 1:
            inputs |= {"n": self.n, "workflow": repr(self.workflow)}
        return Stage(f"generation-{number}", inputs, lambda folder: self.train(number, folder))

    def place(self, number: int) -> Path:
        """The folder that holds the folder of a generation."""
        seed = self.out / f"seed-{self.seed}"
        return seed if number == 1 else seed / label_of(self.workflow).replace(" ", "-")

    def folder(self, number: int) -> Path:
        return self.place(number) / f"generation-{number}"

    def check(self, number: int) -> None:
        """Raise SourceError if a generation's folder belongs to another run."""
        folder = self.folder(number)
        check_place(folder)
        if changed := self.stage(number).changed_from(folder):
            differs = ", ".join(changed)
            raise SourceError(f"{str(folder)!r} was made with other settings ({differs}): give another folder")

    def train(self, number: int, folder: Path) -> None:
        """Train a generation and write its folder."""
        start = time.perf_counter()
        truth, rng = self.truth, rng_of(self.seed, 0, number)
        if number == 1:
            state = first_generation(self.setting, truth, self.num_real, rng)
            first = state.model
        else:
            before = self.state(number - 1)
            first = self.model(1)
            state = next_generation(self.setting, self.workflow, before, truth, self.n, rng)
        rows = state.history[-1]
        self.setting.save(state.model, folder / MODEL)
        rows.save_to_disk(folder / ROWS)
        measured = self.setting.distance(state.model, truth, first)
        metrics = {name: float(value_R[0]) for name, value_R in measured.items()} | self.counts(rows)
        write_json(folder / METRICS, metrics | {SECONDS: time.perf_counter() - start})

    def state(self, number: int) -> State[TextSource, Texts]:
        """A generation, read from its folder."""
        history: list[Dataset] = []
        for earlier in range(1, number + 1):
            history = self.workflow.kept([*history, self.rows(earlier)])
        return State(number, self.model(number), history)

    def model(self, number: int) -> TextSource:
        with self.read(number, MODEL):
            return self.setting.load(self.folder(number) / MODEL, self.truth)

    def rows(self, number: int) -> Texts:
        from datasets import load_from_disk

        with self.read(number, ROWS):
            return load_from_disk(self.folder(number) / ROWS)

    def read(self, number: int, part: str) -> one_clear_line:
        folder = self.folder(number)
        fix = f"remove the folder {str(folder)!r} to train this generation again"
        return one_line_if_broken(f"can't read {str(folder / part)!r}", fix, SourceError)

    def metrics(self, number: int) -> dict[str, Any]:
        path = self.folder(number) / METRICS
        values = read_json(path)
        if "perplexity" not in values or not all(type(value) in (int, float) for value in values.values()):
            raise broken(path, "it doesn't hold the numbers of a generation")
        return values

    def counts(self, rows: Texts) -> dict[str, float]:
        """The numbers of rows and tokens, and the rates of the edits."""
        written = self.setting.columns[-1]  # a prompt is not
        num_tokens = sum(len(ids) for batch in rows.iter(1000) for ids in self.setting.encode(batch[written]))
        counted: dict[str, float] = {"num_rows": len(rows), "num_tokens": num_tokens}
        if STATS in rows.column_names:
            stats = summarize(rows[STATS])
            counted |= {name: getattr(stats, name) for name in RATES}
        return counted


def train_generations(
    setting: LanguageModel,
    workflow: Workflow,
    *,
    n: int,
    generations: int,
    num_real: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str],
) -> dict[str, FloatArray]:
    """Train `generations` language models one after the other, each in a folder that appears whole or not at all.

        train_generations(setting, Replace(), n=1000, generations=6, out="collapse")

    n: rows that each model writes. num_real: rows of human text, by default n. seed: of the whole run. out: a folder
    for any number of seeds and workflows; the workflows of a seed share generation 1, and an interrupted run resumes
    at the generation where it stopped.

    Returns an array for each of the setting's measures, with a value per generation; likewise num_rows and num_tokens
    of the sampled or edited rows, and eligible_rate and changed_rate of the edits (NaN where nothing was edited). Equal
    seeds give equal results.

    Raises SourceError if the folder holds a run with other settings or can't be written.
    """
    num_real = n if num_real is None else num_real
    for name, value in {"n": n, "generations": generations, "num_real": num_real}.items():
        if value < 1:
            raise ConfigError(f"{name}={value} must be 1 or more")
    if num_real > len(setting.human):
        available = f"the {len(setting.human):,} rows of human text"
        raise ConfigError(f"num_real={num_real} (by default n) is more than {available}: lower it, or n")
    if seed < 0:
        raise ConfigError(f"seed={seed} must be 0 or more")
    setting.tokenizer  # noqa: B018 - raises ConfigError if it can't be loaded
    run = _Run(setting, workflow, n, num_real, seed, Path(out))
    for number in range(1, generations + 1):
        run.check(number)
    for number in range(1, generations + 1):
        with one_clear_line(SourceError, f"can't write to {str(out)!r}", catches=any_of(OSError)):
            run.place(number).mkdir(parents=True, exist_ok=True)
        perform(run.stage(number), run.place(number))
    return _by_generation([run.metrics(number) for number in range(1, generations + 1)])


def _by_generation(metrics: Sequence[dict[str, Any]]) -> dict[str, FloatArray]:
    names = dict.fromkeys(name for values in metrics for name in values if name != SECONDS)
    return {name: np.array([values.get(name, np.nan) for values in metrics], dtype=float) for name in names}


def train_runs(
    setting: LanguageModel,
    workflow: Workflow,
    *,
    n: int,
    generations: int,
    num_real: int | None = None,
    runs: int = 5,
    seed: int = 0,
    out: str | os.PathLike[str],
) -> Simulation:
    """`train_generations` for the seeds `seed`, `seed` + 1, ...: a Simulation, with intervals over the runs."""
    if runs < 1:
        raise ConfigError(f"runs={runs} must be 1 or more")
    arguments: dict[str, Any] = {"n": n, "generations": generations, "num_real": num_real, "out": out}
    found = [train_generations(setting, workflow, seed=seed + run, **arguments) for run in range(runs)]
    values_RG = {name: np.stack([values[name] for values in found]) for name in found[0]}
    return Simulation(setting, workflow, n, num_real or n, seed, values_RG, {})
