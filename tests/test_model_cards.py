"""The cards of recipes: those in model_cards/, and those of the models that a run trains."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import command_line
import pytest
import yaml
from conftest import RECIPE_FOLDER, ROOT
from datasets import Dataset
from huggingface_hub import metadata_load, parse_eval_result_entries

from hf_toedit import ToEditTransform, ToEditWarning, summarize
from hf_toedit.experiments.cards import Trained, recipe_card, write_card
from hf_toedit.experiments.lock import Lock
from hf_toedit.experiments.plan import Plan
from hf_toedit.experiments.reading import bundled_recipes, read_recipe
from hf_toedit.files.secret import Secret
from hf_toedit.hub.eval_results import BENCHMARKS
from hf_toedit.hub.merging import marker
from hf_toedit.report.files import write_report

CARDS = ROOT / "model_cards"
pytest.importorskip("trl", reason="needs the extra `recipes`")


@pytest.fixture(scope="module")
def script() -> Any:
    found = importlib.util.spec_from_file_location("model_cards", ROOT / "scripts/model_cards.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


# model_cards/


def test_cards_are_as_they_come_out_now(script):
    cards = dict(script.cards())
    assert sorted(cards) == sorted(CARDS.glob("*.md"))
    outdated = [file.name for file, card in cards.items() if file.read_text(encoding="utf-8") != card]
    assert not outdated, "run `make cards-refresh`"


@pytest.mark.parametrize("name", bundled_recipes())
def test_a_recipes_card_tells_its_arms_data_and_results(name):
    """Against the recipe itself: no result is claimed that isn't there."""
    file = bundled_recipes()[name]
    recipe = yaml.safe_load(file.read_text())
    path = CARDS / f"{read_recipe(file).name}.md"
    card, metadata = path.read_text(encoding="utf-8"), metadata_load(path)
    assert all(f"| `{arm}` | " in card for arm in read_recipe(file).arms)
    for data in recipe["data"] if isinstance(recipe["data"], list) else [recipe["data"]]:
        is_on_hub = data["source"] in metadata.get("datasets", [])
        assert is_on_hub != (data["source"].startswith("data/") or data["source"].endswith(".jsonl"))
        assert (data["source"] if is_on_hub else Path(data["source"]).name) in card
    model = recipe["model"] if isinstance(recipe["model"], str) else recipe["model"].get("id")
    assert metadata.get("base_model") == model
    results = card.partition("## Results")[2]
    if name == "small":
        values = json.loads((file.parent / "results.json").read_text())["arms"]
        for arm in values.values():
            for metric in arm["metrics"].values():
                mean = metric["mean"]
                assert (f"{mean:.4g} [" if abs(mean) < 1 else f"{mean:.3f} [") in results
    else:
        assert "None yet: it has not been run in full." in results
        assert "|" not in results


def test_the_demo_priors_card_has_the_facts_of_its_files(script, demo):
    card = (CARDS / "demo.md").read_text(encoding="utf-8")
    model = demo._model
    assert f"{sum(p.numel() for p in model.model.parameters()):,} parameters" in card
    assert demo.revision in card
    assert metadata_load(CARDS / "demo.md")["license"] == "apache-2.0"


# the models of a run


@pytest.fixture
def trained(tmp_path, demo) -> Trained:
    """As a run leaves it, without the weights."""
    recipe = read_recipe(RECIPE_FOLDER / "qwen2.5-0.5b")
    edited = Dataset.from_dict({"text": ["Return the sum of the values."] * 4}).map(
        ToEditTransform(demo, threshold=0.3), batched=True
    )
    for folder in ("edit", "train/model", "evaluate"):
        (tmp_path / folder).mkdir(parents=True)
    write_report(tmp_path / "edit", summarize(edited), ToEditTransform(demo, threshold=0.3).provenance())
    (tmp_path / "train/train.json").write_text('{"log": []}')
    return Trained(recipe, "toedit", 1, tmp_path / "train", [tmp_path / "edit"], {"Qwen/Qwen2.5-0.5B": "a" * 40})


def evaluate(trained: Trained, **metrics: float) -> Path:
    folder = trained.folder.parent / "evaluate"
    folder.joinpath("metrics.json").write_text(json.dumps(metrics))
    return folder


GSM8K = {"gsm8k/exact_match,flexible-extract": 0.3125, "gsm8k/exact_match,strict-match": 0.25, "winogrande/acc": 0.5}


def test_a_trained_model_tells_its_training_edits_and_results(trained):
    path = trained.folder / "model/README.md"
    write_card(trained)
    assert "This model has not been evaluated yet." in path.read_text()
    write_card(trained, evaluate(trained, **GSM8K))
    card, metadata = path.read_text(), metadata_load(path)
    stats = json.loads((trained.edits[0] / "stats.json").read_text())
    assert f"| changed | {stats['num_changed']:,} |" in card
    assert f"| fingerprint | `{stats['run']['fingerprint']}` |" in card
    assert "arm `toedit` of the recipe `qwen2.5-0.5b`, with the training seed 1" in card
    assert "| gsm8k/exact_match,flexible-extract | 0.3125 |" in card
    assert "| winogrande/acc | 0.5 |" in card
    assert metadata["base_model"] == trained.recipe.model.id
    assert metadata["datasets"] == [data.source for data in trained.recipe.data]
    assert "model-index" not in metadata


def test_results_of_registered_benchmarks_go_to_the_hubs_own_files(trained):
    write_card(trained, evaluate(trained, **GSM8K))
    [file] = (trained.folder / "model/.eval_results").iterdir()
    [entry] = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 31.25)
    assert entry.notes == "5-shot, exact_match,flexible-extract"


@pytest.mark.parametrize("change", [{"limit": 20}, {"include_path": "tasks"}])
def test_a_part_of_a_benchmark_or_ones_own_task_is_no_result_of_it(change, trained):
    settings = dataclasses.replace(trained.recipe.evaluate, **change)
    trained = dataclasses.replace(trained, recipe=dataclasses.replace(trained.recipe, evaluate=settings))
    write_card(trained, evaluate(trained, **GSM8K))
    assert not (trained.folder / "model/.eval_results").exists()
    assert "| gsm8k/exact_match,flexible-extract | 0.3125 |" in (trained.folder / "model/README.md").read_text()


class TaskLoader(yaml.SafeLoader):
    """Of lm_eval's tasks, which name functions."""


TaskLoader.add_constructor("!function", lambda loader, node: node.value)


def test_registered_benchmarks_are_tasks_of_lm_eval_with_that_metric_and_data():
    lm_eval = pytest.importorskip("lm_eval", reason="needs the extra `recipes`")
    tasks = Path(lm_eval.__file__).parent / "tasks"
    files = {
        "gsm8k": "gsm8k/gsm8k.yaml",
        "mmlu_pro": "mmlu_pro/_default_template_yaml",
        "gpqa_diamond_cot_zeroshot": "gpqa/cot_zeroshot/_gpqa_cot_zeroshot_yaml",
    }
    assert files.keys() == BENCHMARKS.keys()
    for task, benchmark in BENCHMARKS.items():
        settings = yaml.load((tasks / files[task]).read_text(), TaskLoader)
        metric, answer = benchmark.metric.split(",")
        assert settings["dataset_path"] == benchmark.dataset
        assert settings["num_fewshot"] == benchmark.shots
        assert metric in [entry["metric"] for entry in settings["metric_list"]]
        assert answer in [entry["name"] for entry in settings["filter_list"]]


def test_the_guide_lists_the_registered_benchmarks():
    page = (ROOT / "docs/guide/model-cards.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"^\| `(\w+)` \| \[([^]]+)\]\(https://huggingface.co/datasets/([^)]+)\) \| `([^`]+)` \|$", page, re.M
    )
    assert listed == [(task, one.dataset, one.dataset, one.metric) for task, one in BENCHMARKS.items()]


def test_an_unedited_arm_is_no_edited_model(trained):
    write_card(dataclasses.replace(trained, arm="source", edits=[]))
    card = trained.folder / "model/README.md"
    assert "Nothing is edited." in card.read_text()
    assert "## Token-level editing" not in card.read_text()
    assert "tags" not in metadata_load(card)


def test_text_by_hand_stays_and_a_broken_card_is_left_with_a_warning(trained):
    card = trained.folder / "model/README.md"
    write_card(trained)
    card.write_text(card.read_text().replace(marker("start"), f"Mine.\n\n{marker('start')}"))
    write_card(trained, evaluate(trained, **GSM8K))
    assert "Mine.\n" in card.read_text()
    assert "0.3125" in card.read_text()
    broken = card.read_text().replace(marker("end"), "")
    card.write_text(broken)
    with pytest.warns(ToEditWarning, match="can't write the card .*markers are broken"):
        write_card(trained)
    assert card.read_text() == broken


def test_no_secret_and_no_path_is_on_a_card(trained, tmp_path):
    (tmp_path / "deep.json").write_text("{}")
    train = {
        **trained.recipe.train,
        "hub_token": Secret("hf_secret", "train.hub_token"),
        "deepspeed": str(tmp_path / "deep.json"),
    }
    recipe = dataclasses.replace(
        trained.recipe, train=train, model=dataclasses.replace(trained.recipe.model, id=str(tmp_path))
    )
    write_card(dataclasses.replace(trained, recipe=recipe))
    for card in ((trained.folder / "model/README.md").read_text(), recipe_card(recipe)):
        assert "hf_secret" not in card
        assert str(tmp_path) not in card
        assert "deepspeed: deep.json" in card


def test_a_card_names_the_commits_that_the_run_read(trained, tmp_path):
    """Those of lock.yaml."""
    data = [dataclasses.replace(source, revision="v1") for source in trained.recipe.data]
    recipe = dataclasses.replace(trained.recipe, data=data)
    revisions = {f"dataset {data[0].source}@v1": "c" * 40, f"model {recipe.model.id}": "d" * 40}
    (tmp_path / "lock.yaml").write_text(yaml.safe_dump({"revisions": revisions}))
    plan = Plan(recipe, tmp_path, Lock(tmp_path / "lock.yaml", offline=True))
    planned = plan.cards["train-toedit-seed0"].args[0]
    write_card(dataclasses.replace(trained, revisions=planned.revisions))
    card = (trained.folder / "model/README.md").read_text()
    assert f"{data[0].source}/tree/{'c' * 40}" in card
    assert f"{recipe.model.id}/tree/{'d' * 40}" in card


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"run": {}, "statuses": 3}'])
def test_broken_statistics_are_one_warning(content, trained):
    (trained.edits[0] / "stats.json").write_text(content)
    with pytest.warns(ToEditWarning, match="can't write the card .*stats.json"):
        write_card(trained)
    assert not (trained.folder / "model/README.md").exists()


def test_a_full_disk_is_the_runs_own_error(trained, monkeypatch):
    """Which says where to go on; anything else is a warning."""

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hf_toedit.experiments.cards.write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        write_card(trained)


@pytest.mark.slow
def test_a_run_leaves_cards_beside_its_models_and_a_finished_one_gets_them_too(folder):
    """Also for truncated cross-entropy, which a callback counts."""
    arguments = ["qwen2.5-0.5b", "--smoke", "--output", "out", "--arm", "toedit", "--arm", "tce"]
    command_line.run("run", *arguments)
    cards = {arm: Path(f"out/train-{arm}-seed0/model/README.md") for arm in ("toedit", "tce")}
    texts = {arm: card.read_text() for arm, card in cards.items()}
    assert "| applied to | the dataset, before training |" in texts["toedit"]
    assert "| left out of the loss | " in texts["tce"]
    assert "| training steps | 1 to 2 |" in texts["tce"]
    for card in cards.values():
        card.unlink()
    again = command_line.run("run", *arguments)
    assert "ran " not in again.replace("ran    report", "")
    assert {arm: card.read_text() for arm, card in cards.items()} == texts
