"""`hf-toedit measure`: a dataset, or two side by side, in figures with intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..display import visible
from ..errors import ConfigError, RowError
from ..files.sources import STDIN
from ..hub.source import Source
from ..measure.batches import in_batches
from ..measure.containers import batches_of
from ..measure.documents import Document
from ..measure.identity import Digest, are_same_rows
from ..measure.reading import Reader
from ..measure.side_by_side import one_side, side_by_side
from ..measure.tally import CHARACTERS, Tally
from ..measure.verdicts import CONFIDENCE
from ..report.files import json_text
from ..report.measurements import (
    FORMAT,
    KIND,
    about,
    check_replaceable,
    header,
    lines,
    verdict_texts,
    write_measurements,
)
from ..rows.column import added_columns
from ..rows.formats import IDS
from ..rows.provenance import prior_identity, prior_record, versions, without_paths
from ..statuses import explain
from .options import (
    Encoding,
    Limit,
    PriorOptions,
    Split,
    StatsColumn,
    Subset,
    names_in,
    note,
    read_source,
    say_where,
)

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

A_HELP = (
    "A file, a quoted pattern such as 'data/*.jsonl', - for stdin, a folder, or the id of a dataset on the Hub, as for "
    "`edit`."
)
B_HELP = "Another one, to compare with A, such as an edit of it."
PRIOR_HELP = "A Hub id, a folder, or 'demo'. Without a prior, only what needs none is measured."
COLUMNS_HELP = "Columns to measure, as a,b or by repeating the option. Default: those that `edit` would edit."
CONTEXT_HELP = "Columns that the prior reads before those to measure."
ROLES_HELP = "The roles to measure in conversations. Default: assistant."
OUT_HELP = (
    "A JSON file to write; only an earlier one is replaced. As measurements.json in the folder of an edit, it is shown "
    "by `report`, and on the card that `push` writes."
)
JSON_HELP = "Print what the file would hold to stdout, and the tables to stderr."
NAMES = ("A", "B")


@dataclasses.dataclass(frozen=True)
class MaybePrior(PriorOptions):
    """The language model, if one is wanted."""

    prior: Annotated[str, typer.Option(help=PRIOR_HELP, show_default=False)] = ""


@dataclasses.dataclass(frozen=True)
class Sides:
    """What to measure."""

    a: Annotated[str, typer.Argument(metavar="A", show_default=False, help=A_HELP)]
    b: Annotated[str | None, typer.Argument(metavar="B", show_default=False, help=B_HELP)] = None
    split: Split = None
    subset: Subset = None
    limit: Limit = None
    columns: Annotated[list[str] | None, typer.Option(help=COLUMNS_HELP)] = None
    context: Annotated[list[str] | None, typer.Option(help=CONTEXT_HELP)] = None
    roles: Annotated[list[str] | None, typer.Option(help=ROLES_HELP)] = None
    stats_column: StatsColumn = "toedit"
    encoding_errors: Encoding = "strict"

    @property
    def sources(self) -> list[str]:
        return [self.a] if self.b is None else [self.a, self.b]

    def load(self) -> list[DatasetDict]:
        """A, and B if there is one. Raises ConfigError if they have different splits."""
        if self.a == self.b == STDIN:
            raise ConfigError(f"A and B are both {STDIN!r}, and stdin can be read once: name a file for one of them")
        which = {name: getattr(self, name) for name in ("split", "subset", "limit", "encoding_errors")}
        loaded = [read_source([source], **which) for source in self.sources]
        splits = [", ".join(map(repr, dataset)) for dataset in loaded]
        if len(set(splits)) > 1 and max(map(len, loaded)) > 1:
            raise ConfigError(f"A has {splits[0]} and B has {splits[1]}: set split= to one that both have")
        return loaded

    def chosen(self) -> dict[str, Any]:
        """The columns, context and roles that were given."""
        return names_in(columns=self.columns, context=self.context, roles=self.roles)


def measure(
    sides: Sides,
    prior: MaybePrior,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help=OUT_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Measure a dataset, or two side by side, in figures with intervals."""
    if out is not None:
        check_replaceable(out)
    _check_prior(prior)
    datasets = sides.load()
    loaded = prior.load(workers=1) if prior.prior else None
    readers = [Reader(loaded, **sides.chosen(), stats_column=sides.stats_column) for _ in datasets]
    columns = _columns_of(readers, datasets)
    _note_unedited(datasets, columns, sides.stats_column)
    totals = [sum(map(len, dataset.values())) for dataset in datasets]
    has_edits = [any(sides.stats_column in rows.column_names for rows in dataset.values()) for dataset in datasets]
    tallies = [
        Tally(total, min(totals), with_prior=loaded is not None, with_edits=edits)
        for total, edits in zip(totals, has_edits, strict=True)
    ]
    digests = [
        _count(name, dataset, reader, tally, columns)
        for name, dataset, reader, tally in zip(NAMES, datasets, readers, tallies, strict=False)
    ]
    with Console(stderr=True).status("Computing intervals"):
        if len(tallies) == 1:
            found = one_side(tallies[0])
        else:
            paired = are_same_rows(datasets[0], datasets[1], columns, sides.stats_column)
            found = side_by_side(tallies[0], tallies[1], paired=paired)
    for side, source, splits in zip("ab", sides.sources, digests, strict=False):
        found[side] = {"source": Source.parse(source).name, "splits": splits, **found[side]}
    record = {
        "kind": KIND,
        "format": FORMAT,
        "confidence": CONFIDENCE,
        "columns": columns,
        "settings": {name: value for name, value in dataclasses.asdict(sides).items() if name not in ("a", "b")},
        "prior": None if loaded is None else without_paths({**prior_record(loaded), **prior_identity(loaded)}),
        "versions": versions(),
        **found,
    }
    _finish(_json_ready(record), out, as_json=as_json)


def _finish(record: dict[str, Any], out: Path | None, *, as_json: bool) -> None:
    console = Console(stderr=as_json)
    console.print(_table(record))
    for text in (*verdict_texts(record), "", *about(record)):
        console.print(Text(visible(text)), soft_wrap=True)
    if out is not None:
        write_measurements(out, record)
        say_where(console, out)
    if as_json:
        print(json_text(record), end="")


def _check_prior(prior: MaybePrior) -> None:
    """Raise ConfigError if an option of the prior was given without one."""
    given = [name for name, value in dataclasses.asdict(prior).items() if value != getattr(MaybePrior(), name)]
    if given and not prior.prior:
        raise ConfigError(f"{given[0]}= has no effect without a prior: set prior=demo, say, or leave it out")


def _columns_of(readers: list[Reader], datasets: list[DatasetDict]) -> list[str]:
    """The columns that are measured. Raises RowError if A and B have others, or ids that no tokenizer can read."""
    found = []
    for name, reader, dataset in zip(NAMES, readers, datasets, strict=False):
        for rows in dataset.values():
            try:
                units, _ = reader.choose(rows.column_names)
            except RowError as error:
                raise RowError(f"{name}: {error}") from error
            found.append((name, units))
    for name, units in found:
        if units != found[0][1]:
            first, other = (", ".join(c for unit in units for c in unit.columns) for units in (found[0][1], units))
            what = f"{found[0][0]} is read from {first} and {name} from {other}"
            has_ids = any(unit.columns == IDS for unit in (*found[0][1], *units))
            fix = "measure each by itself" if has_ids else "set columns= to columns that both have"
            raise RowError(f"{what}, which can't be compared: {fix}")
    units = found[0][1]
    if any(unit.columns == IDS for unit in units) and readers[0].tokenization is None:
        raise ConfigError(
            "the rows hold input_ids: set prior= to one with the tokenizer that made them, or columns= to a text column"
        )
    return list(dict.fromkeys(column for unit in units for column in unit.names))


def _note_unedited(datasets: list[DatasetDict], columns: list[str], stats_column: str) -> None:
    """A note for rows whose edit changed new columns of ids, if only the texts beside them are measured."""
    for name, dataset in zip(NAMES, datasets, strict=False):
        added = {column for rows in dataset.values() for column in added_columns(rows, stats_column)}
        if added and not added & {*columns}:
            note(f"{name} was edited with targets='original', in input_ids: its {', '.join(columns)} did not change")


def _count(
    name: str, dataset: DatasetDict, reader: Reader, tally: Tally, columns: list[str]
) -> dict[str, dict[str, Any]]:
    """Count the rows of one side. Returns the number of rows and their digest for each split."""
    from datasets.utils import tqdm

    splits = {}
    for split, rows in dataset.items():
        digest = Digest(columns)
        with tqdm(total=len(rows), desc=f"{name}, {split}", unit=" rows") as progress:
            for batch in in_batches(_documents(rows, reader, digest, progress.update), CHARACTERS):
                tally.add(batch)
        splits[str(split)] = {"num_rows": len(rows), "digest": str(digest)}
    skipped = tally.whole[0].skipped
    if skipped.total() == tally.num_rows:
        raise RowError(f"{name}: no row can be measured: {explain(skipped, '--{}')}")
    return splits


def _documents(rows: Dataset, reader: Reader, digest: Digest, progress: Callable[[int], object]) -> Iterator[Document]:
    for batch in batches_of(rows, reader.choose):
        for document in reader.read(batch):
            digest.add(document.row)
            yield document
        progress(len(batch))


def _table(record: dict[str, Any]) -> Table:
    table = Table(*header(record), box=box.SIMPLE, pad_edge=False)
    for cells in lines(record):
        table.add_row(*cells)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _json_ready(value: Any) -> Any:
    """NaN and infinity become null; an interval without an end, too."""
    if isinstance(value, dict):
        return {name: _json_ready(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        inner = [_json_ready(each) for each in value]
        return None if inner and all(each is None for each in inner) else inner
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
