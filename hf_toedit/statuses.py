"""Why rows were skipped, in words, and what to do about it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from .errors import ToEditWarning

MOST_SHOWN = 3
ALL_SKIPPED = "every row so far was skipped"  # how the warning of a transform begins
# By the reason of a `skipped:<reason>` status. {columns} and {roles} stand for the option's name where it is set.
REMEDIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "null": "there is no value: set {columns} to the column with the text",
        "empty": "there is no text: set {columns} to the column with the text",
        "not_text": "the value is not a string: set {columns} to the column with the text",
        "lone_surrogates": "the text is not valid Unicode: read it with errors='replace'",
        "not_messages": "a message needs a role and a content: set {columns} to the column with the messages",
        "no_text": "no message of the roles to edit has text: set {roles} to roles that the data has",
        "template": "the chat template rejects the messages or rewrites their text: use a prior whose template fits "
        "them, or another chat template",
        "lossy": "the prior's tokenizer can't represent the text exactly: use a prior with another tokenizer",
        "nonfinite": "the prior gave no finite log-probability: check its weights, or run it in float32",
        "not_token_ids": "input_ids must be lists of integers: tokenize the text first, or set {columns} to edit text",
        "unknown_token_id": "the ids are not in the prior's vocabulary: use a prior with the tokenizer that made them, "
        "or edit the text before tokenizing it",
        "tokenizer_mismatch": "the prior's tokenizer would not have made these ids: use a prior with the tokenizer "
        "that made them, or edit the text before tokenizing it",
        "length": "a mask or the labels differ in length from input_ids: make them equally long",
    }
)


def all_skipped(statuses: Mapping[str, int]) -> bool:
    """Whether there were rows and each was skipped. statuses: number of rows by status."""
    return bool(statuses) and all(status.startswith("skipped") for status in statuses)


@contextmanager
def told_afterwards() -> Iterator[None]:
    """Keep quiet the warning that all rows are skipped: the caller says it when the work is done."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ALL_SKIPPED, ToEditWarning)
        yield


def explain(statuses: Mapping[str, int], option: str = "{}=") -> str:
    """The most frequent reasons with their remedies: `skipped:null (3 rows): there is no value: set columns= to ...`.

    option: how an option is written where the reader sets it, such as `--{}`.
    """
    names = {name: option.format(name) for name in ("columns", "roles")}
    often = sorted(statuses.items(), key=lambda item: (-item[1], item[0]))[:MOST_SHOWN]
    return "; ".join(
        f"{status} ({count:,} {'row' if count == 1 else 'rows'}): {_remedy(status).format(**names)}"
        for status, count in often
    )


def _remedy(status: str) -> str:
    reason = status.partition(":")[2]
    return REMEDIES["length" if reason.endswith("_length") else reason]
