"""A thread beside the caller's: the items and their order, how far ahead it is, and that nothing is left of it."""

from __future__ import annotations

import threading

import pytest

from hf_toedit.editing.threads import ahead, thread_beside

SECONDS = 20


class Steps:
    """Items 0, 1, ... that remember the thread in which each was computed. breaks_at: the item that raises."""

    def __init__(self, number, breaks_at=None):
        self.number, self.breaks_at = number, breaks_at
        self.threads = []
        self.begun = [threading.Event() for _ in range(number)]

    def __iter__(self):
        for i in range(self.number):
            self.threads.append(threading.current_thread())
            self.begun[i].set()
            if i == self.breaks_at:
                raise ValueError(f"item {i}")
            yield i


@pytest.fixture
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


pytestmark = pytest.mark.usefixtures("no_thread_left")


@pytest.mark.parametrize("number", [0, 1, 2, 7])
def test_all_items_come_in_order(number):
    steps = Steps(number)
    with thread_beside(number) as thread:
        assert list(ahead(thread, iter(steps))) == list(range(number))
        assert len(steps.threads) == number


@pytest.mark.parametrize("number", [0, 1])
def test_where_there_is_nothing_to_overlap_the_caller_does_the_work(number):
    steps = Steps(number)
    with thread_beside(number) as thread:
        list(ahead(thread, iter(steps)))
        assert thread.submit(threading.current_thread).result() is threading.current_thread()
        assert set(steps.threads) <= {threading.current_thread()}


def test_one_other_thread_computes_all_items_and_what_is_submitted():
    steps = Steps(5)
    with thread_beside(5) as thread:
        seen = [thread.submit(threading.current_thread) for _ in ahead(thread, iter(steps))]
    [worker] = {*steps.threads, *(future.result() for future in seen)}
    assert worker is not threading.current_thread()


def test_the_next_item_is_computed_while_the_caller_works_and_no_further_one():
    steps = Steps(4)
    with thread_beside(4) as thread:
        items = ahead(thread, iter(steps))
        assert not steps.threads  # nothing before it is asked for
        for item in items:
            if item < 3:
                assert steps.begun[item + 1].wait(SECONDS)
            thread.submit(int).result(SECONDS)  # all that the thread had to do is done
            assert len(steps.threads) == min(item + 2, 4)


def test_an_error_comes_where_the_item_would_have_come():
    steps = Steps(5, breaks_at=2)
    with thread_beside(5) as thread:
        items = ahead(thread, iter(steps))
        got = [next(items), next(items)]
        with pytest.raises(ValueError, match="item 2"):
            next(items)
    assert got == [0, 1]
    assert len(steps.threads) == 3


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_or_an_interrupt_of_the_caller_ends_the_work(error):
    steps = Steps(100)

    def work():
        with thread_beside(100) as thread:
            for item in ahead(thread, iter(steps)):
                if item == 3:
                    raise error("the caller broke")

    with pytest.raises(error, match="the caller broke"):
        work()
    assert len(steps.threads) == 5  # one ahead


def test_items_that_are_not_asked_for_are_not_computed():
    steps = Steps(100)
    with thread_beside(100) as thread:
        items = ahead(thread, iter(steps))
        assert [next(items), next(items)] == [0, 1]
        items.close()
    assert len(steps.threads) == 3
