"""Workers of `simulate` and `sweep`: killed, interrupted, or given what they can't import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hf_toedit.collapse import Gaussian, Replace, simulate, sweep
from hf_toedit.collapse.simulation import _chunks
from hf_toedit.errors import ConfigError, ToEditError

SIZES = {"n": 10, "generations": 3, "runs": 150, "workers": 2}
FEW = {"generations": 3, "runs": 5, "workers": 2}
LONG = ["--n", "1000", "--generations", "1000", "--runs", "600", "--workers", "2", "--workflow", "replace"]
COMMAND = [sys.executable, "-m", "hf_toedit", "collapse", "gaussian", *LONG, "--out", "out"]


@dataclass(frozen=True)
class Killed(Gaussian):
    def fit(self, rows, truth):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line():
    line = "a worker process ended unexpectedly; if nothing above says why, the memory may be full: use fewer workers"
    for work in (
        lambda: simulate(Killed(), Replace(), **SIZES),
        lambda: sweep([Killed()], [Replace()], [10, 20], **FEW),
    ):
        with pytest.raises(ToEditError) as error:
            work()
        assert str(error.value) == line


def test_a_setting_that_workers_cannot_import_is_one_line():
    @dataclass(frozen=True)
    class Inner(Gaussian):
        pass

    with pytest.raises(ConfigError, match="move its class to the top of a module, or set workers=1"):
        simulate(Inner(), Replace(), **SIZES)
    assert simulate(Inner(), Replace(), **{**SIZES, "workers": 1}).values_RG


NOTEBOOK = """
from dataclasses import dataclass
from hf_toedit.collapse import Gaussian, Replace, simulate

@dataclass(frozen=True)
class Mine(Gaussian):
    pass

print("started", len(simulate(Mine(), Replace(), n=10, generations=3, runs=150, workers=WORKERS).table()))
"""


def test_a_setting_of_a_notebook_is_one_line_and_runs_in_one_process():
    for workers, says in {
        1: "started 9",
        2: "worker processes can't import what is defined in a notebook or at a prompt",
    }.items():
        line = [sys.executable, "-c", NOTEBOOK.replace("WORKERS", str(workers))]
        found = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
        assert says in found.stdout + found.stderr.splitlines()[-1] if found.stderr else found.stdout


def test_no_workers_are_refused():
    with pytest.raises(ConfigError, match="workers=0 must be 1 or more"):
        sweep([Gaussian()], [Replace()], [10], **{**FEW, "workers": 0})


def workers_of(process):
    """The ids of a process's workers that have begun."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{name}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            words = Path(f"/proc/{name}/cmdline").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(stat[2]) == process.pid and stat[0] != "Z" and "spawn_main" in words:
            found.append(int(name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGINT, "interrupted"), pytest.param(signal.SIGTERM, "terminated", marks=pytest.mark.slow)],
)
def test_a_signal_ends_the_workers_too_and_leaves_nothing_behind(number, word, folder):
    with subprocess.Popen(
        COMMAND,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        deadline = time.monotonic() + 120
        while len(workers_of(process)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal sends it to the whole group
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)  # far less than the work takes
    assert process.returncode == 128 + number
    assert [line for line in errors.replace("\r", "\n").splitlines() if line and "models" not in line] == [
        f"error: {word}"
    ]
    assert not workers_of(process)
    assert not os.listdir()


def test_as_many_runs_at_a_time_as_the_models_leave_room_for():
    assert [*_chunks(Gaussian(5), 30, 200)] == [100, 100]
    assert [*_chunks(Gaussian(1200), 30, 60)] == [23, 23, 14]  # 2**28 bytes hold 23 covariances
