"""`hf-toedit report`: a page that shows what was edited."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ..editing.stats import UNKNOWN
from ..errors import RowError
from ..files.sources import load_source
from ..hub.record_file import RECORD, recorded_in
from ..hub.records import Record
from ..hub.source import Source, file_of
from ..hub.space import push_page
from ..measure.identity import fits
from ..report.comparison import compare
from ..report.counts import Counts
from ..report.measurements import MEASUREMENTS, STALE, read_measurements
from ..report.page import About, check_replaceable, page_of, write_page
from .options import SOURCE_HELP, Split, StatsColumn, note, read_source, say_where

AGAINST_HELP = (
    "The dataset before the edit, in any of the same forms. Each row is reverted and compared with it; if one differs, "
    "the page names it and the command ends with an error."
)
BY_HELP = (
    "A column that says where a row comes from, to count by. Default: source, subset, task or another of that kind, if "
    "there is one."
)
SPACE_HELP = "Also put the page on the Hub, as a static Space with this id; a new one is private."
TOKENIZER_HELP = "A prior (Hub id, folder or demo) with the tokenizer that made input_ids, to show them as text."


def report(
    edited: Annotated[list[str], typer.Argument(metavar="EDITED", show_default=False, help=SOURCE_HELP)],
    out: Annotated[Path, typer.Option(help="The HTML file to write. Only an earlier report is replaced.")] = Path(
        "report.html"
    ),
    against: Annotated[str | None, typer.Option(help=AGAINST_HELP)] = None,
    split: Split = None,
    by: Annotated[str | None, typer.Option(help=BY_HELP)] = None,
    tokenizer: Annotated[str | None, typer.Option(help=TOKENIZER_HELP)] = None,
    push_space: Annotated[str | None, typer.Option(metavar="<owner/name>", help=SPACE_HELP)] = None,
    stats_column: StatsColumn = "toedit",
) -> None:
    """Write a page that shows the edits: figures, charts, rows."""
    check_replaceable(out)
    dataset = read_source(edited, split=split)
    source = None if against is None else load_source(against, split=split)
    with Console(stderr=True).status("Reading all rows"):
        counts = Counts(dataset, stats_column, by)
        comparison = None if source is None else compare(dataset, source, stats_column)
    records, notes = _records_of(edited, counts)
    name = ", ".join(Source.parse(part).name for part in edited)
    measurements = _measurements_of(edited)
    if measurements is not None and not fits(measurements, dataset):
        measurements, notes = None, [*notes, f"{STALE}."]
        note(STALE)
    about = About(name, records, _tokenizer(tokenizer), comparison, notes, measurements)
    page = page_of(dataset, counts, about)
    write_page(out, page)
    console = Console()
    if comparison is not None:
        if not comparison.is_equal:
            raise RowError(f"{comparison}; {str(out)!r} has more")
        console.print(Text(str(comparison)), soft_wrap=True)
    say_where(console, out)
    if push_space is not None:
        console.print(Text(f"Pushed to {push_page(page, push_space, f'Edits in {name}')}"), soft_wrap=True)


def _records_of(edited: list[str], counts: Counts) -> tuple[list[Record], list[str]]:
    """Of the records in an edited folder or Hub dataset those that the rows name, and a note if they name others."""
    recorded = [] if len(edited) > 1 else recorded_in(Source.parse(edited[0]))[0]
    if not recorded:
        return [], []
    known = {record["fingerprint"] or UNKNOWN: record for record in recorded}
    named = counts.stats.fingerprints
    missing = ", ".join(sorted(named.keys() - known.keys()))
    notes = [f"{RECORD} does not say how rows with this fingerprint were edited: {missing}."] if missing else []
    return [record for fingerprint, record in known.items() if fingerprint in named], notes


def _measurements_of(edited: list[str]) -> dict[str, Any] | None:
    """What `hf-toedit measure` wrote beside the rows."""
    path = None if len(edited) > 1 else file_of(Source.parse(edited[0]), MEASUREMENTS)
    return None if path is None else read_measurements(path)


def _tokenizer(name: str | None) -> Any:
    from ..priors.transformers_prior import TransformersPrior

    return None if name is None else TransformersPrior(name).tokenizer
