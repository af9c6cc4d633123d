"""Open Assistant trees as conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RowError
from .formats import is_sequence
from .messages import OPENAI_ROLES, or_empty


def oasst_threads(tree: Mapping[str, Any]) -> list[list[dict[str, str]]]:
    """The conversations of an Open Assistant tree: one for each leaf, from the root down to it, in the tree's order.

        rows = ({"messages": thread} for tree in trees for thread in oasst_threads(tree))
        ds = Dataset.from_generator(lambda: rows)

    tree: a message with `text`, `role` (prompter or assistant) and `replies`, or a row that has it as `prompt`.
    Threads that share messages are edited separately, so a shared message may come out in two versions. Raises RowError
    for anything else, such as a message in a table that has a `parent_id` but no `replies`.
    """
    prompt = tree.get("prompt") if isinstance(tree, Mapping) else None
    root = prompt if isinstance(prompt, Mapping) else tree
    threads: list[list[dict[str, str]]] = []
    seen: dict[int, Any] = {}  # by id(); it holds the messages, so that no other object can get the same id
    waiting: list[tuple[Any, list[dict[str, str]]]] = [(root, [])]
    while waiting:
        node, before = waiting.pop()
        message, replies = _oasst_message(node, is_root=node is root)
        if id(node) in seen:
            raise RowError("not an Open Assistant tree: a message occurs in it twice, or replies to itself")
        seen[id(node)] = node
        thread = [*before, message]
        waiting += [(reply, thread) for reply in reversed(replies)]
        if not replies:
            threads.append(thread)
    return threads


def _oasst_message(node: Any, is_root: bool) -> tuple[dict[str, str], Sequence[Any]]:
    """A node of an Open Assistant tree as a message, with its replies. Raises RowError for anything else."""
    fields: Mapping[str, Any] = node if isinstance(node, Mapping) else {}
    text, role, replies = fields.get("text"), fields.get("role"), fields.get("replies")
    is_part = is_root and fields.get("parent_id") is not None and replies is None
    is_tree = not is_part and (replies is None or is_sequence(replies))
    if not is_tree or not isinstance(text, str) or not isinstance(role, str):
        has = ", ".join(map(str, fields)) or "none of them"
        raise RowError(f"not an Open Assistant tree: a message needs text, role and replies, but has {has}")
    return {"role": OPENAI_ROLES.get(role, role), "content": text}, or_empty(replies)
