"""Rows as texts: what the prior reads of a conversation or a pair, where that may be edited, and the way back.

A row is rendered to one text. The strings that may be edited have known places in it; all else is context. `record`
writes the edits of the text back to the strings they belong to.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np

from .errors import ConfigError, RowError
from .tokenization import Encoded, byte_offsets
from .types import BoolArray

Span = tuple[int, int]
Path = tuple[str | int, ...]
OPENAI_ROLES = {"human": "user", "gpt": "assistant", "prompter": "user", "model": "assistant"}
PLACE_NAME = re.compile(r"(.+)\[(\d+)\]\.(content|value)(?:\[(\d+)\]\.text)?", re.DOTALL)
# Some templates print the date. It is the default in those of Llama, so that a row renders alike on every day.
TEMPLATE_VARIABLES = {"date_string": "26 Jul 2024"}
DATE_CODES = {
    **{"%Y": "2024", "%y": "24", "%m": "07", "%-m": "7", "%B": "July", "%b": "Jul", "%h": "Jul", "%d": "26"},
    **{"%-d": "26", "%e": "26", "%j": "208", "%A": "Friday", "%a": "Fri", "%F": "2024-07-26", "%D": "07/26/24"},
    **{"%H": "00", "%-H": "0", "%I": "12", "%-I": "12", "%M": "00", "%S": "00", "%p": "AM", "%T": "00:00:00"},
}
_replaced = "".join(f" | replace('{code}', '{value}')" for code, value in DATE_CODES.items())
STRFTIME_NOW = f"{{% macro strftime_now(format) %}}{{{{ format{_replaced} }}}}{{% endmacro %}}\n"
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")  # what templates are given of a row besides its messages


@dataclasses.dataclass(frozen=True)
class Unit:
    """Columns that are read as one text, the context in front.

    is_chat: they must hold messages. optional: of a shape, context that is read where it is there.
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
        """What stands between two columns: nothing where TRL puts nothing, else a newline."""
        return "" if self.context == ("prompt",) and {*self.columns} <= {"completion", *ALTERNATIVES} else "\n"


ALTERNATIVES = ("chosen", "rejected")  # answers to the same prompt: neither is read in front of the other
SYSTEM = ("system", "system_prompt")
QUESTIONS = ("prompt", "question", "instruction", "query", "input")


def _pair(question: str, answer: str) -> Unit:
    """A question and its answer. A system prompt and a context, and the input of an instruction, are read too."""
    behind = ("input", "context") if question == "instruction" else ("context",)
    return Unit((*SYSTEM, question, *behind), (answer,), optional=frozenset({*SYSTEM, *behind}))


# The shapes of rows that are known by their columns; the first that fits is taken.
SHAPES = (
    Unit((), ("input_ids",)),
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
    """How rows of these columns are read by default; None where they must be asked for (see `advice`)."""
    for shape in SHAPES:
        if all(name in columns or name in shape.optional for name in shape.names):
            if shape.columns == ("text",) and _is_of_a_tree(columns):
                return None
            return Unit(tuple(name for name in shape.context if name in columns), shape.columns, shape.is_chat)
    return None


def _is_of_a_tree(columns: Container[str]) -> bool:
    """Whether the rows are Open Assistant's: messages with their replies, or with the message that they reply to."""
    return "text" in columns and "role" in columns and ("replies" in columns or "parent_id" in columns)


def advice(columns: Container[str]) -> str:
    """The call that works on rows that are well known but are not edited by default, else an empty string."""
    if ("message_tree_id" in columns and "text" not in columns) or (_is_of_a_tree(columns) and "replies" in columns):
        return (
            "Open Assistant trees: make conversations of them, such as Dataset.from_list([{'messages': thread} "
            "for tree in ds for thread in oasst_threads(tree)])"
        )
    if _is_of_a_tree(columns):
        return (
            "messages of Open Assistant trees without their conversations: make these from the dataset's .trees.jsonl "
            "file with oasst_threads(tree), or set columns='text' to edit each message by itself"
        )
    if not all(name in columns for name in ALTERNATIVES):
        return ""
    question = [name for name in QUESTIONS if name in columns][:1]
    context = [name for name in SYSTEM if name in columns] + question
    call = f"set columns={list(ALTERNATIVES)}, context={context or ['prompt']}"
    first = "" if question else "split their prompt off with ds.map(trl.extract_prompt), then "
    return f"chosen and rejected answers: {first}{call}"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a string of a row stands in the rendered text: characters start to end are string[offset:][:end - start].

    path: of the string, such as ("messages", 3, "content"). offset: leading space that a chat template strips.
    """

    path: Path
    start: int
    end: int
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A row as a text. places: what may be edited, ascending; None for a plain text, all of it.

    reason: `skipped:<reason>` where the row can't be rendered, else empty.
    templated: a chat template made the text, and decided about a begin-of-text token.
    """

    text: Any
    places: list[Place] | None = None
    reason: str = ""
    templated: bool = False

    @property
    def spans(self) -> list[Span] | None:
        return None if self.places is None else [(place.start, place.end) for place in self.places]


class Renderer:
    """Renders rows.

    roles: the roles whose messages may be edited, by their OpenAI names.
    chat_template: Jinja, as in transformers. Without one, the contents of a conversation are joined by a blank line.
    special_tokens: what templates call `bos_token`, `eos_token` and the like.
    """

    def __init__(self, roles: Sequence[str], chat_template: str | None, special_tokens: Mapping[str, str]) -> None:
        self.roles = frozenset(OPENAI_ROLES.get(role, role) for role in roles)
        self.chat_template, self.special_tokens = chat_template, special_tokens

    def render(self, row: Mapping[str, Any], unit: Unit) -> Rendered:
        """The text of a row's unit. Raises ConfigError for a chat template that is not valid Jinja."""
        if unit.is_chat or any(_is_conversation(row[name]) for name in unit.names):
            return self._render_chat(row, unit)
        return Rendered(row[unit.columns[0]]) if len(unit.names) == 1 else _render_pair(row, unit)

    def _render_chat(self, row: Mapping[str, Any], unit: Unit) -> Rendered:
        values = {name: row[name] for name in unit.names}
        if all(values[name] is None for name in unit.columns):
            return Rendered(None, reason="skipped:null")
        if not all(value is None or _is_messages(value) for value in values.values()):
            return Rendered(None, reason="skipped:not_messages")
        if not any(len(_some(values[name])) for name in unit.columns):
            return Rendered(None, reason="skipped:empty")
        strings = [
            (path, string, path[0] in unit.columns and role in self.roles and bool(string.strip()))
            for path, role, string in _strings(values)
        ]
        if not any(editable for _, _, editable in strings):
            return Rendered(None, reason="skipped:no_text")  # no message of these roles, or none with text
        if not self.chat_template:
            return _join(strings, "\n\n")
        values |= {name: row[name] for name in TEMPLATE_COLUMNS if name in row}
        return self._render_template(values, [(path, string) for path, string, editable in strings if editable])

    def _render_template(self, values: Mapping[str, Any], editable: Sequence[tuple[Path, str]]) -> Rendered:
        """Find the strings in the rendering; where that fails, what follows their last `</think>`, which many templates
        lay out anew."""
        text = self._apply_template(values)
        whole = [(path, "", string) for path, string in editable]
        answers = [(path, *_split_thought(string)) for path, string in editable]
        for tried in [whole, [one for one in answers if one[2]]] if answers != whole else [whole]:
            places = None if text is None else self._find_places(text, values, tried)
            if places:
                return Rendered(text, places, templated=True)
        return Rendered(None, reason="skipped:template")

    def _find_places(
        self, text: str, values: Mapping[str, Any], editable: Sequence[tuple[Path, str, str]]
    ) -> list[Place] | None:
        """Render again with markers for the editable strings, and see that it agrees with the text; None if not.

        The text between the markers is the scaffold. Scaffold and strings, as they are or stripped of white space,
        must make up the real rendering to the last character.

        editable: path, the head of the string that stays, and the rest, which may be edited.
        """
        word = next(word for i in itertools.count() if (word := f"slot{i}slot") not in text)
        marked_values: Any = values
        for k, (path, head, _) in enumerate(editable):
            marked_values = put_at(marked_values, path, f"{head}{word}{k}x")
        scaffold = re.split(rf"{word}(\d+)x", self._apply_template(marked_values) or "")
        if scaffold[1::2] != [str(k) for k in range(len(editable))] or not text.startswith(scaffold[0]):
            return None
        places, position = [], len(scaffold[0])
        for (path, head, string), behind in zip(editable, scaffold[2::2], strict=True):
            forms = (string, string.strip(), string.lstrip(), string.rstrip())
            found = next((form for form in forms if text.startswith(form + behind, position)), None)
            if found is None:
                return None
            places.append(Place(path, position, position + len(found), len(head) + string.index(found)))
            position += len(found + behind)
        return places if position == len(text) else None

    def _apply_template(self, values: Mapping[str, Any]) -> str | None:
        """The text of the messages; None where the template refuses them. Raises ConfigError for one without end."""
        from jinja2 import TemplateError, TemplateSyntaxError

        from .template import TemplateOverrunError, render_bounded

        columns = [messages for name, messages in values.items() if name not in TEMPLATE_COLUMNS]
        chat = [_as_openai(message) for messages in columns for message in _some(messages)]
        try:
            variables: dict[str, Any] = {**TEMPLATE_VARIABLES, **self.special_tokens, **_row_variables(values)}
            return render_bounded(f"{STRFTIME_NOW}{self.chat_template}", chat, variables)
        except SyntaxError as error:  # Python's, of what Jinja makes of it
            raise ConfigError(
                f"the chat template can't be compiled ({error.msg}): set another chat_template="
            ) from error
        except TemplateOverrunError as error:
            if values.get("chat_template_kwargs"):  # it may be the row's doing
                return None
            raise ConfigError("the chat template loops or writes without end: set another chat_template=") from error
        except TemplateSyntaxError as error:
            raise ConfigError(
                f"the chat template is not valid Jinja: line {error.lineno - 1}: {error.message}"
            ) from error
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError):
            return None  # what a template does to a message it was not made for


def roles_in(row: Mapping[str, Any], unit: Unit) -> set[str]:
    """The roles of a row's messages that have text, by their OpenAI names; none where it has no messages."""
    values = {name: row[name] for name in unit.names if _is_messages(row[name])}
    return {role for _, role, _ in _strings(values)}


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def _some(messages: Any) -> Sequence[Any]:
    return () if messages is None else messages  # `or` does not know arrays


def _is_conversation(value: Any) -> bool:
    """A list that begins with a message."""
    return _is_list(value) and len(value) > 0 and _is_message(value[0])


def _is_messages(value: Any) -> bool:
    return _is_list(value) and all(_is_message(message) and _has_texts(message) for message in value)


def _is_message(message: Any) -> bool:
    if not isinstance(message, Mapping):
        return False
    role_key, text_key = _keys(message)
    content = message.get(text_key)
    return isinstance(message.get(role_key), str) and (content is None or isinstance(content, str) or _is_list(content))


def _has_texts(message: Mapping[str, Any]) -> bool:
    """Whether the parts of text in a message's content, if it has parts, are strings or null."""
    content: Any = message.get(_keys(message)[1])
    parts = [part for part in content if isinstance(part, Mapping)] if _is_list(content) else []
    return all(isinstance(part.get("text"), (str, NoneType)) for part in parts if part.get("type") == "text")


def _keys(message: Mapping[str, Any]) -> tuple[str, str]:
    """Where role and text of a message are: as OpenAI or as ShareGPT has it."""
    return ("from", "value") if message.get("role") is None else ("role", "content")


def _as_openai(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates expect it. Keys without a value are left out, as transformers does."""
    role_key, text_key = _keys(message)
    names = {role_key: "role", text_key: "content"}
    renamed = {names.get(key, key): _plain(value) for key, value in message.items() if value is not None}
    return {**renamed, "role": OPENAI_ROLES.get(renamed["role"], renamed["role"])}


def _plain(value: Any) -> Any:
    """A value with lists and numbers for the arrays and tensors in it."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return _plain(value.tolist()) if hasattr(value, "tolist") else value


def _row_variables(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives its template, as in TRL: `tools`, a list or its JSON, and all `chat_template_kwargs`."""
    tools, options = (_plain(row.get(name)) for name in TEMPLATE_COLUMNS)
    tools = json.loads(tools) if isinstance(tools, str) and tools else tools
    return {"tools": tools or None, **(options or {})}


def _split_thought(string: str) -> tuple[str, str]:
    """What was thought, up to the last `</think>` and the white space behind it, and the answer."""
    answer = re.split(r"</think>\s*", string)[-1]
    return string[: len(string) - len(answer)], answer


def _strings(values: Mapping[str, Any]) -> Iterator[tuple[Path, str, str]]:
    """Path, role and text of each text in messages, in order; empty ones are left out."""
    for column, messages in values.items():
        for i, message in enumerate(_some(messages)):
            role_key, text_key = _keys(message)
            role = OPENAI_ROLES.get(message[role_key], message[role_key])
            for path, text in _texts((column, i, text_key), message.get(text_key)):
                yield path, role, text


def _texts(path: Path, content: Any) -> Iterator[tuple[Path, str]]:
    """A content, or its parts of text."""
    if isinstance(content, str) and content:
        yield path, content
    elif _is_list(content):
        for j, part in enumerate(content):
            if isinstance(part, Mapping) and part.get("type") == "text" and part.get("text"):
                yield (*path, j, "text"), part["text"]


def _render_pair(row: Mapping[str, Any], unit: Unit) -> Rendered:
    """The columns that have text, one after the other."""
    strings = []
    for name in unit.names:
        value = row[name]
        if isinstance(value, str) and value:
            strings.append(((name,), value, name in unit.columns))
        elif value is not None and not isinstance(value, str):
            return Rendered(None, reason="skipped:not_text")
    if not any(editable for _, _, editable in strings):
        return Rendered(None, reason="skipped:null" if row[unit.columns[0]] is None else "skipped:empty")
    return _join(strings, unit.separator)


def _join(strings: Sequence[tuple[Path, str, bool]], separator: str) -> Rendered:
    places, position = [], 0
    for path, string, editable in strings:
        if editable:
            places.append(Place(path, position, position + len(string)))
        position += len(string) + len(separator)
    return Rendered(separator.join(string for _, string, _ in strings), places)


def inside_spans(text: str, spans: Sequence[Span], encoded: Encoded) -> BoolArray:
    """The tokens that lie wholly inside one of the character spans, which are ascending and apart. Shape [T]."""
    edges = byte_offsets(text)[np.array(spans, dtype=np.int64).reshape(-1, 2)]
    span_T = np.searchsorted(edges[:, 0], encoded.start_T, side="right") - 1
    end_T = np.append(edges[:, 1], -1)[span_T]  # -1, in front of the first span, reads the last entry
    inside_T: BoolArray = encoded.end_T <= end_T
    return inside_T


def skip_reason(text: Any) -> str:
    """Why a value can't be edited (`skipped:<reason>`), or an empty string."""
    if text is None:
        return "skipped:null"
    if not isinstance(text, str):
        return "skipped:not_text"
    if not text:
        return "skipped:empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "skipped:lone_surrogates"
    return ""


def place_name(path: Path) -> str:
    """A path as the `toedit` column has it: `output`, `messages[3].content`, `messages[3].content[0].text`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def find_path(name: str, columns: Container[str]) -> Path:
    """The inverse of `place_name`, in a row of these columns."""
    match = None if name in columns else PLACE_NAME.fullmatch(name)
    if match is None:
        return (name,)
    column, i, key, j = match.groups()
    return (column, int(i), key) if j is None else (column, int(i), key, int(j), "text")


def path_of(edit: Mapping[str, Any], columns: Container[str]) -> Path:
    """Where a row of these columns has the text or the ids of an edit. Edits of old say no kind: their name decides."""
    kind = edit.get("kind")
    if kind is None:
        return find_path(edit["column"], columns)
    return find_path(edit["column"], ()) if kind == "message" else (edit["column"],)


def get_at(row: Any, path: Path) -> Any:
    """The value at a path. Raises RowError where there is none."""
    value = row
    try:
        for key in path:
            value = value[key]
    except (LookupError, TypeError) as error:
        raise RowError(f"can't revert: the row has no {place_name(path)}: it changed after editing") from error
    return value


def put_at(row: Any, path: Path, value: Any) -> Any:
    """A copy of a row with another value at a path; what lies beside the path is shared, not copied."""
    if not path:
        return value
    inner = put_at(row[path[0]], path[1:], value)
    if isinstance(row, Mapping):
        return {**row, path[0]: inner}
    changed = list(row)
    changed[int(path[0])] = inner
    return tuple(changed) if isinstance(row, tuple) else changed


def oasst_threads(tree: Mapping[str, Any]) -> list[list[dict[str, str]]]:
    """The conversations of an Open Assistant tree: one for each leaf, from the root to it, in the tree's order.

        rows = ({"messages": thread} for tree in trees for thread in oasst_threads(tree))
        ds = Dataset.from_generator(lambda: rows)

    tree: a message with `text`, `role` (prompter or assistant) and `replies`, or a row that has it as `prompt`.
    Threads that share messages are edited separately, so that a shared message may come out in two versions.
    Raises RowError for anything else, such as a message of a table with a `parent_id` but without `replies`.
    """
    prompt = tree.get("prompt") if isinstance(tree, Mapping) else None
    root = prompt if isinstance(prompt, Mapping) else tree
    threads: list[list[dict[str, str]]] = []
    seen: dict[int, Any] = {}  # the messages themselves, so that no other can get the same id
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
    """A node of an Open Assistant tree as a message, and its replies. Raises RowError for anything else."""
    fields: Mapping[str, Any] = node if isinstance(node, Mapping) else {}
    text, role, replies = fields.get("text"), fields.get("role"), fields.get("replies")
    is_part = is_root and fields.get("parent_id") is not None and replies is None
    is_tree = not is_part and (replies is None or _is_list(replies))
    if not is_tree or not isinstance(text, str) or not isinstance(role, str):
        has = ", ".join(map(str, fields)) or "none of them"
        raise RowError(f"not an Open Assistant tree: a message needs text, role and replies, but has {has}")
    return {"role": OPENAI_ROLES.get(role, role), "content": text}, _some(replies)
