"""The recipes of the paper: what each arm edits, which steps a schedule covers, what is measured on what."""

from __future__ import annotations

import dataclasses
import math
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RECIPE_FOLDER, ROOT
from transformers import AutoConfig, AutoModelForCausalLM, get_scheduler

from hf_toedit import StaticPrior, ToEditConfig
from hf_toedit.editing.cells import Text, TokenRow
from hf_toedit.editing.editor import Editor
from hf_toedit.experiments.lock import Lock
from hf_toedit.experiments.plan import Plan
from hf_toedit.experiments.reading import read_recipe

SHARES = ("000", "025", "050", "075", "100")
MIXTURES = ("gpt2", "olmo-237m")
PAGE = (RECIPE_FOLDER / "README.md").read_text(encoding="utf-8")
PROBABILITIES = (0.0005, 0.005, 0.05, 0.5, 0.995, 0.9995)
PILE = {
    "arxiv": "ArXiv",
    "bookcorpus2": "BookCorpus2",
    "books3": "Books3",
    "dm-mathematics": "DM Mathematics",
    "enron": "Enron Emails",
    "europarl": "EuroParl",
    "freelaw": "FreeLaw",
    "github": "Github",
    "gutenberg": "Gutenberg (PG-19)",
    "hackernews": "HackerNews",
    "nih-exporter": "NIH ExPorter",
    "opensubtitles": "OpenSubtitles",
    "openwebtext2": "OpenWebText2",
    "philpapers": "PhilPapers",
    "pile-cc": "Pile-CC",
    "pubmed-abstracts": "PubMed Abstracts",
    "pubmed-central": "PubMed Central",
    "stackexchange": "StackExchange",
    "ubuntu-irc": "Ubuntu IRC",
    "uspto": "USPTO Backgrounds",
    "wikipedia": "Wikipedia (en)",
    "youtubesubtitles": "YoutubeSubtitles",
}


def experiments():
    """The rows of the table of experiments: the paper's tables, and the cell that says where they are."""
    table = PAGE.partition("## The experiments of the paper")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (Tables? [^|]*) \| (.*) \|$", table, re.MULTILINE)
    return [
        (list(map(int, re.findall(r"\b\d+\b", first.partition(",")[0].partition(" as ")[0]))), cell)
        for first, cell in rows
    ]


# the list


def test_every_table_of_experiments_has_a_recipe_or_a_reason():
    assert {number for numbers, _ in experiments() for number in numbers} == {*range(1, 10), *range(11, 18)}
    for numbers, cell in experiments():
        assert (
            "](" in cell or ".yaml" in cell or "recipe" in cell or "nothing is trained" in cell or "none: " in cell
        ), numbers


def test_the_recipes_and_arms_that_the_list_names_are_there():
    arms, held_out = set(), set()
    for path in RECIPE_FOLDER.glob("*/*.yaml"):
        if path.parent.name not in ("accelerate", "tasks"):
            recipe = read_recipe(path)
            arms |= set(recipe.arms)
            held_out |= set(recipe.evaluate.held_out)
    quoted = {name for _, cell in experiments() for name in re.findall(r"`([\w.*-]+)`", cell)} - {"held_out"}
    for name in quoted:
        is_file = name.endswith(".yaml") and list(RECIPE_FOLDER.glob(f"*/{name}"))
        assert is_file or name in arms | held_out or name == "paloma_*", name
    assert len(quoted & arms) > 12


# Tables 5, 7 and 8


def changed_by(config: ToEditConfig, demo) -> tuple[set[float], set[float]]:
    """The probabilities of the tokens that are replaced, and of those that are deleted: p goes by the token."""

    def probability(token_id):
        return PROBABILITIES[token_id % len(PROBABILITIES)]

    def distribution(input_ids, t):
        p = probability(int(input_ids[t]))
        return {70: (1 - p) * 0.6, 71: (1 - p) * 0.3, int(input_ids[t]): p}

    text = "".join(chr(ord("a") + (i * i + i // 7) % 26) for i in range(300))
    assert {probability(i) for i in demo.tokenizer.encode(text, add_special_tokens=False).ids[1:]} == {*PROBABILITIES}
    editor = Editor(StaticPrior(demo.tokenizer, distribution), dataclasses.replace(config, exclude_target=True))
    [got] = editor.edit([Text(text)])
    found: dict[bool, set[float]] = {True: set(), False: set()}
    for edit in got.edits:
        [old] = demo.tokenizer.encode(edit.old, add_special_tokens=False).ids
        found[bool(edit.new)].add(probability(old))
    return found[True], found[False]


@pytest.mark.parametrize(
    ("arm", "resampled", "deleted"),
    [
        ("source", set(), set()),
        ("toedit", {0.995, 0.9995}, set()),
        ("resample-above-0.999", {0.9995}, set()),
        ("resample-below-0.1", {0.0005, 0.005, 0.05}, set()),
        ("resample-below-0.01", {0.0005, 0.005}, set()),
        ("resample-below-0.001", {0.0005}, set()),
        ("delete-above-0.99", set(), {0.995, 0.9995}),
        ("delete-above-0.999", set(), {0.9995}),
        ("delete-below-0.1", set(), {0.0005, 0.005, 0.05}),
        ("delete-below-0.01", set(), {0.0005, 0.005}),
        ("delete-below-0.001", set(), {0.0005}),
    ],
)
def test_an_arm_of_the_ablations_edits_the_tokens_that_its_name_says(arm, resampled, deleted, demo):
    recipe = read_recipe(RECIPE_FOLDER / "olmo-1b/ablations-biomedicine.yaml")
    assert changed_by(recipe.arm_config(arm, recipe.arms[arm]), demo) == (resampled, deleted)


def test_controls_of_the_ablations_are_random_twins():
    recipe = read_recipe(RECIPE_FOLDER / "olmo-1b/ablations-biomedicine.yaml")
    configs = {name: recipe.arm_config(name, arm) for name, arm in recipe.arms.items()}
    twins = {"random": "toedit"} | {
        f"random-{side}": f"resample-{side}" for side in ("below-0.1", "below-0.01", "below-0.001")
    }
    for control, arm in twins.items():
        assert dataclasses.replace(configs[control], strategy="resample") == configs[arm]
    assert configs["top-k-64"] == dataclasses.replace(configs["toedit"], top_k=64)
    assert configs["top-p-0.99"] == dataclasses.replace(configs["toedit"], top_p=0.99)


def test_top_p_of_99_percent_leaves_something_to_draw_at_the_default_temperature_alone(demo):
    """What the README of olmo-1b says of the arm top-p-0.99."""
    prior = StaticPrior(demo.tokenizer, lambda input_ids, t: {70: 0.005, 71: 0.003, int(input_ids[t]): 0.992})
    ids_T = np.full(1000, 72)
    changes = {}
    for temperature in (1.0, 1.5):
        editor = Editor(prior, ToEditConfig(top_p=0.99, temperature=temperature))
        [got] = editor.edit([TokenRow(ids_T, ids_T > 0, ids_T > 0)])
        changes[temperature] = got.stats.num_changed
    assert changes[1.0] == 0
    assert changes[1.5] > 20


# schedules


def learning_rates(train, num_steps):
    """The learning rate of each step, of a Trainer with these fields that runs so many steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=train["learning_rate"])
    schedule = get_scheduler(
        train["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=train["warmup_steps"],
        num_training_steps=num_steps,
        scheduler_specific_kwargs=train["lr_scheduler_kwargs"],
    )
    return np.array([train["learning_rate"] * schedule.lr_lambdas[0](step) for step in range(num_steps)])


def test_pre_training_is_the_first_half_of_20_000_steps_and_reads_its_data_once():
    recipe = read_recipe(RECIPE_FOLDER / "olmo-1b/pt-dolma.yaml")
    page = (RECIPE_FOLDER / "olmo-1b/README.md").read_text(encoding="utf-8")
    overrides = re.search(r"`((?:--set \S+ )+--set data.characters=\S+)`", page)[1].replace("--set ", "").split()
    whole = read_recipe(RECIPE_FOLDER / "olmo-1b/pt-dolma.yaml", overrides)
    assert (recipe.train["max_steps"], whole.train["max_steps"]) == (10_000, 20_000)
    half, all_steps = learning_rates(recipe.train, 10_000), learning_rates(whole.train, 20_000)
    np.testing.assert_allclose(half, all_steps[:10_000], rtol=1e-9)
    assert all_steps[-1] == pytest.approx(0.1 * recipe.train["learning_rate"])
    tokens = 4 * 8 * 4 * 2048  # ranks, rows, accumulation, tokens of a row
    for one in (recipe, whole):
        assert one.data[0].characters >= 4 * tokens * one.train["max_steps"]


def test_the_first_of_five_epochs_is_that_of_the_schedule_of_five():
    page = (RECIPE_FOLDER / "gpt2/README.md").read_text(encoding="utf-8")
    overrides = re.findall(r"--set (train\.\S+)", page)
    one, five = (read_recipe(RECIPE_FOLDER / "gpt2/synthetic-025.yaml", extra) for extra in (overrides, ()))
    assert (one.train["num_train_epochs"], five.train["num_train_epochs"]) == (1, 5)
    steps = [round(epochs * 8.4e9 / (4 * 32 * 4 * 1024)) for epochs in (1, 5)]
    assert all(f"{number:,}" in page for number in steps)
    first, whole = learning_rates(one.train, steps[0]), learning_rates(five.train, steps[1])
    np.testing.assert_allclose(first, whole[: steps[0]], rtol=1e-4)


# mixtures


@pytest.mark.parametrize("folder", MIXTURES)
def test_mixtures_differ_in_nothing_but_their_shares(folder):
    recipes = {share: read_recipe(RECIPE_FOLDER / folder / f"synthetic-{share}.yaml") for share in SHARES}
    first = recipes["000"]
    for share, recipe in recipes.items():
        characters = {one.source.rpartition("/")[2]: one.characters for one in recipe.data}
        assert sum(characters.values()) == 33_600_000_000
        assert characters.get("cosmopedia", 0) == int(share) * 336_000_000
        assert dataclasses.replace(recipe, name=first.name, data=first.data) == first
        assert recipe.data == read_recipe(RECIPE_FOLDER / MIXTURES[0] / f"synthetic-{share}.yaml").data


@pytest.mark.parametrize(("folder", "num_parameters"), [("gpt2", 124_439_808), ("olmo-237m", 237_240_320)])
def test_the_models_of_the_mixtures_have_the_papers_sizes(folder, num_parameters):
    config = read_recipe(RECIPE_FOLDER / folder / "synthetic-000.yaml").model.config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert sum(weight.numel() for weight in model.parameters()) == num_parameters


def test_the_warm_up_of_the_smaller_olmo_is_nearly_its_whole_run():
    train = read_recipe(RECIPE_FOLDER / "olmo-237m/synthetic-000.yaml").train
    rows = 4 * train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    assert rows == 2048
    steps = math.ceil(8.4e9 / rows / train["max_length"])
    assert (steps, train["warmup_steps"]) == (2003, 2000)
    assert "are 2,003 steps" in (RECIPE_FOLDER / "olmo-237m/README.md").read_text(encoding="utf-8")


def test_each_set_of_the_pile_is_measured_by_itself():
    package = find_spec("lm_eval")
    if package is None or package.origin is None:
        pytest.skip("needs the extra `recipes`")
    assert {f"pile_{name}" for name in PILE} == {
        path.stem for path in Path(package.origin).parent.glob("tasks/pile/*.yaml")
    }
    held_out = read_recipe(RECIPE_FOLDER / "gpt2/synthetic-000.yaml").evaluate.held_out
    sets = {name: data for name, data in held_out.items() if name.startswith("pile-")}
    assert set(sets) == {f"pile-{name.removeprefix('pile-')}" for name in PILE}
    rows = [{"text": "Some text.", "meta": {"pile_set_name": name}} for name in PILE.values()]
    for name, pile_name in PILE.items():
        taken = [row for row in rows if sets[f"pile-{name.removeprefix('pile-')}"].matches(row)]
        assert [row["meta"]["pile_set_name"] for row in taken] == [pile_name]


# Tables 3, 15 and 16


@pytest.mark.parametrize("folder", ["olmo-1b", "llama-3-8b"])
def test_of_the_biomedical_mixture_one_half_is_edited(folder):
    path = RECIPE_FOLDER / folder / "cpt-biomedicine.yaml"
    assert [(one.source.rpartition("/")[2], one.edit) for one in read_recipe(path).data] == [
        ("biomedicine", True),
        ("OpenOrca", False),
    ]
    assert [one.edit for one in read_recipe(path, ["data.1.edit=true"]).data] == [True, True]


def test_generations_edit_each_other_and_nothing_twice():
    recipe = read_recipe(RECIPE_FOLDER / "llama-3-8b/sft-cot.yaml")
    plan = Plan(dataclasses.replace(recipe, seeds=[0]), Path("out"), Lock(Path("lock.yaml"), offline=True))
    edits = [name for name in plan.stages if name.startswith("edit-toedit")]
    assert edits == ["edit-toedit", "edit-toedit-2-generations-2", "edit-toedit-3-generations-3"]
    for earlier, later in zip(["load", *edits], edits, strict=False):
        assert plan.stages[later].inputs["after"] == [plan.stages[earlier].digest]
    assert [plan.stages[name].inputs["config"]["generation"] for name in edits] == [0, 1, 2]


# what the docs say of the paper


def test_the_figures_of_table_3_in_the_docs_are_differences_of_the_recipes():
    page = (RECIPE_FOLDER / "olmo-1b/README.md").read_text(encoding="utf-8")
    said_there = re.sub(r"\s+", " ", (ROOT / "docs/results.md").read_text(encoding="utf-8"))
    source, toedit, matched, whole, finance, finance_toedit = 38.83, 40.89, 39.49, 39.67, 47.92, 50.21
    assert all(f"{figure}" in page for figure in (source, toedit, matched, whole, finance, finance_toedit))
    gains = [toedit - source, toedit - matched, whole - matched]
    said = re.search(
        r"gain in biomedicine, ([\d.]+) points, becomes ([\d.]+) against .*?, and ([\d.]+) where", said_there
    )
    assert said.groups() == tuple(f"{gain:.2f}" for gain in gains)
    assert f"the gain in finance, {finance_toedit - finance:.2f}, is between runs of matching size" in said_there
