"""The edited rows of a job: counted by its manifests, read from a few of its shards."""

from __future__ import annotations

import dataclasses
from array import array
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..editing.stats import CELL_COUNTS, Cells, DatasetStats
from ..errors import RowError, SourceError
from ..hub.records import Counts, DatasetEdit, EditCounts, edited_indices, of_edit
from ..hub.tables import NUM_EXAMPLES, Excerpt, example, examples, needed_columns, spread
from ..report.edits import Row
from ..statuses import Status
from ..types import IntArray
from .job import Job
from .reading import unreadable
from .unit import edited_features

MOST_TEXTS = 20_000_000  # of which equal ones are found among all units; that takes 100 bytes of memory each


class EditedShards:
    """What the manifests of a finished job add up to, and rows of its shards.

    counts: by split, what each edit did, earlier ones first. sizes: the number of rows of each split.

    Raises SourceError if a unit is not done.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.units: dict[str, array[int]] = defaultdict(lambda: array("q"))  # by split, their numbers
        self.num_rows: dict[str, array[int]] = defaultdict(lambda: array("q"))  # of each unit
        self._num_edited: dict[tuple[str, str, str], dict[int, int]] = defaultdict(dict)  # by unit
        counts: dict[str, dict[tuple[str, str], EditCounts]] = defaultdict(dict)
        for number, (unit, manifest) in enumerate(zip(job.plan.units, job.manifests_by_name(), strict=True)):
            if manifest is None:
                raise SourceError(f"unit {number} of the output {job.out!r} is not done: run the same command again")
            self.units[unit.split].append(number)
            self.num_rows[unit.split].append(manifest.stats.num_rows)
            of_split = counts[unit.split]
            for part in manifest.edits:
                key = part.column, part.fingerprint
                of_split[key] = of_split[key] + part if key in of_split else part
                self._num_edited[unit.split, *key][number] = part.stats.statuses.get(Status.EDITED, 0)
        self.sizes = {split: sum(sizes) for split, sizes in self.num_rows.items()}
        self.counts: Counts = {split: list(of_split.values()) for split, of_split in counts.items()}

    def stats(self, column: str) -> DatasetStats:
        """The statistics of the edit that a column records."""
        of_splits = [part.stats for parts in self.counts.values() for part in parts if part.column == column]
        return sum(of_splits[1:], start=of_splits[0])

    def with_equal_texts(self, most: int = MOST_TEXTS) -> DatasetStats:
        """Count texts that occur in several units once in `num_independent`; return the statistics of the last edit.

        With more than `most` texts, nothing changes.
        """
        keys = {(part.column, part.fingerprint): None for parts in self.counts.values() for part in parts}
        column = str(self.job.plan.record["stats_column"])
        stats = self.stats(column)
        for key in keys:
            found = self._num_independent(*key, most)
            if found is None:
                return stats
            self.counts = {
                split: [_with(part, found[split]) if (part.column, part.fingerprint) == key else part for part in parts]
                for split, parts in self.counts.items()
            }
            if key[0] == column:
                stats = dataclasses.replace(stats, num_independent=found[""])
        return stats

    def _num_independent(self, column: str, fingerprint: str, most: int) -> dict[str, float] | None:
        """`num_independent` of each split, and of all under an empty name; None if there are too many texts."""
        all_texts, found = Cells(), {}
        for split, numbers in self.units.items():
            texts = Cells()
            for number in numbers:
                table = self.table(number, [f"{column}.cells", f"{column}.fingerprint"])
                texts.extend(*_cells_of(of_edit(table[column].combine_chunks(), fingerprint)))
                if len(all_texts) + len(texts) > most:
                    return None
            found[split] = texts.num_independent()
            if len(self.units) == 1:
                return {**found, "": found[split]}
            all_texts.extend(texts.keys, texts.counts)
        return {**found, "": all_texts.num_independent()}

    def some_rows(self, num: int) -> list[tuple[str, Row]]:
        """Up to `num` rows of each split that the last edit changed, evenly spread, labelled `train 17`."""
        column = str(self.job.plan.record["stats_column"])
        own = [(split, part) for split, parts in self.counts.items() for part in parts if part.column == column]
        return [
            (f"{split} {number}", row)
            for split, part in own
            for number, row in self._spread(split, part, num, [*part.changes, column])
        ]

    def _spread(self, split: str, part: EditCounts, num: int, columns: Sequence[str]) -> list[tuple[int, Row]]:
        """Up to `num` rows that an edit changed, evenly spread over a split, with their numbers in it.

        columns: those to read.
        """
        from datasets import Dataset

        num_edited = self._num_edited[split, part.column, part.fingerprint]
        ends = np.cumsum([num_edited.get(number, 0) for number in self.units[split]])
        starts = np.cumsum([0, *self.num_rows[split]])
        chosen = np.array(spread(int(ends[-1]), num), dtype=np.int64)
        places = np.searchsorted(ends, chosen, side="right")
        rows: list[tuple[int, Row]] = []
        for place in dict.fromkeys(places.tolist()):
            shard = Dataset(self.table(self.units[split][place], columns))
            indices = edited_indices(shard, part)
            wanted = indices[chosen[places == place] - (int(ends[place]) - len(indices))]
            rows += [(int(starts[place] + i), shard[int(i)]) for i in wanted]
        return rows

    def table(self, number: int, columns: Sequence[str]) -> Any:
        """Some columns of a shard, or some fields of one. Raises SourceError if it is damaged."""
        import pyarrow.parquet as pq

        storage = self.job.storage
        name = f"{storage.shards}/{self.job.plan.shard_name(number)}"
        what = f"{name!r} in the output {self.job.out!r} is damaged"
        with unreadable(what, "remove it and run the same command again"), storage.open(name) as file:
            return pq.ParquetFile(file).read(list(columns))

    def excerpt(self, edits: Sequence[DatasetEdit]) -> Excerpt:
        """What a card shows: the same as `excerpt_of` for the whole dataset."""
        try:
            found = [
                [
                    example(row, number, split, edit, edits)
                    for number, row in self._spread(split, edit.counts[split], NUM_EXAMPLES, self._needed(split, edits))
                ]
                for edit in edits
                for split in edit.counts
            ]
        except RowError:
            return Excerpt(self.sizes, "", False)
        return Excerpt(self.sizes, examples(found), True)

    def _needed(self, split: str, edits: Sequence[DatasetEdit]) -> list[str]:
        return needed_columns([*edited_features(self.job.plan), *(edit.stats_column for edit in edits)], split, edits)


def _with(part: EditCounts, num_independent: float) -> EditCounts:
    return dataclasses.replace(part, stats=dataclasses.replace(part.stats, num_independent=num_independent))


def _cells_of(structs: Any) -> tuple[IntArray, dict[str, IntArray]]:
    """The keys and CELL_COUNTS of the texts in an Arrow array of structs."""
    import pyarrow.compute as pc

    cells = pc.list_flatten(structs.field("cells"))
    keys = "".join(key.zfill(16) for key in cells.field("key").to_pylist())
    numbers = np.frombuffer(bytes.fromhex(keys), dtype=">u8")
    return numbers, {name: cells.field(name).to_numpy(zero_copy_only=False) for name in CELL_COUNTS}
