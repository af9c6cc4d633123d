"""Units as arrays of Slurm tasks, submitted by datatrove's SlurmPipelineExecutor (needs the extra `slurm`)."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from ..errors import SourceError, any_of, one_clear_line
from .failures import check_no_row_failed
from .finish import finish
from .job import Job
from .launches import LOGS, ROUNDS, SLURM_JOBS, Launch, divided, halving
from .workers import threads_of

FOR_EDITING = ("gres", "exclusive")  # options of sbatch
MOST_TASKS = 1000  # of an array; Slurm's own MaxArraySize is 1001 unless a cluster sets it
MOST_WORKERS = MOST_TASKS // ROUNDS  # of an array


@dataclasses.dataclass(frozen=True)
class SlurmOptions:
    """What each array task asks Slurm for.

    workers: the number of tasks that run at once. time: the limit of each, such as `8:00:00`.
    gpus, memory_gb: of each task. setup: a shell command that runs first in each.
    sbatch: other options of sbatch, such as {"account": "nlp", "qos": "high"}.

    None is the cluster's default.
    """

    workers: int
    time: str | None = None
    partition: str | None = None
    gpus: int = 0
    memory_gb: int | None = None
    setup: str | None = None
    sbatch: Mapping[str, str] = dataclasses.field(default_factory=dict)


class EditRank(PipelineStep):  # type: ignore[misc]
    """Edits the units of a rank of a launch. first: the rank of the first task of the array."""

    type, name = "hf-toedit", "edit"

    def __init__(self, out: str, launch: str, first: int) -> None:
        super().__init__()
        self.out, self.launch, self.first = out, launch, first

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        Launch(Job(self.out), self.launch).edit_rank(self.first + rank, say=logger.info)


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
        statistics, _ = finish(job)
        check_no_row_failed(self.out, statistics)


class _Executor(SlurmPipelineExecutor):  # type: ignore[misc]
    """datatrove's, with memory per task, without a partition that nobody named, and without its statistics job."""

    def __init__(
        self, step: PipelineStep, tasks: int, cpus: int, options: SlurmOptions, folder: Path, **fields: Any
    ) -> None:
        here = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
        super().__init__(
            [step],
            tasks,
            options.time,
            options.partition,
            cpus_per_task=cpus,
            gpus_per_task=options.gpus,
            workers=options.workers,
            job_name=f"toedit-{step.name}",
            qos=None,
            srun_args={"cpus-per-task": cpus},  # which srun does not take from sbatch
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


def submit(job: Job, numbers: Sequence[int], options: SlurmOptions) -> tuple[list[str], str | None]:
    """Submit units as one array, or as several for many workers, and a job after them that finishes the output.

    Returns the ids of the arrays, and that of the job after them; None if sbatch refuses it, as where each job must ask
    for a GPU.

    Raises SourceError if sbatch refuses an array; then none is left.
    """
    workers = min(options.workers, len(numbers))
    num_arrays = -(-workers // MOST_WORKERS)
    workers_of = [len(share) for share in divided(range(workers), num_arrays)]
    arrays = [halving(*of_array) for of_array in zip(divided(numbers, num_arrays), workers_of, strict=True)]
    launch = Launch.create(job, [share for shares in arrays for share in shares])
    folder, ids, first = job.folder / LOGS / launch.name, list[str](), 0
    with _quiet(), _submitting(), _all_or_none(ids):
        for index, shares in enumerate(arrays):
            of_array = dataclasses.replace(options, workers=workers_of[index])
            step, here = EditRank(job.out, launch.name, first), folder / f"edit-{index}"
            edit = _Executor(step, len(shares), threads_of(job), of_array, here)
            edit.launch_job()
            ids.append(edit.job_id)
            first += len(shares)
    launch.write(SLURM_JOBS, ids)
    after = {"depends_job_id": ":".join(ids), "run_on_dependency_fail": True}  # its log says what is missing
    last = _Executor(FinishOutput(job.out), 1, 1, _without_gpus(options), folder / "finish", **after)
    with _quiet(), suppress(SourceError), _submitting():
        last.launch_job()
        launch.write(SLURM_JOBS, [*ids, last.job_id])
    return ids, last.job_id


@contextmanager
def _all_or_none(ids: list[str]) -> Iterator[None]:
    """Cancel the jobs that were submitted if the block fails."""
    try:
        yield
    except BaseException:
        if ids:
            subprocess.run(["scancel", *ids])
        raise


def _without_gpus(options: SlurmOptions) -> SlurmOptions:
    """What one process asks for that only reads and writes."""
    kept = {name: value for name, value in options.sbatch.items() if "gpu" not in name and name not in FOR_EDITING}
    return dataclasses.replace(options, workers=1, gpus=0, sbatch=kept)


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
