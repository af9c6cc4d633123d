"""The folder of a patch: `patch.json`, and where its rows are.

patch.json                             the source and its commit, the records of the edits, and for each split what
                                       `Part` says
data/{split}-00000-of-00001.parquet    the rows of the patch (see patch_rows.py)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import SourceError, any_of, one_clear_line
from .patch_rows import Stage
from .shards import SPLIT
from .source import Source

PATCH = "patch.json"
FORMAT, VERSION = "hf_toedit patch", 1


@dataclasses.dataclass(frozen=True)
class Patch:
    """What `patch.json` says. source: None if it is not on the Hub. splits: by name."""

    folder: Path
    name: str
    source: Source | None
    splits: Mapping[str, Part]

    @property
    def is_damaged(self) -> str:
        return f"the patch {self.name!r} is damaged"


@dataclasses.dataclass(frozen=True)
class Part:
    """A split of a patch.

    columns: those of the edited rows, in order. stages: the `toedit` columns among them. source_splits: the splits of
    the source that, one after another, have the rows. digest: of these rows as they must be there.
    edited_digest: of the edited rows as they were published.
    """

    columns: list[str]
    stages: list[Stage]
    source_splits: list[str]
    num_rows: int
    digest: str
    edited_digest: str

    @property
    def source_columns(self) -> list[str]:
        return source_columns(self.columns, self.stages)


def read_patch(folder: Path, name: str) -> Patch:
    """What is in the `patch.json` of a folder. Raises SourceError if it is not a patch, or a later version of one."""
    path = folder / PATCH
    if not path.is_file():
        raise SourceError(f"{name!r} is not a patch (it has no {PATCH}): read it with load_dataset({name!r})")
    what, fix = f"the patch {name!r} is damaged", "ask its owner, or download it again"
    broken = any_of(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
    with one_clear_line(SourceError, what, fix, catches=broken, says=lambda _: f"{PATCH} can't be understood"):
        given = json.loads(path.read_text(encoding="utf-8"))
        if given["format"] != FORMAT or given["version"] < VERSION:
            raise ValueError
        if given["version"] > VERSION:
            raise SourceError(
                f"the patch {name!r} was written by a later version of hf_toedit: pip install -U hf_toedit"
            )
        where = {field: _text(given["source"][field], optional=True) for field in ("id", "revision", "subset")}
        source = None if where["id"] is None else Source(**where)
        _check_records(given["edits"])
        splits = {split: _part(split, about, given["edits"]) for split, about in given["splits"].items()}
        if not splits or (source is not None and source.is_local):
            raise ValueError
        return Patch(folder, name, source, splits)


def _check_records(records: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError and the like unless the records have what is read of them."""
    for record in records:
        _text(record["fingerprint"], optional=True)
        for name in (record["stats_column"], *(record.get("columns") or ()), *(record.get("context") or ())):
            _text(name)
        config = record["config"] or {"seed": 0, "generation": 0}
        if not all(type(config[name]) is int and 0 <= config[name] < 2**64 for name in ("seed", "generation")):
            raise ValueError


def _part(split: str, about: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Part:
    """A split in `patch.json`. Raises ValueError and the like if it isn't one."""
    columns, origin = ([_text(name) for name in about[names]] for names in ("columns", "source_splits"))
    stages = stages_of(records, columns)
    is_named = SPLIT.fullmatch(split) and len({*columns}) == len(columns)
    if not is_named or not origin or not source_columns(columns, stages):
        raise ValueError
    digests = (_text(about[name]) for name in ("digest", "edited_digest"))
    return Part(columns, stages, origin, int(about["num_rows"]), *digests)


def _text(value: Any, *, optional: bool = False) -> Any:
    if not isinstance(value, str) and not (optional and value is None):
        raise TypeError
    return value


def stages_of(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Stage]:
    """The `toedit` columns among these columns, in the order of editing, each with the records of its edits."""
    names = dict.fromkeys(record["stats_column"] for record in records if record["stats_column"] in columns)
    return [Stage(name, [record for record in records if record["stats_column"] == name]) for name in names]


def source_columns(columns: Sequence[str], stages: Sequence[Stage]) -> list[str]:
    return [name for name in columns if name not in {stage.column for stage in stages}]


def rows_file(folder: Path, split: str) -> Path:
    return folder / "data" / f"{split}-00000-of-00001.parquet"
