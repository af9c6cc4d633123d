"""`edit` with a server that fails, input that can't be read and a disk that is full: one line, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

import pytest
from conftest import load_tokenizer
from datasets import Dataset, load_dataset
from jobs import TEXTS, surely
from typer.testing import CliRunner
from vllm_server import Handler, serving

from hf_toedit import StaticPrior, summarize
from hf_toedit.cli.command import app
from hf_toedit.priors import server_prior
from hf_toedit.scale import failures, unit

ROWS = TEXTS[:16]
UNITS = ("--unit-size", "512", "--batch-size", "4", "--exclude-target")
MODEL = {"id": "demo", "root": "/somewhere", "max_model_len": 201}


@pytest.fixture
def server(folder, monkeypatch):
    """(url, state) of a server, without waits.

    It answers garbage about `bad_rows`. After `down_after` answers it gives garbage or hangs up, until somebody waits
    `patience` seconds.
    """
    prior = StaticPrior(load_tokenizer("demo"), surely, max_length=512)
    state = {"bad_rows": (), "down_after": 10**9, "patience": 10, "count": 0, "waits": []}

    def complete(self, body):
        text = prior.tokenizer.decode(body["prompt"])
        if any(f"row {i} of" in text for i in state["bad_rows"]):
            return {"choices": []}
        state["count"] += 1
        if state["count"] > state["down_after"] and state["count"] % 2:
            return b"<html>not now</html>"
        if state["count"] > state["down_after"]:
            self.connection.shutdown(socket.SHUT_RDWR)
        return Handler.complete(self, body)

    def wait(seconds):
        state["waits"].append(seconds)
        if seconds >= state["patience"]:
            state["down_after"] = 10**9

    monkeypatch.setattr(server_prior, "WAITS_SECONDS", (0.0,) * 2)
    monkeypatch.setattr(failures, "sleep", wait)
    Dataset.from_dict({"text": ROWS}).to_json("rows.jsonl")
    Dataset.from_dict({"text": ROWS}).to_csv("rows.csv")
    with serving(prior, complete=complete, models=[MODEL]) as (url, _):
        yield url, state


def edit(url, source="rows.jsonl", *options, out="out", stdin=None):
    arguments = ["edit", source, "--prior", "demo", "--url", url, "--out", out, "--progress", "none", *UNITS, *options]
    return CliRunner().invoke(app, arguments, input=stdin)


def data(out="out"):
    return {path.name: path.read_bytes() for path in sorted(Path(out, "data").iterdir())}


def changed(out="out"):
    """When each shard was written."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(Path(out, "data").iterdir())}


@pytest.mark.parametrize("source", ["rows.jsonl", "rows.csv"])
def test_failed_rows_are_listed_and_a_retry_edits_them_in_a_finished_output(source, server, folder):
    url, state = server
    assert edit(url, source, out="undisturbed").exit_code == 0
    assert not Path("undisturbed/failed.jsonl").exists()
    state["bad_rows"] = (2, 13)
    result = edit(url, source)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "error: the prior failed on 2 rows, which are unedited and listed in out/failed.jsonl: "
        "run the same command with --retry-failed to try again"
    )
    assert "cat" not in Path("out/failed.jsonl").read_text()
    listed = [json.loads(line) for line in Path("out/failed.jsonl").read_text().splitlines()]
    assert [(row["split"], row["row"]) for row in listed] == [("train", 2), ("train", 13)]
    assert all("returned no prompt_logprobs" in row["reason"] for row in listed)
    edited = load_dataset("out", split="train")
    assert [edited[row["row"]]["text"] for row in listed] == [ROWS[2], ROWS[13]]
    assert summarize(edited).statuses == {"edited": 14, "skipped:prior_failed": 2}
    assert json.loads(Path("out/stats.json").read_text())["statuses"]["skipped:prior_failed"] == 2
    before = changed()
    state["bad_rows"] = (13,)
    assert edit(url, source, "--retry-failed").exit_code == 2
    [row] = map(json.loads, Path("out/failed.jsonl").read_text().splitlines())
    assert row["row"] == 13
    touched = {name for name, time in changed().items() if time != before[name]}
    assert touched == {row["shard"] for row in listed}
    state["bad_rows"] = ()
    result = edit(url, source, "--retry-failed")
    assert (result.exit_code, result.stderr) == (0, "")
    assert data() == data("undisturbed")
    assert not Path("out/failed.jsonl").exists()
    for name in ("stats.json", "README.md"):
        assert Path("out", name).read_text() == Path("undisturbed", name).read_text()
    assert not Path("out/.toedit/source").exists()
    again = changed()
    assert edit(url, source, "--retry-failed").exit_code == 0
    assert changed() == again


def test_a_retry_reads_the_same_standard_input_again_and_refuses_another(server, folder):
    url, state = server
    rows = Path("rows.jsonl").read_text()
    state["bad_rows"] = (2,)
    assert edit(url, "-", stdin=rows).exit_code == 2
    before, state["bad_rows"] = data(), ()
    other = edit(url, "-", "--retry-failed", stdin=rows.replace("cat", "dog"))
    assert rows != rows.replace("cat", "dog")
    line = "error: the source is not what it was when the edit began: restore it"
    assert (other.exit_code, other.stderr.splitlines()[-1]) == (2, line)
    assert data() == before
    assert not Path("out/.toedit/source").exists()
    assert edit(url, "-", "--retry-failed", stdin=rows).exit_code == 0
    assert data() != before


def test_a_retry_that_is_interrupted_is_resumed_without_the_flag(server, folder, monkeypatch):
    url, state = server
    assert edit(url, out="undisturbed").exit_code == 0
    state["bad_rows"] = (2, 13)
    assert edit(url).exit_code == 2
    state["bad_rows"] = ()
    written, whole = [], unit._write

    def interrupted(*arguments):
        written.append(arguments)
        if len(written) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(unit, "_write", interrupted)
    assert edit(url, "rows.jsonl", "--retry-failed").exit_code != 0
    assert len(load_dataset("out", split="train")) == len(ROWS)
    assert edit(url).exit_code == 0
    assert data() == data("undisturbed")
    assert not Path("out/failed.jsonl").exists()


def test_a_server_that_lies_and_hangs_up_for_a_while_costs_nothing(server, folder, capfd):
    url, state = server
    assert edit(url, out="undisturbed").exit_code == 0
    state["down_after"] = state["count"] + 6
    assert edit(url).exit_code == 0
    assert state["waits"]
    assert data() == data("undisturbed")


def test_a_server_that_stays_away_ends_the_run_with_one_line_and_it_resumes(server, folder):
    url, state = server
    state["bad_rows"] = (12,)
    assert edit(url, out="undisturbed").exit_code == 2
    state |= {"down_after": state["count"] + 10, "patience": 100}
    result = edit(url)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: the prior no longer answers (")
    assert "same command" in result.stderr
    state["down_after"] = 10**9
    assert edit(url).exit_code == 2
    assert data() == data("undisturbed")


def test_a_prior_that_fails_on_every_row_finishes_nothing(server, folder):
    url, state = server
    state["bad_rows"] = range(16)
    result = edit(url)
    assert result.exit_code == 2
    assert "error: the prior failed on every row (" in result.stderr
    assert not Path("out/data").exists()
    state["bad_rows"] = ()
    assert edit(url, "rows.jsonl", "--retry-failed").exit_code == 0
    assert summarize(load_dataset("out", split="train")).statuses == {"edited": 16}


def test_a_unit_that_can_not_be_read_is_left_out_and_the_rest_goes_on(server, folder):
    url, _ = server
    for number, start in enumerate((0, 8)):
        Dataset.from_dict({"text": ROWS[start : start + 8]}).to_parquet(f"part-{number}.parquet")
    assert edit(url, "part-*.parquet", out="undisturbed").exit_code == 0
    path = Path("part-0.parquet")
    whole, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(whole[:4] + b"\xff" * 200 + whole[204:])  # its footer still says what it held
    os.utime(path, ns=times)
    result = edit(url, "part-*.parquet")
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert "units failed; unit 0: can't read 'part-0.parquet'" in line
    assert "restore the file" in line
    assert not Path("out/data").exists()
    path.write_bytes(whole)
    os.utime(path, ns=times)
    assert edit(url, "part-*.parquet").exit_code == 0
    assert data() == data("undisturbed")


def test_a_file_that_is_cut_off_is_one_line_before_the_work(server, folder):
    url, _ = server
    Dataset.from_dict({"text": ROWS}).to_parquet("rows.parquet")
    Path("rows.parquet").write_bytes(Path("rows.parquet").read_bytes()[:-100])
    result = edit(url, "rows.parquet")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "'rows.parquet'" in result.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (MemoryError(), "not enough memory; set a smaller"),
    ],
)
def test_a_full_disk_or_memory_is_one_line_and_the_same_command_resumes(error, says, server, folder, monkeypatch):
    url, _ = server
    assert edit(url, out="undisturbed").exit_code == 0
    written, whole = [], Dataset.to_parquet

    def full(*arguments):
        written.append(arguments)
        if len(written) == 3:
            raise error
        return whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "to_parquet", full)
        result = edit(url)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.startswith("error: ")
    assert not Path("out/data").exists()
    assert not [*Path("out/.toedit/tmp").glob("*")]
    assert edit(url).exit_code == 0
    assert data() == data("undisturbed")
