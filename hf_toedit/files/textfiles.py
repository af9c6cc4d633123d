"""Text files as bytes: which line can't be read, and a readable copy of the file."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from ..errors import SourceError

EncodingErrors = Literal["strict", "backslashreplace"]
OPENERS: dict[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# Every escape in JSON, from left to right; the group matches a surrogate without its other half.
ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
FIX = "or set encoding_errors='backslashreplace' to read it as the text"


def readable(
    path: Path,
    scratch: Path,
    *,
    is_json: bool,
    errors: EncodingErrors,
    name: str,
    lines_before: Callable[[], int] = lambda: 0,
) -> Path:
    r"""The file itself if it is UTF-8 and, for JSON, has no lone surrogates; otherwise a copy in `scratch`.

    In the copy, a byte that is not UTF-8 becomes the text `\xe9`, and a lone surrogate (which no dataset can hold) the
    text `\ud800`.
    name: what to call the file. lines_before: how many lines precede it in the file of that name.

    Raises SourceError, with the line, if a copy is needed and errors is "strict".
    """
    with open_bytes(path) as lines:
        problem = next(((n, line) for n, line in enumerate(lines, 1) if _problem(n, line, is_json)), None)
    if problem is None:
        return path
    if errors == "strict":
        number, line = problem
        raise SourceError(f"{name} {_problem(lines_before() + number, line, is_json)}")
    copy = scratch / f"{len(list(scratch.iterdir()))}{'.jsonl' if is_json else path.suffix}"
    with open_bytes(path) as lines, copy.open("wb") as file:
        file.writelines(_written_out(line, is_json) for line in lines)
    return copy


def open_bytes(path: Path, file: IO[bytes] | None = None) -> IO[bytes]:
    """The file, decompressed. file: it, opened elsewhere; the path has its suffix."""
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise SourceError(f"{str(path)!r} needs a library: pip install zstandard") from error
        return io.BufferedReader(zstandard.open(file or path, "rb"))
    opener = OPENERS.get(path.suffix)
    return opener(file or path, "rb") if opener else file or path.open("rb")


def _problem(number: int, line: bytes, is_json: bool) -> str:
    """Why a line can't be read, with the fix; empty if it can."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            return "is UTF-16: save it as UTF-8"
        byte = f"\\x{line[error.start]:02x}"
        return f"line {number} is not UTF-8 (byte {error.start + 1}): save the file as UTF-8, {FIX} {byte}"
    lone = next(_lone_surrogates(line), None) if is_json else None
    if lone is None:
        return ""
    return f"line {number} has a lone surrogate (byte {lone.start() + 1}): correct it, {FIX} {lone.group().decode()}"


def _lone_surrogates(line: bytes) -> Iterator[re.Match[bytes]]:
    if re.search(rb"\\u[dD][89a-fA-F]", line):
        yield from (escape for escape in ESCAPE.finditer(line) if escape.group(1))


def _written_out(line: bytes, is_json: bool) -> bytes:
    if not is_json:
        return line.decode(errors="backslashreplace").encode()
    line = ESCAPE.sub(lambda escape: b"\\" + escape.group() if escape.group(1) else escape.group(), line)
    text = line.decode(errors="surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda byte: f"\\\\x{ord(byte.group()) - 0xDC00:02x}", text).encode()


def malformed_json(path: Path, lines_before: Callable[[], int] = lambda: 0) -> str:
    """What is wrong with a file of JSON Lines, or of one JSON value, with the line; empty if nothing is found.

    lines_before: how many lines precede those of the file.
    """
    with open_bytes(path) as lines:
        first = next((line for line in lines if line.strip()), b"")
    if first.lstrip()[:1] == b"[" or first.strip() == b"{":
        with open_bytes(path) as file:
            return _parse(file.read(), 0)
    with open_bytes(path) as lines:
        wrong = next(((n, line) for n, line in enumerate(lines, 1) if line.strip() and _parse(line, n)), None)
    return "" if wrong is None else _parse(wrong[1], lines_before() + wrong[0])


def malformed_csv(path: Path, separator: str) -> str:
    """What is wrong with a file of delimited values, with the line; empty if nothing is found."""
    import pandas

    try:
        with pandas.read_csv(path, sep=separator, iterator=True, chunksize=10_000, dtype=str) as chunks:
            deque(chunks, maxlen=0)
    except pandas.errors.ParserError as error:
        return f"is not valid CSV: {str(error).removeprefix('Error tokenizing data. C error: ').strip()}"
    except pandas.errors.EmptyDataError:
        return "is empty"
    return ""


def _parse(text: bytes, number: int) -> str:
    try:
        value = json.loads(text.decode(errors="replace"))
    except json.JSONDecodeError as error:
        return f"line {number or error.lineno} is not valid JSON: {error.msg} (column {error.colno})"
    except RecursionError:
        return f"line {max(1, number)} is nested too deeply"
    return "" if isinstance(value, dict) or not number else f"line {number} is not a JSON object, such as {{...}}"
