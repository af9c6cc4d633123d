"""An output in an object store: `s3://`, `gs://`, `hf://buckets/`, or any other place that fsspec reaches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from ..errors import SourceError, any_of, in_one_line, no_room, one_clear_line, printable
from ..files.secret import scrubbed
from .storage import DATA

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SCHEME = "://"
WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)  # before each further try
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)  # trying again won't help
Result = TypeVar("Result")


class ObjectStore:
    """An output in an object store. Names are relative, with slashes.

    An object appears whole, so nothing is renamed: shards go where readers find them, and count once their
    manifests are there. A listing can be late, and a unit that it hides is edited again; whether an output can be
    finished is asked of each unit by its name. Threads may share a store.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.root = _file_system(self.url)[1]

    @property
    def fs(self) -> AbstractFileSystem:
        """The file system for this thread; fsspec keeps one for each."""
        return _file_system(self.url)[0]

    @property
    def shards(self) -> str:
        """The folder of the shards."""
        return DATA

    def reveal(self) -> None:
        """Nothing to do: the shards are in their place."""

    def exists(self, name: str) -> bool:
        try:  # fsspec's own `exists` says no where the store fails
            self._persistently(lambda: self.fs.info(self._path(name)))
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes:
        return cast(bytes, self._persistently(lambda: self.fs.cat_file(self._path(name))))

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self._persistently(lambda: self.fs.open(self._path(name), "rb")))

    def size(self, name: str) -> int:
        return int(self._persistently(lambda: self.fs.info(self._path(name)))["size"])

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder. Those written last may be missing."""
        try:
            found = self._persistently(lambda: self.fs.ls(self._path(folder), detail=False))
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def sizes(self, folder: str) -> dict[str, int]:
        """The sizes of the files in a folder, in bytes, by their names. Those written last may be missing."""
        try:
            found = self._persistently(lambda: self.fs.ls(self._path(folder), detail=True))
        except FileNotFoundError:
            return {}
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in found if entry["type"] == "file"}

    def write(self, name: str, data: bytes) -> None:
        self._persistently(lambda: self.fs.pipe_file(self._path(name), data))

    def put(self, file: Path, name: str) -> None:
        """Upload a finished local file."""
        self._persistently(lambda: self.fs.put_file(str(file), self._path(name)))

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._persistently(lambda: self.fs.rm(self._path(name), recursive=True))

    def remove_leftovers(self) -> None:
        """Nothing to do: an upload that was interrupted leaves no object."""

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A local folder for files that are not finished. TMPDIR says on which disk."""
        with TemporaryDirectory(prefix="toedit-") as folder:
            yield Path(folder)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _persistently(self, call: Callable[[], Result]) -> Result:
        """Call again after a failure that may pass. Raises SourceError if it doesn't."""
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

        with _store_errors(self.url):
            for wait in WAITS_SECONDS:
                self.fs.invalidate_cache()  # another process may have written
                try:
                    return call()
                except (OSError, HTTPError) as error:  # the connection to a bucket of the Hub, too
                    if isinstance(error, FINAL) or no_room(error):
                        raise
                time.sleep(wait)
            return call()


def is_url(out: str) -> bool:
    """Whether an output is named by the URL of an object store rather than by a path."""
    return SCHEME in out


def _file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it. Raises SourceError if there is none for it."""
    from fsspec.core import url_to_fs

    if url.startswith(("hf://datasets/", "hf://models/", "hf://spaces/")):
        raise SourceError(
            f"the output {url!r} is a repository, in which each file would be a commit: write to a folder with "
            "--push, or to a bucket, hf://buckets/owner/name/folder"
        )
    with one_clear_line(
        SourceError, f"can't use the output {scrubbed(url)!r}", catches=any_of(ImportError, ValueError, OSError)
    ):
        fs, root = url_to_fs(url)
    return fs, str(root).rstrip("/")


def _store_errors(url: str) -> one_clear_line:
    """Turn what can go wrong with an object store into a SourceError, except for a file that isn't there."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return one_clear_line(
        SourceError,
        f"can't reach the output {printable(scrubbed(repr(url)))}",
        "check its name, your access and the network, then run the same command again to resume",
        catches=lambda error: isinstance(error, (OSError, HTTPError)) and not isinstance(error, FileNotFoundError),
        says=lambda error: scrubbed(in_one_line(error)),
    )
