"""`Trainer(..., callbacks=[ToEditCallback(prior)])`: training on edited batches.

Shape suffixes: B rows of a batch, T tokens, S tokens of a sequence.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from .arguments import LIVE, as_config, as_prior, check_type
from .config import ToEditConfig
from .editor import Editor, TokenRow, windows
from .errors import ConfigError, RowError
from .law import is_eligible
from .stats import DatasetStats, TokenStats, probability_histogram
from .transform import SCOPE_COLUMNS, ToEditTransform, check_same_tokenizer
from .transformers_prior import ModelPrior
from .types import BoolArray, IntArray, Prior, ScoreRequest, Scores

if TYPE_CHECKING:
    import torch

IGNORED = -100  # the label of a token that has no part in the loss


class ToEditCallback(TrainerCallback):
    """Edits the training batches of transformers' Trainer and TRL's SFTTrainer, after collation, on every rank.

        trainer = SFTTrainer(..., callbacks=[ToEditCallback("Qwen/Qwen2.5-0.5B")])

    Equals training on the dataset that ToEditTransform edited, where a row is a sequence as it enters the model: of
    padding-free and packed batches each sequence by itself, of a document that packing cut the piece. Tokens with
    label -100, or outside of `completion_mask` or `assistant_masks` (in DPOTrainer and KTOTrainer: of the completions),
    are context; labels follow where they equalled the old id. Evaluation is left alone.

    prior: what ToEditTransform takes; `"base"`, the frozen base of the PEFT model in training (no second model in
        memory); or `"self"`, the model in training, as it is at that step.
    config: a ToEditConfig or a dict of its fields; or give the fields as keywords. The strategies that delete tokens
        are refused.
    redraw: edit anew in each epoch (the generation follows the epoch), or alike in all.
    truncate: change no token, but take those of p >= threshold out of the loss: truncated cross-entropy (ForTIFAI,
        arXiv 2509.08972, where p is the model's own: prior="self"). Every label is scored; `protect` has no effect.
    corpus: rows with `input_ids`, to count tokens for strategy="random"; default: the trainer's train_dataset.

    With each loss the trainer logs `toedit/visited`, `toedit/eligible_rate` (with truncate: what left the loss),
    `toedit/changed_rate`, `toedit/prior_perplexity` and `toedit/skipped_rate` (of sequences): since the last time, of
    all ranks together. Raises ConfigError, and PriorError where prior and trainer have different tokenizers.
    """

    def __init__(
        self,
        prior: str | os.PathLike[str] | tuple[Any, Any] | Prior,
        config: ToEditConfig | Mapping[str, Any] | None = None,
        *,
        redraw: bool = True,
        truncate: bool = False,
        corpus: Any = None,
        **config_fields: Any,
    ) -> None:
        self.config = as_config(config, config_fields, "ToEditCallback")
        check_type("redraw", redraw, bool, "true or false")
        check_type("truncate", truncate, bool, "true or false")
        if self.config.strategy in ("drop", "resample_and_drop"):
            raise ConfigError(f"strategy={self.config.strategy!r} would shorten input_ids: edit the dataset instead")
        if truncate and self.config.strategy != "resample":
            raise ConfigError(f"truncate=True changes no token: leave out strategy={self.config.strategy!r}")
        self.prior: Any = prior if isinstance(prior, str) and prior in LIVE else as_prior(prior, "ToEditCallback")
        self.redraw, self.truncate, self.corpus = redraw, truncate, corpus
        self._trainers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._editor: Any = None
        self._epoch = 0
        self._statuses: Counter[str] = Counter()
        self._tokens = TokenStats()

    def attach(self, trainer: Any) -> None:
        """Have a trainer's batches edited. `callbacks=[...]` does it too, when training begins; twice is once."""
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        if trainer not in self._trainers:
            self._trainers.add(trainer)
            trainer.get_batch_samples = partial(self._get_batch_samples, trainer, trainer.get_batch_samples)
            trainer.log = partial(self._log, trainer, trainer.log)

    # events of the trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._find_trainer()
        self.attach(trainer)
        self._editor = self._make_editor(trainer)
        self._epoch = int(state.epoch or 0) - 1  # of a resumed run that of the checkpoint
        self._statuses, self._tokens = Counter(), TokenStats()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epoch += 1
        generation = self.config.generation + (self._epoch if self.redraw else 0)
        self._editor.config = dataclasses.replace(self.config, generation=generation)

    def _find_trainer(self) -> Any:
        """The trainer that called: transformers gives callbacks everything but that."""
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
        if trainer.get_sp_size() > 1:
            raise ConfigError("under sequence parallelism a rank sees parts of a row: edit the dataset instead")
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)  # of a processor, its own
        prior = self._live_prior(trainer, tokenizer) if isinstance(self.prior, str) else self.prior
        is_comparable = hasattr(tokenizer, "backend_tokenizer")
        if is_comparable:
            check_same_tokenizer(tokenizer, prior)
        counts_V = self._count(trainer, prior) if self.config.strategy == "random" else None
        return Editor(prior, self.config, unigram_counts_V=counts_V, check_ids=not is_comparable)

    def _live_prior(self, trainer: Any, tokenizer: Any) -> ModelPrior:
        setting = f"prior={self.prior!r}"
        if tokenizer is None:
            raise ConfigError(f"{setting} needs the tokenizer: give the trainer processing_class=")
        plugin = trainer.accelerator.state.deepspeed_plugin
        if trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
            raise ConfigError(f"{setting} can't ask a model whose weights are spread over ranks: give a prior by name")
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        autocast = trainer.accelerator.autocast if trainer.accelerator.native_amp else None
        return ModelPrior(model, tokenizer, base=self.prior == "base", autocast=autocast)

    def _count(self, trainer: Any, prior: Prior) -> IntArray:
        """The counts of each id in the corpus. Shape [V]."""
        corpus = trainer.train_dataset if self.corpus is None else self.corpus
        if self.corpus is None and not hasattr(corpus, "__len__"):
            raise ConfigError("strategy='random' counts tokens, and train_dataset is a stream: give corpus=, some rows")
        counts_V = ToEditTransform(prior, columns="input_ids").fit(corpus).unigram_counts_V
        assert counts_V is not None
        return counts_V

    # instead of the trainer's own methods

    def _get_batch_samples(self, trainer: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The batches of one optimizer step, edited."""
        batches, num_items = original(*args, **kwargs)
        if self not in trainer.callback_handler.callbacks or not batches:
            return batches, num_items
        cuts = [_cut(batch) for batch in batches]
        rows = [row for cut in cuts for _, _, row in cut]
        values: Iterator[Any] = iter(self._certain(rows) if self.truncate else self._edited(rows))
        put = _without_labels if self.truncate else _with_ids
        batches = [
            put(batch, [(b, start, next(values)) for b, start, _ in cut])
            for batch, cut in zip(batches, cuts, strict=True)
        ]
        if self.truncate:
            num_items = trainer._get_num_items_in_batch(batches, trainer.args.device)
            num_items = num_items.clamp(min=1) if hasattr(num_items, "clamp") else num_items
        return batches, num_items

    def _log(self, trainer: Any, original: Callable[..., Any], logs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The trainer's training logs come with a learning rate, on every rank at the same steps."""
        if self in trainer.callback_handler.callbacks and {"loss", "learning_rate"} <= logs.keys():
            logs = {**logs, **self._metrics()}
        return original(logs, *args, **kwargs)

    def _metrics(self) -> dict[str, float]:
        from accelerate.utils import gather_object

        ranks = gather_object([(self._statuses, self._tokens)])
        statuses: Counter[str] = sum((counter for counter, _ in ranks), start=Counter())
        stats = DatasetStats(
            statuses.total(), dict(statuses), 0, sum((tokens for _, tokens in ranks), start=TokenStats())
        )
        self._statuses, self._tokens = Counter(), TokenStats()
        skipped = sum(count for status, count in statuses.items() if status.startswith("skipped"))
        metrics = {
            "toedit/visited": stats.tokens.num_visited,
            "toedit/eligible_rate": stats.eligible_rate,
            "toedit/changed_rate": stats.changed_rate,
            "toedit/prior_perplexity": stats.perplexity,
            "toedit/skipped_rate": skipped / max(1, stats.num_rows),
        }
        return {name: value for name, value in metrics.items() if not math.isnan(value)}

    # sequences

    def _edited(self, rows: Sequence[TokenRow]) -> list[IntArray]:
        """The edited ids of each sequence. Shape [S] each."""
        results = self._editor.edit_ids(rows)
        for result in results:
            self._statuses[result.status] += 1
            self._tokens += result.stats
        return [result.input_ids_T for result in results]

    def _certain(self, rows: Sequence[TokenRow]) -> list[BoolArray]:
        """Which tokens in scope have p >= threshold. Shape [S] each; False where a token has no context."""
        prior = self._editor.prior
        reasons = [self._editor.mismatch(row.input_ids_T[row.attention_T]) for row in rows]
        asked = [_requests(row, prior) if not reason else [] for row, reason in zip(rows, reasons, strict=True)]
        scored = iter(prior.score([request for requests in asked for request, _ in requests], self.config.top_k))
        found = []
        for row, reason, requests in zip(rows, reasons, asked, strict=True):
            windows_scored = [(places, next(scored)) for _, places in requests]
            if not all(np.isfinite(scores.logprob_E).all() for _, scores in windows_scored):
                reason, windows_scored = "skipped:nonfinite", []
            self._statuses[reason or "unchanged"] += 1
            self._tokens += TokenStats(num_tokens=0 if reason else int(row.attention_T.sum()))
            found.append(self._certain_of(row, windows_scored))
        return found

    def _certain_of(self, row: TokenRow, scored: Sequence[tuple[IntArray, Scores]]) -> BoolArray:
        """Which tokens of a sequence are certain, by the scores of places in it. Shape [S]."""
        certain_S = np.zeros(len(row.input_ids_T), dtype=bool)
        for places, scores in scored:
            certain_S[places] = is_eligible(scores, self.config)
            self._tokens += TokenStats(
                num_visited=len(places),
                num_visited_eligible=int(certain_S[places].sum()),
                logprob_sum=float(scores.logprob_E.sum()),
                histogram=probability_histogram(scores.logprob_E),
            )
        return certain_S


def _requests(row: TokenRow, prior: Prior) -> list[tuple[ScoreRequest, IntArray]]:
    """Requests for all tokens of a row that are in scope, with their places in the row."""
    places_T = np.flatnonzero(row.attention_T)
    ids_T, wanted_T = row.input_ids_T[places_T], row.scope_T[places_T]
    wanted_T[:1] = False
    found = []
    for start, first, end in windows(len(ids_T), prior.max_length or max(2, len(ids_T)), prior.stride):
        inside = first + np.flatnonzero(wanted_T[first:end])
        if len(inside):
            found.append((ScoreRequest(ids_T[start : inside[-1] + 1], inside - start), places_T[inside]))
    return found


def _cut(batch: Mapping[str, Any]) -> list[tuple[int, int, TokenRow]]:
    """The sequences of a batch, as (row of the batch, start, tokens). Those of one token are left out."""
    if "input_ids" not in batch:
        raise RowError(f"a training batch has no input_ids to edit (it has {', '.join(map(repr, batch))})")
    ids_BT = _array(batch["input_ids"])
    attention_BT = np.ones(ids_BT.shape, dtype=bool)
    if "attention_mask" in batch:
        attention_BT = _field(batch, "attention_mask") != 0
    scope_BT, begins_BT = _scope(batch, ids_BT.shape), _begins(batch, ids_BT.shape)
    found = []
    for b, ids_T in enumerate(ids_BT):
        starts = np.flatnonzero(begins_BT[b]).tolist()
        for start, end in zip(starts, [*starts[1:], len(ids_T)], strict=True):
            row = TokenRow(ids_T[start:end], attention_BT[b, start:end], scope_BT[b, start:end])
            if row.attention_T.sum() > 1:
                found.append((b, start, row))
    return found


def _begins(batch: Mapping[str, Any], shape: tuple[int, ...]) -> BoolArray:
    """Where a sequence begins: the first token, and where positions do not go on (so transformers reads packing)."""
    begins_BT = np.zeros(shape, dtype=bool)
    begins_BT[:, :1] = True
    if "position_ids" in batch:
        begins_BT[:, 1:] |= np.diff(_field(batch, "position_ids")) != 1
    if "seq_idx" in batch:
        begins_BT[:, 1:] |= np.diff(_field(batch, "seq_idx")) != 0
    if "cu_seq_lens_q" in batch:
        starts = _array(batch["cu_seq_lens_q"])
        begins_BT[:, starts[starts < shape[1]]] = True
    return begins_BT


def _scope(batch: Mapping[str, Any], shape: tuple[int, ...]) -> BoolArray:
    """Tokens that the model learns; all where there are neither labels nor masks for it."""
    scope_BT = np.ones(shape, dtype=bool)
    if "labels" in batch:
        scope_BT = _field(batch, "labels") != IGNORED
    elif "shift_labels" in batch:
        scope_BT[:, 1:] = _field(batch, "shift_labels")[:, :-1] != IGNORED
    for name in SCOPE_COLUMNS:
        if name in batch:
            scope_BT = scope_BT & (_field(batch, name) != 0)
    return scope_BT


def _field(batch: Mapping[str, Any], name: str) -> IntArray:
    """A tensor of a batch that has a number for each token. Shape [B, T]."""
    array, shape = _array(batch[name]), tuple(batch["input_ids"].shape)
    if array.ndim > 2 or array.shape[-1:] != shape[-1:] or array.shape[:-1] not in ((), (1,), shape[:-1]):
        raise RowError(f"{name} of a training batch has the shape {array.shape}: it must be that of input_ids, {shape}")
    return np.broadcast_to(array, shape)


def _with_ids(batch: Mapping[str, Any], ids: Sequence[tuple[int, int, IntArray]]) -> Mapping[str, Any]:
    """A batch with new ids from (row, start) on; labels follow where they equalled the old ones.

    The tensors are new: the old ones may belong to the dataset.
    """
    old_BT = batch["input_ids"]
    array_BT = _array(old_BT).copy()
    for b, start, ids_S in ids:
        array_BT[b, start : start + len(ids_S)] = ids_S
    new_BT = _tensor(array_BT, old_BT)
    edited: Any = copy.copy(batch)
    edited["input_ids"] = new_BT
    for name, offset in (("labels", 0), ("shift_labels", -1)):  # no sequence's first token changes: rolling is safe
        if name in batch:
            follows_BT = batch[name] == old_BT.roll(offset, 1)
            edited[name] = new_BT.roll(offset, 1).where(follows_BT, batch[name])
    return edited  # type: ignore[no-any-return]


def _without_labels(batch: Mapping[str, Any], certain: Sequence[tuple[int, int, BoolArray]]) -> Mapping[str, Any]:
    """A batch without the labels of certain tokens."""
    if "labels" not in batch and "shift_labels" not in batch:
        raise RowError(f"truncate=True needs labels in the training batches (they have {', '.join(map(repr, batch))})")
    certain_BT = np.zeros(tuple(batch["input_ids"].shape), dtype=bool)
    for b, start, certain_S in certain:
        certain_BT[b, start : start + len(certain_S)] = certain_S
    truncated: Any = copy.copy(batch)
    for name, offset in (("labels", 0), ("shift_labels", -1)):
        if name in batch:
            mask_BT = _tensor(np.roll(certain_BT, offset, axis=1), batch[name])
            truncated[name] = batch[name].masked_fill(mask_BT.bool(), IGNORED)
    return truncated  # type: ignore[no-any-return]


def _array(tensor: torch.Tensor) -> IntArray:
    array: IntArray = tensor.detach().cpu().numpy().astype(np.int64)
    return array


def _tensor(array: Any, like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.from_numpy(array).to(device=like.device, dtype=like.dtype)
