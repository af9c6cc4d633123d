"""A prior that fails, for a moment or on a certain row, costs no other row anything, and no row is lost."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset
from jobs import NUM_ROWS, TEXTS, FailingPrior, job_of, never, on, shards, statuses, table_of

from hf_toedit import PriorError
from hf_toedit.scale import failures
from hf_toedit.scale.failures import failed_rows, take_back_failed, write_failed_rows
from hf_toedit.scale.workers import edit_units


@pytest.fixture
def undisturbed(tmp_path):
    job = job_of(tmp_path / "undisturbed", Dataset.from_dict({"text": TEXTS}), FailingPrior(never))
    edit_units(job, job.to_do())
    assert len(shards(job)) > 4
    assert set(statuses(job)) == {"edited"}
    return shards(job)


def test_a_failure_that_passes_leaves_no_trace(tmp_path, undisturbed):
    prior = FailingPrior(lambda call, requests: call % 3 == 1)
    job = job_of(tmp_path / "out", Dataset.from_dict({"text": TEXTS}), prior)
    edit_units(job, job.to_do())
    assert prior.num_failures > 5
    assert shards(job) == undisturbed


@pytest.mark.parametrize("rows", [(17,), (0, 1, 2, 30, 59), (*range(20, 36),)], ids=str)
def test_rows_that_always_fail_pass_through_and_the_others_are_edited_as_ever(tmp_path, undisturbed, rows):
    job = job_of(tmp_path / "out", Dataset.from_dict({"text": TEXTS}), FailingPrior(on(*rows)))
    edit_units(job, job.to_do())
    found = list(failed_rows(job))
    assert [row["row"] for row in found] == list(rows)
    assert {(row["split"], row["reason"]) for row in found} == {("train", "no answer")}
    expected = table_of(undisturbed)
    for i, (row, other) in enumerate(zip(table_of(shards(job)), expected, strict=True)):
        if i in rows:
            assert (row["text"], row["toedit"]["status"]) == (TEXTS[i], "skipped:prior_failed")
            assert row["toedit"]["fingerprint"] == other["toedit"]["fingerprint"]
        else:
            assert row == other
    names = {row["shard"] for row in found}
    assert {name for name, data in shards(job).items() if data != undisturbed[name]} == names
    assert take_back_failed(job) == len(names)
    assert {job.plan.shard_name(number) for number in job.to_do()} == names


def test_a_retry_redoes_the_units_with_failed_rows_alone(tmp_path, undisturbed):
    prior = FailingPrior(on(17, 18, 50))
    job = job_of(tmp_path / "out", Dataset.from_dict({"text": TEXTS}), prior)
    edit_units(job, job.to_do())
    write_failed_rows(job)
    path = job.storage.path / "failed.jsonl"
    assert [json.loads(line)["row"] for line in path.read_text().splitlines()] == [17, 18, 50]
    assert "cat" not in path.read_text()
    prior.fails = never
    touched = []
    take_back_failed(job)
    edit_units(job, job.to_do(), 1, lambda worker, batch: touched.append(batch.unit))
    assert len(set(touched)) == 2
    assert shards(job) == undisturbed
    write_failed_rows(job)
    assert not path.exists()


@pytest.mark.parametrize(
    "error",
    [
        lambda: RuntimeError("CUDA error: out of memory"),
        lambda: torch.OutOfMemoryError("CUDA out of memory"),
        lambda: MemoryError(),
        lambda: ConnectionResetError(104, "Connection reset by peer"),
        lambda: TimeoutError(),
    ],
)
def test_what_counts_as_a_failure_of_the_prior(tmp_path, error):
    job = job_of(tmp_path / "out", Dataset.from_dict({"text": TEXTS[:20]}), FailingPrior(on(3), error))
    edit_units(job, job.to_do())
    assert statuses(job).count("skipped:prior_failed") == 1
    [row] = failed_rows(job)
    assert row["reason"]


def test_a_mistake_is_no_failure(tmp_path):
    job = job_of(tmp_path / "out", Dataset.from_dict({"text": TEXTS}), FailingPrior(on(3), lambda: TypeError("typo")))
    with pytest.raises(TypeError, match="typo"):
        edit_units(job, job.to_do())


def test_a_prior_that_is_gone_stops_the_work_and_the_same_call_resumes(tmp_path, undisturbed, monkeypatch):
    waits = []
    monkeypatch.setattr(failures, "sleep", waits.append)
    prior = FailingPrior(lambda call, requests: call > 4)
    job = job_of(tmp_path / "out", Dataset.from_dict({"text": TEXTS}), prior)
    with pytest.raises(
        PriorError,
        match=r"^the prior no longer answers \(no answer\): once it works, run the same command again to resume$",
    ):
        edit_units(job, job.to_do())
    assert waits == list(failures.WAITS_SECONDS)
    assert 0 < len(shards(job)) < len(undisturbed)
    prior.fails = never
    edit_units(job, job.to_do())
    assert shards(job) == undisturbed


def test_a_prior_that_comes_back_is_waited_for(tmp_path, undisturbed, monkeypatch):
    prior = FailingPrior(lambda call, requests: prior.num_calls > 4 and not back)
    back = []
    monkeypatch.setattr(failures, "sleep", lambda seconds: seconds > 10 and back.append(True))
    job = job_of(tmp_path / "out", Dataset.from_dict({"text": TEXTS}), prior)
    edit_units(job, job.to_do())
    assert back
    assert shards(job) == undisturbed


def test_a_prior_that_fails_on_every_row_stops_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "MOST_IN_A_ROW", 10)
    prior = FailingPrior(on(*range(25, NUM_ROWS)), lambda: RuntimeError("device lost hf_" + "x" * 34))
    job = job_of(tmp_path / "out", Dataset.from_dict({"text": TEXTS}), prior, unit_bytes=10**6)
    with pytest.raises(PriorError, match=r"^the prior failed on 10 consecutive rows \(device lost") as caught:
        edit_units(job, job.to_do())
    assert "hf_" not in str(caught.value)
    assert prior.num_calls < 150
    assert job.to_do() == [0]


def test_rows_in_a_row_are_counted_from_the_last_that_was_edited(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "MOST_IN_A_ROW", 2)
    job = job_of(tmp_path / "out", Dataset.from_dict({"text": TEXTS}), FailingPrior(on(*range(1, NUM_ROWS, 2))))
    edit_units(job, job.to_do())
    assert statuses(job).count("skipped:prior_failed") == NUM_ROWS // 2
