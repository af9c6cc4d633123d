"""An edit of a few units by the command line, and what an undisturbed run of it gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run
from test_cli import EDIT, ROWS

from hf_toedit.scale import workers

NUM_ROWS = 24


@pytest.fixture(scope="module")
def edit(tmp_path_factory):
    """The command, without its output and executor."""
    source = tmp_path_factory.mktemp("source") / "rows.jsonl"
    rows = [{"id": i, "text": ROWS[i % len(ROWS)]["text"]} for i in range(NUM_ROWS)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ["edit", source, *EDIT, "--unit-size", "400B"]


@pytest.fixture(scope="module")
def undisturbed(edit, tmp_path_factory):
    """The shards of a run on this machine with one worker."""
    out = tmp_path_factory.mktemp("local") / "out"
    run(*edit, "--out", out, "--threads", "1")
    found = shards(out)
    assert len(found) > 4
    return found


@pytest.fixture
def in_this_process(monkeypatch):
    """Ranks edit in the process of the test, which takes less time than a worker's start."""
    monkeypatch.setattr(
        workers, "_edit_in_processes", lambda job, numbers, _, on_batch: workers._edit_here(job, numbers, on_batch)
    )


def shards(out):
    """The bytes of the shards by name."""
    return {file.name: file.read_bytes() for file in Path(out, "data").iterdir()}
