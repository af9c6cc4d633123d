"""What an edit did, for people and for programs: tables, a histogram, JSON, and the edits in colour."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .errors import SourceError
from .record import revert
from .remedies import all_skipped, explain
from .rendering import get_at, path_of
from .sources import save_dataset
from .stats import NUM_BINS, DatasetStats

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

CONTEXT = 40  # characters shown on each side of an edit
CONTEXT_IDS = 8
BAR = 30  # characters of a bar that stands for all tokens


def stats_table(stats: DatasetStats) -> Table:
    """The counts and rates of a run, with the interval of a rate that has a sampling error."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    tokens = stats.tokens
    table.add_row("rows", f"{stats.num_rows:,}", "")
    for status, count in sorted(stats.statuses.items()):
        table.add_row(f"  {status}", f"{count:,}", "")
    for fingerprint, count in sorted(stats.fingerprints.items()):
        table.add_row("fingerprint", fingerprint, "of this edit" if len(stats.fingerprints) == 1 else f"{count:,} rows")
    table.add_row("tokens", f"{tokens.num_tokens:,}", "")
    table.add_row("editable", f"{tokens.num_editable:,}", f"{_number(stats.editable_rate)} of all tokens")
    table.add_row("visited", f"{tokens.num_visited:,}", "asked of the prior")
    low, high = stats.eligible_interval
    interval = f" (95%: {low:.4f} to {high:.4f})" if low < high else ""
    table.add_row("eligible rate", _number(stats.eligible_rate), "of visited tokens" + interval)
    table.add_row("changed", f"{tokens.num_changed:,}", "")
    table.add_row("changed rate", _number(stats.changed_rate, 5), "of all tokens")
    table.add_row("", _number(stats.editable_changed_rate, 5), "of editable tokens")
    table.add_row("perplexity", _number(stats.perplexity, 2), "of visited tokens")
    table.add_row("drift rate", _number(stats.drift_rate), "of edited rows encode to other tokens")
    table.add_row("near ties", f"{tokens.num_near_ties:,}", "rounding may have decided them")
    table.columns[1].justify = "right"
    return table


def bins_table(stats: DatasetStats) -> Table:
    """The visited tokens by their probability, in ten bins (Table 6 of the paper), with bars."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for header in ("probability", "share", "tokens"):
        table.add_column(header, justify="right")
    table.add_column("")
    total = max(1, sum(stats.tokens.histogram))
    for i, count in enumerate(stats.tokens.histogram):
        share = count / total
        table.add_row(_bin(i), f"{share:.1%}", f"{count:,}", Text("█" * round(share * BAR), style="cyan"))
    return table


def _bin(i: int) -> str:
    return f"{i / NUM_BINS:.1f} to {(i + 1) / NUM_BINS:.1f}"


def _number(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def show_run(console: Console, stats: DatasetStats) -> None:
    """Print the tables; if every row was skipped, warn on stderr."""
    console.print(stats_table(stats))
    if stats.tokens.num_visited:
        console.print(bins_table(stats))
    if all_skipped(stats.statuses):
        warning = f"warning: every row was skipped: {explain(stats.statuses, '--{}')}"
        Console(stderr=True).print(Text(warning, style="bold yellow"), soft_wrap=True)


def write_edited(folder: Path, dataset: DatasetDict, stats: DatasetStats, record: Mapping[str, Any]) -> None:
    """Write an edited dataset (Parquet files in `data`), `stats.json`, `histogram.png`, and the record as
    `toedit.json`. Raises SourceError if it can't.
    """
    save_dataset(dataset, folder)
    write_report(folder, stats, record)
    write_json(folder / "toedit.json", record)


def write_report(folder: Path, stats: DatasetStats, record: Mapping[str, Any]) -> None:
    """Write `stats.json` (the statistics and the record) and `histogram.png`. Raises SourceError if it can't."""
    try:
        write_json(folder / "stats.json", {**stats.to_dict(), "run": dict(record)})
        write_histogram(folder / "histogram.png", stats, str(record["prior"]))
    except OSError as error:
        raise SourceError(f"can't write the report: {error}") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there with all of its text, or not at all."""
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def write_histogram(path: Path, stats: DatasetStats, prior: str) -> None:
    """A PNG of the visited tokens' probabilities, in ten bins."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total = max(1, sum(stats.tokens.histogram))
    shares = [count / total for count in stats.tokens.histogram]
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bars = axes.bar([(i + 0.5) / NUM_BINS for i in range(NUM_BINS)], shares, width=0.9 / NUM_BINS)
    axes.bar_label(bars, [f"{share:.1%}" for share in shares], fontsize=8)
    axes.set_xticks([i / NUM_BINS for i in range(NUM_BINS + 1)])
    axes.set_xlabel("probability of the token")
    axes.set_ylabel("share of the visited tokens")
    axes.set_title(f"{stats.tokens.num_visited:,} tokens under {prior}", parse_math=False)
    figure.savefig(path, dpi=150, format="png")


def edited_rows(
    dataset: Dataset, num_rows: int, stats_column: str = "toedit", also: Sequence[str] = ()
) -> list[tuple[int, dict[str, Any]]]:
    """Up to `num_rows` edited rows with their indices, evenly spread: the edited columns, and those in `also`."""
    found = {i: struct["edits"] for i, struct in enumerate(dataset[stats_column]) if struct and struct["edits"]}
    edited = (str(path_of(edit, dataset.column_names)[0]) for edits in found.values() for edit in edits)
    columns = dict.fromkeys([stats_column, *also, *edited])
    indices, step = list(found), max(1.0, len(found) / num_rows)
    chosen = [indices[int(i * step)] for i in range(min(num_rows, len(found)))]
    shown = dataset.select_columns(list(columns))
    return [(i, shown[i]) for i in chosen]


def show_edits(console: Console, rows: Iterable[tuple[str, Mapping[str, Any]]], stats_column: str = "toedit") -> None:
    """Print the first edit of each of some edited rows, given as (label, row), with the text around it."""
    colour = console.color_system is not None and not console.no_color
    for label, row in rows:
        edits = row[stats_column]["edits"]
        path = path_of(edits[0], row)
        own = [edit for edit in edits if path_of(edit, row) == path]
        line = Text.assemble((visible(label), "dim"), "  ")
        original = revert(row, stats_column)
        line.append_text(marked(get_at(original, path), own, colour=colour))
        console.print(line, soft_wrap=True, highlight=False)


def marked(original: str | Sequence[int], edits: Sequence[Mapping[str, Any]], *, colour: bool) -> Text:
    """The surroundings of the first edit, every edit in them marked: old in red and struck, new in green.

    original: the text, or the list of token ids, before editing. Without colour an edit reads [-old-]{+new+}.
    """
    width = CONTEXT if isinstance(original, str) else CONTEXT_IDS
    first, *_ = edits
    low, high = max(0, first["start"] - width), min(len(original), _end(first, original) + width)
    line = Text("…" if low else "")
    position = low
    for edit in sorted(edits, key=lambda edit: int(edit["start"])):
        if low <= edit["start"] and _end(edit, original) <= high:
            line.append(_piece(original[position : edit["start"]]))
            old, new = visible(edit["old"]), visible(edit["new"])
            if colour:
                line.append(old, style="strike red").append(new, style="bold green")
            else:
                line.append((f"[-{old}-]" if old else "") + (f"{{+{new}+}}" if new else ""))
            position = _end(edit, original)
    line.append(_piece(original[position:high]))
    return line.append("…" if high < len(original) else "")


def _end(edit: Mapping[str, Any], original: str | Sequence[int]) -> int:
    return int(edit["start"]) + (len(edit["old"]) if isinstance(original, str) else 1)


def _piece(part: str | Sequence[int]) -> str:
    return visible(part) if isinstance(part, str) else "".join(f" {token} " for token in part)


def visible(text: str) -> str:
    """The text on one line and without control characters, which a terminal would obey."""
    return "".join(character if character.isprintable() else "↵" if character == "\n" else "·" for character in text)
