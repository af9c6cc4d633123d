"""Rows of text as tokens and labels, the way TRL's SFTTrainer prepares them by default.

Written after the sources of TRL 1.16; tests/test_original_targets.py compares it with SFTTrainer itself.
Shape suffixes: T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from ..editing.cells import TokenRow
from ..editing.config import ToEditConfig
from ..editing.spans import inside_spans, skip_status
from ..editing.tokenization import Tokenization
from ..errors import ConfigError, RowError
from ..statuses import Status
from ..types import BoolArray, IntArray
from .formats import IDS, Unit
from .messages import is_conversation
from .rendering import Rendered, Renderer
from .tokens import IGNORED, TokenColumns

PAIR = ("prompt", "completion")
MADE = ("input_ids", "labels")
ORIGINAL = "targets='original'"


class TrainingTokens:
    """Tokenizes rows: a text and a completion end with the end-of-text token, a conversation is what the chat template
    makes of it, and prompts have no labels.

    renderer: says what may be edited. eos_token: the end-of-text token, if there is one. setting: what asks for
        tokens, for messages.
    """

    def __init__(
        self, renderer: Renderer, tokenization: Tokenization, eos_token: str | None, setting: str = ORIGINAL
    ) -> None:
        self.renderer, self.tokenization, self.eos_token = renderer, tokenization, eos_token
        self.setting = setting

    def read(self, row: Mapping[str, Any], unit: Unit) -> TokenColumns:
        """A row's tokens, with its new columns; these are null if the row has no text."""
        rendered = self.renderer.render(row, unit)
        is_chat = unit.is_chat or any(is_conversation(row[name]) for name in unit.names)
        texts = self._conversation(row, unit) if is_chat else self._texts(row, unit)
        status = rendered.status or skip_status(rendered.text)
        if texts is None or skip_status(texts[1]) or (texts[0] and skip_status(texts[0])):
            nowhere = np.empty(0, dtype=bool)
            status = status or (Status.TEMPLATE if is_chat else Status.NULL)
            return TokenColumns([TokenRow(np.empty(0, dtype=np.int64), nowhere, nowhere, status)], dict.fromkeys(MADE))
        prompt, text = texts
        ids_T = self.tokenization.encode_ids(text, add_special_tokens=not is_chat)
        scope_T = self._inside(rendered) if is_chat and not status else np.ones(len(ids_T), dtype=bool)
        is_context_T = np.zeros(len(ids_T), dtype=bool)
        if prompt is not None:
            prompt_T = self.tokenization.encode_ids(prompt, add_special_tokens=not is_chat)
            is_context_T[: _num_common(prompt_T, ids_T)] = True
        labels_T = np.where(is_context_T, IGNORED, ids_T)
        cell = TokenRow(ids_T, np.ones(len(ids_T), dtype=bool), scope_T & ~is_context_T, status)
        return TokenColumns([cell], dict(zip(MADE, (ids_T.tolist(), labels_T.tolist()), strict=True)))

    def _texts(self, row: Mapping[str, Any], unit: Unit) -> tuple[str | None, str] | None:
        """The prompt, if there is one, and the whole text with the end-of-text token; None for anything but texts."""
        values = [row[name] for name in unit.names]
        if any(skip_status(value) not in (None, Status.EMPTY) for value in values):
            return None
        if self.eos_token is None:
            raise ConfigError(
                f"{self.setting} ends a text with the eos_token, as SFTTrainer does, and the prior's tokenizer has "
                "none: set tokenizer=, or tokenize the rows first"
            )
        end = "" if values[-1].endswith(self.eos_token) else self.eos_token
        return values[0] if len(values) > 1 else None, "".join([*values, end])

    def _conversation(self, row: Mapping[str, Any], unit: Unit) -> tuple[str | None, str] | None:
        """The same for messages; None where the template does not take them."""
        if not self.renderer.chat_template:
            raise ConfigError(
                f"{self.setting} needs a chat template to tokenize conversations as SFTTrainer does: set chat_template="
            )
        text = self.renderer.conversation(row, unit.names)
        prompt = None
        if len(unit.names) > 1:
            prompt = self.renderer.conversation(row, unit.names[:1], add_generation_prompt=True)
            text = None if prompt is None else text
        return None if text is None else (prompt, text)

    def _inside(self, rendered: Rendered) -> BoolArray:
        """Which tokens of a conversation lie inside the places that may be edited. Shape [T]."""
        [encoded] = self.tokenization.encode([rendered.text])
        return inside_spans(rendered.text, [(place.start, place.end) for place in rendered.places or ()], encoded)


def _num_common(one_T: IntArray, other_T: IntArray) -> int:
    """How many tokens two sequences have in common at the start."""
    length = min(len(one_T), len(other_T))
    is_same = one_T[:length] == other_T[:length]
    return length if is_same.all() else int(is_same.argmin())


def added_names(config: ToEditConfig, columns: Container[str]) -> list[str]:
    """The columns that an edit gives to rows with these columns."""
    return [name for name in MADE if name not in columns] if config.targets == "original" else []


def check_unit(units: list[Unit], columns: Mapping[str, Any], setting: str = ORIGINAL) -> None:
    """Raise RowError unless rows with these columns can get `input_ids` and `labels` from what is to be edited."""
    if all(unit.columns == IDS for unit in units):
        return
    names = [name for unit in units for name in unit.names]
    if len(units) > 1 or (len(names) > 1 and tuple(names) != PAIR):
        raise RowError(
            f"{setting} tokenizes rows as SFTTrainer does: a text, a conversation, or a prompt and its "
            f"completion, not {' and '.join(map(repr, names))}: name the columns so, or tokenize the rows first"
        )
    for name in MADE:
        if name in columns:
            raise RowError(
                f"column {name!r} already exists, and {setting} would overwrite it: remove it, or set "
                "columns='input_ids'"
            )
