"""`edit_rows` in several processes, and forks beside other threads."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import made
import multiprocess
import pytest
from datasets import Dataset

from hf_toedit import SourceError, StaticPrior, ToEditError, ToEditTransform
from hf_toedit.editing.once import computed_once
from hf_toedit.errors import no_room
from hf_toedit.priors.devices import _process_rank
from hf_toedit.scale.mapping import edit_rows

pytestmark = pytest.mark.usefixtures("folder")
TEXTS = [f"Return the value of item {i} if it is in the list." for i in range(40)]


def fairly_sure(input_ids, t):
    return {int(input_ids[t]): 0.6, 30 + t: 0.4}


def killed(input_ids, t):
    os.kill(os.getpid(), signal.SIGKILL)


def full(input_ids, t):
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        raise SourceError("can't write") from error


def transform_of(distribution):
    prior = StaticPrior(made.FAMILIES["made-gpt2"](), distribution)
    return ToEditTransform(prior, threshold=0.5, exclude_target=True)


def test_rows_edited_by_two_processes_are_those_of_one(folder):
    rows = Dataset.from_dict({"text": TEXTS, "id": range(len(TEXTS))})
    transform, method, before = transform_of(fairly_sure), multiprocess.get_start_method(), dict(os.environ)
    one, two = (
        edit_rows(rows, transform, folder / f"{num_proc}.arrow", batch_size=7, num_proc=num_proc) for num_proc in (1, 2)
    )
    assert two[:] == one[:] != rows[:]
    assert two.features == one.features
    assert sorted(os.listdir()) == ["1.arrow", "2-0.arrow", "2-1.arrow"]
    assert (multiprocess.get_start_method(), dict(os.environ)) == (method, before)  # other threads may rely on them


@pytest.mark.parametrize(
    ("distribution", "says", "is_full"),
    [
        (killed, "a worker process ended unexpectedly, with exit code -9; if the memory", None),
        (full, "^can't write$", 28),
    ],
)
def test_what_ends_a_worker_is_raised_and_no_worker_stays(folder, distribution, says, is_full):
    rows = Dataset.from_dict({"text": TEXTS})
    with pytest.raises(ToEditError, match=says) as raised:
        edit_rows(rows, transform_of(distribution), folder / "rows.arrow", num_proc=2)
    assert no_room(raised.value) == is_full
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("library", [multiprocessing, multiprocess])
def test_each_worker_has_a_rank_whichever_library_started_it(library):
    context = library.get_context("fork")
    ranks = context.SimpleQueue()
    workers = [context.Process(target=lambda: ranks.put(_process_rank())) for _ in range(2)]
    for worker in workers:
        worker.start()
    first, second = sorted(ranks.get() for _ in workers)
    for worker in workers:
        worker.join(timeout=60)
    assert (_process_rank(), second) == (0, first + 1)


LOCK = threading.Lock()


class Loads:
    """Something that takes a lock while it loads, as an import does."""

    def __init__(self, started, may_end):
        self.started, self.may_end = started, may_end

    @computed_once
    def value(self):
        with LOCK:
            self.started.set()
            return self.may_end.wait(timeout=60)


def test_a_fork_waits_while_another_thread_loads_so_that_its_child_finds_no_lock_taken():
    started, may_end = threading.Event(), threading.Event()
    loading = threading.Thread(target=lambda: Loads(started, may_end).value)
    loading.start()
    started.wait(timeout=60)
    threading.Timer(0.3, may_end.set).start()
    child = multiprocessing.get_context("fork").Process(target=load_again)
    child.start()
    assert not LOCK.locked()
    child.join(timeout=60)
    code = child.exitcode
    child.kill()
    loading.join()
    assert code == 0


def load_again():
    done = threading.Event()
    done.set()
    assert Loads(threading.Event(), done).value


def test_a_fork_within_a_load_leaves_the_child_free_to_load_in_any_thread():
    class Forks:
        @computed_once
        def value(self):
            child = multiprocessing.get_context("fork").Process(target=load_in_a_thread)
            child.start()
            child.join(timeout=60)
            child.kill()
            return child.exitcode

    assert Forks().value == 0


def load_in_a_thread():
    thread = threading.Thread(target=load_again, daemon=True)
    thread.start()
    thread.join(timeout=30)
    os._exit(thread.is_alive())


MAP = """
import threading
import datasets
from datasets import Dataset
from hf_toedit import ToEditTransform

texts = [f"Return the value of item {i} if it is in the list." for i in range(16)]

def edit():
    while True:
        ToEditTransform("demo")({"text": texts})  # loads the prior again each time

threading.Thread(target=edit, daemon=True).start()
datasets.disable_progress_bars()
for _ in range(3):
    rows = Dataset.from_dict({"text": texts})
    rows.map(ToEditTransform("demo"), batched=True, batch_size=8, num_proc=2, load_from_cache_file=False)
import os
os._exit(0)
"""


@pytest.mark.slow
def test_map_in_forked_processes_ends_while_another_thread_loads_priors():
    """It hung in most tries when the workers could inherit a lock that the other thread held at the fork."""
    with subprocess.Popen([sys.executable, "-c", MAP], start_new_session=True) as process:
        try:
            assert process.wait(timeout=300) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
