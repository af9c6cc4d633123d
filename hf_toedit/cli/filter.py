"""`hf-toedit filter`: the documents of a dataset between two quantiles of its perplexities.

Shape suffixes: N documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ..editing.config import ToEditConfig
from ..editing.stats import summarize
from ..errors import ConfigError, RowError
from ..files.outputs import WORK_FOLDER, new_folder
from ..hub.filtered import FILTER, MEANINGS, write_filtered
from ..hub.source import Source, source_of
from ..measure.quantiles import QuantileRange, lies_between, perplexities
from ..report.files import json_text
from ..rows.provenance import without_paths
from ..statuses import SKIPPED, explain
from ..transform import ToEditTransform
from ..types import BoolArray, FloatArray
from .options import SCORES, DataOptions, Out, PriorOptions, note, say_where

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

QUANTILE_HELP = (
    "Keep the documents whose perplexity lies between these quantiles of all perplexities, such as 0.05:0.95. Ties "
    "with either end are kept."
)
UNSCORABLE_HELP = "Also keep rows that have no perplexity, such as empty ones. By default they are dropped."
JSON_HELP = f"Print what {FILTER} holds to stdout, and the table to stderr."


def filter(
    prior: PriorOptions,
    data: DataOptions,
    out: Out,
    perplexity_quantile: Annotated[str, typer.Option(metavar="LOW:HIGH", help=QUANTILE_HELP, show_default=False)],
    keep_unscorable: Annotated[bool, typer.Option("--keep-unscorable", help=UNSCORABLE_HELP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Keep the documents between two quantiles of perplexity."""
    wanted = QuantileRange.parse(perplexity_quantile)
    config = ToEditConfig(strategy="none")
    with new_folder(out) as folder:
        dataset, chosen = data.load(), data.what_to_edit()
        transform = ToEditTransform(prior.load(data.workers), config, **chosen, stats="full", stats_column=SCORES)
        scored = data.edit(dataset, transform, folder / WORK_FOLDER, keep_columns=False)
        statuses = summarize(scored, SCORES).statuses
        perplexity_of = {str(split): _perplexities(rows) for split, rows in scored.items()}
        low, high = wanted.of(_known(perplexity_of, statuses))
        kept_of = {
            split: lies_between(perplexity_N, low, high) | (keep_unscorable & np.isnan(perplexity_N))
            for split, perplexity_N in perplexity_of.items()
        }
        if not any(kept_N.any() for kept_N in kept_of.values()):
            what = f"no document has a perplexity from {low:.6g} to {high:.6g}"
            raise ConfigError(f"{what}: set a wider perplexity_quantile={str(wanted)!r}")
        splits = {split: _numbers(perplexity_of[split], kept_N) for split, kept_N in kept_of.items()}
        record = {
            "perplexity_quantile": [wanted.low, wanted.high],
            "perplexity": [low, high],
            "keeps_unscorable": keep_unscorable,
            **{name: sum(numbers[name] for numbers in splits.values()) for name in MEANINGS},
            "splits": splits,
            "skipped": {name: statuses[name] for name in sorted(statuses) if name.startswith(SKIPPED)},
            **chosen,
            "run": without_paths(transform.provenance()),
        }
        source = _origin(data, dataset)
        write_filtered(folder, _kept(dataset, kept_of), record, source, data.words(source))
    console = Console(stderr=as_json)
    console.print(_table(record))
    say_where(console, out, f"load_dataset({str(out)!r})")
    if as_json:
        print(json_text(record), end="")


def _perplexities(scored: Dataset) -> FloatArray:
    """The perplexity of each row; NaN for rows without a scored token."""
    structs = scored.data.column(SCORES).combine_chunks()
    sums_N, counts_N = (structs.field(name).to_numpy(zero_copy_only=False) for name in ("logprob_sum", "num_visited"))
    return perplexities(sums_N, counts_N)


def _known(perplexity_of: Mapping[str, FloatArray], statuses: Mapping[str, int]) -> FloatArray:
    """The perplexities of the rows of all splits that have one. Raises RowError if there is none."""
    perplexity_N = np.concatenate(list(perplexity_of.values()))
    known_N: FloatArray = perplexity_N[~np.isnan(perplexity_N)]
    if not len(known_N):
        skipped = {status: count for status, count in statuses.items() if status.startswith(SKIPPED)}
        reason = explain(skipped, "--{}") if skipped else "each has at most one token"
        raise RowError(f"no row has a perplexity: {reason}")
    return known_N


def _numbers(perplexity_N: FloatArray, kept_N: BoolArray) -> dict[str, int]:
    num_rows, num_kept = len(kept_N), int(kept_N.sum())
    num_unscorable = int(np.isnan(perplexity_N).sum())
    return {
        "num_rows": num_rows,
        "num_kept": num_kept,
        "num_dropped": num_rows - num_kept,
        "num_unscorable": num_unscorable,
    }


def _kept(dataset: DatasetDict, kept_of: Mapping[str, BoolArray]) -> DatasetDict:
    """The kept rows, without splits that keep none, which `load_dataset` could not read back; a note names them."""
    kept = type(dataset)({name: dataset[name].select(np.flatnonzero(kept_N)) for name, kept_N in kept_of.items()})
    for split in [split for split, rows in kept.items() if not len(rows)]:
        del kept[split]
        note(f"no row of split {split!r} is kept, and it is left out")
    return kept


def _origin(data: DataOptions, dataset: DatasetDict) -> Source | None:
    """Where the rows come from, with the commit of a Hub dataset; None for several files."""
    return source_of(dataset) or (Source.parse(data.source[0]) if len(data.source) == 1 else None)


def _table(record: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for name, meaning in MEANINGS.items():
        table.add_row(f"rows {meaning}", f"{record[name]:,}", "")
    for name, quantile, perplexity in zip(
        ("lowest", "highest"), record["perplexity_quantile"], record["perplexity"], strict=True
    ):
        table.add_row(f"{name} perplexity kept", f"{perplexity:.6g}", f"the quantile {quantile:g}")
    table.columns[1].justify = "right"
    return table
