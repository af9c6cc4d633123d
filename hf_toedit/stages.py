"""The stages of a recipe: each reads the folders of earlier ones and writes its own."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .config import ToEditConfig
from .contrasts import LEVEL, SOURCE, cell, contrast_lines, contrasts, interval, number
from .errors import RowError, SourceError, ToEditError, in_one_line, nearest
from .interrupts import fresh_workers
from .recipe import BUFFER, Data, Edit, Evaluate, PriorChoice
from .remedies import all_skipped, explain, told_afterwards
from .report import write_json, write_report
from .secret import without_secrets
from .sources import load_source, stream_source
from .stats import summarize
from .training import CHECKPOINTS, LOG, TrainJob, evaluate, load_prior, train
from .transform import ToEditTransform

ROWS = "data"  # in each folder of rows
STATS_COLUMN = "toedit"
EDITABLE = "toedit_editable"  # a column of mixtures in which a source has `edit: false`
NEW = "new:"  # while columns are filled: one named as in the source would keep the source's Arrow type


def load(data: Sequence[Data], folder: Path) -> None:
    """The rows of all sources, one after the other, in the columns that training reads."""
    from datasets import concatenate_datasets

    parts = [_read(one, folder / f"work-{i}", is_part=len(data) > 1) for i, one in enumerate(data)]
    for one, rows in zip(data, parts, strict=True):
        if rows.features != parts[0].features:
            raise RowError(f"{one.source!r} has other columns or types than {data[0].source!r}: see data.columns")
    if not all(one.edit for one in data):
        parts = [rows.add_column(EDITABLE, np.full(len(rows), one.edit)) for one, rows in zip(data, parts, strict=True)]
    concatenate_datasets(parts).save_to_disk(folder / ROWS)
    _remove_work(folder)


def _remove_work(folder: Path) -> None:
    for path in folder.glob("work*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _read(data: Data, work: Path, *, is_part: bool) -> Any:
    """The rows of one source as a Dataset. work: a folder for what lies on the disk meanwhile."""
    work.mkdir()
    rows, characters = (_streamed if data.stream else _loaded)(data, work)
    if is_part and characters < (data.characters or 0):
        raise RowError(
            f"{data.source!r} holds fewer than {data.characters:,} characters: the shares of the mixture would change"
        )
    return rows


def _loaded(data: Data, work: Path) -> tuple[Any, float]:
    """The rows of a source that is loaded whole, and how many characters they have, as far as one has to know."""
    loaded = load_source(data.source, split=data.split, subset=data.subset, revision=data.revision)
    rows = next(iter(loaded.values()))
    _check_columns(data, rows.column_names)
    rows = rows.select_columns(data.fields() or rows.column_names)
    if data.where:
        rows = rows.filter(data.matches, cache_file_name=str(work / "where.arrow"))
        _check_some(data, rows)
    if data.is_cut and data.sample_seed is not None:
        rows = rows.shuffle(seed=data.sample_seed, indices_cache_file_name=str(work / "order.arrow"))
    if data.limit is not None:
        rows = rows.select(range(min(data.limit, len(rows))))

    def fill(row: Mapping[str, Any], index: int) -> dict[str, Any]:
        return {NEW + name: value for name, value in _filled(data, row, index).items()}

    options = {"remove_columns": rows.column_names, "cache_file_name": str(work / "filled.arrow")}
    rows = rows.map(fill, with_indices=True, **options)
    rows = rows.rename_columns({NEW + name: name for name in data.columns})
    if data.characters is None:
        return rows, math.inf
    num_rows, characters = 0, 0
    for row in rows:
        if characters >= data.characters:
            break
        num_rows, characters = num_rows + 1, characters + _characters(row)
    return rows.select(range(num_rows)), characters


def _streamed(data: Data, work: Path) -> tuple[Any, float]:
    """As `_loaded`, of a source that is read no further than it takes."""
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    stream = stream_source(data.source, split=data.split, subset=data.subset, revision=data.revision)
    _check_columns(data, list(next(iter(stream), {})))
    if data.where:
        stream = stream.filter(data.matches)
        _check_some(data, stream)
    if data.sample_seed is not None:
        stream = stream.shuffle(seed=data.sample_seed, buffer_size=BUFFER)
    characters = 0

    def taken() -> Iterator[dict[str, Any]]:
        nonlocal characters
        characters = 0
        for index, row in enumerate(stream if data.limit is None else stream.take(data.limit)):
            if characters >= (data.characters or math.inf):
                return
            filled = _filled(data, row, index)
            characters += _characters(filled)
            yield filled

    try:
        return Dataset.from_generator(taken, cache_dir=str(work)), characters
    except DatasetGenerationError as error:
        cause = error.__cause__
        if isinstance(cause, ToEditError):
            raise cause from error
        raise SourceError(f"can't stream {data.source!r}: {in_one_line(cause or error)}") from error


def _check_columns(data: Data, columns: Sequence[str]) -> None:
    missing = [name for name in data.fields() if name not in columns]
    if missing:
        names = ", ".join(map(repr, columns))
        close = nearest(missing[0], columns)
        raise RowError(
            f"{data.source!r} has no column {missing[0]!r} (columns: {names}){close.partition('; known')[0]}"
        )


def _check_some(data: Data, rows: Any) -> None:
    if next(iter(rows), None) is None:
        raise RowError(f"{data.source!r} has no row that matches data.where (types count: put texts in quotes)")


def _filled(data: Data, row: Mapping[str, Any], index: int) -> dict[str, Any]:
    try:
        return {name: _fill(template, row) for name, template in data.columns.items()}
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RowError(f"row {index} of {data.source!r} does not fit data.columns: {error}") from error


def _characters(row: Mapping[str, Any]) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))


class _Filler(string.Formatter):
    """Fills a template of data.columns. A null is an error, and not the word None."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        if value is None:
            raise ValueError("a field that it needs is null; filter such rows out, or leave the field out")
        return super().format_field(value, format_spec)


def _fill(template: str, row: Mapping[str, Any]) -> Any:
    name = template[1:-1]
    is_lone = template == f"{{{name}}}" and row.get(name) is not None
    return row[name] if is_lone else _Filler().vformat(template, (), row)


def edit(
    rows: Path, choice: PriorChoice, config: ToEditConfig, settings: Edit, shape: Mapping[str, Any], folder: Path
) -> None:
    """The rows edited once, with `stats.json` and a histogram, both of the rows that may be edited alone."""
    whole = _without(_rows(rows), STATS_COLUMN)  # that of the generation before
    is_editable = np.array(whole[EDITABLE] if EDITABLE in whole.column_names else [True] * len(whole))
    dataset = whole if is_editable.all() else whole.select(np.flatnonzero(is_editable))
    transform = ToEditTransform(load_prior(choice), config, stats=settings.stats, **shape)
    if config.strategy == "random":
        transform.fit(dataset)
    with _fresh_processes(), fresh_workers(), told_afterwards():
        edited = dataset.map(
            transform,
            batched=True,
            batch_size=settings.batch_size,
            num_proc=settings.num_proc if settings.num_proc > 1 else None,
            cache_file_name=str(folder / "work.arrow"),
            desc="Editing",
        )
    stats = summarize(edited, STATS_COLUMN)
    if all_skipped(stats.statuses):
        raise RowError(f"no row can be edited: {explain(stats.statuses, 'edit.{}')}")
    _with_the_rest(edited, whole, is_editable).save_to_disk(folder / ROWS)
    write_report(folder, stats, transform.provenance())
    _remove_work(folder)


def _with_the_rest(edited: Any, whole: Any, is_editable: Any) -> Any:
    """The edited rows at their places among those that pass through, which have a null in the `toedit` column."""
    from datasets import concatenate_datasets

    if is_editable.all():
        return edited
    places = np.concatenate([np.flatnonzero(is_editable), np.flatnonzero(~is_editable)])
    rest = whole.select(np.flatnonzero(~is_editable))
    return concatenate_datasets([edited, rest]).select(np.argsort(places))


def _rows(folder: Path) -> Any:
    """The rows that a stage wrote."""
    from datasets import load_from_disk
    from pyarrow.lib import ArrowException

    try:
        return load_from_disk(str(folder / ROWS))
    except (OSError, ValueError, LookupError, TypeError, ArrowException) as error:
        raise broken(folder / ROWS, in_one_line(error)) from error


def _without(rows: Any, *columns: str) -> Any:
    return rows.remove_columns([name for name in columns if name in rows.column_names])


@contextmanager
def _fresh_processes() -> Iterator[None]:
    """Workers of `map` start anew, with a thread each: forks of a process in which torch has run can hang."""
    import multiprocess

    method, threads = multiprocess.get_start_method(), os.environ.get("OMP_NUM_THREADS")
    multiprocess.set_start_method("spawn", force=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        multiprocess.set_start_method(method, force=True)
        del os.environ["OMP_NUM_THREADS"]
        os.environ.update({} if threads is None else {"OMP_NUM_THREADS": threads})


def push(rows: Path, name: str, subset: str, folder: Path) -> None:
    """The edited rows to the Hub, as a subset of that dataset."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        commit = _without(_rows(rows), EDITABLE).push_to_hub(name, config_name=subset, split="train")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        fix = "log in with `hf auth login`, or leave --push out"
        raise SourceError(f"can't push to {name!r}: {in_one_line(error)}; {fix}") from error
    write_json(folder / "push.json", {"dataset": name, "subset": subset, "commit": commit.oid})


def run_job(job: TrainJob, accelerate: str | None, folder: Path) -> None:
    """Train in this process, or under `accelerate launch` with a config file; not again where only tidying was left."""
    if not (folder / LOG).is_file():
        _train(job, accelerate, folder)
    for name in (ROWS, CHECKPOINTS):
        shutil.rmtree(folder / name, ignore_errors=True)


def _train(job: TrainJob, accelerate: str | None, folder: Path) -> None:
    import torch

    _without(_rows(Path(job.data).parent), STATS_COLUMN, EDITABLE).save_to_disk(folder / ROWS)
    job = dataclasses.replace(job, data=str(folder / ROWS), folder=str(folder))
    if accelerate is None:
        train(job)
    else:
        write_json(folder / "job.json", without_secrets(dataclasses.asdict(job), masked=True))
        gc.collect()
        torch.cuda.empty_cache()  # what earlier stages left there
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", accelerate]
        code = subprocess.run([*launch, "-m", "hf_toedit.training", str(folder / "job.json")], check=False).returncode
        if code:
            raise ToEditError(f"`accelerate launch` ended with code {code}; see its output above")


def measure(
    trained: Path, settings: Evaluate, held_out: Mapping[str, Path], shape: Mapping[str, Any], folder: Path
) -> None:
    """`metrics.json`: of the tasks and of the held-out rows."""
    rows = {name: _rows(path) for name, path in held_out.items()}
    work = folder / "merged"
    metrics = evaluate(trained, settings, rows, shape, work)
    shutil.rmtree(work, ignore_errors=True)
    write_json(folder / "metrics.json", metrics)


def report(
    evaluations: Mapping[str, Mapping[int, Path]],
    edits: Mapping[str, Sequence[Path]],
    controls: Mapping[str, str],
    folder: Path,
) -> None:
    """`report.json` and `report.md`: each arm's metrics over seeds and edit rates, and what differs between arms."""
    metrics = {
        arm: {seed: _metrics(path / "metrics.json") for seed, path in seeds.items()}
        for arm, seeds in evaluations.items()
    }
    found = contrasts(metrics, controls)
    arms: dict[str, Any] = {}
    for arm, seeds in metrics.items():
        names = sorted({name for found in seeds.values() for name in found})
        arms[arm] = {
            "edits": [_rates(path / "stats.json") for path in edits.get(arm, [])],
            "metrics": {name: interval([found[name] for found in seeds.values()]) for name in names},
        }
        own = [one for one in found if (one["arm"], one["against"]) == (arm, SOURCE)]
        if own:
            parts = ("mean", "low", "high", "values")
            arms[arm]["minus_source"] = {one["metric"]: {part: one[part] for part in parts} for one in own}
    write_json(folder / "report.json", {"level": LEVEL, "arms": arms, "contrasts": found})
    lines = [*_markdown(arms), "", *contrast_lines(found)]
    (folder / "report.md").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a file that an earlier stage wrote. Raises SourceError where it is broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise broken(path, in_one_line(error)) from error
    if not isinstance(value, dict):
        raise broken(path, "it is not a mapping")
    return value


def broken(path: Path, why: str) -> SourceError:
    return SourceError(
        f"can't read {str(path)!r}: {why}; remove the folder {str(path.parent)!r} to run its stage again"
    )


def _metrics(path: Path) -> dict[str, float]:
    metrics = read_json(path)
    if not all(isinstance(value, (int, float)) for value in metrics.values()):
        raise broken(path, "not all of its values are numbers")
    return metrics


def _rates(path: Path) -> dict[str, Any]:
    stats = read_json(path)
    names = ("num_rows", "num_tokens", "num_visited", "eligible_rate", "num_changed", "changed_rate")
    try:
        return {"generation": stats["run"]["config"]["generation"], **{name: stats[name] for name in names}}
    except (LookupError, TypeError) as error:
        raise broken(path, f"it has no {error}") from error


def _markdown(arms: Mapping[str, Any]) -> Iterator[str]:
    names = sorted({name for found in arms.values() for name in found["metrics"]})
    num_seeds = max((len(value["values"]) for found in arms.values() for value in found["metrics"].values()), default=0)
    yield f"Means over {num_seeds} seed(s) with their 95 % intervals (Student's t)."
    for title, key in (("metric", "metrics"), ("minus source, by seed", "minus_source")):
        columns = [arm for arm, found in arms.items() if key in found]
        if columns:
            yield from ("", f"| {title} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|")
            for name in names:
                yield f"| {name} | " + " | ".join(cell(arms[arm][key].get(name)) for arm in columns) + " |"
    rates = [(arm, rate) for arm, found in arms.items() for rate in found["edits"]]
    if rates:
        yield from ("", "| arm | generation | tokens | eligible rate | changed rate |", "|---|---|---|---|---|")
    for arm, rate in rates:
        shown = [number(rate[name]) for name in ("eligible_rate", "changed_rate")]
        yield f"| {arm} | {rate['generation']} | {rate['num_tokens']:,} | " + " | ".join(shown) + " |"
