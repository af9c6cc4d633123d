"""`toedit.json`: the records of a dataset's edits, and its source, beside its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import SourceError, ToEditError, any_of, one_clear_line
from ..report.files import write_json
from ..rows.provenance import without_paths
from .records import EARLIER, Record, records_of
from .source import Source, file_of

RECORD = "toedit.json"


def write_record(path: Path, records: Sequence[Record], source: Source | None) -> None:
    """Write the records of edits, oldest first, and the source as `toedit.json`, which `records_of` reads."""
    *earlier, last = map(without_paths, records)
    write_json(path, {**last, **({EARLIER: earlier} if earlier else {}), **_on_the_hub(source)})


def _on_the_hub(source: Source | None) -> dict[str, Any]:
    if source is None or source.is_local:
        return {}
    return {"source": {"id": source.id, "revision": source.revision, "subset": source.subset}}


def parse_record(text: str, name: str) -> dict[str, Any]:
    """What the text of a `toedit.json` holds. Raises SourceError, which names it, unless that is a mapping in JSON."""
    what = f"{name} is not the record of an edit"
    with one_clear_line(SourceError, what, catches=any_of(ValueError, RecursionError)):
        content = json.loads(text)
    if not isinstance(content, dict):
        raise SourceError(what)
    return content


def recorded_in(source: Source | None) -> tuple[list[Record], Source | None]:
    """What the `toedit.json` of a dataset that was edited before says: its edits, and its own source, if known.

    Raises SourceError if the file is there and isn't a record.
    """
    place = f"{source.subset}/{RECORD}" if source and source.subset and not source.is_local else RECORD
    path = None if source is None else file_of(source, place)
    if path is None:
        return [], None
    try:
        content = parse_record(path.read_text(encoding="utf-8"), path.name)
        records = records_of(content)
    except (OSError, ValueError, ToEditError) as error:
        raise SourceError(f"{path.name} of the source is not the record of an edit: correct or remove it") from error
    return records, recorded_source(content)


def recorded_source(record: Mapping[str, Any]) -> Source | None:
    """The source that a `toedit.json` names."""
    found = record.get("source")
    if not isinstance(found, Mapping) or not isinstance(found.get("id"), str) or Source(found["id"]).is_local:
        return None
    revision, subset = (value if isinstance(value, str) else None for value in map(found.get, ("revision", "subset")))
    return Source(found["id"], revision, subset)
