"""Errors of other libraries in one line of ours; a full disk is known however it is told."""

from __future__ import annotations

import errno

import pytest

from hf_toedit import SourceError
from hf_toedit.errors import any_of, no_room, one_clear_line


def chain(inner, outer):
    try:
        try:
            raise inner
        except type(inner) as error:
            raise outer from error
    except type(outer) as error:
        return error


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "full"), errno.EDQUOT),
        (RuntimeError("write failed: No space left on device (os error 28)"), errno.ENOSPC),
        (chain(OSError(errno.EFBIG, "large"), RuntimeError("it failed")), errno.EFBIG),
        (OSError(errno.EACCES, "not yours"), None),
        (ValueError("room"), None),
        (chain(ValueError("a"), OSError(errno.EACCES, "b")), None),
    ],
)
def test_a_full_disk_is_known_however_it_is_told(error, number):
    assert no_room(error) == number


def test_what_is_caught_is_one_line_with_its_cause():
    with (
        pytest.raises(SourceError, match=r"^can't read: a b; give another$") as caught,
        one_clear_line(SourceError, "can't read", "give another", catches=any_of(ValueError, OSError)),
    ):
        raise ValueError("a\n  b")
    assert isinstance(caught.value.__cause__, ValueError)
    with (
        pytest.raises(SourceError, match=r"^can't read$"),
        one_clear_line(SourceError, "can't read", catches=any_of(ValueError), says=lambda error: ""),
    ):
        raise ValueError("a")


@pytest.mark.parametrize("error", [TypeError, KeyboardInterrupt])
def test_other_errors_pass(error):
    with pytest.raises(error), one_clear_line(SourceError, "can't read", catches=any_of(ValueError)):
        raise error
