"""Attributes that are computed once, on first use, even where threads and forks meet."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from typing import Any, Self, TypeVar, overload

Value = TypeVar("Value")
computing = threading.RLock()


def _renew() -> None:
    global computing
    computing = threading.RLock()


# A forked process has none of the other threads, and would wait forever for what they had locked, such as an import.
os.register_at_fork(
    before=lambda: computing.acquire(), after_in_parent=lambda: computing.release(), after_in_child=_renew
)


class computed_once(cached_property[Value]):  # noqa: N801 - a decorator, like the one it extends
    """A `cached_property` that no two threads compute, and during which no other thread forks the process.

    So `map(num_proc=2)` waits while another thread loads a prior. The lock is one for all attributes.
    """

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> Value: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        with computing:
            return super().__get__(instance, owner)
