"""What edits did to the data that a model was trained on: the record of each, and its counts over the training."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..editing.config import ToEditConfig
from ..editing.stats import DatasetStats, TokenStats
from ..rows.provenance import without_paths
from ..statuses import Status

STATE = "toedit"  # among the callback states in trainer_state.json


@dataclasses.dataclass(frozen=True)
class TrainingEdit:
    """One edit of what a model was trained on.

    record: as from `ToEditTransform.provenance` or `ToEditCallback.provenance`.
    stats: what the edit did, over `steps`.
    steps: the first and the last training step whose batches were edited. None for a dataset edited before training.
    """

    record: Mapping[str, Any]
    stats: DatasetStats
    steps: tuple[int, int] | None = None


def count(statuses: Mapping[str, int], tokens: TokenStats) -> DatasetStats:
    """The statistics of sequences counted in training."""
    return DatasetStats(sum(statuses.values()), dict(statuses), 0, tokens)


def total(stats: Iterable[DatasetStats]) -> DatasetStats:
    """The sum of statistics."""
    statuses, tokens = Counter[str](), TokenStats()
    for one in stats:
        statuses.update(one.statuses)
        tokens += one.tokens
    return count(statuses, tokens)


def joined(edits: Sequence[TrainingEdit]) -> list[TrainingEdit]:
    """The edits of a training; those that continue another one with the same settings are added to it."""
    done: list[TrainingEdit] = []
    for edit in edits:
        last = done.pop() if done else None
        done += [edit] if last is None else _sum(last, edit)
    return done


def _sum(one: TrainingEdit, other: TrainingEdit) -> list[TrainingEdit]:
    if one.steps is None or other.steps is None or other.steps[0] != one.steps[1] + 1:
        return [one, other]
    if _settings(one.record) != _settings(other.record):
        return [one, other]
    return [TrainingEdit(other.record, total([one.stats, other.stats]), (one.steps[0], other.steps[1]))]


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """What makes it the same edit: a prior with a revision may be in another folder by now, and so may a base."""
    left_out = ("versions", "prior") if record["revision"] else ("versions",)
    base = {"base": _settings(record["base"])} if record.get("base") else {}
    return {**{name: value for name, value in record.items() if name not in left_out}, **base}


def store(state: Any, edits: Sequence[Sequence[TrainingEdit]]) -> None:
    """Put the edits of each callback into a TrainerState, which checkpoints hold."""
    state.stateful_callbacks[STATE] = [[_as_dict(edit) for edit in of_one] for of_one in edits]


def restored(stored: Any) -> list[list[TrainingEdit]]:
    """The edits of each callback that `store` put there; none for anything else."""
    try:
        return [[_from_dict(fields) for fields in of_one] for of_one in stored]
    except (LookupError, TypeError, ValueError, AttributeError):
        return []


def _as_dict(edit: TrainingEdit) -> dict[str, Any]:
    """An edit, ready for JSON, without local paths: a checkpoint may be pushed."""
    counts = {"statuses": dict(edit.stats.statuses), "tokens": dataclasses.asdict(edit.stats.tokens)}
    return {"record": without_paths(edit.record), "steps": edit.steps and list(edit.steps), **counts}


def _from_dict(fields: Mapping[str, Any]) -> TrainingEdit:
    tokens = {**fields["tokens"], "histogram": tuple(fields["tokens"]["histogram"])}
    statuses: dict[str, int] = {Status(name): int(number) for name, number in fields["statuses"].items()}
    first, last = map(int, fields["steps"])
    record = {"config": None, "prior": None, "revision": None, **fields["record"]}
    ToEditConfig.from_dict(record["config"])
    return TrainingEdit(record, count(statuses, TokenStats(**tokens)), (first, last))
