"""`hf-toedit score`: how likely a prior finds the tokens of a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..editing.config import ToEditConfig
from ..editing.stats import summarize
from ..errors import when_full
from ..files.outputs import WORK_FOLDER, new_folder, scratch_folder
from ..report.files import json_text, stats_record, write_report
from ..report.tables import show_run
from ..transform import ToEditTransform
from .options import SCORES, DataOptions, PriorOptions, say_where

JSON_HELP = "Print what stats.json would hold to stdout, and the table to stderr."


def score(
    prior: PriorOptions,
    data: DataOptions,
    config: Annotated[ToEditConfig, "threshold", "protect"],
    out: Annotated[Path | None, typer.Option(help="A new folder for stats.json and histogram.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Score all tokens of a dataset without editing it."""
    with new_folder(out) if out is not None else _work_only() as folder:
        config = dataclasses.replace(config, strategy="none", rate=None, distribution=None, targets="edited")
        loaded = prior.load(data.workers)
        transform = ToEditTransform(loaded, config, **data.what_to_edit(), stats="full", stats_column=SCORES)
        scored = data.edit(data.load(), transform, folder / WORK_FOLDER, keep_columns=False)
        statistics = summarize(scored, SCORES)
        if out is not None:
            write_report(folder, statistics, transform.provenance())
    console = Console(stderr=as_json)
    show_run(console, statistics)
    if out is not None:
        say_where(console, out)
    if as_json:
        print(json_text(stats_record(statistics, transform.provenance())), end="")


@contextmanager
def _work_only() -> Iterator[Path]:
    """Like `new_folder`, but for work files alone."""
    fix = "free some space, or set TMPDIR to a folder on a larger disk"
    with when_full("can't write the scores", fix), scratch_folder() as folder:
        (folder / WORK_FOLDER).mkdir()
        yield folder
