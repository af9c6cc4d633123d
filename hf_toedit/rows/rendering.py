"""Rows as texts: what the prior reads of a conversation or a pair, and where that may be edited.

A row is rendered to one text. The strings that may be edited have known places in it; all else is context. The edits
of the text are written back to the strings they belong to.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..editing.cells import Text
from ..editing.editor import Edited
from ..editing.splice import Edit
from ..errors import ConfigError
from ..statuses import Status
from .formats import TEMPLATE_COLUMNS, Unit
from .messages import (
    OPENAI_ROLES,
    as_openai,
    as_plain,
    is_conversation,
    is_messages,
    or_empty,
    split_thought,
    strings_in,
)
from .paths import FieldPath, get_at, place_name, put_at


def write_back(
    row: Mapping[str, Any], places: Sequence[Place], edits: Sequence[Edit]
) -> tuple[Mapping[str, Any], list[Edit]]:
    """Make the edits of the rendered text in the row's own strings.

    Returns the new row and the edits with the name of their place (`output`, `messages[3].content`) and with `start`
    in characters of that string.
    """
    written = []
    for place in places:
        shift = place.offset - place.start
        kind = "text" if len(place.path) == 1 else "message"
        edits_here = [
            dataclasses.replace(edit, column=place_name(place.path), start=edit.start + shift, kind=kind)
            for edit in edits
            if place.start <= edit.start and edit.start + len(edit.old) <= place.end
        ]
        if edits_here:
            string, pieces, position = get_at(row, place.path), [], 0
            for edit in edits_here:
                pieces += [string[position : edit.start], edit.new]
                position = edit.start + len(edit.old)
            row = put_at(row, place.path, "".join([*pieces, string[position:]]))
            written += edits_here
    return row, written


# Some templates print the date. It is the default of Llama's templates, so that a row renders the same every day.
TEMPLATE_VARIABLES = {"date_string": "26 Jul 2024"}
DATE_CODES = {
    **{"%Y": "2024", "%y": "24", "%m": "07", "%-m": "7", "%B": "July", "%b": "Jul", "%h": "Jul", "%d": "26"},
    **{"%-d": "26", "%e": "26", "%j": "208", "%A": "Friday", "%a": "Fri", "%F": "2024-07-26", "%D": "07/26/24"},
    **{"%H": "00", "%-H": "0", "%I": "12", "%-I": "12", "%M": "00", "%S": "00", "%p": "AM", "%T": "00:00:00"},
}
_replaced = "".join(f" | replace('{code}', '{value}')" for code, value in DATE_CODES.items())
STRFTIME_NOW = f"{{% macro strftime_now(format) %}}{{{{ format{_replaced} }}}}{{% endmacro %}}\n"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a string of a row stands in the rendered text: text[start:end] is string[offset : offset + end - start].

    path: the string's, such as ("messages", 3, "content"). offset: the characters at its beginning that are not
        rendered or not edited, such as white space that a chat template strips.
    """

    path: FieldPath
    start: int
    end: int
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A row as a text. places: what may be edited, ascending; None for a plain text, all of it.

    column: of a plain text. status: why the row can't be rendered, or None.
    templated: a chat template made the text, and decided about a begin-of-text token.
    """

    text: Any
    places: list[Place] | None = None
    status: Status | None = None
    templated: bool = False
    column: str = "text"

    @property
    def cells(self) -> list[Text]:
        spans = None if self.places is None else [(place.start, place.end) for place in self.places]
        return [Text(self.text, spans, self.templated, self.column, self.status)]


class Renderer:
    """Renders rows.

    roles: the roles whose messages may be edited, by their OpenAI names or others.
    chat_template: in Jinja, as in transformers. Without one, the contents of a conversation are joined by blank lines.
    special_tokens: what templates call `bos_token`, `eos_token` and the like.
    """

    def __init__(self, roles: Sequence[str], chat_template: str | None, special_tokens: Mapping[str, str]) -> None:
        self.roles = frozenset(OPENAI_ROLES.get(role, role) for role in roles)
        self.chat_template, self.special_tokens = chat_template, special_tokens

    def render(self, row: Mapping[str, Any], unit: Unit) -> Rendered:
        """The text of the columns in a unit. Raises ConfigError for a chat template that is not valid Jinja."""
        if unit.is_chat or any(is_conversation(row[name]) for name in unit.names):
            return self._render_chat(row, unit)
        [column, *others] = unit.names
        return _render_pair(row, unit) if others else Rendered(row[column], column=column)

    def conversation(self, row: Mapping[str, Any], names: Sequence[str], **variables: Any) -> str | None:
        """What the chat template makes of some columns of messages; None if it does not take them."""
        if not all(row[name] is None or is_messages(row[name]) for name in names):
            return None
        return self._apply_template({name: row[name] for name in (*names, *TEMPLATE_COLUMNS) if name in row}, variables)

    def write(
        self, row: Mapping[str, Any], unit: Unit, rendered: Rendered, cells: Sequence[Edited], stable_only: bool
    ) -> tuple[dict[str, Any], list[Edited]]:
        """The columns of a row with its edited text written back, and the edits with their places in the row.

        cells: what became of `rendered.cells`. A template may strip space that an edit brought: that is drift, too.
        """
        [cell] = cells
        if cell.status != Status.EDITED:
            return {name: row[name] for name in unit.columns}, [cell]
        if rendered.places is None:
            return {rendered.column: cell.value}, [cell]
        new_row, edits = write_back(row, rendered.places, cell.edits)
        drifted = cell.drifted or self.render(new_row, unit).text != cell.value
        cell = dataclasses.replace(cell, edits=edits, drifted=drifted)
        if drifted and stable_only:
            stats = dataclasses.replace(cell.stats, num_changed=0)
            new_row, cell = row, Edited(rendered.text, Status.UNCHANGED, stats, key=cell.key)
        return {name: new_row[name] for name in unit.columns}, [cell]

    def _render_chat(self, row: Mapping[str, Any], unit: Unit) -> Rendered:
        values = {name: row[name] for name in unit.names}
        if all(values[name] is None for name in unit.columns):
            return Rendered(None, status=Status.NULL)
        if not all(value is None or is_messages(value) for value in values.values()):
            return Rendered(None, status=Status.NOT_MESSAGES)
        if not any(len(or_empty(values[name])) for name in unit.columns):
            return Rendered(None, status=Status.EMPTY)
        strings = [
            (path, string, path[0] in unit.columns and role in self.roles and bool(string.strip()))
            for path, role, string in strings_in(values)
        ]
        if not any(editable for _, _, editable in strings):
            return Rendered(None, status=Status.NO_TEXT)  # no message of these roles, or none with text
        if not self.chat_template:
            return _join(strings, "\n\n")
        values |= {name: row[name] for name in TEMPLATE_COLUMNS if name in row}
        return self._render_template(values, [(path, string) for path, string, editable in strings if editable])

    def _render_template(self, values: Mapping[str, Any], editable: Sequence[tuple[FieldPath, str]]) -> Rendered:
        """Find the editable strings in the rendering.

        Where that fails, find what follows their last `</think>`: many templates rewrite or remove what stands before.
        """
        text = self._apply_template(values)
        whole = [(path, "", string) for path, string in editable]
        split = [(path, *split_thought(string)) for path, string in editable]
        answers = [(path, thought, answer) for path, thought, answer in split if answer]
        for strings in [whole, answers] if answers != whole else [whole]:
            places = None if text is None else self._find_places(text, values, strings)
            if places:
                return Rendered(text, places, templated=True)
        return Rendered(None, status=Status.TEMPLATE)

    def _find_places(
        self, text: str, values: Mapping[str, Any], editable: Sequence[tuple[FieldPath, str, str]]
    ) -> list[Place] | None:
        """Render again with markers in place of the editable strings, and find these by what stands around the markers.

        What stands around them is the scaffold. The scaffold and the strings, as they are or stripped of white space,
        must make up the text to the last character; if they do not, the result is None. An example with one string:

            text      <|user|>Hi<|assistant|>Hello.<|end|>
            marked    <|user|>Hi<|assistant|>slot0slot0x<|end|>
            scaffold  ["<|user|>Hi<|assistant|>", "0", "<|end|>"]

        editable: for each string its path, the beginning that stays, and the rest, which may be edited.
        """
        # A word that occurs nowhere in the text, so that each marker is one of ours.
        word = next(word for i in itertools.count() if (word := f"slot{i}slot") not in text)
        marked_values: Any = values
        for k, (path, head, _) in enumerate(editable):
            marked_values = put_at(marked_values, path, f"{head}{word}{k}x")
        # The capturing group keeps the markers' numbers: scaffold, number, scaffold, number, ..., scaffold.
        scaffold = re.split(rf"{word}(\d+)x", self._apply_template(marked_values) or "")
        # A template may drop, repeat or reorder messages: then the numbers are not 0, 1, 2, ...
        if scaffold[1::2] != [str(k) for k in range(len(editable))] or not text.startswith(scaffold[0]):
            return None
        places, position = [], len(scaffold[0])
        for (path, head, string), after in zip(editable, scaffold[2::2], strict=True):
            forms = (string, string.strip(), string.lstrip(), string.rstrip())
            rendered = next((form for form in forms if text.startswith(form + after, position)), None)
            if rendered is None:
                return None
            places.append(Place(path, position, position + len(rendered), len(head) + string.index(rendered)))
            position += len(rendered + after)
        return places if position == len(text) else None

    def _apply_template(self, values: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> str | None:
        """The text of the messages, or None if the template does not take them.

        Raises ConfigError for a template that is not valid Jinja or does not end.
        """
        from jinja2 import TemplateError, TemplateSyntaxError

        from .templates import TemplateOverrunError, render_bounded

        columns = [messages for name, messages in values.items() if name not in TEMPLATE_COLUMNS]
        chat = [as_openai(message) for messages in columns for message in or_empty(messages)]
        try:
            variables: dict[str, Any] = {
                **TEMPLATE_VARIABLES,
                **self.special_tokens,
                **_row_variables(values),
                **(more or {}),
            }
            return render_bounded(f"{STRFTIME_NOW}{self.chat_template}", chat, variables)
        except SyntaxError as error:  # in the Python code that Jinja compiles the template to
            raise ConfigError(
                f"the chat template can't be compiled ({error.msg}): set another chat_template="
            ) from error
        except TemplateOverrunError as error:
            if values.get("chat_template_kwargs"):  # the row may be to blame, not the template
                return None
            raise ConfigError("the chat template loops or writes without end: set another chat_template=") from error
        except TemplateSyntaxError as error:
            raise ConfigError(
                f"the chat template is not valid Jinja: line {error.lineno - 1}: {error.message}"
            ) from error
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError):
            return None  # what a template raises for a message that it was not made for


def _row_variables(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row passes to its template, as in TRL: `tools`, a list or its JSON, and all `chat_template_kwargs`."""
    tools, options = (as_plain(row.get(name)) for name in TEMPLATE_COLUMNS)
    tools = json.loads(tools) if isinstance(tools, str) and tools else tools
    return {"tools": tools or None, **(options or {})}


def _render_pair(row: Mapping[str, Any], unit: Unit) -> Rendered:
    """The texts of the columns, joined; those without text are left out."""
    strings = []
    for name in unit.names:
        value = row[name]
        if isinstance(value, str) and value:
            strings.append(((name,), value, name in unit.columns))
        elif value is not None and not isinstance(value, str):
            return Rendered(None, status=Status.NOT_TEXT)
    if not any(editable for _, _, editable in strings):
        return Rendered(None, status=Status.NULL if row[unit.columns[0]] is None else Status.EMPTY)
    return _join(strings, unit.separator)


def _join(strings: Sequence[tuple[FieldPath, str, bool]], separator: str) -> Rendered:
    """strings: path, string, and whether it may be edited."""
    places, position = [], 0
    for path, string, editable in strings:
        if editable:
            places.append(Place(path, position, position + len(string)))
        position += len(string) + len(separator)
    return Rendered(separator.join(string for _, string, _ in strings), places)
