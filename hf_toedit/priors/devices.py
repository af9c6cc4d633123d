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
    """The rank that a launcher gave this process, else its number among the workers of `map(num_proc=...)`."""
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    from multiprocess import current_process

    identity: tuple[int, ...] = current_process()._identity
    return identity[0] - 1 if identity else 0


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
