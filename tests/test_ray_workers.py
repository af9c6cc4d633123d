"""`hf-toedit edit --executor ray`: on a stand-in for Ray, and (slow) on a real local cluster."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import ray
from command_line import fail, run
from ray.exceptions import RayActorError
from test_cli import EDIT, ROWS, write_jsonl

from hf_toedit import PriorError, SourceError
from hf_toedit.scale import ray_workers
from hf_toedit.scale.job import Job
from hf_toedit.scale.planning import spool
from hf_toedit.scale.ray_workers import MOST_RETRIES, RayOptions, edit_on_ray

RAY = ["--executor", "ray"]

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(sys.modules["hf_toedit.cli.edit"], "spool", partial(spool, unit_bytes=400))


@pytest.fixture
def edit():
    rows = [{"id": i, "text": ROWS[i % len(ROWS)]["text"]} for i in range(40)]
    return ["edit", write_jsonl(Path("rows.jsonl"), rows), *EDIT]


def shards(out):
    return {file.name: file.read_bytes() for file in Path(out, "data").iterdir()}


class FakeRay:
    """What ray_workers needs of Ray, with actors that are called when they are waited for, the newest first.

    actors: those that were made. asked: the options of each. dies: units whose worker always dies.
    """

    def __init__(self):
        self.actors, self.asked, self.killed, self.dies = [], [], [], set()

    def is_initialized(self):
        return True

    def remote(self, kind):
        fake = self

        class Method:
            def __init__(self, actor):
                self.actor = actor

            def remote(self, *arguments):
                return (self.actor, arguments)

        class Actor:
            def __init__(self, *arguments):
                self.real = kind(*arguments)
                self.edit = Method(self)
                fake.actors.append(self)

            @classmethod
            def options(cls, **options):
                fake.asked.append(options)
                return cls

            @classmethod
            def remote(cls, *arguments):
                return cls(*arguments)

        return Actor

    def wait(self, references, timeout):
        assert len(references) == len({actor for actor, _ in references}) <= len(self.actors)
        return references[-1:], references[:-1]

    def get(self, reference):
        actor, (number, reports) = reference
        assert actor not in self.killed
        if number in self.dies:
            raise RayActorError
        return actor.real.edit(number, reports)

    def kill(self, actor):
        self.killed.append(actor)
