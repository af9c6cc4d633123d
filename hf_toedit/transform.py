"""`ds.map(ToEditTransform(prior))`: one row in, one row out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, get_args

import numpy as np

from .config import ToEditConfig
from .editor import EditedIds, Editor, StatsMode, TokenRow, skip_reason
from .errors import ConfigError, PriorError, RowError, nearest
from .splice import Edit, revert_ids, revert_text
from .stats import TokenStats
from .tokenization import Tokenization
from .types import IntArray, Prior

VERSION = 1  # raise it when the same config and prior would edit otherwise: caches then start anew
DEFAULT_COLUMNS = ("input_ids", "text", "content")
SCOPE_COLUMNS = ("completion_mask", "assistant_masks")


class ToEditTransform:
    """Token-level editing (arXiv 2412.14689) as a function for `map` and `with_transform`.

        ds.map(ToEditTransform("Qwen/Qwen2.5-0.5B"), batched=True)

    prior: a Hub id, a folder, "demo", or a Prior object.
    config: a ToEditConfig; or give its fields as keywords.
    columns: what to edit: text columns, or `input_ids`. Default: the first there is of input_ids, text, content.
        Pre-tokenised rows are edited in place; tokens outside of `attention_mask`, with label -100, or outside of
        `completion_mask` or `assistant_masks` are context. `labels` follow where they equalled the old id.
    stats: "sampled" (only positions that may change are asked of the prior: a uniform sample) or "full" (all).
    stats_column: name of the column with status, statistics and edits; None for no such column.
    tokenizer: the tokenizer that made `input_ids`, to be compared with the prior's. Without it, rows that the prior's
        tokenizer would not have made are skipped; heavily edited rows can look like that.

    Rows that can't be edited pass through with a `skipped:<reason>` status. The pickle, and so the cache fingerprint,
    holds config, prior and revision, not the model. Raises ConfigError, PriorError, and RowError for a missing column.
    """

    def __init__(
        self,
        prior: str | os.PathLike[str] | Prior,
        config: ToEditConfig | None = None,
        *,
        columns: str | Sequence[str] | None = None,
        stats: StatsMode = "sampled",
        stats_column: str | None = "toedit",
        tokenizer: Any = None,
        **config_fields: Any,
    ) -> None:
        if isinstance(prior, (str, os.PathLike)):
            from .transformers_prior import TransformersPrior

            prior = TransformersPrior(prior)
        if stats not in get_args(StatsMode):
            raise ConfigError(f"stats={stats!r} is unknown{nearest(str(stats), get_args(StatsMode))}")
        base = (config or ToEditConfig()).to_dict()
        self.prior: Prior = prior
        self.config = ToEditConfig.from_dict({**base, **config_fields})
        self.columns = [columns] if isinstance(columns, str) else None if columns is None else list(columns)
        self.stats: StatsMode = stats
        self.stats_column = stats_column
        self.unigram_counts_V: IntArray | None = None
        self.version = VERSION
        self.same_tokenizer = tokenizer is not None
        if tokenizer is not None:
            check_same_tokenizer(tokenizer, prior)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "editor"}

    @cached_property
    def editor(self) -> Editor:
        """The engine; loads the prior's tokenizer now and its model when a row needs it."""
        return Editor(
            self.prior,
            self.config,
            self.stats,
            unigram_counts_V=self.unigram_counts_V,
            check_ids=not self.same_tokenizer,
        )

    def fit(self, dataset: Any) -> ToEditTransform:
        """Count the tokens of a corpus: `strategy="random"` draws from them. Returns the transform itself.

        dataset: a Dataset, a DatasetDict, an IterableDataset, or any iterable of rows.
        """
        tables = Tokenization(self.prior.tokenizer)
        counts_V = np.zeros(len(tables.bytes_of), dtype=np.int64)
        for row in self._rows(dataset):
            for column in self._columns(row):
                value = row[column]
                if column == "input_ids":
                    ids = _ids(value)
                else:
                    ids = _ids(None) if skip_reason(value) else tables.encode_ids(value)
                inside = ids[(ids >= 0) & (ids < len(counts_V))]
                counts_V += np.bincount(inside, minlength=len(counts_V))
        self.unigram_counts_V = counts_V
        self.__dict__.pop("editor", None)
        return self

    def _rows(self, dataset: Any) -> Iterator[Mapping[str, Any]]:
        """The rows of a dataset or of all its splits, with the columns to edit alone where it knows its columns."""
        if isinstance(dataset, Mapping):
            for split in dataset.values():
                yield from self._rows(split)
        elif getattr(dataset, "column_names", None):
            yield from dataset.select_columns(self._columns(dict.fromkeys(dataset.column_names)))
        else:
            yield from dataset

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Edit one row or one batch of rows (a dict of lists); returns the same rows with the edited columns."""
        columns = self._columns(rows)
        if self.stats_column in rows:
            raise RowError(
                f"column {self.stats_column!r} is there already and would be lost: set stats_column= to another name, "
                "such as 'toedit_1' for a second generation"
            )
        lazy = type(rows).__name__  # LazyRow and LazyBatch of datasets keep the columns that are not returned
        batched = lazy == "LazyBatch" or (lazy != "LazyRow" and _is_batch(rows, columns))
        batch = {name: rows[name] if batched else [rows[name]] for name in self._needed(rows, columns)}
        edited = self._edit_batch(batch, columns)
        if not batched:
            edited = {name: values[0] for name, values in edited.items()}
        if lazy == "LazyRow" and self.stats_column is not None:
            edited[self.stats_column] = _typed([edited[self.stats_column]])
        return edited if lazy in ("LazyRow", "LazyBatch") else {**rows, **edited}

    def _columns(self, rows: Mapping[str, Any]) -> list[str]:
        """The columns to edit in these rows."""
        names = list(rows)
        wanted = self.columns or [name for name in DEFAULT_COLUMNS if name in names][:1]
        missing = [name for name in wanted if name not in names]
        if missing or not wanted:
            what = f"no column {missing[0]!r}{nearest(missing[0], names)}" if missing else "no text column"
            raise RowError(f"{what} (columns: {', '.join(map(repr, names))}): set columns=")
        return wanted

    def _needed(self, rows: Mapping[str, Any], columns: list[str]) -> list[str]:
        masks = ("attention_mask", "labels", *SCOPE_COLUMNS) if "input_ids" in columns else ()
        return [*columns, *(name for name in masks if name in rows)]

    def _edit_batch(self, batch: Mapping[str, Any], columns: list[str]) -> dict[str, Any]:
        num_rows = len(batch[columns[0]])
        changed: dict[str, Any] = {}
        per_column: list[list[_Cell]] = []
        for column in columns:
            if column == "input_ids":
                values, cells = self._edit_ids(batch)
            else:
                texts = self.editor.edit_texts(list(batch[column]), column)
                values = {column: [text.text for text in texts]}
                cells = [_Cell(text.status, text.stats, text.edits, text.drifted) for text in texts]
            changed.update(values)
            per_column.append(cells)
        if self.stats_column is not None:
            structs = [_struct([cells[i] for cells in per_column]) for i in range(num_rows)]
            changed[self.stats_column] = _StructColumn(structs)
        return changed

    def _edit_ids(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], list[_Cell]]:
        """Edit `input_ids` in place, and `labels` where they equalled the old ids."""
        ids = [_ids(value) for value in batch["input_ids"]]
        reasons, rows = [], []
        for i, row_ids in enumerate(ids):
            reason, row = _token_row({name: values[i] for name, values in batch.items()}, row_ids)
            reasons.append(reason)
            rows.append(row)
        todo = [i for i, reason in enumerate(reasons) if not reason]
        results = dict(zip(todo, self.editor.edit_ids([rows[i] for i in todo]), strict=True))
        new_ids, new_labels, cells = list(batch["input_ids"]), list(batch.get("labels", ids)), []
        for i, reason in enumerate(reasons):
            result = results.get(i, EditedIds(np.empty(0, dtype=np.int64), reason))
            edits: list[Edit] = []
            if result.status == "edited":
                new_ids[i], changes = _replace("input_ids", ids[i], ids[i], result.input_ids_T)
                edits += changes
                if "labels" in batch and batch["labels"][i] is not None:
                    new_labels[i], changes = _replace("labels", _ids(batch["labels"][i]), ids[i], result.input_ids_T)
                    edits += changes
            cells.append(_Cell(result.status, result.stats, edits, False))
        return {"input_ids": new_ids, **({"labels": new_labels} if "labels" in batch else {})}, cells


@dataclasses.dataclass(frozen=True)
class _Cell:
    """What happened to one column of one row."""

    status: str
    stats: TokenStats
    edits: list[Edit]
    drifted: bool


class _StructColumn(list[dict[str, Any]]):
    """A column of `toedit` structs that knows its Arrow type, also where no row of a batch has an edit."""

    def __arrow_array__(self, type: Any = None) -> Any:
        return _typed(self)


def _typed(structs: list[dict[str, Any]]) -> Any:
    """The Arrow array of `toedit` structs."""
    import pyarrow as pa

    counts = [(name, pa.int64()) for name in _count_names()]
    edit = pa.struct([("column", pa.string()), ("start", pa.int64()), ("old", pa.string()), ("new", pa.string())])
    fields = [
        ("status", pa.string()),
        *counts,
        ("logprob_sum", pa.float64()),
        ("histogram", pa.list_(pa.int64())),
        ("drifted", pa.bool_()),
        ("edits", pa.list_(edit)),
    ]
    return pa.array(list(structs), pa.struct(fields))


def _count_names() -> list[str]:
    return [field.name for field in dataclasses.fields(TokenStats) if field.name.startswith("num_")]


def _struct(cells: list[_Cell]) -> dict[str, Any]:
    """The `toedit` struct of a row: its columns' statistics added up, its columns' edits one after the other."""
    statuses = [cell.status for cell in cells]
    skipped = [status for status in statuses if status.startswith("skipped")]
    stats = sum((cell.stats for cell in cells), start=TokenStats())
    return {
        "status": "edited" if "edited" in statuses else skipped[0] if skipped else "unchanged",
        **{name: getattr(stats, name) for name in _count_names()},
        "logprob_sum": stats.logprob_sum,
        "histogram": list(stats.histogram),
        "drifted": any(cell.drifted for cell in cells),
        "edits": [dataclasses.asdict(edit) for cell in cells for edit in cell.edits],
    }


def _is_batch(rows: Mapping[str, Any], columns: list[str]) -> bool:
    """Whether a plain dict holds a batch: every column is a list, and that of `input_ids` a list of lists."""
    if not all(_is_list(values) for values in rows.values()):
        return False
    if columns[0] != "input_ids":
        return True
    first = next((value for value in rows["input_ids"] if value is not None), None)
    return _is_list(first) or (first is None and len(rows["input_ids"]) > 0)


def _is_list(value: Any) -> bool:
    """A list, a tuple, an array or a tensor; not a string, not a number."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0


def _ids(value: Any, kinds: str = "iu") -> IntArray:
    """Ids as an array; None, text and the like (dtypes that are none of `kinds`) as an empty one."""
    try:
        ids = np.asarray([] if value is None else value)
    except (ValueError, TypeError):
        return np.empty(0, dtype=np.int64)
    return ids.astype(np.int64) if ids.ndim == 1 and ids.dtype.kind in kinds else np.empty(0, dtype=np.int64)


def _token_row(row: Mapping[str, Any], ids: IntArray) -> tuple[str, TokenRow]:
    """A row's ids with its masks, or why it must be skipped."""
    attention_T = np.ones(len(ids), dtype=bool)
    scope_T = np.ones(len(ids), dtype=bool)
    reason = ""
    if not len(ids):
        value = row["input_ids"]
        reason = (
            "skipped:null"
            if value is None
            else "skipped:empty"
            if _is_list(value) and not len(value)
            else "skipped:not_token_ids"
        )
    for name, values in row.items():
        if name == "input_ids" or values is None or reason:
            continue
        mask = _ids(values, "iub")
        if len(mask) != len(ids):
            reason = f"skipped:{name}_length"
        elif name == "attention_mask":
            attention_T = mask != 0
        elif name == "labels":
            scope_T &= mask != -100
        elif name in SCOPE_COLUMNS:
            scope_T &= mask != 0
    return reason, TokenRow(ids, attention_T, scope_T)


def _replace(column: str, values: IntArray, old_T: IntArray, new_T: IntArray) -> tuple[list[int], list[Edit]]:
    """Give `values` the new ids where they equalled the old ones and these changed."""
    places = np.flatnonzero((old_T != new_T) & (values == old_T))
    replaced = values.copy()
    replaced[places] = new_T[places]
    edits = [Edit(column, t, str(int(old_T[t])), str(int(new_T[t]))) for t in places.tolist()]
    return replaced.tolist(), edits


def check_same_tokenizer(tokenizer: Any, prior: Prior) -> None:
    """Raise PriorError unless a tokenizer (of transformers or tokenizers) has the prior's vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    theirs, ours = (one.get_vocab(with_added_tokens=True) for one in (backend, prior.tokenizer))
    if theirs != ours:
        different = next(token for token in {**theirs, **ours} if theirs.get(token) != ours.get(token))
        raise PriorError(
            f"the prior's tokenizer is not the one of input_ids (they differ at token {different!r}): "
            "use a prior with the same tokenizer, or edit the text column before tokenising"
        )


def revert(row: Mapping[str, Any], stats_column: str = "toedit") -> dict[str, Any]:
    """The row before its edits, without the `toedit` column. Raises RowError if it changed after editing."""
    if stats_column not in row:
        raise RowError(f"can't revert: no column {stats_column!r} (columns: {', '.join(map(repr, row))})")
    original = {name: value for name, value in row.items() if name != stats_column}
    edits = row[stats_column]["edits"]
    for column in dict.fromkeys(edit["column"] for edit in edits):
        own = [edit for edit in edits if edit["column"] == column]
        undo: Any = revert_ids if column in ("input_ids", "labels") else revert_text
        original[column] = undo(original[column], own)
    return original
