"""An edit of a few units by the command line, and what an undisturbed run of it gives."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest
from command_line import run
from test_cli import EDIT, ROWS

from hf_toedit.scale.planning import spool

NUM_ROWS = 24


@pytest.fixture
def small_units(monkeypatch):
    """Six units of four rows."""
    monkeypatch.setattr(sys.modules["hf_toedit.cli.edit"], "spool", partial(spool, unit_bytes=400))


@pytest.fixture(scope="module")
def edit(tmp_path_factory):
    """The command, without its output and executor."""
    source = tmp_path_factory.mktemp("source") / "rows.jsonl"
    rows = [{"id": i, "text": ROWS[i % len(ROWS)]["text"]} for i in range(NUM_ROWS)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ["edit", source, *EDIT]


@pytest.fixture(scope="module")
def undisturbed(edit, tmp_path_factory):
    """The shards of a run on this machine with one worker."""
    out = tmp_path_factory.mktemp("local") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["hf_toedit.cli.edit"], "spool", partial(spool, unit_bytes=400))
        run(*edit, "--out", out, "--threads", "1")
    return shards(out)


def shards(out):
    """The bytes of the shards by name."""
    return {file.name: file.read_bytes() for file in Path(out, "data").iterdir()}
