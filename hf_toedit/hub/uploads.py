"""Folders to the Hub, and the card that is there.

`huggingface_hub` sends the files: it hashes them, skips those that the repository already has, and waits as long as a
rate limit asks. What is added here: repositories stay private unless asked, few files a commit with the card in the
last one, and a second try where the library has none.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import ConfigError, SourceError, in_one_line, printable
from ..files.outputs import scratch_folder
from ..files.secret import scrubbed
from .failures import CONFLICT, TROUBLE, chain, hub_errors, told_wait
from .merging import CARD

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FILES_PER_COMMIT = 90  # the Hub asks for fewer than 100
WAITS = (1, 2, 4, 8)  # seconds before each further try, unless the Hub tells how long
TIMEOUT = 60  # seconds until the Hub must have answered a first question
LONGEST_WAIT = 300  # seconds: the Hub counts requests in windows of five minutes
RepoType = Literal["dataset", "model", "space"]
Result = TypeVar("Result")
LOGGER = logging.getLogger(__name__)


def upload(
    folder: Path,
    repo_id: str,
    *,
    repo_type: RepoType = "dataset",
    private: bool = True,
    revision: str | None = None,
    create_pr: bool = False,
    delete: Sequence[str] = (),
    parent: str | None = None,
    token: str | bool | None = None,
    message: str = "Upload with hf_toedit",
) -> str:
    """Upload a folder to a repository and return the address of the commit, or of the pull request.

    Files that are there already are not sent again, so the same call resumes an upload that was interrupted. The card
    (README.md) goes with the last files: it never names data that is not there.

    repo_id: "owner/name". The repository is created if there is none (not for a pull request).
    private: whether a new repository is private. An existing one keeps its visibility; it is an error if that is
        public and `private` is true.
    revision: the branch to commit to, which is created from `main` if there is none; or an open pull request's
        "refs/pr/N". Default: `main`.
    create_pr: open a pull request against `main` instead.
    delete: files of the repository to delete, unless the folder has them.
    parent: the commit that the folder was made for. It is an error if the branch has moved on since. Ignored for a
        pull request.
    token: default: the one that `hf auth login` stored, or the environment's HF_TOKEN.

    Raises ConfigError for settings that exclude each other, SourceError if the folder can't be uploaded.
    """
    from huggingface_hub import HfApi

    if create_pr and revision is not None:
        raise ConfigError("a pull request is opened against main: leave out either create_pr or revision")
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        raise ConfigError("revision is a commit, which can't be changed: give the name of a branch")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names.sort(key=CARD.__eq__)  # last
    if not names:
        raise SourceError(f"there is no folder {str(folder)!r} with files to upload")
    api = HfApi(token=token)
    with hub_errors(repo_id), _bars_in_terminals_only():
        check_name(repo_id)
        is_private = _is_private(api, repo_id, repo_type, must_exist=create_pr)
        _check_card(folder / CARD, repo_type)
        if is_private is None:
            create = partial(api.create_repo, repo_id, repo_type=repo_type, private=private, exist_ok=True)
            persistently(partial(create, space_sdk="static") if repo_type == "space" else create)
            is_private = _is_private(api, repo_id, repo_type, must_exist=True)  # somebody may have been faster
        if private and not is_private:
            raise SourceError(
                f"{repo_type} {repo_id!r} is public already: pass private=False to publish there, or make it private "
                "in its settings on the Hub"
            )
        if revision is not None and revision != "main" and not revision.startswith("refs/"):
            persistently(partial(api.create_branch, repo_id, branch=revision, repo_type=repo_type, exist_ok=True))
        stale = [name for name in delete if name not in names]
        target = _Target(api, repo_id, repo_type, folder, names, stale, message)
        if create_pr:
            return _propose(target)
        commit = partial(_commit, target, revision, parent)
        return commit() if parent else persistently(commit)


def read_card(
    repo_id: str, *, repo_type: RepoType = "dataset", revision: str | None = None, token: str | bool | None = None
) -> str | None:
    """The text of a repository's README.md; None if it has none, or if there is no repository that the token may see.

    revision: a branch that does not exist yet has the card of `main`, which it will start from.

    Raises SourceError if the Hub can't be asked, or the card is not UTF-8.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi(token=token)
    with hub_errors(repo_id, "read the card of"), scratch_folder() as scratch:
        check_name(repo_id)
        for at in dict.fromkeys((revision, None)):
            try:  # in a folder of its own: the cache may be older
                path = api.hf_hub_download(repo_id, CARD, repo_type=repo_type, revision=at, local_dir=scratch)
                return _decoded(Path(path))
            except (RepositoryNotFoundError, RemoteEntryNotFoundError) as error:
                if isinstance(error, GatedRepoError):
                    raise
                return None
            except RevisionNotFoundError:
                continue
    return None


@contextmanager
def _bars_in_terminals_only() -> Iterator[None]:
    """No progress bars in a log, where an error would follow a bar on its line."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars  # type: ignore[attr-defined]

    hide = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not sys.stderr.isatty()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


def check_name(repo_id: str) -> None:
    """Raise HFValidationError or SourceError for what can't be the id of a repository. Within `hub_errors`."""
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise SourceError(f"{scrubbed(repo_id)!r} has no owner: write it as 'user/{scrubbed(repo_id)}'")


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # line ends stay as they are
    except UnicodeDecodeError as error:
        raise SourceError(f"{CARD} is not UTF-8: save it as UTF-8 first") from error


def _check_card(path: Path, repo_type: RepoType) -> None:
    """Let the Hub check the card's metadata before anything is sent."""
    from huggingface_hub import RepoCard
    from yaml import YAMLError

    if not path.is_file():
        return
    try:
        card = RepoCard(_decoded(path), ignore_metadata_errors=True)
    except YAMLError as error:
        raise SourceError(f"the metadata of {CARD} is not valid YAML: {in_one_line(error)}") from error
    try:
        persistently(lambda: card.validate(repo_type=repo_type))
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise SourceError(f"the Hub refused the metadata of {CARD}: {_complaints(str(error))}") from error


def _complaints(text: str) -> str:
    """What `/api/validate-yaml` objects to, in one line."""
    try:
        messages = [error["message"] for error in json.loads(text)["errors"]]
    except (ValueError, LookupError, TypeError):
        messages = [text]
    return printable("; ".join(map(str, messages)))


def _is_private(api: HfApi, repo_id: str, repo_type: RepoType, *, must_exist: bool) -> bool | None:
    """Whether a repository is private; None if there is none that the token may see."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        found = persistently(partial(api.repo_info, repo_id, repo_type=repo_type, timeout=TIMEOUT))
    except RepositoryNotFoundError as error:
        if must_exist or isinstance(error, GatedRepoError):
            raise
        return None
    return bool(found.private)


@dataclass(frozen=True)
class _Target:
    """Where a folder goes. files: what to send, the card last; stale: what to delete with the last of them."""

    api: HfApi
    repo_id: str
    repo_type: RepoType
    folder: Path
    files: Sequence[str]
    stale: Sequence[str]
    message: str

    def head(self, revision: str | None) -> str | None:
        """The commit that a branch points to."""
        return self.api.repo_info(self.repo_id, repo_type=self.repo_type, revision=revision).sha

    def batches(self) -> Iterator[dict[str, Any]]:
        """What to commit, as arguments of `upload_folder`."""
        for i in range(0, len(self.files), FILES_PER_COMMIT):
            files = self.files[i : i + FILES_PER_COMMIT]
            is_last = i + len(files) == len(self.files)
            yield {
                "repo_id": self.repo_id,
                "repo_type": self.repo_type,
                "folder_path": self.folder,
                "allow_patterns": list(map(escape, files)),
                "delete_patterns": list(map(escape, self.stale)) if self.stale and is_last else None,
                "commit_message": self.message if i == 0 else f"{self.message} (part {i // FILES_PER_COMMIT + 1})",
            }


def _commit(target: _Target, revision: str | None, parent: str | None) -> str:
    """Commit to a branch. A commit of somebody else in between is a conflict, since what it changed was compared."""
    parent = parent or target.head(revision)
    for batch in target.batches():
        done = target.api.upload_folder(**batch, revision=revision, parent_commit=parent)
        parent = done.oid
    return str(done.commit_url)


def _propose(target: _Target) -> str:
    """Open a pull request with the first commit, and add the others to it."""
    revision, address = None, ""
    for batch in target.batches():
        done = target.api.upload_folder(**batch, revision=revision, create_pr=revision is None)
        address = address if revision else str(done.pr_url or done.commit_url)
        revision = revision or done.pr_revision
    return address


def persistently(call: Callable[[], Result]) -> Result:
    """Call again after a conflict or a passing failure: the library does so only where it transfers files."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    for wait in WAITS:
        try:
            return call()
        except (OSError, RuntimeError, HTTPError) as error:
            cause = next((cause for cause in chain(error) if isinstance(cause, HTTPError)), None)
            if cause is None:
                raise
            seconds, trouble = wait, "can't be reached"
            if isinstance(cause, HfHubHTTPError):
                seconds, trouble = told_wait(cause) or wait, "is busy"
                if cause.response.status_code not in CONFLICT + TROUBLE or seconds > LONGEST_WAIT:
                    raise
        LOGGER.warning("the Hub %s; trying again in %d s", trouble, seconds)
        time.sleep(seconds)
    return call()
