"""Documents that are measured together, so that each of their n-grams is counted and hashed once.

Shape suffixes: N documents, G distinct n-grams, K parts of a digest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from ..types import IntArray
from .documents import Document
from .words import words_of

CHARACTERS = 2**20  # of a batch, and more if the last document is longer
BITS = 32  # of each part of a digest


class Batch:
    """Some documents, and what measurements share of them."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents
        self._counts: dict[int, Counter[str]] = {}
        self._digests: dict[int, NDArray[np.uint64]] = {}

    @cached_property
    def readable(self) -> list[Document]:
        """The documents that have a text."""
        return [document for document in self.documents if document.status is None]

    @cached_property
    def words(self) -> list[list[str]]:
        """The words of each readable document."""
        return [words_of(document.text or "") for document in self.readable]

    @cached_property
    def scored(self) -> list[Document]:
        """The documents that have scores."""
        return [document for document in self.documents if document.scores_status is None]

    def counts(self, n: int) -> Counter[str]:
        """The n-grams of words, joined by spaces, and how often they occur."""
        if n not in self._counts:
            self._counts[n] = Counter()
            for words in self.words:
                self._counts[n].update(ngrams_of(words, n))
        return self._counts[n]

    def digests(self, n: int) -> NDArray[np.uint64]:
        """The digests of the n-grams in `counts(n)`, in the same order; see `digests_of`."""
        if n not in self._digests:
            self._digests[n] = digests_of(self.counts(n))
        return self._digests[n]


def in_batches(documents: Iterable[Document], characters: int = CHARACTERS) -> Iterator[Batch]:
    """Documents in batches of at least so many characters; the last may be shorter."""
    some: list[Document] = []
    length = 0
    for document in documents:
        some.append(document)
        length += len(document.text or "")
        if length >= characters:
            yield Batch(some)
            some, length = [], 0
    if some:
        yield Batch(some)


def values_of(counts: Counter[str]) -> IntArray:
    """How often each n-gram occurs. Shape [G]."""
    return np.fromiter(counts.values(), np.int64, len(counts))


def ngrams_of(words: Sequence[str], n: int) -> Iterator[str]:
    """The n-grams of words, joined by spaces."""
    return map(" ".join, zip(*(words[i:] for i in range(n)), strict=False))


def digests_of(ngrams: Iterable[str]) -> NDArray[np.uint64]:
    """SHA-256, which is the same on all machines, as DSIR takes it. Shape [G, K]: 32 bits each, the highest first."""
    digests = b"".join([sha256(ngram.encode("utf-8", "surrogatepass")).digest() for ngram in ngrams])
    return np.frombuffer(digests, ">u4").reshape(-1, 256 // BITS).astype(np.uint64)


def highest_bits(digests_GK: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The highest 64 bits of digests. Shape [G]."""
    bits_G: NDArray[np.uint64] = digests_GK[:, 0] << np.uint64(BITS) | digests_GK[:, 1]
    return bits_G


def modulo(digests_GK: NDArray[np.uint64], divisor: int) -> IntArray:
    """The rest of digests as integers of 256 bits. divisor: at most 2**32. Shape [G]."""
    rest_G = np.zeros(len(digests_GK), dtype=np.uint64)
    for part_G in digests_GK.T:
        rest_G = (rest_G << np.uint64(BITS) | part_G) % np.uint64(divisor)
    return rest_G.astype(np.int64)
