"""What all measurements share: they add up rows, and merge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Self

from .documents import Document


class Measurement(ABC):
    """A measurement that is updated row by row, and merged over shards in any order.

    needs: what it reads of a Document.
    """

    name: ClassVar[str]
    needs: ClassVar[Literal["text", "logprobs", "edits"]]

    @abstractmethod
    def add(self, document: Document) -> None:
        """Count one document."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add the counts of another measurement with the same settings; ConfigError if they differ."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """The figures, JSON-ready; NaN where nothing was counted."""
