"""`hf-toedit run`, killed anywhere: the same command finishes with the results of an undisturbed run."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from itertools import count
from pathlib import Path

import pytest
from crashes import crashes

from hf_toedit.experiments.stage import Stage, perform

pytest.importorskip("trl", reason="needs the extra `recipes`")
pytest.importorskip("lm_eval", reason="needs the extra `recipes`")
pytestmark = pytest.mark.usefixtures("folder")

TINY = {
    "kind": "pt",
    "model": {
        "tokenizer": "demo",
        "config": {
            "model_type": "llama",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "max_position_embeddings": 128,
        },
    },
    "prior": "demo",
    "data": {"source": "texts.jsonl"},
    "edit": {"config": {"threshold": 0.3}, "batch_size": 20},
    "arms": {"source": {}, "toedit": {}},
    "seeds": 0,
    "train": {
        "max_steps": 4,
        "save_steps": 1,
        "lr_scheduler_type": "constant",  # at a rate of 0, a step too many would change nothing
        "per_device_train_batch_size": 2,
        "max_length": 64,
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    },
    "evaluate": {"held_out": {"same": {"source": "texts.jsonl", "limit": 5}}},
}
TEXT = "Return the value of item {} if it is in the list of items, else raise a KeyError."
TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
SINCE = ("train_loss", "entropy", "mean_token_accuracy", "num_tokens")  # the checkpoint that a run resumed from


def stage(text, *, resumes=False):
    def run(folder):
        for name in ("a", "b"):
            (folder / name).write_text(text)

    return Stage("edit", {"text": text}, run, resumes)


@pytest.mark.parametrize("resumes", [False, True])
def test_a_stage_that_replaces_another_can_die_at_any_step(folder, resumes):
    perform(stage("before"), folder)
    for _ in crashes(lambda: perform(stage("after", resumes=resumes), folder)):
        perform(stage("after", resumes=resumes), folder)
        assert sorted(os.listdir()) == [".edit.lock", "edit"]
        assert sorted(os.listdir("edit")) == ["a", "b", "stage.json"]
        assert Path("edit/a").read_text() == Path("edit/b").read_text() == "after"
        perform(stage("before"), folder)


def write_recipe(**changes):
    Path("r.yaml").write_text(json.dumps({**TINY, **changes}), encoding="utf-8")
    lines = [json.dumps({"text": TEXT.format(i)}) + "\n" for i in range(80)]
    Path("texts.jsonl").write_text("".join(lines), encoding="utf-8")


def run_recipe(folder, out):
    """In a process that has imported what a run imports: killed as often as here, it would do little else."""
    from hf_toedit.cli import app

    os.chdir(folder)
    os.setpgid(0, 0)
    with redirect_stdout(io.StringIO()), redirect_stderr(Path(f"{out}.err").open("w")):
        app(["run", "r.yaml", "--output", out])


def started(folder, out):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hf_toedit.cli", "torch", "trl.trainer.sft_trainer", "lm_eval.tasks", "peft"])
    process = context.Process(target=run_recipe, args=(folder, out))
    process.start()
    return process


def finish(folder, out):
    process = started(folder, out)
    process.join(timeout=500)
    assert process.exitcode == 0, Path(f"{out}.err").read_text()


def results(out):
    """What a run has made, byte by byte; of the trainer's log, what does not depend on time and on resuming."""
    found = {}
    for path in sorted(Path(out).glob("**/*")):
        name = str(path.relative_to(out))
        if path.is_dir() or name.endswith((".lock", "training_args.bin")):  # the latter names its folder
            continue
        value = path.read_bytes()
        if path.name == "train.json":
            value = json.loads(value)
            for entry in value["log"]:
                for key in (*TIMES, *SINCE):
                    entry.pop(key, None)
        found[name] = value
    return found


def different(first, second):
    """The files that two runs do not agree on: alone, so that a failure shows them."""
    return {name: (first.get(name), second.get(name)) for name in first | second if first.get(name) != second.get(name)}


def left_of(group):
    """The processes of a group that have not ended a minute from now."""
    deadline = time.monotonic() + 60
    while True:
        command = ["ps", "-A", "-o", "pgid=,stat=,args="]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listed.splitlines()]
        left = [row for row in rows if row[0] == str(group) and not row[1].startswith("Z")]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a run forks after its imports")
@pytest.mark.parametrize(("num_proc", "kills"), [(1, 20), (2, 4)])
def test_a_run_killed_at_random_moments_finishes_with_the_same_results(folder, num_proc, kills):
    write_recipe(edit={**TINY["edit"], "num_proc": num_proc})
    finish(folder, "warm")  # what is loaded once
    began = time.monotonic()
    finish(folder, "whole")
    seconds, whole = time.monotonic() - began, results("whole")
    assert {name.partition("/")[0] for name in whole} == {
        *("lock.yaml", "load", "load-same", "edit-toedit", "report"),
        *(f"{stage}-{arm}-seed0" for stage in ("train", "evaluate") for arm in ("source", "toedit")),
    }
    moments, killed = random.Random(num_proc), 0
    for number in count():
        out = f"out{number}"
        for _ in range(3):
            process = started(folder, out)
            process.join(timeout=moments.uniform(0, 0.7 * seconds))
            process.kill()
            process.join()
            killed += process.exitcode == -signal.SIGKILL
            assert not left_of(process.pid)
        finish(folder, out)
        assert different(whole, results(out)) == {}
        if killed >= kills:
            break
