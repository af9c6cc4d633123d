"""`Trainer(..., callbacks=[ToEditCallback(prior)])`: training on edited batches.

Shape suffixes: B rows of a batch, T tokens, S tokens of a sequence.
"""

from __future__ import annotations

import inspect
import math
import os
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from transformers import TrainerCallback

from .arguments import LIVE, as_config, as_prior, as_selection, check_base, check_type
from .display import as_call
from .editing.cells import TokenRow
from .editing.config import SHORTENING, ConfigFields, ToEditConfig
from .editing.editor import Editor
from .editing.selection import LossSelection, Selector
from .errors import ConfigError, RowError, ToEditWarning
from .priors.model_prior import ModelPrior
from .rows.provenance import prior_identity, prior_record, versions
from .rows.tokens import check_same_tokenizer
from .statuses import ENOUGH, Status, all_skipped, explain, mostly_without_labels, without_labels_in_words
from .training.batches import cut, says_where_rows_begin, with_ids, without_labels
from .training.cards import keep_section, write_section
from .training.history import History, keep_in_checkpoints, keep_in_state
from .training.trainers import ON_PAIRS, check_trainer, library_class
from .transform import ToEditTransform
from .types import BoolArray, IntArray, Prior


class ToEditCallback(TrainerCallback):
    """Edits a trainer's batches after collation, on every rank. Works with Trainer and Seq2SeqTrainer from
    transformers, and with SFTTrainer, DPOTrainer, KTOTrainer, RewardTrainer and TPOTrainer from TRL.

        trainer = SFTTrainer(..., callbacks=[ToEditCallback("Qwen/Qwen2.5-0.5B")])

    Equivalent to training on a dataset edited with ToEditTransform, where a row is a sequence as it enters the model:
    in padding-free and packed batches each sequence counts as a row, and so does each piece of a document that packing
    split. Tokens with label -100, or outside `completion_mask` or `assistant_masks`, are context; so is the prefix that
    chosen and rejected share (RewardTrainer). Labels follow the ids, and KTO's mismatched pairs follow the completions
    they were made from. Reference log-probabilities are computed on the edited tokens. Evaluation batches are not
    edited. With targets="original", labels stay as they are, for the trainers of transformers and SFTTrainer.

    A subclass is treated like the transformers or TRL class it derives from. Other trainers, encoder-decoders, masked
    language models, images and `precompute_ref_log_probs=True` are refused when training begins; a batch whose loss
    would not follow the edits is refused as soon as it arrives.

    prior: anything ToEditTransform accepts; `"base"`, the frozen base of the PEFT model in training (no second model in
        memory; adapters whose initialisation rewrites the base are refused); or `"self"`, the model in training, in
        its current state.
    config: a ToEditConfig or a dict of its fields; the fields can also be passed as keywords. Strategies that delete
        tokens are refused.
    redraw: draw new edits in each epoch (the generation follows the epoch); False repeats the same edits.
    select: a LossSelection or a dict of its fields: change no tokens, but take those that it does not keep out of the
        loss. `("self", select={"high": 0.99})` is truncated cross-entropy (ForTIFAI, arXiv 2509.08972). Equivalent to
        training on the labels of SelectiveLabels, which says more. Every label is scored; the fields of ToEditConfig
        do not apply.
    base: for a selection that compares the prior with a base model: anything `prior` accepts. With a reference model
        as the prior and base="self", `select={"share": 0.6}` is Rho-1 (arXiv 2404.07965).
    corpus: rows with `input_ids` to count tokens in, if new ones are drawn from these counts (strategy="random" or
        distribution="unigram"). Default: the trainer's train_dataset.

    With each loss the trainer logs `toedit/visited`, `toedit/eligible_rate`, `toedit/changed_rate` (of all tokens),
    `toedit/editable_rate`, `toedit/editable_changed_rate` (of the editable tokens), `toedit/prior_perplexity` and
    `toedit/skipped_rate` (of sequences), each over all ranks and since the last log. With `select`, the rates are
    `toedit/kept_rate` (of the visited tokens), `toedit/no_labels_rate` (sequences left without a token in the loss) and
    `toedit/skipped_rate`. A second ToEditCallback edits the output of the first and logs `toedit_2/...`. If every
    sequence is skipped, or most are left without a token in the loss, a warning says so.

    Model cards that the trainer or PEFT writes get a section with the record of the edits, and with their counts over
    the whole training; checkpoints hold these for a resumed run.

    Raises ConfigError, RowError for batches, and PriorError if prior and trainer have different
    tokenizers.
    """

    def __init__(
        self,
        prior: str | os.PathLike[str] | tuple[Any, Any] | Prior,
        config: ToEditConfig | Mapping[str, Any] | None = None,
        *,
        redraw: bool = True,
        select: LossSelection | Mapping[str, Any] | None = None,
        base: str | os.PathLike[str] | tuple[Any, Any] | Prior | None = None,
        corpus: Any = None,
        **config_fields: Unpack[ConfigFields],
    ) -> None:
        self.config = as_config(config, config_fields, "ToEditCallback")
        check_type("redraw", redraw, bool, "true or false")
        if self.config.strategy in SHORTENING:
            raise ConfigError(f"strategy={self.config.strategy!r} would shorten input_ids: edit the dataset instead")
        self.select = None if select is None else as_selection(select)
        if self.select is not None and (fields := self.config.changed_fields()):
            name, value = next(iter(fields.items()))
            raise ConfigError(f"select= changes no token: leave out {name}={value!r}")
        check_base(self.select, base)
        if isinstance(corpus, str):
            raise ConfigError("corpus= must be rows with input_ids, such as a tokenized dataset, not str")
        self.prior, self.base = _as_live_prior(prior), None if base is None else _as_live_prior(base)
        self.redraw, self.corpus = redraw, corpus
        self._trainers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._editor: Any = None
        self._selector: Any = None
        self._checks_ids = True
        self._epoch = 0
        self.history = History()
        self._has_warned = False

    def __repr__(self) -> str:
        return as_call(self, config=None, **self.config.changed_fields())

    def provenance(self) -> dict[str, Any]:
        """How batches are edited, JSON-ready: the config, the prior and its revision, `redraw`, versions.

        With `select`, that and `base` take the place of the config and `redraw`. `revision` is None for a prior without
        one, such as `"base"` and `"self"`.
        """
        how: dict[str, Any] = {"config": self.config.to_dict(), "redraw": self.redraw}
        if self.select is not None:
            base = None if self.base is None else _record_of(self.base)
            how = {"config": {}, "select": self.select.to_dict(), "base": base}
        return {**how, **_record_of(self.prior), "versions": versions()}

    def attach(self, trainer: Any) -> None:
        """Start editing a trainer's batches, as `callbacks=[...]` does when training begins. It is idempotent."""
        callbacks = trainer.callback_handler.callbacks
        if self not in callbacks:
            trainer.add_callback(self)
        while callbacks.count(self) > 1:  # from the end: the handler may be iterating
            del callbacks[len(callbacks) - 1 - callbacks[::-1].index(self)]
        ours = _ours(trainer)
        if not any(trainer in each._trainers for each in ours):
            keep_in_checkpoints(trainer)
            keep_section(trainer)
        for each in ours:  # all of them, so that they edit in list order, whichever is attached first
            if trainer not in each._trainers:
                each._trainers.add(trainer)
                trainer.get_batch_samples = partial(each._get_batch_samples, trainer, trainer.get_batch_samples)
                trainer.log = partial(each._log, trainer, trainer.log)

    # trainer events

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._find_trainer()
        check_trainer(trainer, self.config.targets, selects=self.select is not None)
        self.attach(trainer)
        if self.select is None:
            self._editor = self._make_editor(trainer)
        else:
            self._selector = self._make_selector(trainer, self.select)
        self._epoch = int(state.epoch or 0) - 1  # when resuming, the checkpoint's epoch
        self._has_warned = False
        self.history.begin(trainer, self.provenance())

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epoch += 1
        if self.select is not None:
            return
        generation = self.config.generation + (self._epoch if self.redraw else 0)
        self._editor = self._editor.at_generation(generation)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        keep_in_state(self._find_trainer())
        self._warn_if_futile(self.history.logged + self.history.statuses, state, is_over=True)

    def on_push_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        write_section(self._find_trainer(), Path(args.output_dir))

    def _find_trainer(self) -> Any:
        """The calling trainer: transformers passes callbacks everything but that."""
        frame = inspect.currentframe()
        while frame is not None:
            caller = frame.f_locals.get("self")
            if self in getattr(getattr(caller, "callback_handler", None), "callbacks", ()):
                return caller
            frame = frame.f_back
        if len(self._trainers) != 1:
            raise ConfigError("can't tell which trainer this is: call callback.attach(trainer) before trainer.train()")
        return next(iter(self._trainers))

    def _make_editor(self, trainer: Any) -> Editor:
        prior, check_ids = self._checked_prior(trainer, "prior")
        counts_V = self._count(trainer, prior) if self.config.needs_corpus else None
        return Editor(prior, self.config, unigram_counts_V=counts_V, check_ids=check_ids)

    def _make_selector(self, trainer: Any, selection: LossSelection) -> Selector:
        prior, self._checks_ids = self._checked_prior(trainer, "prior")
        base = None if self.base is None else self._checked_prior(trainer, "base")[0]
        if base is not None:
            check_same_tokenizer(base.tokenizer, prior)
        return Selector(selection, prior, base)

    def _checked_prior(self, trainer: Any, setting: str) -> tuple[Prior, bool]:
        """The prior of a setting, and whether ids must be checked because the trainer's tokenizer can't be compared."""
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)  # or a processor's
        prior = getattr(self, setting)
        if isinstance(prior, str):
            prior = _live_prior(trainer, tokenizer, setting, prior)
        is_comparable = hasattr(tokenizer, "backend_tokenizer")
        if is_comparable:
            check_same_tokenizer(tokenizer, prior)
        return prior, not is_comparable

    def _count(self, trainer: Any, prior: Prior) -> IntArray:
        """How often each id occurs in the corpus. Shape [V]."""
        corpus = trainer.train_dataset if self.corpus is None else self.corpus
        if self.corpus is None and not hasattr(corpus, "__len__"):
            raise ConfigError(
                "new tokens are drawn from counts, and train_dataset is a stream: pass rows to count as corpus="
            )
        names = _column_names(corpus)
        if names and "input_ids" not in names:
            raise ConfigError(
                "new tokens are drawn from counts, and the rows have no input_ids: pass rows that have them as corpus="
            )
        counts_V = ToEditTransform(prior, columns="input_ids").fit(corpus).unigram_counts_V
        assert counts_V is not None
        return counts_V

    # replacements for the trainer's own methods

    def _get_batch_samples(self, trainer: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The batches of one optimizer step, edited."""
        batches, num_items = original(*args, **kwargs)
        if self not in trainer.callback_handler.callbacks or not batches:
            return batches, num_items
        is_paired = library_class(trainer) in ON_PAIRS
        sequences = [cut(batch, is_paired) for batch in batches]
        if "seq_lengths" in _column_names(trainer.train_dataset) and not all(map(says_where_rows_begin, batches)):
            raise RowError(
                "train_dataset is packed (it has seq_lengths), and its batches do not say where a sequence begins: "
                "set padding_free=True in SFTConfig, or give a data_collator that returns position_ids"
            )
        rows = [row for of_batch in sequences for _, _, row in of_batch]
        is_selected = self.select is not None
        results: Iterator[Any] = iter(self._leaving(rows) if is_selected else self._edited(rows))
        new_batches = []
        for batch, of_batch in zip(batches, sequences, strict=True):
            placed = [(b, start, next(results)) for b, start, _ in of_batch]
            new_batches.append(
                without_labels(batch, placed) if is_selected else with_ids(batch, placed, self.config.targets)
            )
        if is_selected:
            num_items = trainer._get_num_items_in_batch(new_batches, trainer.args.device)
            num_items = num_items.clamp(min=1) if hasattr(num_items, "clamp") else num_items
        return new_batches, num_items

    def _log(self, trainer: Any, original: Callable[..., Any], logs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Training logs are those with a learning rate; every rank writes them at the same steps."""
        if self in trainer.callback_handler.callbacks and {"loss", "learning_rate"} <= logs.keys():
            place = _ours(trainer).index(self)
            prefix = f"toedit_{place + 1}/" if place else "toedit/"
            logs = {
                **logs,
                **{name.replace("toedit/", prefix): value for name, value in self._metrics(trainer).items()},
            }
            self._warn_if_futile(self.history.logged, trainer.state)
        return original(logs, *args, **kwargs)

    def _metrics(self, trainer: Any) -> dict[str, float]:
        stats = self.history.log(trainer)
        skipped = sum(count for status, count in stats.statuses.items() if Status(status).is_skipped)
        rates = {
            "toedit/eligible_rate": stats.eligible_rate,
            "toedit/changed_rate": stats.changed_rate,
            "toedit/editable_rate": stats.editable_rate,
            "toedit/editable_changed_rate": stats.editable_changed_rate,
        }
        if self.select is not None:
            rates = {
                "toedit/kept_rate": 1 - stats.eligible_rate,
                "toedit/no_labels_rate": stats.statuses.get(Status.NO_LABELS, 0) / max(1, stats.num_rows),
            }
        metrics = {
            "toedit/visited": stats.tokens.num_visited,
            **rates,
            "toedit/prior_perplexity": stats.perplexity,
            "toedit/skipped_rate": skipped / max(1, stats.num_rows),
        }
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _warn_if_futile(self, statuses: Counter[str], state: Any, *, is_over: bool = False) -> None:
        """Warn once per run, on the main process, if all sequences are skipped or most have no token in the loss.

        is_over: whether no more sequences follow.
        """
        if self._has_warned or not state.is_world_process_zero or not statuses.total():
            return
        if all_skipped(statuses):
            message = f"ToEditCallback edits nothing: every sequence so far was skipped: {explain(statuses)}"
        elif mostly_without_labels(statuses) and (is_over or statuses.total() >= ENOUGH):
            message = f"ToEditCallback: {without_labels_in_words(statuses, 'sequences')}"
        else:
            return
        self._has_warned = True
        warnings.warn(message, ToEditWarning, stacklevel=2)

    # sequences

    def _edited(self, rows: Sequence[TokenRow]) -> list[IntArray]:
        """The edited ids of each sequence. Shape [S] each."""
        results = self._editor.edit(rows)
        for result in results:
            self.history.statuses[result.status] += 1
            self.history.tokens += result.stats
        return [result.value for result in results]

    def _leaving(self, rows: Sequence[TokenRow]) -> list[BoolArray]:
        """Which tokens of each sequence leave the loss. Shape [S] each."""
        results = self._selector.select(rows, check_ids=self._checks_ids)
        for result in results:
            self.history.statuses[result.status] += 1
            self.history.tokens += result.stats
        return [result.leaves_T for result in results]


def _as_live_prior(prior: Any) -> Any:
    """A prior, or the name of one that is known when training begins."""
    return prior if isinstance(prior, str) and prior in LIVE else as_prior(prior, "ToEditCallback")


def _live_prior(trainer: Any, tokenizer: Any, setting: str, name: str) -> ModelPrior:
    """The model in training, or its frozen base, as a prior."""
    said = f"{setting}={name!r}"
    if tokenizer is None:
        raise ConfigError(f"{said} needs the tokenizer: give the trainer processing_class=")
    plugin = trainer.accelerator.state.deepspeed_plugin
    if trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
        raise ConfigError(f"{said} can't ask a model whose weights are spread over ranks: give a prior by name")
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    autocast = trainer.accelerator.autocast if trainer.accelerator.native_amp else None
    return ModelPrior(model, tokenizer, base=name == "base", autocast=autocast)


def _record_of(prior: Any) -> dict[str, Any]:
    """What is recorded of a prior."""
    if isinstance(prior, str):
        return {"prior": prior, "revision": None}
    return {**prior_record(prior), **prior_identity(prior)}


def _ours(trainer: Any) -> list[ToEditCallback]:
    """A trainer's ToEditCallbacks, in the order in which they edit."""
    return [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, ToEditCallback)]


def _column_names(dataset: Any) -> list[str]:
    """The columns of a dataset, empty if it does not declare any."""
    return list(getattr(dataset, "column_names", None) or ())
