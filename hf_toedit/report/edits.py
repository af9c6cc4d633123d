"""Edits for people to read: old and new text marked in context, in a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from ..display import escaped, visible
from ..editing.stats import check_column_name, no_column
from ..editing.tokenization import Tokenization
from ..errors import ConfigError, RowError
from ..rows.paths import get_at, path_of, place_name
from ..rows.revert import checked_struct, undone
from ..statuses import Status

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
    from transformers import PreTrainedTokenizerBase

CONTEXT = 40  # characters shown on each side of an edit
CONTEXT_IDS = 8
Row = Mapping[str, Any]  # or one edit of its `toedit` struct
Piece = tuple[Literal["same", "old", "new"], str]  # part of a line: text that was kept, removed or added
MARKS = {"same": "{}", "old": "[-{}-]", "new": "{{+{}+}}"}
STYLES = {"same": "", "old": "strike red", "new": "bold green"}
HTML = {
    "same": "{}",
    "old": '<del style="color:#b31d28">{}</del>',
    "new": '<ins style="color:#176f2c;font-weight:bold">{}</ins>',
}


def show(
    data: Row | Iterable[Row] | Dataset | DatasetDict | IterableDataset | IterableDatasetDict,
    num_rows: int = 5,
    *,
    tokenizer: PreTrainedTokenizerBase | Tokenizer | None = None,
    stats_column: str = "toedit",
) -> None:
    """Print the edits of one row, or of some edited rows of a dataset, with the text around them.

        show(edited[0])
        show(edited)

    Removed and added text is coloured in a terminal, marked with `<del>` and `<ins>` in a notebook, and shown as
    `[-old-]{+new+}` anywhere else. Control characters are made visible.

    data: an edited row; or a dataset, a dict of splits, a batch, or any iterable of rows.
    num_rows: how many edited rows to show: evenly spread over a dataset or each split; of an iterable, the first ones.
    tokenizer: the tokenizer that made `input_ids`, to show them as text.
    stats_column: the column that records the edits.

    Raises RowError for rows without that column, and for rows changed after editing.
    """
    check_column_name(stats_column)
    if num_rows < 1:
        raise ConfigError(f"num_rows={num_rows} must be at least 1")
    diff = Diff(_labelled(data, num_rows, stats_column), stats_column, tokenizer)
    console = Console()
    if console.is_jupyter:
        from IPython.display import display

        display(diff)
    else:
        text = diff.coloured() if _has_colour(console) else Text(str(diff))
        console.print(text, soft_wrap=True, highlight=False)


class Diff:
    """The edits of some rows as lines: plain, coloured, or HTML.

    rows: labelled edited rows. tokenizer: the one that made `input_ids`, to show them as text.

    Raises RowError for a row changed after editing.
    """

    def __init__(
        self,
        rows: Iterable[tuple[str, Row]],
        stats_column: str = "toedit",
        tokenizer: PreTrainedTokenizerBase | Tokenizer | None = None,
    ) -> None:
        tokenization = None if tokenizer is None else as_tokenization(tokenizer)
        self.lines = [line for label, row in rows for line in edit_lines(label, row, stats_column, tokenization)]
        self.lines = self.lines or [("", [("same", "no row was edited")])]

    def __repr__(self) -> str:
        return "\n".join(_label(label) + _plain(pieces) for label, pieces in self.lines)

    def coloured(self) -> Text:
        return Text("\n").join(
            Text.assemble((_label(label), "dim"), _in_colour(pieces)) for label, pieces in self.lines
        )

    def _repr_html_(self) -> str:
        return "".join(
            f"<p><small>{escaped(_label(label))}</small>"
            f"{''.join(HTML[kind].format(escaped(text)) for kind, text in pieces)}</p>"
            for label, pieces in self.lines
        )


def as_tokenization(tokenizer: object) -> Tokenization:
    """The tokenization of a tokenizer or a prior. Raises ConfigError for anything else."""
    backend = getattr(getattr(tokenizer, "tokenizer", tokenizer), "backend_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        raise ConfigError(f"tokenizer= must be a tokenizer with a tokenizer.json, not {type(tokenizer).__name__}")
    return Tokenization(backend)


def _labelled(data: Any, num_rows: int, stats_column: str) -> Iterator[tuple[str, Row]]:
    """The rows to show, labelled, from anything `show` takes. The label is the row's number, empty for a single row."""
    if isinstance(data, Mapping):
        if data and all(hasattr(split, "select_columns") for split in data.values()):
            for name, split in data.items():
                yield from ((f"{name} {label}", row) for label, row in _labelled(split, num_rows, stats_column))
            return
        if stats_column not in data:
            raise no_column(stats_column, data)
        if not isinstance(data[stats_column], (list, tuple, np.ndarray)):
            yield "", data
            return
        data = [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
    if hasattr(data, "select_columns") and hasattr(data, "__len__"):
        if stats_column not in data.column_names:
            raise no_column(stats_column, data.column_names)
        yield from ((str(i), row) for i, row in edited_rows(data.with_format(None), num_rows, stats_column))
        return
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes)) or hasattr(data, "columns"):
        raise RowError(f"show takes an edited row, rows or a dataset, not {type(data).__name__}: show(edited[0])")
    edited = ((str(i), row) for i, row in enumerate(data) if _struct(row, stats_column).get("edits"))
    yield from islice(edited, num_rows)


def _struct(row: object, stats_column: str) -> Row:
    """The `toedit` struct of a row; empty for a row that was not part of an edit."""
    if not isinstance(row, Mapping):
        raise RowError(f"show takes rows as dicts, not {type(row).__name__}: show(edited[0])")
    if stats_column not in row:
        raise no_column(stats_column, row)
    struct = row[stats_column]
    status = struct.get("status") if isinstance(struct, Mapping) else None
    return {**checked_struct(struct, stats_column), "status": status}


def edited_rows(dataset: Dataset, num_rows: int, stats_column: str = "toedit") -> list[tuple[int, Row]]:
    """Up to `num_rows` edited rows, evenly spread, with their indices. Only the columns that were edited.

    Raises RowError where an edited column is missing.
    """
    edits_of = {i: struct["edits"] for i, struct in enumerate(dataset[stats_column]) if struct and struct["edits"]}
    columns = [stats_column, *edited_columns(edits_of.values(), dataset.column_names)]
    indices, step = list(edits_of), max(1.0, len(edits_of) / num_rows)
    chosen = [indices[int(i * step)] for i in range(min(num_rows, len(edits_of)))]
    shown = dataset.select_columns(list(dict.fromkeys(columns)))
    return [(i, shown[i]) for i in chosen]


def edited_columns(edits_of: Iterable[Sequence[Row]], names: Sequence[str]) -> list[str]:
    """The columns that the edits of some rows are in. names: those of the dataset.

    Raises RowError where one is missing.
    """
    columns = list(dict.fromkeys(str(path_of(edit, names)[0]) for edits in edits_of for edit in edits))
    if missing := [name for name in columns if name not in names]:
        raise RowError(f"no column {missing[0]!r}, which was edited: rename it back")
    return columns


def show_edits(console: Console, rows: Iterable[tuple[str, Row]], stats_column: str = "toedit") -> None:
    """Print the first edit of each edited row, with the text around it. rows: pairs of label and row."""
    for label, row in rows:
        [(original, edits), *_] = _by_place(row, stats_column).values()
        line = Text.assemble((_label(label), "dim"), marked(original, edits, colour=_has_colour(console)))
        console.print(line, soft_wrap=True, highlight=False)


def marked(original: str | Sequence[int], edits: Sequence[Row], *, colour: bool) -> Text:
    """The text around the first edit, with every edit in it marked: old in red and struck through, new in green.

    original: the text, or the list of token ids, before editing. Without colour an edit is shown as [-old-]{+new+}.
    """
    pieces = _pieces(original, edits, *_around(original, edits[:1]))
    return _in_colour(pieces) if colour else Text(_plain(pieces))


def edit_lines(
    label: str, row: Row, stats_column: str, tokenization: Tokenization | None
) -> Iterator[tuple[str, list[Piece]]]:
    """Every edit of a row, neighbouring ones on one line, labelled with its place; or why there are none.

    Raises RowError for a row changed after editing.
    """
    struct = _struct(row, stats_column)
    if not struct.get("edits"):
        yield label, [("same", _why_unedited(struct))]
        return
    for place, (original, edits) in _by_place(row, stats_column).items():
        for group in _groups(original, edits):
            pieces = _pieces(original, group, *_around(original, group), tokenization)
            yield f"{label} {place}".strip(), pieces


def _why_unedited(struct: Row) -> str:
    if struct.get("status") not in list(Status):
        return "not edited"
    status = Status(struct["status"])
    remedy = f": {status.remedy.format(columns='columns=', roles='roles=')}" if status.remedy else ""
    return f"{status.value}: {status.meaning}{remedy}"


def _by_place(row: Row, stats_column: str) -> dict[str, tuple[str | Sequence[int], list[Row]]]:
    """The text or ids before editing, and their edits in order, by the name of their place in the row."""
    original = undone(row, stats_column, keep_added=True)
    places: dict[str, tuple[str | Sequence[int], list[Row]]] = {}
    for edit in row[stats_column]["edits"]:
        path = path_of(edit, row)
        places.setdefault(place_name(path), (get_at(original, path), []))[1].append(edit)
    return places


def _groups(original: str | Sequence[int], edits: Sequence[Row]) -> list[list[Row]]:
    """The edits, grouped where the text around them overlaps."""
    groups: list[list[Row]] = []
    for edit in sorted(edits, key=lambda edit: int(edit["start"])):
        if groups and _around(original, groups[-1])[1] >= _around(original, [edit])[0]:
            groups[-1].append(edit)
        else:
            groups.append([edit])
    return groups


def _around(original: str | Sequence[int], edits: Sequence[Row]) -> tuple[int, int]:
    """Where the context around some edits, given in order, begins and ends."""
    width = CONTEXT if isinstance(original, str) else CONTEXT_IDS
    return max(0, edits[0]["start"] - width), min(len(original), _end(edits[-1], original) + width)


def _pieces(
    original: str | Sequence[int],
    edits: Sequence[Row],
    low: int,
    high: int,
    tokenization: Tokenization | None = None,
) -> list[Piece]:
    """The text or ids between `low` and `high`, with the edits that lie entirely within."""
    pieces: list[Piece] = [("same", "…" if low else "")]
    position = low
    for edit in sorted(edits, key=lambda edit: int(edit["start"])):
        if low <= edit["start"] and _end(edit, original) <= high:
            pieces.append(("same", readable(original[position : edit["start"]], tokenization)))
            for kind in ("old", "new"):
                is_id = tokenization is not None and not isinstance(original, str)
                pieces.append((kind, readable([int(edit[kind])], tokenization) if is_id else edit[kind]))
            position = _end(edit, original)
    pieces.append(("same", readable(original[position:high], tokenization)))
    pieces.append(("same", "…" if high < len(original) else ""))
    return [(kind, text) for kind, text in pieces if text]


def _end(edit: Row, original: str | Sequence[int]) -> int:
    return int(edit["start"]) + (len(edit["old"]) if isinstance(original, str) else 1)


def readable(part: str | Sequence[int], tokenization: Tokenization | None) -> str:
    """Text unchanged; ids as text if the tokenization knows them, otherwise as numbers."""
    if isinstance(part, str):
        return part
    ids = np.asarray(part, dtype=np.int64)
    if tokenization is None or not tokenization.knows(ids):
        return "".join(f" {token} " for token in part)
    return tokenization.join(ids).decode(errors="replace")


def _has_colour(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def _label(label: str) -> str:
    return f"{visible(label)}  " if label else ""


def _plain(pieces: Iterable[Piece]) -> str:
    return "".join(MARKS[kind].format(visible(text)) for kind, text in pieces)


def _in_colour(pieces: Iterable[Piece]) -> Text:
    return Text.assemble(*((visible(text), STYLES[kind]) for kind, text in pieces))
