"""`hf-toedit demo`: the docstrings of Python's standard library, edited with the small bundled prior."""

from __future__ import annotations

import os
from itertools import chain, count, islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..editing.config import ToEditConfig
from ..editing.stats import summarize
from ..experiments.docstrings import docstrings, standard_library
from ..files.sources import WORK_FOLDER, new_folder
from ..report.edits import edited_rows, show_edits
from ..report.files import write_edited
from ..report.tables import show_run
from ..scale.mapping import edit_rows
from ..transform import ToEditTransform
from .options import say_where

NUM_SHOWN = 20
BATCH_SIZE = 250
MAX_PROCESSES = 8
DEFAULT_FOLDER = "toedit-demo"
WORDS = (
    "visited: the prior was asked for its probability; eligible: visited, editable and at or above the threshold; "
    "changed: the draw gave another token."
)


OUT_HELP = "The folder to write to. Default: toedit-demo, with a number appended if that exists."


def demo(
    config: ToEditConfig,
    out: Annotated[Path | None, typer.Option(help=OUT_HELP)] = None,
    limit: Annotated[int | None, typer.Option(help="Edit only the first docstrings, this many.", min=1)] = None,
) -> None:
    """Edit the docstrings of Python itself with the demo prior."""
    console = Console()
    folder = run_demo(out, limit, config, console)
    say_where(console, folder, f"load_dataset({str(folder)!r})")


def run_demo(out: Path | None, limit: int | None, config: ToEditConfig, console: Console) -> Path:
    """Edit, write everything to a folder, show what happened, and return the folder.

    out: the folder to write to; by default `toedit-demo` here, with a number appended if that exists.
    limit: edit only the first `limit` docstrings.

    Raises SourceError if `out` exists or can't be written.
    """
    target = out or free_folder(Path(DEFAULT_FOLDER))
    with new_folder(target) as folder:
        from datasets import Dataset, DatasetDict

        console.print(f"Reading the docstrings below {standard_library()} ...", soft_wrap=True, highlight=False)
        dataset = Dataset.from_list(list(islice(docstrings(standard_library()), limit)))
        transform = ToEditTransform("demo", config)
        if config.strategy == "random":
            transform.fit(dataset)
        edited = edit_rows(
            dataset,
            transform,
            folder / WORK_FOLDER / "demo.arrow",
            batch_size=BATCH_SIZE,
            num_proc=num_processes(len(dataset)),
        )
        stats = summarize(edited)
        shown = edited_rows(edited, NUM_SHOWN, also=("module", "name"))
        write_edited(folder, DatasetDict(train=edited), stats, transform.provenance())
    show_run(console, stats)
    console.print(WORDS + "\n", highlight=False)
    show_edits(console, [(f"{row['module']}.{row['name']}", row) for _, row in shown])
    return target


def num_processes(num_rows: int) -> int:
    """One per core, if there are rows enough; a model this small gains nothing from threads."""
    return max(1, min(os.cpu_count() or 1, MAX_PROCESSES, num_rows // BATCH_SIZE))


def free_folder(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, ... that does not exist."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(folder for folder in chain([path], numbered) if not folder.exists())
