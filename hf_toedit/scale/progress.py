"""How far an edit is: counts that add up, and their display, as bars, lines of text or JSON Lines."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from .plan import Plan
from .planning import Planned
from .unit import BatchDone

ProgressFormat = Literal["auto", "bars", "lines", "json", "none"]
SECONDS = {"bars": 0.2, "lines": 30.0, "json": 1.0}  # at least, between two reports
LINE = "{task.fields[counts]}"
Report = Callable[[int, BatchDone], None]


@dataclasses.dataclass
class Counts:
    """Rows and tokens that were edited. All start at zero; `share` is of all the work of the plan, in [0, 1]."""

    num_rows: int = 0
    num_tokens: int = 0
    num_visited: int = 0
    num_visited_eligible: int = 0
    num_changed: int = 0
    share: float = 0.0

    def add(self, other: Counts, sign: int = 1) -> None:
        """Add other counts, or subtract them if the sign is -1."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + sign * getattr(other, field.name))


COUNTED = [field.name for field in dataclasses.fields(Counts) if field.name != "share"]


def shares(plan: Plan | Planned) -> list[float]:
    """The share of each unit in the bytes of the source, in [0, 1]."""
    lengths = [
        sum(file.num_bytes for file in plan.files[unit.file : unit.file + unit.num_files])
        if unit.stop < 0
        else max(1, unit.stop - unit.start)
        for unit in plan.units
    ]
    of_file: dict[int, int] = defaultdict(int)
    for unit, length in zip(plan.units, lengths, strict=True):
        of_file[unit.file] += length
    sizes = [  # rows of a Parquet file stand for its bytes
        length * (plan.files[unit.file].num_bytes / of_file[unit.file] if unit.stop >= 0 else 1)
        if plan.files[unit.file].kind == "parquet"
        else length
        for unit, length in zip(plan.units, lengths, strict=True)
    ]
    total = sum(sizes) or 1
    return [size / total for size in sizes]


class Tally:
    """What the workers have done in this call, in total and each, and how long the rest will take.

    done_before: the share of the work that earlier calls finished. clock: seconds that never run backwards.
    """

    def __init__(self, plan: Plan, done_before: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.shares = shares(plan)
        self.done_before = done_before
        self.clock = clock
        self.started = clock()
        self.total = Counts()
        self.workers: dict[int, Counts] = {}
        self.units: dict[int, tuple[int, Counts]] = {}  # who edits or edited them, and how far

    def add(self, worker: int, batch: BatchDone) -> None:
        """Count a batch. The first of a unit takes back what a worker that died had done of it."""
        if batch.start == 0 and batch.unit in self.units:
            earlier, lost = self.units.pop(batch.unit)
            for counts in (self.total, self.workers[earlier]):
                counts.add(lost, -1)
        share = self.shares[batch.unit] * batch.num_rows / max(1, batch.num_unit_rows)
        added = Counts(**{name: getattr(batch, name) for name in COUNTED}, share=share)
        _, of_unit = self.units.setdefault(batch.unit, (worker, Counts()))
        for counts in (self.total, self.workers.setdefault(worker, Counts()), of_unit):
            counts.add(added)

    @property
    def seconds(self) -> float:
        return max(self.clock() - self.started, 1e-9)

    @property
    def done(self) -> float:
        """The share of the work that is done, in [0, 1]."""
        return min(1.0, self.done_before + self.total.share)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the speed so far; None before the first batch."""
        return self.seconds * (1 - self.done) / self.total.share if self.total.share else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the counts of this call, in total and by worker."""
        return {
            "seconds": round(self.seconds, 3),
            "done": round(self.done, 6),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
            **self._counts(self.total),
            "workers": {str(worker): self._counts(counts) for worker, counts in sorted(self.workers.items())},
        }

    def _counts(self, counts: Counts) -> dict[str, Any]:
        numbers = {name: getattr(counts, name) for name in COUNTED}
        return {**numbers, "tokens_per_second": round(counts.num_tokens / self.seconds, 1)}

    def line(self, counts: Counts) -> str:
        """Counts in words."""
        return (
            f"{counts.num_rows:,} rows, {counts.num_tokens / self.seconds:,.0f} tokens/s, "
            f"{counts.num_visited:,} visited, {counts.num_changed:,} changed"
        )


@contextmanager
def shown(tally: Tally, how: ProgressFormat = "auto") -> Iterator[Report]:
    """Show progress on stderr while the block runs; it gets a function to report batches to.

    how: bars, a line of text every half minute, JSON Lines (one a second, and the last), or none. "auto": bars in a
        terminal, else lines.
    """
    console = Console(stderr=True)
    if how == "auto":
        how = "bars" if console.is_terminal else "lines"
    if how == "none":
        yield tally.add
    elif how == "bars":
        with _Bars(tally, console) as bars:
            yield bars.report
    else:
        yield from _lines(tally, how)


def _lines(tally: Tally, how: Literal["lines", "json"]) -> Iterator[Report]:
    last = tally.clock()

    def print_now() -> None:
        text = json.dumps(tally.to_dict()) if how == "json" else _in_words(tally)
        print(text, file=sys.stderr, flush=True)

    def report(worker: int, batch: BatchDone) -> None:
        nonlocal last
        tally.add(worker, batch)
        if tally.clock() - last >= SECONDS[how]:
            last = tally.clock()
            print_now()

    yield report
    if how == "json":
        print_now()


def _in_words(tally: Tally) -> str:
    return f"{tally.done:.1%} done: {tally.line(tally.total)}, {duration(tally.seconds_left)} left"


def duration(seconds: float | None) -> str:
    """Seconds in words: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`; `?` if unknown."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


class _Bars:
    """A bar for all the work, and a line for each worker if there are several."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self.tally = tally
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn(LINE))
        self.progress = Progress(*columns, console=console, transient=True, refresh_per_second=1 / SECONDS["bars"])
        self.total = self.progress.add_task("Editing", total=1.0, counts="")
        self.progress.update(self.total, completed=tally.done)
        self.tasks: dict[int, TaskID] = {}

    def __enter__(self) -> _Bars:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def report(self, worker: int, batch: BatchDone) -> None:
        tally = self.tally
        tally.add(worker, batch)
        left = f"{tally.line(tally.total)}, {duration(tally.seconds_left)} left"
        self.progress.update(self.total, completed=tally.done, counts=left)
        if worker not in self.tasks and (worker or len(tally.workers) > 1):
            for number in sorted(tally.workers.keys() - self.tasks.keys()):
                self.tasks[number] = self.progress.add_task(f"  worker {number}", total=None, counts="")
        for number, task in self.tasks.items():
            self.progress.update(task, counts=tally.line(tally.workers[number]))


def total_share(plan: Plan, numbers: Sequence[int]) -> float:
    """The share of some units in the work of the plan, in [0, 1]."""
    of_units = shares(plan)
    return sum(of_units[number] for number in numbers)
