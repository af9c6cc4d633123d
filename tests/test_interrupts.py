"""Ctrl-C, SIGTERM and `| head`, with real processes: one line or none, an exit code, nothing left behind."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

pytestmark = pytest.mark.usefixtures("folder")
EDIT = [sys.executable, "-m", "hf_toedit", "edit", "a.txt", "--prior", "demo", "--stats", "full"]


def write_lines(num_lines):
    with open("a.txt", "w", encoding="utf-8") as file:
        file.writelines(f"Line {i} of a text that takes the demo prior a while to read.\n" for i in range(num_lines))


def usual_signals():
    """As in a terminal: a job in the background would ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "word", "num_proc"),
    [(signal.SIGINT, "interrupted", 1), (signal.SIGINT, "interrupted", 2), (signal.SIGTERM, "terminated", 2)],
)
def test_a_signal_is_one_line_with_its_exit_code_and_leaves_nothing_behind(number, word, num_proc, folder):
    write_lines(20_000)
    line = [*EDIT, "--batch-size", "20", "--num-proc", str(num_proc), "--out", "parent/out"]
    with subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, preexec_fn=usual_signals, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("parent/.toedit.*.partial/.work/*"))) < num_proc and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal sends it to the whole group
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=120)  # ends when the workers, too, have closed stderr
    assert process.returncode == 128 + number
    written = [text for text in errors.replace("\r", "\n").splitlines() if text.strip() and "/s]" not in text]
    assert [text for text in written if "it/s" not in text and "?" not in text] == [f"error: {word}"]
    assert os.listdir() == ["a.txt"]
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no worker is left


def test_a_reader_that_leaves_does_not_end_the_work(folder):
    write_lines(50)
    script = " ".join(["set -o pipefail;", *EDIT, "--out", "out", "2>errors", "| true"])
    subprocess.run(["bash", "-c", script], check=True, timeout=120)
    assert sorted(os.listdir("out")) == ["data", "histogram.png", "stats.json", "toedit.json"]
    errors = (folder / "errors").read_text(encoding="utf-8")
    assert "Traceback" not in errors
    assert "Broken pipe" not in errors


def test_a_reader_that_leaves_does_not_end_a_run():
    line = [sys.executable, "-m", "hf_toedit", "run", str(ROOT / "recipes/small"), "--dry-run"]
    done = subprocess.run(["bash", "-c", f"{shlex.join(line)} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True)
    assert (done.stdout, done.stderr) == (b"0\n", b"")
