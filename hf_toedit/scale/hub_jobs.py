"""Units as Hugging Face Jobs: launched, followed until they end, and cancelled with the call that follows them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi, JobInfo, JobStage

from .. import __version__
from ..display import visible
from ..errors import ConfigError, SourceError, nearest, one_clear_line
from ..files.secret import MASK, scrubbed
from ..hub.failures import hub_errors
from .job import MANIFESTS, Job
from .launches import Launch, divided
from .unit import COUNTED, BatchDone

PACKAGE = f"hf-toedit=={__version__}"
UV_IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
LABEL = "hf-toedit"
POLL_SECONDS = 15.0
MOST_MISSED = 20  # polls that the Hub does not answer
LOG_LINES = 20
ENDED = (JobStage.COMPLETED, JobStage.CANCELED, JobStage.ERROR, JobStage.DELETED)

OnBatch = Callable[[int, BatchDone], None]


@dataclasses.dataclass(frozen=True)
class JobsOptions:
    """workers: the number of jobs. flavor: their hardware, such as `l4x1`; a job has a worker for each of its GPUs.

    timeout: the limit of a job, such as `8h`. image: one with hf_toedit in it; None is one with uv, which installs this
    version. namespace: who pays; None is the user. detach: leave the jobs alone once they are launched.
    """

    workers: int
    flavor: str
    timeout: str = "12h"
    image: str | None = None
    namespace: str | None = None
    detach: bool = False


def edit_on_jobs(
    job: Job, numbers: Sequence[int], options: JobsOptions, on_batch: OnBatch, say: Callable[[str], None] = print
) -> bool:
    """Edit units in Hugging Face Jobs. Returns False if the jobs were left alone.

    Jobs of an earlier call that still run are followed; otherwise new ones are launched. What these leave undone, such
    as at their time limit, is given to new ones, as long as each round finishes some units. Ctrl-C cancels them.

    on_batch: called with the rank and all rows of a unit, once it is done. say: called with lines for the user.

    Raises SourceError if a job can't be launched or was cancelled, or if a round did not finish a single unit.
    """
    launcher = _Launcher(job, options, say)
    jobs, left = launcher.running(), list(numbers)
    if jobs:
        say(f"following {len(jobs)} jobs that an earlier call launched")
    while left:
        jobs = jobs or launcher.launch(left)
        if options.detach:
            say("the same command without --detach follows the jobs and finishes the output")
            return False
        launcher.follow(jobs, left, on_batch)
        still_left = [number for number in left if job.manifest(number) is None]
        if len(still_left) == len(left):
            raise SourceError(f"the jobs ended without finishing any of {len(left):,} units: see their logs above")
        jobs, left = [], still_left
    return True


class _Launcher:
    """The jobs of one output."""

    def __init__(self, job: Job, options: JobsOptions, say: Callable[[str], None]) -> None:
        self.job, self.options, self.say = job, options, say
        self.api = HfApi()
        self.token = huggingface_hub.get_token()
        if self.token is None:
            raise ConfigError("--executor jobs needs a token: run `hf auth login`, or set HF_TOKEN")
        self.label = hashlib.blake2b(f"{job.out} {job.digest}".encode(), digest_size=8).hexdigest()

    def running(self) -> list[JobInfo]:
        """Those that have not ended."""
        stages: list[JobStage | str] = [JobStage.SCHEDULING, JobStage.RUNNING]
        with self._errors():
            return [*self.api.list_jobs(status=stages, labels={LABEL: self.label}, namespace=self.options.namespace)]

    def launch(self, numbers: Sequence[int]) -> list[JobInfo]:
        """Launch as many jobs as there are workers, each with a share of the units."""
        workers = min(self.options.workers, len(numbers))
        self._say_price(workers)
        launch = Launch.create(self.job, divided(numbers, workers))
        jobs: list[JobInfo] = []
        try:
            for rank in range(workers):
                with self._errors():
                    jobs.append(self._run(launch, rank))
                self.say(f"job {jobs[-1].id} is launched: {jobs[-1].url}")
        except BaseException:
            self.cancel(job.id for job in jobs)
            raise
        return jobs

    def _run(self, launch: Launch, rank: int) -> JobInfo:
        options, install = self.options, [] if self.options.image else ["uv", "run", "--with", PACKAGE]
        return self.api.run_job(
            image=options.image or UV_IMAGE,
            command=[*install, "python", "-m", "hf_toedit.scale.launches", self.job.out, launch.name, str(rank)],
            env={name: os.environ[name] for name in ("HF_ENDPOINT",) if name in os.environ},
            secrets={"HF_TOKEN": self.token},
            flavor=options.flavor,
            timeout=options.timeout,
            name=f"toedit-{rank}",
            labels={LABEL: self.label},
            namespace=options.namespace,
        )

    def _say_price(self, workers: int) -> None:
        """Say what an hour costs. Raises ConfigError for hardware that does not exist."""
        with self._errors():
            hardware = {flavor.name: flavor for flavor in self.api.list_jobs_hardware()}
        chosen = hardware.get(self.options.flavor)
        if chosen is None:
            known = nearest(self.options.flavor, hardware)
            raise ConfigError(f"--flavor {self.options.flavor!r} is not hardware of Hugging Face Jobs{known}")
        cost, unit = chosen.unit_cost_usd * workers, chosen.unit_label
        cost, unit = (60 * cost, "hour") if unit == "minute" else (cost, unit)
        self.say(f"jobs: {workers} on {chosen.pretty_name}, ${cost:,.2f} per {unit}, {self.options.timeout} at most")

    def follow(self, jobs: Sequence[JobInfo], numbers: Sequence[int], on_batch: OnBatch) -> None:
        """Wait until all jobs have ended, and report what changes and which units are done."""
        stages, waited_for = dict.fromkeys((job.id for job in jobs), ""), set(numbers)
        ranks = {number: rank for rank, share in enumerate(self._shares()) for number in share}
        try:
            while not all(stage in ENDED for stage in stages.values()):
                for info in self._inspected([id for id, stage in stages.items() if stage not in ENDED]):
                    if info.status.stage != stages[info.id]:
                        stages[info.id] = info.status.stage
                        self._say_stage(info)
                for number in self._done(waited_for):
                    waited_for.remove(number)
                    on_batch(ranks.get(number, 0), _whole(self.job, number))
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            self.cancel(id for id, stage in stages.items() if stage not in ENDED)
            raise
        for id, stage in stages.items():
            if stage in (JobStage.CANCELED, JobStage.DELETED):
                raise SourceError(f"job {id} was cancelled: the same command resumes")

    def _shares(self) -> list[list[int]]:
        launch = Launch.newest(self.job, "ranks")
        shares: list[list[int]] = launch.read("ranks") if launch else []
        return shares

    def _inspected(self, ids: Sequence[str]) -> list[JobInfo]:
        """The jobs as they are now. Raises SourceError if the Hub does not answer for long."""
        for wait in (*[POLL_SECONDS] * MOST_MISSED, None):
            try:
                with self._errors():
                    return [self.api.inspect_job(job_id=id, namespace=self.options.namespace) for id in ids]
            except SourceError as error:
                if wait is None:
                    raise SourceError(f"{error}; the jobs may still run: the same command follows them") from error
                time.sleep(wait)
        raise AssertionError

    def _done(self, numbers: set[int]) -> list[int]:
        """Those of the units that are done."""
        names = set(self.job.storage.names(MANIFESTS))
        return [n for n in sorted(numbers) if f"{n:06d}.json" in names and self.job.manifest(n) is not None]

    def _say_stage(self, info: JobInfo) -> None:
        """Say what a job does now; of one that failed, also its last lines."""
        why = f" ({visible(scrubbed(info.status.message))})" if info.status.message else ""
        self.say(f"job {info.id}: {str(info.status.stage).lower()}{why}")
        if info.status.stage == JobStage.ERROR:
            with suppress(SourceError), self._errors():
                options: dict[str, Any] = {"namespace": self.options.namespace, "tail": LOG_LINES}
                for line in self.api.fetch_job_logs(job_id=info.id, **options):
                    self.say(f"  {visible(scrubbed(line.replace(str(self.token), MASK)))}")

    def cancel(self, ids: Iterable[str]) -> None:
        for id in ids:
            try:
                with self._errors():
                    self.api.cancel_job(job_id=id, namespace=self.options.namespace)
                self.say(f"job {id} is cancelled")
            except SourceError as error:
                self.say(f"job {id} may still run, `hf jobs cancel {id}` cancels it: {error}")

    def _errors(self) -> one_clear_line:
        return hub_errors(self.job.out, "run Hugging Face Jobs for")


def _whole(job: Job, number: int) -> BatchDone:
    """All rows of a unit that is done, as one batch."""
    manifest = job.manifest(number)
    assert manifest is not None
    rows, tokens = manifest.stats.num_rows, manifest.stats.tokens
    return BatchDone(number, rows, 0, rows, *(getattr(tokens, name) for name in COUNTED))
