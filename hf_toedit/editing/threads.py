"""Run work in a second thread alongside the caller's. Nothing here depends on what the work is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Item = TypeVar("Item")
END: Final = object()


class Here(Executor):
    """Runs each call immediately, in the caller's thread."""

    def submit(
        self, function: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        future: Future[Result] = Future()
        future.set_result(function(*args, **kwargs))
        return future


def thread_beside(num_steps: int) -> Executor:
    """One thread for work in several steps; with fewer than two there is nothing to overlap, so no thread is used."""
    return ThreadPoolExecutor(1) if num_steps > 1 else Here()


def ahead(thread: Executor, items: Iterator[Item]) -> Iterator[Item]:
    """Yield the items in order, each computed in the thread while the caller works on the previous one, no earlier.

    An exception raised while computing an item is raised where the item would have been yielded.
    """
    coming = thread.submit(next, items, END)
    while (item := coming.result()) is not END:
        coming = thread.submit(next, items, END)
        yield item  # type: ignore[misc]
