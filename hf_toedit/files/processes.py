"""Names of processes, unique among all machines that share a disk, from which one can tell whether they have ended."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import uuid
from functools import cache
from pathlib import Path

FIRST_SPACE = "pid:[4026531836]"  # Linux's name for the processes of the machine itself, not of a container


def this_process() -> str:
    """The name of this process: machine, boot, process id and start time, as in `node7-3f2a91c0.8d1e.1234.8675309`."""
    pid = os.getpid()
    return f"{_host()}.{_boot()}.{pid}.{_started(pid)}"


def has_ended(name: str) -> bool | None:
    """Whether a process has ended; None if that can't be told, since it ran on another machine.

    name: as `this_process` gave it there, with or without more behind another dot.
    """
    host, boot, pid, started, *_ = [*name.split("."), "", "", ""]
    if host != _host() or not pid.isdecimal():
        return None
    return boot != _boot() or _started(int(pid)) != started


@cache
def _host() -> str:
    """A name of this machine or container, whose processes can be seen; of a container, until the next boot alone."""
    space = _link("/proc/self/ns/pid")
    lasting = _read("/etc/machine-id") if space == FIRST_SPACE else ""
    parts = (platform.node(), lasting or f"{uuid.getnode()}{space}{_boot()}")
    digest = hashlib.blake2b("\n".join(parts).encode(), digest_size=4).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', platform.node())[:40]}-{digest}"


def _boot() -> str:
    return _read("/proc/sys/kernel/random/boot_id").replace("-", "") or "unknown"


def _started(pid: int) -> str:
    """When a process started, in ticks since the boot; "never" if there is none, "once" where it can't be known."""
    stat = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if stat:
        return stat[19] if stat[0] not in "ZX" else "never"
    if Path("/proc/self/stat").exists():
        return "never"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "never"
    except PermissionError:
        pass
    return "once"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
