"""`hf-toedit run`: recipes that load, plans that know what is done, runs that resume, numbers that are right."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from shutil import copytree

import command_line
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import RECIPE_FOLDER, breadth
from datasets import Dataset, load_dataset, load_from_disk
from hub_server import serve
from typer.testing import CliRunner

from hf_toedit import ConfigError, ToEditConfig, ToEditError, revert
from hf_toedit.cli.command import app
from hf_toedit.experiments import plan, results, stages, training
from hf_toedit.experiments.contrasts import interval
from hf_toedit.experiments.conversion import convert_keys
from hf_toedit.experiments.data import load as load_data
from hf_toedit.experiments.evaluation import perplexity
from hf_toedit.experiments.lock import Lock
from hf_toedit.experiments.plan import Plan
from hf_toedit.experiments.reading import bundled_recipes, read_recipe
from hf_toedit.experiments.recipe import Data, EditSettings, Model, PriorChoice
from hf_toedit.experiments.training import TrainJob
from hf_toedit.priors.pretrained import DEMO_FOLDER

trl = pytest.importorskip("trl", reason="needs the extra `recipes`")
pytest.importorskip("lm_eval", reason="needs the extra `recipes`")
pytest.importorskip("peft", reason="needs the extra `recipes`")

pytestmark = pytest.mark.usefixtures("folder")
RECIPES = sorted(path for path in RECIPE_FOLDER.glob("*/*.yaml") if path.parent.name not in ("accelerate", "tasks"))
PLAIN = Path(__file__).parent / "recipes" / "plain"
PAIRS = RECIPE_FOLDER / "qwen2.5-0.5b"
run, fail = partial(command_line.run, "run"), partial(command_line.fail, "run")
BUILT_IN = ("source", "toedit", "random", "drop", "tce")


def smoke(recipe, *arguments):
    """A smoke run into `out`; the names of the stages that it ran."""
    lines = run(recipe, "--smoke", "--output", "out", *arguments).splitlines()
    return [line.split()[1] for line in lines if line.startswith("ran ")]


def planned(recipe, *arguments):
    """The stages of the plan, by whether they are done."""
    lines = run(recipe, "--smoke", "--dry-run", "--output", "out", *arguments).splitlines()
    return {Path(line.removeprefix("to do").removeprefix("done").strip()).name: line[:4] == "done" for line in lines}


def fresh_run(*arguments, **environment):
    """A command in a process of its own."""
    command = [sys.executable, "-c", "from hf_toedit.cli import app; app()", "run", *map(str, arguments)]
    variables = {**os.environ, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)


def report():
    return json.loads(Path("out/report/report.json").read_text())


def names(paths):
    return [f"{path.parent.name}/{path.stem}" for path in paths]


# every recipe


@pytest.mark.parametrize("path", RECIPES, ids=names(RECIPES))
def test_every_recipe_loads_and_dry_runs_in_every_arm(path):
    chosen = [word for name in BUILT_IN for word in ("--arm", name)]
    lines = run(path, "--dry-run", "--seed", "7", *chosen).splitlines()
    stage_names = {Path(line.removeprefix("to do").strip()).name for line in lines}
    assert stage_names >= {f"{kind}-{name}-seed7" for kind in ("train", "evaluate") for name in BUILT_IN}
    assert {"load", "report"} <= stage_names
    assert not Path("toedit-runs").exists()


def test_each_recipe_folder_says_how_to_run_each_recipe():
    for folder in {path.parent for path in RECIPES}:
        page = (folder / "README.md").read_text(encoding="utf-8")
        for path in folder.glob("*.yaml"):
            assert path.name in page, f"{folder.name}: {path.name}"
        assert f"hf-toedit run {folder.name}" in page


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=names(RECIPES))
def test_every_recipe_smoke_runs(path):
    smoke(path)
    assert all(found["metrics"] for found in report()["arms"].values())


@pytest.mark.parametrize(
    ("path", "arms"),
    [
        pytest.param("llama-3-8b/sft-cot.yaml", BUILT_IN, marks=pytest.mark.slow),
        ("llama-3-8b/sft-oasst1.yaml", ("toedit",)),
        pytest.param("llama-3-8b/cpt-finance.yaml", ("random",), marks=pytest.mark.slow),
        pytest.param(PLAIN, ("source", "toedit-exclude-target", "toedit-3-generations"), marks=pytest.mark.slow),
    ],
    ids=["sft-pairs", "sft-conversations", "cpt", "pt"],
)
def test_one_recipe_of_each_kind_smoke_runs(path, arms):
    ran = smoke(RECIPE_FOLDER / path, *[word for name in arms for word in ("--arm", name)])
    assert ran[-1] == "report"
    found = report()["arms"]
    assert list(found) == list(arms)
    for name, arm in found.items():
        assert all(math.isfinite(value["mean"]) for value in arm["metrics"].values())
        assert bool(arm["edits"]) == (name not in ("source", "tce"))
    if "toedit" in found and "random" in found:
        assert found["toedit"]["edits"][0]["num_changed"] == found["random"]["edits"][0]["num_changed"]
    if "toedit-3-generations" in arms:
        assert [edit["generation"] for edit in found["toedit-3-generations"]["edits"]] == [0, 1, 2]
        changed = found["toedit-exclude-target"]["edits"][0]
        assert changed["num_changed"] > 0
        assert changed["changed_rate"] == pytest.approx(changed["num_changed"] / changed["num_tokens"])
    assert "| metric |" in Path("out/report/report.md").read_text()


@pytest.mark.slow
def test_the_adapters_weights_and_the_rows_that_were_trained_on():
    smoke(PAIRS, "--arm", "toedit-exclude-target", "--set", "lora={r: 2, target_modules: all-linear}")
    before = load_from_disk("out/load/data")
    after = load_from_disk("out/edit-toedit-exclude-target-seed0/data")
    assert before.column_names == ["prompt", "completion"]
    assert after["prompt"] == before["prompt"]
    assert after["completion"] != before["completion"]
    assert Path("out/train-toedit-exclude-target-seed0/model/adapter_config.json").is_file()


# skipping, resuming, redoing


@pytest.mark.slow
def test_a_killed_run_goes_on_at_its_stage(monkeypatch):
    options = ("--arm", "toedit", "--set", "arms={toedit: {}}", "--set", "edit.per_seed=false")
    expected = [
        ((plan, "load"), ["load", "load-in_domain", "load-out_of_domain"]),
        ((stages, "edit"), ["edit-toedit"]),
        ((stages, "run_job"), ["train-toedit-seed0"]),
        ((stages, "measure"), ["evaluate-toedit-seed0"]),
        ((results, "report"), ["report"]),
    ]
    for ((module, function), _), (_, before) in zip(expected, [(None, []), *expected], strict=False):
        with monkeypatch.context() as patched:
            patched.setattr(module, function, _killed)
            result = CliRunner().invoke(app, ["run", str(PLAIN), "--smoke", "--output", "out", *options])
        assert isinstance(result.exception, KeyboardInterrupt) or result.exit_code == 130, result.output
        assert [line.split()[1] for line in result.output.splitlines() if line.startswith("ran ")] == before
    assert smoke(PLAIN, *options) == ["report"]
    assert smoke(PLAIN, *options) == []


def _killed(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_training_goes_on_from_its_last_checkpoint_to_the_same_weights(monkeypatch):
    options = ("--arm", "source", "--set", "train.save_steps=1")
    smoke(PLAIN, *options)
    weights = Path("out/train-source-seed0/model/model.safetensors").read_bytes()
    steps = []
    step = trl.SFTTrainer.training_step

    def dies_at_the_second(trainer, *arguments, **keywords):
        steps.append(trainer.state.global_step)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return step(trainer, *arguments, **keywords)

    monkeypatch.setattr(trl.SFTTrainer, "training_step", dies_at_the_second)
    result = CliRunner().invoke(app, ["run", str(PLAIN), "--smoke", "--output", "again", *options])
    assert result.exit_code
    broken = Path("again/.train-source-seed0.partial/checkpoints/checkpoint-2/trainer_state.json")
    broken.parent.mkdir()
    broken.write_text('{"global_st')
    run(PLAIN, "--smoke", "--output", "again", *options)
    assert steps == [0, 1, 1]
    assert Path("again/train-source-seed0/model/model.safetensors").read_bytes() == weights


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "weights"), [(PLAIN, "model"), (PAIRS, "adapter_model")], ids=["full", "lora"])
def test_training_that_was_killed_after_its_last_step_takes_no_other_one(monkeypatch, recipe, weights):
    options = ("--arm", "source", "--set", "train.save_steps=1", "--set", "train.lr_scheduler_type=constant")
    if recipe == PAIRS:
        options += ("--set", "lora={r: 2, target_modules: all-linear}")
    smoke(recipe, *options)
    whole, again = (Path(out) / "train-source-seed0" for out in ("out", "again"))
    with monkeypatch.context() as patched:
        patched.setattr(training, "write_json", _killed)
        assert CliRunner().invoke(app, ["run", str(recipe), "--smoke", "--output", "again", *options]).exit_code
    assert not again.exists()
    monkeypatch.setattr(trl.SFTTrainer, "training_step", None)
    run(recipe, "--smoke", "--output", "again", *options)
    name = f"model/{weights}.safetensors"
    assert (again / name).read_bytes() == (whole / name).read_bytes()
    last, its_last = (json.loads((folder / "train.json").read_text())["log"][-1] for folder in (whole, again))
    assert its_last == {name: last[name] for name in ("total_flos", "epoch", "step")}


def test_a_changed_field_redoes_what_depends_on_it_alone():
    options = ("--arm", "source", "--arm", "toedit")
    smoke(PLAIN, *options)
    assert all(planned(PLAIN, *options).values())
    evaluated = {"evaluate-source-seed0", "evaluate-toedit-seed0", "report"}
    trained = {"train-source-seed0", "train-toedit-seed0"} | evaluated
    edited = {"edit-toedit-seed0", "train-toedit-seed0", "evaluate-toedit-seed0", "report"}
    cases = {
        "train.learning_rate=1e-4": trained,
        "model.config={model_type: llama}": set(),  # a smoke run has a model of its own
        "edit.config.threshold=0.5": edited,
        "edit.num_proc=1": set(),
        "evaluate.num_fewshot=1": evaluated,
        "data.columns={text: '{text}!'}": {*planned(PLAIN, *options)},
    }
    for change, redone in cases.items():
        plan = planned(PLAIN, *options, "--set", change)
        assert {name for name, done in plan.items() if not done} == redone, change
    assert smoke(PLAIN, *options, "--set", "edit.config.threshold=0.5") == [
        "edit-toedit-seed0",
        "train-toedit-seed0",
        "evaluate-toedit-seed0",
        "report",
    ]


def test_what_training_reads_from_files_counts_and_where_they_are_does_not():
    def digests():
        recipe = read_recipe(PLAIN, [f"train.{name}={path}" for name, path in files.items()] + settings)
        plan = Plan(recipe, Path("out"), Lock(Path("lock.yaml"), offline=True))
        return [plan.stages[name].digest for name in ("load", "edit-toedit-seed0", "train-toedit-seed0")]

    for folder in ("one", "two"):
        Path(folder).mkdir()
        Path(folder, "template.jinja").write_text("{{ messages }}")
        Path(folder, "ranks.yaml").write_text("num_processes: 2")
        Path(folder, "texts.jsonl").write_text('{"text": "a"}\n')
        copytree(DEMO_FOLDER, Path(folder, "prior"))
    files = {"chat_template_path": "one/template.jinja"}
    settings = ["accelerate=one/ranks.yaml", "data=one/texts.jsonl", "prior=one/prior", "evaluate.held_out={}"]
    first = digests()
    files, settings = {"chat_template_path": "one/template.jinja"}, [part.replace("one/", "two/") for part in settings]
    assert digests() == first
    Path("two/ranks.yaml").write_text("num_processes: 4")
    assert [new == old for new, old in zip(digests(), first, strict=True)] == [True, True, False]
    Path("two/ranks.yaml").write_text("num_processes: 2")
    Path("one/template.jinja").write_text("{{ messages[0] }}")
    assert [new == old for new, old in zip(digests(), first, strict=True)] == [True, True, False]
    Path("two/texts.jsonl").write_text('{"text": "b"}\n')
    assert not any(new == old for new, old in zip(digests(), first, strict=True))


@pytest.mark.slow
def test_two_runs_with_one_output_wait_for_each_other():
    command = [sys.executable, "-c", "from hf_toedit.cli import app; app()", "run", str(PLAIN), "--smoke"]
    command += ["--output", "out", "--arm", "toedit"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate() for process in runs]
    assert [process.returncode for process in runs] == [0, 0], outputs
    ran = [line for out, _ in outputs for line in out.splitlines() if line.startswith("ran ")]
    assert len(ran) == len(set(ran)) == len(planned(PLAIN, "--arm", "toedit"))


def test_edits_are_shared_between_seeds_unless_they_are_drawn_for_each():
    def edits(*options):
        return [name for name in planned(PLAIN, "--seed", "0", "--seed", "1", *options) if name.startswith("edit-")]

    assert len(edits("--arm", "toedit")) == 2
    assert edits("--arm", "toedit", "--set", "edit.per_seed=false") == ["edit-toedit"]
    shared = edits("--arm", "toedit", "--arm", "toedit-3-generations", "--set", "edit.per_seed=false")
    assert shared == ["edit-toedit", "edit-toedit-3-generations-2", "edit-toedit-3-generations-3"]


@pytest.mark.slow
def test_two_runs_with_the_same_seed_are_equal_and_another_seed_is_not():
    outputs = []
    for number, seed in enumerate((0, 0, 1)):
        run(PLAIN, "--smoke", "--output", f"out{number}", "--arm", "toedit", "--seed", seed)
        [model] = Path(f"out{number}").glob("train-toedit-seed*/model/model.safetensors")
        outputs.append((model.read_bytes(), Path(f"out{number}/report/report.json").read_bytes()))
    assert outputs[0] == outputs[1]
    assert outputs[0][0] != outputs[2][0]
    assert outputs[0][1] != outputs[2][1]


def test_a_later_run_reads_the_locked_revisions(monkeypatch):
    commits = iter(["a" * 40, "b" * 40])
    monkeypatch.setattr("hf_toedit.experiments.lock._hub_commit", lambda *_: next(commits))
    first = Lock(Path("lock.yaml"))
    assert first.resolve("dataset", "someone/rows", None) == "a" * 40
    first.write()
    assert Lock(Path("lock.yaml")).resolve("dataset", "someone/rows", None) == "a" * 40
    assert Lock(Path("lock.yaml"), offline=True).resolve("dataset", "someone/others", None) is None
    assert Lock(Path("lock.yaml")).resolve("dataset", "someone/rows", "v2") == "b" * 40
    versions = yaml.safe_load(Path("lock.yaml").read_text())["versions"]
    assert versions["trl"] == trl.__version__


# the Hub


def hub_run(hub, *arguments):
    """`hf-toedit run` in a fresh process with a local Hub."""
    return fresh_run(*arguments, **hub.environment(Path("home").resolve()))


@pytest.mark.slow
def test_edited_rows_are_pushed_as_a_config_for_each_arm_and_seed():
    arms = ("toedit", "toedit-3-generations")
    with serve() as hub:
        options = ("--smoke", "--output", "out", "--arm", arms[0], "--arm", arms[1], "--push", "org/edited")
        done = hub_run(hub, PLAIN, *options)
        assert done.returncode == 0, done.stderr
        assert "ran    push-toedit-seed0" in done.stdout
        pushed = len(hub.requests)
        assert "done   push-toedit-seed0" in hub_run(hub, PLAIN, *options).stdout
        assert len(hub.requests) == pushed
    told = json.loads(Path("out/push-toedit-seed0/push.json").read_text())
    first = hub.history("dataset", "org/edited")[-2].oid
    url = f"{hub.endpoint}/datasets/org/edited/commit/{first}"
    assert told == {"dataset": "org/edited", "subset": "toedit-seed0", "url": url}
    assert f"Pushed to {url}, config toedit-seed0\n" in done.stdout
    assert hub.repo("dataset", "org/edited").private
    hub.checkout("dataset", "org/edited", Path("hub"))
    card = Path("hub/README.md").read_text()
    assert all(f"<!-- hf-toedit:start {arm}-seed0 -->" in card for arm in arms)
    rows = load_dataset(str(Path("hub").resolve()), "toedit-seed0", split="train")
    assert rows.to_list() == load_from_disk("out/edit-toedit-seed0/data").to_list()
    third = load_dataset(str(Path("hub").resolve()), "toedit-3-generations-seed0", split="train")
    for column in ("toedit", "toedit_2", "toedit_1"):
        third = third.map(revert, batched=True, fn_kwargs={"stats_column": column})
    assert third.to_list() == load_from_disk("out/load/data").to_list()


@pytest.mark.slow
def test_what_the_hub_does_not_have_or_take_is_one_line():
    with serve() as hub:
        for recipe, change, line in (
            (PAIRS, "model=org/nowhere", "model 'org/nowhere' is neither a folder nor available on the Hub"),
            (
                PLAIN,
                "data.source=org/nowhere",
                "there is no file or folder 'org/nowhere', and it was not found on the Hub",
            ),
        ):
            done = hub_run(hub, recipe, "--output", "out", "--set", "train.bf16=false", "--set", change)
            assert done.returncode == 2
            assert done.stderr.splitlines()[-1].startswith(f"error: {line}")
            assert ": 404 Client Error. Repository Not Found" in done.stderr.splitlines()[-1]
        done = hub_run(hub, PLAIN, "--smoke", "--output", "out", "--arm", "toedit", "--push", "no repository")
        assert done.returncode == 2
        assert "error: can't push to 'no repository': " in done.stderr.splitlines()[-1]
        assert not Path("out/edit-toedit-seed0").exists()


# errors


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trian.max_steps=3", "unknown key 'trian'; did you mean 'train'?"),
        ("edit.collumns=[text]", "unknown key 'edit.collumns'; did you mean 'columns'?"),
        ("train.lerning_rate=1", "unknown key 'train.lerning_rate'; did you mean 'learning_rate'?"),
        ("edit.config.treshold=1", "arm 'source': unknown config field 'treshold'; did you mean 'threshold'?"),
        ("arms.toedit.generation=1.5", "generation=1.5 must be an integer"),
        ("kind=pretrain", "kind='pretrain' is unknown"),
        ("seeds=[one]", "seeds.0='one' must be an integer"),
        ("train.max_steps=many", "train.max_steps='many' must be an integer"),
        ("data.columns={body: '{text}'}", "kind='pt' trains on text: set data.columns"),
        ("model={}", "model needs either an id, or a config and a tokenizer"),
        ("nonsense", "must read name=value"),
        ("arms.toedit.generatoins=2", "arm 'toedit': unknown key 'generatoins'; did you mean 'generations'?"),
        ("arms.toedit.generations=0", "generations=0 must be at least 1"),
        ("name=../up", "the name '../up' must be letters, digits and . - _"),
        ("train.seed=3", "train.seed comes from the run: leave it out, and use seeds"),
        ("prior={id: demo, options: {dytpe: bfloat16}}", "'prior.options.dytpe'; did you mean 'dtype'?"),
        ("accelerate=nowhere.yaml", "accelerate: there is no 'nowhere.yaml'"),
        ("evaluate.include_path=nowhere", "evaluate.include_path: there is no 'nowhere'"),
        ("data.columns={text: '{text'}", "data.columns={'text': '{text'}"),
        ("model={tokenizer: demo, config: {hidden_size: 8}}", "model.config needs a model_type"),
        ("lora={r: 2}", "lora adapts a pretrained model, and model.config makes a new one: set model.id instead"),
    ],
)
def test_a_wrong_field_is_one_line(override, message):
    assert message in fail(PLAIN, "--dry-run", "--set", override)


def test_a_wrong_field_of_lora_is_one_line():
    assert "unknown key 'lora.rank'" in fail(PAIRS, "--dry-run", "--set", "lora={rank: 8}")


def test_what_a_run_can_not_write_to_is_one_line():
    Path("file").write_text("mine")
    assert "can't make the folder 'file': File exists; give another --output" in fail(PLAIN, "--output", "file")
    Path("mine/load").mkdir(parents=True)
    Path("mine/load/thesis.tex").write_text("mine")
    assert "'mine/load' exists but was not created by a run" in fail(PLAIN, "--smoke", "--output", "mine")
    assert Path("mine/load/thesis.tex").read_text() == "mine"


def test_an_arm_that_asks_a_model_spread_over_ranks_is_one_line():
    sharded = ("--set", f"accelerate={RECIPE_FOLDER / 'accelerate/fsdp.yaml'}")
    assert "arm 'tce' asks the model in training" in fail(PLAIN, "--dry-run", "--arm", "tce", *sharded)
    run(PLAIN, "--dry-run", "--arm", "toedit", *sharded)


def test_arms_that_would_share_a_folder_are_one_line():
    arms = "arms={a: {generations: 2}, a-1: {threshold: 0.5}}"
    line = fail(PLAIN, "--dry-run", "--set", "edit.per_seed=false", "--set", arms)
    assert "two stages would share the folder 'edit-a-1': rename one of the arms" in line


def test_a_wrong_arm_recipe_or_task_is_one_line():
    assert "no arm 'toedti'; did you mean 'toedit'?" in fail(PLAIN, "--dry-run", "--arm", "toedti")
    assert "there is no recipe 'nowhere'" in fail("nowhere", "--dry-run")
    assert "name one: " in fail(RECIPE_FOLDER / "gpt2", "--dry-run")
    line = fail(PLAIN, "--output", "out", "--set", "evaluate.tasks=[piqqa]")
    assert "lm_eval has no task 'piqqa'; did you mean 'piqa'?" in line


def test_a_bundled_recipe_runs_by_its_name_from_any_folder():
    assert {*bundled_recipes().values()} == {*RECIPES}
    for name, path in bundled_recipes().items():
        assert read_recipe(Path(name)) == read_recipe(path)
    assert run("olmo-1b/cpt-math.yaml", "--dry-run") == run("olmo-1b/cpt-math", "--dry-run") != ""
    assert "'gpt2' holds 5 recipes, name one: gpt2/synthetic-000, gpt2/synthetic-025, " in fail("gpt2", "--dry-run")
    assert "there is no recipe 'smal'; did you mean 'small'?" in fail("smal", "--dry-run")
    line = fail("nowhere", "--dry-run")
    assert all(name in line for name in bundled_recipes())


def test_a_path_wins_over_a_bundled_recipe():
    copytree(PAIRS, "small")
    assert read_recipe(Path("small")).kind == "sft" != read_recipe(RECIPE_FOLDER / "small").kind
    Path("small/recipe.yaml").unlink()
    assert "there is no recipe 'small'; give a YAML file" in fail("small", "--dry-run")


def test_what_training_needs_is_checked_before_the_first_stage():
    line = fail(PLAIN, "--output", "out", "--set", "train.lr_scheduler_type=cosinus")
    assert line.startswith("error: train: ")
    assert not Path("out/load").exists()


def test_a_missing_model_is_one_line():
    line = fail(PAIRS, "--output", "out", "--set", "model=./nowhere", "--set", "train.bf16=false")
    assert line.startswith("error: model './nowhere' is not a folder with a model")


def test_missing_data_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", _no_answer)
    line = fail(PLAIN, "--output", "out")
    assert "there is no file or folder 'train.jsonl', and it was not found on the Hub" in line


def _no_answer(*_, **__):
    raise OSError("Name or service not known")


def test_a_dataset_without_the_named_column_is_one_line():
    Path("rows.jsonl").write_text('{"body": "some text"}\n' * 40)
    changes = [f"data.source={Path('rows.jsonl').resolve()}", "evaluate.held_out={}"]
    line = fail(PLAIN, "--output", "out", *[word for change in changes for word in ("--set", change)])
    assert line.endswith("has no column 'text' (columns: 'body')")
    changes.append("data.columns={text: '{body[3][x]}'}")
    line = fail(PLAIN, "--output", "out", *[word for change in changes for word in ("--set", change)])
    assert "row 0 of " in line
    assert "does not fit data.columns" in line


def test_data_that_training_would_read_wrongly_is_one_line():
    Path("a.jsonl").write_text(json.dumps({"text": "some text", "note": None}) + "\n")
    Path("b.jsonl").write_text(json.dumps({"text": 3}) + "\n")
    a, b = (str(Path(name).resolve()) for name in ("a.jsonl", "b.jsonl"))
    for data, message in (
        ({"source": a, "columns": {"text": "{text} {note}"}}, "a field that it needs is null"),
        ({"source": a, "columns": {"text": "{note}"}}, "a field that it needs is null"),
        ([{"source": a}, {"source": b}], "has other columns or types"),
        ([{"source": a, "characters": 3}, {"source": a, "characters": 99}], "holds fewer than 99 characters"),
    ):
        line = fail(PLAIN, "--output", "out", "--set", f"data={json.dumps(data)}", "--set", "evaluate.held_out={}")
        assert message in line


@pytest.mark.slow
def test_rows_of_which_none_can_be_edited_are_one_line():
    recipe = RECIPE_FOLDER / "llama-3-8b/sft-oasst1.yaml"
    line = fail(recipe, "--smoke", "--output", "out", "--arm", "toedit", "--set", "edit.roles=[asistant]")
    assert "no row can be edited: skipped:no_text (60 rows): " in line
    assert "set edit.roles" in line


def test_a_model_that_has_diverged_has_no_perplexity():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER)
    with torch.no_grad():
        model.get_input_embeddings().weight[40] = float("nan")
    model.save_pretrained("broken")
    AutoTokenizer.from_pretrained(DEMO_FOLDER).save_pretrained("broken")
    rows = Dataset.from_dict({"text": ["Return True if all went well.", "".join(map(chr, range(32, 127)))]})
    with pytest.raises(ToEditError, match=r"no finite probabilities \(. rows\)"):
        perplexity(Path("broken"), rows, {})


@pytest.mark.parametrize(
    "error",
    [breadth(OSError(errno.ENOSPC, "No space left on device")), RuntimeError("I/O error: No space left on device")],
)
def test_a_full_disk_is_one_line_and_the_run_resumes(monkeypatch, error):
    def full(*_, **__):
        raise error

    options = ("--smoke", "--output", "out", "--arm", "toedit")
    with monkeypatch.context() as patched:
        patched.setattr("datasets.Dataset.save_to_disk", full)
        line = fail(PLAIN, *options)
    assert "the disk is full: can't write 'out/.load.partial'" in line
    assert "it resumes at the stage 'load'" in line
    with monkeypatch.context() as patched:
        patched.setattr(stages, "edit", full)
        assert "it resumes at the stage 'edit-toedit-seed0'" in fail(PLAIN, *options)
    assert smoke(PLAIN, "--arm", "toedit")[0] == "edit-toedit-seed0"


@pytest.fixture
def small_disk():
    """A disk of its own, and a function that sets its size."""
    disk = Path("disk").resolve()
    disk.mkdir()
    if sys.platform != "linux" or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full_is_one_line_and_the_run_resumes(small_disk):
    disk, resize = small_disk
    options = ("--smoke", "--output", disk / "out", "--arm", "toedit", "--set", "train.save_steps=1")
    for size, stage in (("100k", "edit-toedit-seed0"), ("4m", "train-toedit-seed0"), ("9m", "train-toedit-seed0")):
        resize(size)
        done = fresh_run(PLAIN, *options)
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: the disk is full: ")
        assert done.stderr.splitlines()[-1].endswith(f"it resumes at the stage {stage!r}")
        assert "Traceback" not in done.stderr
    resize("200m")
    assert "done   edit-toedit-seed0\n" in run(PLAIN, *options)
    assert (disk / "out/report/report.md").is_file()


# reading


def test_a_lone_value_is_a_list_a_string_is_a_source_and_1e_5_is_a_number():
    Path("r.yaml").write_text(
        "{kind: pt, model: a/b, prior: demo, data: rows.jsonl, arms: toedit, seeds: 3, train: {learning_rate: 1e-5}}"
    )
    recipe = read_recipe(Path("r.yaml"))
    assert [data.source for data in recipe.data] == ["rows.jsonl"]
    assert recipe.data[0].columns == {"text": "{text}"}
    assert (recipe.model.id, recipe.prior.id, recipe.seeds, list(recipe.arms)) == ("a/b", "demo", [3], ["toedit"])
    assert convert_keys(trl.SFTConfig, recipe.train, "train") == {"learning_rate": 1e-5}
    assert read_recipe(Path("r.yaml"), ["seeds=[1, 2]"]).seeds == [1, 2]
    Path("r.yaml").write_text("{model: a/b, prior: demo, data: rows.jsonl, seeds: 3, train: {}}")
    with pytest.raises(ConfigError, match="the recipe has no kind"):
        read_recipe(Path("r.yaml"))


def test_paths_are_relative_to_the_recipe_where_they_are_there():
    Path("recipes").mkdir()
    Path("recipes/rows.jsonl").write_text("")
    Path("recipes/r.yaml").write_text(
        "{kind: pt, model: a/b, prior: demo, data: [rows.jsonl, other.jsonl], seeds: 0, train: {}}"
    )
    assert [data.source for data in read_recipe(Path("recipes/r.yaml")).data] == ["recipes/rows.jsonl", "other.jsonl"]


@pytest.mark.parametrize("suffix", ["jsonl", "txt"])
def test_long_texts_are_cut_into_rows_without_loss(suffix):
    articles = [f" = Title {i} = \n\n" + f"Some words of article {i} . " * 900 for i in range(3)]
    lines = "".join(json.dumps({"text": article}) + "\n" for article in articles)
    Path(f"long.{suffix}").write_text(lines if suffix == "jsonl" else "\n".join(articles))
    cut = [sys.executable, str(RECIPE_FOLDER / "small/cut.py"), f"long.{suffix}", "rows.jsonl"]
    subprocess.run([*cut, "--every-second"], check=True)
    rows = [json.loads(line)["text"] for line in Path("rows.jsonl").read_text().splitlines()]
    assert max(map(len, rows)) <= 4000
    assert sorted(" ".join(rows).split()) == sorted(articles[1].split())
    subprocess.run(cut, check=True)
    assert len(Path("rows.jsonl").read_text().splitlines()) == 3 * len(rows)


def test_rows_are_mixed_by_characters():
    for name, character in (("a", "x"), ("b", "y")):
        Path(f"{name}.jsonl").write_text("".join(json.dumps({"text": character * 10}) + "\n" for _ in range(50)))
    Path("r.yaml").write_text(
        "{kind: pt, model: a/b, prior: demo, seeds: 0, train: {}, data: "
        "[{source: a.jsonl, characters: 95}, {source: b.jsonl, characters: 300}]}"
    )
    Path("out").mkdir()
    load_data(read_recipe(Path("r.yaml")).data, Path("out"))
    assert load_from_disk("out/data")["text"] == ["x" * 10] * 10 + ["y" * 10] * 30
    assert [path.name for path in Path("out").iterdir()] == ["data"]


def test_texts_mix_whatever_string_type_their_files_have():
    pq.write_table(pa.table({"text": pa.array(["long"], pa.large_string())}), "a.parquet")
    Path("b.jsonl").write_text('{"text": "short"}\n')
    Path("mixed").mkdir()
    load_data([Data(name, columns={"text": "{text}"}) for name in ("a.parquet", "b.jsonl")], Path("mixed"))
    assert load_from_disk("mixed/data")["text"] == ["long", "short"]


@pytest.mark.slow
def test_editing_in_several_processes_after_torch_has_run_gives_the_same_rows():
    texts = [f"Return the value of item {i} if it is in the list." for i in range(40)]
    Dataset.from_dict({"text": texts}).save_to_disk("rows/data")
    config = ToEditConfig(threshold=0.3, exclude_target=True)
    torch.randn(300, 300) @ torch.randn(300, 300)
    for num_proc in (1, 2):
        folder = Path(f"edited{num_proc}")
        folder.mkdir()
        settings = EditSettings(num_proc=num_proc, batch_size=10)
        stages.edit(Path("rows"), PriorChoice("demo"), config, settings, {}, None, folder)
    one, two = (load_from_disk(f"edited{num_proc}/data") for num_proc in (1, 2))
    assert one["text"] == two["text"] != texts
    assert one["toedit"] == two["toedit"]
    assert {path.name for path in folder.iterdir()} == {"data", "histogram.png", "stats.json"}


# numbers


def test_perplexity_is_that_of_the_model_itself():
    """Of texts longer than the model's 512 tokens each window has the begin token and 256 tokens of context."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = ["Return the number of items in the list.", "Raise ValueError if the value is not present. " * 60]
    model = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    total, count = 0.0, 0
    for text in texts:
        begin, *ids = tokenizer(text)["input_ids"]
        for first in (0, *range(511, len(ids), 255)):
            start = max(0, first - 256)
            window = [begin, *ids[start : start + 511]]
            with torch.no_grad():
                logprob = model(torch.tensor([window])).logits[0].double().log_softmax(-1)
            scored = range(first - start + 1, len(window))
            total -= sum(float(logprob[t - 1, window[t]]) for t in scored)
            count += len(scored)
    rows = Dataset.from_dict({"text": [*texts, None]})
    assert perplexity(DEMO_FOLDER, rows, {}) == pytest.approx(math.exp(total / count), rel=1e-5)
    assert count == sum(len(tokenizer(text)["input_ids"]) - 1 for text in texts)


def test_intervals_are_students():
    from scipy import stats as scipy_stats

    values = [3.1, 2.9, 3.4, 3.3, 2.7]
    found = interval(values)
    low, high = scipy_stats.t.interval(0.95, 4, loc=sum(values) / 5, scale=scipy_stats.sem(values))
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    assert interval([1.0]) == {"mean": 1.0, "low": None, "high": None, "values": [1.0]}


def test_the_report_adds_up():
    smoke(PLAIN, "--arm", "source", "--arm", "drop", "--seed", "0", "--seed", "1")
    arms = report()["arms"]
    for name, value in arms["drop"]["metrics"].items():
        metrics = {
            arm: [json.loads(Path(f"out/evaluate-{arm}-seed{s}/metrics.json").read_text())[name] for s in (0, 1)]
            for arm in ("source", "drop")
        }
        assert value == interval(metrics["drop"])
        differences = [b - a for a, b in zip(metrics["source"], metrics["drop"], strict=True)]
        assert arms["drop"]["minus_source"][name] == interval(differences)
    stats = [json.loads(Path(f"out/edit-drop-seed{s}/stats.json").read_text()) for s in (0, 1)]
    assert [edit["num_changed"] for edit in arms["drop"]["edits"]] == [one["num_changed"] for one in stats]


# what comes with the recipes


@pytest.mark.slow
def test_the_tasks_are_known_to_lm_eval():
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(RECIPE_FOLDER / "tasks"))
    for path in RECIPES:
        for name in read_recipe(path).evaluate.tasks:
            assert manager.match_tasks([name]) == [name], name


def test_the_accelerate_configs_load():
    from accelerate.commands.config.config_args import load_config_from_file

    for path in (RECIPE_FOLDER / "accelerate").glob("*.yaml"):
        config = load_config_from_file(str(path))
        assert config.num_processes == 4
        assert (
            str(config.distributed_type.value)
            == {"ddp": "MULTI_GPU", "fsdp": "FSDP", "deepspeed_zero2": "DEEPSPEED"}[path.stem]
        )


@pytest.mark.slow
def test_training_runs_under_accelerate_and_on_two_processes():
    smoke(PLAIN, "--arm", "source")
    inputs = json.loads(Path("out/train-source-seed0/stage.json").read_text())["inputs"]
    fields = {name: inputs[name] for name in ("train", "seed")}
    job = TrainJob(data="out/load/data", folder="", model=Model(**inputs["model"]), **fields)
    Path("cpu.yaml").write_text("{distributed_type: 'NO', use_cpu: true, num_processes: 1, mixed_precision: 'no'}")
    Path("launched").mkdir()
    stages.run_job(job, "cpu.yaml", Path("launched"))
    weights = [Path(f"{folder}/model/model.safetensors") for folder in ("out/train-source-seed0", "launched")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    Path("two").mkdir()
    halved = {**job.train, "per_device_train_batch_size": job.train["per_device_train_batch_size"] // 2}
    Path("job.json").write_text(json.dumps(dataclasses.asdict(dataclasses.replace(job, folder="two", train=halved))))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29571"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    subprocess.run([*launch, "-m", "hf_toedit.experiments.training", "job.json"], env=environment, check=True)
    tokens = [
        json.loads(Path(f"{folder}/train.json").read_text())["log"][-1]["num_tokens"] for folder in ("launched", "two")
    ]
    assert tokens[1] == tokens[0]  # half of the rows on each: one process alone would have read half as many
