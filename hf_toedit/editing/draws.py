"""Counter-based random numbers: one per token position, keyed by the row's contents.

The draws do not depend on batch size, row order, worker count or restarts, and equal rows get equal draws.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from ..types import FloatArray


def uniform(row: bytes, num_positions: int, *, seed: int, generation: int, stream: str = "resample") -> FloatArray:
    """One float64 in [0, 1) per position. Shape [num_positions].

    Equals `Philox(key=blake2b(seed, generation, row))`, taking 53 bits of output word t for position t. Different
    `stream` names yield independent numbers for the same row.
    """
    digest = draw_key(row, seed=seed, generation=generation, stream=stream)
    key = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    words = np.random.Philox(key=key).random_raw(num_positions)
    uniform_T: FloatArray = (np.asarray(words, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform_T


def draw_key(row: bytes, *, seed: int, generation: int, stream: str = "resample") -> bytes:
    """The 16-byte key of the generator in `uniform`: rows with equal keys get equal numbers."""
    digest = hashlib.blake2b(digest_size=16, person=stream.encode()[:16])
    digest.update(struct.pack("<QQ", seed, generation))
    digest.update(row)
    return digest.digest()
