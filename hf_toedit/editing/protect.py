r"""Protect rules: stretches of text that are never edited.

A rule is a name from `RULES` or a regular expression of your own. The named rules run in time proportional to the text,
whatever it contains: no unclosed opening (`<code>`, `\(`, `[`) is followed to the end of the text more than once.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from ..errors import ConfigError, nearest

Span = tuple[int, int]  # start and end, in characters
CODE = re.compile(
    r"""
    ^[ \t>]* (?: (`{3,})[^`\n]* | (~{3,})[^\n]* )$       # a Markdown fence ...
        .*? (?: ^[ \t>]*(?:\1`*|\2~*)[ \t\r]*$ | \Z)     # ... to its end; an open one to the end of the text
    | (?<!`)(`{1,3})(?!`) [^\n]+? (?<!`)\3(?!`)          # inline code
    | ^[ \t]*(?:>>>|\.\.\.)[ ].*?$                       # doctest prompts
    | <(?P<tag>code|pre|CODE|PRE)\b
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
CODE_END = re.compile(r"</(?:code|pre|CODE|PRE)>")
MATH = re.compile(
    r"""
    \$\$.+?\$\$ | \$[^$\n]+\$
    | (?P<bracket> \\\( | \\\[ ) | \\begin\{ (?P<environment> \w+\*? ) \}
    """,
    re.VERBOSE | re.DOTALL,
)
MATH_END = re.compile(r"\\\) | \\\] | \\end\{\w+\*?\}", re.VERBOSE)
NUMBERS = re.compile(r"[-+]?\d+(?:[.,:/]\d+)*(?:[eE][-+]?\d+)?%?")
URLS = re.compile(r"\b(?:[a-z][a-z0-9+.-]{1,15}://|www\.)[^\s<>\"]+", re.IGNORECASE)
EMAILS = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
JSON_START = re.compile(r"[{\[]")
JSON_TOKEN = re.compile(
    r"""
    [ \t\n\r]* (?:
        (?P<mark> [\[\]{},:] )
        | (?P<string> "[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*" )
        | -?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)? | true | false | null | NaN | -?Infinity
    )
    """,
    re.VERBOSE,
)
JSON_VALUE = "[{sa"  # kinds of token: a mark stands for itself, s for a string, a for any other value


def _matches(pattern: re.Pattern[str]) -> Callable[[str], Iterator[Span]]:
    return lambda text: (match.span() for match in pattern.finditer(text))


def _delimited(
    pattern: re.Pattern[str], end: re.Pattern[str], end_of: Callable[[re.Match[str]], str]
) -> Callable[[str], Iterator[Span]]:
    """Matches of `pattern`; one with an `end_of` extends to that end, or is left out if none follows."""

    def find(text: str) -> Iterator[Span]:
        ends: dict[str, list[int]] = {}
        for match in end.finditer(text):
            ends.setdefault(match[0], []).append(match.end())
        position = 0
        while opening := pattern.search(text, position):
            position = opening.end()
            if closing := end_of(opening):
                places = ends.get(closing, [])
                following = bisect_left(places, position + len(closing))
                if following == len(places):
                    continue
                position = places[following]
            yield opening.start(), position

    return find


def _end_of_code(opening: re.Match[str]) -> str:
    return f"</{opening['tag']}>" if opening["tag"] else ""


def _end_of_math(opening: re.Match[str]) -> str:
    if opening["bracket"]:
        return r"\)" if opening["bracket"] == r"\(" else r"\]"
    return rf"\end{{{opening['environment']}}}" if opening["environment"] else ""


def _json(text: str) -> Iterator[Span]:
    """Every outermost non-empty JSON object or array; for a broken one, those inside it."""
    position = 0
    while opening := JSON_START.search(text, position):
        values, position = _read_json(text, opening.start())
        yield from values


def _read_json(text: str, position: int) -> tuple[list[Span], int]:
    """Read the value at a bracket: returns it (or, if it is broken, the complete values in it) and where to continue.

    Every bracket still open where a value breaks off is broken too, so none of them needs to be read separately.
    """
    values: list[Span] = []
    open_brackets: list[tuple[str, int, int]] = []  # bracket, its position, number of values before it
    expected, resume = "[{", position
    while token := JSON_TOKEN.match(text, position):
        kind = token["mark"] or ("s" if token["string"] else "a")
        if kind not in expected:
            break
        position = resume = token.end()
        if kind in "[{":
            open_brackets.append((kind, token.start("mark"), len(values)))
            expected = JSON_VALUE + "]" if kind == "[" else "s}"
            continue
        if kind in "]}":
            _, first, num_before = open_brackets.pop()
            if "," in expected:  # it is not empty
                values[num_before:] = [(first, position)]
            if not open_brackets:
                break
        if kind == "s":
            resume = token.start("string") + 1  # if it breaks off here, this may not have been a string
        in_array = open_brackets[-1][0] == "["
        if kind == ":" or (kind == "," and in_array):
            expected = JSON_VALUE
        elif kind == ",":
            expected = "s"
        elif kind == "s" and "a" not in expected:  # a key
            expected = ":"
        else:
            expected = ",]" if in_array else ",}"
    return values, resume


RULES: dict[str, Callable[[str], Iterator[Span]]] = {
    "code": _delimited(CODE, CODE_END, _end_of_code),
    "numbers": _matches(NUMBERS),
    "urls": _matches(URLS),
    "emails": _matches(EMAILS),
    "math": _delimited(MATH, MATH_END, _end_of_math),
    "json": _json,
}


def check_rule(rule: str) -> None:
    """Raise ConfigError unless `rule` is a name from RULES or a regular expression that compiles."""
    if rule in RULES:
        return
    if rule.isidentifier():
        raise ConfigError(
            f"protect={rule!r} is not a rule{nearest(rule, RULES)} (for a regular expression write '(?:{rule})')"
        )
    try:
        re.compile(rule)
    except re.error as error:
        raise ConfigError(f"protect={rule!r} is not a valid regular expression: {error}") from None


def protected_spans(text: str, rules: Iterable[str]) -> list[Span]:
    """Character spans `(start, end)` of `text` that the rules match; empty matches are left out."""
    spans = []
    for rule in rules:
        find = RULES[rule] if rule in RULES else _matches(re.compile(rule))
        spans += [(start, end) for start, end in find(text) if end > start]
    return spans
