"""Additive statistics for a cell, a row, a shard or a dataset."""

from __future__ import annotations

import dataclasses
import math
import warnings
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..display import html_table, plain_table
from ..errors import RowError, ToEditWarning
from ..statuses import Status
from ..types import FloatArray

NUM_BINS = 10
BAR = 30  # length in characters of a bar for all tokens
Z95 = 1.959964  # standard normal quantile of 0.975
UNKNOWN = "unknown"
EDIT = "edit the dataset"
CELL_COUNTS = (
    "num_scorable",
    "num_visited",
    "num_visited_eligible",
)  # what the `toedit` struct records for each text in a row
BIN_HEADERS = ("probability", "share", "tokens", "")
RATES = ("eligible_rate", "changed_rate", "editable_rate", "editable_changed_rate", "drift_rate", "perplexity")


@dataclasses.dataclass(frozen=True)
class TokenStats:
    """Counts over tokens. "Visited" tokens were scored by the prior; in sampled statistics they are a uniform sample.

    num_tokens: tokens in the texts, including special ones.
    num_editable: tokens that may be edited: scorable, not protected and possible to replace.
    num_scorable: tokens in scope that have a probability (some context) and are not special.
    num_visited: scorable tokens whose probability was computed.
    num_visited_eligible: visited tokens that are editable and eligible: p >= threshold (`eligible="below"`: <=).
    num_changed: tokens that were replaced or deleted.
    num_near_ties: visited positions that rounding in the prior's dtype may have decided. The count is conservative:
        in half precision, about one in ten of them comes out differently in float32, and few others do.
    logprob_sum: sum of log P(x_t | x_<t) over the visited positions, in nats.
    histogram: visited positions by probability, in ten bins of width 0.1; the last includes 1.
    """

    num_tokens: int = 0
    num_editable: int = 0
    num_scorable: int = 0
    num_visited: int = 0
    num_visited_eligible: int = 0
    num_changed: int = 0
    num_near_ties: int = 0
    logprob_sum: float = 0.0
    histogram: tuple[int, ...] = (0,) * NUM_BINS

    def __add__(self, other: TokenStats) -> TokenStats:
        names = [field.name for field in dataclasses.fields(self) if field.name != "histogram"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        bins = tuple(a + b for a, b in zip(self.histogram, other.histogram, strict=True))
        return TokenStats(**sums, histogram=bins)


STRUCT_FIELDS = {field.name for field in dataclasses.fields(TokenStats)} | {"fingerprint", "drifted", "cells"}


def probability_histogram(logprob_E: FloatArray) -> tuple[int, ...]:
    """How many probabilities fall into each of [0, .1), [.1, .2), ... [.9, 1]."""
    bins = np.minimum((np.exp(logprob_E) * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    return tuple(np.bincount(bins, minlength=NUM_BINS).tolist())


@dataclasses.dataclass(frozen=True, repr=False)
class DatasetStats:
    """What an editing run did to a dataset. `summarize` builds it from the rows' `toedit` structs.

    It prints as a table, also in a notebook.

    statuses: number of rows by status (`edited`, `unchanged`, `skipped:<reason>`).
    num_drifted: edited rows whose text encodes to ids other than those the prior chose.
    num_independent: how many independently drawn tokens would say as much about the eligible rate as the visited ones;
        lower than their number if texts repeat, infinite if every token was visited.
    fingerprints: number of rows by the fingerprint of their edit; UNKNOWN if the prior has no revision.
    """

    num_rows: int
    statuses: dict[str, int]
    num_drifted: int
    tokens: TokenStats
    num_independent: float = 0.0
    fingerprints: dict[str, int] = dataclasses.field(default_factory=dict)

    def __add__(self, other: DatasetStats) -> DatasetStats:
        """The statistics of both. A text that occurs in both counts as two in `num_independent`."""
        added = {name: Counter(getattr(self, name)) for name in ("statuses", "fingerprints")}
        for name, counts in added.items():
            counts.update(getattr(other, name))
        squares = sum(
            part.tokens.num_visited**2 / part.num_independent for part in (self, other) if part.num_independent
        )  # the variances of separate samples add up
        tokens = self.tokens + other.tokens
        return DatasetStats(
            self.num_rows + other.num_rows,
            dict(added["statuses"]),
            self.num_drifted + other.num_drifted,
            tokens,
            tokens.num_visited**2 / squares if squares else math.inf if tokens.num_visited else 0.0,
            dict(added["fingerprints"]),
        )

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> DatasetStats:
        """The inverse of `dataclasses.asdict`, also after a round trip through JSON."""
        tokens = fields["tokens"]
        return cls(**{**fields, "tokens": TokenStats(**{**tokens, "histogram": tuple(tokens["histogram"])})})

    @property
    def eligible_rate(self) -> float:
        """Share of visited positions that were editable and eligible, in [0, 1]; NaN if none was visited."""
        return ratio(self.tokens.num_visited_eligible, self.tokens.num_visited)

    @property
    def eligible_interval(self) -> tuple[float, float]:
        """The 95% interval for the rate that `stats="full"` would give; (NaN, NaN) if no token was visited.

        Rows with the same text have the same draws and count as one draw, however often the text occurs.
        """
        return wilson_interval(self.eligible_rate, self.num_independent)

    @property
    def changed_rate(self) -> float:
        """Share of all tokens that were changed, in [0, 1]."""
        return ratio(self.tokens.num_changed, self.tokens.num_tokens)

    @property
    def editable_rate(self) -> float:
        """Share of all tokens that may be edited, in [0, 1]; prompts, protected and special tokens may not."""
        return ratio(self.tokens.num_editable, self.tokens.num_tokens)

    @property
    def editable_changed_rate(self) -> float:
        """Share of the editable tokens that were changed, in [0, 1]."""
        return ratio(self.tokens.num_changed, self.tokens.num_editable)

    @property
    def drift_rate(self) -> float:
        """Share of edited rows whose text encodes to ids other than those the prior chose."""
        return ratio(self.num_drifted, self.statuses.get(Status.EDITED, 0))

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability of the visited tokens; infinite beyond 709 nats."""
        try:
            return math.exp(-ratio(self.tokens.logprob_sum, self.tokens.num_visited))
        except OverflowError:
            return math.inf

    def to_dict(self) -> dict[str, Any]:
        """The counts, rates and interval, JSON-ready (null if nothing was visited, or if a value is infinite)."""
        low, high = self.eligible_interval
        return {
            "num_rows": self.num_rows,
            "statuses": dict(sorted(self.statuses.items())),
            "fingerprints": dict(sorted(self.fingerprints.items())),
            "num_drifted": self.num_drifted,
            **dataclasses.asdict(self.tokens),
            "histogram": list(self.tokens.histogram),
            **{name: rate if math.isfinite(rate) else None for name in RATES for rate in [getattr(self, name)]},
            "eligible_interval": None if math.isnan(low) else [low, high],
        }

    def lines(self) -> list[tuple[str, str, str]]:
        """The counts and rates as (name, value, note), with an interval for a rate that has a sampling error."""
        tokens = self.tokens
        is_one = len(self.fingerprints) == 1
        low, high = self.eligible_interval
        interval = f" (95%: {low:.4f} to {high:.4f})" if low < high else ""
        return [
            ("rows", f"{self.num_rows:,}", ""),
            *((f"  {status}", f"{count:,}", "") for status, count in sorted(self.statuses.items())),
            *(
                ("fingerprint", fingerprint, "of this edit" if is_one else f"{count:,} rows")
                for fingerprint, count in sorted(self.fingerprints.items())
            ),
            ("tokens", f"{tokens.num_tokens:,}", ""),
            ("editable", f"{tokens.num_editable:,}", f"{_number(self.editable_rate)} of all tokens"),
            ("visited", f"{tokens.num_visited:,}", "asked of the prior"),
            ("eligible rate", _number(self.eligible_rate), "of visited tokens" + interval),
            ("changed", f"{tokens.num_changed:,}", ""),
            ("changed rate", _number(self.changed_rate, 5), "of all tokens"),
            ("", _number(self.editable_changed_rate, 5), "of editable tokens"),
            ("perplexity", _number(self.perplexity, 2), "of visited tokens"),
            ("drift rate", _number(self.drift_rate), "of edited rows encode to other tokens"),
            ("near ties", f"{tokens.num_near_ties:,}", "rounding may have decided them"),
        ]

    def bins(self) -> list[tuple[str, str, str, str]]:
        """The visited tokens by probability (Table 6 of the paper), as (probability, share, tokens, bar)."""
        total = max(1, sum(self.tokens.histogram))
        return [
            (
                f"{i / NUM_BINS:.1f} to {(i + 1) / NUM_BINS:.1f}",
                f"{count / total:.1%}",
                f"{count:,}",
                "█" * round(count / total * BAR),
            )
            for i, count in enumerate(self.tokens.histogram)
        ]

    def __repr__(self) -> str:
        table = plain_table(self.lines(), right=(1,))
        if not self.tokens.num_visited:
            return table
        return f"{table}\n\n{plain_table([BIN_HEADERS, *self.bins()], right=(0, 1, 2))}"

    def _repr_html_(self) -> str:
        bins = html_table([BIN_HEADERS, *self.bins()], right=(0, 1, 2)) if self.tokens.num_visited else ""
        return html_table(self.lines(), right=(1,)) + bins


def wilson_interval(rate: float, trials: float) -> tuple[float, float]:
    """The 95% interval for a rate observed in `trials` independent draws (Wilson 1927); (NaN, NaN) without any."""
    if not trials:
        return math.nan, math.nan
    weight = Z95**2 / trials
    centre = (rate + weight / 2) / (1 + weight)
    half = math.sqrt(rate * (1 - rate) * weight + weight**2 / 4) / (1 + weight)
    return centre - half, centre + half


def summarize(data: Any, stats_column: str = "toedit") -> DatasetStats:
    """Summarize what an edit did to a dataset, from the `toedit` structs of its rows.

        summarize(ds.map(ToEditTransform("demo"), batched=True))

    data: a Dataset, an IterableDataset or a dict of splits, in any format; a pandas or Arrow table; rows, a batch or a
        single row; or the structs themselves (`ds["toedit"]`). Nulls, which mark rows that were not edited, are left
        out.
    stats_column: the column with the structs. A split without rows need not have it, since `map` adds no column to it.

    Raises RowError if there is no such column. If rows come from different edits (other configs, priors or columns),
    they are added up anyway, with a ToEditWarning.
    """
    check_column_name(stats_column)
    statuses: Counter[str] = Counter()
    fingerprints: Counter[str] = Counter()
    num_drifted, cells = 0, Cells()
    sums: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(TokenStats)}
    sums["histogram"] = np.zeros(NUM_BINS, dtype=np.int64)
    for struct in structs_in(data, stats_column):
        if missing := STRUCT_FIELDS - struct.keys():
            raise RowError(f"the structs of {stats_column!r} have no {min(missing)}: edit again with this version")
        statuses[str(struct["status"])] += 1
        fingerprints[UNKNOWN if struct["fingerprint"] is None else str(struct["fingerprint"])] += 1
        num_drifted += bool(struct["drifted"])
        for name in sums:
            sums[name] += np.asarray(struct[name]) if name == "histogram" else struct[name]
        cells.add(struct["cells"])
    sums = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in sums.items()}
    tokens = TokenStats(**{**sums, "histogram": tuple(sums["histogram"])})
    if len(fingerprints) > 1:
        message = f"these rows come from {len(fingerprints)} different edits ({', '.join(sorted(fingerprints))})"
        warnings.warn(f"{message}: the rates cover all of them", ToEditWarning, stacklevel=2)
    return DatasetStats(
        statuses.total(), dict(statuses), num_drifted, tokens, cells.num_independent(), dict(fingerprints)
    )


def check_column_name(stats_column: Any) -> None:
    """Raise RowError unless `stats_column` is a name: `map` can pass an index or a column in its place."""
    if not isinstance(stats_column, str):
        raise RowError(f"stats_column= must be the name of a column, not {type(stats_column).__name__}")


def structs_in(data: Any, column: str, first: str = EDIT) -> Iterator[Mapping[str, Any]]:
    """The structs in any input that `summarize` takes. first: what writes them, for the error if there are none."""
    columns = getattr(data, "column_names", getattr(data, "columns", None))
    if isinstance(data, Mapping):
        if column in data:
            value = data[column]
            yield from structs_in([value] if value is None or isinstance(value, Mapping) else value, column, first)
        elif data.keys() >= {"status", "num_tokens"}:
            yield data
        elif data and all(hasattr(split, "select_columns") for split in data.values()):
            for split in data.values():
                yield from structs_in(split, column, first)
        else:
            raise no_column(column, data, first)
    elif hasattr(data, "select_columns"):  # from datasets; a stream may not know its columns
        if getattr(data, "num_rows", None) == 0:
            return
        if columns is not None and column not in columns:
            raise no_column(column, columns, first)
        yield from _rows(data.select_columns([column]).with_format(None), column, first)
    elif columns is not None:  # from Arrow or pandas
        if column not in list(columns):
            raise no_column(column, columns, first)
        yield from _rows(data[column], column, first)
    else:
        yield from _rows(data, column, first)


def _rows(rows: Any, column: str, first: str) -> Iterator[Mapping[str, Any]]:
    """The structs in an iterable of rows or of structs."""
    if not isinstance(rows, Iterable) or isinstance(rows, (str, bytes)):
        raise RowError(
            f"summarize takes an edited dataset, its rows or its {column!r} column, not {type(rows).__name__}"
        )
    for row in rows:
        value = row.as_py() if hasattr(row, "as_py") else row  # an Arrow scalar
        if isinstance(value, Mapping):
            yield from structs_in(value, column, first)
        elif value is not None:
            raise RowError(
                f"the {column!r} column must hold structs, not {type(value).__name__}: pass an edited dataset"
            )


def no_column(column: str, names: Iterable[Any], first: str = EDIT) -> RowError:
    """The error for data without a column of structs. first: what writes it."""
    columns = [*names]
    known = ", ".join(map(repr, columns))
    fix = f"{first} first, or name it with stats_column="
    if f"{column}_patch" in columns:
        fix = "these are the rows of a patch: read it with load_edited"
    return RowError(f"no column {column!r} (columns: {known}): {fix}")


class Cells:
    """The counts of each text in a dataset and the key of its draws, in 32 bytes per text."""

    def __init__(self) -> None:
        self.keys = array("Q")
        self.counts = {name: array("q") for name in CELL_COUNTS}

    def add(self, cells: Iterable[Mapping[str, Any]]) -> None:
        for cell in cells:
            self.keys.append(int(cell["key"], 16))
            for name, values in self.counts.items():
                values.append(int(cell[name]))

    def extend(self, keys: Any, counts: Mapping[str, Any]) -> None:
        """Add many texts at once: arrays of their keys, as numbers, and of their CELL_COUNTS."""
        self.keys.frombytes(np.asarray(keys, dtype=np.uint64).tobytes())
        for name, values in self.counts.items():
            values.frombytes(np.asarray(counts[name], dtype=np.int64).tobytes())

    def __len__(self) -> int:
        return len(self.keys)

    def num_independent(self) -> float:
        """See DatasetStats. The visited tokens are a Bernoulli sample of the S scorable tokens of each distinct text.

        In a text that occurs m times, v tokens were visited and e of them are eligible. The linearised variance of
        the ratio r = sum m e / sum m v is sum m^2 (e (1 - r)^2 + (v - e) r^2) / (sum m v)^2, times the share of
        tokens not visited (Särndal et al. 1992, section 5.6); dividing r (1 - r) by it yields a number of draws. If
        few eligible tokens were seen, that number can be far too high, so it is capped at Kish's number, which assumes
        that eligibility is independent of m and estimates sum m^2 v from sum m^2 S.
        """
        keys = np.frombuffer(self.keys, dtype=np.uint64)
        _, which, times = np.unique(keys, return_inverse=True, return_counts=True)
        once = [np.frombuffer(values, dtype=np.int64) for values in self.counts.values()]
        scorable, visited, eligible = (float(values.sum()) for values in once)  # sum m v: each of m adds v
        scorable_2, visited_2, eligible_2 = (float(times[which] @ values) for values in once)  # sum m^2 v
        if not visited:
            return 0.0
        rate = eligible / visited
        unlike = eligible_2 * (1 - rate) ** 2 + (visited_2 - eligible_2) * rate**2
        linearised = unlike / (rate * (1 - rate)) if 0 < rate < 1 else 0.0
        squares = (1 - visited / scorable) * max(linearised, visited * scorable_2 / scorable)
        return visited**2 / squares if squares > 0 else math.inf


def ratio(part: float, whole: float) -> float:
    """part / whole; NaN if there is nothing."""
    return part / whole if whole else math.nan


def _number(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
