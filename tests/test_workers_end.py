"""Workers end with the process that started them, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

# The parent starts a worker, which prints its own process id once it watches, and then works on.
PARENT = """
import multiprocessing, os, signal, sys, time
from hf_toedit.scale import interrupts

def work(stuck):
    if not stuck:
        interrupts.sys.platform = "elsewhere"  # where the kernel does not tell
    interrupts.end_with_parent()
    print(os.getpid(), flush=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    if stuck:  # it holds the interpreter, so that no other thread runs
        import ctypes
        ctypes.PyDLL(None).pause()
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    context.Process(target=work, args=(sys.argv[1] == "stuck",)).start()
    time.sleep(600)
"""


def has_ended(pid):
    """Whether a process is gone, or dead and about to be collected."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("worker", ["busy", "stuck"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_ends_with_its_parent(tmp_path, worker, number):
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script), worker], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.2)
        assert not has_ended(pid)
        os.kill(parent.pid, number)
        parent.wait(timeout=60)
    deadline = time.monotonic() + 60
    while not has_ended(pid):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.02)
