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

    text: what of the row may be edited: a text, a completion, the chosen roles of a conversation; "" if skipped.
    status: why the row can't be read or scored, or None.
    logprob_E: log P(x_t | x_<t) of each scorable token under the prior, in nats; None without a prior.
    edit: the row's `toedit` struct; None if it has none.
    """

    text: str
    status: Status | None = None
    logprob_E: FloatArray | None = None
    edit: Mapping[str, Any] | None = None
