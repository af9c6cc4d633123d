"""Folders to the Hub, and the card that is there: created, retried, resumed, and told in one line where it fails.

`huggingface_hub` sends the files: it hashes them, skips those that the repository already has, and waits as long as a
rate limit asks. What is added here: repositories stay private unless asked, few files a commit with the card in the
last one, a second try where the library has none, and a line with its own fix for each kind of failure.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypeVar

from ..errors import ConfigError, SourceError, ToEditError, in_one_line, no_room, one_clear_line, printable
from ..files.secret import MASK, scrubbed

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi
    from huggingface_hub.errors import HfHubHTTPError

CARD = "README.md"
FILES_PER_COMMIT = 90  # the Hub asks for fewer than 100
WAITS = (1, 2, 4, 8)  # seconds before each further try, unless the Hub tells how long
LONGEST_WAIT = 300  # seconds: the Hub counts requests in windows of five minutes
CONFLICT = (409, 412)
TROUBLE = (408, 429, 500, 502, 503, 504)
RepoType = Literal["dataset", "model", "space"]
Result = TypeVar("Result")


def upload(
    folder: Path,
    repo_id: str,
    *,
    repo_type: RepoType = "dataset",
    private: bool = True,
    revision: str | None = None,
    create_pr: bool = False,
    delete: Sequence[str] = (),
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
    delete: patterns, such as "data/train-*", of files to delete unless the folder has them.
    token: default: the one that `hf auth login` stored, or the environment's HF_TOKEN.

    Raises ConfigError for settings that exclude each other, SourceError if the folder can't be uploaded.
    """
    from huggingface_hub import HfApi

    if create_pr and revision is not None:
        raise ConfigError("a pull request is opened against main: leave out either create_pr or revision")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names.sort(key=CARD.__eq__)  # last
    if not names:
        raise SourceError(f"there is no folder {str(folder)!r} with files to upload")
    api = HfApi(token=token)
    with hub_errors(repo_id):
        _check_name(repo_id)
        _check_card(folder / CARD, repo_type)
        _prepare(api, repo_id, repo_type, private, None if create_pr else revision, is_proposal=create_pr)
        there = api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)
        stale = [name for name in there if name not in names and any(fnmatchcase(name, one) for one in delete)]
        send = partial(api.upload_folder, repo_id=repo_id, repo_type=repo_type, folder_path=folder)
        return _commit(send, names, stale, revision, create_pr, message)


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
    with hub_errors(repo_id, "read the card of"), TemporaryDirectory() as scratch:
        _check_name(repo_id)
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


def _check_name(repo_id: str) -> None:
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise SourceError(f"{repo_id!r} lacks its owner: write it as 'user/{repo_id}'")


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
        _persistently(lambda: card.validate(repo_type=repo_type))
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise SourceError(f"the Hub refuses the metadata of {CARD}: {_complaints(str(error))}") from error


def _complaints(text: str) -> str:
    """What `/api/validate-yaml` objects to, in one line."""
    try:
        messages = [error["message"] for error in json.loads(text)["errors"]]
    except (ValueError, LookupError, TypeError):
        messages = [text]
    return printable("; ".join(map(str, messages)))


def _prepare(
    api: HfApi, repo_id: str, repo_type: RepoType, private: bool, branch: str | None, *, is_proposal: bool
) -> None:
    """Create the repository and the branch if there is none. Raises SourceError if the repository is too public."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    look = partial(api.repo_info, repo_id, repo_type=repo_type)
    found = None
    try:
        found = _persistently(look)
    except RepositoryNotFoundError as error:
        if is_proposal or isinstance(error, GatedRepoError):
            raise
    if found is None:
        sdk = "static" if repo_type == "space" else None
        create = partial(api.create_repo, repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
        _persistently(create)
        found = _persistently(look)
    if private and not found.private:
        raise SourceError(
            f"{repo_type} {repo_id!r} is public already: pass private=False to publish there, or make it private in "
            "its settings on the Hub"
        )
    if branch is not None and branch != "main" and not branch.startswith("refs/"):
        _persistently(partial(api.create_branch, repo_id, branch=branch, repo_type=repo_type, exist_ok=True))


def _commit(
    send: Callable[..., CommitInfo],
    names: Sequence[str],
    stale: Sequence[str],
    revision: str | None,
    create_pr: bool,
    message: str,
) -> str:
    """Commit the files, some at a time; the last commit has the card and the deletions. Returns its address."""
    address = ""
    batches = [names[i : i + FILES_PER_COMMIT] for i in range(0, len(names), FILES_PER_COMMIT)]
    for i, batch in enumerate(batches):
        opens = create_pr and revision is None
        call = partial(
            send,
            revision=revision,
            create_pr=opens,
            allow_patterns=list(map(escape, batch)),
            delete_patterns=list(map(escape, stale)) if stale and i + 1 == len(batches) else None,
            commit_message=message if i == 0 else f"{message} (part {i + 1})",
        )
        done = call() if opens else _persistently(call)  # once: each call opens a pull request
        if done.pr_revision is not None:
            revision, address = done.pr_revision, str(done.pr_url)
        elif not address or not create_pr:
            address = done.commit_url
    return address


def _persistently(call: Callable[[], Result]) -> Result:
    """Call again after a conflict or a passing failure: the library does so only where it transfers files."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    for wait in WAITS:
        try:
            return call()
        except (OSError, RuntimeError, HTTPError) as error:
            cause = next((cause for cause in _chain(error) if isinstance(cause, HTTPError)), None)
            if cause is None:
                raise
            seconds = wait
            if isinstance(cause, HfHubHTTPError):
                seconds = _told_wait(cause) or wait
                if cause.response.status_code not in CONFLICT + TROUBLE or seconds > LONGEST_WAIT:
                    raise
        time.sleep(seconds)
    return call()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, the error that it was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _told_wait(error: HfHubHTTPError) -> int | None:
    """For how many seconds the Hub asks to wait; None if it does not say."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    limit = parse_ratelimit_headers(error.response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1
    told = error.response.headers.get("Retry-After", "").strip()
    return int(told) if told.isdecimal() else None


# what failed


def hub_errors(repo_id: str, doing: str = "push to") -> one_clear_line:
    """Turn what can go wrong with the Hub into a SourceError: one line for each kind, with its own fix and no token.

    doing: what is done with the repository, to complete "can't push to 'me/x'".
    """
    what = f"can't {doing} {printable(repr(scrubbed(repo_id)))}"
    reading = doing != "push to"
    return one_clear_line(SourceError, what, catches=_is_of_the_hub, says=partial(_told, reading=reading))


def _is_of_the_hub(error: BaseException) -> bool:
    broken = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)
    is_http = type(error).__module__.startswith("httpx")
    return (is_http or isinstance(error, broken)) and not isinstance(error, ToEditError)


def _told(error: BaseException, *, reading: bool) -> str:
    """What failed, and what to do about it."""
    if no_room(error) is not None:
        return "the disk is full; free some space and run it again"
    for cause in _chain(error):
        line = _of_setup(cause) or _of_answer(cause, reading=reading) or _of_connection(cause)
        if line is not None:
            return line
    if isinstance(error, OSError) and error.filename is not None:
        return scrubbed(printable(str(error)))
    if type(error) is RuntimeError:  # the storage library's
        return f"the Hub's storage failed ({scrubbed(printable(str(error)))}); run it again to resume"
    return (
        "the Hub's answer can't be understood (it is incomplete, or does not come from the Hub); check HF_ENDPOINT and "
        "proxies, or try again later"
    )


def _of_setup(error: BaseException) -> str | None:
    """Failures before anything is sent."""
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HFValidationError):
        return "this can't be the name of a repository; give 'owner/name' in letters, digits, '-', '_' and '.'"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it to reach the Hub"
    if isinstance(error, LocalTokenNotFoundError):
        return "you are not logged in; run `hf auth login` or set HF_TOKEN"
    if type(error).__name__ == "LocalProtocolError" or isinstance(error, UnicodeEncodeError):
        return "the token has a character that no token has; copy it again, then run `hf auth login`"
    return None


def _of_answer(error: BaseException, *, reading: bool) -> str | None:
    """Answers with a status that means failure."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if not isinstance(error, HfHubHTTPError):
        return None
    status, says = error.response.status_code, _server_says(error)
    if isinstance(error, GatedRepoError):
        return "it is gated; ask for access on its page, then log in with `hf auth login`"
    if isinstance(error, DisabledRepoError):
        return "the Hub has disabled it; ask its owner"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision; check the name of the branch, tag or commit"
    if status == 401 and "credentials" in says:
        return "the Hub does not know this token (401); log in with `hf auth login`, or set HF_TOKEN to a valid one"
    if status == 401:
        return "you are not logged in (401); run `hf auth login` or set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or you may not see it (404); check the name, and whose token you use"
    if status in (402, 413, 507) or (status == 403 and re.search("storage|quota|limit", says, re.IGNORECASE)):
        return f"the storage limit is reached ({status}: {says}); free some space on the Hub or buy more"
    if status == 403:
        who = "read" if reading else "write"
        return f"the token may not do this ({says}); use one with {who} access to the owner's repositories"
    return _of_status(error, status, says)


def _of_status(error: HfHubHTTPError, status: int, says: str) -> str:
    if status in CONFLICT:
        return f"somebody else changes it at the same time ({status}); run it again"
    if status == 429:
        seconds = _told_wait(error)
        when = "in a few minutes" if seconds is None else f"in {seconds} seconds"
        return f"the Hub takes no more requests for now (429); run it again {when}"
    if status in TROUBLE or status >= 500:
        return f"the Hub has a problem of its own ({status}); run it again later to resume"
    return f"the Hub refuses it ({status}: {says}); report it if the cause is not on your side"


def _server_says(error: HfHubHTTPError) -> str:
    """The server's own words in one line, without the token in case it repeats it."""
    given = error.response.request.headers.get("Authorization", "").removeprefix("Bearer ")
    text = error.server_message or error.response.reason_phrase
    return scrubbed(printable(text.replace(given, MASK) if given else text))


def _of_connection(error: BaseException) -> str | None:
    """Requests that had no answer."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    name = type(error).__name__
    is_http = isinstance(error, HTTPError) or name == "InvalidURL"
    if not is_http and not isinstance(error, (ConnectionError, TimeoutError)):
        return None
    detail = scrubbed(printable(str(error))) or name
    if name in ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol", "InvalidURL"):
        place = scrubbed(printable(constants.ENDPOINT))
        return f"{place} can't be reached ({detail}); check the network, proxies and HF_ENDPOINT"
    return f"the connection to the Hub broke ({detail}); run it again to resume"
