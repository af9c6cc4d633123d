"""Rows in any format as documents, and their scores.

Shape suffixes: T tokens of a row, E scored tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import numpy as np

from ..arguments import SYNONYMS, as_names, as_prior, check_type
from ..editing.cells import Text, TokenRow, encode
from ..editing.logprobs import score_cells
from ..editing.spans import skip_status
from ..editing.stats import check_column_name
from ..editing.tokenization import Tokenization
from ..errors import ConfigError, RowError, nearest
from ..report.edits import as_tokenization
from ..rows.formats import IDS, Unit
from ..rows.paths import get_at
from ..rows.rendering import Rendered, Renderer
from ..rows.tokens import TokenColumns, check_same_tokenizer, read_ids
from ..rows.units import columns_needed, units_of
from ..statuses import Status
from ..types import FloatArray, Prior, PriorDetails
from .containers import batches_of
from .documents import Document

Row = Mapping[str, Any]
Cells = Sequence[Text | TokenRow]


class ReadingOptions(TypedDict, total=False):
    """The options of `read_documents` and `measure` as keyword arguments, for code completion and type checkers."""

    prior: str | os.PathLike[str] | tuple[Any, Any] | Prior | None
    columns: str | Sequence[str] | None
    context: str | Sequence[str] | None
    roles: str | Sequence[str]
    chat_template: str | None
    tokenizer: Any
    stats_column: str


def read_documents(data: Any, **options: Unpack[ReadingOptions]) -> Iterator[Document]:
    """One Document for each row of a dataset, in order; see `measure` for what it takes."""
    known = ReadingOptions.__annotations__
    if unknown := next((name for name in options if name not in known), None):
        close = SYNONYMS.get(unknown, unknown)
        raise ConfigError(f"unknown keyword {unknown!r}{nearest(close, known)}")
    reader = Reader(**options)
    for rows in batches_of(data, reader.choose):
        yield from reader.read(rows)


class Reader:
    """Reads rows as documents, and scores them if there is a prior. The options are those of `measure`."""

    def __init__(
        self,
        prior: str | os.PathLike[str] | tuple[Any, Any] | Prior | None = None,
        *,
        columns: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        roles: str | Sequence[str] = ("assistant",),
        chat_template: str | None = None,
        tokenizer: Any = None,
        stats_column: str = "toedit",
    ) -> None:
        check_column_name(stats_column)
        check_type("chat_template", chat_template, str, "a Jinja template")
        self.columns = None if columns is None else as_names("columns", columns)
        self.context, roles = as_names("context", context or ()), as_names("roles", roles)
        if self.columns == [] or not roles:
            raise ConfigError("columns=[] or roles=[] reads nothing: name some, or leave them out")
        if self.context and not self.columns:
            raise ConfigError(f"context={self.context} needs columns=, such as columns='output', context='input'")
        self.stats_column = stats_column
        self.plain = Renderer(roles, None, {})
        self.scorer, self.tokenization = None, None if tokenizer is None else as_tokenization(tokenizer)
        if prior is not None:
            self.scorer = Scorer(as_prior(prior, "measure"), roles, chat_template, tokenizer)
            self.tokenization = self.scorer.tokenization
        self._units: dict[tuple[str, ...], list[Unit]] = {}

    def choose(self, names: Sequence[str]) -> tuple[list[Unit], list[str]]:
        """What is read of rows with these columns, and all columns that this needs."""
        key = tuple(names)
        if key not in self._units:
            self._units[key] = units_of(key, self.columns, self.context)
        needed = columns_needed(key, self._units[key])
        return self._units[key], [
            *needed,
            *(name for name in [self.stats_column] if name in key and name not in needed),
        ]

    def read(self, rows: Sequence[Row]) -> Iterator[Document]:
        """The documents of some rows, scored together."""
        units_of_rows = [self._units_of(row) for row in rows]
        texts = [self._text(row, units) for row, units in zip(rows, units_of_rows, strict=True)]
        if self.scorer is None:
            scores: list[Status | FloatArray | None] = [None] * len(rows)
        else:
            scores = self.scorer.score(rows, units_of_rows)
        for row, text, score in zip(rows, texts, scores, strict=True):
            if score is Status.TOKENIZER_MISMATCH:  # what the ids spell is not their text
                text = score
            status = text if isinstance(text, Status) else None
            scores_status = status or (score if isinstance(score, Status) else None)
            yield Document(
                text="" if isinstance(text, Status) else text,
                status=status,
                logprob_E=score if scores_status is None and not isinstance(score, Status) else None,
                scores_status=scores_status,
                edit=row.get(self.stats_column),
                row=row,
            )

    def _units_of(self, row: Row) -> list[Unit]:
        """What is read of a row. A row that lacks the columns, after others that had them, has nothing to read."""
        try:
            return self.choose(list(row))[0]
        except RowError:
            if not self._units:
                raise
            return []

    def _text(self, row: Row, units: Sequence[Unit]) -> str | Status | None:
        """The texts of a row, one to a line; None for ids without a tokenizer; or why there is none."""
        texts: list[str] = []
        for unit in units:
            if unit.columns == IDS and self.tokenization is None:
                return None
            of_unit = self._texts_of_ids(read_ids(row)) if unit.columns == IDS else self._texts_of(row, unit)
            if isinstance(of_unit, Status):
                return of_unit
            texts += of_unit
        return "\n".join(texts) if units else Status.NULL

    def _texts_of(self, row: Row, unit: Unit) -> list[str] | Status:
        rendered = self.plain.render(row, unit)
        status = rendered.status or skip_status(rendered.text)
        if status is not None:
            return status
        return [rendered.text] if rendered.places is None else [get_at(row, place.path) for place in rendered.places]

    def _texts_of_ids(self, columns: TokenColumns) -> list[str] | Status:
        """The text of the ids in scope of each document in a row, without special tokens."""
        assert self.tokenization is not None
        texts = []
        for document in columns.cells:
            if document.status is not None:
                return document.status
            ids_T = document.input_ids_T[document.attention_T & document.scope_T]
            if not self.tokenization.knows(ids_T):
                return Status.UNKNOWN_TOKEN_ID
            ids_T = ids_T[~self.tokenization.lookup(self.tokenization.is_special_V, ids_T)]
            texts.append(self.tokenization.join(ids_T).decode("utf-8", "replace"))
        return texts


class Scorer:
    """Scores rows as ToEditTransform does with `stats="full"`: all scorable tokens, in windows."""

    def __init__(self, prior: Prior, roles: Sequence[str], chat_template: str | None, tokenizer: Any = None) -> None:
        if tokenizer is not None:
            check_same_tokenizer(tokenizer, prior)
        self.check_ids = tokenizer is None
        self.prior, self.tokenization = prior, Tokenization(prior.tokenizer)
        details = PriorDetails(prior)
        template = details.chat_template if chat_template is None else chat_template
        self.renderer = Renderer(roles, template, details.special_tokens)

    def score(self, rows: Sequence[Row], units_of_rows: Sequence[Sequence[Unit]]) -> list[Status | FloatArray | None]:
        """The log-probabilities of each row, or why it has none."""
        cells_of_rows = [
            [cell for unit in units for cell in self._read(row, unit).cells]
            for row, units in zip(rows, units_of_rows, strict=True)
        ]
        scores = iter(self._score_cells([cell for cells in cells_of_rows for cell in cells]))
        return [_joined([next(scores) for _ in cells]) for cells in cells_of_rows]

    def _read(self, row: Row, unit: Unit) -> Rendered | TokenColumns:
        return read_ids(row) if unit.columns == IDS else self.renderer.render(row, unit)

    def _score_cells(self, sources: Cells) -> list[Status | FloatArray]:
        cells = encode(sources, self.tokenization, (), self.check_ids)
        return [found.status or found.logprob_E for found in score_cells(self.prior, self.tokenization, cells)]


def _joined(scores: Sequence[Status | FloatArray]) -> Status | FloatArray:
    """The scores of the texts in a row, one after the other, or the status of the first that has none."""
    statuses = [score for score in scores if isinstance(score, Status)]
    if statuses or not scores:
        return statuses[0] if statuses else Status.NULL
    return np.concatenate([score for score in scores if not isinstance(score, Status)])
