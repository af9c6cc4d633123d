"""Errors that carry their fix.

    ToEditError
    ├── ConfigError   a setting is out of range or unknown (also a ValueError)
    ├── PriorError    a prior can't be loaded or used
    ├── SourceError   a dataset, a file or a folder can't be read or written
    ├── RowError      rows lack the columns that an edit needs, or an edit can't be undone
    └── StoppedError  a command was stopped by Ctrl-C or SIGTERM

    ToEditWarning     an edit ran, but probably not the one you meant (a UserWarning)

A bad row is not an error: it passes through with a `skipped:<reason>` status.
"""

from __future__ import annotations

import difflib
import errno
import os
import signal
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

MOST_LISTED = 40
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ToEditError(Exception):
    """Base of all errors of hf_toedit."""


class ConfigError(ToEditError, ValueError):
    """A setting is out of range or unknown."""


class PriorError(ToEditError):
    """A prior can't be loaded or used."""


class SourceError(ToEditError):
    """A dataset, a file or a folder can't be read or written."""


class RowError(ToEditError):
    """Rows lack the columns that an edit needs, or an edit can't be undone."""


class StoppedError(ToEditError):
    """A command was stopped by Ctrl-C or SIGTERM. exit_code: as in a shell, 130 or 143."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted" if number == signal.SIGINT else "terminated")
        self.exit_code = 128 + number


class ToEditWarning(UserWarning):
    """An edit ran, but probably not the one you meant."""


def nearest(name: str, known: Iterable[str]) -> str:
    """What an error adds about an unknown name: `; did you mean 'threshold'?`, or the known names if they are few."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if len(names) <= MOST_LISTED else ""


def in_one_line(error: BaseException) -> str:
    """The message of another library's error, in one line of at most 200 characters."""
    return printable(str(error)) or type(error).__name__


class one_clear_line:  # noqa: N801 - reads as a statement
    """Turn errors of other libraries into one of ours, with the cause attached: `what: says(error); fix`.

    catches: which errors; the others pass. says: the part of the line that comes from the error.
    """

    def __init__(
        self,
        kind: type[ToEditError],
        what: str,
        fix: str = "",
        *,
        catches: Callable[[BaseException], object],
        says: Callable[[BaseException], str] = in_one_line,
    ) -> None:
        self.kind, self.what, self.fix, self.catches, self.says = kind, what, fix, catches, says

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None and self.catches(error):
            line = ": ".join(filter(None, (self.what, self.says(error))))
            raise self.kind("; ".join(filter(None, (line, self.fix)))) from error


def any_of(*kinds: type[BaseException]) -> Callable[[BaseException], bool]:
    """Whether an error is of one of these classes."""
    return lambda error: isinstance(error, kinds)


def no_room(error: BaseException) -> int | None:
    """The errno if an error, or one that it came from, says that the disk is full; None if not."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            return cause.errno
        if "no space left on device" in str(cause).lower():  # torch and safetensors say it in words alone
            return errno.ENOSPC
        cause = cause.__cause__ or cause.__context__
    return None


def when_full(what: str, fix: str = "") -> one_clear_line:
    """Turn the error of a full disk, whatever was being written, into a SourceError."""
    return one_clear_line(
        SourceError,
        what,
        fix,
        catches=lambda error: not isinstance(error, ToEditError) and no_room(error),
        says=lambda error: os.strerror(no_room(error) or 0),
    )


def printable(text: str) -> str:
    """A foreign text in one line of at most 200 characters, without characters that could control a terminal."""
    line = " ".join(text[:10_000].split())
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line[:200])
    return line if len(line) < 200 else line[:199] + "…"


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic in a library written in Rust. It derives from BaseException, as Ctrl-C does."""
    return type(error).__module__ == "pyo3_runtime" and type(error).__name__ == "PanicException"


def import_extra(name: str, extra: str) -> Any:
    """Import an optional package, or raise ConfigError, which names the extra to install."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"this needs the package {error.name}: pip install 'hf-toedit[{extra}]'") from error
