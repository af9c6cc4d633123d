"""The edit stage of a recipe works in units: interrupted anywhere, it edits only what is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from crashes import crashes
from datasets import Dataset, load_from_disk
from jobs import NUM_ROWS, TEXTS, FailingPrior, never, on

from hf_toedit import PriorError
from hf_toedit.experiments import stages
from hf_toedit.experiments.lock import Lock
from hf_toedit.experiments.plan import Plan
from hf_toedit.experiments.reading import read_recipe
from hf_toedit.experiments.stage import perform
from hf_toedit.experiments.units import MOST_UNITS, _unit_rows

pytestmark = pytest.mark.usefixtures("folder")
BATCH_SIZE = 8
NUM_UNITS = -(-NUM_ROWS // BATCH_SIZE)  # of a batch each, which takes one call of the prior
WORK = Path("out/.edit-toedit.partial/work/.toedit")
RECIPE = {
    "kind": "pt",
    "model": {"tokenizer": "demo", "config": {"model_type": "llama"}},
    "prior": "demo",
    "data": {"source": "texts.jsonl"},
    "arms": {"toedit": {}},
    "seeds": 0,
    "train": {},
}


@pytest.fixture
def edit(folder, monkeypatch):
    """Performs the stages of a recipe up to the edit, with a prior, and returns the files of the latter."""
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def perform_edit(prior, batch_size=BATCH_SIZE):
        settings = {"config": {"exclude_target": True}, "batch_size": batch_size}
        Path("r.yaml").write_text(json.dumps({**RECIPE, "edit": settings}))
        monkeypatch.setattr(stages, "load_prior", lambda choice: prior)
        plan = Plan(read_recipe(Path("r.yaml")), Path("out"), Lock(Path("lock.yaml")))
        for name in ("load", "edit-toedit"):
            perform(plan.stages[name], plan.root)
        files = sorted(path for path in Path("out/edit-toedit").glob("**/*") if path.is_file())
        return {path.name: path.read_bytes() for path in files}

    return perform_edit


def undisturbed(edit):
    prior = FailingPrior(never)
    files = edit(prior)
    assert prior.num_calls == NUM_UNITS
    assert load_from_disk("out/edit-toedit/data")["text"] != TEXTS
    assert {"stage.json", "stats.json", "state.json"} < files.keys()
    shutil.rmtree("out")
    return files


def kill(call, requests):
    return call == 4 and os.kill(os.getpid(), signal.SIGKILL)


def killed(edit):
    """An edit that dies in its fourth unit."""
    pid = os.fork()
    if pid == 0:
        try:
            edit(FailingPrior(kill))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert len(list((WORK / "units").iterdir())) == 3


def test_a_killed_edit_resumes_with_the_units_that_are_left(edit):
    whole = undisturbed(edit)
    killed(edit)
    assert not [path for path in WORK.glob("**/*") if path.suffix == ".pkl"]  # a prior may have a token
    prior = FailingPrior(never)
    assert edit(prior) == whole
    assert prior.num_calls == NUM_UNITS - 3
    assert sorted(os.listdir("out")) == [".edit-toedit.lock", ".load.lock", "edit-toedit", "load"]


def test_with_another_batch_size_it_starts_again(edit):
    killed(edit)
    prior = FailingPrior(never)
    edit(prior, batch_size=2 * BATCH_SIZE)
    assert prior.num_calls == -(-NUM_ROWS // (2 * BATCH_SIZE))


def test_rows_that_the_prior_fails_on_stop_the_recipe_and_other_units_stay(edit):
    whole = undisturbed(edit)
    with pytest.raises(PriorError, match=r"^the prior failed on 2 rows \(no answer\): once it works, run the same"):
        edit(FailingPrior(on(20, 41)))
    prior = FailingPrior(never)
    assert edit(prior) == whole
    assert prior.num_calls == 2


@pytest.mark.slow
def test_an_edit_can_die_at_any_step(edit):
    whole = undisturbed(edit)
    for _ in crashes(partial(edit, FailingPrior(never))):
        assert edit(FailingPrior(never)) == whole
        assert sorted(os.listdir("out")) == [".edit-toedit.lock", ".load.lock", "edit-toedit", "load"]
        shutil.rmtree("out")


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "expected"),
    [(5, 8, 8), (8 * MOST_UNITS, 8, 8), (24 * MOST_UNITS - 1, 8, 16), (24 * MOST_UNITS, 8, 24)],
)
def test_a_unit_has_whole_batches(num_rows, batch_size, expected):
    assert _unit_rows(Dataset.from_dict({"n": range(num_rows)}), batch_size) == expected


def test_a_unit_has_fewer_rows_where_they_are_large(monkeypatch):
    monkeypatch.setattr("hf_toedit.experiments.units.UNIT_BYTES", 8000)
    assert _unit_rows(Dataset.from_dict({"n": range(100 * MOST_UNITS)}), 10) == 100
    assert _unit_rows(Dataset.from_dict({"n": range(1000 * MOST_UNITS)}), 10) == 1000
