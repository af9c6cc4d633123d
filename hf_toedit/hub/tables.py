"""Tables of a dataset card: what edits did to each split, why rows were skipped, some edits in context."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from ..errors import RowError
from ..report.edits import Diff, Piece
from ..rows.revert import revert
from ..statuses import SKIPPED, Status
from .markdown import as_code, as_text, table
from .records import Edit, edited_indices

if TYPE_CHECKING:
    from datasets import DatasetDict

NUM_EXAMPLES = 10
LONGEST = 240  # characters shown of an edit and the text around it
MARKS = {"same": "{}", "old": "<del>{}</del>", "new": "<ins>{}</ins>"}


def statistics(edit: Edit, dataset: DatasetDict) -> str:
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
                "tokens visited by the prior": f"{tokens.num_visited:,}",
                "eligible, of those visited": _rate(stats.eligible_rate)
                + (f" (95%: {low:.4f} to {high:.4f})" if low < high else ""),
                "tokens changed": f"{tokens.num_changed:,}",
                "changed, of all tokens": _rate(stats.changed_rate),
                "perplexity of the visited tokens": _rate(stats.perplexity, 2),
                "edited rows that encode to other tokens": _rate(stats.drift_rate),
                "near ties, which rounding may have decided": f"{tokens.num_near_ties:,}",
            }
        )
    for name in dict.fromkeys(name for changes in edit.changes.values() for name in changes):
        for column, changes in zip(columns, edit.changes.values(), strict=True):
            column[f"edits in {as_code(name)}"] = f"{changes.get(name, 0):,}"
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return table(["", *(as_code(str(split)) for split in edit.stats)], rows, right=True)


def visited(edits: Sequence[Edit]) -> str:
    """What the statistics of the visited tokens stand for."""
    if all(edit.record.get("stats") == "full" for edit in edits):
        return "The prior scored every token that it could."
    return "Visited tokens are those that the prior scored: a uniform sample, so their rates hold for all tokens."


def _rate(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def skipped(edits: Sequence[Edit]) -> str:
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


def examples(dataset: DatasetDict, edits: Sequence[Edit]) -> tuple[str, bool]:
    """A table of some edits, evenly spread; and whether they can be undone, unless their rows changed afterwards."""
    try:
        found = [list(_some_edits(dataset, split, edit, edits)) for edit in edits for split in edit.stats]
    except RowError:
        return "", False
    share = -(-NUM_EXAMPLES // len(found))
    rows = list(chain(*(rows[:: -(-len(rows) // share) or 1] for rows in found)))
    return table(["row", "edit"], rows[:NUM_EXAMPLES]) if rows else "", True


def _some_edits(dataset: DatasetDict, split: str, edit: Edit, edits: Sequence[Edit]) -> Iterator[list[str]]:
    """Up to NUM_EXAMPLES rows of a split that an edit changed: their labels, and their first edits in context."""
    columns = list(dict.fromkeys(other.stats_column for other in edits))
    later = columns[columns.index(edit.stats_column) + 1 :]
    needed = {*columns, *(name for other in edits for changes in other.changes.values() for name in changes)}
    rows = dataset[split].with_format(None)
    if missing := needed - {*rows.column_names}:
        raise RowError(f"no column {min(missing)!r}, which was edited")
    rows = rows.select_columns(sorted(needed))
    indices = edited_indices(rows, edit)
    num_rows = min(NUM_EXAMPLES, len(indices))
    for i in (indices[k * len(indices) // num_rows] for k in range(num_rows)):
        row = rows[i]
        for column in reversed(later):
            row = revert(row, column)
        [(label, pieces), *_] = Diff([(f"{split} {i}", row)], edit.stats_column).lines
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
