"""A dataset's splits as Parquet shards: the layout of the Hub, and the same bytes for the same rows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SourceError, any_of, no_room, one_clear_line
from ..files.outputs import scratch_folder

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features, SplitInfo

SPLIT = re.compile(r"\w+(\.\w+)*")  # what the name of a split can be
MAX_SHARD_BYTES = 500_000_000  # in memory; compressed, a shard of text is a third of that or less


@dataclasses.dataclass(frozen=True)
class Shards:
    """The splits of one config as files. splits: their rows, and their bytes in memory. sizes: by path, in bytes."""

    features: Features
    splits: Sequence[SplitInfo]
    sizes: Mapping[str, int]


def write_shards(dataset: DatasetDict, root: Path, folder: str, max_shard_bytes: int = MAX_SHARD_BYTES) -> Shards:
    """Write each split to `root/folder/{split}-00000-of-0000N.parquet`.

    The same rows always give the same files, so that an upload that was interrupted need not send them again. Images
    and audio become part of the shards.
    max_shard_bytes: about how large a shard is in memory.

    Raises SourceError if a file that the rows name can't be read; OSError if the shards can't be written.
    """
    from datasets import SplitInfo

    (root / folder).mkdir(parents=True)
    splits, sizes = [], {}
    for split, rows in dataset.items():
        with scratch_folder() as scratch:
            whole = _with_files_inside(rows, scratch / "rows.arrow")
            num_shards, num_bytes = _num_shards(whole, max_shard_bytes), 0
            for i in range(num_shards):
                path = f"{folder}/{split}-{i:05d}-of-{num_shards:05d}.parquet"
                num_bytes += whole.shard(num_shards, i, contiguous=True).to_parquet(str(root / path))
                sizes[path] = (root / path).stat().st_size
        splits.append(SplitInfo(name=str(split), num_bytes=num_bytes, num_examples=len(rows)))
    return Shards(next(iter(dataset.values())).features, splits, sizes)


def shards_in(root: Path, folder: str) -> Shards:
    """What is already in `root/folder`: a shard for each split, all with the same columns."""
    import pyarrow.parquet as pq
    from datasets import Features, SplitInfo

    files = sorted((root / folder).iterdir())
    splits = []
    for path in files:
        table = pq.read_table(path)
        splits.append(SplitInfo(path.name.partition("-")[0], table.nbytes, table.num_rows))
    sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in files}
    return Shards(Features.from_arrow_schema(table.schema), splits, sizes)


def _num_shards(rows: Dataset, max_shard_bytes: int) -> int:
    """How many shards the rows take; of a selection of rows, whose sizes are not known, by the mean size."""
    stored = rows.data.num_rows
    num_bytes: int = rows.data.nbytes * len(rows) // max(1, stored)
    return max(1, min(num_bytes // max_shard_bytes + 1, len(rows)))


def _with_files_inside(rows: Dataset, cache: Path) -> Dataset:
    """The rows with the bytes of images and audio in place of the paths of their files."""
    from datasets.features.features import require_storage_embed
    from datasets.table import embed_table_storage

    if not any(map(require_storage_embed, rows.features.values())):
        return rows
    unreadable = any_of(OSError, ValueError)
    with one_clear_line(
        SourceError,
        "can't read a file that the rows name",
        "check the paths, or remove the column",
        catches=lambda error: unreadable(error) and not no_room(error),
    ):
        # Small batches: an image takes far more memory than a row of text.
        return rows.with_format("arrow").map(
            embed_table_storage, batched=True, batch_size=100, cache_file_name=str(cache), desc="Reading files"
        )
