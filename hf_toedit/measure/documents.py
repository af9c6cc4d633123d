"""What measurements read of a row: its text, and how likely a prior finds its tokens.

Shape suffixes: E scored tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..statuses import Status
from ..types import FloatArray


@dataclasses.dataclass(frozen=True)
class Document:
    """One row as measurements see it.

    text: what ToEditTransform may edit: a text, a completion, or the messages of the chosen roles. Several texts in one
        row are joined with newlines. "" if the row is skipped; None for `input_ids` without a tokenizer.
    status: why the row can't be read, or None.
    logprob_E: log P(x_t | x_<t) of each scorable token under the prior, in nats; None without a prior, or if skipped.
    scores_status: why the row can't be read or scored, or None.
    edit: the row's `toedit` struct; None if it has none.
    row: the columns that were read.
    """

    text: str | None
    status: Status | None = None
    logprob_E: FloatArray | None = None
    scores_status: Status | None = None
    edit: Mapping[str, Any] | None = None
    row: Mapping[str, Any] = dataclasses.field(default_factory=dict)
