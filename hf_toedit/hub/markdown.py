"""Texts of others in Markdown: shown as they are, whatever they hold, and never run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..display import visible

SPECIAL = re.compile(r"[\\`*_{}\[\]<>|&~$:@]")  # in the middle of a line; `:` and `@` would make links
PLAIN = re.compile(r"[^\s`|<>&\\](?:[^`|<>&\\]*[^\s`|<>&\\])?")


def as_text(text: str) -> str:
    """A text on one line, in which no character is Markdown, HTML or a control character."""
    return SPECIAL.sub(lambda found: f"&#{ord(found[0])};", visible(text))


def as_code(text: str) -> str:
    """The same in a monospaced font."""
    return f"`{text}`" if PLAIN.fullmatch(text) and text.isprintable() else f"<code>{as_text(text)}</code>"


def fenced(text: str, language: str) -> str:
    """A block of code, with a fence longer than any in it."""
    longest = max(map(len, re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: bool = False) -> str:
    """A table of cells that are Markdown. right: align all columns but the first to the right."""
    rules = ["---", *(["---:" if right else "---"] * (len(header) - 1))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rules, *rows])
