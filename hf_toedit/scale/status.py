"""How far an output is, from its manifests: readable at any time, from any machine that sees the folder."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from typing import Any

from ..editing.stats import TokenStats
from ..errors import SourceError
from .job import Job
from .progress import shares


@dataclasses.dataclass(frozen=True)
class Status:
    """What the finished units of an output add up to.

    done: their share of the work, in [0, 1]. statuses: the number of rows by status.
    num_failed_rows: rows that the prior failed on. num_bytes: the size of the shards.
    worker_seconds: the time that the workers spent on them. No clock is compared with another: machines differ.
    """

    num_units: int
    num_units_done: int
    done: float
    num_rows: int
    statuses: dict[str, int]
    tokens: TokenStats
    num_failed_rows: int
    num_bytes: int
    worker_seconds: float

    @property
    def worker_seconds_left(self) -> float | None:
        """The time that the rest takes one worker at the speed so far; None before the first unit."""
        return self.worker_seconds * (1 - self.done) / self.done if self.done else None

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        tokens = {name: value for name, value in vars(self.tokens).items() if name.startswith("num_")}
        fields = {name: value for name, value in vars(self).items() if name != "tokens"}
        return {**fields, **tokens, "worker_seconds_left": self.worker_seconds_left}


def status_of(job: Job) -> Status:
    """The status of an output.

    Raises SourceError if it has no plan, or one that this version can't read.
    """
    plan = job.plan
    share_of = shares(plan)
    statuses: Counter[str] = Counter()
    tokens, share, done, failed, num_bytes, seconds = TokenStats(), 0.0, 0, 0, 0, 0.0
    for manifest in job.manifests():
        done += 1
        share += share_of[manifest.unit]
        statuses.update(manifest.stats.statuses)
        tokens += manifest.stats.tokens
        failed += len(manifest.failed)
        num_bytes += manifest.num_bytes
        seconds += manifest.seconds
    share = 1.0 if done == len(plan.units) else share
    return Status(len(plan.units), done, share, statuses.total(), dict(statuses), tokens, failed, num_bytes, seconds)


def check_shards(job: Job) -> None:
    """Read all shards. Raises SourceError, with the name of one that does not have the digest in its manifest."""
    for manifest in job.manifests():
        name = f"{job.storage.shards}/{manifest.shard}"
        if hashlib.blake2b(job.storage.read(name), digest_size=16).hexdigest() != manifest.digest:
            raise SourceError(
                f"{name!r} in the output {job.out!r} is damaged: if the edit is not finished, remove this file and run "
                "the same command again; else remove the output and start again"
            )
