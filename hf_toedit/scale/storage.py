"""Where an output is kept: names and bytes, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from ..files.processes import has_ended, this_process

DATA = "data"  # the folder of the shards, as `datasets` and the Hub name it
SHARDS = ".toedit/data"  # the same, hidden from readers until all units are done
SCRATCH = ".toedit/tmp"


class Storage(Protocol):
    """Where an output is kept. Names are relative, with slashes. What is there under a name is complete."""

    @property
    def shards(self) -> str: ...
    def reveal(self) -> None: ...
    def exists(self, name: str) -> bool: ...
    def read(self, name: str) -> bytes: ...
    def open(self, name: str) -> BinaryIO: ...
    def size(self, name: str) -> int: ...
    def names(self, folder: str) -> list[str]: ...
    def sizes(self, folder: str) -> dict[str, int]: ...
    def write(self, name: str, data: bytes) -> None: ...
    def put(self, file: Path, name: str) -> None: ...
    def remove(self, name: str) -> None: ...
    def remove_leftovers(self) -> None: ...
    def scratch(self) -> AbstractContextManager[Path]: ...


class LocalFolder:
    """An output in a folder of this machine or of a network disk.

    Names are relative, with slashes. What is written under a name is complete: it is written under another name,
    synced, and renamed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().resolve()

    @property
    def shards(self) -> str:
        """The folder of the shards."""
        return DATA if self.exists(DATA) else SHARDS

    def reveal(self) -> None:
        """Put the shards where readers find them, in one step."""
        if not self.exists(DATA):
            (self.path / SHARDS).rename(self.path / DATA)
            _sync(self.path)

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder, without those being written."""
        path = self.path / folder
        return sorted(file.name for file in path.iterdir()) if path.is_dir() else []

    def sizes(self, folder: str) -> dict[str, int]:
        """The sizes of the files in a folder, in bytes, by their names."""
        found = {}
        with suppress(FileNotFoundError), os.scandir(self.path / folder) as entries:
            for entry in entries:
                found[entry.name] = entry.stat().st_size
        return found

    def write(self, name: str, data: bytes) -> None:
        with self.scratch() as scratch:
            (scratch / "file").write_bytes(data)
            self.put(scratch / "file", name)

    def put(self, file: Path, name: str) -> None:
        """Move a finished local file here."""
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
        _sync(target.parent)

    def remove(self, name: str) -> None:
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A local folder for files that are not finished; on the same disk, so that they can be renamed."""
        folder = self.path / SCRATCH / f"{this_process()}.{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove_leftovers(self) -> None:
        """Remove the files that processes of this machine left unfinished when they were killed."""
        for name in self.names(SCRATCH):
            if has_ended(name):
                self.remove(f"{SCRATCH}/{name}")


def digest_of(file: Path) -> str:
    """32 hex characters that identify the content of a local file (BLAKE2b)."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sync(folder: Path) -> None:
    """Make sure that a rename in a folder outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
