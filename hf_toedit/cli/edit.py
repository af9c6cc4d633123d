"""`hf-toedit edit`: a dataset, edited, into a new folder."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..editing.config import ToEditConfig
from ..editing.editor import StatsMode
from ..errors import ConfigError, SourceError, ToEditError
from ..files.sources import STDIN
from ..hub.dataset_card import terms_of
from ..hub.push import check_target, check_terms, push_folder
from ..hub.record_file import recorded_in
from ..hub.records import Record, records_of
from ..report.edits import show_edits
from ..report.tables import show_run
from ..rows.column import stats_columns
from ..scale.failures import check_no_row_failed, failed_rows, take_back_failed
from ..scale.finish import finish
from ..scale.job import SOURCE, Job, check_same, output, resumable
from ..scale.launches import check_idle
from ..scale.object_store import is_url
from ..scale.plan import Plan, without_folders
from ..scale.planning import Planned, as_bytes, check_same_files, files_read
from ..scale.progress import ProgressFormat
from ..scale.publishing import Publisher
from ..transform import ToEditTransform
from .executors import ExecutorOptions
from .options import DataOptions, OutOrUrl, PriorOptions, StatsColumn, UnitSize, note, say_where
from .push import show_pushed

NUM_SHOWN = 5
PUSH_HELP = "Also push it to this dataset on the Hub, such as me/flan-toedit; see `hf-toedit push`."
PROGRESS_HELP = (
    "How to show progress on stderr: bars; lines, one every half minute; json, an object at most once a second, with "
    "rows, tokens/s, visited, changed and the time left, in total and by worker; or none. auto: bars in a terminal, "
    "else lines."
)
THREADS_HELP = (
    "Number of threads of each worker. The last bits of log-probabilities depend on it, so it is kept when an edit is "
    "resumed. Default: an even share of this machine's cores; with other executors, 1."
)
RETRY_HELP = (
    "Edit units in which the prior failed on rows (failed.jsonl lists these) again, even if the output is finished."
)
WHILE_HELP = (
    "With --push: upload finished rows during the edit, every ten minutes, as a pull request that is merged at the end."
)
STATS_HELP = "Visit only positions that may change, or all of them (slower)."


def edit(
    prior: PriorOptions,
    data: DataOptions,
    config: ToEditConfig,
    executor: ExecutorOptions,
    out: OutOrUrl,
    stats: Annotated[StatsMode, typer.Option(help=STATS_HELP)] = "sampled",
    stats_column: StatsColumn = "toedit",
    threads: Annotated[int | None, typer.Option(help=THREADS_HELP, min=1)] = None,
    unit_size: UnitSize = "128MB",
    progress: Annotated[ProgressFormat, typer.Option(help=PROGRESS_HELP)] = "auto",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help=RETRY_HELP)] = False,
    push: Annotated[str | None, typer.Option(help=PUSH_HELP)] = None,
    push_while_running: Annotated[bool, typer.Option("--push-while-running", help=WHILE_HELP)] = False,
    public: Annotated[bool, typer.Option("--public", help="With --push: make it public.")] = False,
) -> None:
    """Edit a dataset with a prior, into a new folder. The same command again resumes an edit that was interrupted."""
    executor.check(out, prior.prior, push=push is not None)
    _check_apart(data.source, out)
    _check_push(push, out, while_running=push_while_running, public=public)
    with output(out, to_change=retry_failed) as job:
        is_needed = retry_failed or not job.is_finished()
        here = executor.executor == "local" and is_needed
        loaded = prior.load(data.workers, here=here, is_asked=config.needs_prior)
        transform = ToEditTransform(loaded, config, **data.what_to_edit(), stats=stats, stats_column=stats_column)
        request = {**data.request(), "unit_bytes": as_bytes(unit_size), "files": files_read(data.source, data.subset)}
        if job.is_planned():
            request |= {} if threads is None else {"threads": threads}
            _resume(job, data, transform, request, retry_failed=retry_failed)
        else:
            request["threads"] = threads or executor.default_threads(data.workers)
            _plan(job, data, transform, request, check=push is not None and public)
        publisher = Publisher(job, push, private=not public) if push and push_while_running else None
        with resumable(job, out):
            with publisher.running() if publisher else nullcontext():
                if not executor.edit(job, data.workers, progress):
                    return
            statistics, edited = finish(job)
            some_edits = edited.some_rows(NUM_SHOWN)
    console = Console()
    show_run(console, statistics)
    show_edits(console, some_edits, stats_column)
    say_where(console, out, _load_call(out))
    if publisher is not None:
        show_pushed(publisher.publish(edited, statistics))
    elif push is not None:
        _push(out, push, public=public)
    check_no_row_failed(out, statistics)


def _check_apart(source: list[str], out: str) -> None:
    """Raise ConfigError if the output would lie in the source's folder, where its rows would be read, too."""
    folders = [Path(name).expanduser().resolve() for name in source if Path(name).expanduser().is_dir()]
    if not is_url(out) and {*folders} & {*Path(out).expanduser().resolve().parents}:
        raise ConfigError(f"the output {out!r} lies in the folder of the source: name a folder elsewhere")


def _check_push(push: str | None, out: str, *, while_running: bool, public: bool) -> None:
    """Raise an error now for what would stop a push after hours of editing."""
    if push is None:
        if while_running:
            raise ConfigError("--push-while-running needs --push, which names the dataset")
        return
    if is_url(out):
        raise ConfigError("--push sends a folder: leave it out, or set --out to a folder")
    check_target(push, private=not public)


def _load_call(out: str) -> str:
    return f"load_dataset('parquet', data_files='{out}/data/*')" if is_url(out) else f"load_dataset({out!r})"


def _plan(job: Job, data: DataOptions, transform: ToEditTransform, request: Mapping[str, Any], *, check: bool) -> None:
    """Divide the source into units. check: whether the terms of source and prior must allow publishing."""
    planned = data.plan(job.storage, request["unit_bytes"])
    source = planned.source
    earlier, read_by = list[Record](), data.words(source)
    if stats_columns(planned.as_features()):
        (earlier, source), read_by = recorded_in(source), []
    if transform.config.needs_corpus:
        transform.fit(planned.read(job.storage, request["unit_bytes"], data.encoding_errors))
    if check:
        check_terms(terms_of(source, records_of([*earlier, transform])), private=False)
    about = {"source": None if source is None else dataclasses.asdict(source), "earlier": earlier, "read_by": read_by}
    record = transform.provenance()
    job.create(Plan(request, record, planned.features, planned.files, planned.units, about), transform)


def _resume(
    job: Job, data: DataOptions, transform: ToEditTransform, request: dict[str, Any], *, retry_failed: bool
) -> None:
    """Go on with what an earlier call planned. Raises SourceError if this one asks for another edit."""
    check_idle(job)
    if STDIN in data.source and not job.is_finished():
        note("using the rows that were read from standard input the first time")
    plan = job.plan
    if job.is_finished():
        plan, request = plan.without_paths(), without_folders(request)
    before, now = plan.request["files"], request.pop("files")
    if before.keys() & now.keys():  # else it is another SOURCE
        check_same_files(before, now)
    check_same(plan, request, transform)
    check_same_files(before, now)
    if retry_failed:
        _take_back(job, data, transform)
    if job.is_finished():
        job.check_whole()
    else:
        job.resume(transform)


def _take_back(job: Job, data: DataOptions, transform: ToEditTransform) -> None:
    """Mark the units with failed rows as not done. A finished output gets back what it no longer has."""
    if not any(failed_rows(job)):
        return
    plan, request = job.plan, job.plan.request
    if job.is_finished():
        is_copied = any(file.path.startswith(f"{SOURCE}/") for file in plan.files)
        if is_copied and data.plan(job.storage, request["unit_bytes"]).files != plan.files:
            job.storage.remove(SOURCE)
            raise SourceError("the source is not what it was when the edit began: restore it")
        if transform.config.needs_corpus:
            planned = Planned(plan.features, plan.files, plan.units)
            transform.fit(planned.read(job.storage, request["unit_bytes"], data.encoding_errors))
        job.create(plan, transform)
    take_back_failed(job)


def _push(out: str, repo_id: str, *, public: bool) -> None:
    """Push the folder. Raises a SourceError that has the command to try again."""
    try:
        show_pushed(push_folder(out, repo_id, private=not public))
    except ToEditError as error:
        again = shlex.join(["hf-toedit", "push", str(out), repo_id, *(["--public"] if public else [])])
        raise SourceError(f"{error}; the edited rows are in {str(out)!r}: try again with `{again}`") from error
