"""Tables of a dataset card: what edits did to each split, why rows were skipped, some edits in context."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..errors import RowError
from ..report.counts import MOST_SOURCES, SOURCE_COLUMNS, class_labels, group_name
from ..report.edits import Diff, Piece
from ..rows.revert import revert
from ..statuses import SKIPPED, Status
from .markdown import as_code, as_text, table
from .records import DatasetEdit, edited_indices, struct_batches

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NUM_EXAMPLES = 10
SUMMED = ("num_rows", "num_tokens", "num_changed")
LONGEST = 240  # characters shown of an edit and the text around it
MARKS = {"same": "{}", "old": "<del>{}</del>", "new": "<ins>{}</ins>"}


def statistics(edit: DatasetEdit, dataset: DatasetDict) -> str:
    """A table of what an edit did to each split and column."""
    columns: list[dict[str, str]] = []
    for split, stats in edit.stats.items():
        statuses = {name: stats.statuses.get(name, 0) for name in (Status.EDITED, Status.UNCHANGED)}
        tokens, (low, high) = stats.tokens, stats.eligible_interval
        columns.append(
            {
                "rows": f"{stats.num_rows:,} of {len(dataset[split]):,}",
                "rows edited": f"{statuses[Status.EDITED]:,}",
                "rows unchanged": f"{statuses[Status.UNCHANGED]:,}",
                "rows skipped": f"{stats.num_rows - sum(statuses.values()):,}",
                "tokens": f"{tokens.num_tokens:,}",
                "tokens that may be edited": f"{tokens.num_editable:,}",
                "tokens visited": f"{tokens.num_visited:,}",
                "eligible rate, of visited tokens": _rate(stats.eligible_rate)
                + (f" (95%: {low:.4f} to {high:.4f})" if low < high else ""),
                "tokens changed": f"{tokens.num_changed:,}",
                "changed rate, of all tokens": _rate(stats.changed_rate),
                "perplexity of visited tokens": _rate(stats.perplexity, 2),
                "drift rate: edited rows whose text encodes to other tokens": _rate(stats.drift_rate),
                "near ties: rounding may have decided them": f"{tokens.num_near_ties:,}",
            }
        )
    for name in dict.fromkeys(name for changes in edit.changes.values() for name in changes):
        for column, changes in zip(columns, edit.changes.values(), strict=True):
            column[f"edits in {as_code(name)}"] = f"{changes.get(name, 0):,}"
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return table(["", *(as_code(str(split)) for split in edit.stats)], rows, right=True)


def by_source(edit: DatasetEdit, dataset: DatasetDict) -> str:
    """A table of what an edit did to the rows of each source; empty if no column names sources, or too many."""
    splits = [dataset[split] for split in edit.stats]
    by = next((name for name in SOURCE_COLUMNS if all(_names_sources(rows, name, edit) for rows in splits)), None)
    if by is None:
        return ""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for rows in splits:
        labels = class_labels(rows, by)
        for group in _sums(rows, edit, by):
            sums[str(group_name(group, by, labels))].update({name: group[name] for name in SUMMED})
    if len(sums) > MOST_SOURCES:
        return ""
    cells = []
    for name, found in sorted(sums.items(), key=lambda item: -item[1]["num_rows"]):
        rate = found["num_changed"] / found["num_tokens"] if found["num_tokens"] else math.nan
        cells.append([as_text(name), *(f"{found[key]:,}" for key in SUMMED), _rate(rate)])
    return table([as_code(by), "rows", "tokens", "tokens changed", "changed rate, of all tokens"], cells, right=True)


def _names_sources(rows: Dataset, name: str, edit: DatasetEdit) -> bool:
    """Whether a column of names or numbers stands beside the edited ones."""
    kind = getattr(rows.features.get(name), "dtype", None)
    return kind in ("string", "large_string", "int64", "int32", "bool") and name not in chain(*edit.changes.values())


def _sums(rows: Dataset, edit: DatasetEdit, by: str) -> Iterator[dict[str, Any]]:
    """The counts of SUMMED by the value of a column, for some rows at a time."""
    import pyarrow as pa

    for values, structs in struct_batches(rows, edit, by):
        counts = {"num_rows": pa.array([1] * len(structs)), **{name: structs.field(name) for name in SUMMED[1:]}}
        groups = pa.table({by: values, **counts}).group_by(by).aggregate([(name, "sum") for name in SUMMED])
        yield from groups.rename_columns([by, *SUMMED]).to_pylist()


def visited(edits: Sequence[DatasetEdit]) -> str:
    """What the statistics of the visited tokens stand for."""
    tokens = [stats.tokens for edit in edits for stats in edit.stats.values()]
    if all(counts.num_visited == counts.num_scorable for counts in tokens):
        return "Visited tokens are those that the prior scored: here all of them that have a context."
    return "Visited tokens are those that the prior scored: a uniform sample, whose rates estimate those of all tokens."


def _rate(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def skipped(edits: Sequence[DatasetEdit]) -> str:
    """A table of why rows were skipped; empty if none was."""
    counts: Counter[str] = Counter()
    for stats in (stats for edit in edits for stats in edit.stats.values()):
        counts.update({status: count for status, count in stats.statuses.items() if status.startswith(SKIPPED)})
    known = {status.value: status for status in Status}
    rows = []
    for name, count in counts.most_common():
        status = known.get(name)
        remedy = status.remedy.format(columns="`columns=`", roles="`roles=`") if status else ""
        rows.append([as_code(name), f"{count:,}", status.meaning if status else "", remedy])
    return table(["status", "rows", "what happened", "what would help"], rows) if rows else ""


def examples(dataset: DatasetDict, edits: Sequence[DatasetEdit]) -> tuple[str, bool]:
    """A table of some edits, evenly spread; and whether they can be undone, unless their rows changed afterwards."""
    try:
        found = [list(_some_edits(dataset, split, edit, edits)) for edit in edits for split in edit.stats]
    except RowError:
        return "", False
    shares = _shares([len(rows) for rows in found])
    rows = list(chain(*map(_spread, found, shares)))
    return table(["row", "edit"], rows) if rows else "", True


def _shares(sizes: Sequence[int]) -> list[int]:
    """How many of NUM_EXAMPLES to take from each of several lists, as evenly as their sizes allow."""
    shares = [0] * len(sizes)
    while sum(shares) < min(NUM_EXAMPLES, sum(sizes)):
        shares[min((i for i, size in enumerate(sizes) if shares[i] < size), key=lambda i: shares[i])] += 1
    return shares


def _spread(items: Sequence[Any], num: int) -> list[Any]:
    """`num` of the items, evenly spread."""
    return [items[k * len(items) // num] for k in range(num)]


def _some_edits(
    dataset: DatasetDict, split: str, edit: DatasetEdit, edits: Sequence[DatasetEdit]
) -> Iterator[list[str]]:
    """Up to NUM_EXAMPLES rows of a split that an edit changed: their labels, and their first edits in context."""
    in_split = [other for other in edits if split in other.stats]
    columns = list(dict.fromkeys(other.stats_column for other in in_split))
    later = columns[columns.index(edit.stats_column) + 1 :]
    needed = {*columns, *chain(*(other.changes[split] for other in in_split))}
    rows = dataset[split].with_format(None)
    if missing := needed - {*rows.column_names}:
        raise RowError(f"no column {min(missing)!r}, which was edited")
    rows = rows.select_columns(sorted(needed))
    indices = edited_indices(rows, edit).tolist()
    which = f"edit {edits.index(edit) + 1}, " if len(edits) > 1 else ""
    for i in _spread(indices, min(NUM_EXAMPLES, len(indices))):
        row = rows[i]
        for column in reversed(later):
            row = revert(row, column)
        [(label, pieces), *_] = Diff([(f"{which}{split} {i}", row)], edit.stats_column).lines
        yield [as_text(label.partition("  ")[0]), _marked(pieces)]


def _marked(pieces: Sequence[Piece]) -> str:
    """Text with its edits marked, as HTML within Markdown, cut where it gets long."""
    marked, left = [], LONGEST
    for kind, text in pieces:
        cut = text if len(text) <= left else text[:left] + "…"
        marked.append(MARKS[kind].format(as_text(cut)))
        left -= len(text)
        if left <= 0:
            break
    return "".join(marked)
