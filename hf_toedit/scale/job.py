"""An output and its plan: what is done, and what is left to do."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from ..editing.stats import DatasetStats
from ..errors import SourceError, any_of, one_clear_line, when_full
from ..hub.records import EditCounts
from ..transform import ToEditTransform
from .plan import Plan
from .storage import LocalFolder

WORK = ".toedit"
PLAN = f"{WORK}/plan.json"
TRANSFORM = f"{WORK}/transform.pkl"
SOURCE = f"{WORK}/source"
MANIFESTS = f"{WORK}/units"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a unit became: its commit.

    plan: the digest of the plan. shard, num_bytes, digest: the file with its rows, and a digest (BLAKE2b) of the file.
    stats: of its rows. changes: the number of changed places in each column.
    edits: what each edit in its rows did, earlier ones first.
    failed: the rows, by their number in the unit, that the prior failed on, with the reason.
    """

    unit: int
    plan: str
    shard: str
    num_bytes: int
    digest: str
    stats: DatasetStats
    changes: dict[str, int]
    failed: dict[int, str]
    seconds: float
    edits: tuple[EditCounts, ...] = ()

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        fields = json.loads(text)
        failed = {int(row): reason for row, reason in fields.pop("failed").items()}
        stats = DatasetStats.from_fields(fields.pop("stats"))
        edits = tuple(map(EditCounts.from_dict, fields.pop("edits")))
        return cls(**fields, stats=stats, failed=failed, edits=edits)


class Job:
    """An output folder with its plan. Any process on any machine that sees the folder can open it."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.storage = LocalFolder(out)

    @cached_property
    def plan(self) -> Plan:
        return Plan.from_json(self.storage.read(PLAN).decode())

    @cached_property
    def digest(self) -> str:
        return self.plan.digest

    @cached_property
    def transform(self) -> ToEditTransform:
        """The edit, without its prior's weights, which are loaded when a row needs them."""
        loaded: ToEditTransform = pickle.loads(self.storage.read(TRANSFORM))
        return loaded

    def is_planned(self) -> bool:
        return self.storage.exists(PLAN)

    def create(self, plan: Plan, transform: ToEditTransform) -> None:
        """Write the plan. It is there once all that it needs is there."""
        self.storage.write(TRANSFORM, pickle.dumps(transform))
        self.storage.write(PLAN, plan.to_json().encode())

    def commit(self, manifest: Manifest) -> None:
        self.storage.write(f"{MANIFESTS}/{manifest.unit:06d}.json", manifest.to_json().encode())

    def manifest(self, number: int) -> Manifest | None:
        """The manifest of a unit; None if the unit is not done."""
        name = f"{MANIFESTS}/{number:06d}.json"
        if not self.storage.exists(name):
            return None
        manifest = Manifest.from_json(self.storage.read(name))
        return manifest if manifest.plan == self.digest else None

    def to_do(self) -> list[int]:
        """The numbers of the units that are not done."""
        return [number for number in range(len(self.plan.units)) if self.manifest(number) is None]


@contextmanager
def output(path: Path) -> Iterator[Job]:
    """The job of a new output folder, or of one that an earlier call left unfinished.

    If the block that began an output fails before a unit is done, the folder is removed again.

    Raises SourceError if the folder holds anything else or can't be made, and if the disk is full.
    """
    with _writing(path):
        target = path.expanduser().resolve()
        if target == Path.cwd():
            raise SourceError(f"the output {str(path)!r} is the current folder: name a new one")
        if target.exists() and (not target.is_dir() or any(target.iterdir())) and not (target / PLAN).exists():
            raise SourceError(f"the output {str(path)!r} exists: remove it or name another folder")
        missing = [parent for parent in (target, *target.parents) if not parent.exists()]
        (target / WORK).mkdir(parents=True, exist_ok=True)
    job = Job(str(target))
    begun = job.is_planned()
    try:
        with when_full(f"can't write the output {str(path)!r}"):
            yield job
    except BaseException:
        if not begun and not job.storage.names(MANIFESTS):
            job.storage.remove(WORK)
            for parent in missing:  # deepest first; those in use by others stay
                with suppress(OSError):
                    parent.rmdir()
        raise


def check_same(plan: Plan, request: Mapping[str, Any], transform: ToEditTransform) -> None:
    """Raise SourceError, with what differs, unless a second call asks for the edit that the plan is for."""
    now = {**request, **_identity(transform.provenance())}
    before = {**plan.request, **_identity(plan.record)}
    if differing := [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]:
        name = min(differing)
        raise SourceError(
            f"the output was begun with another {name} ({before.get(name)!r}, now {now.get(name)!r}): "
            "use the same, or name another folder"
        )


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("fingerprint", "corpus_digest", "versions", "prior")
    return {name: value for name, value in record.items() if name not in names}


def _writing(path: Path) -> one_clear_line:
    what = f"can't write the output {str(path)!r}"
    return one_clear_line(SourceError, what, catches=any_of(OSError), says=lambda error: getattr(error, "strerror", ""))
