"""What edits did to the data that a model was trained on: the record of each, and its counts over the training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..editing.stats import DatasetStats, TokenStats

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
    if _without_versions(one.record) != _without_versions(other.record):
        return [one, other]
    names = {**one.stats.statuses, **other.stats.statuses}
    statuses = {name: one.stats.statuses.get(name, 0) + other.stats.statuses.get(name, 0) for name in names}
    stats = count(statuses, one.stats.tokens + other.stats.tokens)
    return [TrainingEdit(other.record, stats, (one.steps[0], other.steps[1]))]


def _without_versions(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "versions"}


def store(state: Any, edits: Sequence[Sequence[TrainingEdit]]) -> None:
    """Put the edits of each callback into a TrainerState, which checkpoints hold."""
    state.stateful_callbacks[STATE] = [[_as_dict(edit) for edit in of_one] for of_one in edits]


def restored(state: Any, place: int) -> list[TrainingEdit]:
    """The edits that `store` put into a TrainerState for one callback; none if it holds none."""
    try:
        return [_from_dict(fields) for fields in state.stateful_callbacks[STATE][place]]
    except (LookupError, TypeError, ValueError, AttributeError):
        return []


def _as_dict(edit: TrainingEdit) -> dict[str, Any]:
    counts = {"statuses": dict(edit.stats.statuses), "tokens": dataclasses.asdict(edit.stats.tokens)}
    return {"record": dict(edit.record), "steps": edit.steps and list(edit.steps), **counts}


def _from_dict(fields: Mapping[str, Any]) -> TrainingEdit:
    tokens = {**fields["tokens"], "histogram": tuple(fields["tokens"]["histogram"])}
    statuses = {str(name): int(number) for name, number in fields["statuses"].items()}
    first, last = map(int, fields["steps"])
    return TrainingEdit(dict(fields["record"]), count(statuses, TokenStats(**tokens)), (first, last))
