"""The example on vLLM runs as it stands: `make test-vllm`."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT


def test_it_edits(tmp_path):
    line = [sys.executable, str(ROOT / "examples/on_vllm.py")]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "eligible" in done.stdout
    assert "edited" in done.stdout
