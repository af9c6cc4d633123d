"""Outputs for the tests of units: planned from rows in memory, with a prior that can be told to fail."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
from conftest import load_tokenizer
from datasets import DatasetDict

from hf_toedit import PriorError, StaticPrior, ToEditTransform
from hf_toedit.scale.job import Job
from hf_toedit.scale.plan import Plan
from hf_toedit.scale.planning import spool

NUM_ROWS, BATCH_SIZE = 60, 8
TEXTS = [f"row {i} of the cat sat on the mat and the dog lay by the door until the rain came" for i in range(NUM_ROWS)]


def surely(ids, t):
    """Nearly certain of every token, with one other choice, so that every eligible token changes."""
    return {int(ids[t]): 0.995, (int(ids[t]) * 7 + t) % 100 + 260: 0.005}


class FailingPrior:
    """A StaticPrior that fails when it is told to.

    fails: a function of the number of the call and its requests that says whether it fails.
    """

    def __init__(self, fails, error=lambda: PriorError("no answer")):
        self.static = StaticPrior(load_tokenizer("demo"), surely, max_length=512)
        self.fails, self.error, self.num_calls, self.num_failures = fails, error, 0, 0

    def __getattr__(self, name):
        if name.startswith("__") or name == "static":
            raise AttributeError(name)
        return getattr(self.static, name)

    def score(self, requests, top_k):
        self.num_calls += 1
        if self.fails(self.num_calls, requests):
            self.num_failures += 1
            raise self.error()
        return self.static.score(requests, top_k)


def never(call, requests):
    return False


def on(*rows):
    """Fails on these rows of TEXTS, in whatever company."""
    tokenizer = load_tokenizer("demo")

    def fails(call, requests):
        return any(f"row {i} of" in tokenizer.decode(request.input_ids) for request in requests for i in rows)

    return fails


def job_of(folder, dataset, prior, *, unit_bytes=1000, batch_size=BATCH_SIZE, **config):
    """A planned output in which nothing is done yet."""
    transform = ToEditTransform(prior, **{"exclude_target": True, **config})
    job = Job(str(folder))
    (Path(folder) / ".toedit").mkdir(parents=True)
    splits = dataset if isinstance(dataset, DatasetDict) else DatasetDict(train=dataset)
    planned = spool(splits.items(), job.storage, unit_bytes)
    about = {"source": None, "earlier": [], "read_by": []}
    record = transform.provenance()
    plan = Plan({"batch_size": batch_size, "threads": 1}, record, planned.features, planned.files, planned.units, about)
    job.create(plan, ToEditTransform("demo"))
    job.__dict__["transform"] = transform
    return job


def shards(job):
    """The bytes of the shards by name."""
    return {path.name: path.read_bytes() for path in sorted((job.storage.path / ".toedit/data").iterdir())}


def table_of(shards):
    """The rows of shards, in order."""
    return [row for name in sorted(shards) for row in pq.read_table(io.BytesIO(shards[name])).to_pylist()]


def statuses(job):
    return [row["toedit"]["status"] for row in table_of(shards(job))]
