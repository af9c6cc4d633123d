"""Work done elsewhere: which units each rank of a launch edits, and what a rank does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from ..errors import SourceError, ToEditError
from ..files.secret import scrubbed
from .job import WORK, Job
from .unit import BatchDone
from .workers import edit_units

LOGS = f"{WORK}/logs"
SLURM_JOBS = "slurm"  # of a launch: the ids of its jobs
ROUNDS = 7  # of shares: the last has a 64th of the units
SECONDS_BETWEEN_LINES = 30.0


def divided(numbers: Sequence[int], num_shares: int) -> list[list[int]]:
    """The units divided into shares of neighbours, all of about the same size."""
    bounds = [len(numbers) * share // num_shares for share in range(num_shares + 1)]
    return [list(numbers[start:stop]) for start, stop in pairwise(bounds)]


def halving(numbers: Sequence[int], workers: int) -> list[list[int]]:
    """The units divided into shares of neighbours, a share for each worker in each of a few rounds.

    A round gives out half of what is left, and the last one the rest. So the shares that begin last are small, and a
    worker that is late with one keeps nobody waiting for long. A process loads the prior once for its share.
    """
    shares, start = list[list[int]](), 0
    for rounds_left in reversed(range(ROUNDS)):
        left = len(numbers) - start
        size = -(-left // (2 * workers if rounds_left else workers))
        bounds = [min(start + size * worker, len(numbers)) for worker in range(workers + 1)]
        shares += [list(numbers[begin:stop]) for begin, stop in pairwise(bounds) if begin < stop]
        start = bounds[-1]
    return shares


class Launch:
    """One call that gave units to ranks elsewhere. Its files begin with its name, in the logs of the output."""

    def __init__(self, job: Job, name: str) -> None:
        self.job, self.name = job, name

    @classmethod
    def create(cls, job: Job, ranks: Sequence[Sequence[int]]) -> Launch:
        """A new launch. ranks: the numbers of the units of each rank."""
        launch = cls(job, f"{datetime.now():%Y-%m-%dT%H-%M-%S}-{uuid.uuid4().hex[:4]}")
        launch.write("ranks", ranks)
        return launch

    @classmethod
    def newest(cls, job: Job, having: str) -> Launch | None:
        """The newest launch of an output that wrote something."""
        names = [name for name in job.storage.names(LOGS) if name.endswith(f".{having}.json")]
        return cls(job, max(names).removesuffix(f".{having}.json")) if names else None

    def write(self, what: str, value: Any) -> None:
        self.job.storage.write(f"{LOGS}/{self.name}.{what}.json", json.dumps(value).encode())

    def read(self, what: str) -> Any:
        return json.loads(self.job.storage.read(f"{LOGS}/{self.name}.{what}.json"))

    def edit_rank(self, rank: int, workers: int = 1, say: Callable[[str], None] = print) -> None:
        """Edit the units of a rank that are not done, in worker processes, which may die.

        say: called with lines for a log.

        Raises the errors of edit_units.
        """
        numbers = self.read("ranks")[rank]
        left = [number for number in numbers if self.job.manifest(number) is None]
        say(f"{len(left)} of {len(numbers)} units to edit")
        edit_units(self.job, left, workers, _lines(say), apart=True)


def _lines(say: Callable[[str], None]) -> Callable[[int, BatchDone], None]:
    """What reports batches: a line every half minute."""
    said = time.monotonic()

    def report(worker: int, batch: BatchDone) -> None:
        nonlocal said
        if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(f"unit {batch.unit}: {batch.start + batch.num_rows:,} of {batch.num_unit_rows:,} rows")

    return report


def check_idle(job: Job) -> None:
    """Raise SourceError if Slurm still has jobs of the newest launch of this output."""
    launch = Launch.newest(job, SLURM_JOBS)
    if launch is None:
        return
    ids = launch.read(SLURM_JOBS)
    command = ["squeue", "--noheader", "--format=%A", f"--jobs={','.join(ids)}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return  # not a machine of the cluster: nobody to ask
    if found.stdout.strip():  # squeue fails for jobs that ended long ago
        how = f"see `squeue -j {','.join(ids)}`, or stop it with `scancel {' '.join(ids)}`"
        raise SourceError(f"Slurm is still editing this output: {how}")


def main() -> None:
    """Edit a rank, with a worker for each GPU of this machine: what Hugging Face Jobs run."""
    import torch

    out, name, rank = sys.argv[1:]
    try:
        Launch(Job(out), name).edit_rank(int(rank), max(1, torch.cuda.device_count()))
    except ToEditError as error:
        sys.exit(f"error: {scrubbed(str(error))}")


if __name__ == "__main__":
    main()
