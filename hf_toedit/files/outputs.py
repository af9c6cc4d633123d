"""Output folders that appear whole or not at all, and what a run that was killed leaves beside them."""

from __future__ import annotations

import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path

from ..errors import SourceError, any_of, one_clear_line, when_full
from .processes import has_ended, this_process

WORK_FOLDER = ".work"
RUN_FOLDER = re.compile(r"\.toedit\.(?P<process>[\w-]+\.\w+\.\d+\.\w+)\.\w+\.partial")  # and a number


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` only if the block succeeds.

    The block works in a temporary folder next to `path`, or inside it if it is an empty folder, which may be a mount
    point; whatever the block leaves in `WORK_FOLDER` there is not kept. What runs that were killed have left at these
    places is removed.

    Raises SourceError, before the block runs, if `path` exists and is not an empty folder, or can't be made; and if
    the disk is full.
    """
    with _writing(path):
        target = path.expanduser().resolve()
        _check_free(target, path)
        missing = [parent for parent in target.parents if not parent.exists()]
        folder = (target if target.is_dir() else target.parent) / _name_of_this_run()
        remove_leftovers(folder.parent)
    done = False
    try:
        with _writing(path):
            (folder / WORK_FOLDER).mkdir(parents=True)
        with when_full(f"can't write the output {str(path)!r}"):
            yield folder
        shutil.rmtree(folder / WORK_FOLDER)
        _move(folder, target, path)
        done = True
    finally:
        if not done:
            shutil.rmtree(folder, ignore_errors=True)
            for parent in missing:  # deepest first; those in use by others stay
                with suppress(OSError):
                    parent.rmdir()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder. What killed runs have left in such folders is removed."""
    place = Path(tempfile.gettempdir())
    remove_leftovers(place)
    folder = place / _name_of_this_run()
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(place: Path) -> None:
    """Remove the folders in `place` of runs that have certainly ended."""
    for folder in place.glob(".toedit.*.partial"):
        if _has_ended(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _check_free(target: Path, path: Path) -> None:
    """Raise SourceError if there is something at `target` besides what killed runs have left."""
    if target == Path.cwd():
        raise SourceError(f"the output {str(path)!r} is the current folder: name a new one")
    if target.is_dir():
        entries = [entry.name for entry in target.iterdir() if not _has_ended(entry.name)]
        if entries and all(map(RUN_FOLDER.fullmatch, entries)):
            raise SourceError(f"another run is writing to the output {str(path)!r}: name another folder")
    else:
        entries = [target.name] if target.exists() else []
    if entries:
        raise SourceError(f"the output {str(path)!r} exists: remove it or name another folder")


def _move(folder: Path, target: Path, path: Path) -> None:
    """Move a finished folder to its place. If it can't be, something came there meanwhile: keep it beside."""
    try:
        if folder.parent != target:
            folder.rename(target)
            return
        for entry in sorted(folder.iterdir(), key=lambda entry: (entry.is_dir(), entry.name)):  # the data last
            if (target / entry.name).exists():
                raise FileExistsError(f"{entry.name} exists")
            entry.rename(target / entry.name)
        folder.rmdir()
    except OSError as error:
        numbered = (folder.with_name(f"{target.name}-{number}") for number in count(2))
        beside = next(place for place in chain([folder.with_name(target.name)], numbered) if not place.exists())
        folder.rename(beside)
        what = f"can't write the output {str(path)!r}: {error.strerror or error}"
        raise SourceError(f"{what}; what was to be written there is in {str(beside)!r}") from error


def _name_of_this_run() -> str:
    return f".toedit.{this_process()}.{uuid.uuid4().hex[:8]}.partial"


def _has_ended(name: str) -> bool:
    """Whether the run that a folder is named after has certainly ended."""
    run = RUN_FOLDER.fullmatch(name)
    return run is not None and bool(has_ended(run["process"]))


def _writing(path: Path) -> one_clear_line:
    """Turn the errors raised when a folder can't be written into a SourceError."""
    what = f"can't write the output {str(path)!r}"
    return one_clear_line(SourceError, what, catches=any_of(OSError), says=lambda error: getattr(error, "strerror", ""))
