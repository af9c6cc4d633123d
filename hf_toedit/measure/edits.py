"""What an edit did: how many tokens were eligible and changed, where, and what became what."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from ..editing.stats import NUM_BINS, STRUCT_FIELDS, ratio
from ..errors import RowError
from ..rows.paths import get_at, path_of
from .batches import Batch
from .documents import Document
from .measurement import Measurement, Needs
from .probability import exp, histogram_figures
from .words import words_of

NUM_PARTS = 10
COUNTS = ("num_tokens", "num_editable", "num_scorable", "num_visited", "num_visited_eligible", "num_changed")
Edit = Mapping[str, Any]


class EditProfile(Measurement):
    """What an edit did to a dataset, from the rows' `toedit` structs. It needs no prior.

    `result()` holds:

    - `num_not_edited`: rows without a struct; `statuses`: the others by status
    - `num_tokens`, `num_changed`, `changed_rate`: of all tokens
    - `num_visited`, `eligible_rate`, `source`: the source's tokens that the prior scored, and their probabilities; see
      TokenProbability. A uniform sample, unless `stats="full"`.
    - `edits_per_row`: `mean` and `max` over rows with a struct, and `counts`: the number of rows by number of edits.
      An id that changed in `labels`, too, counts once.
    - `positions`: edits by where in their text they begin, in ten parts of equal length; `num_unplaced`: edits of rows
      that changed since
    - `replacements`: edits by kind of the old and the new text, such as `word to word`; see `kind_of`
    """

    name: ClassVar[str] = "edit_profile"
    needs: ClassVar[Needs] = "edits"

    def __init__(self) -> None:
        super().__init__()
        self.num_not_edited = 0
        self.statuses: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self.logprob_sum = Fraction(0)
        self.histogram = [0] * NUM_BINS
        self.edits_per_row: Counter[int] = Counter()
        self.positions = [0] * NUM_PARTS
        self.num_unplaced = 0
        self.replacements: Counter[str] = Counter()

    def _check(self, document: Document) -> None:
        struct = document.edit
        if struct is None:
            return
        if not isinstance(struct, Mapping):
            kind = type(struct).__name__
            raise RowError(f"the record of an edit must be a struct, not {kind}: set stats_column= to its column")
        if missing := (STRUCT_FIELDS | {"edits", "status"}) - struct.keys():
            raise RowError(f"the structs of the edited rows have no {min(missing)}: edit again with this version")

    def _count(self, batch: Batch) -> None:
        for document in batch.documents:
            if document.edit is None:
                self.num_not_edited += 1
            else:
                self._count_edits(document, document.edit)

    def _count_edits(self, document: Document, struct: Mapping[str, Any]) -> None:
        self.statuses[str(struct["status"])] += 1
        self.sums.update({name: int(struct[name]) for name in COUNTS})
        self.logprob_sum += Fraction(float(struct["logprob_sum"]))
        self.histogram = [a + int(b) for a, b in zip(self.histogram, struct["histogram"], strict=True)]
        edits = [edit for edit in struct["edits"] if (edit["column"], edit["kind"]) != ("labels", "ids")]
        self.edits_per_row[len(edits)] += 1
        self.replacements.update(
            f"{kind_of(edit['old'], edit['kind'])} to {kind_of(edit['new'], edit['kind'])}" for edit in edits
        )
        for _, in_place in itertools.groupby(edits, key=lambda edit: edit["column"]):
            self._place(document.row, list(in_place))

    def _place(self, row: Mapping[str, Any], edits: Sequence[Edit]) -> None:
        """Count where the edits of one text or list of ids begin."""
        length = original_length(row, edits)
        for edit in edits:
            if 0 <= edit["start"] < length:
                self.positions[edit["start"] * NUM_PARTS // length] += 1
            else:
                self.num_unplaced += 1

    def _merge(self, other: EditProfile) -> None:
        self.num_not_edited += other.num_not_edited
        for name in ("statuses", "sums", "edits_per_row", "replacements"):
            getattr(self, name).update(dict(getattr(other, name)))
        self.logprob_sum += other.logprob_sum
        for name in ("histogram", "positions"):
            setattr(self, name, [a + b for a, b in zip(getattr(self, name), getattr(other, name), strict=True)])
        self.num_unplaced += other.num_unplaced

    def _figures(self) -> dict[str, Any]:
        sums, num_edits = self.sums, sum(num * rows for num, rows in self.edits_per_row.items())
        mean = float(self.logprob_sum / sums["num_visited"]) if sums["num_visited"] else math.nan
        return {
            "num_not_edited": self.num_not_edited,
            "statuses": dict(sorted(self.statuses.items())),
            **{name: sums[name] for name in COUNTS},
            "eligible_rate": ratio(sums["num_visited_eligible"], sums["num_visited"]),
            "changed_rate": ratio(sums["num_changed"], sums["num_tokens"]),
            "source": {**histogram_figures(self.histogram), "mean_logprob": mean, "perplexity": exp(-mean)},
            "edits_per_row": {
                "mean": ratio(num_edits, self.edits_per_row.total()),
                "max": max(self.edits_per_row, default=0),
                "counts": {str(num): rows for num, rows in sorted(self.edits_per_row.items())},
            },
            "positions": list(self.positions),
            "num_unplaced": self.num_unplaced,
            "replacements": dict(sorted(self.replacements.items(), key=lambda item: (-item[1], item[0]))),
        }


def original_length(row: Mapping[str, Any], edits: Sequence[Edit]) -> int:
    """The length, before its edits, of the text or list of ids that they are in; 0 if the row no longer has it."""
    try:
        value = get_at(row, path_of(edits[0], row))
    except RowError:
        return 0
    if not isinstance(value, (str, list, tuple, np.ndarray)):
        return 0
    grown = sum(len(edit["new"]) - len(edit["old"]) for edit in edits) if edits[0]["kind"] != "ids" else 0
    return len(value) - grown


def kind_of(text: str, kind: str | None = "text") -> str:
    """What a changed text is: `nothing` (deleted), `space`, `number`, `word`, `punctuation` or `mixed`; or `id`."""
    if kind == "ids":
        return "id"
    if not text:
        return "nothing"
    words = words_of(text)
    if not words:
        return "space"
    kinds = {_kind_of_word(word) for word in words}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _kind_of_word(word: str) -> str:
    if not any(character.isalnum() for character in word):
        return "punctuation"
    return "number" if all(character.isnumeric() for character in word if character.isalnum()) else "word"
