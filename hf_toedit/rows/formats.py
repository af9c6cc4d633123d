"""Row formats, detected from column names: which columns are read as one text, and which of them may be edited."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import Any

IDS = ("input_ids",)
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")  # what templates are given of a row besides its messages


def is_sequence(value: Any) -> bool:
    """A list, a tuple, an array or a tensor; not a string, not a number."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0


@dataclasses.dataclass(frozen=True)
class Unit:
    """Columns that are read as one text, with the context in front.

    columns: what may be edited. is_chat: whether these must hold messages.
    optional: in SHAPES, the context columns that rows may lack.
    """

    context: tuple[str, ...]
    columns: tuple[str, ...]
    is_chat: bool = False
    optional: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.context, *self.columns)

    @property
    def separator(self) -> str:
        """What joins two columns: nothing where TRL puts nothing, else a newline."""
        return "" if self.context == ("prompt",) and {*self.columns} <= {"completion", *ALTERNATIVES} else "\n"


ALTERNATIVES = ("chosen", "rejected")  # answers to the same prompt: neither is read in front of the other
SYSTEM = ("system", "system_prompt")
QUESTIONS = ("prompt", "question", "instruction", "query", "input")


def _pair(question: str, answer: str) -> Unit:
    """A question and its answer. A system prompt, a context, and the input of an instruction are read too."""
    after = ("input", "context") if question == "instruction" else ("context",)
    return Unit((*SYSTEM, question, *after), (answer,), optional=frozenset({*SYSTEM, *after}))


# The row formats that are detected from column names; the first that fits is taken.
SHAPES = (
    Unit((), IDS),
    Unit((), ("messages",), is_chat=True),
    Unit((), ("conversations",), is_chat=True),
    Unit(("prompt",), ("completion",)),
    _pair("instruction", "output"),
    _pair("problem", "solution"),
    _pair("instruction", "response"),
    _pair("question", "answer"),
    Unit(("input",), ("cot", "target")),
    _pair("question", "response"),
    _pair("question", "solution"),
    _pair("query", "response"),
    _pair("prompt", "response"),
    _pair("inputs", "targets"),
    _pair("input", "output"),
    Unit((), ("text",)),
    Unit((), ("content",)),
)


def shape_of(columns: Container[str]) -> Unit | None:
    """How rows with these columns are read by default; None if their columns must be named (see `advice`)."""
    for shape in SHAPES:
        if all(name in columns or name in shape.optional for name in shape.names):
            if shape.columns == ("text",) and _is_of_a_tree(columns):
                return None
            return Unit(tuple(name for name in shape.context if name in columns), shape.columns, shape.is_chat)
    return None


def _is_of_a_tree(columns: Container[str]) -> bool:
    """Whether the rows are Open Assistant's: messages with their replies, or with the id of the message they answer."""
    return "text" in columns and "role" in columns and ("replies" in columns or "parent_id" in columns)


def advice(columns: Container[str]) -> str:
    """The call for rows of a known format that are not edited by default; an empty string for all others."""
    if ("message_tree_id" in columns and "text" not in columns) or (_is_of_a_tree(columns) and "replies" in columns):
        return (
            "Open Assistant trees: turn them into conversations, such as with "
            "Dataset.from_list([{'messages': thread} for tree in ds for thread in oasst_threads(tree)])"
        )
    if _is_of_a_tree(columns):
        return (
            "messages of Open Assistant trees without their conversations: make conversations from the "
            "dataset's .trees.jsonl file with oasst_threads(tree), or set columns='text' to edit each message by itself"
        )
    if not all(name in columns for name in ALTERNATIVES):
        return ""
    question = [name for name in QUESTIONS if name in columns][:1]
    context = [name for name in SYSTEM if name in columns] + question
    call = f"set columns={list(ALTERNATIVES)}, context={context or ['prompt']}"
    first = "" if question else "split their prompt off with ds.map(trl.extract_prompt), then "
    return f"chosen and rejected answers: {first}{call}"


def read_instead(columns: Container[str], edited: Sequence[str]) -> list[str]:
    """The columns that TRL reads where there are others too: DPO and rewards a pair of answers, SFT a `text`."""
    if all(name in columns for name in ALTERNATIVES):
        return list(ALTERNATIVES)
    is_read_first = edited[0] in ("input_ids", "messages", "conversations", "completion", "text")
    return ["text"] if "text" in columns and not is_read_first else []


def is_batch(rows: Mapping[str, Any], units: list[Unit]) -> bool:
    """Whether a plain dict holds a batch: every column is a list, that of ids or messages a list of lists, and none
    of what is edited or read a list of messages. Where all that is edited is empty, a dict of texts is a batch without
    rows, and one of what may be ids or messages a row; `map` gives no batches without rows.
    """
    if not all(is_sequence(values) for values in rows.values()):
        return False
    names = [name for unit in units for name in unit.names]
    first = {name: next((value for value in rows[name] if value is not None), None) for name in names}
    if any(isinstance(value, Mapping) for value in first.values()):
        return False
    nested = [unit for unit in units if unit.columns == IDS or unit.is_chat]
    if not any(len(rows[name]) for unit in units for name in unit.columns):
        texts = {shape.columns for shape in SHAPES if not shape.is_chat} - {("completion",)}
        return not nested and all(unit.columns in texts for unit in units)
    return all(first[name] is None or is_sequence(first[name]) for unit in nested for name in unit.columns)
