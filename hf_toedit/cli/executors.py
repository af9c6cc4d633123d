"""The options of `hf-toedit edit` that say where its workers run."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import typer
from rich.console import Console

from ..display import visible
from ..errors import ConfigError
from ..scale.job import Job
from ..scale.launches import LOGS
from ..scale.progress import ProgressFormat, Tally, shown, total_share
from ..scale.workers import edit_units

ExecutorName = Literal["local", "slurm"]
EXECUTOR_HELP = "Where the workers run: on this machine, or as tasks of a Slurm array."
GPUS_HELP = (
    "The number of GPUs of each worker. Default on this machine: one for each of several workers, if it has GPUs; on "
    "Slurm: none."
)
SBATCH_HELP = "Slurm: another option of sbatch, such as account=nlp. May be repeated."
SETUP_HELP = "Slurm: a shell command that runs first in each task, such as 'module load cuda'."
NEEDS = MappingProxyType({"slurm": "datatrove"})  # the extra has the name of the executor
HONOURED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "local": frozenset({"gpus_per_worker"}),
        "slurm": frozenset({"gpus_per_worker", "mem_per_worker", "time", "partition", "sbatch", "setup"}),
    }
)


@dataclasses.dataclass(frozen=True)
class ExecutorOptions:
    """Where the workers run."""

    executor: Annotated[ExecutorName, typer.Option(help=EXECUTOR_HELP)] = "local"
    gpus_per_worker: Annotated[int | None, typer.Option(help=GPUS_HELP, min=0)] = None
    mem_per_worker: Annotated[int | None, typer.Option(help="Slurm: the memory of a worker, in GB.", min=1)] = None
    time: Annotated[str | None, typer.Option(help="Slurm: the time limit of a task, such as 8:00:00.")] = None
    partition: Annotated[str | None, typer.Option(help="Slurm: the partition to run in.")] = None
    sbatch: Annotated[list[str] | None, typer.Option(help=SBATCH_HELP)] = None
    setup: Annotated[str | None, typer.Option(help=SETUP_HELP)] = None

    def check(self, *, push: bool) -> None:
        """Raise ConfigError unless the executor is installed and can do all that was asked for."""
        self._check_given()
        extra = self.executor
        if extra in NEEDS and importlib.util.find_spec(NEEDS[extra]) is None:
            raise ConfigError(f"--executor {extra} needs {NEEDS[extra]}: pip install 'hf-toedit[{extra}]'")
        if self.executor == "slurm":
            self._sbatch()
            if shutil.which("sbatch") is None:
                raise ConfigError("--executor slurm needs sbatch: call it on a machine of the cluster that has it")
            if push:
                raise ConfigError("--push can't be combined with --executor slurm: use `hf-toedit push` afterwards")

    def edit(self, job: Job, workers: int, progress: ProgressFormat = "auto") -> bool:
        """Edit the units that are not done. False if others do that after this call, and finish the output, too."""
        to_do = job.to_do()
        match self.executor:
            case "local":
                done_before = 1 - total_share(job.plan, to_do)
                with shown(Tally(job.plan, done_before), progress) as on_batch:
                    edit_units(job, to_do, workers, on_batch, self.gpus_per_worker)
                return True
            case "slurm":
                return not to_do or self._submit(job, workers)

    def _check_given(self) -> None:
        for field in dataclasses.fields(self):
            name = field.name
            if name != "executor" and getattr(self, name) != field.default and name not in HONOURED[self.executor]:
                others = " or ".join(f"--executor {other}" for other, names in HONOURED.items() if name in names)
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{option} has no effect with --executor {self.executor}: leave it out, or use {others}"
                )

    def _sbatch(self) -> dict[str, str]:
        """The options of `--sbatch`: an empty string for one without a value."""
        options = dict[str, str]()
        for text in self.sbatch or []:
            name, _, value = text.lstrip("-").partition("=")
            if not re.fullmatch(r"[a-z][a-z-]+", name):
                raise ConfigError(f"--sbatch {text!r} is not NAME=VALUE, such as account=nlp")
            options[name] = value
        return options

    def _submit(self, job: Job, workers: int) -> bool:
        from ..scale.slurm import SlurmOptions, check_idle, submit

        check_idle(job)
        options = SlurmOptions(
            workers,
            self.time,
            self.partition,
            gpus=self.gpus_per_worker or 0,
            memory_gb=self.mem_per_worker,
            setup=self.setup,
            sbatch=self._sbatch(),
        )
        edit, finish = submit(job, options)
        console = Console()
        for line in (
            f"\nSubmitted {len(job.to_do()):,} units as Slurm job {edit}; job {finish} finishes the output after it.",
            f"  squeue -j {edit},{finish}      what waits and what runs",
            f"  scancel {edit} {finish}        stop; the same command again resumes",
            f"  {visible(str(Path(job.out, LOGS)))}      logs",
        ):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        return False
