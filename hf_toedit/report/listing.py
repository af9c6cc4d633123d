"""The rows that a page lists: an even sample with each edit in its context, small enough to send by mail."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2.utils import htmlsafe_json_dumps

from ..display import spelled
from ..editing.tokenization import Tokenization
from ..errors import RowError
from ..rows.revert import checked_struct
from ..statuses import Status
from .counts import Counts, PlainRows, Replacement, class_labels, group_name
from .edits import Piece, edit_lines, edited_columns

if TYPE_CHECKING:
    from datasets import Dataset

MOST_EDITED = 2000  # rows listed
MOST_OTHERS = 200  # rows listed of each other status
MOST_BYTES = 2_500_000  # over all rows listed
ROW_BYTES = range(400, 4000)  # the bounds of a row's part of that
KINDS = {"same": 0, "old": 1, "new": 2}
CHANGED = 3  # in place of a kind: why the edits of a row can't be shown


@dataclasses.dataclass(frozen=True)
class Listing:
    """What the script of a page lists, ready for JSON.

    rows: of each row the split, row number, status and source (by their places in the lists of the same names; -1 for
        no source), the number of edits, whether some are cut off, the replacements in it (by their places), and its
        lines: a place, and kinds and texts in turn.
    totals: by status, how many rows are listed and how many there are.
    num_changed: how many of the rows listed changed after editing.
    """

    splits: list[str]
    statuses: list[str]
    sources: list[str]
    places: list[str]
    rows: list[list[Any]]
    totals: dict[str, tuple[int, int]]
    num_changed: int


def listing_of(
    splits: Mapping[str, Dataset],
    counts: Counts,
    replacements: Sequence[Replacement],
    tokenization: Tokenization | None = None,
) -> Listing:
    """An even sample of the rows of each status. replacements: those that the page can filter by."""
    chosen = {status: _evenly(status, splits, counts) for status in sorted(counts.stats.statuses)}
    room = MOST_BYTES // max(1, sum(map(len, chosen.values())))
    room = min(max(room, ROW_BYTES.start), ROW_BYTES.stop)
    statuses, names = list(chosen), [str(split) for split in splits]
    sources, places = dict[str, int](), dict[str, int]()
    place_of = {replacement: i for i, replacement in enumerate(replacements)}
    rows: list[list[Any]] = []
    for number, (split, dataset) in enumerate(splits.items()):
        indices = sorted(i for of_status in chosen.values() for name, i in of_status if name == split)
        for i, row, source in _read(dataset, counts, indices):
            struct = row[counts.stats_column]
            edits = checked_struct(struct, counts.stats_column)["edits"]
            lines, is_cut = _lines_of(row, counts.stats_column, tokenization, room)
            known = sorted({place_of.get((e["old"], e["new"], e["kind"] == "ids"), -1) for e in edits} - {-1})
            source_place = -1 if source is None else sources.setdefault(spelled(source), len(sources))
            listed = [[places.setdefault(place, len(places)), *pieces] for place, pieces in lines]
            status = statuses.index(struct["status"])
            rows.append([number, i, status, source_place, len(edits), int(is_cut), known, listed])
    totals = {status: (len(chosen[status]), counts.stats.statuses[status]) for status in statuses}
    num_changed = sum(row[-1][0][1] == CHANGED for row in rows)
    return Listing([spelled(name) for name in names], statuses, [*sources], [*places], rows, totals, num_changed)


def _evenly(status: str, splits: Mapping[str, Dataset], counts: Counts) -> list[tuple[str, int]]:
    """Split and row number of rows with a status, evenly spread over all that have it."""
    found = [(split, counts.indices.get((split, status), ())) for split in splits]
    total = sum(len(indices) for _, indices in found)
    number = min(total, MOST_EDITED if status == Status.EDITED else MOST_OTHERS)
    wanted = iter([k * total // number for k in range(number)])
    chosen, before, position = list[tuple[str, int]](), 0, next(wanted, None)
    for split, indices in found:
        while position is not None and position < before + len(indices):
            chosen.append((split, indices[position - before]))
            position = next(wanted, None)
        before += len(indices)
    return chosen


def _read(dataset: Dataset, counts: Counts, indices: Sequence[int]) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """Some rows: the number, the edited columns with the struct, and the source."""
    plain, labels, column = PlainRows(dataset), class_labels(dataset, counts.by), counts.stats_column
    for numbers, structs in plain.batches([column], indices):
        edits_of = [checked_struct(row[column], column)["edits"] for row in structs]
        names = [column, *edited_columns(edits_of, dataset.column_names), *([] if counts.by is None else [counts.by])]
        for i, row in zip(numbers, plain.read(names, numbers), strict=True):
            yield i, row, group_name(row, counts.by, labels)


def _lines_of(
    row: Mapping[str, Any], stats_column: str, tokenization: Tokenization | None, room: int
) -> tuple[list[tuple[str, list[int | str]]], bool]:
    """The lines of a row as far as there is room for them, and whether something is missing."""
    try:
        lines = list(edit_lines("", row, stats_column, tokenization))
    except RowError as error:
        return [("", [CHANGED, spelled(str(error))])], False
    kept: list[tuple[str, list[int | str]]] = []
    for place, pieces in lines:
        part, room = _cut(pieces, room)
        if part:
            kept.append((spelled(place), part))
        if room <= 0:
            return kept or [(spelled(place), [0, "…"])], True
    return kept, False


def _cut(pieces: Sequence[Piece], room: int) -> tuple[list[int | str], int]:
    """Kinds and texts in turn, as far as there is room, and the room that is left. An edit is shown whole or not."""
    kept: list[int | str] = []
    for i, (kind, text) in enumerate(pieces):
        seen = spelled(text[: room + 1])
        follows = pieces[i + 1] if i + 1 < len(pieces) else ("same", "")
        needed = _size(seen) + (_size(spelled(follows[1][: room + 1])) if (kind, follows[0]) == ("old", "new") else 0)
        if needed > room:
            if kind == "same":
                kept += [0, _start(seen, room)]
            return [*kept, 0, "…"], 0
        kept += [KINDS[kind], seen]
        room -= _size(seen)
    return kept, room


def _size(text: str) -> int:
    """How many bytes a piece takes on the page, where some characters are escaped."""
    return len(htmlsafe_json_dumps(text, ensure_ascii=False).encode()) + len("0,,")


def _start(text: str, room: int) -> str:
    """The beginning of a text, as much as there is room for."""
    while text and (size := _size(text)) > room:
        text = text[: len(text) * room // size]
    return text
