"""What can happen to a row: one enumeration for rows, reports and documentation, with a remedy for each status."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .errors import ToEditWarning

SKIPPED = "skipped:"
MOST_SHOWN = 3
ENOUGH = 10  # rows to judge the others by, where most are left without a label
ALL_SKIPPED = "every row so far was skipped"  # how the transform's warning begins
OTHER_LENGTH = "a mask or the labels differ in length from input_ids", "make them equally long"


class Status(enum.StrEnum):
    """The `status` of a row in the `toedit` column. A skipped row passes through unedited.

    meaning: what happened. remedy: what to do about it, or an empty string if there is nothing to do; {columns} and
    {roles} stand for the options, spelled the way the reader sets them.
    """

    meaning: str
    remedy: str

    def __new__(cls, value: str, meaning: str = "", remedy: str = "") -> Status:
        status = str.__new__(cls, value)
        status._value_, status.meaning, status.remedy = value, meaning, remedy
        return status

    EDITED = "edited", "at least one token changed"
    UNCHANGED = "unchanged", "the row was read, and no token changed"
    NO_LABELS = (
        "no_labels",
        "no token of the row is left in the loss",
        "keep more tokens, with a wider band or a share of each row",
    )
    NULL = "skipped:null", "there is no value", "set {columns} to the column with the text"
    EMPTY = "skipped:empty", "there is no text", "set {columns} to the column with the text"
    NOT_TEXT = "skipped:not_text", "the value is not a string", "set {columns} to the column with the text"
    LONE_SURROGATES = "skipped:lone_surrogates", "the text is not valid Unicode", "read it with errors='replace'"
    NOT_MESSAGES = (
        "skipped:not_messages",
        "a message needs a role and a content",
        "set {columns} to the column with the messages",
    )
    NO_TEXT = (
        "skipped:no_text",
        "no message of the roles to edit has text",
        "set {roles} to roles that the data has",
    )
    TEMPLATE = (
        "skipped:template",
        "the chat template rejects the messages or rewrites their text",
        "use a prior whose template fits them, or another chat template",
    )
    LOSSY = (
        "skipped:lossy",
        "the prior's tokenizer can't represent the text exactly",
        "use a prior with another tokenizer",
    )
    NONFINITE = (
        "skipped:nonfinite",
        "the prior gave no finite log-probability",
        "check its weights, or run it in float32",
    )
    PRIOR_FAILED = (
        "skipped:prior_failed",
        "the prior failed on this row, also when asked again",
        "see the reason in failed.jsonl, and run the same command with --retry-failed",
    )
    NOT_TOKEN_IDS = (
        "skipped:not_token_ids",
        "input_ids must be lists of integers",
        "tokenize the text first, or set {columns} to edit text",
    )
    UNKNOWN_TOKEN_ID = (
        "skipped:unknown_token_id",
        "the ids are not in the prior's vocabulary",
        "use a prior with the tokenizer that made them, or edit the text before tokenizing it",
    )
    TOKENIZER_MISMATCH = (
        "skipped:tokenizer_mismatch",
        "the prior's tokenizer would not have made these ids",
        "use a prior with the tokenizer that made them, or edit the text before tokenizing it",
    )
    LABELS_LENGTH = "skipped:labels_length", *OTHER_LENGTH
    ATTENTION_MASK_LENGTH = "skipped:attention_mask_length", *OTHER_LENGTH
    COMPLETION_MASK_LENGTH = "skipped:completion_mask_length", *OTHER_LENGTH
    ASSISTANT_MASKS_LENGTH = "skipped:assistant_masks_length", *OTHER_LENGTH
    SEQ_LENGTHS_LENGTH = (
        "skipped:seq_lengths_length",
        "seq_lengths do not add up to the number of tokens",
        "pack the rows again",
    )

    @property
    def is_skipped(self) -> bool:
        """Whether the row passed through without being fully read."""
        return self.startswith(SKIPPED)


def all_skipped(statuses: Mapping[str, int]) -> bool:
    """Whether there were any rows and all were skipped. statuses: number of rows by status."""
    return bool(statuses) and all(status.startswith(SKIPPED) for status in statuses)


def mostly_without_labels(statuses: Mapping[str, int]) -> bool:
    """Whether more than half of the rows have no token left in the loss."""
    return 2 * statuses.get(Status.NO_LABELS, 0) > sum(statuses.values())


def without_labels_in_words(statuses: Mapping[str, int], rows: str = "rows") -> str:
    """How many rows have no token left in the loss, with the remedy. rows: what they are called."""
    number, status = statuses.get(Status.NO_LABELS, 0), Status.NO_LABELS
    return f"{number:,} of the {sum(statuses.values()):,} {rows} so far have no token left in the loss: {status.remedy}"


@contextmanager
def told_afterwards() -> Iterator[None]:
    """Silence the warning that all rows were skipped: the caller reports it when the work is done."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ALL_SKIPPED, ToEditWarning)
        yield


def explain(statuses: Mapping[str, int], option: str = "{}=") -> str:
    """The most frequent statuses with their remedies: `skipped:null (3 rows): there is no value: set columns= to ...`.

    option: how the reader writes an option, such as `--{}`.
    """
    names = {name: option.format(name) for name in ("columns", "roles")}
    often = sorted(statuses.items(), key=lambda item: (-item[1], item[0]))[:MOST_SHOWN]
    return "; ".join(
        f"{status} ({count:,} {'row' if count == 1 else 'rows'}): "
        f"{Status(status).meaning}: {Status(status).remedy.format(**names)}"
        for status, count in often
    )
