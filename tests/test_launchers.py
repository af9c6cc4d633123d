"""One launcher at a time on an output: told at once on one machine, and without clocks between machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from hf_toedit import SourceError
from hf_toedit.files.processes import has_ended, this_process
from hf_toedit.scale import launchers
from hf_toedit.scale.launchers import FOLDER, PREFIX, only_launcher
from hf_toedit.scale.storage import LocalFolder

SAY_NAME = (
    "import time; from hf_toedit.files.processes import this_process as p; print(p(), flush=True); time.sleep(600)"
)
ELSEWHERE = "node7-01234567.0123abcd.1.7"


@pytest.fixture
def other():
    """Another process of this machine, and its name."""
    with subprocess.Popen([sys.executable, "-c", SAY_NAME], stdout=subprocess.PIPE, text=True) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


@pytest.fixture
def storage(folder):
    return LocalFolder(folder)


def announce(storage, name, *, runs=True, count=1):
    state = {"host": "node7", "runs": runs, "count": count}
    storage.write(f"{FOLDER}/{PREFIX}{name}", json.dumps(state).encode())


def names(storage):
    return launchers.launchers(storage)


def test_a_process_is_told_from_one_that_has_ended_and_from_a_later_one_with_its_id(other):
    process, name = other
    assert name != this_process()
    assert (has_ended(name), has_ended(this_process()), has_ended(f"{name}.a1b2")) == (False, False, False)
    assert has_ended(name[:-1] + str((int(name[-1]) + 1) % 10)) is True
    assert has_ended(ELSEWHERE) is has_ended("ab12") is None
    process.kill()
    for _ in range(1000):
        if has_ended(name):  # at the latest once its parent has taken notice
            break
        process.poll()
        time.sleep(0.01)
    assert has_ended(name) is True


def test_a_launcher_is_announced_while_it_runs(storage):
    with only_launcher(storage):
        assert names(storage) == [this_process()]
    assert names(storage) == []


def test_the_second_launcher_on_a_machine_is_refused_at_once_unless_the_first_is_dead(storage, other):
    process, name = other
    announce(storage, name)
    with pytest.raises(SourceError) as error, only_launcher(storage):
        pytest.fail("it began")
    assert str(error.value) == (
        f"another hf-toedit (process {process.pid}) is at work on this output: wait until it is done, or stop it"
    )
    assert names(storage) == [name]
    process.kill()
    process.wait()
    with only_launcher(storage):
        assert names(storage) == [this_process()]


def test_a_launcher_elsewhere_is_alive_if_its_count_changes_whatever_the_clocks_say(storage, monkeypatch, capsys):
    monkeypatch.setattr(launchers, "PATIENCE_SECONDS", 60.0)
    announce(storage, ELSEWHERE)
    os.utime(storage.path / FOLDER / f"{PREFIX}{ELSEWHERE}", (0, 0))  # far in the past, by its clock
    later = threading.Timer(0.5, announce, [storage, ELSEWHERE], {"count": 2})
    later.start()
    with pytest.raises(SourceError, match=r"another hf-toedit \(process 1 on node7\) is at work"):
        only_launcher(storage).__enter__()
    later.join()
    assert names(storage) == [ELSEWHERE]
    told = capsys.readouterr().err
    assert told == (
        "note: a launcher on node7 was at work on this output: checking whether it is still alive, for 60 seconds at "
        "most\n"
    )


def test_a_launcher_elsewhere_whose_count_stays_is_dead(storage, monkeypatch):
    monkeypatch.setattr(launchers, "PATIENCE_SECONDS", 0.5)
    announce(storage, ELSEWHERE)
    os.utime(storage.path / FOLDER / f"{PREFIX}{ELSEWHERE}", (2**32, 2**32))  # far in the future
    with only_launcher(storage):
        assert names(storage) == [this_process()]


def test_a_launcher_counts_on_while_it_runs(storage, monkeypatch):
    monkeypatch.setattr(launchers, "BEAT_SECONDS", 0.02)
    seen = set()
    with only_launcher(storage):
        while len(seen) < 3:
            seen.add(json.loads(storage.read(f"{FOLDER}/{PREFIX}{this_process()}"))["count"])


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_that_find_each_other_looking_the_first_by_name_goes_on(is_first, storage, other, monkeypatch):
    _, name = other
    own = name[:-1] if is_first else f"{name}0"  # sorts before or behind the other's
    monkeypatch.setattr(launchers, "this_process", lambda: own)
    announce(storage, name, runs=False)
    if is_first:
        threading.Timer(0.5, storage.remove, [f"{FOLDER}/{PREFIX}{name}"]).start()  # the other one withdraws
        with only_launcher(storage):
            assert names(storage) == [own]
    else:
        with pytest.raises(SourceError, match="is at work"):
            only_launcher(storage).__enter__()
        assert names(storage) == [name]
