"""The device and the threads that a process computes with."""

from __future__ import annotations

import os

IMPORT_PID = os.getpid()


def pick_device() -> str:
    """The accelerator of this process's rank, or the CPU."""
    import torch

    if not torch.accelerator.is_available():
        return "cpu"
    kind = torch.accelerator.current_accelerator()
    return f"{kind}:{_process_rank() % torch.accelerator.device_count()}"


def _process_rank() -> int:
    """The rank that a launcher gave this process, else its number among the workers of its parent."""
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    import multiprocessing

    import multiprocess  # what `map(num_proc=...)` of datasets uses

    for library in (multiprocess, multiprocessing):
        identity: tuple[int, ...] = library.current_process()._identity
        if identity:
            return identity[0] - 1
    return 0


def is_worker() -> bool:
    """Whether multiprocessing, of the standard library or the one of datasets and datatrove, started this process."""
    import multiprocessing

    import multiprocess

    return any(library.parent_process() is not None for library in (multiprocessing, multiprocess))


def leave_parent_threads() -> None:
    """In a forked process, compute in one thread: the parent's thread pool does not survive a fork."""
    if os.getpid() != IMPORT_PID:
        import torch

        torch.set_num_threads(1)
