"""What all measurements share: they add up rows, and merge.

Counts are integers and sums of floats are exact fractions, so that merged shards give the same result as the whole, to
the last bit and in any order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, ClassVar, Literal, Self, Unpack

from ..display import as_call
from ..errors import ConfigError, RowError
from ..statuses import Status
from .batches import Batch, in_batches
from .documents import Document
from .reading import ReadingOptions, read_documents

Needs = Literal["text", "logprobs", "edits"]


class Measurement(ABC):
    """A measurement that is updated row by row, and merged over shards in any order.

    Pickle one to measure shards in other processes. A row is measured whole or not at all, and so is a batch.

    name: its key in what `measure` returns. needs: what it reads of a Document.
    num_rows: the rows it was given. skipped: how many of them it could not measure, by status.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]

    def __init__(self, **settings: Any) -> None:
        """settings: the arguments of the subclass. Measurements with other settings can't be merged."""
        self.settings = settings
        self.num_rows = 0
        self.skipped: Counter[str] = Counter()

    def __repr__(self) -> str:
        return as_call(self, **self.settings)

    def update(self, data: Any, **options: Unpack[ReadingOptions]) -> Self:
        """Measure more rows; see `measure` for what `data` can be, and for the options. Returns the measurement."""
        for batch in in_batches(read_documents(data, **options)):
            self.add_batch(batch)
        return self

    def add(self, document: Document) -> None:
        """Measure one more row."""
        self.add_batch(Batch([document]))

    def add_batch(self, batch: Batch) -> None:
        """Measure more rows."""
        statuses = [self._status_of(document) for document in batch.documents]
        for document, status in zip(batch.documents, statuses, strict=True):
            if status is None:
                self._check(document)
        self._count(batch)
        self.num_rows += len(statuses)
        self.skipped.update(status.value for status in statuses if status is not None)

    def merge(self, other: Self) -> Self:
        """Add the counts of another measurement with the same settings; return this one. ConfigError if they differ."""
        if type(self) is not type(other) or self.settings != other.settings:
            raise ConfigError(f"can't merge {self!r} with {other!r}: measure both with the same settings")
        self._merge(other)
        self.num_rows += other.num_rows
        self.skipped.update(dict(other.skipped))
        return self

    def result(self) -> dict[str, Any]:
        """The figures, as plain Python values. NaN where nothing was counted.

        All measurements begin with `num_rows`, `num_measured` (rows) and `skipped` (rows by status).
        """
        return {
            "num_rows": self.num_rows,
            "num_measured": self.num_rows - self.skipped.total(),
            "skipped": dict(sorted(self.skipped.items())),
            **self._figures(),
        }

    def _status_of(self, document: Document) -> Status | None:
        """Why it can't measure a document, or None."""
        if self.needs == "edits":
            return None
        return document.scores_status if self.needs == "logprobs" else document.status

    def _check(self, document: Document) -> None:
        """Raise an error if what it needs was not read from a row."""
        if self.needs == "logprobs" and document.logprob_E is None:
            raise ConfigError(f"{type(self).__name__} needs a prior: measure(data, {self!r}, prior='demo')")
        if self.needs == "text" and document.text is None:
            raise RowError(
                "the rows hold input_ids: give the tokenizer that made them, measure(data, ..., tokenizer=...), or "
                "name a column with text, columns='text'"
            )

    @abstractmethod
    def _count(self, batch: Batch) -> None:
        """Count the documents that have what is needed."""

    @abstractmethod
    def _merge(self, other: Self) -> None:
        """Add the counts of another measurement with the same settings."""

    @abstractmethod
    def _figures(self) -> dict[str, Any]:
        """The figures of this measurement."""
