"""An output and its plan: what is done, and what is left to do."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from ..editing.stats import DatasetStats
from ..errors import ConfigError, SourceError, any_of, one_clear_line, when_full
from ..hub.records import EditCounts
from ..transform import ToEditTransform
from .launchers import launchers, only_launcher
from .object_store import ObjectStore, is_url
from .plan import Plan
from .storage import SCRATCH, LocalFolder, Storage

WORK = ".toedit"
PLAN = f"{WORK}/plan.json"
TRANSFORM = f"{WORK}/transform.pkl"
SOURCE = f"{WORK}/source"
MANIFESTS = f"{WORK}/units"
READERS = 16  # threads that read manifests
READ_IN_A_ROW = 16  # by one of them
UNREADABLE = one_clear_line(
    SourceError,
    "the unfinished edit can't be read: it is damaged, or another version began it",
    "finish it with that one, or remove the output and start again",
    catches=any_of(pickle.UnpicklingError, EOFError, ImportError, AttributeError, LookupError, TypeError, ValueError),
    says=lambda error: "",
)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a unit became: its commit.

    plan: the digest of the plan. shard, num_bytes, digest: the file with its rows, and a digest (BLAKE2b) of the file.
    stats: of its rows. edits: what each edit in them did, this one and earlier ones.
    failed: the rows, by their number in the unit, that the prior failed on, with the reason.
    """

    unit: int
    plan: str
    shard: str
    num_bytes: int
    digest: str
    stats: DatasetStats
    edits: tuple[EditCounts, ...]
    failed: dict[int, str]
    seconds: float

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
        self.storage: Storage = ObjectStore(out) if is_url(out) else LocalFolder(out)

    @property
    def folder(self) -> Path:
        """The folder of this machine or of a network disk. Raises ConfigError for an output in an object store."""
        if isinstance(self.storage, LocalFolder):
            return self.storage.path
        raise ConfigError(f"the output {self.out!r} is in an object store, and this needs it in a folder: see --out")

    @cached_property
    def plan(self) -> Plan:
        return Plan.from_json(self.storage.read(PLAN).decode())

    @cached_property
    def digest(self) -> str:
        return self.plan.digest

    @cached_property
    def transform(self) -> ToEditTransform:
        """The edit, without its prior's weights, which are loaded when a row needs them."""
        data = self.storage.read(TRANSFORM)
        with UNREADABLE:
            loaded: ToEditTransform = pickle.loads(data)
        return loaded

    def is_planned(self) -> bool:
        return self.storage.exists(PLAN)

    def is_kept(self) -> bool:
        """Whether the output keeps the edit, for other processes to read."""
        return self.storage.exists(TRANSFORM)

    def is_finished(self) -> bool:
        return self.is_planned() and not self.is_kept()

    def create(self, plan: Plan, transform: ToEditTransform) -> None:
        """Write the plan, after all that it needs. A finished output becomes an unfinished one."""
        self._keep(transform)
        self.storage.write(PLAN, plan.to_json().encode())

    def resume(self, transform: ToEditTransform) -> None:
        """Continue the planned edit with the prior of this call, which may be on another device or server."""
        planned = self.transform  # with the counts of its corpus
        planned.prior = transform.prior
        self._keep(planned)

    def _keep(self, transform: ToEditTransform) -> None:
        self.transform = transform
        self.storage.write(TRANSFORM, pickle.dumps(transform))

    def commit(self, manifest: Manifest) -> None:
        self.storage.write(_manifest_name(manifest.unit), manifest.to_json().encode())

    def check_whole(self) -> None:
        """Raise SourceError, with the first shard that is not as it was written, if a finished output lacks units."""
        for number in self.to_do():
            if self.manifest(number) is not None:  # a listing can be late
                continue
            name = f"{self.storage.shards}/{self.plan.shard_name(number)}"
            raise SourceError(
                f"{name!r} in the output {self.out!r}, or its manifest, is gone or damaged: remove the output and "
                "start again"
            )

    def take_back(self, number: int) -> None:
        """Mark a unit as not done. Its shard stays until it is replaced."""
        self.storage.remove(_manifest_name(number))

    def manifest(self, number: int) -> Manifest | None:
        """The manifest of a unit; None if the unit is not done: it has none, or its shard is not as it was written."""
        name = _manifest_name(number)
        manifest = self._manifest_from(self.storage.read(name), number) if self.storage.exists(name) else None
        return manifest if manifest is not None and self._has_shard(manifest) else None

    def _manifest_from(self, data: bytes, number: int) -> Manifest | None:
        """None if it is damaged, or of another unit, plan or version."""
        try:
            manifest = Manifest.from_json(data)
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
        return manifest if (manifest.unit, manifest.plan) == (number, self.digest) else None

    def _has_shard(self, manifest: Manifest) -> bool:
        name = f"{self.storage.shards}/{manifest.shard}"
        return self.storage.exists(name) and self.storage.size(name) == manifest.num_bytes

    def manifests(self) -> Iterator[Manifest]:
        """Those of the units that are done, in order.

        What there is is listed once, and manifests are read several at a time: on a network disk or in an object store,
        most of the time is spent waiting.
        """
        names, sizes = set(self.storage.names(MANIFESTS)), self.storage.sizes(self.storage.shards)
        listed = [number for number in range(len(self.plan.units)) if f"{number:06d}.json" in names]
        yield from filter(None, _in_threads(lambda number: self._manifest_with(number, sizes), listed))

    def manifests_by_name(self) -> Iterator[Manifest | None]:
        """The manifest of each unit, as `manifest` finds it, several at a time: true even where a listing is late."""
        yield from _in_threads(self.manifest, range(len(self.plan.units)))

    def _manifest_with(self, number: int, sizes: Mapping[str, int]) -> Manifest | None:
        """The manifest of a unit; None if the unit is not done. sizes: of the shards that there are."""
        try:
            manifest = self._manifest_from(self.storage.read(_manifest_name(number)), number)
        except FileNotFoundError:  # taken back since it was listed
            return None
        return manifest if manifest is not None and sizes.get(manifest.shard) == manifest.num_bytes else None

    def to_do(self) -> list[int]:
        """The numbers of the units that are not done."""
        done = {manifest.unit for manifest in self.manifests()}
        return [number for number in range(len(self.plan.units)) if number not in done]


def _in_threads(read: Callable[[int], Manifest | None], numbers: Sequence[int]) -> Iterator[Manifest | None]:
    """The manifests of units, in order."""
    parts = [numbers[start : start + READ_IN_A_ROW] for start in range(0, len(numbers), READ_IN_A_ROW)]
    with ThreadPoolExecutor(READERS) as pool:
        try:
            for manifests in pool.map(lambda part: [*map(read, part)], parts):
                yield from manifests
        finally:
            pool.shutdown(cancel_futures=True)  # if the caller has seen enough


def _manifest_name(number: int) -> str:
    return f"{MANIFESTS}/{number:06d}.json"


@contextmanager
def output(out: str, *, to_change: bool = False) -> Iterator[Job]:
    """The job of a new output, or of one that an earlier call left unfinished or finished.

    out: a folder, or the URL of one in an object store. to_change: whether a finished output may be changed.

    If the block begins an output and fails before any unit is done, the folder is removed again.

    Raises SourceError if the folder holds anything else or can't be made, if another process is at work on it, and if
    the disk is full.
    """
    if is_url(out):
        with _in_a_store(Job(out), to_change) as job:
            yield job
        return
    path = Path(out)
    with _writing(path):
        target = path.expanduser().resolve()
        if target == Path.cwd():
            raise SourceError(f"the output {str(path)!r} is the current folder: name a new one")
        if target.exists() and not (target / PLAN).exists() and not _is_empty(target):
            raise SourceError(f"the output {str(path)!r} exists: remove it or name another folder")
        missing = [parent for parent in (target, *target.parents) if not parent.exists()]
        (target / WORK).mkdir(parents=True, exist_ok=True)
    job = Job(str(target))
    if job.is_finished() and not to_change:
        yield job
        return
    is_new = not job.is_planned()
    try:
        with _only_here(path, job), when_full(f"can't write the output {str(path)!r}"):
            yield job
    except BaseException:
        if is_new and not job.storage.names(MANIFESTS) and not launchers(job.storage):
            job.storage.remove(WORK)
            for parent in missing:  # deepest first; those in use by others stay
                with suppress(OSError):
                    parent.rmdir()
        raise


@contextmanager
def _in_a_store(job: Job, to_change: bool) -> Iterator[Job]:
    """The job of an output in an object store."""
    if not job.is_planned() and {*job.storage.names("")} - {"", WORK}:
        raise SourceError(f"the output {job.out!r} exists: remove it or name another folder")
    if job.is_finished() and not to_change:
        yield job
        return
    with only_launcher(job.storage):
        yield job


@contextmanager
def resumable(job: Job, path: str | Path) -> Iterator[None]:
    """If the block fails after some units are done, add to the error how to go on.

    Raises SourceError if the output can't be written.
    """
    try:
        with _writing(path):
            yield
    except BaseException as error:
        done, total = len(job.storage.names(MANIFESTS)), len(job.plan.units)
        if 0 < done < total:
            error.add_note(f"{done:,} of {total:,} units are done, and the same command resumes")
        raise


def _is_empty(target: Path) -> bool:
    """Whether a folder is empty, apart from what a new disk has and what a call that was killed early left."""
    return target.is_dir() and {file.name for file in target.iterdir()} <= {"lost+found", WORK}


@contextmanager
def _only_here(path: Path, job: Job) -> Iterator[None]:
    """Work on an output alone, without what dead processes left in it."""
    with ExitStack() as stack:
        with _writing(path):
            stack.enter_context(only_launcher(job.storage))
            job.storage.remove_leftovers()
            if not job.is_planned():
                job.storage.remove(SOURCE)
        stack.callback(_tidy_up, job)
        yield


def _tidy_up(job: Job) -> None:
    """Remove what killed workers left and, once all work is done, what other machines left."""
    job.storage.remove_leftovers()
    if job.is_finished():
        job.storage.remove(SCRATCH)


def check_same(plan: Plan, request: Mapping[str, Any], transform: ToEditTransform) -> None:
    """Raise SourceError, with all that differs, unless a second call asks for the edit that the plan is for.

    request: what a second call has to repeat.
    """
    record = transform.provenance()
    now = {**request, **_settings(record)}
    before = {**{name: plan.request.get(name) for name in request}, **_settings(plan.record)}
    if any(plan.record[name] != record[name] for name in ("revision", "prior_class")):
        for settings, one in ((before, plan.record), (now, record)):
            settings |= {"prior": _prior_of(one), **dict.fromkeys(FOLLOWS_FROM_THE_PRIOR)}
    differing = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    if differing:
        changes = "; ".join(
            f"{OPTIONS.get(name, f'{name}=')}{_as_given(before.get(name), name)}, now {_as_given(now.get(name), name)}"
            for name in differing
        )
        raise SourceError(f"the output was begun with {changes}: repeat the options, or name another folder")


OPTIONS = {"unit_bytes": "unit_size=", "source": "SOURCE "}  # where the names differ
FOLLOWS_FROM_THE_PRIOR = ("tokenizer", "max_length", "stride", "prior_options")
OF_THE_PRIOR = ("prior", "prior_class", "prior_hub_id", "revision")
NOT_COMPARED = ("fingerprint", "corpus_digest", "versions", "config", *OF_THE_PRIOR)


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an edit depends on besides the prior's weights, by the names of options."""
    return {**record["config"], **{name: value for name, value in record.items() if name not in NOT_COMPARED}}


def _prior_of(record: Mapping[str, Any]) -> str:
    return f"{record['prior']} (revision {record['revision']}, {record['prior_class']})"


def _as_given(value: Any, name: str) -> str:
    if value in (None, [], ()):
        return "not set"
    if name == "unit_bytes":
        return _as_size(value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _as_size(num_bytes: int) -> str:
    """A number of bytes as `--unit-size` takes it: K, M and G are powers of 1,024."""
    for name, size in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if num_bytes % size == 0:
            return f"{num_bytes // size}{name}"
    return str(num_bytes)


def _writing(path: str | Path) -> one_clear_line:
    what = f"can't write the output {str(path)!r}"
    return one_clear_line(SourceError, what, catches=any_of(OSError), says=lambda error: getattr(error, "strerror", ""))
