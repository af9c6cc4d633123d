"""Characters and tokens: which tokens lie inside the spans that may be edited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..statuses import Status
from ..types import BoolArray
from .protect import Span
from .tokenization import Encoded, byte_offsets


def inside_spans(text: str, spans: Sequence[Span], encoded: Encoded) -> BoolArray:
    """Which tokens lie entirely inside one of the character spans (ascending and disjoint). Shape [T]."""
    edges = byte_offsets(text)[np.array(spans, dtype=np.int64).reshape(-1, 2)]
    span_T = np.searchsorted(edges[:, 0], encoded.start_T, side="right") - 1
    end_T = np.append(edges[:, 1], -1)[span_T]  # -1, before the first span, reads the last entry
    inside_T: BoolArray = encoded.end_T <= end_T
    return inside_T


def skip_status(text: Any) -> Status | None:
    """Why a value can't be edited as text, or None."""
    if text is None:
        return Status.NULL
    if not isinstance(text, str):
        return Status.NOT_TEXT
    if not text:
        return Status.EMPTY
    try:
        text.encode()
    except UnicodeEncodeError:
        return Status.LONE_SURROGATES
    return None
