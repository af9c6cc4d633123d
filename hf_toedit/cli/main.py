"""The command line: `hf-toedit edit`, `score`, `revert`, `run` and `demo`."""

from __future__ import annotations

import dataclasses
import functools
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .. import __version__
from ..display import visible
from ..editing.config import ToEditConfig
from ..editing.editor import StatsMode
from ..editing.stats import summarize
from ..errors import RowError
from ..experiments.runner import RunOptions, run_recipe
from ..files.sources import WORK_FOLDER, new_folder, save_dataset
from ..report.edits import edited_rows, show_edits
from ..report.files import HISTOGRAM, write_edited, write_report
from ..report.tables import show_run
from ..rows.revert import revert as revert_rows
from ..scale.interrupts import outlive_readers
from ..transform import ToEditTransform
from .command import app, command
from .options import DataOptions, Out, PriorOptions, Source, Split, StatsColumn, read_source

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NUM_SHOWN = 5
SCORES = "toedit_score"  # a column of `score` alone; the source may have a `toedit` one


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hf-toedit {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    outlive_readers()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows "?"


@command
def edit(
    prior: PriorOptions,
    data: DataOptions,
    config: ToEditConfig,
    out: Out,
    stats: Annotated[
        StatsMode, typer.Option(help="Visit only positions that may change, or all (slower).")
    ] = "sampled",
    stats_column: StatsColumn = "toedit",
) -> None:
    """Edit a dataset with a prior, into a new folder."""
    with new_folder(out) as folder:
        transform = ToEditTransform(
            prior.load(data.num_proc), config, **data.what_to_edit(), stats=stats, stats_column=stats_column
        )
        dataset = data.load()
        if config.strategy == "random":
            transform.fit(dataset)
        edited = data.edit(dataset, transform, folder / WORK_FOLDER)
        statistics = summarize(edited, stats_column)
        shown = _some_edits(edited, stats_column)
        write_edited(folder, edited, statistics, transform.provenance())
    console = Console()
    show_run(console, statistics)
    show_edits(console, shown, stats_column)
    _say_where(console, out, f"load_dataset({str(out)!r})")


@command
def score(
    prior: PriorOptions,
    data: DataOptions,
    config: Annotated[ToEditConfig, "threshold", "protect"],
    out: Annotated[Path | None, typer.Option(help="A new folder for stats.json and histogram.png.")] = None,
) -> None:
    """Score all tokens of a dataset without editing it."""
    with new_folder(out) if out is not None else _work_only() as folder:
        config = dataclasses.replace(config, strategy="none")
        loaded = prior.load(data.num_proc)
        transform = ToEditTransform(loaded, config, **data.what_to_edit(), stats="full", stats_column=SCORES)
        scored = data.edit(data.load(), transform, folder / WORK_FOLDER, keep_columns=False)
        statistics = summarize(scored, SCORES)
        if out is not None:
            write_report(folder, statistics, transform.provenance())
    console = Console()
    show_run(console, statistics)
    if out is not None:
        _say_where(console, out)


@command
def revert(source: Source, out: Out, split: Split = None, stats_column: StatsColumn = "toedit") -> None:
    """Undo the edits of a dataset, into a new folder."""
    with new_folder(out) as folder:
        dataset = read_source(source, split=split)
        work = folder / WORK_FOLDER
        reverted = {name: _revert(rows, stats_column, work / f"{name}.arrow") for name, rows in dataset.items()}
        save_dataset(type(dataset)(reverted), folder)
    _say_where(Console(), out, f"load_dataset({str(out)!r})")


@command
def demo(
    config: ToEditConfig,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write. Default: toedit-demo, with a number if that exists.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only this many docstrings, the first ones.", min=1)] = None,
) -> None:
    """Edit the docstrings of Python itself with the demo prior."""
    from .demo import run_demo

    console = Console()
    folder = run_demo(out, limit, config, console)
    _say_where(console, folder, f"load_dataset({str(folder)!r})")


@command
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, or a folder with a recipe.yaml.", show_default=False)],
    options: RunOptions,
) -> None:
    """Run an experiment: load, edit, train, evaluate, report. Finished stages are skipped."""
    run_recipe(recipe, options)


def _some_edits(dataset: DatasetDict, stats_column: str) -> list[tuple[str, dict[str, Any]]]:
    found = {split: edited_rows(rows, NUM_SHOWN, stats_column) for split, rows in dataset.items()}
    return [(f"{split} {i}", row) for split, some in found.items() for i, row in some]


def _revert(rows: Dataset, stats_column: str, cache: Path) -> Dataset:
    """The rows before their edits; columns without an edit are not touched."""
    if stats_column not in rows.column_names:
        raise RowError(
            f"no column {stats_column!r} (columns: {', '.join(map(repr, rows.column_names))}): nothing to revert"
        )
    features = rows.features.copy()
    del features[stats_column]
    return rows.map(
        functools.partial(revert_rows, stats_column=stats_column),
        batched=True,
        remove_columns=[stats_column],
        features=features,
        cache_file_name=str(cache),
    )


@contextmanager
def _work_only() -> Iterator[Path]:
    """As `new_folder`, for work files alone."""
    with TemporaryDirectory() as folder:
        (Path(folder) / WORK_FOLDER).mkdir()
        yield Path(folder)


def _say_where(console: Console, out: Path, how: str = "") -> None:
    line = f"\nWrote {visible(str(out))}" + (f"; read it with {how}" if how else "")
    if (out / "stats.json").exists() and not (out / HISTOGRAM).exists():
        line += f"\n{HISTOGRAM} needs matplotlib: pip install 'hf-toedit[plot]'"
    console.print(line, soft_wrap=True, highlight=False, markup=False)
