"""One stage of a recipe, which runs once, and again if its inputs change.

A stage is a folder below the output. It is written next to its final place (`.NAME.partial`) and moved there once
complete, with a `stage.json` that holds all its inputs and the digests of the earlier stages that it reads.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock

from ..errors import SourceError, any_of, no_room, one_clear_line
from ..files.secret import without_secrets
from ..report.files import write_json
from . import results
from .recipe import Fields

STAGE = "stage.json"
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step. name: its folder. inputs: everything it depends on, as JSON (secrets are left out). run: writes its
    results into a folder.

    resumes: whether the next run continues with what an interrupted one left in the folder.
    """

    name: str
    inputs: Fields
    run: Callable[[Path], None]
    resumes: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", without_secrets(self.inputs))

    @property
    def digest(self) -> str:
        return hashlib.blake2b(json.dumps(self.inputs, sort_keys=True).encode(), digest_size=16).hexdigest()

    def is_in(self, folder: Path) -> bool:
        """Whether the folder was made from these inputs."""
        if not (folder / STAGE).is_file():
            return False
        digest = results.read_json(folder / STAGE).get("digest")
        if not isinstance(digest, str):
            raise results.broken(folder / STAGE, "it has no digest")
        return digest == self.digest

    def changed_from(self, folder: Path) -> list[str]:
        """The names of the inputs in which the stage in a folder, if there is one, differs from this one."""
        if not (folder / STAGE).is_file() or self.is_in(folder):
            return []
        before = results.read_json(folder / STAGE).get("inputs")
        now = json.loads(json.dumps(self.inputs))
        if not isinstance(before, dict):
            raise results.broken(folder / STAGE, "it has no inputs")
        return [name for name in sorted({*now, *before} - {"after"}) if now.get(name) != before.get(name)]


def perform(stage: Stage, root: Path) -> bool:
    """Run a stage unless its folder exists with the same inputs. Returns whether it ran.

    If two runs share an output, the second waits here. Raises SourceError if the disk is full or can't be written to,
    or if the folder is not a stage's. Whatever else goes wrong, earlier stages stay and are not run again.
    """
    work, old = (root / f".{stage.name}.{kind}" for kind in ("partial", "old"))
    lock = FileLock(root / f".{stage.name}.lock")
    with one_line_when_full(stage.name, work), one_line_when_refused(stage.name), lock:
        return _perform(stage, root / stage.name, work, old)


def _perform(stage: Stage, folder: Path, work: Path, old: Path) -> bool:
    if old.exists():  # a run was killed while it removed what it had replaced
        shutil.rmtree(old)
    if stage.is_in(folder):
        return False
    check_place(folder)
    if work.exists() and not (stage.resumes and stage.is_in(work)):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / STAGE, {"digest": stage.digest, "inputs": stage.inputs})
    with ExitStack() as on_error:
        if not stage.resumes:
            on_error.callback(shutil.rmtree, work, ignore_errors=True)
        stage.run(work)
        on_error.pop_all()
    if folder.exists():  # renamed first: killed while it is removed, it would be a folder that no stage has made
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return True


def check_place(folder: Path) -> None:
    """Raise SourceError if there is something at the folder of a stage that no stage has written."""
    if (folder.exists() or folder.is_symlink()) and not (folder / STAGE).is_file():
        raise SourceError(f"{str(folder)!r} exists but was not created by a run: give another --output")


def one_line_when_full(stage: str, folder: Path) -> one_clear_line:
    """Turn the errors that libraries raise when the disk is full into a SourceError that names folder and stage."""
    fix = f"free some space and run the same command again: it resumes at the stage {stage!r}"
    what = f"the disk is full: can't write {str(folder)!r}"
    return one_clear_line(SourceError, what, fix, catches=no_room, says=lambda error: "")


def one_line_when_refused(stage: str) -> one_clear_line:
    """Turn the error for a file or folder that may not be written into a SourceError that names it."""
    what, fix = f"the stage {stage!r} can't access a file", "allow access and run the same command again"
    refused = any_of(OSError)
    return one_clear_line(
        SourceError, what, fix, catches=lambda error: refused(error) and getattr(error, "errno", 0) in REFUSED
    )
