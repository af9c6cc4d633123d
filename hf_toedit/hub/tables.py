"""Tables of a dataset card: what edits did to each split, why rows were skipped, some edits in context."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..errors import RowError
from ..report.counts import SOURCE_COLUMNS
from ..report.edits import Diff, Piece
from ..report.measurements import about, header, lines, verdict_texts
from ..rows.revert import revert
from ..statuses import SKIPPED, Status
from .markdown import as_code, as_text, table
from .records import DatasetEdit, Record, edited_indices

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NUM_EXAMPLES = 10
LONGEST = 240  # characters shown of an edit and the text around it
MARKS = {"same": "{}", "old": "<del>{}</del>", "new": "<ins>{}</ins>"}


def statistics(edit: DatasetEdit, sizes: Mapping[str, int]) -> str:
    """A table of what an edit did to each split and column. sizes: the number of rows of each split."""
    columns: list[dict[str, str]] = []
    for split, stats in edit.stats.items():
        statuses = {name: stats.statuses.get(name, 0) for name in (Status.EDITED, Status.UNCHANGED)}
        tokens, (low, high) = stats.tokens, stats.eligible_interval
        columns.append(
            {
                "rows": f"{stats.num_rows:,} of {sizes[split]:,}",
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


def by_source(edit: DatasetEdit) -> str:
    """A table of what an edit did to the rows of each source; empty if no column names sources, or too many."""
    parts = list(edit.counts.values())
    edited = set(chain(*edit.changes.values()))
    by = next((name for name in SOURCE_COLUMNS if name not in edited and all(name in x.sources for x in parts)), None)
    sums = None if by is None else sum(parts[1:], start=parts[0]).sources[by]
    if by is None or sums is None:
        return ""
    cells = []
    for name, values in sorted(sums.items(), key=lambda item: -item[1][0]):
        _, num_tokens, num_changed = values
        rate = num_changed / num_tokens if num_tokens else math.nan
        cells.append([as_text(name), *(f"{value:,}" for value in values), _rate(rate)])
    return table([as_code(by), "rows", "tokens", "tokens changed", "changed rate, of all tokens"], cells, right=True)


def measurements(record: Record) -> str:
    """What `hf-toedit measure` found: verdicts and figures."""
    head, *rows = [[as_text(cell) for cell in cells] for cells in (header(record), *lines(record))]
    verdicts = "\n".join(f"- {as_text(text)}" for text in verdict_texts(record))
    return "\n\n".join(filter(None, [as_text(" ".join(about(record))), verdicts, table(head, rows, right=True)]))


def visited(edits: Sequence[DatasetEdit]) -> str:
    """What the statistics of the visited tokens stand for."""
    tokens = [stats.tokens for edit in edits for stats in edit.stats.values()]
    if not any(counts.num_visited for counts in tokens):
        return "Visited tokens are those that the prior scored: here none."
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


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """What a card shows of the rows themselves.

    sizes: the number of rows of each split. examples: a table of some edits, evenly spread.
    is_intact: whether the edits can be undone; not if their rows changed afterwards.
    """

    sizes: Mapping[str, int]
    examples: str
    is_intact: bool


def excerpt_of(dataset: DatasetDict, edits: Sequence[DatasetEdit]) -> Excerpt:
    """What a card shows of a dataset."""
    sizes = {str(split): len(rows) for split, rows in dataset.items()}
    try:
        found = [
            _of_split(dataset[split].with_format(None), split, edit, edits) for edit in edits for split in edit.counts
        ]
    except RowError:
        return Excerpt(sizes, "", False)
    return Excerpt(sizes, examples(found), True)


def _of_split(rows: Dataset, split: str, edit: DatasetEdit, edits: Sequence[DatasetEdit]) -> list[list[str]]:
    rows = rows.select_columns(needed_columns(rows.column_names, split, edits))
    indices = edited_indices(rows, edit.counts[split]).tolist()
    chosen = [indices[k] for k in spread(len(indices), NUM_EXAMPLES)]
    return [example(rows[i], i, split, edit, edits) for i in chosen]


def examples(found: Sequence[Sequence[Sequence[str]]]) -> str:
    """A table of NUM_EXAMPLES of the edits found, from all lists alike; empty if there are none."""
    shares = _shares([len(rows) for rows in found])
    rows = [rows[k] for rows, share in zip(found, shares, strict=True) for k in spread(len(rows), share)]
    return table(["row", "edit"], rows) if rows else ""


def _shares(sizes: Sequence[int]) -> list[int]:
    """How many of NUM_EXAMPLES to take from each of several lists, as evenly as their sizes allow."""
    shares = [0] * len(sizes)
    while sum(shares) < min(NUM_EXAMPLES, sum(sizes)):
        shares[min((i for i, size in enumerate(sizes) if shares[i] < size), key=lambda i: shares[i])] += 1
    return shares


def spread(size: int, num: int) -> list[int]:
    """The indices of up to `num` of `size` items, evenly spread."""
    num = min(num, size)
    return [k * size // num for k in range(num)]


def needed_columns(names: Sequence[str], split: str, edits: Sequence[DatasetEdit]) -> list[str]:
    """The columns that examples of a split are made from. Raises RowError if one is missing. names: all columns."""
    in_split = [edit for edit in edits if split in edit.counts]
    needed = {*(edit.stats_column for edit in in_split), *chain(*(edit.changes[split] for edit in in_split))}
    if missing := needed - {*names}:
        raise RowError(f"no column {min(missing)!r}, which was edited")
    return sorted(needed)


def example(
    row: Mapping[str, Any], number: int, split: str, edit: DatasetEdit, edits: Sequence[DatasetEdit]
) -> list[str]:
    """A row that an edit changed: its label, and its first edits in context. number: its place in the split.

    Raises RowError if the row changed after editing.
    """
    columns = list(dict.fromkeys(other.stats_column for other in edits if split in other.counts))
    for column in reversed(columns[columns.index(edit.stats_column) + 1 :]):
        row = revert(row, column)
    which = f"edit {edits.index(edit) + 1}, " if len(edits) > 1 else ""
    [(label, pieces), *_] = Diff([(f"{which}{split} {number}", row)], edit.stats_column).lines
    return [as_text(label.partition("  ")[0]), _marked(pieces)]


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
