"""How values are displayed at the prompt and in a notebook: calls, tables, text on one line."""

from __future__ import annotations

import html
import inspect
import re
import unicodedata
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

LONGEST = 60  # characters of a string shown in a repr
SIGNS = {"\n": "↵", "\t": "⇥", " ": "␣"}
JOINER = re.compile(r"(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])")  # within Persian words, emoji and the like


def as_call(value: object, **replaced: Any) -> str:
    """The call that creates an object, with the arguments that differ from defaults: `ToEditConfig(threshold=0.95)`.

    Arguments are the parameters of its class, read from the attributes of the same name (or `_name`). Mappings, which
    may hold secrets, show only their keys; other objects, only their class.
    replaced: arguments to show in place of attributes, and additional ones.
    """
    attributes = {**{name.removeprefix("_"): part for name, part in vars(value).items()}, **vars(value), **replaced}
    arguments = []
    parameters = inspect.signature(type(value)).parameters
    for name, parameter in parameters.items():
        part = attributes.get(name, parameter.default)
        if not _is_default(part, parameter.default):
            is_first = parameter.default is parameter.empty
            arguments.append(_short(part) if is_first else f"{name}={_short(part)}")
    arguments += [f"{name}={_short(part)}" for name, part in replaced.items() if name not in parameters]
    return f"{type(value).__name__}({', '.join(arguments)})"


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(value, (list, tuple, Mapping)) and isinstance(default, (list, tuple, Mapping, NoneType)):
        return list(value) == list(default or ())
    return value is default or (type(value) is type(default) and bool(value == default))


def _short(value: Any) -> str:
    if isinstance(value, str):
        is_cut = type(value) is str and len(value) > LONGEST  # a secret is a str of another type, whose repr is a mask
        return repr(value[:LONGEST] + "…" if is_cut else value)
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: …' for key in value)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_short, value))}]"
    is_ours = type(value).__module__.startswith(__package__ or "")
    return repr(value) if is_ours else f"<{type(value).__name__}>"


def plain_table(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Rows of cells as aligned text. right: indices of the right-aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def html_table(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Rows of cells as an HTML table. right: indices of the right-aligned columns."""
    lines = (
        "".join(
            f'<td style="white-space:pre;text-align:{"right" if i in right else "left"}">{escaped(cell)}</td>'
            for i, cell in enumerate(row)
        )
        for row in rows
    )
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def visible(text: str) -> str:
    """The text on one line, without the control characters that a terminal would obey."""
    return "".join(character if character.isprintable() else "↵" if character == "\n" else "·" for character in text)


def escaped(text: str) -> str:
    """The text as HTML, made `visible`."""
    return html.escape(visible(text))


def spelled(text: str) -> str:
    """The text on one line, with each character that can't be seen spelled out: `⟨U+202E⟩`, or `↵` for a line break.

    Spaces stay as they are, except in a text of spaces alone. The result is valid Unicode, also for lone surrogates.
    """
    is_blank = text.isspace()
    kept = {match.start() for match in JOINER.finditer(text)}
    return "".join(
        character if i in kept or _is_seen(character, is_blank) else SIGNS.get(character, f"⟨U+{ord(character):04X}⟩")
        for i, character in enumerate(text)
    )


def _is_seen(character: str, is_blank: bool) -> bool:
    return not is_blank if unicodedata.category(character) == "Zs" else character.isprintable()
