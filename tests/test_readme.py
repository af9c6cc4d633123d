"""What the README shows works as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(block, tmp_path):
    subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True, capture_output=True)


def test_commands_run_in_order(tmp_path):
    rows = [{"text": f"Return the value of item {i} if it is in the list."} for i in range(20)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("hf-toedit")]
    assert {shlex.split(command)[1] for command in commands} == {"edit", "score", "revert"}
    for command in commands:
        line = [sys.executable, "-m", "hf_toedit", *shlex.split(command)[1:]]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_it_opens_with_two_commands_that_make_has():
    first = blocks("sh")[0]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]


def test_its_tables_name_every_field():
    import dataclasses

    from hf_toedit import ToEditConfig
    from hf_toedit.editing.stats import TokenStats

    for field in [*dataclasses.fields(ToEditConfig), *dataclasses.fields(TokenStats)]:
        assert f"`{field.name}`" in README, field.name


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks/results").glob("*.json")), ids=lambda file: file.stem)
def test_its_figures_are_those_that_were_measured(file):
    script = next((name for name in ("rows", "near-ties") if file.stem.startswith(name)), "compare").replace("-", "_")
    line = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "table", str(file)]
    table = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    if script == "near_ties":  # of each dtype the row of all settings
        table = "\n".join(row for row in table.splitlines() if "," not in row.split("|")[1] or row.startswith("| x86"))
    assert table in README
