"""Chat messages: what counts as one, its role, and its texts. Both OpenAI's format and ShareGPT's are read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any

from .formats import Unit, is_sequence
from .paths import FieldPath

OPENAI_ROLES = {"human": "user", "gpt": "assistant", "prompter": "user", "model": "assistant"}


def roles_in(row: Mapping[str, Any], unit: Unit) -> set[str]:
    """The roles that have text in a row's messages, by their OpenAI names."""
    values = {name: row[name] for name in unit.names if is_messages(row[name])}
    return {role for _, role, _ in strings_in(values)}


def or_empty(messages: Any) -> Sequence[Any]:
    return () if messages is None else messages  # `or` does not know arrays


def is_conversation(value: Any) -> bool:
    """A list that begins with a message."""
    return is_sequence(value) and len(value) > 0 and _is_message(value[0])


def is_messages(value: Any) -> bool:
    return is_sequence(value) and all(_is_message(message) and _has_texts(message) for message in value)


def _is_message(message: Any) -> bool:
    if not isinstance(message, Mapping):
        return False
    role_key, text_key = keys_of(message)
    content = message.get(text_key)
    has_content = isinstance(content, (str, NoneType)) or is_sequence(content)
    return isinstance(message.get(role_key), str) and has_content


def _has_texts(message: Mapping[str, Any]) -> bool:
    """Whether each text part of a message's content, if it has parts, holds a string or null."""
    content: Any = message.get(keys_of(message)[1])
    parts = [part for part in content if isinstance(part, Mapping)] if is_sequence(content) else []
    return all(isinstance(part.get("text"), (str, NoneType)) for part in parts if part.get("type") == "text")


def keys_of(message: Mapping[str, Any]) -> tuple[str, str]:
    """The keys of a message's role and text: OpenAI's or ShareGPT's."""
    return ("from", "value") if message.get("role") is None else ("role", "content")


def as_openai(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates expect it. Keys without a value are left out, as in transformers."""
    role_key, text_key = keys_of(message)
    names = {role_key: "role", text_key: "content"}
    renamed = {names.get(key, key): as_plain(value) for key, value in message.items() if value is not None}
    return {**renamed, "role": OPENAI_ROLES.get(renamed["role"], renamed["role"])}


def as_plain(value: Any) -> Any:
    """A value with lists and numbers in place of arrays and tensors."""
    if isinstance(value, Mapping):
        return {key: as_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(inner) for inner in value]
    return as_plain(value.tolist()) if hasattr(value, "tolist") else value


def split_thought(string: str) -> tuple[str, str]:
    """A model's thought, up to the last `</think>` and the white space after it, and its answer."""
    answer = re.split(r"</think>\s*", string)[-1]
    return string[: len(string) - len(answer)], answer


def strings_in(values: Mapping[str, Any]) -> Iterator[tuple[FieldPath, str, str]]:
    """The path, role and text of each text in columns of messages, in order. Empty texts are left out."""
    for column, messages in values.items():
        for i, message in enumerate(or_empty(messages)):
            role_key, text_key = keys_of(message)
            role = OPENAI_ROLES.get(message[role_key], message[role_key])
            for path, text in _texts((column, i, text_key), message.get(text_key)):
                yield path, role, text


def _texts(path: FieldPath, content: Any) -> Iterator[tuple[FieldPath, str]]:
    """The text of a message's content, or of its text parts."""
    if isinstance(content, str) and content:
        yield path, content
    elif is_sequence(content):
        for j, part in enumerate(content):
            if isinstance(part, Mapping) and part.get("type") == "text" and part.get("text"):
                yield (*path, j, "text"), part["text"]
