"""Tables of an edit's statistics for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..editing.stats import BIN_HEADERS, DatasetStats
from ..statuses import all_skipped, explain


def stats_table(stats: DatasetStats) -> Table:
    """The counts and rates of a run, with an interval for rates that have a sampling error."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for line in stats.lines():
        table.add_row(*line)
    table.columns[1].justify = "right"
    return table


def bins_table(stats: DatasetStats) -> Table:
    """The visited tokens by probability, in ten bins (Table 6 of the paper), with bars."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for header in BIN_HEADERS:
        table.add_column(header, justify="right" if header else "left")
    for *numbers, bar in stats.bins():
        table.add_row(*numbers, Text(bar, style="cyan"))
    return table


def show_run(console: Console, stats: DatasetStats) -> None:
    """Print the tables; if every row was skipped, warn on stderr."""
    console.print(stats_table(stats))
    if stats.tokens.num_visited:
        console.print(bins_table(stats))
    if all_skipped(stats.statuses):
        warning = f"warning: every row was skipped: {explain(stats.statuses, '--{}')}"
        Console(stderr=True).print(Text(warning, style="bold yellow"), soft_wrap=True)
