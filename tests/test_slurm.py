"""`hf-toedit edit --executor slurm`, on a stub of Slurm."""

from __future__ import annotations

import json
import os
import re

import pytest
from command_line import fail, run
from slurm_stub import Slurm, kill
from test_cli import EDIT, write_jsonl

from hf_toedit.scale.job import Job
from hf_toedit.scale.launches import shares


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    slurm = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{slurm.bin}:{os.environ['PATH']}")
    return slurm
