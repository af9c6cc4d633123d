"""`lock.yaml`: the commits of the datasets and models that a run read, so that later runs read the same ones."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import yaml

from ..errors import ConfigError, SourceError
from ..files.yamls import read_yaml
from ..priors.pretrained import one_clear_line, resolve_revision
from ..report.files import write_whole
from ..rows.provenance import versions
from .conversion import convert
from .training import location

LIBRARIES = ("accelerate", "datasets", "lm_eval", "peft", "tokenizers", "torch", "transformers", "trl")


@dataclasses.dataclass(frozen=True)
class Locked:
    """The contents of `lock.yaml`: commits by kind and id, package versions, and whose results lie beside it."""

    revisions: dict[str, str]
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    recipe: str = ""


class Lock:
    """`lock.yaml`: the commit of each Hub dataset and model that a run read. Later runs read the same ones.

    recipe: the name of the recipe whose results lie beside the file; empty if there are none.
    """

    def __init__(self, file: Path, *, offline: bool = False) -> None:
        self.file, self.offline = file, offline
        locked = _locked(file) if file.exists() or file.is_symlink() else Locked({})
        self.revisions, self.recipe = dict(locked.revisions), locked.recipe

    def resolve(self, what: str, name: str, revision: str | None) -> str | None:
        """The commit of a Hub id, or the digest of a local file or folder. Offline, an unknown commit is None."""
        path = Path(location(name)).expanduser()
        if path.exists():
            return file_digest(path)
        key = f"{what} {name}" + (f"@{revision}" if revision else "")
        if key not in self.revisions and not self.offline:
            self.revisions[key] = _hub_commit(what, name, revision)
        return self.revisions.get(key)

    def write(self) -> None:
        contents = Locked(self.revisions, versions(LIBRARIES), self.recipe)
        write_whole(self.file, yaml.safe_dump(dataclasses.asdict(contents)))


def _locked(file: Path) -> Locked:
    """The contents of a lock file. Raises SourceError if it is broken."""
    fix = "put a whole one in its place, or remove it to lock the newest commits"
    try:
        kept = read_yaml(file)
    except ConfigError as error:
        raise SourceError(f"{error}; {fix}") from error
    try:
        return convert(Locked, kept, "lock")  # type: ignore[no-any-return]
    except ConfigError as error:
        raise SourceError(f"{str(file)!r} is not a lock file; {fix}") from error


def _hub_commit(what: str, name: str, revision: str | None) -> str:
    if what != "dataset":
        return resolve_revision(name, revision, what)
    from huggingface_hub import HfApi

    missing = f"there is no file or folder {name!r}, and it was not found on the Hub"
    with one_clear_line(missing, "set data.source", SourceError):
        return str(HfApi().dataset_info(name, revision=revision).sha)


def file_digest(path: Path) -> str:
    """A digest of a file, or of all files below a folder including their names."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(str(file.relative_to(path)).encode() + b"\0")
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
