"""Pushing an edited dataset to the Hub: everything is written to a folder first, then uploaded."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, SourceError, ToEditWarning, any_of, one_clear_line, when_full
from ..files.outputs import scratch_folder
from ..files.sources import check_finished, load_source
from ..report.measurements import MEASUREMENTS, read_measurements
from .configs import choose_config, kept_splits, own_file, stale_shards
from .content import Content, Mode, content_of
from .licences import Combined
from .merging import CARD, without_section
from .patch_files import PATCH
from .record_file import RECORD, parse_record
from .records import Edits, Record, records_of
from .repository import DEFAULT, Repository, check_access, look_at, read_file
from .shards import Shards
from .source import Source, file_of
from .uploads import upload

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


@dataclasses.dataclass(frozen=True, repr=False)
class Pushed:
    """What a push left on the Hub, or would leave there, after a dry run.

    url: of the commit or of the pull request; None after a dry run.
    has_changed: whether the push changed any file.
    load: the call that reads the dataset.
    repo_id, config_name: where the rows are.
    files: the size of each file, in bytes. deleted: the files of earlier pushes that these replace.
    card: the text of the repository's README.md.
    """

    url: str | None
    has_changed: bool
    load: str
    repo_id: str
    config_name: str
    files: Mapping[str, int]
    deleted: Sequence[str]
    card: str

    def __repr__(self) -> str:
        from rich.filesize import decimal

        width = max(map(len, self.files))
        lines = [f"  {path:{width}}  {decimal(size)}" for path, size in self.files.items()]
        lines += [f"  {path:{width}}  deleted" for path in self.deleted]
        if self.url is None:
            return "\n".join([f"A push to {self.repo_id} would write:", *lines])
        head = f"Pushed to {self.url}" if self.has_changed else f"No file has changed since {self.url}"
        return "\n".join([head, *lines, f"Read it with {self.load}"])


def load_call(repo_id: str, config: str, revision: str | None, *, is_patch: bool) -> str:
    function = "load_edited" if is_patch else "load_dataset"
    arguments = [repr(repo_id), *([] if config == DEFAULT else [repr(config)])]
    arguments += [] if revision is None else [f"revision={revision!r}"]
    return f"{function}({', '.join(arguments)})"


def push_dataset(
    dataset: Dataset | DatasetDict,
    repo_id: str,
    *,
    transform: Edits,
    source: str | Source | None = None,
    mode: Mode = "full",
    config_name: str | None = None,
    private: bool = True,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
    token: str | bool | None = None,
    card: str | None = None,
    measurements: Record | None = None,
) -> Pushed:
    """Push an edited dataset to the Hub, with a card that says how it was made and how to undo it.

        edited = ds.map(transform, batched=True)
        push_dataset(edited, "me/flan-toedit", transform=transform)

    A push replaces the splits that it has and our section of the card; the rest of the card, other configs and other
    files stay. If a push is interrupted, the same call resumes it.

    dataset: the edited rows, with their `toedit` column. Splits without rows are left out with a warning.
    repo_id: the dataset to push to. It is created if there is none.
    transform: what edited the rows: the ToEditTransform, its record (the contents of `toedit.json`), or a list of
        these, oldest first.
    source: the dataset before the edit, as "org/name" or "org/name@revision"; by default, what `load_dataset` read.
    mode: "full" publishes the rows; "patch" only the edits, for `load_edited`, without any text of the source.
    config_name: the config (subset) to push to; by default "default", or "toedit" in a repository that already has
        rows of its own. Rows that nobody edited are never overwritten.
    private: whether a new repository is private. A public one is refused unless private=False.
    revision: the branch to push to, created if there is none. create_pr: open a pull request against `main` instead.
    dry_run: write nothing to the Hub; only return what would be there.
    token: as in `load_dataset`.
    card: the text of a README.md to start from, if the repository has none.
    measurements: what `hf-toedit measure` wrote about these rows, for the card.

    The result has the `url` of the commit or pull request (None after a dry run), `load`, the call that reads the
    dataset, the text of its `card`, and its `files` with their sizes.

    Raises RowError if the rows don't have the fingerprint of the transform; ConfigError; SourceError if the Hub
    refuses, or if rows could not be loaded afterwards.
    """
    if create_pr and revision is not None:
        raise ConfigError("a pull request is opened against main: leave out either create_pr= or revision=")
    content = content_of(dataset, transform, source, mode, token).with_measurements(measurements)
    before = look_at(repo_id, revision=revision, token=token)
    config = _config(before, config_name, content)
    if not dry_run:
        check_access(before, private=private, token=token)
    if not content.is_patch:
        check_terms(content.licences, private=private)
    with _folder() as folder:
        shards = content.write_rows(folder, config)
        before = look_at(repo_id, revision=revision, token=token)  # it may have changed while the rows were written
        if _config(before, config_name, content) != config:
            raise SourceError(f"somebody else has just pushed to {repo_id!r}: look at it, then push again")
        _check_kept(before, config, content, shards)
        text = content.write_card(folder, before, config, shards, card)
        files = {path: (folder / path).stat().st_size for path in _paths(folder)}
        stale = [*stale_shards(before, config, shards), *_stale_measurements(before, config, content)]
        url = None
        if not dry_run:
            url = upload(
                folder,
                repo_id,
                private=private,
                revision=revision,
                create_pr=create_pr,
                delete=stale,
                parent=before.commit,
                token=token,
            )
    has_changed = url is not None and (before.commit is None or not url.endswith(before.commit))
    load = load_call(before.id, config, revision, is_patch=content.is_patch)
    return Pushed(url, has_changed, load, before.id, config, files, stale, text)


def _stale_measurements(before: Repository, config: str, content: Content) -> list[str]:
    """Those of an earlier push, unless they are replaced."""
    path = own_file(config, MEASUREMENTS)
    return [path] if path in before.files and content.measurements is None else []


def check_target(repo_id: str, *, private: bool) -> None:
    """Raise SourceError now for what would stop a push after hours of editing."""
    before = look_at(repo_id)
    check_access(before, private=private)
    choose_config(before, None, is_source=False)


def push_folder(path: str | Path, repo_id: str, *, records: Sequence[Path] = (), **options: Any) -> Pushed:
    """`push_dataset` for a folder that `transform.save` or `hf-toedit edit` wrote, or another dataset with its records.

    path: a SOURCE as for `load_source`. records: files like `toedit.json`; by default the one in the folder, or in the
        repository of a Hub dataset.
    options: of `push_dataset`. What the folder's README.md holds besides our section goes to a repository without one.

    Raises SourceError if there is no record.
    """
    folder = Path(path).expanduser()
    recorded = None if records else file_of(Source.parse(str(path)), RECORD, options.get("token"))
    files = [recorded] if recorded else records
    if not files:
        check_finished(folder)
        what = f"there is no {RECORD}, the record of the edit, in {str(path)!r}"
        raise SourceError(f"{what}: check the name, or set record= to that file")
    transform = [parse_record(_read(file), repr(str(file))) for file in files]
    card = without_section(_read(folder / CARD)) if (folder / CARD).is_file() else None
    measured = file_of(Source.parse(str(path)), MEASUREMENTS, options.get("token"))
    measurements = None if measured is None else read_measurements(measured)
    rows = load_source(str(path))
    return push_dataset(rows, repo_id, transform=transform, card=card, measurements=measurements, **options)


def _read(path: Path) -> str:
    with one_clear_line(SourceError, f"can't read {str(path)!r}", catches=any_of(OSError, ValueError)):
        return path.read_text(encoding="utf-8")


def _config(before: Repository, given: str | None, content: Content) -> str:
    """The config to push to. Patches and rows don't share a repository."""
    if content.is_patch:
        if given not in (None, DEFAULT):
            raise ConfigError(f"a patch has a repository of its own: leave config_name={given!r} out")
        if content.source is None:
            raise SourceError("a patch names the dataset that it applies to: set source='org/name@revision'")
        if before.configs and PATCH not in before.files:
            raise SourceError(f"{before.id} holds rows, and a patch needs a repository of its own: name a new one")
        return DEFAULT
    is_source = content.source is not None and content.source.id.casefold() == before.id.casefold()
    return choose_config(before, given, is_source=is_source)


@contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder for what is to be uploaded. A full disk is one clear line."""
    fix = "free some space, or set TMPDIR to a folder on a larger disk"
    with scratch_folder() as folder, when_full("can't write the files to upload", fix):
        yield folder


def _paths(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def check_terms(licences: Combined, *, private: bool) -> None:
    """Warn if the licences don't allow sharing the edited text. Raises SourceError if it would be public."""
    if licences.may_be_shared is not False:
        return
    line = "the licence of the source or of the prior does not allow sharing edited text"
    fix = "publish a patch, which has no text of the source, with mode='patch'"
    if not private:
        raise SourceError(f"{line}: keep the dataset private, or {fix}")
    warnings.warn(f"{line}, so keep this dataset private, or {fix}", ToEditWarning, stacklevel=3)


def _check_kept(before: Repository, config: str, content: Content, shards: Shards) -> None:
    """Raise SourceError unless the splits of the config that stay were made by the same edits as those pushed."""
    kept = kept_splits(before, config, shards)
    if kept and content.is_patch:
        raise SourceError(f"{before.id} also has a patch of split {kept[0]!r}: push all splits together")
    path = own_file(config, RECORD)
    is_recorded = kept and path in before.files
    name = f"{path} in {before.id}"
    records = records_of(parse_record(read_file(before, path, content.token), name)) if is_recorded else []
    if kept and [record["fingerprint"] for record in records] != [edit.fingerprint for edit in content.edits]:
        raise SourceError(
            f"split {kept[0]!r} of config {config!r} in {before.id} was made by another edit, and its record would be "
            "lost: push all splits together, or set config_name= to another name"
        )
