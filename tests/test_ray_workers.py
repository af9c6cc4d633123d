"""`hf-toedit edit --executor ray`: on a stand-in for Ray, and (slow) on a real local cluster."""

# ruff: noqa: F811 - fixtures

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
from command_line import fail, run
from ray.exceptions import RayActorError
from ray.util.queue import Empty
from small_edit import NUM_ROWS, edit, shards, undisturbed  # noqa: F401 - fixtures

from hf_toedit import PriorError
from hf_toedit.scale import ray_workers
from hf_toedit.scale.job import MANIFESTS, Job
from hf_toedit.scale.ray_workers import MOST_RETRIES, edit_on_ray

RAY = ["--executor", "ray", "--threads", "1"]

pytestmark = pytest.mark.usefixtures("folder")


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


class FakeQueue:
    def __init__(self):
        self.items = []

    def put(self, item):
        self.items.append(item)

    def get_nowait(self):
        if not self.items:
            raise Empty
        return self.items.pop(0)

    def shutdown(self, force):
        assert force


@pytest.fixture
def fake(monkeypatch):
    fake = FakeRay()
    monkeypatch.setattr(ray_workers, "ray", fake)
    monkeypatch.setattr(ray_workers, "Queue", lambda actor_options: FakeQueue())
    return fake


def test_actors_edit_what_the_local_executor_would(edit, fake, undisturbed):
    run(
        *edit,
        "--out",
        "out",
        *RAY,
        "--workers",
        "3",
        "--threads",
        "1",
        "--gpus-per-worker",
        "1",
        "--mem-per-worker",
        "4",
    )
    assert shards("out") == undisturbed
    assert len(fake.actors) == 3
    assert sorted(fake.killed, key=id) == sorted(fake.actors, key=id)
    [asked] = fake.asked
    assert asked == {
        "num_cpus": 1,
        "num_gpus": 1,
        "memory": 4_000_000_000,
        "max_restarts": -1,
        "max_task_retries": MOST_RETRIES,
    }


def test_a_unit_whose_worker_always_dies_is_left_for_the_next_call(edit, fake, undisturbed):
    fake.dies = {2}
    line = fail(*edit, "--out", "out", *RAY, "--workers", "2")
    assert re.search(r"1 of \d+ units failed; unit 2: its worker died 3 times", line)
    assert Job("out").to_do() == [2]
    fake.dies = set()
    run(*edit, "--out", "out")
    assert shards("out") == undisturbed


def test_what_stops_everything_is_one_line(edit, fake, monkeypatch):
    def broken(*_, **__):
        raise PriorError("its weights are gone")

    monkeypatch.setattr(ray_workers, "edit_units", broken)
    assert fail(*edit, "--out", "out", *RAY, "--workers", "2").startswith("error: its weights are gone")
    assert len(fake.killed) >= 1


def test_a_node_that_does_not_see_the_output(edit, fake, monkeypatch):
    class Elsewhere(Job):
        def is_planned(self):
            return False

    monkeypatch.setattr(ray_workers, "Job", Elsewhere)
    assert "does not see the output" in fail(*edit, "--out", "out", *RAY)


def test_batches_are_reported_with_their_worker(edit, fake, monkeypatch):
    reports = []

    def told(job, numbers, options, on_batch):
        edit_on_ray(job, numbers, options, lambda *report: (reports.append(report), on_batch(*report)))

    monkeypatch.setattr(ray_workers, "edit_on_ray", told)
    run(*edit, "--out", "out", *RAY, "--workers", "2")
    assert {worker for worker, _ in reports} == {0, 1}
    assert sum(batch.num_rows for _, batch in reports) == NUM_ROWS
    assert {batch.unit for _, batch in reports} == set(range(len(Job("out").plan.units)))


def test_no_cluster_at_an_address(edit, monkeypatch):
    def refuse(**_):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", refuse)
    line = fail(*edit, "--out", "out", *RAY, "--address", "auto")
    assert "can't connect to the Ray cluster: Could not find any running Ray instance.; see `ray status`" in line
    assert not Path("out").exists()


def busy_workers():
    """The processes of this test's actors that edit a unit."""
    for process in Path("/proc").iterdir():
        try:
            is_busy = (process / "cmdline").read_text().startswith("ray::Worker.edit")
            if is_busy and (process / "cwd").resolve() == Path.cwd():
                yield int(process.name)
        except OSError:
            continue


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the workers in /proc")
def test_a_worker_killed_on_a_real_cluster(edit, undisturbed):
    killed = []

    def kill_one():
        while not killed:
            if Path("out", MANIFESTS).exists():
                for pid in busy_workers():
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return
            time.sleep(0.001)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    run(*edit, "--out", "out", *RAY, "--workers", "2")
    killer.join(1)
    assert killed
    assert shards("out") == undisturbed
    assert not [*busy_workers()]
    assert not ray.is_initialized()
