"""Recipes, locks and outputs that are broken or hostile: one line each, and no code runs that nobody asked for."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import command_line
import pytest
import yaml
from conftest import RECIPE_FOLDER
from small_disks import mounted
from typer.testing import CliRunner

from hf_toedit import ConfigError, SourceError
from hf_toedit.cli.command import app
from hf_toedit.experiments import results
from hf_toedit.experiments.data import read_rows
from hf_toedit.experiments.lock import Lock
from hf_toedit.experiments.plan import Plan
from hf_toedit.experiments.reading import read_recipe
from hf_toedit.experiments.stage import Stage, perform
from hf_toedit.experiments.trust import check_trust
from hf_toedit.files.yamls import load_yaml

pytest.importorskip("trl", reason="needs the extra `recipes`")
pytest.importorskip("peft", reason="needs the extra `recipes`")

pytestmark = pytest.mark.usefixtures("folder")
fail = partial(command_line.fail, "run")
PLAIN = Path(__file__).parent / "recipes" / "plain"
CPU = {"use_cpu": True, "bf16": False, "activation_checkpointing": False}
RECIPES = sorted(path for path in RECIPE_FOLDER.glob("*/*.yaml") if path.parent.name not in ("accelerate", "tasks"))
BOMB = (
    "a: &a ["
    + "x, " * 9
    + "]\n"
    + "".join(f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))
)
CHAIN = "a0: &a0 []\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(2000))
BROKEN = {
    "alias bomb": (BOMB, "it holds more than 100,000 values once its aliases are written out"),
    "alias chain": (CHAIN, "it is nested too deeply"),
    "alias of itself": ("train: &a {b: *a}", "line 1: it is nested too deeply"),
    "brackets": ("[" * 50_000, "it is nested too deeply"),
    "a hundred levels": ("[" * 100 + "]" * 100, "it is nested too deeply"),
    "a key twice": ("kind: pt\nseeds: 1\nkind: sft", "line 3: found 'kind' twice in one mapping"),
    "a null key": ("null: 1", "line 1: found a key that is not a string: put it in quotes"),
    "a number as key": ("train: {1: 2}", "line 1: found a key that is not a string: put it in quotes"),
    "a list as key": ("? [a]\n: b", "line 1: found a key that is not a string: put it in quotes"),
    "binary": ("kind: !!binary aGk=", "line 1: could not determine a constructor for the tag"),
    "a set": ("kind: !!set {a}", "line 1: could not determine a constructor for the tag"),
    "a Python object": ("kind: !!python/name:os.system ''", "line 1: could not determine a constructor for the tag"),
    "a date by its tag": ("kind: !!timestamp 2001-01-01", "line 1: could not determine a constructor for the tag"),
    "a tag that does not fit": ("kind: !!int pt", "a value does not fit its tag, or is too long"),
    "a list that is no mapping": ("kind: !!map [pt]", "line 1: expected a mapping"),
    "five thousand digits": ("seeds: " + "1" * 5000, "a value does not fit its tag, or is too long"),
    "a number beyond floats": ("train: {learning_rate: 1e999}", "line 1: found a number that is too large"),
    "control characters": ("kind: \x00", "special characters are not allowed"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_recipe_that_is_not_plain_yaml_is_one_line(text, message):
    Path("r.yaml").write_text(text)
    assert message in fail("r.yaml", "--dry-run")
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=1:30", "seeds.0='1:30' must be an integer"),
        ("seeds=010", "seeds.0='010' must be an integer"),
        ("seeds=-1", "must be integers in [0, 2^32)"),
        ("seeds=4294967296", "must be integers in [0, 2^32)"),
        ("train.learning_rate=.nan", "train.learning_rate='.nan' must be a number"),
        ("train.learning_rate=.inf", "train.learning_rate='.inf' must be a number"),
        ("train={<<: {max_steps: 3}}", "unknown key 'train.<<'"),
        (f"name={'n' * 300}", "the name of 300 characters must be letters, digits and . - _, at most 200 bytes"),
        ("kind=[", "--set 'kind': the value is not valid YAML: line 1: "),
        ("kind={kind: pt, kind: pt}", "--set 'kind': the value is not valid YAML: line 1: found 'kind' twice"),
    ],
)
def test_an_odd_value_is_one_line(override, message):
    assert message in fail(PLAIN, "--dry-run", "--set", override)


def test_what_is_a_value_of_yaml_is_one_of_recipes():
    found = load_yaml("a: &a {x: [1, 1_000, -3, 0x1F, 1e-5, 3.0e+2, .5, true, ~, 2001-01-01, 12:30]}\nb: *a")
    assert found["a"] == found["b"] == {"x": [1, 1000, -3, 31, 1e-5, 300.0, 0.5, True, None, "2001-01-01", "12:30"]}
    for path in RECIPES:
        text = path.read_text()
        plain = yaml.safe_load(text)
        assert load_yaml(text).keys() == plain.keys()
        assert load_yaml(text)["seeds"] == plain["seeds"]
    assert load_yaml("") is None


def test_a_recipe_that_can_not_be_read_is_one_line():
    Path("r.yaml").write_bytes(b"kind: \xff\xfe")
    assert "'r.yaml' is not valid YAML: 'utf-8' codec can't decode" in fail("r.yaml")


@pytest.mark.parametrize(
    "text", [b"revisions: {a", b"[]", b"revisions: [1]", b"revisions: {a: 3}", b"\xff\x00", b"3", b"{}", b"other: {}"]
)
def test_a_broken_lock_is_one_line(text):
    Path("out").mkdir()
    Path("out/lock.yaml").write_bytes(text)
    line = fail(PLAIN, "--dry-run", "--output", "out")
    assert "'out/lock.yaml'" in line
    assert "put a whole one in its place, or remove it" in line
    assert Path("out/lock.yaml").read_bytes() == text


@pytest.mark.parametrize("text", [b'{"digest": "a', b"[]", b"{}", b'{"digest": 3}', b"\xff\x00", b"[" * 100_000, b""])
@pytest.mark.parametrize("place", ["load", ".train-a-seed0.partial"])
def test_a_broken_stage_is_one_line_and_stays(text, place):
    Path(place).mkdir()
    Path(place, "stage.json").write_bytes(text)
    Path(place, "result").write_text("hours of work")
    name = place.strip(".").removesuffix(".partial")
    with pytest.raises(SourceError) as raised:
        perform(Stage(name, {}, lambda _: None, resumes=True), Path())
    assert str(raised.value).startswith(f"can't read '{place}/stage.json': ")
    assert str(raised.value).endswith(f"remove the folder '{place}' to run its stage again")
    assert Path(place, "result").read_text() == "hours of work"


@pytest.mark.parametrize("text", [b'{"a": 1', b"[]", b'{"a": "b"}', b"\xff\x00"])
def test_broken_metrics_and_statistics_are_one_line(text):
    Path("evaluate").mkdir()
    Path("edit").mkdir()
    Path("evaluate/metrics.json").write_bytes(text)
    with pytest.raises(SourceError, match=r"can't read 'evaluate/metrics.json': .*; remove the folder 'evaluate'"):
        results.report({"a": {0: Path("evaluate")}}, {}, {}, Path())
    Path("evaluate/metrics.json").write_text("{}")
    Path("edit/stats.json").write_bytes(text)
    with pytest.raises(SourceError, match=r"can't read 'edit/stats.json': .*; remove the folder 'edit'"):
        results.report({"a": {0: Path("evaluate")}}, {"a": [Path("edit")]}, {}, Path())


def test_rows_that_an_earlier_stage_left_broken_are_one_line():
    from datasets import Dataset

    Dataset.from_dict({"text": ["a"]}).save_to_disk("load/data")
    [file] = Path("load/data").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(SourceError, match=r"can't read 'load/data': .*remove the folder 'load' to run its stage again"):
        read_rows(Path("load"))
    shutil.rmtree("load/data")
    with pytest.raises(SourceError, match=r"can't read 'load/data'"):
        read_rows(Path("load"))


def test_an_output_that_can_not_be_made_is_one_line(monkeypatch):
    for part in ("--dry-run", "--smoke"):
        line = fail(PLAIN, part, "--output", "a/" + "ö" * 128)
        assert "--output: a folder's name can't be longer than 255 bytes; give a shorter one" in line
    Path("file").write_text("")
    assert "can't make the folder 'file/out'" in fail(PLAIN, "--smoke", "--output", "file/out")

    def refused(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hf_toedit.experiments.runner.TemporaryFile", refused)  # root may write everywhere
    line = fail(PLAIN, "--smoke", "--output", "out")
    assert "can't make the folder 'out': Permission denied; give another --output" in line


def everything(folder):
    return {str(path): path.read_bytes() for path in sorted(Path(folder).glob("**/*")) if path.is_file()}


@pytest.mark.parametrize("file", ["smoke/rows.jsonl", "load/thesis.tex", "report", "train-source-seed0/model/a"])
def test_an_output_with_files_of_the_user_is_refused_before_anything_is_written(file):
    path = Path("mine", file)
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    Path("mine/lock.yaml").write_text("revisions: {}\n")
    before = everything("mine")
    folder = Path("mine", Path(file).parts[0])
    assert f"{str(folder)!r} exists but was not created by a run: give another --output" in fail(
        PLAIN, "--smoke", "--output", "mine"
    )
    assert everything("mine") == before


def test_a_lock_that_is_a_folder_is_one_line():
    Path("mine/lock.yaml").mkdir(parents=True)
    assert "'mine/lock.yaml'" in fail(PLAIN, "--smoke", "--output", "mine")
    assert os.listdir("mine") == ["lock.yaml"]


def test_an_output_with_the_results_of_another_recipe_is_refused_and_they_stay():
    recipe = {"kind": "pt", "model": "demo", "prior": "demo", "data": "a.txt", "arms": {"source": {}}}
    Path("a.txt").write_text("A line.\n")
    for name, seed, steps in (("one", 0, 1), ("two", 0, 2), ("three", 1, 1)):
        tree = {**recipe, "seeds": seed, "train": {**CPU, "max_steps": steps}}
        Path(f"{name}.yaml").write_text(yaml.safe_dump({**tree, "name": name}))
    plan = Plan(read_recipe(Path("one.yaml")), Path("out"), Lock(Path("out/lock.yaml"), offline=True))
    plan.lock.recipe = "one"
    for stage in plan.stages.values():
        perform(
            Stage(stage.name, stage.inputs, lambda folder: (folder / "model").write_text("hours of work")), plan.root
        )
    plan.lock.write()
    before = everything("out")
    says = "error: 'out' holds the results of the recipe 'one', and 'two' would replace them; they differ in train: "
    for more in ((), ("--dry-run",)):
        assert fail("two.yaml", "--output", "out", *more) == f"{says}give another --output"
    assert "and 'one-smoke' would replace them; they differ in" in fail("one.yaml", "--smoke", "--output", "out")
    assert "they differ in seeds: " in fail("three.yaml", "--output", "out", "--dry-run")
    assert everything("out") == before
    printed = command_line.run("run", "one.yaml", "--output", "out", "--dry-run", "--set", "train.max_steps=3")
    assert "to do  out/train-source-seed0\n" in printed


def test_a_stage_that_may_not_write_is_one_line(folder):
    with mounted(folder / "disk", "ro"), pytest.raises(SourceError) as raised:
        perform(Stage("load", {}, lambda _: None), folder / "disk")
    line = "the stage 'load' can't access a file: [Errno 30] Read-only file system: "
    assert str(raised.value).startswith(line)
    assert str(raised.value).endswith("; allow access and run the same command again")


# what a recipe may run


@pytest.mark.parametrize(
    "override",
    [
        "prior={id: demo, options: {trust_remote_code: true}}",
        "train.trust_remote_code=true",
        "train.model_init_kwargs={trust_remote_code: true}",
        "train.model_init_kwargs={attn_implementation: someone/kernel}",
        "prior={id: demo, backend: vllm, options: {engine: {worker_cls: x.y}}}",
    ],
)
def test_remote_code_is_asked_for(override):
    line = fail(PLAIN, "--dry-run", "--set", override, "--set", "edit.num_proc=1")
    assert line.startswith("error: the recipe would run code that comes with it (")
    assert line.endswith("): read it, and give --trust-recipe")
    trusted = CliRunner().invoke(
        app, ["run", str(PLAIN), "--dry-run", "--trust-recipe", "--set", override, "--set", "edit.num_proc=1"]
    )
    assert trusted.exit_code == 0, trusted.stderr


TASK = """
task: own
dataset_path: json
output_type: multiple_choice
doc_to_text: "{{question}} {{choices[0].text | trim}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc, aggregation: mean}]
"""
HOSTILE = {
    "function": ("doc_to_target: !function own.run", "is more than plain YAML"),
    "include": ("include: ../other.yaml", "has 'include'"),
    "class": ("class: x", "has 'class'"),
    "attribute": ('description: "{{ cycler.__init__.__globals__ }}"', "has a template of more than fields"),
    "call": ('description: "{{ question.upper() }}"', "has a template of more than fields"),
    "concatenation": ("description: \"{{ x['_' ~ '_class_' ~ '_'] }}\"", "has a template of more than fields"),
    "statement": ('description: "{% for a in b %}{% endfor %}"', "has a template of more than fields"),
    "remote": ("dataset_kwargs: {trust_remote_code: true}", "has trust_remote_code"),
}


@pytest.mark.parametrize(("line", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_task_that_runs_code_is_asked_for_before_it_runs(line, message):
    Path("tasks/deep").mkdir(parents=True)
    Path("tasks/own.py").write_text("open('ran', 'w')\ndef run(doc): return 0\n")
    Path("tasks/deep/own.yaml").write_text(TASK)
    overrides = ["evaluate.tasks=[own]", "evaluate.include_path=tasks"]
    check_trust(read_recipe(PLAIN, overrides), trusted=False)
    Path("tasks/deep/own.yaml").write_text(f"{TASK}{line}\n")
    told = fail(PLAIN, "--output", "out", *[word for one in overrides for word in ("--set", one)])
    assert f"(evaluate.include_path: own.yaml {message})" in told
    assert not Path("ran").exists()
    check_trust(read_recipe(PLAIN, overrides), trusted=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("metric: acc", "metric: org/script", "a metric that is not built in"), ("json", "pandas", "reads pickles")],
)
def test_scripts_and_pickles_of_tasks_are_asked_for(old, new, message):
    Path("tasks").mkdir()
    Path("tasks/own.yaml").write_text(TASK.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        check_trust(read_recipe(PLAIN, ["evaluate.tasks=[own]", "evaluate.include_path=tasks"]), trusted=False)


@pytest.mark.parametrize("path", RECIPES, ids=[f"{path.parent.name}/{path.stem}" for path in RECIPES])
def test_no_recipe_here_runs_code(path):
    check_trust(read_recipe(path), trusted=False)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_runs_no_code_when_it_is_unpickled(file):
    from datasets import Dataset

    from hf_toedit.experiments.recipe import Model
    from hf_toedit.experiments.training import TrainJob, train

    Dataset.from_dict({"text": ["Return the item.", "Raise ValueError."]}).save_to_disk("rows")
    own = {"use_cpu": True, "bf16": False, "activation_checkpointing": False, "disable_tqdm": True, "max_length": 16}
    job = TrainJob("rows", "out", Model("demo"), {**own, "max_steps": 1, "save_steps": 1}, 0)
    train(job)
    Path("out/checkpoints/checkpoint-1", file).write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(SourceError, match=r"^the checkpoint 'out/checkpoints/checkpoint-1' holds more than weights"):
        train(dataclasses.replace(job, train={**job.train, "max_steps": 2}))
    assert not Path("ran").exists()
