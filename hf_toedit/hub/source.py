"""Where rows were before their edits: a dataset on the Hub, or files."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SourceError
from ..files.sources import COMPRESSED, FORMATS
from ..rows.provenance import last_part

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# Where `datasets` caches what it loads from the Hub: org___name/subset/version/commit.
CACHED = re.compile(r"/(?:(?P<owner>[\w.-]+?)___)?(?P<name>[\w.-]+)/[^/]+/[\d.]+/(?P<commit>[0-9a-f]{40})/[^/]+$")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the rows were before their edits: a dataset on the Hub, or files.

    id: a Hub id, or a path. revision: a branch, tag or commit on the Hub. subset: its configuration; None for the
    default one.
    """

    id: str
    revision: str | None = None
    subset: str | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """The source in `org/name`, `org/name@revision` or a path. Raises SourceError for anything else."""
        if not isinstance(text, str) or not text.strip() or "://" in text:
            raise SourceError(f"source={text!r} must be the Hub id of a dataset, such as org/name@revision, or a path")
        if Path(text).expanduser().exists():
            return cls(str(Path(text).expanduser().resolve()))
        name, _, revision = text.partition("@")
        return cls(name, revision or None) if ID.fullmatch(name) and not _is_file(name) else cls(text)

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}" if self.revision else self.id

    @property
    def is_local(self) -> bool:
        """Whether it is a path rather than a Hub id."""
        return not ID.fullmatch(self.id) or _is_file(self.id)

    @property
    def name(self) -> str:
        """Its id; of a path, the last part alone."""
        return last_part(self.id) if self.is_local else self.id


def file_of(source: Source, name: str, token: str | bool | None = None) -> Path | None:
    """A file of a source, in its folder or on the Hub; None if it has none, or if the Hub can't be asked."""
    import httpx2
    from huggingface_hub import hf_hub_download

    if source.is_local:
        path = Path(source.id, name)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(source.id, name, repo_type="dataset", revision=source.revision, token=token))
    except (httpx2.HTTPError, OSError, ValueError):  # not found, no access, no network
        return None


def _is_file(name: str) -> bool:
    return any(suffix in (*FORMATS, *COMPRESSED) for suffix in Path(name).suffixes[-1:])


def source_of(dataset: DatasetDict, given: str | None = None) -> Source | None:
    """The source that was given; without one, the Hub dataset that `load_dataset` read; None if that isn't known.

    What `load_dataset` read is known by the place in the cache, so that it is lost when rows are saved elsewhere, and
    for rows from several datasets. It also gives the revision and subset of the same dataset without them.
    """
    found = {_cached_source(rows, file["filename"]) for rows in dataset.values() for file in rows.cache_files}
    known = found.pop() if len(found) == 1 else None
    source = known if given is None else Source.parse(given)
    if known and source and source.id == known.id and source.revision in (None, known.revision):
        return known
    return source


def _cached_source(rows: Dataset, path: str) -> Source | None:
    place = CACHED.search(path.replace("\\", "/"))
    if place is None or rows.info.dataset_name != place["name"]:  # concatenating with other rows drops that name
        return None
    subset = rows.info.config_name
    name = "/".join(filter(None, (place["owner"], place["name"])))
    return Source(name, place["commit"], None if subset == "default" else subset)
