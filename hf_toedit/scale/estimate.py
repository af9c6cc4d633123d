"""What an edit will take: its tokens, rates, time and size, from a sample of the rows."""

from __future__ import annotations

import dataclasses
import math
import random
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ..editing.stats import Z95, summarize, wilson_interval
from ..statuses import told_afterwards
from ..transform import ToEditTransform
from ..types import FloatArray, Prior
from .json_lines import quiet
from .plan import Unit
from .planning import Planned
from .progress import shares

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE_BYTES = 10 << 20  # of the source, around each place that is sampled
NUM_PLACES = 40  # at most; evenly spread
FIRST_ROWS, MOST_ROWS = 16, 1000  # edited at a place
ENOUGH = 10  # places that can stand for the source; with fewer, rows do


@dataclasses.dataclass(frozen=True)
class Rate:
    """A figure from a sample, with its 95% interval."""

    value: float
    low: float
    high: float

    def __mul__(self, factor: float) -> Rate:
        return Rate(self.value * factor, self.low * factor, self.high * factor)


@dataclasses.dataclass(frozen=True)
class Place:
    """Rows of one place of the source, edited.

    unit: its number. share: its share of the source, in [0, 1]. num_rows: how many rows it has. edited: some of them,
    counts_N4 their tokens, the visited ones, the eligible among these, and the changed ones.
    """

    unit: int
    share: float
    num_rows: int
    edited: Dataset
    counts_N4: FloatArray
    seconds: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What an edit will take. tokens_per_second: of one worker. num_bytes: of the edited rows.

    sampled_rows, sampled_tokens: what the estimate rests on. peak_bytes: the most memory that the sample took here, and
    on the GPU, if there is one. batch_tokens: how many go through the prior at once.
    """

    num_rows: Rate
    num_tokens: Rate
    eligible_rate: Rate
    changed_rate: Rate
    tokens_per_second: Rate
    num_bytes: Rate
    sampled_rows: int
    sampled_tokens: int
    peak_bytes: int
    peak_gpu_bytes: int | None
    batch_tokens: int | None

    def at(self, tokens_per_second: float) -> Estimate:
        """The same with workers of another speed."""
        return dataclasses.replace(self, tokens_per_second=Rate(*[tokens_per_second] * 3))

    @property
    def worker_hours(self) -> Rate:
        """The time of one worker, or of one GPU if each worker has one."""
        tokens, speed = self.num_tokens, self.tokens_per_second
        error = math.hypot(*(_relative_error(rate) for rate in (tokens, speed)))
        value = tokens.value / speed.value / 3600
        return Rate(value, value * max(0.0, 1 - error), value * (1 + error))

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready (null for a rate if no token was visited)."""
        fields = {**dataclasses.asdict(self), "worker_hours": dataclasses.asdict(self.worker_hours)}
        return {
            name: {bound: None if math.isnan(figure) else figure for bound, figure in value.items()}
            if isinstance(value, dict)
            else value
            for name, value in fields.items()
        }


def estimate_edit(
    planned: Planned, read: Callable[[Unit], Dataset], transform: ToEditTransform, seconds: float
) -> Estimate:
    """Edit a sample of the rows, for about so many seconds.

    planned: the source in units of about SAMPLE_BYTES. read: gives the rows of a unit.
    """
    share_of = shares(planned)
    places: list[Place] = []
    num_rows, started = FIRST_ROWS, time.monotonic()
    with told_afterwards():
        for number, rows, order in _turns(planned, read):
            chosen = [order.popleft() for _ in range(min(num_rows, len(order)))]
            place = _edit_place(number, share_of[number], rows, chosen, transform)
            places.append(place)
            if len(places) > 1 and time.monotonic() - started > seconds:
                break
            a_tenth = len(place.counts_N4) * seconds / 10 / place.seconds
            num_rows = min(MOST_ROWS, max(FIRST_ROWS, int(a_tenth)))
    return _estimate(places, _batch_tokens(transform.prior) if transform.config.needs_prior else None)


def _turns(planned: Planned, read: Callable[[Unit], Dataset]) -> Iterator[tuple[int, Dataset, deque[int]]]:
    """Units spread over the source, in turn, with their rows and those not sampled yet, in random order.

    Goes on until all rows are taken. Of many units, each is read once.
    """
    draws = random.Random(0)
    total = len(planned.units)
    numbers = sorted({int((place + 0.5) * total / NUM_PLACES) for place in range(NUM_PLACES)})
    draws.shuffle(numbers)
    kept: dict[int, tuple[Dataset, deque[int]]] = {}
    turns = deque(numbers)
    while turns:
        number = turns.popleft()
        if number not in kept:
            rows = read(planned.units[number])
            kept[number] = rows, deque(draws.sample(range(len(rows)), len(rows)))
        rows, order = kept[number]
        if order:
            yield number, rows, order
        if order and len(numbers) < ENOUGH:
            turns.append(number)
        else:
            del kept[number]


def _edit_place(unit: int, share: float, rows: Dataset, chosen: Sequence[int], transform: ToEditTransform) -> Place:
    column = str(transform.stats_column)
    started = time.monotonic()
    with quiet():
        edited = rows.select(chosen).map(transform, batched=True, keep_in_memory=True, new_fingerprint="sample")
    seconds = time.monotonic() - started
    stats = [summarize([struct]).tokens for struct in edited[column]]
    counts = [[row.num_tokens, row.num_visited, row.num_visited_eligible, row.num_changed] for row in stats]
    return Place(unit, share, len(rows), edited, np.array(counts, float).reshape(-1, 4), seconds)


def _estimate(places: Sequence[Place], batch_tokens: int | None) -> Estimate:
    unit_P = np.array([place.unit for place in places])
    units, first_U, unit_P = np.unique(unit_P, return_index=True, return_inverse=True)
    share_U = np.array([places[i].share for i in first_U])
    rows_U = np.array([float(places[i].num_rows) for i in first_U])
    edited_P = np.array([len(place.counts_N4) for place in places])
    edited_U = np.bincount(unit_P, edited_P)
    left = max(0.0, 1 - float((share_U * edited_U / rows_U).sum()))  # of the source, not seen
    num_rows = _ratio(rows_U, share_U, 1 - float(share_U.sum()))
    # Each row stands for as many as its unit has for each row that was edited.
    unit_N = np.repeat(unit_P, edited_P)
    weight_N = (rows_U / edited_U)[unit_N]
    counts_N4 = np.concatenate([place.counts_N4 for place in places])
    groups = weight_N[:, None] * counts_N4
    if len(units) >= ENOUGH:
        groups = np.stack([np.bincount(unit_N, column) for column in groups.T], axis=1)
        tokens = _ratio(groups[:, 0], share_U, left)
    else:
        tokens = _ratio(groups[:, 0], weight_N, left) * num_rows.value
    timed = places[1:] or places  # the first is slow
    return Estimate(
        num_rows=num_rows,
        num_tokens=tokens,
        eligible_rate=_share(groups[:, 2], groups[:, 1], left, counts_N4[:, 1].sum()),
        changed_rate=_share(groups[:, 3], groups[:, 0], left, counts_N4[:, 0].sum()),
        tokens_per_second=_ratio(
            np.array([place.counts_N4[:, 0].sum() for place in timed]),
            np.array([place.seconds for place in timed]),
            1.0,
        ),
        num_bytes=tokens * (_num_bytes([place.edited for place in places]) / max(1.0, float(counts_N4[:, 0].sum()))),
        sampled_rows=len(counts_N4),
        sampled_tokens=int(counts_N4[:, 0].sum()),
        peak_bytes=_peak_bytes(),
        peak_gpu_bytes=_peak_gpu_bytes(),
        batch_tokens=batch_tokens,
    )


def _num_bytes(parts: Sequence[Dataset]) -> int:
    """The size of rows as Parquet."""
    from datasets import concatenate_datasets

    with quiet(), TemporaryDirectory() as folder:
        file = Path(folder) / "edited.parquet"
        concatenate_datasets(list(parts)).to_parquet(str(file))
        return file.stat().st_size


def _ratio(y_G: FloatArray, x_G: FloatArray, left: float) -> Rate:
    """sum(y) / sum(x) over groups, with the interval of the ratio estimator (Cochran 1977, equation 6.13).

    left: the share of the population that is not in the sample, in [0, 1].
    """
    groups, total = len(x_G), float(x_G.sum())
    if not total:
        return Rate(0.0, 0.0, 0.0)
    value = float(y_G.sum()) / total
    residuals_G = y_G - value * x_G
    variance = groups / (groups - 1) * float((residuals_G**2).sum()) if groups > 1 else float((y_G**2).sum())
    half = Z95 * math.sqrt(max(0.0, left) * variance) / total
    return Rate(value, max(0.0, value - half), value + half)


def _share(y_G: FloatArray, x_G: FloatArray, left: float, trials: float) -> Rate:
    """A rate in [0, 1]; the wider of the intervals for groups of tokens and for single tokens (which 0 and 1 need).

    trials: the number of tokens that it rests on.
    """
    rate = _ratio(y_G, x_G, left)
    if not trials:
        return Rate(math.nan, math.nan, math.nan)
    low, high = wilson_interval(rate.value, trials)
    return Rate(rate.value, min(rate.low, low), min(1.0, max(rate.high, high)))


def _relative_error(rate: Rate) -> float:
    return (rate.high - rate.low) / 2 / rate.value if rate.value else 0.0


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_gpu_bytes() -> int | None:
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())


def _batch_tokens(prior: Prior) -> int | None:
    from ..priors.transformers_prior import TransformersPrior

    return prior._model.batch_tokens if isinstance(prior, TransformersPrior) else None
