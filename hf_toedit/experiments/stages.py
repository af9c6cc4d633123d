"""The stages of a recipe: each reads the folders of earlier ones and writes its own."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..editing.config import ToEditConfig
from ..editing.selection_stats import summarize_selection
from ..editing.stats import summarize
from ..errors import RowError, ToEditError
from ..files.secret import without_secrets
from ..hub.merging import CARD
from ..hub.push import push_dataset
from ..report.files import STATS, write_json, write_report
from ..selective_labels import SelectiveLabels
from ..statuses import all_skipped, explain
from ..transform import ToEditTransform
from ..types import BoolArray
from . import results
from .data import EDITABLE, ROWS, read_rows, remove_work
from .evaluation import evaluate, merged
from .recipe import Arm, EditSettings, Evaluate, Fields, Model, PriorChoice
from .samples import write_and_measure
from .training import CHECKPOINTS, LOG, MODEL, TrainJob, load_prior, load_tokenizer, train
from .units import edit_in_units

if TYPE_CHECKING:
    from datasets import Dataset

STATS_COLUMN, SELECTION = "toedit", "selection"
LAUNCH = """
import runpy
from hf_toedit.scale.interrupts import end_with_parent
end_with_parent()
runpy.run_module("accelerate.commands.launch", run_name="__main__", alter_sys=True)
"""


def edit(
    rows: Path,
    choice: PriorChoice,
    config: ToEditConfig,
    settings: EditSettings,
    shape: Fields,
    tokenized_for: Model | None,
    folder: Path,
) -> None:
    """Edit the rows once; `stats.json` and the histogram cover only the rows that may be edited.

    tokenized_for: whose tokenizer made the rows, if they hold `input_ids`.
    If it is interrupted, the next call with the same folder resumes.
    """
    work = folder / "work"
    if work.exists() or not (folder / STATS).is_file():  # else only the cleanup is left to do
        tokenizer = load_tokenizer(tokenized_for) if tokenized_for else None
        transform = ToEditTransform(load_prior(choice), config, stats=settings.stats, tokenizer=tokenizer, **shape)
        _edit(rows, transform, settings, work)
        work.rename(folder / "work-done")
    remove_work(folder)


def select(rows: Path, choice: PriorChoice, arm: Arm, batch_size: int, tokenized_for: Model, folder: Path) -> None:
    """Take tokens out of the loss: write rows of `input_ids` with the labels of an arm's selection."""
    tokenizer, base = load_tokenizer(tokenized_for), load_prior(arm.base) if arm.base else None
    labels = SelectiveLabels(load_prior(choice), arm.select, base=base, tokenizer=tokenizer, stats_column=SELECTION)
    cache = {"cache_file_name": str(folder / "work.arrow")}
    selected = _without(read_rows(rows), STATS_COLUMN).map(labels, batched=True, batch_size=batch_size, **cache)
    stats = summarize_selection(selected, SELECTION)
    if not stats.num_kept:
        raise RowError(f"the selection keeps no token in the loss ({stats.num_scored:,} scored): loosen select")
    _without(selected, SELECTION).save_to_disk(folder / ROWS)
    write_json(folder / "selection.json", {"kept_rate": stats.kept_rate, **dataclasses.asdict(stats)})
    remove_work(folder)


def _edit(rows: Path, transform: ToEditTransform, settings: EditSettings, work: Path) -> None:
    whole = _without(read_rows(rows), STATS_COLUMN)  # left by the previous generation
    is_editable = np.array(whole[EDITABLE] if EDITABLE in whole.column_names else [True] * len(whole))
    dataset = whole if is_editable.all() else whole.select(np.flatnonzero(is_editable))
    if transform.config.needs_corpus:
        transform.fit(dataset)
    edited = edit_in_units(dataset, transform, settings, work)
    stats = summarize(edited, STATS_COLUMN)
    if all_skipped(stats.statuses):
        raise RowError(f"no row can be edited: {explain(stats.statuses, 'edit.{}')}")
    _with_the_rest(edited, whole, is_editable).save_to_disk(work.parent / ROWS)
    write_report(work.parent, stats, transform.provenance())


def _with_the_rest(edited: Dataset, whole: Dataset, is_editable: BoolArray) -> Dataset:
    """The edited rows put back among the unedited ones, which have a null in the `toedit` column."""
    from datasets import concatenate_datasets

    if is_editable.all():
        return edited
    places = np.concatenate([np.flatnonzero(is_editable), np.flatnonzero(~is_editable)])
    rest = whole.select(np.flatnonzero(~is_editable))
    return concatenate_datasets([edited, rest]).select(np.argsort(places))


def _without(rows: Dataset, *columns: str) -> Dataset:
    return rows.remove_columns([name for name in columns if name in rows.column_names])


def push(generations: Sequence[Path], name: str, subset: str, source: str | None, public: bool, folder: Path) -> None:
    """Push the rows of an arm to the Hub as a config of a dataset, with the edits of all generations.

    generations: the stages that edited the rows, oldest first. source: the Hub id and commit of the recipe's data.
    """
    rows = _with_all_edits([_without(read_rows(stage), EDITABLE) for stage in generations])
    records = [results.read_json(stage / STATS)["run"] for stage in generations]
    pushed = push_dataset(rows, name, transform=records, source=source, config_name=subset, private=not public)
    write_json(folder / "push.json", {"dataset": pushed.repo_id, "subset": pushed.config_name, "url": pushed.url})


def _with_all_edits(generations: Sequence[Dataset]) -> Dataset:
    """The last generation with the `toedit` columns of those before it, as `toedit_1`, `toedit_2` and so on."""
    from datasets import concatenate_datasets

    *earlier, last = generations
    structs = [
        rows.select_columns([STATS_COLUMN]).rename_column(STATS_COLUMN, f"{STATS_COLUMN}_{number}")
        for number, rows in enumerate(earlier, start=1)
    ]
    return concatenate_datasets([_without(last, STATS_COLUMN), *structs, last.select_columns([STATS_COLUMN])], axis=1)


def run_job(job: TrainJob, accelerate: str | None, folder: Path) -> None:
    """Train in this process, or under `accelerate launch` with a config file, unless only the cleanup is left to do."""
    if not (folder / LOG).is_file():
        _train(job, accelerate, folder)
    for name in (ROWS, CHECKPOINTS):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / MODEL / CARD).unlink(missing_ok=True)  # by TRL or PEFT: the run writes its own


def _train(job: TrainJob, accelerate: str | None, folder: Path) -> None:
    import torch

    _without(read_rows(Path(job.data).parent), STATS_COLUMN, EDITABLE).save_to_disk(folder / ROWS)
    job = dataclasses.replace(job, data=str(folder / ROWS), folder=str(folder))
    if accelerate is None:
        train(job)
    else:
        write_json(folder / "job.json", without_secrets(dataclasses.asdict(job), masked=True))
        gc.collect()
        torch.cuda.empty_cache()  # what earlier stages left there
        launch = [sys.executable, "-c", LAUNCH, "--config_file", accelerate]
        code = subprocess.run(
            [*launch, "-m", "hf_toedit.experiments.training", str(folder / "job.json")], check=False
        ).returncode
        if code:
            raise ToEditError(f"`accelerate launch` ended with code {code}; see its output above")


def measure(
    trained: Path, settings: Evaluate, held_out: Mapping[str, Path], shape: Fields, seed: int, folder: Path
) -> None:
    """Write `metrics.json` with the metrics of the tasks, the held-out rows and the model's own texts."""
    rows = {name: read_rows(path) for name, path in held_out.items()}
    work = folder / "merged"
    metrics = evaluate(trained, settings, rows, shape, work)
    if settings.samples is not None:
        metrics |= write_and_measure(merged(trained / MODEL, work), settings.samples, rows, seed, folder)
    shutil.rmtree(work, ignore_errors=True)
    write_json(folder / "metrics.json", metrics)
