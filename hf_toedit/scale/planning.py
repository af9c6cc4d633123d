"""From SOURCE to units: which files are read in which parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .job import SOURCE
from .plan import SourceFile, Unit
from .storage import Storage

if TYPE_CHECKING:
    from datasets import DatasetDict

UNIT_BYTES = 128 << 20  # of a unit's rows, in memory or in the file


@dataclasses.dataclass(frozen=True)
class Planned:
    """What a source becomes. features: as `Features.to_dict` gives them."""

    features: Mapping[str, Any]
    files: tuple[SourceFile, ...]
    units: tuple[Unit, ...]


def spool(dataset: DatasetDict, storage: Storage, unit_bytes: int = UNIT_BYTES) -> Planned:
    """Write the rows of a loaded dataset to the work folder as Parquet, a file for each unit."""
    files: list[SourceFile] = []
    units: list[Unit] = []
    for split, rows in dataset.items():
        size = max(1, len(rows) * unit_bytes // max(1, rows.data.nbytes))
        for shard, start in enumerate(range(0, len(rows), size)):
            part = rows.select(range(start, min(start + size, len(rows))))
            name = f"{SOURCE}/{split}-{shard:05d}.parquet"
            with storage.scratch() as scratch:
                part.to_parquet(str(scratch / "rows.parquet"))
                storage.put(scratch / "rows.parquet", name)
            files.append(SourceFile(name, "parquet", storage.size(name), ""))
            units.append(Unit(str(split), shard, len(files) - 1, 0, len(part)))
    features = next(iter(dataset.values())).features.to_dict()
    return Planned(features, tuple(files), tuple(units))
