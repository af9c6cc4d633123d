"""Which units each rank of a launch edits, and what becomes of a rank whose workers die."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killed_edit import DEADLY, stuck
from test_workers import planned
from test_workers_end import has_ended

from hf_toedit import SourceError
from hf_toedit.scale import workers
from hf_toedit.scale.launches import ROUNDS, Launch, divided, halving

pytestmark = pytest.mark.usefixtures("folder")


SIZES = [(1, 1), (7, 2), (8, 2), (9, 2), (127, 1), (5000, 32), (5000, 300), (5000, 900), (900, 900)]


@pytest.mark.parametrize(("num_units", "num_workers"), SIZES)
def test_shares_are_neighbours_that_have_each_unit_once(num_units, num_workers):
    numbers = list(range(10, 10 + num_units))
    equal, halved = divided(numbers, num_workers), halving(numbers, num_workers)
    for shares in (equal, halved):
        assert [number for share in shares for number in share] == numbers
        assert all(shares)
    sizes = [len(share) for share in equal]
    assert len(sizes) == num_workers
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("num_units", "num_workers"), SIZES)
def test_a_share_that_begins_late_is_small(num_units, num_workers):
    """No larger than what each worker would get of half the units left at its round's start, or than a last round."""
    sizes = [len(share) for share in halving(list(range(num_units)), num_workers)]
    assert num_workers <= len(sizes) <= num_workers * ROUNDS
    assert sizes == sorted(sizes, reverse=True)
    for share in range(0, len(sizes), num_workers):
        assert sizes[share] <= max(
            math.ceil(sum(sizes[share:]) / 2 / num_workers), math.ceil(num_units / 64 / num_workers)
        )
    assert sizes[-1] <= math.ceil(num_units / 64 / num_workers)


def test_a_unit_that_kills_its_worker_three_times_leaves_the_rest_of_its_rank_alone(monkeypatch):
    job = planned(["a", DEADLY, "b", "c", "d"])
    starts = []

    def start(self, index, gpus, then=workers._Pool.start):
        starts.append(index)
        then(self, index, gpus)

    monkeypatch.setattr(workers._Pool, "start", start)
    launch = Launch.create(job, [[0, 1, 2, 3], [4]])
    with pytest.raises(
        SourceError, match=r"^1 of 4 units failed; unit 1: its worker died 3 times \(killed by signal 9\)"
    ):
        launch.edit_rank(0, say=lambda line: None)
    assert job.to_do() == [1, 4]
    assert starts == [0] * 4  # one that edits all, and one after each death: each loads the prior once


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_rank_that_is_terminated_ends_its_worker():
    job = planned(["a"], stuck)
    launch = Launch.create(job, [[0]])
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-m", "hf_toedit.scale.launches", job.out, launch.name, "0"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as rank:
        while not (file := Path("stuck")).exists() or not file.read_text().endswith("\n"):
            assert rank.poll() is None, "the rank ended"
            time.sleep(0.1)
        worker = int(file.read_text())
        assert worker != rank.pid
        assert not has_ended(worker)
        rank.terminate()
        assert rank.wait(timeout=60) != 0
    deadline = time.monotonic() + 60
    while not has_ended(worker):
        assert time.monotonic() < deadline, "the worker outlived its rank"
        time.sleep(0.02)
