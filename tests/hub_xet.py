"""What hf_xet stored in a folder (its `local://` endpoint stands in for the Hub's storage), by the files' sha256."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

HEADER = 48  # bytes, as is each record of a shard
VERIFIED, HAS_SHA256 = 1 << 31, 1 << 30


def content_of(storage: Path, sha256: str) -> bytes | None:
    """The content of a stored file; None if there is none. Reads a copy: the uploading process holds a lock."""
    import hf_xet

    for shard in sorted(storage.glob("xet/xorbs/shards/*.mdb")):
        for name, size, digest in _files(shard.read_bytes()):
            if digest == sha256:
                with TemporaryDirectory() as scratch:
                    shutil.copytree(storage, Path(scratch, "copy"))
                    group = hf_xet.XetSession().new_file_download_group(endpoint=f"local://{scratch}/copy")
                    group.start_download_file(hf_xet.XetFileInfo(name, size), f"{scratch}/file")
                    group.wait_to_finish()
                    return Path(scratch, "file").read_bytes()
    return None


def _files(shard: bytes) -> Iterator[tuple[str, int, str | None]]:
    """Name, size and sha256 of each file of a shard (its format: huggingface.co/docs/xet, "Shard Format")."""
    at = HEADER
    while shard[at : at + 32] != b"\xff" * 32:
        name = _digest(shard[at : at + 32])
        flags, entries = struct.unpack_from("<II", shard, at + 32)
        at += HEADER
        size = sum(struct.unpack_from("<I", shard, at + HEADER * i + 36)[0] for i in range(entries))
        at += HEADER * entries * (2 if flags & VERIFIED else 1)
        sha256 = None
        if flags & HAS_SHA256:
            sha256 = _digest(shard[at : at + 32])
            at += HEADER
        yield name, size, sha256


def _digest(stored: bytes) -> str:
    """In hexadecimal: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", stored))
