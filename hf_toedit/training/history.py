"""What a callback did in training: since the last log, and over all runs of a model, for its card and checkpoints."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from ..editing.stats import DatasetStats, TokenStats
from ..hub.training_edits import STATE, TrainingEdit, count, joined, restored, store


class History:
    """The edits of one callback.

    statuses, tokens: of the sequences since the last log, on this rank.
    logged: the statuses that this run has logged, over all ranks.
    """

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.tokens = TokenStats()
        self.logged: Counter[str] = Counter()
        self._logged_tokens = TokenStats()
        self._record: dict[str, Any] = {}
        self._begin = 0  # the step after which this run edits
        self._earlier: list[TrainingEdit] = []  # of the runs that this one continues
        self._edits: weakref.WeakKeyDictionary[Any, list[TrainingEdit]] = weakref.WeakKeyDictionary()

    def begin(self, trainer: Any, record: dict[str, Any]) -> None:
        """Begin a run. record: of its edits."""
        self.statuses, self.tokens = Counter(), TokenStats()
        self.logged, self._logged_tokens = Counter(), TokenStats()
        self._record, self._begin = record, trainer.state.global_step
        self._earlier = self._edits_before(trainer)
        self.take_stock(trainer)

    def _edits_before(self, trainer: Any) -> list[TrainingEdit]:
        """The edits in the checkpoint that a run resumes, or in earlier runs that trained the same model."""
        if trainer.state.global_step:
            stored = restored(trainer.state.stateful_callbacks.get(STATE))
            return dict(enumerate(stored)).get(_histories(trainer).index(self), [])
        return self.edits(trainer) if trainer.model_init is None else []

    def take_stock(self, trainer: Any) -> DatasetStats:
        """What all ranks did since the last log; `edits` has it from now on. Every rank must call this."""
        from accelerate.utils import gather_object

        ranks = gather_object([(self.statuses, self.tokens)])
        statuses: Counter[str] = sum((counter for counter, _ in ranks), start=Counter())
        tokens = sum((tokens for _, tokens in ranks), start=TokenStats())
        so_far = count(self.logged + statuses, self._logged_tokens + tokens)
        edit = TrainingEdit(self._record, so_far, (self._begin + 1, trainer.state.global_step))
        self._edits[trainer] = joined([*self._earlier, edit])
        return count(statuses, tokens)

    def log(self, trainer: Any) -> DatasetStats:
        """What all ranks did since the last log. This is the next one."""
        stats = self.take_stock(trainer)
        self.logged += Counter(stats.statuses)
        self._logged_tokens += stats.tokens
        self.statuses, self.tokens = Counter(), TokenStats()
        return stats

    def edits(self, trainer: Any) -> list[TrainingEdit]:
        """The edits of a trainer's model up to the last log or checkpoint."""
        return self._edits.get(trainer, [])


def _histories(trainer: Any) -> list[History]:
    """Those of a trainer's callbacks, in the order in which they edit."""
    found = (getattr(callback, "history", None) for callback in trainer.callback_handler.callbacks)
    return [history for history in found if isinstance(history, History)]


def edits_in_training(trainer: Any) -> list[TrainingEdit]:
    """All edits of a trainer's model up to the last log or checkpoint."""
    return [edit for history in _histories(trainer) for edit in history.edits(trainer)]


def keep_in_state(trainer: Any) -> None:
    """Put the edits into the trainer's state, which checkpoints hold. Every rank must call this."""
    for history in _histories(trainer):
        history.take_stock(trainer)
    store(trainer.state, [history.edits(trainer) for history in _histories(trainer)])


def keep_in_checkpoints(trainer: Any) -> None:
    """Do so before each checkpoint."""
    trainer._save_checkpoint = partial(_save_checkpoint, trainer, trainer._save_checkpoint)


def _save_checkpoint(trainer: Any, original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    keep_in_state(trainer)
    original(*args, **kwargs)
