"""What can go wrong with the Hub, in one line for each kind, with its own fix and without the token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..errors import SourceError, ToEditError, no_room, one_clear_line, printable
from ..files.secret import MASK, scrubbed

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

CONFLICT = (409, 412)
TROUBLE = (408, 429, 500, 502, 503, 504)
STORAGE = re.compile("storage|quota|limit", re.IGNORECASE)
# What the libraries say of answers that they can't read.
MALFORMED = re.compile("improperly formatted|malformed|invalid server response", re.IGNORECASE)


def hub_errors(repo_id: str, doing: str = "push to") -> one_clear_line:
    """Turn what can go wrong with the Hub into a SourceError: one line for each kind, with its own fix and no token.

    doing: what is done with the repository, to complete "can't push to 'me/x'".
    """
    what = f"can't {doing} {printable(scrubbed(repr(repo_id)))}"
    says = partial(_told, access="write" if doing == "push to" else "read")
    return one_clear_line(SourceError, what, catches=_is_of_the_hub, says=says)


def _is_of_the_hub(error: BaseException) -> bool:
    broken = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)
    is_http = type(error).__module__.startswith("httpx")
    return (is_http or isinstance(error, broken)) and not isinstance(error, ToEditError)


def _told(error: BaseException, *, access: str) -> str:
    """What failed, and what to do about it."""
    if no_room(error) is not None:
        return "the disk is full; free some space and run it again"
    for cause in chain(error):
        line = _of_setup(cause) or _of_answer(cause, access=access) or _of_connection(cause)
        if line is not None:
            return line
    words = scrubbed(printable(str(error)))
    if type(error) is ValueError and STORAGE.search(words):
        return f"the storage limit is reached ({words}); free some space on the Hub or buy more"
    if isinstance(error, OSError) or (type(error) is ValueError and not MALFORMED.search(words)):
        return words
    if type(error) is RuntimeError:
        return f"the library that sends the files failed ({words}); run it again to resume"
    return (
        "the answer is incomplete, or does not come from the Hub; check HF_ENDPOINT and proxies, or run it again later"
    )


def _of_setup(error: BaseException) -> str | None:
    """Failures before anything is sent."""
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HFValidationError):
        return "this is not a valid repository name; write 'owner/name' with letters, digits, '-', '_' and '.'"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it to reach the Hub"
    if isinstance(error, LocalTokenNotFoundError):
        return "you are not logged in; run `hf auth login` or set HF_TOKEN"
    if type(error).__name__ == "LocalProtocolError" or isinstance(error, UnicodeEncodeError):
        return "the token contains a character that tokens never have; copy it again, then run `hf auth login`"
    return None


def _of_answer(error: BaseException, *, access: str) -> str | None:
    """Answers with a status that means failure, to this process or to the storage library, which has them in words."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if not isinstance(error, HfHubHTTPError):
        found = re.search(r"HTTP status \w+ error \((\d{3}) ([\w ]+)\)", str(error))
        return _of_status(int(found[1]), found[2], None, access=access) if found else None
    if isinstance(error, GatedRepoError):
        return "it is gated; ask for access on its page, then log in with `hf auth login`"
    if isinstance(error, DisabledRepoError):
        return "the Hub has disabled it; ask its owner"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision; check the name of the branch, tag or commit"
    status = error.response.status_code
    if isinstance(error, RepositoryNotFoundError):
        login = "log in with `hf auth login`" if status == 401 else "whose token you use"
        return f"there is no such repository, or you may not see it ({status}); check the name, and {login}"
    return _of_status(status, _server_says(error), told_wait(error), access=access)


def _of_status(status: int, says: str, wait: int | None, *, access: str) -> str:
    """says: the server's own words. wait: for how many seconds it asks to wait."""
    if status == 401 and "credentials" in says:
        return "the Hub does not accept this token (401); log in with `hf auth login`, or set HF_TOKEN to a valid one"
    if status == 401:
        return "you are not logged in (401); run `hf auth login` or set HF_TOKEN"
    if status in (402, 413, 507) or (status == 403 and STORAGE.search(says)):
        return f"the storage limit is reached ({status}: {says}); free some space on the Hub or buy more"
    if status == 403:
        return f"the token does not allow this ({says}); use one with {access} access to the owner's repositories"
    if status in CONFLICT:
        return f"someone else is changing it at the same time ({status}); run it again"
    if status == 429:
        when = "in a few minutes" if wait is None else f"in {wait} seconds"
        return f"too many requests (429); run it again {when}"
    if status in TROUBLE or status >= 500:
        return f"the Hub is having trouble ({status}); run it again later to resume"
    return f"the Hub refused it ({status}: {says}); correct that, or report a bug if nothing is wrong with it"


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


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error, the error that it was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def told_wait(error: HfHubHTTPError) -> int | None:
    """For how many seconds the Hub asks to wait; None if it does not say."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    limit = parse_ratelimit_headers(error.response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1
    told = error.response.headers.get("Retry-After", "").strip()
    return int(told) if told.isdecimal() else None
