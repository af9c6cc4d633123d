"""Work done elsewhere: which units each rank of a launch edits, and what a rank does."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from ..errors import SourceError
from .job import WORK, Job, Manifest
from .unit import edit_unit

LOGS = f"{WORK}/logs"
SHARES_PER_WORKER = 4  # those who are done early take over from those who are late


def shares(numbers: Sequence[int], workers: int, most: int) -> list[list[int]]:
    """The units divided into shares of neighbours, about four for each worker, but no more than `most` shares.

    A process loads the prior once for its share.
    """
    num_shares = min(len(numbers), max(workers, min(most, workers * SHARES_PER_WORKER)))
    bounds = [len(numbers) * share // num_shares for share in range(num_shares + 1)]
    return [list(numbers[start:stop]) for start, stop in pairwise(bounds)]


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

    def edit_rank(self, rank: int, say: Callable[[str], None] = print) -> Iterator[Manifest]:
        """Edit the units of a rank that are not done, in this process, and yield what became of each.

        A unit that can't be edited is left out, and the others go on.

        Raises SourceError at the end if any unit was left out.
        """
        numbers = self.read("ranks")[rank]
        failed: dict[int, SourceError] = {}
        for place, number in enumerate(numbers, start=1):
            if self.job.manifest(number) is None:
                try:
                    yield edit_unit(self.job, number)
                except SourceError as error:
                    failed[number] = error
                    say(f"unit {number} failed: {error}")
                    continue
            say(f"unit {number} is done ({place} of {len(numbers)} of this rank)")
        for number, first in failed.items():
            raise SourceError(f"{len(failed)} of {len(numbers)} units failed; unit {number}: {first}") from first
