"""Edits for people: the text around them, old and new marked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ..rows.paths import get_at, path_of
from ..rows.revert import revert

if TYPE_CHECKING:
    from datasets import Dataset


CONTEXT = 40  # characters shown on each side of an edit
CONTEXT_IDS = 8


def edited_rows(
    dataset: Dataset, num_rows: int, stats_column: str = "toedit", also: Sequence[str] = ()
) -> list[tuple[int, dict[str, Any]]]:
    """Up to `num_rows` edited rows with their indices, evenly spread: the edited columns, and those in `also`."""
    found = {i: struct["edits"] for i, struct in enumerate(dataset[stats_column]) if struct and struct["edits"]}
    edited = (str(path_of(edit, dataset.column_names)[0]) for edits in found.values() for edit in edits)
    columns = dict.fromkeys([stats_column, *also, *edited])
    indices, step = list(found), max(1.0, len(found) / num_rows)
    chosen = [indices[int(i * step)] for i in range(min(num_rows, len(found)))]
    shown = dataset.select_columns(list(columns))
    return [(i, shown[i]) for i in chosen]


def show_edits(console: Console, rows: Iterable[tuple[str, Mapping[str, Any]]], stats_column: str = "toedit") -> None:
    """Print the first edit of each of some edited rows, given as (label, row), with the text around it."""
    colour = console.color_system is not None and not console.no_color
    for label, row in rows:
        edits = row[stats_column]["edits"]
        path = path_of(edits[0], row)
        own = [edit for edit in edits if path_of(edit, row) == path]
        line = Text.assemble((visible(label), "dim"), "  ")
        original = revert(row, stats_column)
        line.append_text(marked(get_at(original, path), own, colour=colour))
        console.print(line, soft_wrap=True, highlight=False)


def marked(original: str | Sequence[int], edits: Sequence[Mapping[str, Any]], *, colour: bool) -> Text:
    """The surroundings of the first edit, every edit in them marked: old in red and struck, new in green.

    original: the text, or the list of token ids, before editing. Without colour an edit reads [-old-]{+new+}.
    """
    width = CONTEXT if isinstance(original, str) else CONTEXT_IDS
    first, *_ = edits
    low, high = max(0, first["start"] - width), min(len(original), _end(first, original) + width)
    line = Text("…" if low else "")
    position = low
    for edit in sorted(edits, key=lambda edit: int(edit["start"])):
        if low <= edit["start"] and _end(edit, original) <= high:
            line.append(_piece(original[position : edit["start"]]))
            old, new = visible(edit["old"]), visible(edit["new"])
            if colour:
                line.append(old, style="strike red").append(new, style="bold green")
            else:
                line.append((f"[-{old}-]" if old else "") + (f"{{+{new}+}}" if new else ""))
            position = _end(edit, original)
    line.append(_piece(original[position:high]))
    return line.append("…" if high < len(original) else "")


def _end(edit: Mapping[str, Any], original: str | Sequence[int]) -> int:
    return int(edit["start"]) + (len(edit["old"]) if isinstance(original, str) else 1)


def _piece(part: str | Sequence[int]) -> str:
    return visible(part) if isinstance(part, str) else "".join(f" {token} " for token in part)


def visible(text: str) -> str:
    """The text on one line and without control characters, which a terminal would obey."""
    return "".join(character if character.isprintable() else "↵" if character == "\n" else "·" for character in text)
