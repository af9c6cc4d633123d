"""The page on the arithmetic of scale says what benchmarks/arithmetic.py computes, and that is right."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import arithmetic
from arithmetic import PRIORS, TABLES, TOTALS, Arithmetic, Assumptions
from scale_simulation import MOST_TASKS, NO_FAILURES, Simulation, World

from hf_toedit.editing.stats import DatasetStats, TokenStats
from hf_toedit.hub.shards import MAX_SHARD_BYTES
from hf_toedit.hub.uploads import FILES_PER_COMMIT
from hf_toedit.scale.edited import MOST_TEXTS
from hf_toedit.scale.job import READERS, Job, Manifest
from hf_toedit.scale.launches import ROUNDS
from hf_toedit.scale.planning import UNIT_BYTES

PAGE = (ROOT / "docs/concepts/arithmetic.md").read_text(encoding="utf-8")
SUMS = Arithmetic.from_results(Assumptions())


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_table(name):
    assert TABLES[name](SUMS) in PAGE


def test_the_page_has_the_sentences():
    words = " ".join(PAGE.split())
    for sentence in arithmetic.sentences(SUMS):
        assert sentence in words


def test_the_page_names_no_other_table():
    assert sum(line.startswith("|---") for line in PAGE.splitlines()) == len(TABLES) + 2  # measured, simulated


@pytest.mark.parametrize("field", dataclasses.fields(Assumptions), ids=lambda field: field.name)
def test_every_assumption_matters(field):
    changed = Arithmetic.from_results(Assumptions(**{field.name: getattr(SUMS.given, field.name) * 3}))
    differs = [name for name in TABLES if name != "inputs" and TABLES[name](changed) != TABLES[name](SUMS)]
    assert differs, f"nothing depends on {field.name}"


def test_assumptions_about_this_package_are_true():
    assert SUMS.given.unit_bytes == UNIT_BYTES
    assert SUMS.given.files_per_commit == FILES_PER_COMMIT
    assert SUMS.given.push_shard_mb * 1e6 == MAX_SHARD_BYTES
    assert SUMS.given.texts_compared == MOST_TEXTS
    assert SUMS.given.readers == READERS
    assert arithmetic.SHARES_PER_WORKER == ROUNDS
    slurm = (ROOT / "hf_toedit/scale/slurm.py").read_text(encoding="utf-8")  # importing it needs datatrove
    assert f"\nMOST_TASKS = {MOST_TASKS}  #" in slurm
    assert "\nMOST_WORKERS = MOST_TASKS // ROUNDS  #" in slurm


@pytest.mark.parametrize("tokens", TOTALS.values())
def test_units_cover_the_tokens_and_no_unit_is_empty(tokens):
    number, size = SUMS.num_units(tokens), SUMS.unit_tokens()
    assert (number - 1) * size < tokens <= number * size
    assert size * SUMS.units["text_bytes_per_token"] == SUMS.given.unit_bytes


@pytest.mark.parametrize("prior", PRIORS)
def test_hours_are_those_of_all_units_one_after_the_other(prior):
    hours = SUMS.gpu_hours(1e12, prior)
    assert hours * 3600 * SUMS.rate(prior) == pytest.approx(1e12)
    assert SUMS.num_units(1e12) * SUMS.unit_seconds(prior) / 3600 == pytest.approx(hours, rel=1e-4)


def test_failures_agree_with_the_simulation():
    """With failures a hundred times as frequent, so that a short run has enough of them."""
    prior, num_units, often = "8B, 128k", 20_000, 100
    given = dataclasses.replace(
        SUMS.given,
        gpu_hours_per_node_loss=SUMS.given.gpu_hours_per_node_loss / often,
        preemptions_per_node_day=SUMS.given.preemptions_per_node_day * often,
        crashes_per_worker_hour=SUMS.given.crashes_per_worker_hour * often / 4,
    )
    sums = Arithmetic.from_results(given)
    expected = sums.failures(num_units * sums.unit_tokens(), prior)
    world = dataclasses.replace(
        NO_FAILURES,
        unit_seconds=sums.unit_seconds(prior),
        crashes=given.crashes_per_worker_hour,
        node_losses=given.gpus_per_node * 24 / given.gpu_hours_per_node_loss,
        preemptions=given.preemptions_per_node_day,
    )
    out = Simulation(num_units, 64, world).run()
    deaths = expected["crashes"] + given.gpus_per_node * (expected["losses"] + expected["preemptions"])
    assert out.deaths == pytest.approx(deaths, rel=0.1)
    assert out.lost / out.useful == pytest.approx(expected["lost"], rel=0.15)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.0163, "0.016"), (3.44, "3.4"), (343.0, "340"), (12_345, "12,000"), (1e6, "1,000,000")],
)
def test_numbers_have_two_digits_that_count(number, text):
    assert arithmetic.short(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(999, "999 B"), (2.3e12, "2.3 TB"), (1e15, "1 PB"), (6.7e8, "670 MB"), (999.9e6, "1,000 MB")]
)
def test_bytes_are_decimal(number, text):
    assert arithmetic.as_bytes(number) == text


def test_times():
    times = [0.5, 59, 60, 5400, 86400 * 3, 86400 * 400, 86400 * 365 * 2]
    assert [arithmetic.as_time(seconds) for seconds in times] == [
        "0.5 seconds",
        "59 seconds",
        "1 minute",
        "1.5 hours",
        "3 days",
        "400 days",
        "2 years",
    ]


def test_an_assumption_can_be_set(capsys):
    arithmetic.main(only="hours", changes=["gpu_price=6"])
    dearer = TABLES["hours"](Arithmetic.from_results(Assumptions(gpu_price=6)))
    assert dearer in capsys.readouterr().out
    assert dearer != TABLES["hours"](SUMS)
    with pytest.raises(arithmetic.typer.BadParameter, match="'price' is not one of"):
        arithmetic.main(changes=["price=6"])


def test_the_simulation_assumes_the_same():
    given, world = SUMS.given, World()
    assert (given.crashes_per_worker_hour, given.preemptions_per_node_day) == (world.crashes, world.preemptions)
    assert given.gpus_per_node * 24 / given.gpu_hours_per_node_loss == pytest.approx(world.node_losses, rel=0.01)
    assert given.gpus_per_node == world.workers_per_node


def test_as_many_requests_as_assumed_tell_that_a_unit_is_done(monkeypatch):
    job = Job("memory://looks")
    job.__dict__["digest"] = "plan"
    job.storage.write(f"{job.storage.shards}/shard.parquet", b"rows")
    stats = DatasetStats(num_rows=1, statuses={}, num_drifted=0, tokens=TokenStats())
    job.commit(Manifest(0, "plan", "shard.parquet", 4, "", stats, (), {}, 1.0))
    requests = []
    for name in ("exists", "read", "size"):
        method = getattr(job.storage, name)
        monkeypatch.setattr(job.storage, name, lambda file, method=method: requests.append(file) or method(file))
    assert job.manifest(0) is not None
    assert len(requests) == SUMS.given.requests
