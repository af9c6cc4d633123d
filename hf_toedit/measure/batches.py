"""Documents that are measured together, so that each of their n-grams is counted and hashed once.

Shape suffixes: N documents, G distinct n-grams, K parts of a digest.
"""

from __future__ import annotations

import itertools
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
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: 2**64 divided by the golden ratio
MURMUR = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)


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

    @cached_property
    def word_hashes(self) -> NDArray[np.uint64]:
        """The highest 64 bits of the digest of each word, document after document."""
        hash_of = dict(zip(self.counts(1), highest_bits(self.digests(1)).tolist(), strict=True))
        return np.fromiter(map(hash_of.__getitem__, itertools.chain.from_iterable(self.words)), np.uint64)

    def hashes(self, n: int) -> NDArray[np.uint64]:
        """A hash of 64 bits of each n-gram of words, repeated ones included, in any order.

        A single word has the highest bits of its digest. A longer n-gram combines those of its words, which is 20 times
        as fast as SHA-256.
        """
        hashes_T = hashes = self.word_hashes
        for i in range(1, n):
            hashes = mixed(hashes[:-1] * FACTOR + hashes_T[i:])
        document_T = np.repeat(np.arange(len(self.words)), [len(words) for words in self.words])
        of_one_document: NDArray[np.uint64] = hashes[document_T[: len(hashes)] == document_T[n - 1 :]]
        return of_one_document

    def digests(self, n: int) -> NDArray[np.uint64]:
        """The digests of the n-grams in `counts(n)`, in the same order; see `digests_of`."""
        if n not in self._digests:
            self._digests[n] = digests_of(self.counts(n))
        return self._digests[n]


def in_batches(documents: Iterable[Document], characters: int = CHARACTERS) -> Iterator[Batch]:
    """Documents in batches of at least this many characters; the last may be shorter."""
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


def mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each bit depends on all bits, and different numbers stay different (MurmurHash3's finalizer)."""
    for factor in MURMUR:
        hashes = (hashes ^ hashes >> np.uint64(33)) * factor
    return hashes ^ hashes >> np.uint64(33)


def highest_bits(digests_GK: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The highest 64 bits of digests. Shape [G]."""
    bits_G: NDArray[np.uint64] = digests_GK[:, 0] << np.uint64(BITS) | digests_GK[:, 1]
    return bits_G


def modulo(digests_GK: NDArray[np.uint64], divisor: int) -> IntArray:
    """The remainders of digests, read as integers of 256 bits. divisor: at most 2**32. Shape [G]."""
    rest_G = np.zeros(len(digests_GK), dtype=np.uint64)
    for part_G in digests_GK.T:
        rest_G = (rest_G << np.uint64(BITS) | part_G) % np.uint64(divisor)
    return rest_G.astype(np.int64)
