"""Units as an array of Slurm tasks, submitted by datatrove's SlurmPipelineExecutor (needs the extra `slurm`)."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from ..errors import SourceError, any_of, one_clear_line
from .finish import finish
from .job import Job
from .launches import LOGS, Launch, shares

MOST_TASKS = 1000  # of an array; Slurm's own MaxArraySize is 1001 unless a cluster sets it
JOBS = "slurm"  # of a launch: the ids of its jobs


@dataclasses.dataclass(frozen=True)
class SlurmOptions:
    """What each array task asks Slurm for.

    workers: the number of tasks that run at once. time: the limit of each, such as `8:00:00`.
    cpus, gpus, memory_gb: of each task. setup: a shell command that runs first in each.
    sbatch: other options of sbatch, such as {"account": "nlp", "qos": "high"}.

    None is the cluster's default.
    """

    workers: int
    time: str | None = None
    partition: str | None = None
    cpus: int = 1
    gpus: int = 0
    memory_gb: int | None = None
    setup: str | None = None
    sbatch: Mapping[str, str] = dataclasses.field(default_factory=dict)


class EditRank(PipelineStep):  # type: ignore[misc]
    """Edits the units of a rank of a launch."""

    type, name = "hf-toedit", "edit"

    def __init__(self, out: str, launch: str) -> None:
        super().__init__()
        self.out, self.launch = out, launch

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        for manifest in Launch(Job(self.out), self.launch).edit_rank(rank, logger.info):
            self.stat_update("rows", value=manifest.stats.num_rows, unit="unit")


class FinishOutput(PipelineStep):  # type: ignore[misc]
    """Writes the statistics and the card of an output whose units are all done."""

    type, name = "hf-toedit", "finish"

    def __init__(self, out: str) -> None:
        super().__init__()
        self.out = out

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        job = Job(self.out)
        if left := job.to_do():
            total = len(job.plan.units)
            raise SourceError(f"{len(left)} of {total} units are not done: run the same `hf-toedit edit` again")
        finish(job)


class _Executor(SlurmPipelineExecutor):  # type: ignore[misc]
    """datatrove's, with memory per task, without a partition that nobody named, and without its statistics job."""

    def __init__(self, step: PipelineStep, tasks: int, options: SlurmOptions, folder: Path, **fields: Any) -> None:
        here = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
        super().__init__(
            [step],
            tasks,
            options.time,
            options.partition,
            cpus_per_task=options.cpus,
            gpus_per_task=options.gpus,
            workers=options.workers,
            job_name=f"toedit-{step.name}",
            qos=None,
            srun_args={"cpus-per-task": options.cpus},  # which srun does not take from sbatch
            env_command="\n".join(filter(None, (here, options.setup))),
            sbatch_args=dict(options.sbatch),
            max_array_size=MOST_TASKS,
            logging_dir=str(folder),
            **fields,
        )
        self.memory_gb = options.memory_gb

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        args: dict[str, Any] = super().get_sbatch_args(max_array)
        del args["mem-per-cpu"]
        memory = {} if self.memory_gb is None else {"mem": f"{self.memory_gb}G"}
        return {name: value for name, value in {**memory, **args}.items() if value is not None}

    def launch_merge_stats(self) -> None:
        """Nothing: the manifests have the statistics."""


def submit(job: Job, options: SlurmOptions) -> list[str]:
    """Submit the units that are not done as one array, and a job after it that finishes the output.

    Returns the ids of the two jobs. Raises SourceError if sbatch refuses them.
    """
    launch = Launch.create(job, shares(job.to_do(), options.workers, MOST_TASKS))
    folder = job.folder / LOGS / launch.name
    edit = _Executor(EditRank(job.out, launch.name), len(launch.read("ranks")), options, folder / "edit")
    with _quiet(), _submitting():
        edit.launch_job()
    launch.write(JOBS, [edit.job_id])
    alone = dataclasses.replace(options, workers=1, cpus=1, gpus=0)
    after = {"depends_job_id": edit.job_id, "run_on_dependency_fail": True}  # its log says what is missing
    last = _Executor(FinishOutput(job.out), 1, alone, folder / "finish", **after)
    with _quiet(), _submitting():
        last.launch_job()
    launch.write(JOBS, [edit.job_id, last.job_id])
    return [edit.job_id, last.job_id]


def check_idle(job: Job) -> None:
    """Raise SourceError if Slurm still has jobs of the newest launch of this output."""
    launch = Launch.newest(job, JOBS)
    if launch is None:
        return
    ids = launch.read(JOBS)
    try:
        found = subprocess.run(
            ["squeue", "--noheader", "--format=%A", f"--jobs={','.join(ids)}"], capture_output=True, text=True
        )
    except FileNotFoundError:
        return  # not a machine of the cluster: nobody to ask
    if found.stdout.strip():  # squeue fails for jobs that ended long ago
        how = f"see `squeue -j {','.join(ids)}`, or stop it with `scancel {' '.join(ids)}`"
        raise SourceError(f"Slurm is still editing this output: {how}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without datatrove's own lines."""
    logger.disable("datatrove")
    try:
        yield
    finally:
        logger.enable("datatrove")


def _submitting() -> one_clear_line:
    return one_clear_line(
        SourceError,
        "sbatch refused the job",
        "see its message above",
        catches=any_of(subprocess.CalledProcessError),
        says=lambda error: "",
    )
