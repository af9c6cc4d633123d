"""Progress and status: counts that add up, whatever happens to workers."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil

import pytest
from command_line import fail, run
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hf_toedit import ToEditTransform, summarize
from hf_toedit.files.sources import load_source
from hf_toedit.scale.job import Job
from hf_toedit.scale.plan import Plan, SourceFile, Unit
from hf_toedit.scale.progress import COUNTED, Tally, _Bars, duration, shares, total_share
from hf_toedit.scale.unit import BatchDone

ROWS = 7  # of each unit


FILE = SourceFile("a.jsonl", "json", 1000, "")
PLAN = Plan({}, {}, {}, (FILE,), tuple(Unit("train", i, 0, i * 100, i * 100 + 100) for i in range(10)), {})


def batches(unit, size, dies_at=ROWS):
    """What a worker reports of a unit, until it dies."""
    for start in range(0, min(ROWS, dies_at), size):
        num_rows = min(size, ROWS - start)
        yield BatchDone(unit, ROWS, start, num_rows, *(num_rows * factor for factor in (100, 8, 2, 1)))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, ROWS), st.integers(0, ROWS - 1)), max_size=10), st.data())
def test_units_of_dead_workers_count_once(lives, data):
    """Each unit is begun by one worker that dies and finished by another; other units' batches come in between."""
    tally = Tally(PLAN)
    streams = [
        [(worker, batch) for batch in batches(unit, size, dies_at)] + [(0, batch) for batch in batches(unit, size)]
        for unit, (worker, size, dies_at) in enumerate(lives)
    ]
    while any(streams):
        stream = data.draw(st.sampled_from([stream for stream in streams if stream]))
        tally.add(*stream.pop(0))
    rows = ROWS * len(lives)
    assert [getattr(tally.total, name) for name in COUNTED] == [rows, rows * 100, rows * 8, rows * 2, rows]
    assert tally.total.share == pytest.approx(len(lives) / 10)
    for name in COUNTED:
        assert sum(getattr(counts, name) for counts in tally.workers.values()) == getattr(tally.total, name)
        assert all(getattr(counts, name) >= 0 for counts in tally.workers.values())


def test_shares_are_those_of_the_bytes():
    files = [SourceFile("a", "parquet", 300, ""), SourceFile("b.gz", "json", 100, ""), SourceFile("c", "json", 600, "")]
    units = [Unit("train", 0, 0, 0, 20), Unit("train", 1, 0, 20, 30), Unit("train", 2, 1, 0, -1)]
    units += [Unit("train", 3, 2, 0, 400), Unit("train", 4, 2, 400, 600)]
    plan = Plan({}, {}, {}, tuple(files), tuple(units), {})
    assert shares(plan) == pytest.approx([0.2, 0.1, 0.1, 0.4, 0.2])
    assert total_share(plan, [0, 3]) == pytest.approx(0.6)


def test_time_left_is_that_of_the_rest_at_the_same_speed():
    now = 0.0
    tally = Tally(PLAN, done_before=0.5, clock=lambda: now)
    assert tally.seconds_left is None
    for batch in batches(3, ROWS):
        tally.add(0, batch)
    now = 20.0  # a tenth of the work in 20 seconds; four tenths are left
    assert tally.done == pytest.approx(0.6)
    assert tally.seconds_left == pytest.approx(80)
    assert tally.to_dict()["tokens_per_second"] == 35.0


def test_bars_have_a_line_for_each_worker():
    tally = Tally(PLAN, clock=iter(range(1, 10_000)).__next__)
    stream = io.StringIO()
    with _Bars(tally, Console(file=stream, force_terminal=True, width=150)) as bars:
        for worker, unit in ((0, 0), (1, 1)):
            for batch in batches(unit, 3):
                bars.report(worker, batch)
    assert "14 rows" in stream.getvalue()
    assert "worker 0" in stream.getvalue()
    assert "worker 1" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0.4, "0 s"), (89, "89 s"), (600, "10 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_durations_in_words(seconds, text):
    assert duration(seconds) == text


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("progress")
    rows = [{"text": f"The number {i} comes after the number {i - 1}. " * 5} for i in range(40)] + [{"text": ""}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--prior", "demo", "--out", folder / "out", "--batch-size", "10", "--progress", "json")
    return folder / "out", _stderr("edit", folder / "rows.jsonl", *options)


def _stderr(*arguments):
    from typer.testing import CliRunner

    from hf_toedit.cli.command import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stderr


def test_json_lines_end_with_the_totals_of_the_rows(edited):
    out, stderr = edited
    *_, last = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    stats = summarize(load_source(str(out)))
    assert last["done"] == 1.0
    assert last["num_rows"] == stats.num_rows == 41
    for name in COUNTED[1:]:
        assert last[name] == last["workers"]["0"][name] == getattr(stats.tokens, name)


def test_status_adds_up_what_the_manifests_say(edited):
    out, _ = edited
    found = json.loads(run("status", out, "--json"))
    stats = summarize(load_source(str(out)))
    assert found["statuses"] == stats.statuses
    assert (found["num_units"], found["num_units_done"], found["done"]) == (1, 1, 1.0)
    assert found["num_rows"] == stats.num_rows
    assert {name: found[name] for name in COUNTED[1:]} == {name: getattr(stats.tokens, name) for name in COUNTED[1:]}
    assert found["num_bytes"] == sum(file.stat().st_size for file in (out / "data").iterdir())
    table = run("status", out)
    assert "skipped:empty" in table
    assert "100.0%" in table


def test_status_of_an_unfinished_output(edited, tmp_path):
    job, (out, _) = Job(str(tmp_path)), edited
    plan = Job(str(out)).plan
    job.create(dataclasses.replace(plan, units=plan.units * 2), ToEditTransform("demo"))
    assert json.loads(run("status", tmp_path, "--json"))["num_units_done"] == 0
    assert "0.0%" in run("status", tmp_path)


def test_a_shard_with_a_flipped_byte_is_named(edited, tmp_path):
    out, _ = edited
    shutil.copytree(out, tmp_path / "copy")
    assert "100.0%" in run("status", tmp_path / "copy", "--verify")
    [shard] = (tmp_path / "copy" / "data").iterdir()
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert "100.0%" in run("status", tmp_path / "copy")  # by its size, it is whole
    assert f"'data/{shard.name}' in the output" in fail("status", tmp_path / "copy", "--verify")


def test_status_of_another_folder_is_one_clear_line(tmp_path):
    assert "not the output of `hf-toedit edit`" in fail("status", tmp_path)
