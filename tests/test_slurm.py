"""`hf-toedit edit --executor slurm`, on a stub of Slurm."""

# ruff: noqa: F811 - fixtures

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import pytest
from command_line import fail, run
from datatrove.tools import launch_pickled_pipeline
from slurm_stub import Slurm, kill
from small_edit import edit, in_this_process, shards, undisturbed  # noqa: F401 - fixtures
from test_cli import EDIT

from hf_toedit.scale.job import MANIFESTS, Job
from hf_toedit.scale.launches import SLURM_JOBS, Launch

SLURM = ["--executor", "slurm", "--time", "1:00:00"]

pytestmark = pytest.mark.usefixtures("folder", "in_this_process")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    slurm = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{slurm.bin}{os.pathsep}{os.environ['PATH']}")
    return slurm


def run_rank(slurm, monkeypatch, number, rank):
    """A task of a queued job, in this process."""
    [pickled] = re.findall(r"launch_pickled_pipeline (\S+)", slurm.job(number)["script"])
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_ARRAY_TASK_ID", str(rank))
        patch.setenv("SLURM_NODELIST", "here")
        patch.setattr(sys, "argv", ["launch_pickled_pipeline", pickled])
        patch.setattr("signal.signal", lambda *_: None)
        launch_pickled_pipeline.main()


def test_options_reach_sbatch(edit, slurm):
    asked = "--workers 3 --partition gpu --gpus-per-worker 1 --mem-per-worker 16 --sbatch account=nlp"
    run(*edit, "--out", "out", *SLURM, *asked.split(), "--sbatch", "exclusive", "--setup", "module load cuda")
    options, script = slurm.job("100")["options"], slurm.job("100")["script"]
    asked = {"partition": "gpu", "gpus": "1", "mem": "16G", "account": "nlp", "time": "1:00:00", "exclusive": ""}
    assert asked.items() <= options.items()
    assert options.keys().isdisjoint({"mem-per-cpu", "qos"})
    assert options["array"].endswith("%3")
    assert "\nmodule load cuda\n" in script
    assert f"export PATH={Path(sys.executable).parent}:" in script
    finish = slurm.job("101")["options"]
    assert finish["dependency"] == "afterany:100"
    assert finish["array"] == "0-0%1"
    assert finish["account"] == "nlp"
    assert finish.keys().isdisjoint({"gpus", "exclusive"})


def test_ranks_edit_what_the_local_executor_would(edit, slurm, monkeypatch, undisturbed):
    printed = run(*edit, "--out", "out", *SLURM, "--workers", "2")
    job = Job("out")
    assert f"Submitted {len(job.plan.units)} units as Slurm job 100" in printed
    first, last = map(int, re.match(r"(\d+)-(\d+)", slurm.job("100")["options"]["array"]).groups())
    assert (first, last) == (0, len(Launch.newest(job, SLURM_JOBS).read("ranks")) - 1)
    for rank in range(first, last + 1):
        assert not Path("out/data").exists()
        run_rank(slurm, monkeypatch, "100", rank)
    run_rank(slurm, monkeypatch, "101", 0)
    assert shards("out") == undisturbed


def test_the_same_command_again_submits_what_is_left(edit, slurm, monkeypatch, undisturbed):
    run(*edit, "--out", "out", *SLURM, "--workers", "2")
    run_rank(slurm, monkeypatch, "100", 3)
    left = Job("out").to_do()
    total = len(Job("out").plan.units)
    assert 0 < len(left) < total
    with pytest.raises(Exception, match=f"{len(left)} of {total} units are not done: run the same"):
        run_rank(slurm, monkeypatch, "101", 0)
    assert f"Submitted {len(left)} units as Slurm job 102" in run(*edit, "--out", "out", *SLURM, "--workers", "900")
    assert slurm.job("102")["options"]["array"] == f"0-{len(left) - 1}%{len(left)}"
    run_rank(slurm, monkeypatch, "102", 0)
    run(*edit, "--out", "out")  # another executor does the rest
    assert shards("out") == undisturbed


def test_many_workers_are_several_arrays_that_together_run_as_many_tasks(edit, slurm, monkeypatch, undisturbed):
    monkeypatch.setattr("hf_toedit.scale.slurm.MOST_WORKERS", 2)
    printed = run(*edit, "--out", "out", *SLURM, "--workers", "5")
    assert "as Slurm jobs 100, 101, 102; job 103 finishes the output after it" in printed
    assert "squeue -j 100,101,102,103 " in printed
    assert slurm.job("103")["options"]["dependency"] == "afterany:100:101:102"
    at_once = []
    for number in ("100", "101", "102"):
        last, workers = map(int, re.fullmatch(r"0-(\d+)%(\d)", slurm.job(number)["options"]["array"]).groups())
        at_once.append(workers)
        assert "dependency" not in slurm.job(number)["options"]
        for rank in range(last + 1):
            run_rank(slurm, monkeypatch, number, rank)
    assert sorted(at_once) == [1, 2, 2]
    run_rank(slurm, monkeypatch, "103", 0)
    assert shards("out") == undisturbed


def test_an_array_that_is_refused_takes_the_others_with_it(edit, slurm, monkeypatch):
    monkeypatch.setattr("hf_toedit.scale.slurm.MOST_WORKERS", 2)
    sbatch = slurm.bin / "sbatch"
    sbatch.rename(slurm.bin / "sbatch-once")
    sbatch.write_text(f'#!/bin/bash\n[[ -z $(ls {slurm.queue}) ]] && exec {slurm.bin}/sbatch-once "$@"\nexit 1\n')
    sbatch.chmod(0o755)
    assert "sbatch refused the job" in fail(*edit, "--out", "out", *SLURM, "--workers", "5")
    assert list(slurm.queue.iterdir()) == []
    assert not Path("out").exists()


def test_a_launch_that_still_runs_is_not_repeated(edit, slurm):
    run(*edit, "--out", "out", *SLURM)
    slurm.running.write_text("100\n")
    assert "still editing this output: see `squeue -j 100,101`" in fail(*edit, "--out", "out", *SLURM)
    assert len(list(slurm.queue.iterdir())) == 2


def test_sbatch_refuses(edit, slurm):
    (slurm.bin / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    assert "sbatch refused the job" in fail(*edit, "--out", "out", *SLURM)
    assert not Path("out").exists()


def test_sbatch_refuses_the_job_that_finishes(edit, slurm, monkeypatch, undisturbed):
    """As where each job must ask for a GPU: the same command again finishes."""
    sbatch = slurm.bin / "sbatch"
    sbatch.rename(slurm.bin / "sbatch-once")
    sbatch.write_text(f'#!/bin/bash\n[[ -z $(ls {slurm.queue}) ]] && exec {slurm.bin}/sbatch-once "$@"\nexit 1\n')
    sbatch.chmod(0o755)
    assert "as Slurm job 100; when it is done, run the same command again" in run(*edit, "--out", "out", *SLURM)
    for rank in range(len(Launch.newest(Job("out"), SLURM_JOBS).read("ranks"))):
        run_rank(slurm, monkeypatch, "100", rank)
    run(*edit, "--out", "out", *SLURM)
    assert shards("out") == undisturbed


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--time", "1h"], "--time has no effect with --executor local: leave it out, or use --executor slurm"),
        (["--executor", "slurm"], "needs sbatch: call it on a machine of the cluster"),
        (["--executor", "slurm", "--sbatch", "=x"], "'=x' is not NAME=VALUE"),
        (
            ["--executor", "slurm", "--setup", f"export HF_TOKEN=hf_{'x' * 34}"],
            "a token in --setup or --sbatch would be",
        ),
        (["--executor", "slurm", "--out", "s3://bucket/x"], "needs --out in a folder that all nodes share"),
    ],
)
def test_refused_before_anything_is_read(options, line):
    assert line in fail("edit", "absent.jsonl", *EDIT, *([] if "--out" in options else ["--out", "out"]), *options)
    assert not Path("out").exists()


def test_an_absent_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = fail("edit", "absent.jsonl", *EDIT, "--out", "out", "--executor", "slurm")
    assert line.endswith("--executor slurm needs datatrove: pip install 'hf-toedit[slurm]'")


@pytest.mark.slow
def test_tasks_killed_and_launched_again(edit, slurm, undisturbed):
    """Real processes: two of eight tasks are killed in mid-run; the second launch does what they left."""
    run(*edit, "--out", "out", *SLURM, "--workers", "2")

    def killed(rank, process):
        if rank in (0, 1):  # the largest shares
            done = len(Job("out").storage.names(MANIFESTS))
            while process.poll() is None and len(Job("out").storage.names(MANIFESTS)) == done:
                time.sleep(0.01)
            kill(process)

    codes = slurm.run("100", killed)
    assert {rank for rank, code in codes.items() if code} >= {0, 1}
    assert slurm.run("101")[0] != 0
    assert not Path("out/data").exists()
    run(*edit, "--out", "out", *SLURM, "--workers", "2")
    assert set(slurm.run("102").values()) == {0}
    assert slurm.run("103") == {0: 0}
    assert shards("out") == undisturbed
