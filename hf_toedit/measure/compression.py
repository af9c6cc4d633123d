"""How well the texts compress: a measure of repetition within documents."""

from __future__ import annotations

import zlib
from typing import Any, ClassVar

from ..editing.stats import ratio
from .batches import Batch
from .measurement import Measurement, Needs

LEVEL = 9
RAW_DEFLATE = -15  # without a header and a checksum, which would weigh on short documents


class CompressionRatio(Measurement):
    """The bytes of the texts divided by those after compression; higher means more repetition within a document.

    Each document is compressed by itself (DEFLATE at level 9, as in gzip but without its header), so that shards
    merge exactly. Repetition across documents does not show here: see `DistinctN`.

    `result()` holds `num_bytes` (UTF-8), `num_compressed_bytes` and `compression_ratio`.
    """

    name: ClassVar[str] = "compression_ratio"
    needs: ClassVar[Needs] = "text"

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0
        self.num_compressed_bytes = 0

    def _count(self, batch: Batch) -> None:
        for document in batch.readable:
            data = (document.text or "").encode("utf-8", "surrogatepass")
            self.num_bytes += len(data)
            self.num_compressed_bytes += len(zlib.compress(data, LEVEL, RAW_DEFLATE))

    def _merge(self, other: CompressionRatio) -> None:
        self.num_bytes += other.num_bytes
        self.num_compressed_bytes += other.num_compressed_bytes

    def _figures(self) -> dict[str, Any]:
        return {
            "num_bytes": self.num_bytes,
            "num_compressed_bytes": self.num_compressed_bytes,
            "compression_ratio": ratio(self.num_bytes, self.num_compressed_bytes),
        }
