"""What an edit did, for people and for programs: tables, a histogram, JSON, and the edits in colour."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..editing.stats import NUM_BINS, DatasetStats
from ..statuses import all_skipped, explain

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
