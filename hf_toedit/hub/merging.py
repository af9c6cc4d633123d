"""A card that has an owner: our section between its markers, our metadata among theirs, every other byte as it was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import yaml

from ..errors import SourceError

CARD = "README.md"
NOTE = "<!-- Written by hf_toedit. Publishing again replaces everything between the two markers. -->"
MARKER = re.compile(r"^<!-- hf-toedit:(start|end)(?: ([\w.-]+))? -->(?=[ \t]*\r?$)", re.MULTILINE)
LIKE_A_MARKER = re.compile(r"<!--\s*hf-toedit\s*:", re.IGNORECASE)
COMMENTS = re.compile(r"(?:^[ \t]*(?:#.*)?(?:\r?\n|\Z))*\Z", re.MULTILINE)  # and blank lines, at the end of an entry
ADDED_TO = ("tags", "source_datasets", "datasets")  # lists of the owner's that gain our items
REPLACED = ("configs", "dataset_info")  # what describes the files, which are ours to describe
OF_A_LICENSE = ("license_name", "license_link")  # nothing without `license`


def front_matter(card: str) -> str:
    """The YAML at the start of a card; empty if there is none."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    found = REGEX_YAML_BLOCK.match(card.removeprefix("\ufeff"))
    return str(found[2]) if found else ""


def marker(kind: Literal["start", "end"], name: str = "") -> str:
    """The line in front of a section or behind it."""
    return f"<!-- hf-toedit:{kind} {name} -->" if name else f"<!-- hf-toedit:{kind} -->"


def merged(existing: str | None, section: str, metadata: Mapping[str, Any], name: str = "") -> str:
    """A card with our section and metadata in it; the rest of an existing card keeps every byte.

    existing: the card so far, or None. section: our Markdown, which replaces an earlier one or goes to the end.
    metadata: for the front matter. Lists in ADDED_TO gain the items that they lack, REPLACED entries are replaced, and
        any other is added only if the owner has none; the owner's license also keeps out a license_name.
    name: that of the section, such as a config, where a card has several; of letters, digits, `-`, `_` and `.`.

    Raises SourceError if front matter or markers are broken, so that nothing of the owner's is lost.
    """
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    text = existing or ""
    [newline] = re.findall(r"\r?\n", text + "\n")[:1]  # the card's own
    start = len(text) - len(text.removeprefix("\ufeff"))
    found = REGEX_YAML_BLOCK.match(text[start:])
    if found:
        before, body = text[: start + found.start(2)], text[start + found.end() :]
        head = before + with_metadata(found[2], metadata, newline) + found[3]
    else:
        front, body = with_metadata("", metadata, newline), text[start:]
        blank = [] if body.startswith(("\n", "\r")) else [""]
        head = text[:start] + (newline.join(["---", front, "---", *blank, ""]) if front else "")
    return head + _with_section(body, section, name, newline)


def without_section(card: str) -> str:
    """A card without our section, where that has no name of its own."""
    before, start, rest = card.partition(marker("start"))
    _, end, after = rest.partition(marker("end"))
    return before + after.lstrip() if start and end else card


def _with_section(body: str, section: str, name: str, newline: str) -> str:
    """The body of a card with our section in place of the one of that name, or at its end."""
    section = LIKE_A_MARKER.sub("<!-- hf-toedit ", section).strip().replace("\r\n", "\n")
    ours = newline.join([marker("start", name), NOTE, "", *section.split("\n"), "", marker("end", name)])
    span = _span_of_section(body, name)
    if span is not None:
        return body[: span.start] + ours + body[span.stop :]
    blank = re.search(r"(\r?\n)*\Z", body)
    ending = blank[0] if blank else ""
    missing = 0 if ending == body else max(0, 2 - ending.count("\n"))
    return body + newline * missing + ours + newline


def _span_of_section(body: str, name: str) -> slice | None:
    """Where our section of that name stands, with its markers."""
    markers = list(MARKER.finditer(body))
    names = [found[2] or "" for found in markers[::2]]
    expected = [(kind, name) for name in names for kind in ("start", "end")]
    is_whole = [(found[1], found[2] or "") for found in markers] == expected and len({*names}) == len(names)
    if not is_whole or len(markers) != len(LIKE_A_MARKER.findall(body)):
        raise SourceError(
            f"the card's markers are broken: leave one line {marker('start')!r} and after it one {marker('end')!r} "
            "for each section, or neither"
        )
    if name not in names:
        return None
    start, end = markers[2 * names.index(name) :][:2]
    return slice(start.start(), end.end())


def with_metadata(front: str, metadata: Mapping[str, Any], newline: str = "\n") -> str:
    """The YAML of a front matter with our metadata, as `merged` adds it.

    Raises SourceError unless it is a mapping in valid YAML.
    """
    owner = _parsed(front)
    wanted = {key: value for key, value in _wanted(owner, metadata).items() if owner.get(key) != value}
    if not wanted:
        return front
    entries = _entries(front)
    edited = front
    for key in sorted(wanted.keys() & entries.keys(), key=lambda key: -entries[key][0].start):
        span, node = entries[key]
        edited = edited[: span.start] + _entry(front[span], node, key, wanted[key], newline) + edited[span.stop :]
    new = {key: value for key, value in wanted.items() if key not in entries}
    if new:
        edited = newline.join(filter(None, [edited.rstrip("\r\n"), _dumped(new, newline)]))
    expected = {**owner, **wanted}
    return edited if _is(edited, expected) else _dumped(expected, newline)


def _wanted(owner: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the front matter should hold of our metadata."""
    wanted: dict[str, Any] = {}
    if owner.get("license") == "unknown":  # as much as none: an earlier push may have written it
        owner = {key: value for key, value in owner.items() if key != "license"}
    for key, value in metadata.items():
        theirs = owner.get(key)
        if key in ADDED_TO and theirs:
            listed = theirs if isinstance(theirs, list) else [theirs]
            wanted[key] = [*listed, *(item for item in value if item not in listed)]
        elif key in REPLACED or not (theirs or (key in OF_A_LICENSE and owner.get("license"))):
            wanted[key] = value
    return {key: value for key, value in wanted.items() if value not in (None, [])}


def _parsed(front: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 2} of the card)"
        raise SourceError(
            f"the card's front matter is not valid YAML{where}: correct it, then publish again"
        ) from error
    if not isinstance(data, dict | None):
        raise SourceError("the card's front matter is not a mapping, such as `license: mit`: correct it")
    return data or {}


def _entries(front: str) -> dict[str, tuple[slice, yaml.Node]]:
    """Where each entry of a YAML mapping stands, and its value."""
    mapping = yaml.compose(front, yaml.SafeLoader)
    pairs = mapping.value if isinstance(mapping, yaml.MappingNode) else []
    starts = [*(key.start_mark.index for key, _ in pairs), len(front)]
    return {key.value: (slice(*starts[i : i + 2]), value) for i, (key, value) in enumerate(pairs)}


def _entry(text: str, node: yaml.Node, key: str, value: Any, newline: str) -> str:
    """An entry with another value, and with the comments behind it. A list in block style keeps its lines."""
    comments = COMMENTS.search(text)
    end = len(text) if comments is None else comments.start()
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and key in ADDED_TO:
        indent = " " * node.start_mark.column
        new = [indent + _dumped([item], newline) for item in value[len(node.value) :]]
        entry = newline.join([text[:end].rstrip("\r\n"), *new])
    else:
        entry = _dumped({key: value}, newline)
    return entry + (newline if end < len(text) or text.endswith("\n") else "") + text[end:]


def _dumped(value: Any, newline: str) -> str:
    options: dict[str, Any] = {"sort_keys": False, "width": 120, "line_break": newline}
    dumped: str = yaml.safe_dump(value, allow_unicode=True, **options)
    if not _is(dumped, value):  # PyYAML writes some line breaks of Unicode so that it reads spaces
        dumped = yaml.safe_dump(value, allow_unicode=False, **options)
    return dumped.rstrip("\r\n")


def _is(text: str, expected: Any) -> bool:
    """Whether YAML is read as expected."""
    try:
        return bool(yaml.safe_load(text) == expected)
    except (yaml.YAMLError, ValueError):
        return False
