"""Work in a thread beside the caller's. Nothing here knows what the work is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Item = TypeVar("Item")
END: Final = object()


class Here(Executor):
    """Runs each call at once, in the caller's thread."""

    def submit(
        self, function: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        future: Future[Result] = Future()
        future.set_result(function(*args, **kwargs))
        return future


def thread_beside(num_steps: int) -> Executor:
    """One thread for work of several steps; with fewer than two there is nothing to overlap, and no thread."""
    return ThreadPoolExecutor(1) if num_steps > 1 else Here()


def ahead(thread: Executor, items: Iterator[Item]) -> Iterator[Item]:
    """The items in order, each computed in the thread while the caller works on the one before, and no earlier.

    What computing an item raises is raised where the item would have come.
    """
    coming = thread.submit(next, items, END)
    while (item := coming.result()) is not END:
        coming = thread.submit(next, items, END)
        yield item  # type: ignore[misc]
