"""SIGKILL anywhere: a restart finishes, and the output is that of an undisturbed run, byte for byte."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import killed_edit
import made
import pyarrow.parquet as pq
import pytest

DRIVER = Path(killed_edit.__file__)
NUM_ROWS = 240
MARK = "KILLED_EDIT_FOLDER"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    texts = made.human_texts()
    with (folder / "a.jsonl").open("w", encoding="utf-8") as file:
        for number in range(NUM_ROWS):
            text = ("" if number % 50 == 7 else texts[number][:80]).ljust(80, ".")
            file.write(json.dumps({"id": number, "text": text}) + "\n")
    return folder / "a.jsonl"


class Storm:
    """One output, edited by runs that are killed, until one finishes."""

    def __init__(self, source, folder):
        self.source, self.folder = source, folder
        (folder / "orders").mkdir(parents=True)
        (folder / "begun").touch()

    def start(self, workers):
        line = [sys.executable, str(DRIVER), "edit", str(self.source), "--prior", "scripted"]
        line += ["--threshold", "0.5", "--threads", "1", "--batch-size", "5", "--unit-size", "1KB"]
        line += ["--workers", str(workers), "--progress", "none", "--out", str(self.folder / "out")]
        environment = {**os.environ, MARK: str(self.folder), "HF_DATASETS_CACHE": str(self.folder / "cache")}
        return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def processes(self):
        """The ids of all processes of the runs that are alive, whoever their parent is by now."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.folder}\0".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def order(self, place, victim, run):
        """Have a process killed at a place; whether one came there before the run ended."""
        order = self.folder / "orders" / f"{place}.{victim}"
        order.touch()
        wait(lambda: not order.exists() or run.poll() is not None)
        try:
            order.unlink()
        except FileNotFoundError:
            return True
        return False

    def num_begun(self):
        return len((self.folder / "begun").read_text().split())

    def result(self):
        """What an output holds: the files with rows and the manifests, without the time that a unit took."""
        out = self.folder / "out"
        manifests = [json.loads(file.read_text()) for file in sorted((out / ".toedit/units").iterdir())]
        shards = {file.name: file.read_bytes() for file in sorted((out / "data").iterdir())}
        return shards, [{name: value for name, value in one.items() if name != "seconds"} for one in manifests]


def wait(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(run):
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    return errors


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    """What an undisturbed run on one worker gives."""
    storm = Storm(source, tmp_path_factory.mktemp("undisturbed"))
    finish(storm.start(workers=1))
    shards, manifests = storm.result()
    assert len(shards) == len(manifests) == storm.num_begun() > 20
    return shards, manifests


def check(storm, undisturbed, most_lost):
    """The output is as it would be without kills, and there is nothing else."""
    assert storm.result() == undisturbed
    shards = [pq.read_table(file, columns=["id"]) for file in sorted((storm.folder / "out/data").iterdir())]
    assert [id for shard in shards for id in shard["id"].to_pylist()] == [*range(NUM_ROWS)]
    assert storm.num_begun() - len(undisturbed[0]) <= most_lost
    assert sorted(os.listdir(storm.folder / "out/.toedit")) == ["plan.json", "units"]
    assert not list(storm.folder.glob("*.partial")) + list(storm.folder.glob(".toedit*"))
    wait(lambda: not storm.processes(), 20)


def test_a_worker_and_a_parent_that_are_killed_cost_a_unit_of_each_worker(source, undisturbed, tmp_path):
    storm = Storm(source, tmp_path)
    run = storm.start(workers=2)
    assert storm.order("before_manifest", "worker", run)
    assert storm.order("in_shard", "parent", run)
    run.communicate(timeout=60)
    assert run.returncode == -signal.SIGKILL
    wait(lambda: not storm.processes(), 20)
    assert list((tmp_path / "out/.toedit/tmp").iterdir()), "half a shard is left"
    finish(storm.start(workers=1))
    check(storm, undisturbed, most_lost=1 + 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "seed"), [([1], 0), ([2], 1), ([4], 2), ([1, 2, 4], 3), ([4, 1, 2], 4), ([2, 3], 5)]
)
def test_no_kill_changes_a_byte(counts, seed, source, undisturbed, tmp_path):
    """Twelve kills each, at a place or a random time, over as many outputs as it takes."""
    chance = random.Random(seed)
    num_kills = 0
    while num_kills < 12:
        storm = Storm(source, tmp_path / str(num_kills))
        lost, code = 0, None
        while code != 0:
            workers = chance.choice(counts)
            run = storm.start(workers)
            while run.poll() is None and num_kills < 12:
                victim = chance.choice(["worker", "parent"])
                if kill_one(storm, run, victim, chance):
                    num_kills += 1
                    lost += workers if victim == "parent" or workers == 1 else 1
            _, errors = run.communicate(timeout=300)
            code = run.returncode
            assert code in (0, -signal.SIGKILL), errors
            wait(lambda storm=storm: not storm.processes(), 20)
        check(storm, undisturbed, lost)


def kill_one(storm, run, victim, chance):
    """Kill a worker or the parent, at a place or a random time; whether that came to pass."""
    if chance.random() < 0.6:
        return storm.order(chance.choice(killed_edit.PLACES), victim, run)
    time.sleep(chance.uniform(0, 4))
    workers = [pid for pid in storm.processes() if is_worker(pid)]
    pid = chance.choice(workers) if workers and victim == "worker" else run.pid
    if run.poll() is not None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def is_worker(pid):
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
