"""`ds.map(ToEditTransform(prior))`: one row in, one row out."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pickle import PicklingError
from typing import TYPE_CHECKING, Any, Unpack, get_args, overload

import numpy as np

from .arguments import as_config, as_names, as_path, as_prior, as_splits, check_rows, check_type
from .display import as_call
from .editing.config import ConfigFields, ToEditConfig
from .editing.editor import Edited, Editor, StatsMode
from .editing.once import computed_once
from .editing.spans import inside_spans, skip_status
from .editing.stats import DatasetStats
from .editing.tokenization import Tokenization
from .errors import ConfigError, RowError, ToEditWarning, any_of, nearest, one_clear_line
from .priors.pretrained import check_count
from .rows.calls import columns_in, with_changes
from .rows.column import ids_column, row_status, struct_column, to_struct
from .rows.formats import IDS, Unit, read_instead, shape_of
from .rows.messages import roles_in
from .rows.provenance import fingerprint, prior_identity, prior_record, versions
from .rows.rendering import Rendered, Renderer
from .rows.tokenized import TrainingTokens, check_unit
from .rows.tokens import TokenColumns, as_ids, check_same_tokenizer, read_ids, write_ids
from .rows.units import columns_needed, units_of
from .statuses import ALL_SKIPPED, Status, all_skipped, explain
from .types import IntArray, Prior, PriorDetails

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from pyarrow import Table

    from .hub.records import Edits
    from .pipeline_step import ToEditStep

VERSION = 2  # raise it when the same config and prior would edit differently: this invalidates caches
OF_THIS_PROCESS = ("editor", "renderer", "tokens", "fingerprint", "_seen", "stale_is_known")  # left out of the pickle
MOST_WATCHED = 10  # skipped rows, passed one at a time, before the warning
MOST_NAMED = 6


class ToEditTransform:
    """Token-level editing (arXiv 2412.14689) as a function for `map` and `with_transform`.

        ds.map(ToEditTransform("Qwen/Qwen2.5-0.5B"), batched=True)

    prior: a Hub id, a folder, "demo", a (model, tokenizer) pair in memory, or a Prior object.
    config: a ToEditConfig or a dict of its fields; or pass the fields as keywords.
    columns: the columns to edit: texts, conversations or `input_ids`, each edited separately. Default: the first of
        these that the rows have

        - `input_ids`, edited in place; tokens outside `attention_mask`, with label -100, or outside
          `completion_mask` or `assistant_masks` are context; `labels` are updated where they equalled the old id; in
          packed rows (with `seq_lengths`) each document is edited separately
        - `messages` or `conversations`
        - a question, which is context, and its answer, which is edited: `prompt` + `completion`; `instruction` +
          `output`; `problem` + `solution`; `instruction` + `response`; `question` + `answer`; `input` + `cot` +
          `target`; `question` + `response`; `question` + `solution`; `query` + `response`; `prompt` + `response`;
          `inputs` + `targets`; `input` + `output`. Text in `system`, `system_prompt`, `context`,
          and the `input` of an `instruction` is also context, except with `prompt` + `completion` and `input` + `cot` +
          `target`
        - `text` or `content`
    context: columns that the prior reads before `columns` but that are not edited. All are joined with newlines (or
        directly, as in TRL, between `prompt` and `completion`, `chosen` or `rejected`) and scored together, except that
        `chosen` and `rejected` are scored separately.
    roles: the roles to edit in conversations, by their OpenAI names (ShareGPT's gpt and Gemma's model are assistant,
        ShareGPT's human is user).
    stats: "sampled" (the prior scores only positions that could change, a uniform sample) or "full" (all positions).
    stats_column: name of the column for status, statistics and edits; None to leave it out.
    tokenizer: the tokenizer that made `input_ids`, to compare with the prior's. Without it, rows that the prior's
        tokenizer would not have produced are skipped; heavily edited rows can look like that.
    chat_template: the template that renders conversations; the prior's own by default. If the prior has none, or for
        "", message contents are joined with blank lines. If a template changes the contents, only the text after the
        last `</think>` is edited, or the row is skipped. The template receives a row's `tools` and
        `chat_template_kwargs`, as in TRL, and the same date every day.

    With targets="original", rows get edited `input_ids` beside `labels` of their original tokens. Texts, `prompt` +
    `completion` and conversations stay and are tokenized as SFTTrainer does by default (by the prior's tokenizer, with
    the `eos_token` of `tokenizer`); existing `labels` stay; rows of ids without any get theirs, -100 for context.

    Rows that can't be edited pass through with a `skipped:<reason>` status; if all of the first rows are skipped, a
    ToEditWarning says why, once per process. Another warns that training may read columns other than the edited ones.
    The pickle, and so the cache fingerprint, contains the config, prior and revision, not the model. Raises
    ConfigError, PriorError, and RowError for a missing column.
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
        self.eos_token = getattr(tokenizer, "eos_token", None) if self.config.targets == "original" else None
        if tokenizer is not None:
            check_same_tokenizer(tokenizer, self.prior)

    def __repr__(self) -> str:
        return as_call(self, config=None, **self.config.changed_fields())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in OF_THIS_PROCESS}

    @computed_once
    def editor(self) -> Editor:
        """The editing engine. Loads the prior's tokenizer immediately, and its model when a row needs it."""
        return Editor(
            self.prior,
            self.config,
            self.stats,
            unigram_counts_V=self.unigram_counts_V,
            check_ids=not self.same_tokenizer,
        )

    @computed_once
    def stale_is_known(self) -> bool:
        """Whether this process has already warned about a column that goes stale."""
        return False

    @computed_once
    def renderer(self) -> Renderer:
        """Renders rows as text."""
        details = PriorDetails(self.prior)
        template = details.chat_template if self.chat_template is None else self.chat_template
        return Renderer(self.roles, template, details.special_tokens)

    @computed_once
    def tokens(self) -> TrainingTokens:
        """Tokenizes rows of text whose labels stay original."""
        eos_token = self.eos_token or PriorDetails(self.prior).special_tokens.get("eos_token")
        return TrainingTokens(self.renderer, Tokenization(self.prior.tokenizer), eos_token)

    @computed_once
    def fingerprint(self) -> str | None:
        """16 hex characters that identify this edit, also stored in each row's `toedit`. The same in every process.

        A digest of `provenance()` without the prior's name, its tokenizer, the name of the `toedit` column, versions,
        devices and batch sizes. None if the prior has no revision, since nothing would distinguish it from another
        prior.
        """
        return fingerprint(self._record())

    def provenance(self) -> dict[str, Any]:
        """Everything needed to repeat the edit, JSON-ready: its fingerprint, config, prior, columns and versions.

        `revision` and `fingerprint` are None if the prior has no revision, as with a model in memory.
        """
        return {
            "fingerprint": self.fingerprint,
            **self._record(),
            **prior_identity(self.prior),
            "versions": versions(),
        }

    def _record(self) -> dict[str, Any]:
        corpus = None
        if self.config.needs_corpus and self.unigram_counts_V is not None:
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
            **({} if self.eos_token is None else {"eos_token": self.eos_token}),
            "stats": self.stats,
            "stats_column": self.stats_column,
        }

    def save(
        self,
        dataset: Dataset | DatasetDict,
        folder: str | os.PathLike[str],
        *,
        earlier: Edits = (),
    ) -> DatasetStats:
        """Save a dataset that this transform edited to a new folder, as `hf-toedit edit` does; return its statistics.

            edited = ds.map(transform, batched=True)
            transform.save(edited, "edited")  # load it with load_dataset("edited")

        The folder will contain `data/{split}-*.parquet`, `stats.json`, `histogram.png` (if matplotlib, the extra
        `plot`, is installed), `provenance()` as `toedit.json`, and a dataset card as `README.md`.

        dataset: a Dataset or a DatasetDict, with its `toedit` column. Splits without rows, which `load_dataset` can't
            read back, are left out with a warning.
        earlier: if the rows were edited before by other transforms, those transforms or their records, oldest first.

        Raises RowError if another transform edited the rows, if they lack the column, or if there are none; SourceError
        if the folder exists or can't be written.
        """
        from .hub.folder import save_edited

        return save_edited(as_splits(dataset, "save"), as_path(folder, "the folder to save to"), self, earlier)

    def to_datatrove(self, *, batch_size: int = 1000) -> ToEditStep:
        """A step for a datatrove pipeline that edits the text of each `Document` and keeps their order.

            step = transform.to_datatrove()
            pipeline = [ParquetReader("texts"), step, ParquetWriter("edited", expand_metadata=True, schema=step.schema)]

        `metadata` receives the `toedit` struct; if `columns` or `context` name more than `text`, that is read there.
        datatrove's statistics count documents by status, and tokens. Processes load the prior once for all tasks.

        batch_size: how many documents are edited together.

        datatrove does not promise what `hf-toedit edit` does: its readers drop documents without text,
        HuggingFaceDatasetReader does not keep the order across several tasks, ParquetWriter without a schema fails if
        its first document has no edits, and an interrupted task starts again.

        Raises ConfigError if datatrove is not installed, or if the prior can't be pickled.
        """
        check_count("batch_size", batch_size)
        if self.config.targets == "original":
            raise ConfigError("targets='original' keeps labels, and datatrove's documents have no labels: use map")
        fix = "pip install 'hf-toedit[slurm]'"
        with one_clear_line(ConfigError, "to_datatrove needs datatrove", fix, catches=any_of(ImportError)):
            from .pipeline_step import ToEditStep
        what = "datatrove copies its pipeline for each task, but the prior can't be pickled"
        with one_clear_line(ConfigError, what, "give one by name", catches=any_of(TypeError, PicklingError)):
            return ToEditStep(self, batch_size)

    def write_model_card(
        self,
        dataset: Dataset | DatasetDict,
        folder: str | os.PathLike[str],
        *,
        source: str | None = None,
        base_model: str | None = None,
    ) -> None:
        """Describe this edit in one section of the card (`README.md`) of a model that was trained on its output.

            transform.write_model_card(edited, "my-model")

        The rest of an existing card stays as it is. With ToEditCallback, the trainer does this automatically.

        dataset: the edited Dataset or DatasetDict, with its `toedit` column. folder: of the trained model.
        source: the Hub id of the data before the edit, such as org/name@revision; default: what `load_dataset` read.
        base_model: the Hub id of the model that was trained.

        Raises RowError if another transform edited the rows; SourceError if there is no such folder, or if the card
        can't be read or written.
        """
        from .hub.model_card import write_model_card
        from .hub.records import edits_of
        from .hub.source import source_of

        splits, folder = as_splits(dataset, "write_model_card"), as_path(folder, "the model's folder")
        write_model_card(folder, edits_of(splits, self), source_of(splits, source), base_model)

    def report(
        self,
        dataset: Dataset | DatasetDict,
        path: str | os.PathLike[str] = "report.html",
        *,
        against: Dataset | DatasetDict | None = None,
        by: str | None = None,
    ) -> DatasetStats:
        """Write a page (one HTML file, which loads nothing) that shows what this transform did; return the statistics.

            transform.report(edited)  # open report.html in a browser

        dataset: a Dataset or a DatasetDict, with its `toedit` column.
        path: the file. An earlier report is replaced, anything else is not.
        against: the dataset before the edit. Each row is reverted and compared with it, and the page says what came
            out; a ToEditWarning follows if a row differs.
        by: a column that says where a row comes from, to count by. Default: `source`, `subset`, `task` or another of
            that kind, if the rows have one.

        The figures cover all rows. The page lists an even sample of at most 2,000 edited rows.

        Raises RowError if another transform edited the rows, if they lack a column, or if there are none; SourceError
        if the file can't be written or `against` does not have the same splits and numbers of rows.
        """
        from .report.page import report_on

        return report_on(
            as_splits(dataset, "report"),
            as_path(path, "the report"),
            self.provenance(),
            tokenizer=self.prior.tokenizer,
            against=None if against is None else as_splits(against, "against="),
            by=by,
        )

    @computed_once
    def _seen(self) -> Counter[str] | None:
        """The statuses of the rows so far, while all were skipped and no warning was issued; then None."""
        return Counter()

    def _watch(self, statuses: Sequence[str], rows: Sequence[Mapping[str, Any]], units: list[Unit]) -> None:
        """Warn, once per process, if the first batch, or the first rows passed one at a time, are all skipped."""
        if self._seen is None or not statuses:
            return
        self._seen.update(statuses)
        if not all_skipped(self._seen):
            self._seen = None
        elif len(statuses) > 1 or self._seen.total() >= MOST_WATCHED:
            message = f"{ALL_SKIPPED}: {explain(self._seen)}"
            if Status.NO_TEXT in self._seen:
                message += self._roles_there(rows, units)
            self._seen = None
            warnings.warn(message, ToEditWarning, stacklevel=5)

    def _roles_there(self, rows: Sequence[Mapping[str, Any]], units: list[Unit]) -> str:
        """The roles in rows that were all skipped, and the closest match to a requested role."""
        roles = sorted({role[:20] for row in rows for unit in units for role in roles_in(row, unit)})
        if not roles:
            return ""
        close = (nearest(role, roles).partition("; known")[0] for role in self.roles)
        return f" ({', '.join(map(repr, roles[:MOST_NAMED]))}{next(filter(None, close), '')})"

    def fit(self, dataset: Any) -> ToEditTransform:
        """Count the tokens of a corpus, to draw from: for `strategy="random"`, or `distribution="unigram"`.

        Returns the transform.

        dataset: a Dataset, a DatasetDict, an IterableDataset, or any iterable of rows or of datasets.

        Raises RowError for anything else. Warns if the corpus has no token that may be edited.
        """
        tables = Tokenization(self.prior.tokenizer)
        counts_V = np.zeros(len(tables.bytes_of), dtype=np.int64)
        for row in self._rows(dataset):
            for unit in self._units(row):
                if self.config.targets == "original":
                    row = {**row, **_made([self._read(row, unit)])}
                is_tokenized = self.config.targets == "original" or unit.columns == IDS
                ids = as_ids(row["input_ids"]) if is_tokenized else self._editable_ids(row, unit, tables)
                inside = ids[(ids >= 0) & (ids < len(counts_V))]
                counts_V += np.bincount(inside, minlength=len(counts_V))
        if not counts_V.any():
            message = "fit found no token that may be edited, so that nothing can change: "
            warnings.warn(f"{message}give it the dataset that is to be edited", ToEditWarning, stacklevel=2)
        self.unigram_counts_V = counts_V
        for name in ("editor", "fingerprint"):
            self.__dict__.pop(name, None)
        return self

    def _editable_ids(self, row: Mapping[str, Any], unit: Unit, tables: Tokenization) -> IntArray:
        """The tokens in the editable parts of a row's text."""
        [text] = self.renderer.render(row, unit).cells
        if text.status or skip_status(text.value):
            return as_ids(None)
        if text.spans is None:
            return tables.encode_ids(text.value)
        [encoded] = tables.encode([text.value])
        return encoded.input_ids_T[inside_spans(text.value, text.spans, encoded)]

    def _rows(self, dataset: Any) -> Iterator[Mapping[str, Any]]:
        """The rows of a dataset or of all its splits; only the columns needed, if the dataset knows its columns."""
        if isinstance(dataset, Mapping):
            for split in dataset.values():
                yield from self._rows(split)
            return
        if getattr(dataset, "column_names", None):
            columns = dict.fromkeys(dataset.column_names)
            dataset = dataset.select_columns(self._needed(columns, self._units(columns)))
        for row in dataset if isinstance(dataset, Iterable) and not isinstance(dataset, str) else [dataset]:
            if hasattr(row, "select_columns"):  # a part of a dataset
                yield from self._rows(row)
                continue
            if not isinstance(row, Mapping):
                raise RowError(
                    f"fit takes a dataset, a dict of its splits, or rows as dicts, not {type(row).__name__}: "
                    "transform.fit(ds.with_format(None))"
                )
            yield row

    @overload
    def __call__(self, rows: Mapping[str, Any], *more: Any, **options: Any) -> dict[str, Any]: ...

    @overload
    def __call__(self, rows: Table, *more: Any, **options: Any) -> Table: ...

    def __call__(self, rows: Any, *more: Any, **options: Any) -> Any:
        """Edit one row or one batch of rows (a dict of lists) and return the same rows with the edited columns.

        A pyarrow Table (`batch_format="pyarrow"` in Ray Data) is a batch, too: its types and other columns stay.

        Raises RowError for anything else that `map` can pass: bare values, frames, indices, ranks or keywords.
        """
        check_rows(rows, more, options)
        columns = columns_in(rows)
        units = self._checked_units(columns)
        return with_changes(rows, units, self._needed(columns, units), partial(self._edit_batch, units=units))

    def edit_batch(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """The columns that the edit changes in a batch of rows, and the `toedit` column; see `__call__`."""
        units = self._checked_units(rows)
        return self._edit_batch({name: rows[name] for name in self._needed(rows, units)}, units)

    def _checked_units(self, rows: Mapping[str, Any]) -> list[Unit]:
        """What to edit in these rows, with an error or a warning if it would overwrite or not reach a column."""
        units = self._units(rows)
        if self.stats_column in rows:
            raise RowError(
                f"column {self.stats_column!r} already exists and would be overwritten: set stats_column= to another "
                "name, such as 'toedit_1' for a second generation"
            )
        if self.config.targets == "original":
            check_unit(units, rows)
        self._warn_of_a_stale_column(rows, units)
        return units

    def _units(self, rows: Mapping[str, Any]) -> list[Unit]:
        """What to edit in these rows."""
        return units_of(list(rows), self.columns, self.context)

    def _warn_of_a_stale_column(self, rows: Mapping[str, Any], units: list[Unit]) -> None:
        """Warn once if training may read another column, which the edit leaves unchanged, instead of the edited one."""
        if self.config.strategy == "none" or self.stale_is_known:
            return
        texts = shape_of([name for name in rows if name != "input_ids"])
        edited = list(dict.fromkeys(name for unit in units for name in unit.columns))
        beside = read_instead(rows, edited) if self.columns is None else []
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
        warnings.warn(message, ToEditWarning, stacklevel=4)

    def _needed(self, rows: Mapping[str, Any], units: list[Unit]) -> list[str]:
        return columns_needed(rows, units)

    def skip(self, rows: Mapping[str, Any], status: Status) -> dict[str, Any]:
        """What `__call__` returns for datasets' LazyBatch, if all of its rows are skipped, with this status."""
        units = self._units(rows)
        return self._edit_batch({name: rows[name] for name in self._needed(rows, units)}, units, status)

    def _edit_batch(self, batch: Mapping[str, Any], units: list[Unit], status: Status | None = None) -> dict[str, Any]:
        """The columns that the edit changes, and the `toedit` column. The cells of all rows are edited together.

        status: skip all rows, with this status.
        """
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        readings = [[self._read(row, unit) for unit in units] for row in rows]
        cells = [cell for of_row in readings for reading in of_row for cell in reading.cells]
        edited = iter([Edited(cell.value, status) for cell in cells] if status else self.editor.edit(cells))
        written = [self._write(row, units, of_row, edited) for row, of_row in zip(rows, readings, strict=True)]
        self._watch([row_status(cells) for _, cells in written], rows, units)
        columns = written[0][0] if written else ()  # the same for all rows
        changed: dict[str, Any] = {name: [values[name] for values, _ in written] for name in columns}
        added = [name for name in columns if name not in batch]
        changed |= {name: ids_column(name, changed[name]) for name in added}
        if self.stats_column is not None:
            as_read = [{**row, **_made(of_row)} for row, of_row in zip(rows, readings, strict=True)]
            structs = [
                to_struct(cells, row, self.fingerprint, added) for (_, cells), row in zip(written, as_read, strict=True)
            ]
            changed[self.stats_column] = struct_column(structs)
        return changed

    def _read(self, row: Mapping[str, Any], unit: Unit) -> Rendered | TokenColumns:
        """The cells of one unit of a row, and their places in the row."""
        if unit.columns == IDS:
            return read_ids(row)
        return self.renderer.render(row, unit) if self.config.targets == "edited" else self.tokens.read(row, unit)

    def _write(
        self,
        row: Mapping[str, Any],
        units: list[Unit],
        readings: list[Rendered | TokenColumns],
        edited: Iterator[Edited],
    ) -> tuple[dict[str, Any], list[Edited]]:
        """The new values of a row, and the outcomes for its cells, which come next in `edited`."""
        values: dict[str, Any] = {}
        cells: list[Edited] = []
        for unit, reading in zip(units, readings, strict=True):
            outcomes = [next(edited) for _ in reading.cells]
            if isinstance(reading, TokenColumns):
                new_values, outcomes = write_ids({**row, **reading.made}, outcomes, self.config.targets)
                new_values = {**reading.made, **new_values}
            else:
                new_values, outcomes = self.renderer.write(row, unit, reading, outcomes, self.config.stable_only)
            values |= new_values
            cells += outcomes
        return values, cells


def _made(readings: Sequence[Rendered | TokenColumns]) -> dict[str, Any]:
    """The columns that were made of a row's text."""
    return {name: value for each in readings if isinstance(each, TokenColumns) for name, value in each.made.items()}
