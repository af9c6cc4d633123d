"""The options of `hf-toedit edit` that say where its workers run."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import typer
from rich.console import Console

from ..display import visible
from ..errors import ConfigError, SourceError
from ..files.secret import scrubbed
from ..scale.job import MANIFESTS, SOURCE, WORK, Job
from ..scale.launches import LOGS
from ..scale.object_store import is_url
from ..scale.progress import ProgressFormat, Tally, shown, total_share
from ..scale.unit import BatchDone
from ..scale.workers import default_threads, edit_units

OnBatch = Callable[[int, BatchDone], None]
ExecutorName = Literal["local", "slurm", "ray", "jobs"]
EXECUTOR_HELP = (
    "Where the workers run: on this machine, as tasks of a Slurm array, on a Ray cluster, or as Hugging Face Jobs."
)
GPUS_HELP = (
    "Number of GPUs for each worker. Default on this machine: one if there are several workers, and GPUs for them; on "
    "Slurm and Ray: none."
)
SBATCH_HELP = "Slurm: another option of sbatch, such as account=nlp. May be repeated."
SETUP_HELP = "Slurm: a shell command that runs first in each task, such as 'module load cuda'."
ADDRESS_HELP = "Ray: the address of the cluster. Default: that of RAY_ADDRESS, or one on this machine."
FLAVOR_HELP = "Jobs: the hardware of each, such as l4x1; `hf jobs hardware` lists the choices, with prices."
IMAGE_HELP = "Jobs: a Docker image that has hf-toedit. Default: one that installs this version."
NAMESPACE_HELP = "Jobs: the user or organization that pays for them. Default: you."
DETACH_HELP = "Jobs: launch them and return. The same command without it follows them, and finishes the output."
TIME_HELP = "Slurm, jobs: the time limit of each task or job, such as 8:00:00 (Slurm) or 8h (jobs)."
NEEDS = MappingProxyType({"slurm": "datatrove", "ray": "ray"})  # the extra has the name of the executor
HONOURED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "local": frozenset({"gpus_per_worker"}),
        "slurm": frozenset({"gpus_per_worker", "mem_per_worker", "time", "partition", "sbatch", "setup"}),
        "ray": frozenset({"gpus_per_worker", "mem_per_worker", "address"}),
        "jobs": frozenset({"time", "flavor", "image", "namespace", "detach"}),
    }
)


@dataclasses.dataclass(frozen=True)
class ExecutorOptions:
    """Where the workers run."""

    executor: Annotated[ExecutorName, typer.Option(help=EXECUTOR_HELP)] = "local"
    gpus_per_worker: Annotated[int | None, typer.Option(help=GPUS_HELP, min=0)] = None
    mem_per_worker: Annotated[int | None, typer.Option(help="Slurm, Ray: the memory of a worker, in GB.", min=1)] = None
    time: Annotated[str | None, typer.Option(help=TIME_HELP)] = None
    partition: Annotated[str | None, typer.Option(help="Slurm: the partition to run in.")] = None
    sbatch: Annotated[list[str] | None, typer.Option(help=SBATCH_HELP)] = None
    setup: Annotated[str | None, typer.Option(help=SETUP_HELP)] = None
    address: Annotated[str | None, typer.Option(help=ADDRESS_HELP)] = None
    flavor: Annotated[str | None, typer.Option(help=FLAVOR_HELP)] = None
    image: Annotated[str | None, typer.Option(help=IMAGE_HELP)] = None
    namespace: Annotated[str | None, typer.Option(help=NAMESPACE_HELP)] = None
    detach: Annotated[bool, typer.Option("--detach", help=DETACH_HELP)] = False

    def check(self, out: str, prior: str, *, push: bool) -> None:
        """Raise ConfigError unless the executor is installed and can do all that was asked for."""
        self._check_given()
        extra = self.executor
        if extra in NEEDS and importlib.util.find_spec(NEEDS[extra]) is None:
            raise ConfigError(f"--executor {extra} needs {NEEDS[extra]}: pip install 'hf-toedit[{extra}]'")
        if push and (extra == "slurm" or self.detach):
            option = "--detach" if self.detach else "--executor slurm"
            raise ConfigError(f"--push can't be combined with {option}: use `hf-toedit push` afterwards")
        if extra == "slurm":
            self._sbatch()
            if scrubbed(f"{self.setup} {self.sbatch}") != f"{self.setup} {self.sbatch}":
                raise ConfigError(
                    "a token in --setup or --sbatch would be written to a script: export it beforehand instead"
                )
            if is_url(out):
                raise ConfigError("--executor slurm needs --out in a folder that all nodes share")
            if shutil.which("sbatch") is None:
                raise ConfigError("--executor slurm needs sbatch: call it on a machine of the cluster that has it")
        if extra == "jobs":
            self._check_jobs(out, prior)

    def edit(self, job: Job, workers: int, progress: ProgressFormat = "auto") -> bool:
        """Edit the units that are not done. Returns False if others will do so after this call."""
        to_do = job.to_do()
        if not to_do:
            return True
        if self.executor == "slurm":
            return self._submit(job, to_do, workers)
        with shown(Tally(job.plan, 1 - total_share(job.plan, to_do)), progress) as on_batch:
            match self.executor:
                case "local":
                    edit_units(job, to_do, workers, on_batch, self.gpus_per_worker)
                case "ray":
                    self._edit_on_ray(job, to_do, workers, on_batch)
                case "jobs":
                    return self._edit_on_jobs(job, to_do, workers, on_batch)
        return True

    def default_threads(self, workers: int) -> int:
        """The number of threads of each worker; 1 on a cluster, whose machines are not known here."""
        return default_threads(workers) if self.executor == "local" else 1

    def _check_given(self) -> None:
        for field in dataclasses.fields(self):
            name = field.name
            if name != "executor" and getattr(self, name) != field.default and name not in HONOURED[self.executor]:
                others = " or ".join(f"--executor {other}" for other, names in HONOURED.items() if name in names)
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{option} has no effect with --executor {self.executor}: leave it out, or use {others}"
                )

    def _check_jobs(self, out: str, prior: str) -> None:
        if not self.flavor:
            raise ConfigError("--executor jobs needs --flavor: `hf jobs hardware` lists the hardware, with prices")
        if not out.startswith("hf://buckets/"):
            raise ConfigError("--executor jobs needs --out in a bucket, such as hf://buckets/me/name/folder")
        if Path(prior).is_dir():
            raise ConfigError(f"--prior {prior!r} is a folder, which jobs can't read: push it to the Hub first")

    def _sbatch(self) -> dict[str, str]:
        """The options of `--sbatch`: an empty string for one without a value."""
        options = dict[str, str]()
        for text in self.sbatch or []:
            name, _, value = text.lstrip("-").partition("=")
            if not re.fullmatch(r"[a-z][a-z-]+", name):
                raise ConfigError(f"--sbatch {text!r} is not NAME=VALUE, such as account=nlp")
            options[name] = value
        return options

    def _submit(self, job: Job, numbers: Sequence[int], workers: int) -> bool:
        from ..scale.slurm import SlurmOptions, submit

        options = SlurmOptions(
            workers,
            self.time,
            self.partition,
            gpus=self.gpus_per_worker or 0,
            memory_gb=self.mem_per_worker,
            setup=self.setup,
            sbatch=self._sbatch(),
        )
        arrays, finish = submit(job, numbers, options)
        ids = [*arrays, finish] if finish else arrays
        what, they = ("job", "it is") if len(arrays) == 1 else ("jobs", "they are")
        then = (
            f"job {finish} finishes the output after it" if finish else f"when {they} done, run the same command again"
        )
        console = Console()
        for line in (
            f"\nSubmitted {_units(len(numbers))} as Slurm {what} {', '.join(arrays)}; {then}.",
            f"  squeue -j {','.join(ids)}    what waits and what runs",
            f"  scancel {' '.join(ids)}      stop; the same command again resumes",
            f"  {visible(str(Path(job.out, LOGS)))}    logs",
        ):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        return False

    def _edit_on_ray(self, job: Job, numbers: Sequence[int], workers: int, on_batch: OnBatch) -> None:
        from ..scale.ray_workers import RayOptions, edit_on_ray

        options = RayOptions(workers, self.address, self.gpus_per_worker or 0, self.mem_per_worker)
        edit_on_ray(job, numbers, options, on_batch)

    def _edit_on_jobs(self, job: Job, numbers: Sequence[int], workers: int, on_batch: OnBatch) -> bool:
        from ..scale.hub_jobs import JobsOptions, edit_on_jobs

        for file in job.plan.files:
            if not file.path.startswith(("hf://", f"{SOURCE}/")):
                if not job.storage.names(MANIFESTS):
                    job.storage.remove(WORK)
                raise SourceError(f"jobs can't read {file.path!r}: push the source to the Hub first")
        given = {"timeout": self.time} if self.time else {}
        options = JobsOptions(
            workers, str(self.flavor), image=self.image, namespace=self.namespace, detach=self.detach, **given
        )
        return edit_on_jobs(job, numbers, options, on_batch, lambda line: print(line, file=sys.stderr))


def _units(count: int) -> str:
    return "1 unit" if count == 1 else f"{count:,} units"
