"""The documents of a dataset between two perplexities, in a folder: rows, record and card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.sources import save_dataset
from ..report.files import write_json, write_whole
from .commands import filter_command
from .dataset_card import source_metadata, source_words
from .licences import Combined, source_material
from .links import prior_link
from .markdown import as_code, fenced, table
from .merging import CARD
from .record_file import RECORD, recorded_in, write_record
from .records import Record
from .source import Source

if TYPE_CHECKING:
    from datasets import DatasetDict

FILTER = "filter.json"
MEANINGS = {
    "num_rows": "read",
    "num_kept": "kept",
    "num_dropped": "dropped",
    "num_unscorable": "without a perplexity",
}


def write_filtered(
    folder: Path, kept: DatasetDict, record: Record, source: Source | None, read_by: Sequence[str]
) -> None:
    """Write the kept rows as Parquet files in `data`, the record as `filter.json`, and a card.

    If the source is an edited dataset, its `toedit.json` is written, too, so that the rows can be reverted and pushed.

    record: what `filter.json` holds. source: where the rows come from. read_by: the SOURCE and options of a command.

    Raises SourceError if the folder can't be written.
    """
    save_dataset(kept, folder)
    write_json(folder / FILTER, record)
    edits, before = recorded_in(source)
    if edits:
        write_record(folder / RECORD, edits, before)
    write_whole(folder / CARD, filter_card(record, source, read_by))


def filter_card(record: Record, source: Source | None, read_by: Sequence[str]) -> str:
    """The text of a README.md. The rows are the source's, and so is the licence."""
    from huggingface_hub import DatasetCardData

    terms = Combined((source_material(source),))
    metadata: dict[str, Any] = {**source_metadata(source), **terms.metadata, "tags": ["hf-toedit"]}
    if source is not None and not source.is_local:
        metadata["source_datasets"] = [source.id]
    splits = record["splits"]
    rows = [[meaning, *(f"{part[name]:,}" for part in splits.values())] for name, meaning in MEANINGS.items()]
    return f"""---
{DatasetCardData(**metadata).to_yaml()}
---
## Filtered by perplexity

{_summary(record, source)}

{table(["rows", *map(as_code, splits)], rows, right=True)}

The whole record is in [`{FILTER}`]({FILTER}).

### Repeat

{fenced(filter_command(record, read_by), "sh")}

### Licences

{terms.markdown.strip()}
"""


def _summary(record: Record, source: Source | None) -> str:
    """What was kept."""
    low, high = record["perplexity_quantile"]
    lowest, highest = record["perplexity"]
    num_known = record["num_rows"] - record["num_unscorable"]
    unscorable = "kept" if record["keeps_unscorable"] else "dropped"
    return (
        f"{record['num_kept']:,} of the {record['num_rows']:,} rows of {source_words(source)}, unchanged: those whose "
        f"perplexity under {prior_link(record['run'])} is at least {lowest:.6g} and at most {highest:.6g}, the "
        f"quantiles {low:g} and {high:g} of the {num_known:,} rows that have a perplexity. Those that have none, such "
        f"as empty ones, were {unscorable}."
    )
