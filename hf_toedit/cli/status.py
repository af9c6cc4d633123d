"""`hf-toedit status`: how far an edit is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from ..errors import SourceError
from ..scale.job import Job
from ..scale.progress import duration
from ..scale.status import Status, check_shards, status_of
from ..statuses import SKIPPED

VERIFY_HELP = "Also read all shards, and compare them with the checksums that were taken when they were written."
OUT_HELP = "The output of `hf-toedit edit`, finished or not."


def status(
    out: Annotated[str, typer.Argument(metavar="OUT", show_default=False, help=OUT_HELP)],
    verify: Annotated[bool, typer.Option("--verify", help=VERIFY_HELP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show how far an edit is. It reads only what finished units left, so it works at any time, from any machine."""
    job = Job(out)
    if not job.is_planned():
        raise SourceError(
            f"{out!r} is not the output of `hf-toedit edit`, or its plan is not written yet: check the name"
        )
    if verify:
        check_shards(job)
    found = status_of(job)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for line in _lines(found):
        table.add_row(*line)
    table.columns[1].justify = "right"
    Console().print(table)


def _lines(found: Status) -> Iterator[tuple[str, str, str]]:
    tokens = found.tokens
    yield "units", f"{found.num_units_done:,}", f"of {found.num_units:,}"
    yield "done", f"{found.done:.1%}", "of the source"
    yield "rows", f"{found.num_rows:,}", f"{decimal(found.num_bytes)} of Parquet"
    for name, count in sorted(found.statuses.items()):
        if name.startswith(SKIPPED):
            yield f"  {name}", f"{count:,}", ""
    if found.num_failed_rows:
        yield "  failed", f"{found.num_failed_rows:,}", "--retry-failed edits them again"
    yield "tokens", f"{tokens.num_tokens:,}", ""
    yield "visited", f"{tokens.num_visited:,}", ""
    yield "changed", f"{tokens.num_changed:,}", ""
    if found.worker_seconds:
        yield "speed", f"{tokens.num_tokens / found.worker_seconds:,.0f}", "tokens/s per worker"
        yield "time", duration(found.worker_seconds), "of all workers together"
    if found.num_units_done < found.num_units:
        yield "left", duration(found.worker_seconds_left), "for one worker; the same `hf-toedit edit` resumes it"
