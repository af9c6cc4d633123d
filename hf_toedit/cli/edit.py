"""`hf-toedit edit`: a dataset, edited, into a new folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..editing.config import ToEditConfig
from ..editing.editor import StatsMode
from ..editing.stats import summarize
from ..errors import SourceError, ToEditError
from ..files.sources import WORK_FOLDER, new_folder
from ..hub.dataset_card import terms_of
from ..hub.folder import write_edited
from ..hub.push import check_target, check_terms, push_folder
from ..hub.record_file import recorded_in
from ..hub.records import Record, recorded_columns, records_of
from ..report.edits import Row, edited_rows, show_edits
from ..report.tables import show_run
from ..transform import ToEditTransform
from .options import DataOptions, Out, PriorOptions, StatsColumn, say_where
from .push import show_pushed

if TYPE_CHECKING:
    from datasets import DatasetDict

NUM_SHOWN = 5
PUSH_HELP = "Also push it to this dataset on the Hub, such as me/flan-toedit; see `hf-toedit push`."
STATS_HELP = "Visit only positions that may change, or all of them (slower)."


def edit(
    prior: PriorOptions,
    data: DataOptions,
    config: ToEditConfig,
    out: Out,
    stats: Annotated[StatsMode, typer.Option(help=STATS_HELP)] = "sampled",
    stats_column: StatsColumn = "toedit",
    push: Annotated[str | None, typer.Option(help=PUSH_HELP)] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: make it public.")] = False,
) -> None:
    """Edit a dataset with a prior, into a new folder."""
    if push is not None:
        check_target(push, private=not public)
    with new_folder(out) as folder:
        transform = ToEditTransform(
            prior.load(data.num_proc), config, **data.what_to_edit(), stats=stats, stats_column=stats_column
        )
        dataset = data.load()
        source = data.origin(dataset)
        earlier, read_by = list[Record](), data.words(source)
        if recorded_columns(dataset):
            (earlier, source), read_by = recorded_in(source), []
        if config.strategy == "random":
            transform.fit(dataset)
        if push is not None and public:
            check_terms(terms_of(source, records_of([*earlier, transform])), private=False)
        edited = data.edit(dataset, transform, folder / WORK_FOLDER)
        statistics = summarize(edited, stats_column)
        shown = _some_edits(edited, stats_column)
        write_edited(folder, edited, statistics, [*earlier, transform], source, read_by)
    console = Console()
    show_run(console, statistics)
    show_edits(console, shown, stats_column)
    say_where(console, out, f"load_dataset({str(out)!r})")
    if push is not None:
        _push(out, push, public=public)


def _push(out: Path, repo_id: str, *, public: bool) -> None:
    """Push the folder. Raises a SourceError that has the command to try again."""
    try:
        show_pushed(push_folder(out, repo_id, private=not public))
    except ToEditError as error:
        again = shlex.join(["hf-toedit", "push", str(out), repo_id, *(["--public"] if public else [])])
        raise SourceError(f"{error}; the edited rows are in {str(out)!r}: try again with `{again}`") from error


def _some_edits(dataset: DatasetDict, stats_column: str) -> list[tuple[str, Row]]:
    """Some edited rows of each split, labelled `train 17`."""
    rows_of = {split: edited_rows(rows, NUM_SHOWN, stats_column) for split, rows in dataset.items()}
    return [(f"{split} {i}", row) for split, rows in rows_of.items() for i, row in rows]
