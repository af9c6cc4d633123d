"""The plan of an edit: its units of work, fixed once for an output, whatever the number of workers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ..errors import SourceError, any_of, one_clear_line
from ..files.sources import STDIN
from ..hub.source import Source
from ..rows.provenance import last_part, without_paths

if TYPE_CHECKING:
    from datasets import Features

FORMAT = 1  # raise it when plans or manifests change so that older ones can't be continued
Kind = Literal["parquet", "json"]
DAMAGED = one_clear_line(
    SourceError,
    "the plan of the output is damaged",
    "remove the output and start again",
    catches=any_of(ValueError, LookupError, TypeError, AttributeError),
    says=lambda error: "",
)


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file that units are read from, as it was when the plan was made.

    path: an absolute path, `source/...` within the work folder, or a `hf://` URL with a commit.
    num_bytes, state: its size, and what changes with its content: its modification time; its digest, for a file on the
        Hub or in the work folder.
    """

    path: str
    kind: Kind
    num_bytes: int
    state: str


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of work: a part of one file, or several small files, edited into one shard.

    file: its index in the plan's files. start, stop: the rows of a Parquet file, or the bytes of a JSON Lines file,
        from the start of a line; stop is -1 for files that are read whole.
    shard: its number among the shards of the split.
    num_files: how many files, from `file` on, it has.
    """

    split: str
    shard: int
    file: int
    start: int
    stop: int
    num_files: int = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """All units of an edit, and what they are made from.

    request: what was asked for: the source's identity and options, and the settings of the run. A second call must
        ask for the same.
    record: the record of the edit, as in `toedit.json`.
    features: those of the source, as `Features.to_dict` gives them.
    about: what the card says: the source, the earlier edits, and how the rows were read.
    """

    request: Mapping[str, Any]
    record: Mapping[str, Any]
    features: Mapping[str, Any]
    files: tuple[SourceFile, ...]
    units: tuple[Unit, ...]
    about: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """16 hex characters that identify this plan; every manifest has them. The same for `without_paths()`."""
        return hashlib.blake2b(self.without_paths().to_json().encode(), digest_size=8).hexdigest()

    def without_paths(self) -> Plan:
        """The plan without paths of this machine, so that a finished output can be published as it is."""
        source = self.about["source"]
        about = {
            **self.about,
            "source": source and {**source, "id": Source(**source).name},
            "earlier": [*map(without_paths, self.about["earlier"])],
        }
        files = [dataclasses.replace(file, path=_bare(file.path)) for file in self.files]
        return dataclasses.replace(
            self,
            request=without_folders(self.request),
            record=without_paths(self.record),
            files=tuple(files),
            about=about,
        )

    def as_features(self) -> Features:
        from datasets import Features

        return Features.from_dict(dict(self.features))

    def shard_name(self, number: int) -> str:
        """The name of the file that holds the edited rows of a unit."""
        unit = self.units[number]
        return f"{unit.split}-{unit.shard:05d}-of-{self._num_shards[unit.split]:05d}.parquet"

    @cached_property
    def _num_shards(self) -> Counter[str]:
        """By split."""
        return Counter(unit.split for unit in self.units)

    def to_json(self) -> str:
        names = {field.name for field in dataclasses.fields(self)} - {"files", "units"}
        fields = {name: value for name, value in vars(self).items() if name in names}
        files = [list(dataclasses.astuple(file)) for file in self.files]
        units = [list(dataclasses.astuple(unit)) for unit in self.units]
        return json.dumps({"format": FORMAT, **fields, "files": files, "units": units}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Raises SourceError for a plan of another version, and for one that is damaged."""
        with DAMAGED:
            fields = json.loads(text)
            if fields.pop("format") != FORMAT:
                raise SourceError(
                    "the plan was made by another version: finish it with that one, or start a new output"
                )
            files = tuple(SourceFile(*file) for file in fields.pop("files"))
            units = tuple(Unit(*unit) for unit in fields.pop("units"))
            return cls(**fields, files=files, units=units)


def without_folders(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request with paths of files made relative to the folder that holds them all."""
    files = request.get("files", {})
    folder = os.path.commonpath([os.path.dirname(path) for path in files]) if files else ""
    names = {os.path.relpath(path, folder) if folder else path: state for path, state in files.items()}
    source = [name if name == STDIN else Source.parse(name).name for name in request.get("source", ())]
    return {**request, "source": source, "files": names}


def _bare(path: str) -> str:
    return last_part(path) if os.path.isabs(path) else path
