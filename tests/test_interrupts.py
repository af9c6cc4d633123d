"""Ctrl-C, SIGTERM and `| head`, with real processes: one line or none, an exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress

import pytest
from conftest import breadth

from hf_toedit.errors import StoppedError
from hf_toedit.scale.interrupts import fresh_workers, held_back, interruptible

pytestmark = pytest.mark.usefixtures("folder")
EDIT = [sys.executable, "-m", "hf_toedit", "edit", "a.txt", "--prior", "demo", "--stats", "full"]


def write_lines(num_lines):
    with open("a.txt", "w", encoding="utf-8") as file:
        file.writelines(f"Line {i} of a text that takes the demo prior a while to read.\n" for i in range(num_lines))


def usual_signals():
    """As in a terminal: a job in the background would ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ends(group):
    """Whether all processes of a group end. The one that tracks resources does so when it sees the others go."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def num_members(group):
    """The number of processes of a group."""
    groups = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            groups.append(os.getpgid(int(name)))
    return groups.count(group)


@pytest.mark.parametrize(
    ("number", "word", "num_proc"),
    [
        breadth(signal.SIGINT, "interrupted", 2),
        breadth(signal.SIGTERM, "terminated", 1),
        (signal.SIGINT, "interrupted", 1),
        breadth(signal.SIGTERM, "terminated", 2),
    ],
)
def test_a_signal_is_one_line_with_its_exit_code_and_leaves_nothing_behind(number, word, num_proc, folder):
    write_lines(20_000)
    line = [*EDIT, "--batch-size", "20", "--unit-size", "700KB", "--workers", str(num_proc), "--out", "parent/out"]
    with subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, preexec_fn=usual_signals, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        num_processes = 1 if num_proc == 1 else num_proc + 2  # one tracks resources
        while not (folder / "parent/out/.toedit/plan.json").exists() or num_members(process.pid) < num_processes:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.poll() is None
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal sends it to the whole group
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=120)  # ends when the workers, too, have closed stderr
    assert process.returncode == 128 + number
    written = [text for text in errors.replace("\r", "\n").splitlines() if text.strip() and "examples" not in text]
    assert [text for text in written if "it/s" not in text and "?" not in text] == [f"error: {word}"]
    assert os.listdir() == ["a.txt"]
    assert ends(process.pid), "no worker is left"


RUN = [sys.executable, "-m", "hf_toedit", "run", "r.yaml", "--dry-run", "--output", "out"]


@pytest.mark.parametrize("pipe", [breadth("2>&1 | true"), breadth("2>errors | true")])
def test_a_reader_that_leaves_does_not_end_the_work(pipe, folder):
    write_lines(50)
    (folder / "errors").touch()
    script = " ".join(["set -o pipefail;", *EDIT, "--out", "out", pipe])
    subprocess.run(["bash", "-c", script], check=True, timeout=300)
    assert sorted(os.listdir("out")) == [".toedit", "README.md", "data", "histogram.png", "stats.json", "toedit.json"]
    errors = (folder / "errors").read_text(encoding="utf-8")
    assert "Traceback" not in errors
    assert "Broken pipe" not in errors


COLLAPSE = "collapse gaussian --n 5 --generations 2 --runs 2"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [
        f"{COLLAPSE} --json",
        breadth(COLLAPSE),
        *map(breadth, ("measure a.txt --json", "measure a.txt", "score a.txt --prior demo --json")),
        breadth("filter a.txt --prior demo --out kept --perplexity-quantile 0:1 --json"),
    ],
)
def test_a_full_disk_under_stdout_is_one_line(arguments, folder):
    write_lines(5)
    with open("/dev/full", "wb") as full:
        line = [sys.executable, "-m", "hf_toedit", *arguments.split()]
        done = subprocess.run(line, check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: can't write to stdout: No space left on device; free some space"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_a_run_too_outlives_its_reader(folder):
    pytest.importorskip("trl", reason="needs the extra `recipes`")
    tree = {"kind": "pt", "model": "demo", "prior": "demo", "data": "a.txt", "arms": {"toedit": {}}, "seeds": 0}
    tree |= {"train": {"max_steps": 1, "use_cpu": True, "bf16": False}}
    (folder / "r.yaml").write_text(json.dumps(tree), encoding="utf-8")
    write_lines(5)
    script = " ".join(["set -o pipefail;", *RUN, "| true"])
    done = subprocess.run(["bash", "-c", script], timeout=300, check=False, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_ctrl_c_in_the_workers_of_a_run_is_one_line(folder):
    """They are started anew, and have no handler of ours. In the folder are stage.json and a file of each."""
    pytest.importorskip("trl", reason="needs the extra `recipes`")
    tree = {"kind": "pt", "model": "demo", "prior": "demo", "data": "a.txt", "arms": {"toedit": {}}, "seeds": 0}
    tree |= {"train": {"max_steps": 1, "use_cpu": True, "bf16": False, "disable_tqdm": True}}
    tree |= {"edit": {"num_proc": 2, "batch_size": 20, "stats": "full"}}
    (folder / "r.yaml").write_text(json.dumps(tree), encoding="utf-8")
    write_lines(20_000)
    line = [*RUN[:5], "--output", "out"]
    with subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, preexec_fn=usual_signals, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 200
        while len(list(folder.glob("out/.edit-toedit.partial/*"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "error: interrupted"


SIGNALLED = """
import os, signal, sys, time
from hf_toedit.errors import StoppedError
from hf_toedit.scale.interrupts import interruptible

def main():
    try:
        with interruptible():
            exec("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)")
    except StoppedError as error:
        sys.exit(error.exit_code)

main()
"""


def test_a_signal_within_exec_does_not_change_the_exit_code(folder):
    """CPython remembers a KeyboardInterrupt there, although it was caught, and `python -m` would end by SIGINT."""
    (folder / "signalled.py").write_text(SIGNALLED, encoding="utf-8")
    assert subprocess.run([sys.executable, "-m", "signalled"], check=False).returncode == 143


def kill_while_starting(number, reached, held):
    with interruptible():
        with held:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            reached.append("started")
        reached.append("went on")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("held", "reaches"), [(held_back, ["started"]), (fresh_workers, ["started"]), (nullcontext, [])]
)
def test_a_signal_waits_until_a_process_has_been_started(number, held, reaches):
    reached, usual = [], signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by a job in the background
    try:
        with pytest.raises(StoppedError):
            kill_while_starting(number, reached, held())
    finally:
        signal.signal(signal.SIGINT, usual)
    assert reached == reaches
