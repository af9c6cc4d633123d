"""Units as Hugging Face Jobs, on a local Hub that runs them."""

# ruff: noqa: F811 - fixtures

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import fail, run
from datasets import Dataset
from fsspec.implementations.memory import MemoryFileSystem
from small_edit import edit, in_this_process, shards, undisturbed  # noqa: F401 - fixtures

from hf_toedit import ConfigError, SourceError, __version__
from hf_toedit.cli.executors import ExecutorOptions
from hf_toedit.scale import hub_jobs, launches
from hf_toedit.scale.finish import finish
from hf_toedit.scale.hub_jobs import JobsOptions, edit_on_jobs
from hf_toedit.scale.job import Job
from hf_toedit.scale.launches import Launch

OPTIONS = JobsOptions(2, "l4x1")
MODULE = ["python", "-m", "hf_toedit.scale.launches"]

pytestmark = pytest.mark.usefixtures("folder", "in_this_process")


@pytest.fixture
def job(edit, hub, monkeypatch):
    """A planned output in which nothing is done, and a Hub that asks for no patience."""
    monkeypatch.setattr(hub_jobs, "POLL_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(ExecutorOptions, "edit", lambda *_: False)
        run(*edit, "--out", "out", "--threads", "1")
    hub.work = works
    return Job(str(Path("out").resolve()))


@pytest.fixture
def say():
    class Said(list):
        def __call__(self, line):
            self.append(line)

    return Said()


def works(hub_job):
    """Runs a job in this process, when it is asked about for the second time."""
    if hub_job.stage == "SCHEDULING":
        hub_job.stage = "RUNNING"
    elif hub_job.stage == "RUNNING":
        out, name, rank = arguments(hub_job)
        try:
            Launch(Job(out), name).edit_rank(int(rank), say=hub_job.log.append)
            hub_job.stage = "COMPLETED"
        except SourceError as error:
            hub_job.stage, hub_job.log = "ERROR", [*hub_job.log, f"error: {error}"]


def arguments(hub_job):
    """What a job passes to `python -m hf_toedit.scale.launches`."""
    words = hub_job.spec["command"]
    assert words[words.index("python") :][:3] == MODULE
    return words[words.index("python") + 3 :]


def edit_all(job, options, say, on_batch=lambda worker, batch: None):
    return edit_on_jobs(job, job.to_do(), options, on_batch, say)


def test_jobs_edit_what_the_local_executor_would(job, hub, say, undisturbed):
    reports = []
    assert edit_all(job, OPTIONS, say, lambda *report: reports.append(report))
    assert sorted(batch.unit for _, batch in reports) == list(range(len(job.plan.units)))
    assert {worker for worker, _ in reports} == {0, 1}
    assert sum(batch.num_tokens for _, batch in reports) == sum(
        job.manifest(number).stats.tokens.num_tokens for number in range(len(job.plan.units))
    )
    assert "jobs: 2 on 1x Nvidia L4, $1.60 per hour, 12h at most" in say
    assert [line for line in say if re.search("running|completed", line)]
    finish(job)
    assert shards("out") == undisturbed


def test_what_a_job_is_asked_for(job, hub, say):
    options = JobsOptions(2, "l4x1", timeout="3h", namespace="org")
    edit_all(job, options, say)
    first, second = hub.jobs.values()
    assert first.namespace == "org"
    assert first.spec["flavor"] == "l4x1"
    assert first.spec["timeoutSeconds"] == 3 * 3600
    assert first.spec["dockerImage"].startswith("ghcr.io/astral-sh/uv")
    assert first.spec["command"][:4] == ["uv", "run", "--with", f"hf-toedit=={__version__}"]
    assert [arguments(hub_job)[0] for hub_job in (first, second)] == [job.out] * 2
    assert [arguments(hub_job)[2] for hub_job in (first, second)] == ["0", "1"]


def test_the_token_is_a_secret_and_nowhere_else(job, hub, say):
    def leaks(hub_job):
        hub_job.stage, hub_job.log = "ERROR", [f"my token is {hub.token}"]

    hub.work = leaks
    with pytest.raises(SourceError, match="ended without finishing any"):
        edit_all(job, OPTIONS, say)
    [spec, _] = [hub_job.spec for hub_job in hub.jobs.values()]
    assert spec.pop("secrets") == {"HF_TOKEN": hub.token}
    assert hub.token not in str(spec)
    assert "  my token is ***" in say
    assert not [line for line in say if hub.token in line]
    written = [path for path in Path("out").rglob("*") if path.is_file()]
    assert not [path for path in written if hub.token.encode() in path.read_bytes()]


def test_an_image_of_ones_own_installs_nothing(job, hub, say):
    edit_all(job, JobsOptions(1, "cpu-basic", image="me/image:1"), say)
    [hub_job] = hub.jobs.values()
    assert hub_job.spec["dockerImage"] == "me/image:1"
    assert hub_job.spec["command"][:3] == MODULE


def test_what_a_job_leaves_is_given_to_new_ones(job, hub, say, undisturbed):
    """Each job of the first round ends at its time limit, with one unit done."""

    def works_for_a_while(hub_job):
        if len(hub.jobs) > 2:
            return works(hub_job)
        out, name, rank = arguments(hub_job)
        launch = Launch(Job(out), name)
        launches.edit_units(job, launch.read("ranks")[int(rank)][:1])
        hub_job.stage, hub_job.message = "ERROR", "Job timeout"

    hub.work = works_for_a_while
    assert edit_all(job, OPTIONS, say)
    assert len(hub.jobs) == 4
    assert [line for line in say if "error (Job timeout)" in line]
    finish(job)
    assert shards("out") == undisturbed


def test_ctrl_c_cancels_the_jobs(job, hub, say):
    def interrupts(hub_job):
        hub_job.stage = "RUNNING"

    hub.work = interrupts

    def stop(_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_jobs.time, "sleep", stop)
        with pytest.raises(KeyboardInterrupt):
            edit_all(job, OPTIONS, say)
    assert [hub_job.stage for hub_job in hub.jobs.values()] == ["CANCELED"] * 2


def test_a_job_that_can_not_be_cancelled_is_named(job, hub, say):
    hub.work = lambda hub_job: None
    hub.fail("POST .*/cancel", 503, times=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_jobs.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            edit_all(job, OPTIONS, say)
    first, second = hub.jobs.values()
    assert [first.stage, second.stage] == ["SCHEDULING", "CANCELED"]
    assert [line for line in say if f"`hf jobs cancel {first.id}`" in line]


def test_a_job_that_is_not_launched_takes_the_others_with_it(job, hub, say):
    hub.fail("POST /api/jobs/me$", 402, body='{"error": "Pre-paid credit balance is insufficient"}', after=1)
    with pytest.raises(SourceError, match="credit balance is insufficient"):
        edit_all(job, OPTIONS, say)
    assert [hub_job.stage for hub_job in hub.jobs.values()] == ["CANCELED"]


def test_jobs_left_alone_are_followed_by_the_next_call(job, hub, say, undisturbed):
    assert edit_all(job, JobsOptions(2, "l4x1", detach=True), say) is False
    assert edit_all(job, OPTIONS, say) is True
    assert "following 2 jobs that an earlier call launched" in say
    assert len(hub.jobs) == 2
    finish(job)
    assert shards("out") == undisturbed


def test_a_hub_that_is_away_for_a_while(job, hub, say):
    hub.fail("GET /api/jobs/me/", 503, times=5)
    assert edit_all(job, OPTIONS, say)
    assert job.to_do() == []


def test_a_hub_that_stays_away(job, hub, say):
    hub.fail("GET /api/jobs/me/", 503)
    with pytest.raises(SourceError, match="the jobs may still run: the same command follows them"):
        edit_all(job, OPTIONS, say)
    assert [hub_job.stage for hub_job in hub.jobs.values()] == ["SCHEDULING"] * 2


def test_a_job_that_somebody_cancelled_is_not_launched_again(job, hub, say):
    def cancelled(hub_job):
        hub_job.stage = "CANCELED"

    hub.work = cancelled
    with pytest.raises(SourceError, match="was cancelled: the same command resumes"):
        edit_all(job, OPTIONS, say)
    assert len(hub.jobs) == 2


def test_hardware_that_does_not_exist(job, hub, say):
    with pytest.raises(ConfigError, match=r"'l4' is not hardware of Hugging Face Jobs; did you mean 'l4x1'\?"):
        edit_all(job, JobsOptions(2, "l4"), say)
    assert not hub.jobs


def test_without_a_token(job, monkeypatch, say):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match="needs a token: run `hf auth login`"):
        edit_all(job, OPTIONS, say)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "--executor jobs needs --flavor"),
        (["--flavor", "l4x1"], "--executor jobs needs --out in a bucket, such as hf://buckets/me/name/folder"),
        (["--flavor", "l4x1", "--gpus-per-worker", "1"], "--gpus-per-worker has no effect with --executor jobs"),
    ],
)
def test_refused_before_anything_is_read(options, line):
    assert line in fail("edit", "absent.jsonl", "--prior", "demo", "--out", "out", "--executor", "jobs", *options)


class Buckets(MemoryFileSystem):
    """The buckets of the Hub, in memory."""

    protocol = "hf"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("hf:/"))


@pytest.fixture
def buckets(monkeypatch):
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "hf", Buckets)
    Buckets.store.clear()
    Buckets.pseudo_dirs.clear()
    yield Buckets()
    Buckets.store.clear()


def test_the_command_from_end_to_end(edit, hub, buckets, monkeypatch):
    """A source that is copied to the bucket, an output in the bucket, and jobs that see nothing else."""
    monkeypatch.setattr(hub_jobs, "POLL_SECONDS", 0)
    hub.work = works
    Dataset.from_json(str(edit[1])).to_csv("rows.csv")
    edit = ["edit", "rows.csv", *edit[2:], "--threads", "1"]
    run(*edit, "--out", "local")
    jobs = ["--executor", "jobs", "--flavor", "l4x1", "--workers", "2", "--out", "hf://buckets/me/edits/rows"]
    run(*edit, *jobs, "--detach")
    assert [hub_job.stage for hub_job in hub.jobs.values()] == ["SCHEDULING"] * 2
    printed = run(*edit, *jobs)
    assert "Wrote hf://buckets/me/edits/rows" in printed
    found = {
        Path(name).name: buckets.cat_file(name) for name in buckets.ls("/buckets/me/edits/rows/data", detail=False)
    }
    assert found == shards("local")
    assert len(hub.jobs) == 2


def test_a_source_that_jobs_can_not_read(edit, hub, buckets):
    options = ["--executor", "jobs", "--flavor", "l4x1", "--out", "hf://buckets/me/edits/rows"]
    assert re.search("jobs can't read '/.*rows.jsonl': push the source to the Hub first", fail(*edit, *options))
    assert not buckets.find("/buckets/me/edits/rows")
    assert not hub.jobs


@pytest.mark.slow
def test_jobs_in_real_processes(job, hub, say, undisturbed):
    """The very command of the job, without its installation, with its environment and its secrets."""
    processes = {}

    def work(hub_job):
        if hub_job.id not in processes:
            command = [sys.executable, *hub_job.spec["command"][5:]]
            given = {**hub_job.spec["environment"], **hub_job.spec["secrets"]}
            processes[hub_job.id] = subprocess.Popen(command, env={**os.environ, **given}, cwd="/", text=True)
            hub_job.stage = "RUNNING"
        elif (code := processes[hub_job.id].poll()) is not None:
            hub_job.stage = "ERROR" if code else "COMPLETED"

    hub.work = work
    hub_jobs.POLL_SECONDS = 0.5
    assert edit_all(job, OPTIONS, say)
    assert [process.returncode for process in processes.values()] == [0, 0]
    finish(job)
    assert shards("out") == undisturbed
