"""Names of processes, unique among all machines that share a disk, from which one can tell whether they have ended."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path


def this_process() -> str:
    """The name of this process: machine, process id and start time, as in `3f2a91c07be4-1234-8675309`."""
    return f"{_machine()}-{os.getpid()}-{_started(os.getpid())}"


def has_ended(name: str) -> bool | None:
    """Whether a process has ended; None if that can't be told, since it ran on another machine.

    name: as `this_process` gave it there, with or without more behind another hyphen.
    """
    machine, pid, started, *_ = [*name.split("-"), "", ""]
    if machine != _machine() or not pid.isdecimal():
        return None
    with suppress(PermissionError):  # it is another user's
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
    return _started(int(pid)) != started  # its id may be that of a new process by now


@cache
def _machine() -> str:
    """12 hex characters that identify this machine since it was booted, and the container within it."""
    identity = [socket.gethostname()]
    if sys.platform == "linux":
        with suppress(OSError):
            identity = [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.blake2b("\n".join(identity).encode(), digest_size=6).hexdigest()


def _started(pid: int) -> str:
    """When a process was started, in clock ticks since boot; empty if there is none, or where /proc is missing."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = line.rpartition(")")[2].split()
    return "" if state == "Z" else fields[18]
