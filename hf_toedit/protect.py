"""Protect rules: stretches of text in which nothing may be edited.

A rule is a name from `RULES` or a regular expression of your own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator

from .errors import ConfigError, nearest

Span = tuple[int, int]

CODE = re.compile(
    r"""
    ^[ ]{0,3}```.*?(?:^[ ]{0,3}```|\Z)     # Markdown fences, an open one to the end of the text
    | ^[ ]{0,3}~~~.*?(?:^[ ]{0,3}~~~|\Z)
    | ``?[^`\n]+``?                        # inline code
    | ^[ \t]*(?:>>>|\.\.\.)[ ].*?$         # doctest prompts
    | <(code|pre)\b.*?</\1>
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
MATH = re.compile(
    r"""
    \$\$.+?\$\$ | \$[^$\n]+\$ | \\\(.+?\\\) | \\\[.+?\\\]
    | \\begin\{(\w+\*?)\}.*?\\end\{\1\}
    """,
    re.VERBOSE | re.DOTALL,
)
NUMBERS = re.compile(r"[-+]?\d+(?:[.,:/]\d+)*(?:[eE][-+]?\d+)?%?")
URLS = re.compile(r"\b(?:[a-z][a-z0-9+.-]{1,15}://|www\.)[^\s<>\"]+", re.IGNORECASE)
EMAILS = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")


def _matches(pattern: re.Pattern[str]) -> Callable[[str], Iterator[Span]]:
    return lambda text: (match.span() for match in pattern.finditer(text))


def _json(text: str) -> Iterator[Span]:
    """Every outermost JSON object or array with something in it."""
    decoder = json.JSONDecoder()
    position = 0
    while match := re.compile(r"[{\[]").search(text, position):
        start = match.start()
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            position = start + 1
        else:
            position = end
            if value:
                yield start, end


RULES: dict[str, Callable[[str], Iterator[Span]]] = {
    "code": _matches(CODE),
    "numbers": _matches(NUMBERS),
    "urls": _matches(URLS),
    "emails": _matches(EMAILS),
    "math": _matches(MATH),
    "json": _json,
}


def check_rule(rule: str) -> None:
    """Raise ConfigError unless `rule` is a name from RULES or a regular expression that compiles."""
    if rule in RULES:
        return
    if rule.isidentifier():
        raise ConfigError(
            f"protect={rule!r} is no rule{nearest(rule, RULES)} (for a regular expression write '(?:{rule})')"
        )
    try:
        re.compile(rule)
    except re.error as error:
        raise ConfigError(f"protect={rule!r} is no valid regular expression: {error}") from None


def protected_spans(text: str, rules: Iterable[str]) -> list[Span]:
    """Character spans `(start, end)` of `text` that the rules cover; empty matches are left out."""
    spans = []
    for rule in rules:
        find = RULES[rule] if rule in RULES else _matches(re.compile(rule))
        spans += [(start, end) for start, end in find(text) if end > start]
    return spans
