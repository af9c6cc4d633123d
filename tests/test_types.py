"""Type checkers find wrong calls: `treshold=0.9` is an error before anything runs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_type_hints

import pytest
from conftest import ROOT

from hf_toedit import ToEditConfig
from hf_toedit.editing.config import ConfigFields, field_help

CALLS = Path(__file__).with_name("typed_calls.py")


def test_the_keywords_of_a_transform_are_the_fields_of_a_config():
    assert get_type_hints(ConfigFields) == {**get_type_hints(ToEditConfig), "protect": Sequence[str]}
    assert not ConfigFields.__required_keys__


def test_the_docstring_of_a_config_has_the_help_of_each_field():
    words = " ".join((ToEditConfig.__doc__ or "").split())
    assert all(f" {name}: {text} " in words for name, text in field_help().items())


@pytest.mark.slow
def test_mypy_finds_the_wrong_calls_and_no_others(tmp_path):
    pytest.importorskip("mypy", reason="needs the extra `dev`")
    options = ["--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path)]
    out = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(CALLS)], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    found = {int(line) for line in re.findall(rf"^tests/{CALLS.name}:(\d+): error", out, re.MULTILINE)}
    lines = CALLS.read_text(encoding="utf-8").splitlines()
    assert found == {number for number, line in enumerate(lines, 1) if line.endswith("# error")}, out
