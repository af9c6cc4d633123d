"""A smoke run tests every arm: each trains on something of its own, or the run says which does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import RECIPE_FOLDER
from typer.testing import CliRunner

from hf_toedit import ConfigError
from hf_toedit.cli.command import app
from hf_toedit.experiments.reading import read_recipe
from hf_toedit.experiments.smoke import check_arms, smoke_recipe

pytest.importorskip("trl", reason="needs the extra `recipes`")
pytest.importorskip("lm_eval", reason="needs the extra `recipes`")
pytest.importorskip("peft", reason="needs the extra `recipes`")

pytestmark = pytest.mark.usefixtures("folder")
PLAIN = Path(__file__).parent / "recipes" / "plain"


def smoke(recipe, *arguments):
    command = ["run", str(recipe), "--smoke", "--output", "out", "--set", "evaluate.held_out={}", *arguments]
    return CliRunner().invoke(app, command)


def arms(*names):
    return [word for name in names for word in ("--arm", name)]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["small", "qwen2.5-0.5b"])
def test_every_arm_of_a_smoke_run_trains_on_something_of_its_own(recipe):
    names = list(dict.fromkeys([*read_recipe(RECIPE_FOLDER / recipe).arms, "random", "drop", "tce"]))
    done = smoke(RECIPE_FOLDER / recipe, *arms(*names), "--set", "evaluate.tasks=[]")
    assert done.exit_code == 0, done.stderr or repr(done.exception)
    losses = {
        json.loads(Path(f"out/train-{name}-seed0/train.json").read_text())["log"][-1]["train_loss"] for name in names
    }
    assert len(losses) == len(names)


def test_rates_and_selections_of_a_smoke_run_reach_more_tokens(tmp_path):
    recipe = read_recipe(RECIPE_FOLDER / "small")
    easier = smoke_recipe(recipe, tmp_path)
    few, many = (easier.arms[name].fields["rate"] for name in ("random", "random-exclude-target"))
    assert recipe.arms["random"].fields["rate"] < few < many < 1
    assert easier.arms["truncate"].select["high"] < recipe.arms["truncate"].select["high"]
    assert easier.evaluate.samples.num < recipe.evaluate.samples.num


def test_thresholds_of_a_smoke_run_let_more_tokens_change_on_either_side(tmp_path):
    recipe = read_recipe(RECIPE_FOLDER / "olmo-1b/ablations-biomedicine.yaml", ["edit.config.threshold=0.9"])
    easier = smoke_recipe(recipe, tmp_path)
    sides = set()
    for name, arm in recipe.arms.items():
        own, smoke_run = recipe.arm_config(name, arm), easier.arm_config(name, easier.arms[name])
        sides.add(own.eligible)
        assert smoke_run.eligible == own.eligible
        if own.eligible == "above":
            assert 0 < smoke_run.threshold < own.threshold
        else:
            assert own.threshold < smoke_run.threshold <= 1
    assert sides == {"above", "below"}


def test_arms_that_train_alike_are_one_line():
    done = smoke(PLAIN, *arms("source", "twin"), "--set", "arms={source: {}, twin: {strategy: none}}")
    assert done.exit_code == 2, done.output
    line = "this smoke run does not tell the arms 'source' and 'twin' apart: they trained on the same tokens"
    assert done.stderr.splitlines()[-1] == f"error: {line}"


def test_an_arm_that_changes_nothing_is_one_line_also_alone():
    done = smoke(PLAIN, "--set", "arms={rare: {drop_below: 0.0, strategy: drop}}")
    assert done.exit_code == 2, done.output
    line = "this smoke run does not test the arm 'rare': its edits change no token of the rows"
    assert done.stderr.splitlines()[-1] == f"error: {line}"


def test_arms_are_told_apart_by_what_they_trained_on():
    Path("report").mkdir()
    found = {"a": {"edits": []}, "b": {"edits": [{"num_changed": 0}, {"num_changed": 3}]}}
    Path("report/report.json").write_text(json.dumps({"arms": found}))
    for name, loss in (("a", 2.5), ("b", 2.25)):
        Path(f"train-{name}-seed1").mkdir()
        Path(f"train-{name}-seed1/train.json").write_text(json.dumps({"log": [{"loss": 1}, {"train_loss": loss}]}))
    check_arms(Path(), 1)
    Path("train-b-seed1/train.json").write_text(json.dumps({"log": [{"train_loss": 2.5}]}))
    with pytest.raises(ConfigError, match="'a' and 'b' apart"):
        check_arms(Path(), 1)
    for name in "ab":  # both resumed after their last step
        Path(f"train-{name}-seed1/train.json").write_text(json.dumps({"log": [{"total_flos": 1}]}))
    check_arms(Path(), 1)
