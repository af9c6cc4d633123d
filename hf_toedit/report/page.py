"""A page that shows an edit: one HTML file with tables, charts and a list of rows, which loads nothing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import heapq
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..display import spelled
from ..editing.stats import NUM_BINS, DatasetStats
from ..editing.tokenization import Tokenization
from ..errors import SourceError, ToEditWarning, any_of, one_clear_line
from ..rows.provenance import check_made_by, stats_column_of, without_paths
from ..statuses import Status
from .comparison import Comparison, compare
from .counts import NUM_PARTS, Counts, Group, Replacement
from .edits import as_tokenization, readable
from .files import write_whole
from .listing import listing_of
from .measurements import about as describe
from .measurements import header, lines, verdict_texts
from .queries import queries

if TYPE_CHECKING:
    from datasets import Dataset

TEMPLATES = Path(__file__).with_name("templates")
MOST_REPLACEMENTS = 40
MOST_GROUPS = 25  # rows of a table
GENERATOR = '<meta name="generator" content="hf-toedit'
SETTINGS = ("fingerprint", "prior", "revision", "columns", "context", "roles", "stats")  # of the record, in this order


@dataclasses.dataclass(frozen=True)
class About:
    """What a page says besides the counts.

    name: of the dataset. records: of its edits, as `ToEditTransform.provenance` returns them. tokenizer: the one that
    made `input_ids`, to show them as text. comparison: the result of `compare`. notes: what else the reader should
    know. measurements: what `hf-toedit measure` found in the rows.
    """

    name: str = ""
    records: Sequence[Mapping[str, Any]] = ()
    tokenizer: Any = None
    comparison: Comparison | None = None
    notes: Sequence[str] = ()
    measurements: Mapping[str, Any] | None = None


def page_of(splits: Mapping[str, Dataset], counts: Counts, about: About) -> str:
    """The page as HTML. splits: the datasets by split. counts: of the same splits."""
    tokenization = None if about.tokenizer is None else as_tokenization(about.tokenizer)
    frequent = heapq.nsmallest(MOST_REPLACEMENTS, counts.replacements.items(), key=lambda item: (-item[1], item[0]))
    listing = listing_of(splits, counts, [replacement for replacement, _ in frequent], tokenization)
    replacements = [(*_as_text(replacement, tokenization), number) for replacement, number in frequent]
    table = next((str(split) for split in splits if str(split).isidentifier()), "train")
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spelled,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    environment.filters |= {"rate": _rate, "percent": _percent}
    return environment.get_template("page.html.j2").render(
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        version=__version__,
        about=about,
        counts=counts,
        stats=counts.stats,
        interval=_interval(counts.stats),
        statuses=[(status, counts.stats.statuses[status], *_meaning(status)) for status in listing.statuses],
        bins=_shares(counts.stats.tokens.histogram, [f"{i / NUM_BINS:g}" for i in range(NUM_BINS + 1)]),
        parts=_shares(counts.parts, ["start", *[""] * (NUM_PARTS - 1), "end"]),
        tables=_tables(counts),
        replacements=replacements,
        listing=listing,
        data={**dataclasses.asdict(listing), "replacements": [pair[:2] for pair in replacements]},
        measured=None if about.measurements is None else _measured(about.measurements),
        records=[(_settings(record), json.dumps(record, indent=2, ensure_ascii=False)) for record in about.records],
        table=table,
        queries=queries(table, counts.stats_column),
    )


def report_on(
    splits: Mapping[str, Dataset],
    path: Path,
    record: Mapping[str, Any],
    *,
    tokenizer: Any,
    against: Mapping[str, Dataset] | None,
    by: str | None,
) -> DatasetStats:
    """Write the page of one edit and return its statistics: `ToEditTransform.report`, which says what the rest means.

    record: of the edit, as `ToEditTransform.provenance` returns it. tokenizer: that of its prior.
    """
    column = stats_column_of(record)
    check_replaceable(path)
    counts = Counts(splits, column, by)
    check_made_by(record, counts.stats, "report")
    comparison = None if against is None else compare(splits, against, column)
    about = About(records=[without_paths(record)], tokenizer=tokenizer, comparison=comparison)
    write_page(path, page_of(splits, counts, about))
    if comparison is not None and not comparison.is_equal:
        warnings.warn(str(comparison), ToEditWarning, stacklevel=3)
    return counts.stats


def check_replaceable(path: Path) -> None:
    """Raise SourceError if there is something at `path` that is not an earlier page: only pages are replaced."""
    what = f"can't write the report {str(path)!r}"
    with one_clear_line(SourceError, what, catches=any_of(OSError), says=_cause):
        if path.is_dir():
            raise SourceError(f"{what}: it is a folder: name a file, such as {str(path / 'report.html')!r}")
        if path.exists() and not _is_page(path):
            raise SourceError(f"{what}: it exists and is not a report: remove it or name another file")


def write_page(path: Path, page: str) -> None:
    """Write a page, which appears whole or not at all, in place of an earlier one. Raises SourceError if it can't."""
    check_replaceable(path)
    what = f"can't write the report {str(path)!r}"
    with one_clear_line(SourceError, what, catches=any_of(OSError), says=_cause):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page)


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(1000)


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or ""


def _hash(text: str) -> str:
    """The source expression by which a content policy allows exactly this style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _spelled(value: Any) -> Any:
    return spelled(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _as_text(replacement: Replacement, tokenization: Tokenization | None) -> tuple[str, str]:
    old, new, is_ids = replacement
    if is_ids and tokenization is not None and old.isdecimal() and new.isdecimal():
        old, new = readable([int(old)], tokenization), readable([int(new)], tokenization)
    return spelled(old), spelled(new)


def _meaning(status: str) -> tuple[str, str]:
    if status not in list(Status):
        return "", ""
    known = Status(status)
    return known.meaning, known.remedy.format(columns="columns=", roles="roles=")


def _shares(numbers: Sequence[int], edges: Sequence[str]) -> dict[str, Any]:
    """A chart of columns: the numbers, their shares of all, the heights relative to the highest, and labels between."""
    total, highest = max(1, sum(numbers)), max(1, *numbers)
    return {
        "columns": [(number, number / total, number / highest) for number in numbers],
        "edges": edges,
        "total": sum(numbers),
    }


@dataclasses.dataclass(frozen=True)
class Table:
    """Groups of rows: the name of each, its counts, and its changed rate relative to the highest.

    others: groups that are left out.
    """

    heading: str
    first: str
    rows: list[tuple[str, DatasetStats, float]]
    others: int = 0


def _tables(counts: Counts) -> list[Table]:
    """The rows by split, if there are several, by source, if that is known, and by length."""
    found = []
    for name, groups in (("split", counts.by_split), (counts.by or "", counts.by_source)):
        if len(groups) > (name == "split"):
            largest = dict(sorted(groups.items(), key=_size)[:MOST_GROUPS])
            found.append(Table(f"By {name}", name, _with_heights(largest), len(groups) - len(largest)))
    lengths = {_length(power): counts.by_length[power] for power in sorted(counts.by_length)}
    return [*found, Table("By length in tokens", "tokens", _with_heights(lengths))]


def _with_heights(groups: Mapping[str, Group]) -> list[tuple[str, DatasetStats, float]]:
    stats = {str(name): group.stats() for name, group in groups.items()}
    rates = {name: 0.0 if math.isnan(of.changed_rate) else of.changed_rate for name, of in stats.items()}
    highest = max(rates.values(), default=0.0) or 1.0
    return [(name, of, rates[name] / highest) for name, of in stats.items()]


def _size(item: tuple[str, Group]) -> tuple[int, str]:
    return -item[1].statuses.total(), item[0]


def _length(power: int) -> str:
    return "0" if power == 0 else "1" if power == 1 else f"{2 ** (power - 1):,} to {2**power - 1:,}"


def _measured(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of measurements."""
    return {
        "header": header(record),
        "lines": lines(record),
        "verdicts": verdict_texts(record),
        "about": describe(record),
    }


def _settings(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The prior and the settings of an edit, those that are set."""
    settings = {**{name: record.get(name) for name in SETTINGS}, **(record.get("config") or {})}
    return [(name, _setting(value)) for name, value in settings.items() if value not in (None, [], "")]


def _setting(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _interval(stats: DatasetStats) -> str:
    low, high = stats.eligible_interval
    return f"{low:.2%} to {high:.2%}" if low < high else ""


def _rate(rate: float) -> str:
    return "–" if rate != rate else f"{rate:.2%}"


def _percent(share: float) -> str:
    """A share in as few characters as fit above a column."""
    return "0" if share == 0 else "<0.1%" if share < 0.001 else f"{share:.1%}" if share < 0.01 else f"{share:.0%}"
