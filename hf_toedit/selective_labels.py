"""`ds.map(SelectiveLabels(prior, high=0.99))`: the labels of a selective loss, written before training.

Shape suffixes: T tokens of a row.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np

from .arguments import as_names, as_prior, as_selection, check_base, check_rows, check_type
from .display import as_call
from .editing.excess import ExcessCounts
from .editing.once import computed_once
from .editing.selection import LossSelection, Selected, SelectionFields, Selector, number_of
from .editing.selection_stats import SELECTION_COUNTS
from .editing.stats import TokenStats
from .errors import ConfigError, RowError, ToEditWarning
from .measure.containers import batches_of
from .rows.calls import columns_in, with_changes
from .rows.column import TypedColumn, ids_column
from .rows.formats import ALTERNATIVES, IDS, Unit, shape_of
from .rows.provenance import fingerprint, prior_identity, prior_record, versions
from .rows.rendering import Renderer
from .rows.tokenized import TrainingTokens, check_unit
from .rows.tokens import IGNORED, TokenColumns, as_ids, check_same_tokenizer, original_labels, read_ids
from .rows.units import columns_needed, units_of
from .statuses import (
    ALL_SKIPPED,
    ENOUGH,
    Status,
    all_skipped,
    explain,
    mostly_without_labels,
    without_labels_in_words,
)
from .types import FloatArray, Prior, PriorDetails

if TYPE_CHECKING:
    from pyarrow import Table

NEAR = 0.01  # in shares: `fit` warns if it misses the one asked for by more
VERSION = 1  # raise it when the same selection and priors would select differently: this invalidates caches
OF_THIS_PROCESS = ("selector", "tokens", "fingerprint", "_seen")  # left out of the pickle


class SelectiveLabels:
    """Writes the `labels` of a selective loss, as a function for `map`: -100 for the tokens that it leaves out.

        ds.map(SelectiveLabels("Qwen/Qwen2.5-0.5B", high=0.99), batched=True)

    Trainers that read `labels`, such as Trainer and SFTTrainer, then train on the other tokens alone. The tokens
    themselves stay as they are. Equivalent to ToEditCallback(prior, select=...), which selects during training, so that
    the model in training can be the prior or the base.

    prior: a Hub id, a folder, "demo", a (model, tokenizer) pair in memory, or a Prior object.
    select: a LossSelection or a dict of its fields; or pass the fields as keywords.
    base: what the prior is compared with for `share` and `min_excess`; anything `prior` accepts, with the same
        tokenizer.
    columns: `input_ids`, or the column with texts or conversations. Default: the first of `input_ids`, `messages`,
        `conversations`, `prompt` + `completion` and `text` that the rows have. All but `input_ids` are tokenized as
        SFTTrainer does by default: a text and a completion end with the end-of-text token, and a prompt has no labels.
    chat_template: the template that renders conversations; the prior's own by default.
    tokenizer: the tokenizer that made `input_ids`, or that will be used in training, to compare with the prior's.
        Without it, rows of `input_ids` that the prior's tokenizer would not have produced are skipped.
    stats_column: name of the column for a struct of `status`, `fingerprint`, `num_tokens`, `num_scored` and `num_kept`;
        None to leave it out. `summarize_selection` adds them up.

    Every token is scored, special ones too, except where `attention_mask`, `completion_mask` or `assistant_masks` say 0
    or the label is -100: these have the label -100 already, or get it. The first token of a row has no probability and
    is not predicted in training: its label stays. In packed rows (with `seq_lengths`), each document is a row of its
    own.

    Rows that can't be scored keep all their labels and have a `skipped:<reason>` status. A row left without a token in
    the loss has the status `no_labels`; if most of the first rows are, or if all are skipped, a ToEditWarning says so,
    once per process. The pickle contains the selection and the priors' revisions, not the models. Raises ConfigError,
    PriorError, and RowError for rows of another format or with labels of other tokens.
    """

    def __init__(
        self,
        prior: str | os.PathLike[str] | tuple[Any, Any] | Prior,
        select: LossSelection | Mapping[str, Any] | None = None,
        *,
        base: str | os.PathLike[str] | tuple[Any, Any] | Prior | None = None,
        columns: str | Sequence[str] | None = None,
        chat_template: str | None = None,
        tokenizer: Any = None,
        stats_column: str | None = "selection",
        **selection_fields: Unpack[SelectionFields],
    ) -> None:
        self.select = as_selection(select, selection_fields)
        check_base(self.select, base)
        check_type("stats_column", stats_column, str, "the name of a new column, or None")
        self.prior = as_prior(prior, "SelectiveLabels")
        self.base = None if base is None else as_prior(base, "SelectiveLabels")
        check_type("chat_template", chat_template, str, "a Jinja template")
        self.columns = None if columns is None else as_names("columns", columns)
        self.chat_template, self.stats_column = chat_template, stats_column
        self.eos_token = getattr(tokenizer, "eos_token", None)
        self.version = VERSION
        self.same_tokenizer = tokenizer is not None
        if tokenizer is not None:
            check_same_tokenizer(tokenizer, self.prior)

    def __repr__(self) -> str:
        return as_call(self, select=None, **self.select.to_dict())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in OF_THIS_PROCESS}

    def fit(self, dataset: Any) -> SelectiveLabels:
        """Take `share` of a whole dataset instead of each row: find the `min_excess` that keeps it. Returns itself.

            labels = SelectiveLabels(reference, base=base, share=0.6).fit(ds)
            labels.select  # LossSelection(min_excess=...), for ToEditCallback and recipes too

        `min_excess` replaces `share`, and exactly this share of the scored tokens has at least that excess. Tokens
        whose excesses agree to four decimals stay or leave together; if that shifts the share by more than 0.01, a
        ToEditWarning says so. If there is a `min_excess` already, the higher one counts. Skipped rows are left out.
        Memory does not grow with the dataset, and both models read it once, in this process.

        dataset: a Dataset, a DatasetDict, an IterableDataset, rows, texts, or a file or folder of them; a random sample
            of its rows gives an estimate.

        Raises ConfigError without `share`, and RowError for any other kind of data or if no token was scored.
        """
        if self.select.share is None:
            raise ConfigError(
                "there is no share for fit to replace with a min_excess: make SelectiveLabels with share=, such as 0.6"
            )
        counts, statuses = ExcessCounts(), Counter[str]()
        for rows in batches_of(dataset, self._choose):
            for status, excess_E in self._excess(rows):
                statuses[status] += 1
                counts.update(excess_E)
        if not counts.total:
            raise RowError(f"fit scored no token of the dataset: {explain(statuses) or 'it has no rows'}")
        self.select = self._with_bar(self.select.share, counts)
        for name in ("selector", "fingerprint"):
            self.__dict__.pop(name, None)
        return self

    def _with_bar(self, share: float, counts: ExcessCounts) -> LossSelection:
        """The selection with a bar in place of the share."""
        bar, num_kept = counts.bar(share)
        if abs(num_kept - number_of(share, counts.total)) > NEAR * counts.total:
            kept = f"{num_kept / counts.total:.4g} of the tokens, not share={share:g}"
            message = f"min_excess={bar:g} keeps {kept}: many have the same excess"
            warnings.warn(message, ToEditWarning, stacklevel=3)
        highest = bar if self.select.min_excess is None else max(bar, self.select.min_excess)
        return dataclasses.replace(self.select, share=None, min_excess=highest)

    def _excess(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Status, FloatArray]]:
        """The status and the excess of each document of some rows, which have the columns of the first."""
        [unit], needed = self._choose(list(rows[0]))
        rows, readings = self._read([{name: row.get(name) for name in needed} for row in rows], unit)
        for row in rows:
            _labels_before(row)
        documents = [document for reading in readings for document in reading.cells]
        return self.selector.excess(documents, check_ids=self._checks_ids(unit))

    @computed_once
    def selector(self) -> Selector:
        """The selecting engine. Loads the priors' tokenizers immediately, and their models when a row needs them."""
        if self.base is not None:
            check_same_tokenizer(self.base.tokenizer, self.prior)
        return Selector(self.select, self.prior, self.base)

    @computed_once
    def tokens(self) -> TrainingTokens:
        """Tokenizes rows of text."""
        details = PriorDetails(self.prior)
        template = details.chat_template if self.chat_template is None else self.chat_template
        renderer = Renderer(("assistant",), template, details.special_tokens)
        eos_token = self.eos_token or details.special_tokens.get("eos_token")
        return TrainingTokens(renderer, self.selector.tokenization, eos_token, "SelectiveLabels")

    @computed_once
    def fingerprint(self) -> str | None:
        """16 hex characters that identify this selection, also stored in each row's struct. The same in every process.

        None if the prior or the base has no revision, since nothing would distinguish it from another one.
        """
        if self.base is not None and PriorDetails(self.base).revision is None:
            return None
        return fingerprint(self._record())

    def provenance(self) -> dict[str, Any]:
        """Everything needed to repeat the selection, JSON-ready: its fingerprint, conditions, priors and versions."""
        record = {"fingerprint": self.fingerprint, **self._record(), **prior_identity(self.prior)}
        if self.base is not None:
            record["base"] = {**prior_record(self.base), **prior_identity(self.base)}
        return {**record, "versions": versions()}

    def _record(self) -> dict[str, Any]:
        base = {} if self.base is None else prior_record(self.base)
        return {
            "labels_version": self.version,
            "select": self.select.to_dict(),
            **prior_record(self.prior),
            "base": {name: value for name, value in base.items() if name != "prior"} or None,
            "columns": self.columns,
            "chat_template": self.chat_template,
            "eos_token": self.eos_token,
            "same_tokenizer": self.same_tokenizer,
            "stats_column": self.stats_column,
        }

    @overload
    def __call__(self, rows: Mapping[str, Any], *more: Any, **options: Any) -> dict[str, Any]: ...

    @overload
    def __call__(self, rows: Table, *more: Any, **options: Any) -> Table: ...

    def __call__(self, rows: Any, *more: Any, **options: Any) -> Any:
        """Select in one row or one batch of rows (a dict of lists), and return the same rows with their `labels`.

        A pyarrow Table (`batch_format="pyarrow"` in Ray Data) is a batch, too.

        Raises RowError for anything else that `map` can pass: bare values, frames, indices, ranks or keywords.
        """
        check_rows(rows, more, options)
        names = columns_in(rows)
        units, needed = self._choose(list(names))
        if self.stats_column in names:
            raise RowError(f"column {self.stats_column!r} would be overwritten: set stats_column= to another name")
        return with_changes(rows, units, needed, partial(self._label_batch, unit=units[0]))

    def _choose(self, names: Sequence[str]) -> tuple[list[Unit], list[str]]:
        """What to read of rows with these columns, one unit, and the columns needed for it."""
        if not self.columns and shape_of(names) is None and {*ALTERNATIVES} <= {*names}:
            raise RowError(
                "chosen and rejected answers have no labels: to train on those chosen, "
                "ds.remove_columns('rejected').rename_column('chosen', 'completion')"
            )
        units = units_of(names, self.columns, ())
        check_unit(units, dict.fromkeys(names), "SelectiveLabels")
        return units, columns_needed(names, units)

    def _checks_ids(self, unit: Unit) -> bool:
        """Whether ids must be checked, because they may be another tokenizer's."""
        return unit.columns == IDS and not self.same_tokenizer

    def _read(
        self, rows: Sequence[Mapping[str, Any]], unit: Unit
    ) -> tuple[Sequence[Mapping[str, Any]], list[TokenColumns]]:
        """Rows with their ids, and what is scored of each."""
        if unit.columns == IDS:
            return rows, [read_ids(row) for row in rows]
        readings = [self.tokens.read(row, unit) for row in rows]
        return [reading.made for reading in readings], [_in_loss(reading) for reading in readings]

    def _label_batch(self, batch: Mapping[str, Sequence[Any]], unit: Unit) -> dict[str, Any]:
        """The labels, the ids of rows of text, and the column of structs. All rows are scored together."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        columns = dict[str, Any]()
        made, readings = self._read(rows, unit)
        if unit.columns != IDS:
            columns["input_ids"] = ids_column("input_ids", [row["input_ids"] for row in made])
        documents = [document for reading in readings for document in reading.cells]
        results = iter(self.selector.select(documents, check_ids=self._checks_ids(unit)))
        selected = [_joined([next(results) for _ in reading.cells]) for reading in readings]
        self._watch(Counter(row.status for row in selected))
        labels = [_labels(row, of_row) for row, of_row in zip(made, selected, strict=True)]
        columns["labels"] = ids_column("labels", labels)
        if self.stats_column is not None:
            columns[self.stats_column] = TypedColumn(
                (_struct(row, self.fingerprint) for row in selected), _struct_type()
            )
        return columns

    @computed_once
    def _seen(self) -> Counter[str] | None:
        """The statuses of the rows so far, until there are enough of them, or a warning; then None."""
        return Counter()

    def _watch(self, statuses: Counter[Status]) -> None:
        """Warn, once per process, if the first rows are all skipped, or most of them left without a token."""
        if self._seen is None or not statuses:
            return
        self._seen.update(statuses)
        seen, message = self._seen, ""
        if seen.total() < ENOUGH and statuses.total() == 1:  # rows are passed one at a time
            return
        if all_skipped(seen):
            message = f"{ALL_SKIPPED}, and keeps all its labels: {explain(seen)}"
        elif mostly_without_labels(seen):
            message = without_labels_in_words(seen)
        if message or seen.total() >= ENOUGH:
            self._seen = None
        if message:
            warnings.warn(message, ToEditWarning, stacklevel=5)


def _in_loss(reading: TokenColumns) -> TokenColumns:
    """A row of text with all tokens in scope that have a label, in a conversation those of every role."""
    return reading if reading.made["input_ids"] is None else read_ids(reading.made)


def _joined(documents: Sequence[Selected]) -> Selected:
    """What happens to a row, from its documents. Skipped ones keep their labels."""
    statuses = [document.status for document in documents]
    skipped = [status for status in statuses if status.is_skipped]
    status = Status.UNCHANGED if Status.UNCHANGED in statuses else next(iter(skipped), Status.NO_LABELS)
    leaves_T = np.concatenate([document.leaves_T for document in documents])
    return Selected(status, leaves_T, sum((document.stats for document in documents), start=TokenStats()))


def _labels(row: Mapping[str, Any], selected: Selected) -> list[int] | None:
    """The labels of a row after the selection; None if it has no ids, or masks that do not fit them."""
    labels = _labels_before(row)
    labels_T = as_ids(labels)
    if labels is None or len(labels_T) != len(selected.leaves_T):
        return labels  # type: ignore[no-any-return]
    kept: list[int] = np.where(selected.leaves_T, IGNORED, labels_T).tolist()
    return kept


def _labels_before(row: Mapping[str, Any]) -> Any:
    """The labels of a row before the selection."""
    labels = original_labels(row) if row.get("labels") is None else row["labels"]
    labels_T, ids_T = as_ids(labels), as_ids(row["input_ids"])
    if len(labels_T) == len(ids_T) and ((labels_T != IGNORED) & (labels_T != ids_T)).any():
        raise RowError(
            f"the labels of a row are neither its input_ids nor {IGNORED}, so that what is scored is not what is "
            "learned: leave the labels column out, or write these labels before an edit changes the tokens"
        )
    return labels


def _struct(selected: Selected, fingerprint: str | None) -> dict[str, Any]:
    scored = selected.stats.num_visited
    counts = (selected.stats.num_tokens, scored, scored - selected.stats.num_visited_eligible)
    return {
        "status": selected.status.value,
        "fingerprint": fingerprint,
        **dict(zip(SELECTION_COUNTS, counts, strict=True)),
    }


def _struct_type() -> Any:
    """The Arrow type of the column of structs."""
    import pyarrow as pa

    strings, counts = ("status", "fingerprint"), SELECTION_COUNTS
    return pa.struct([*((name, pa.string()) for name in strings), *((name, pa.int64()) for name in counts)])
