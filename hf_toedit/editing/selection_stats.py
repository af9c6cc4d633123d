"""What a selective loss keeps: the sums of the structs that SelectiveLabels writes beside the labels."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

from ..display import html_table, plain_table
from ..errors import RowError
from ..statuses import Status
from .stats import check_column_name, structs_in

SELECTION_COUNTS = ("num_tokens", "num_scored", "num_kept")


@dataclasses.dataclass(frozen=True, repr=False)
class SelectionStats:
    """How many tokens of a dataset stay in the loss. It prints as a table, also in a notebook.

    statuses: number of rows by status: `unchanged`, `no_labels` (left without a token in the loss), `skipped:<reason>`.
    num_tokens: tokens without padding. num_scored: those that have a label and a probability.
    num_kept: scored tokens that stay in the loss.
    """

    num_rows: int
    statuses: dict[str, int]
    num_tokens: int
    num_scored: int
    num_kept: int

    @property
    def kept_rate(self) -> float:
        """Share of the scored tokens that stay in the loss, in [0, 1]; NaN if none was scored."""
        return self.num_kept / self.num_scored if self.num_scored else math.nan

    @property
    def no_labels_rate(self) -> float:
        """Share of the rows that are left without a token in the loss, in [0, 1]; NaN if there are no rows."""
        return self.statuses.get(Status.NO_LABELS, 0) / self.num_rows if self.num_rows else math.nan

    def lines(self) -> list[tuple[str, str, str]]:
        """The counts and rates as (name, value, note)."""
        return [
            ("rows", f"{self.num_rows:,}", ""),
            *((f"  {status}", f"{count:,}", Status(status).meaning) for status, count in sorted(self.statuses.items())),
            ("tokens", f"{self.num_tokens:,}", ""),
            ("scored", f"{self.num_scored:,}", "have a label and a probability"),
            ("kept", f"{self.num_kept:,}", "stay in the loss"),
            ("kept rate", f"{self.kept_rate:.4f}", "of the scored tokens"),
        ]

    def __repr__(self) -> str:
        return plain_table(self.lines(), right=(1,))

    def _repr_html_(self) -> str:
        return html_table(self.lines(), right=(1,))


def summarize_selection(data: Any, stats_column: str = "selection") -> SelectionStats:
    """Summarize which tokens stay in the loss, from the structs that SelectiveLabels put beside the labels.

        summarize_selection(ds.map(SelectiveLabels("demo", high=0.99), batched=True))

    data: a Dataset, an IterableDataset or a dict of splits; rows, a batch or a single row; or the structs themselves.

    Raises RowError if there is no such column.
    """
    check_column_name(stats_column)
    statuses: Counter[str] = Counter()
    sums = dict.fromkeys(SELECTION_COUNTS, 0)
    for struct in structs_in(data, stats_column, first="map SelectiveLabels over the dataset"):
        if not {"status", *SELECTION_COUNTS} <= struct.keys():
            raise RowError(
                f"the structs of {stats_column!r} are not those of SelectiveLabels: name them, stats_column="
            )
        statuses[str(struct["status"])] += 1
        for name in SELECTION_COUNTS:
            sums[name] += int(struct[name])
    return SelectionStats(statuses.total(), dict(statuses), **sums)
