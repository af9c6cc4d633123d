"""`ds.map(ToEditTransform(prior))`: one row in, one row out."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack, get_args

import numpy as np

from .arguments import as_config, as_names, as_prior, check_rows, check_type
from .display import as_call
from .editing.config import ConfigFields, ToEditConfig
from .editing.editor import EditedIds, EditedText, Editor, StatsMode
from .editing.spans import inside_spans, skip_reason
from .editing.splice import Edit
from .editing.stats import UNKNOWN, DatasetStats, summarize
from .editing.tokenization import Tokenization
from .errors import ConfigError, RowError, ToEditWarning, nearest
from .files.sources import as_dict, new_folder
from .rows.column import Cell, StructColumn, row_status, to_struct, typed
from .rows.formats import ALTERNATIVES, SHAPES, TEMPLATE_COLUMNS, Unit, advice, shape_of
from .rows.messages import roles_in
from .rows.provenance import fingerprint, prior_record, versions
from .rows.rendering import Rendered, Renderer, write_back
from .rows.tokens import (
    IDS,
    MASKS,
    as_ids,
    check_same_tokenizer,
    is_sequence,
    packed_status,
    replace_ids,
    token_row,
    unpacked,
)
from .statuses import ALL_SKIPPED, Status, all_skipped, explain
from .types import IntArray, Prior

VERSION = 2  # raise it when the same config and prior would edit otherwise: caches then start anew


OF_THIS_PROCESS = ("editor", "renderer", "fingerprint", "_seen", "stale_is_known")  # what the pickle leaves out


MOST_WATCHED = 10  # rows that come one by one and are all skipped


MOST_NAMED = 6


class ToEditTransform:
    """Token-level editing (arXiv 2412.14689) as a function for `map` and `with_transform`.

        ds.map(ToEditTransform("Qwen/Qwen2.5-0.5B"), batched=True)

    prior: a Hub id, a folder, "demo", a (model, tokenizer) pair in memory, or a Prior object.
    config: a ToEditConfig or a dict of its fields; or give the fields as keywords.
    columns: what to edit: columns of texts or conversations, or `input_ids`, each by itself. Default: the first of
        these that the rows have

        - `input_ids`, edited in place; tokens outside `attention_mask`, with label -100, or outside
          `completion_mask` or `assistant_masks` are context; `labels` follow where they equalled the old id; in
          packed rows (with `seq_lengths`) each document is edited by itself
        - `messages` or `conversations`
        - a question, which is context, and its answer, which is edited: `prompt` + `completion`; `instruction` +
          `output`; `problem` + `solution`; `instruction` + `response`; `question` + `answer`; `input` + `cot` +
          `target`; `question` + `response`; `question` + `solution`; `query` + `response`; `prompt` + `response`;
          `inputs` + `targets`; `input` + `output`. Text in `system`, `system_prompt`, `context`,
          and the `input` of an `instruction` is context, too, except with `prompt` + `completion` and `input` + `cot` +
          `target`
        - `text` or `content`
    context: columns that the prior reads in front of `columns` and that are not edited. All are joined by newlines
        (by nothing where TRL puts nothing: between `prompt` and `completion`, `chosen` or `rejected`) and scored
        together, except that `chosen` and `rejected` are scored separately.
    roles: the roles to edit in conversations, by their OpenAI names (ShareGPT's gpt and Gemma's model are assistant,
        ShareGPT's human is user).
    stats: "sampled" (only positions that may change are asked of the prior: a uniform sample) or "full" (all).
    stats_column: name of the column with status, statistics and edits; None to leave it out.
    tokenizer: the tokenizer that made `input_ids`, to be compared with the prior's. Without it, rows that the prior's
        tokenizer would not have made are skipped; heavily edited rows can look like that.
    chat_template: how conversations are rendered; default the prior's own. Where it has none, or for "", their contents
        are joined by blank lines. Where a template changes the contents, only what follows the last `</think>` is
        edited, or the row is skipped. It is given a row's `tools` and `chat_template_kwargs`, as in TRL, and the same
        date every day.

    Rows that can't be edited pass through with a `skipped:<reason>` status; if all of the first rows are skipped, a
    ToEditWarning says why, once per process. Another says that training may read other columns than are edited. The
    pickle, and so the cache fingerprint, holds config, prior and revision, not the model. Raises ConfigError,
    PriorError, and RowError for a missing column.
    """

    def __init__(
        self,
        prior: str | os.PathLike[str] | tuple[Any, Any] | Prior,
        config: ToEditConfig | Mapping[str, Any] | None = None,
        *,
        columns: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        roles: str | Sequence[str] = ("assistant",),
        stats: StatsMode = "sampled",
        stats_column: str | None = "toedit",
        tokenizer: Any = None,
        chat_template: str | None = None,
        **config_fields: Unpack[ConfigFields],
    ) -> None:
        self.config = as_config(config, config_fields, "ToEditTransform")
        self.prior = as_prior(prior, "ToEditTransform")
        if stats not in get_args(StatsMode):
            raise ConfigError(f"stats={stats!r} is unknown{nearest(str(stats), get_args(StatsMode))}")
        check_type("stats_column", stats_column, str, "the name of a new column, or None")
        check_type("chat_template", chat_template, str, "a Jinja template")
        self.columns = None if columns is None else as_names("columns", columns)
        self.context, self.roles = as_names("context", context or ()), as_names("roles", roles)
        self.chat_template = chat_template
        if self.columns == []:
            raise ConfigError("columns=[] edits nothing: name columns, or leave columns= out")
        if self.context and (not self.columns or {*IDS, *self.context} & set(self.columns)):
            raise ConfigError(
                f"context={self.context} needs text columns to edit, and must be other columns: "
                "set columns=, such as columns='output', context='input'"
            )
        if not self.roles:
            raise ConfigError("roles=[] edits nothing: name roles, such as 'assistant'")
        self.stats: StatsMode = stats
        self.stats_column = stats_column
        self.unigram_counts_V: IntArray | None = None
        self.version = VERSION
        self.same_tokenizer = tokenizer is not None
        if tokenizer is not None:
            check_same_tokenizer(tokenizer, self.prior)

    def __repr__(self) -> str:
        return as_call(self, config=None, **self.config.changed_fields())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in OF_THIS_PROCESS}

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

    @cached_property
    def stale_is_known(self) -> bool:
        """Whether a column that goes stale was warned of, in this process."""
        return False

    @cached_property
    def renderer(self) -> Renderer:
        """What makes texts of rows."""
        template = self.chat_template
        if template is None:
            template = getattr(self.prior, "chat_template", None)
        return Renderer(self.roles, template, getattr(self.prior, "special_tokens", {}))

    @cached_property
    def fingerprint(self) -> str | None:
        """16 hex characters that say which edit this is; in each row's `toedit`. The same in every process.

        A digest of `provenance()` without the prior's name, the name of the `toedit` column, versions, devices and
        batch sizes. None for a prior without a revision: nothing would tell it from another one.
        """
        return fingerprint(self._record())

    def provenance(self) -> dict[str, Any]:
        """All that is needed to repeat the edit, JSON-ready: its fingerprint, config, prior, columns, versions.

        `revision` and `fingerprint` are None for a prior that has no revision, such as a model in memory.
        """
        return {"fingerprint": self.fingerprint, **self._record(), "versions": versions()}

    def _record(self) -> dict[str, Any]:
        corpus = None
        if self.config.strategy == "random" and self.unigram_counts_V is not None:
            corpus = hashlib.blake2b(self.unigram_counts_V.tobytes(), digest_size=8).hexdigest()
        return {
            "transform_version": self.version,
            "config": self.config.to_dict(),
            **prior_record(self.prior),
            "columns": self.columns,
            "context": self.context,
            "roles": self.roles,
            "chat_template": self.chat_template,
            "same_tokenizer": self.same_tokenizer,
            "corpus_digest": corpus,
            "stats": self.stats,
            "stats_column": self.stats_column,
        }

    def save(self, dataset: Any, folder: str | os.PathLike[str]) -> DatasetStats:
        """Write what this transform edited into a new folder, as `hf-toedit edit` does, and return its statistics.

            edited = ds.map(transform, batched=True)
            transform.save(edited, "edited")  # load_dataset("edited") gives it back

        The folder gets `data/{split}-*.parquet`, `stats.json`, `histogram.png` (where matplotlib is installed, the
        extra `plot`), and `provenance()` as `toedit.json`.

        dataset: a Dataset or a DatasetDict, with its `toedit` column. Splits without rows, which `load_dataset` can't
            read back, are left out with a warning.

        Raises RowError for rows that another transform edited, or that lack the column, or if there are none;
        SourceError if the folder
        exists or can't be written.
        """
        from datasets import Dataset, DatasetDict

        from .report.files import write_edited

        if not isinstance(dataset, (Dataset, DatasetDict)):
            raise RowError(
                f"save takes a Dataset or a DatasetDict, not {type(dataset).__name__}: collect the rows first"
            )
        if self.stats_column is None:
            raise RowError("with stats_column=None rows don't say which edit made them: leave it out, and edit again")
        if not isinstance(folder, (str, os.PathLike)):
            raise ConfigError(f"the folder to save to must be a path, not {type(folder).__name__}")
        stats, own = summarize(dataset, self.stats_column), self.fingerprint or UNKNOWN
        if others := stats.fingerprints.keys() - {own}:
            raise RowError(
                f"another transform edited these rows (fingerprint {min(others)}; this one has {own}): "
                "save them with the one that did"
            )
        splits = as_dict(dataset)
        full = DatasetDict({name: rows for name, rows in splits.items() if len(rows)})
        if not full:
            raise RowError("there are no rows to save")
        if left_out := ", ".join(repr(str(name)) for name in splits if name not in full):
            warnings.warn(f"splits without rows are left out: {left_out}", ToEditWarning, stacklevel=2)
        with new_folder(Path(folder)) as work:
            write_edited(work, full, stats, self.provenance())
        return stats

    @cached_property
    def _seen(self) -> Counter[str] | None:
        """The statuses of the rows so far, as long as all were skipped and nothing was said; then None."""
        return Counter()

    def _watch(self, statuses: Sequence[str], batch: Mapping[str, Any], units: list[Unit]) -> None:
        """Warn, once in a process, if the first batch, or the first rows that come one by one, are all skipped."""
        if self._seen is None or not statuses:
            return
        self._seen.update(statuses)
        if not all_skipped(self._seen):
            self._seen = None
        elif len(statuses) > 1 or self._seen.total() >= MOST_WATCHED:
            message = f"{ALL_SKIPPED}: {explain(self._seen)}"
            if Status.NO_TEXT in self._seen:
                message += self._roles_there(batch, units)
            self._seen = None
            warnings.warn(message, ToEditWarning, stacklevel=4)

    def _roles_there(self, batch: Mapping[str, Any], units: list[Unit]) -> str:
        """The roles of a batch that is all skipped, and the nearest to one that was asked for."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        found = sorted({role[:20] for row in rows for unit in units for role in roles_in(row, unit)})
        if not found:
            return ""
        close = (nearest(role, found).partition("; known")[0] for role in self.roles)
        return f" ({', '.join(map(repr, found[:MOST_NAMED]))}{next(filter(None, close), '')})"

    def fit(self, dataset: Any) -> ToEditTransform:
        """Count the tokens of a corpus: `strategy="random"` draws from them. Returns the transform itself.

        dataset: a Dataset, a DatasetDict, an IterableDataset, or any iterable of rows.

        Raises RowError for anything else. A corpus without a token that may be edited is warned of.
        """
        tables = Tokenization(self.prior.tokenizer)
        counts_V = np.zeros(len(tables.bytes_of), dtype=np.int64)
        for row in self._rows(dataset):
            for unit in self._units(row):
                ids = as_ids(row["input_ids"]) if unit.columns == IDS else self._editable_ids(row, unit, tables)
                inside = ids[(ids >= 0) & (ids < len(counts_V))]
                counts_V += np.bincount(inside, minlength=len(counts_V))
        if not counts_V.any():
            message = "fit found no token that may be edited, so that strategy='random' changes nothing: "
            warnings.warn(f"{message}give it the dataset that is to be edited", ToEditWarning, stacklevel=2)
        self.unigram_counts_V = counts_V
        for name in ("editor", "fingerprint"):
            self.__dict__.pop(name, None)
        return self

    def _editable_ids(self, row: Mapping[str, Any], unit: Unit, tables: Tokenization) -> IntArray:
        """The tokens of a row's text that lie where it may be edited."""
        rendered = self.renderer.render(row, unit)
        if rendered.reason or skip_reason(rendered.text):
            return as_ids(None)
        if rendered.spans is None:
            return tables.encode_ids(rendered.text)
        [encoded] = tables.encode([rendered.text])
        return encoded.input_ids_T[inside_spans(rendered.text, rendered.spans, encoded)]

    def _rows(self, dataset: Any) -> Iterator[Mapping[str, Any]]:
        """The rows of a dataset or of all its splits, with the columns to edit alone where it knows its columns."""
        if isinstance(dataset, Mapping):
            for split in dataset.values():
                yield from self._rows(split)
            return
        if getattr(dataset, "column_names", None):
            columns = dict.fromkeys(dataset.column_names)
            dataset = dataset.select_columns(self._needed(columns, self._units(columns)))
        for row in dataset if isinstance(dataset, Iterable) and not isinstance(dataset, str) else [dataset]:
            if not isinstance(row, Mapping):
                raise RowError(
                    f"fit takes a dataset, a dict of its splits, or rows as dicts, not {type(row).__name__}: "
                    "transform.fit(ds.with_format(None))"
                )
            yield row

    def __call__(self, rows: Mapping[str, Any], *more: Any, **options: Any) -> dict[str, Any]:
        """Edit one row or one batch of rows (a dict of lists); returns the same rows with the edited columns.

        Raises RowError for what `map` may hand over besides: bare values, tables, indices, ranks, keywords.
        """
        check_rows(rows, more, options)
        units = self._units(rows)
        if self.stats_column in rows:
            raise RowError(
                f"column {self.stats_column!r} already exists and would be overwritten: set stats_column= to another "
                "name, such as 'toedit_1' for a second generation"
            )
        lazy = type(rows).__name__  # LazyRow and LazyBatch of datasets keep the columns that are not returned
        self._warn_of_a_stale_column(rows, units)
        batched = lazy == "LazyBatch" or (lazy != "LazyRow" and _is_batch(rows, units))
        batch = {name: rows[name] if batched else [rows[name]] for name in self._needed(rows, units)}
        edited = self._edit_batch(batch, units)
        if not batched:
            edited = {name: values[0] for name, values in edited.items()}
        if lazy == "LazyRow" and self.stats_column is not None:
            edited[self.stats_column] = typed([edited[self.stats_column]])
        return edited if lazy in ("LazyRow", "LazyBatch") else {**rows, **edited}

    def _units(self, rows: Mapping[str, Any]) -> list[Unit]:
        """What to edit in these rows."""
        names = list(rows)
        if not self.columns:
            unit = shape_of(names)
            units = [unit] if unit else []
        elif self.context and set(ALTERNATIVES) <= set(self.columns):
            units = [Unit(tuple(self.context), (name,)) for name in self.columns]
        elif self.context:
            units = [Unit(tuple(self.context), tuple(self.columns))]
        else:
            follow = MASKS if "input_ids" in self.columns else ()  # labels are rewritten with the ids
            units = [Unit((), (name,)) for name in self.columns if name not in follow]
        if not units and (call := advice(names)):
            raise RowError(call)
        missing = [name for unit in units for name in unit.names if name not in names]
        if missing or not units:
            what = f"no column {missing[0]!r}{nearest(missing[0], names)}" if missing else "no text column"
            fix = "context=" if missing and missing[0] in self.context else "columns="
            raise RowError(f"{what} (columns: {', '.join(map(repr, names))}): set {fix}")
        return units

    def _warn_of_a_stale_column(self, rows: Mapping[str, Any], units: list[Unit]) -> None:
        """Say once that training may read another column than the one that is edited, which an edit does not reach."""
        if self.config.strategy == "none" or self.stale_is_known:
            return
        texts = shape_of([name for name in rows if name != "input_ids"])
        edited = list(dict.fromkeys(name for unit in units for name in unit.columns))
        beside = _read_instead(rows, edited) if self.columns is None else []
        if "input_ids" in rows and texts is not None and {*edited} & {"input_ids", *texts.columns}:
            message = (
                f"the rows have both {texts.columns[-1]!r} and 'input_ids', and editing one does not change the other: "
                "remove the one that training does not read, such as with "
                f"ds.remove_columns({list(texts.columns) if IDS[0] in edited else ['input_ids']})"
            )
        elif beside:
            names = (" and ".join(map(repr, columns)) for columns in (edited, beside))
            message = "{} {} edited, but not {}".format(next(names), "is" if len(edited) == 1 else "are", next(names))
            message += f": if that is what training reads, set columns={beside}, else remove it"
        else:
            return
        self.stale_is_known = True
        warnings.warn(message, ToEditWarning, stacklevel=3)

    def _needed(self, rows: Mapping[str, Any], units: list[Unit]) -> list[str]:
        names = list(dict.fromkeys(name for unit in units for name in unit.names))
        masks = MASKS if "input_ids" in names else ()
        return [*names, *(name for name in (*masks, *TEMPLATE_COLUMNS) if name in rows and name not in names)]

    def _edit_batch(self, batch: Mapping[str, Any], units: list[Unit]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        per_unit: list[list[list[Cell]]] = []
        for unit in units:
            values, cells = self._edit_ids(batch) if unit.columns == IDS else self._edit_texts(batch, unit)
            changed.update(values)
            per_unit.append(cells)
        rows = [[cell for cells in of_units for cell in cells] for of_units in zip(*per_unit, strict=True)]
        self._watch([row_status(cells) for cells in rows], batch, units)
        if self.stats_column is not None:
            originals = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
            structs = [to_struct(cells, row, self.fingerprint) for cells, row in zip(rows, originals, strict=True)]
            changed[self.stats_column] = StructColumn(structs)
        return changed

    def _edit_texts(self, batch: Mapping[str, Any], unit: Unit) -> tuple[dict[str, Any], list[list[Cell]]]:
        """Edit the texts, pairs or conversations in the columns of a unit. A cell for each row."""
        names = dict.fromkeys([*unit.names, *(name for name in TEMPLATE_COLUMNS if name in batch)])
        rows = [dict(zip(names, values, strict=True)) for values in zip(*map(batch.get, names), strict=True)]
        rendered = [self.renderer.render(row, unit) for row in rows]
        todo = [one for one in rendered if not one.reason]
        texts, spans = [one.text for one in todo], [one.spans for one in todo]
        templated = [one.templated for one in todo]
        results = iter(self.editor.edit_texts(texts, unit.columns[0], spans, templated))
        cells = []
        for i, one in enumerate(rendered):
            result = EditedText(None, one.reason) if one.reason else next(results)
            if result.status == Status.EDITED:
                rows[i], result = self._write_back(rows[i], unit, one, result)
            cells.append([Cell(result.status, result.stats, result.edits, result.drifted, result.key)])
        return {name: [row[name] for row in rows] for name in unit.columns}, cells

    def _write_back(
        self, row: dict[str, Any], unit: Unit, rendered: Rendered, result: EditedText
    ) -> tuple[dict[str, Any], EditedText]:
        """Put an edited text into its row. A template may strip space that an edit brought: that is drift, too."""
        if rendered.places is None:
            return {unit.columns[0]: result.text}, result
        new_row, edits = write_back(row, rendered.places, result.edits)
        drifted = result.drifted or self.renderer.render(new_row, unit).text != result.text
        if drifted and self.config.stable_only:
            stats = dataclasses.replace(result.stats, num_changed=0)
            return row, EditedText(None, Status.UNCHANGED, stats=stats, key=result.key)
        return new_row, dataclasses.replace(result, edits=edits, drifted=drifted)

    def _edit_ids(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], list[list[Cell]]]:
        """Edit `input_ids` in place, and `labels` where they equalled the old ids. A cell for each document of a row:
        it is documents that repeat, and that have draws of their own.
        """
        ids = [as_ids(value) for value in batch["input_ids"]]
        reasons, rows = [], []
        for i, row_ids in enumerate(ids):
            reason, row = token_row({name: values[i] for name, values in batch.items()}, row_ids)
            reasons.append(reason)
            rows.append(row)
        lengths = batch.get("seq_lengths", [None] * len(ids))
        packed = {i: unpacked(rows[i], lengths[i]) for i, reason in enumerate(reasons) if not reason}
        edited = iter(self.editor.edit_ids([document for documents in packed.values() for document in documents]))
        results = {i: [next(edited) for _ in documents] for i, documents in packed.items()}
        new_ids, new_labels, cells = list(batch["input_ids"]), list(batch.get("labels", ids)), []
        for i, reason in enumerate(reasons):
            documents = results.get(i, [EditedIds(np.empty(0, dtype=np.int64), reason or Status.UNCHANGED)])
            status, edits = packed_status(documents), list[Edit]()
            if status == Status.EDITED:
                ids_T = np.concatenate([document.input_ids_T for document in documents])
                new_ids[i], edits = replace_ids("input_ids", ids[i], ids[i], ids_T)
                if "labels" in batch and batch["labels"][i] is not None:
                    new_labels[i], changes = replace_ids("labels", as_ids(batch["labels"][i]), ids[i], ids_T)
                    edits += changes
            per_document = [Cell(status, document.stats, [], False, document.key) for document in documents]
            cells.append([dataclasses.replace(per_document[0], edits=edits), *per_document[1:]])
        return {"input_ids": new_ids, **({"labels": new_labels} if "labels" in batch else {})}, cells


def _read_instead(columns: Container[str], edited: Sequence[str]) -> list[str]:
    """The columns that TRL reads where there are others too: DPO and rewards a pair of answers, SFT a `text`."""
    if all(name in columns for name in ALTERNATIVES):
        return list(ALTERNATIVES)
    is_read_first = edited[0] in ("input_ids", "messages", "conversations", "completion", "text")
    return ["text"] if "text" in columns and not is_read_first else []


def _is_batch(rows: Mapping[str, Any], units: list[Unit]) -> bool:
    """Whether a plain dict holds a batch: every column is a list, that of ids or messages a list of lists, and none
    of what is edited or read a list of messages. Where all that is edited is empty, a dict of texts is a batch without
    rows, and one of what may be ids or messages a row; `map` gives no batches without rows.
    """
    if not all(is_sequence(values) for values in rows.values()):
        return False
    first = {name: next((one for one in rows[name] if one is not None), None) for unit in units for name in unit.names}
    if any(isinstance(value, Mapping) for value in first.values()):
        return False
    nested = [unit for unit in units if unit.columns == IDS or unit.is_chat]
    if not any(len(rows[name]) for unit in units for name in unit.columns):
        texts = {shape.columns for shape in SHAPES if not shape.is_chat} - {("completion",)}
        return not nested and all(unit.columns in texts for unit in units)
    return all(first[name] is None or is_sequence(first[name]) for unit in nested for name in unit.columns)
