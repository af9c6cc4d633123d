"""Workers on this machine, as real processes, with a scripted prior: their errors, deaths, warnings and GPUs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import load_tokenizer
from killed_edit import DEADLY, WRONG, deadly

from hf_toedit import ConfigError, PriorError, RowError, SourceError, StaticPrior, ToEditTransform, ToEditWarning
from hf_toedit.scale import workers
from hf_toedit.scale.job import Job
from hf_toedit.scale.plan import Plan
from hf_toedit.scale.planning import plan_source
from hf_toedit.scale.workers import default_threads, edit_units

pytestmark = pytest.mark.usefixtures("folder")


ABOUT = {"source": None, "earlier": [], "read_by": []}


def planned(signs, prior=deadly, **columns):
    """A job with a unit of one row for each sign."""
    rows = [{"text": sign * 3 + " and more", **columns} for sign in signs]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = Job(os.path.abspath("out"))
    files = plan_source(["a.jsonl"], job.storage, unit_bytes=1)
    transform = ToEditTransform(StaticPrior(load_tokenizer("demo"), prior), columns="text", stats="full")
    request = {"threads": 1, "batch_size": 10}
    job.create(Plan(request, transform.provenance(), files.features, files.files, files.units, ABOUT), transform)
    assert len(job.plan.units) == len(signs)
    return job


def test_a_unit_that_kills_its_worker_three_times_is_given_up_and_the_rest_goes_on():
    job = planned(["a", DEADLY, "b", "c"])
    with pytest.raises(SourceError) as error:
        edit_units(job, job.to_do(), workers=2)
    assert str(error.value) == (
        "1 of 4 units failed; unit 1: its worker died 3 times (killed by signal 9), perhaps out of memory: set fewer "
        "workers= or a smaller batch_size="
    )
    assert job.to_do() == [1]
    job.storage.remove_leftovers()
    assert job.storage.names(".toedit/tmp") == []


@pytest.mark.slow
def test_workers_that_get_nothing_done_end_the_work():
    job = planned([DEADLY] * 40)
    with pytest.raises(
        PriorError, match=r"^workers die before they have done anything \(killed by signal 9\), perhaps"
    ):
        edit_units(job, job.to_do(), workers=2)


def test_an_error_in_a_worker_ends_the_work_and_the_other_workers(capfd):
    job = planned(["a", WRONG, "b"])
    with pytest.raises(PriorError, match=r"^a worker failed on unit 1, with the error above$"):
        edit_units(job, job.to_do(), workers=2)
    assert "KeyError: '#'" in capfd.readouterr().err
    job = planned(["a", "b"], toedit=1)
    with pytest.raises(RowError, match="column 'toedit' already exists"):
        edit_units(job, job.to_do(), workers=2)


def test_a_disk_error_in_a_worker_is_raised_here_and_a_lost_source_fails_units():
    job = planned(["a", "b"])
    (job.storage.path / ".toedit/data").touch()
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        edit_units(job, job.to_do(), workers=2)
    (job.storage.path / ".toedit/data").unlink()
    os.remove("a.jsonl")
    with pytest.raises(SourceError, match=r"^2 of 2 units failed; unit 0: .*a\.jsonl"):
        edit_units(job, job.to_do(), workers=2)


def test_workers_warn_once_together_and_report_each_batch():
    job = planned(["a", "b", "c", "d"], input_ids=[5, 6])
    reports = []
    with pytest.warns(ToEditWarning, match="have both 'text' and 'input_ids'") as told:
        edit_units(job, job.to_do(), workers=2, on_batch=lambda worker, batch: reports.append((worker, batch.unit)))
    assert len(told) == 1
    assert sorted(unit for _, unit in reports) == [0, 1, 2, 3]
    assert {worker for worker, _ in reports} <= {0, 1}
    assert job.to_do() == []


@pytest.mark.parametrize(
    ("num_workers", "each", "visible", "expected"),
    [
        (2, None, None, ["0", "1"]),
        (2, 2, "4,5,6,7", ["4,5", "6,7"]),
        (3, None, "MIG-a,MIG-b,MIG-c,MIG-d", ["MIG-a", "MIG-b", "MIG-c"]),
        (9, 0, None, [None] * 9),
        (5, None, None, "workers=5 with gpus_per_worker=1 needs 5 GPUs, not 4: set workers=4"),
        (2, 3, None, "workers=2 with gpus_per_worker=3 needs 6 GPUs, not 4: set workers=1"),
        (1, 5, None, "workers=1 with gpus_per_worker=5 needs 5 GPUs, not 4: set gpus_per_worker=4"),
    ],
)
def test_each_worker_has_its_own_gpus(num_workers, each, visible, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if isinstance(expected, str):
        with pytest.raises(ConfigError) as error:
            workers._share_gpus(num_workers, each)
        assert str(error.value) == expected
    else:
        assert workers._share_gpus(num_workers, each) == expected


def test_without_gpus_workers_need_none_unless_they_are_asked_for(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert workers._share_gpus(3, None) == [None] * 3
    with pytest.raises(ConfigError, match="needs 3 GPUs, not 0: set gpus_per_worker=0"):
        workers._share_gpus(3, 1)
    job = planned(["a"])
    with pytest.raises(ConfigError, match="needs 1 GPU, not 0: set gpus_per_worker=0"):
        edit_units(job, job.to_do(), workers=1, gpus_per_worker=1)


def test_threads_are_an_even_share_of_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(10))
    assert [default_threads(num_workers) for num_workers in (1, 3, 10, 64)] == [10, 3, 1, 1]
