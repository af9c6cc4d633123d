"""The same `hf-toedit edit` again: it resumes, returns at once, or says what differs. In this process."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import fail, run
from datasets import load_dataset
from typer.testing import CliRunner

from hf_toedit import PriorError
from hf_toedit.cli import executors
from hf_toedit.cli.command import app
from hf_toedit.cli.options import PriorOptions
from hf_toedit.priors.server_prior import VLLMServerPrior
from hf_toedit.scale import unit, workers
from hf_toedit.scale.job import Job
from hf_toedit.scale.storage import LocalFolder

pytestmark = pytest.mark.usefixtures("folder")
ROWS = [{"id": i, "text": f"Return a list of {i} numbers, or raise an error."} for i in range(70)]
BY_MODEL = ["edit", "a.jsonl", "--prior", "demo", "--threshold", "0.3", "--unit-size", "1KB"]
RANDOM = ["--strategy", "random", "--rate", "0.3", "--distribution", "uniform"]  # asks no model
EDIT = [*BY_MODEL[:-2], *RANDOM, *BY_MODEL[-2:]]
RESUMES = "and the same command resumes"


@pytest.fixture(autouse=True)
def _source(folder):
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def interrupt_after(number, monkeypatch, error=KeyboardInterrupt):
    """Make the edit fail when it comes to a unit; the numbers of the units that are edited."""
    edited = []

    def edit_unit(job, unit_number, on_batch, then=unit.edit_unit):
        if len(edited) == number:
            monkeypatch.setattr(workers, "edit_unit", then)
            raise error
        edited.append(unit_number)
        return then(job, unit_number, on_batch)

    monkeypatch.setattr(workers, "edit_unit", edit_unit)
    return edited


def shards(out):
    return {file.name: file.read_bytes() for file in Path(out, "data").iterdir()}


def test_a_second_call_does_the_rest_and_the_output_is_the_same(monkeypatch):
    run(*BY_MODEL, "--out", "whole")
    total = len(Job("whole").plan.units)
    assert total > 2
    first = interrupt_after(2, monkeypatch, PriorError("no more"))
    line = fail(*BY_MODEL, "--out", "out")
    assert line == f"error: no more; 2 of {total} units are done, {RESUMES}"
    assert sorted(os.listdir("out")) == [".toedit"]
    assert fail("push", "out", "me/x") == "error: 'out' holds an edit that is not finished: run its command again"
    rest = interrupt_after(total, monkeypatch)
    run(*BY_MODEL, "--out", "out")
    assert first + rest == [*range(total)]
    assert shards("out") == shards("whole")
    assert load_dataset("out")["train"]["id"] == [row["id"] for row in ROWS]


def test_a_shard_that_is_not_as_it_was_written_is_edited_again(monkeypatch):
    run(*EDIT, "--out", "whole")
    interrupt_after(3, monkeypatch, PriorError("no more"))
    fail(*EDIT, "--out", "out")
    job = Job("out")
    short, gone, damaged = (job.storage.path / ".toedit/data" / job.plan.shard_name(number) for number in range(3))
    os.truncate(short, short.stat().st_size - 1)
    gone.unlink()
    (job.storage.path / ".toedit/units/000002.json").write_text('{"unit": 2')
    assert job.to_do() == [*range(len(job.plan.units))]
    run(*EDIT, "--out", "out")
    assert shards("out") == shards("whole")
    assert damaged.name in shards("out")


def test_a_finished_output_that_lost_a_shard_or_has_a_damaged_one_is_refused_with_its_name():
    run(*EDIT, "--out", "out")
    job = Job("out")
    shard = job.storage.path / "data" / job.plan.shard_name(1)
    written = shard.read_bytes()
    shard.write_bytes(bytes(len(written)))
    name = f"'data/{shard.name}' in the output {str(job.storage.path)!r}"
    assert fail(*EDIT, "--out", "out").startswith(f"error: {name} is damaged: ")
    shard.unlink()
    gone = f"error: {name}, or its manifest, is gone or damaged: remove the output and start again"
    assert fail(*EDIT, "--out", "out") == gone
    shard.write_bytes(written)
    units = job.storage.path / ".toedit/units"
    (units / "000001.json").write_bytes((units / "000002.json").read_bytes())
    assert fail(*EDIT, "--out", "out") == gone
    assert job.manifest(1) is None


def test_an_unfinished_edit_that_cannot_be_read_is_refused(monkeypatch):
    interrupt_after(1, monkeypatch, PriorError("no more"))
    fail(*EDIT, "--out", "out")
    for name in ("plan.json", "transform.pkl"):
        file = Path("out/.toedit", name)
        written = file.read_bytes()
        for damaged in (b"", written[:99]):
            file.write_bytes(damaged)
            assert fail(*EDIT, "--out", "out").endswith("remove the output and start again")
        file.write_bytes(written)
    run(*EDIT, "--out", "out")


def test_an_output_may_have_the_name_of_a_pattern():
    run(*EDIT, "--out", "o[u]t*")
    tables = [pq.read_table(file) for file in sorted(Path("o[u]t*/data").iterdir())]
    assert [i for table in tables for i in table["id"].to_pylist()] == [row["id"] for row in ROWS]


def test_a_finished_output_is_shown_again_without_work_even_where_nothing_can_be_written(monkeypatch):
    first = run(*EDIT, "--out", "out")
    edited = interrupt_after(0, monkeypatch)
    monkeypatch.setattr(LocalFolder, "write", lambda *arguments: pytest.fail("it writes"))
    assert run(*EDIT, "--out", "out") == first
    assert edited == []
    assert "--threshold 0.3, now 0.4" in fail(*EDIT, "--threshold", "0.4", "--out", "out")


def test_another_edit_is_refused_with_all_that_differs(monkeypatch):
    interrupt_after(1, monkeypatch, PriorError("no more"))
    fail(*EDIT, "--out", "out")
    others = ["--threshold", "0.4", "--seed", "3", "--protect", "code", "--protect", "x+", "--exclude-target"]
    others += ["--batch-size", "7", "--limit", "9", "--columns", "text", "--stats", "full", "--threads", "77"]
    usual = workers.default_threads(1)
    assert fail(*EDIT, *others, "--out", "out") == (
        "error: the output was begun with --limit not set, now 9; --batch-size 1000, now 7; "
        f"--threads {usual}, now 77; --threshold 0.3, now 0.4; --exclude-target off, now on; --seed 0, now 3; "
        "--protect not set, now code,x+; --columns not set, now text; --stats sampled, now full: "
        "repeat the options, or name another folder"
    )
    assert "begun with --unit-size 1KB, now 128MB: " in fail(*EDIT[:-2], "--out", "out")
    assert "begun with --unit-size 1KB, now 1025: " in fail(*EDIT[:-1], "1025", "--out", "out")
    Path("b.jsonl").write_bytes(Path("a.jsonl").read_bytes())
    assert "begun with SOURCE a.jsonl, now b.jsonl: " in fail("edit", "b.jsonl", *EDIT[2:], "--out", "out")
    assert Job("out").to_do() == [*range(1, len(Job("out").plan.units))]


def test_a_call_that_fails_before_a_unit_is_done_leaves_nothing(monkeypatch):
    interrupt_after(0, monkeypatch, PriorError("no more"))
    assert fail(*EDIT, "--out", "deep/out") == "error: no more"
    assert os.listdir() == ["a.jsonl"]


def test_what_a_killed_call_left_before_it_had_a_plan_is_replaced():
    Path("out/.toedit/source").mkdir(parents=True)
    Path("out/.toedit/source/train-00007.parquet").write_text("half")
    run(*EDIT, "--out", "out")
    assert sorted(os.listdir("out/.toedit")) == ["plan.json", "units"]


def test_a_new_disk_will_do_and_a_folder_with_a_file_will_not():
    Path("disk/lost+found").mkdir(parents=True)
    run(*EDIT, "--out", "disk")
    Path("mine/.toedit").mkdir(parents=True)
    Path("mine/notes").touch()
    assert fail(*EDIT, "--out", "mine") == "error: the output 'mine' exists: remove it or name another folder"
    assert sorted(os.listdir("mine")) == [".toedit", "notes"]
    assert len(load_dataset("disk")["train"]) == len(ROWS)


def test_what_dead_processes_left_unfinished_is_removed_and_what_live_ones_write_is_not(monkeypatch):
    interrupt_after(1, monkeypatch, PriorError("no more"))
    fail(*EDIT, "--out", "out")
    scratch = Path("out/.toedit/tmp").resolve()
    with LocalFolder("out").scratch() as own:
        host, boot, pid, started, _ = own.name.split(".")
        dead, elsewhere = (
            scratch / f"{host}.{boot}.{pid}.1{started}.aaaaaaaa",
            scratch / "node7-0123abcd.b.1.7.aaaaaaaa",
        )
        for folder in (dead, elsewhere):
            folder.mkdir()
        interrupt_after(1, monkeypatch, PriorError("no more"))
        fail(*EDIT, "--out", "out")
        assert sorted(scratch.iterdir()) == sorted([own, elsewhere])
    run(*EDIT, "--out", "out")
    assert not scratch.exists(), "when all is done, nobody can be at work"


def test_the_number_of_threads_is_kept_and_set_while_the_edit_runs(monkeypatch):
    import torch

    seen = []
    monkeypatch.setattr(executors, "default_threads", lambda workers: 3)

    def edit_unit(job, number, on_batch, then=unit.edit_unit):
        seen.append((torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]))
        if len(seen) == 2:
            raise PriorError("no more")
        return then(job, number, on_batch)

    before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    monkeypatch.setattr(workers, "edit_unit", edit_unit)
    fail(*EDIT, "--out", "out")
    monkeypatch.setattr(executors, "default_threads", lambda workers: 1)
    run(*EDIT, "--out", "out")
    assert set(seen) == {(3, "3")}
    assert (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == before
    assert Job("out").plan.request["threads"] == 3


def test_a_login_in_the_address_of_a_server_reaches_workers_but_not_the_output(monkeypatch):
    monkeypatch.setattr(VLLMServerPrior, "max_length", 64)  # instead of asking it
    options = PriorOptions("demo", url="http://me:rosebud77@localhost:9")
    prior = options.load(workers=2)
    pickled = pickle.dumps(prior)
    assert b"rosebud" not in pickled
    assert pickle.loads(pickled)._login == prior._login == ("me", "rosebud77")


@pytest.mark.filterwarnings("always::hf_toedit.ToEditWarning")
def test_a_warning_is_shown_once_for_all_units():
    rows = [{**row, "input_ids": [5, 6, 7]} for row in ROWS]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = CliRunner().invoke(app, [*EDIT, "--columns", "text", "--out", "out"])
    assert result.exit_code == 0, result.stderr
    assert len(Job("out").plan.units) > 2
    assert result.stderr.count("warning: ") == 1, result.stderr


DISK = """
mount -t tmpfs -o size={small} tmpfs out && {line} --out out
echo "code $?" >&2; find out -path '*data*' -type f | wc -l
mount -o remount,ro,size=40m out; {line} --out out
echo "code $?" >&2
mount -o remount,rw out; {line} --out out && ls -A out; ls out/data | wc -l
"""


@pytest.mark.slow
def test_an_empty_mount_point_that_fills_up_and_turns_read_only_is_finished_later(folder):
    Path("out").mkdir()
    rows = [{"id": i, "text": os.urandom(5000).hex()} for i in range(100)]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    line = f"{sys.executable} -m hf_toedit edit a.jsonl --prior demo --strategy none --unit-size 100KB --progress none"
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("needs the right to mount")
    script = DISK.format(small="1600k", line=line)
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=500)
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error", "code"))]
    total = 10
    assert errors[1::2] == ["code 2", "code 2"]
    assert errors[0].startswith("error: can't write the output 'out': No space left on device")
    assert errors[2].startswith("error: can't write the output 'out': Read-only file system")
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == str(total)


def test_an_output_within_the_folder_of_the_source_is_refused():
    os.mkdir("folder")
    shutil.copy("a.jsonl", "folder")
    line = fail("edit", "folder", "--prior", "demo", "--out", "folder/out")
    assert line == "error: the output 'folder/out' lies in the folder of the source: name a folder elsewhere"
    assert os.listdir("folder") == ["a.jsonl"]
