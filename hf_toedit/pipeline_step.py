"""`ToEditTransform.to_datatrove()`: the transform as a step of a datatrove pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.typeshelper import StatHints

from .rows.column import struct_type

COUNTS = ("num_tokens", "num_visited", "num_visited_eligible", "num_changed")


class Transform(Protocol):
    """What the step needs of a ToEditTransform."""

    columns: list[str] | None
    context: list[str]
    stats_column: str | None

    def edit_batch(self, rows: dict[str, list[Any]]) -> dict[str, Any]: ...


# The transforms of this process, by digest: datatrove copies the pipeline for each task, without the prior's model.
_loaded: dict[str, Transform] = {}


class ToEditStep(PipelineStep):  # type: ignore[misc] # datatrove has no types
    """Edits the text of documents in batches; see `ToEditTransform.to_datatrove`."""

    type = "✏️ - EDITOR"
    name = "ToEdit"

    def __init__(self, transform: Transform, batch_size: int) -> None:
        from datasets.fingerprint import Hasher

        super().__init__()
        self.transform, self.batch_size = transform, batch_size
        self.digest: str = Hasher.hash(transform)
        _loaded.setdefault(self.digest, transform)

    @property
    def schema(self) -> Any:
        """The schema of `text`, `id` and `toedit`, for `ParquetWriter(..., expand_metadata=True, schema=step.schema)`.

        Other metadata is written if it is appended: `step.schema.append(pyarrow.field("url", pyarrow.string()))`.
        Without a schema the writer takes the types from its first document, and fails where that has no edits.
        """
        import pyarrow as pa

        fields = [("text", pa.string()), ("id", pa.string())]
        if self.transform.stats_column is not None:
            fields.append((self.transform.stats_column, struct_type()))
        return pa.schema(fields)

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents, edited, in their order. An error of the edit ends the task."""
        transform = _loaded.setdefault(self.digest, self.transform)
        documents = iter(data or ())
        names: dict[str, None] = {}  # of the metadata so far: what a document lacks is null
        while batch := list(islice(documents, self.batch_size)):
            names |= dict.fromkeys(name for document in batch for name in document.metadata)
            with self.track_time("batch"):
                _write(batch, transform.edit_batch(_rows(batch, self._columns(names))))
            for document in batch:
                self._count(document)
                yield document

    def _columns(self, metadata: Iterable[str]) -> list[str]:
        """What the transform sees of documents with this metadata: the text alone, unless it names columns."""
        transform = self.transform
        if transform.columns is None:
            in_the_way = [name for name in metadata if name == transform.stats_column]
            return [*in_the_way, "text"]
        text = ["text"] if "text" in (*transform.columns, *transform.context) else []
        return [*(name for name in metadata if name != "text"), *text]

    def _count(self, document: Document) -> None:
        """Add a document to the statistics of the task."""
        self.stat_update(StatHints.total)
        if self.transform.stats_column is not None:
            struct = document.metadata[self.transform.stats_column]
            self.stat_update(struct["status"])
            for name in COUNTS:
                self.stat_update(name, value=struct[name])


def _rows(batch: list[Document], names: list[str]) -> dict[str, list[Any]]:
    """The documents as rows with these columns."""
    return {name: [doc.text if name == "text" else doc.metadata.get(name) for doc in batch] for name in names}


def _write(batch: list[Document], columns: dict[str, Any]) -> None:
    """Write what was edited back into the documents."""
    for name, values in columns.items():
        for document, value in zip(batch, values, strict=True):
            if name == "text":
                document.text = value
            elif value is not None or name in document.metadata:
                document.metadata[name] = value
