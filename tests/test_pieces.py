"""Recipes that cut their text into pieces before the edit: what the arms of a seed share, and what they don't."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import RECIPE_FOLDER
from datasets import Dataset, load_from_disk
from tiny_training import some_texts, tokenizer_with_padding

from hf_toedit import ConfigError, RowError
from hf_toedit.experiments.data import EDITABLE
from hf_toedit.experiments.lock import Lock
from hf_toedit.experiments.pieces import cut, pieces
from hf_toedit.experiments.plan import Plan
from hf_toedit.experiments.reading import read_recipe
from hf_toedit.experiments.recipe import Model
from hf_toedit.experiments.training import TrainJob, train

trl = pytest.importorskip("trl", reason="needs the extra `recipes`")
pytestmark = pytest.mark.usefixtures("folder")

SMALL = RECIPE_FOLDER / "small"
DEMO = Model("demo")
TINY = Model(tokenizer="demo", config={"model_type": "llama", "hidden_size": 16, "intermediate_size": 16})
TINY.config.update(num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64)
STEPS = {"max_steps": 3, "per_device_train_batch_size": 2, "max_length": 16, "bf16": False, "use_cpu": True}
STEPS |= {"save_strategy": "no", "disable_tqdm": True, "activation_checkpointing": False}
ARMS = {
    "source": {},
    "toedit": {"exclude_target": True},
    "clean": {"strategy": "resample", "exclude_target": True, "targets": "original"},
    "noise": {"strategy": "random", "rate": 0.2},
    "truncated": {"strategy": "none", "select": {"high": 0.5}},
    "drop": {},
}


def the_plan(**changes):
    fields = {"piece_tokens": 16, "arms": ARMS, "seeds": [3], "data": "texts.jsonl", "evaluate": {}, **changes}
    fields["contrasts"] = None
    overrides = [f"{name}={json.dumps(value)}" for name, value in fields.items()]
    overrides += ["model.config=" + json.dumps(TINY.config), "train=" + json.dumps(STEPS)]
    overrides += ["edit.config.threshold=0.5", "edit.batch_size=7", "edit.config.drop_below=0.05"]
    recipe = read_recipe(SMALL, overrides)
    return Plan(recipe, Path("out"), Lock(Path("lock.yaml"), offline=True))


@pytest.fixture
def texts(folder):
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in some_texts(12)))


def rows_of(plan, name):
    """The rows of a stage, which is run if it was not yet."""
    stage = plan.stages[name]
    folder = plan.root / name
    if not folder.exists():
        folder.mkdir(parents=True)
        stage.run(folder)
    return load_from_disk(folder / "data")


def test_pieces_are_the_texts_with_their_ends_and_nothing_twice():
    tokenizer, texts = tokenizer_with_padding(), [*some_texts(7), "x"]
    whole = [id_ for text in texts for id_ in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    for num_tokens in (2, 16, 61):
        found = list(pieces(Dataset.from_dict({"text": texts}), tokenizer, num_tokens))
        assert [id_ for row in found for id_ in row["input_ids"]] == whole[: len(whole) // num_tokens * num_tokens]
        assert all(row["labels"] == row["input_ids"] and len(row["labels"]) == num_tokens for row in found)


def test_a_piece_of_a_mixture_is_editable_or_not():
    tokenizer, texts = tokenizer_with_padding(), list(some_texts(6))
    flags = [True, True, False, False, True, False]
    found = list(pieces(Dataset.from_dict({"text": texts, EDITABLE: flags}), tokenizer, 8))
    for part, flag in ((texts[:2], True), (texts[2:4], False), (texts[4:5], True), (texts[5:], False)):
        alone = list(pieces(Dataset.from_dict({"text": part}), tokenizer, 8))
        assert [row["input_ids"] for row in found[: len(alone)]] == [row["input_ids"] for row in alone]
        assert {row[EDITABLE] for row in found[: len(alone)]} == {flag}
        found = found[len(alone) :]
    assert found == []


def test_too_little_text_for_a_piece_is_one_line():
    Dataset.from_dict({"text": ["a", "b"]}).save_to_disk("load/data")
    with pytest.raises(RowError, match="the texts have fewer tokens than piece_tokens=64"):
        cut(Path("load"), DEMO, 64, Path("cut"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"piece_tokens": 1}, "piece_tokens=1 must be at least 2"),
        ({"train.packing": True}, "leave out train.packing"),
        ({"train.max_length": 8}, "train.max_length=8 would cut off the pieces: set it to 128 or null"),
        ({"edit.columns": ["text"]}, "leave out train.packing and edit's columns"),
        ({"kind": "sft", "data.columns": {"prompt": "a", "completion": "b"}}, "piece_tokens cuts texts"),
        ({"piece_tokens": None}, "arm 'truncate': select writes the labels of tokens"),
        ({"arms.truncate.truncate": "prior"}, "select or truncate, not both"),
        ({"arms.truncate.select": {"hihg": 0.9}}, "arm 'truncate': .* 'hihg' of LossSelection; did you mean 'high'"),
        ({"arms.truncate.select": {"share": 0.9}}, "arm 'truncate': share= and .* set base= as well"),
        ({"arms.truncate.base": "demo"}, "arm 'truncate': base= is only compared"),
    ],
)
def test_what_does_not_fit_pieces_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(SMALL, [f"{name}={json.dumps(value)}" for name, value in changes.items()])


@pytest.mark.usefixtures("texts")
def test_arms_differ_from_the_shared_pieces_in_edited_tokens_alone():
    plan = the_plan()
    rows_of(plan, "load")
    source = np.array(rows_of(plan, "cut")["input_ids"])
    edited, clean, noise = (rows_of(plan, f"edit-{name}") for name in ("toedit", "clean", "noise"))
    ids, changed = np.array(edited["input_ids"]), np.array(edited["input_ids"]) != source
    assert 0.05 < changed.mean() < 0.5
    assert (np.array(edited["labels"]) == ids).all()
    assert (np.array(clean["input_ids"]) == ids).all()  # the same draws: only the targets differ
    assert (np.array(clean["labels"]) == source).all()
    assert 0.1 < (np.array(noise["input_ids"]) != source).mean() < 0.3
    kept = np.array(rows_of(plan, "select-truncated")["labels"])
    assert (np.array(rows_of(plan, "select-truncated")["input_ids"]) == source).all()
    assert set(np.unique(kept[kept != source])) == {-100}
    assert (kept[changed] == -100).all()  # what can be resampled is what the truncated loss leaves out
    assert (kept[~changed] == -100).sum() < 0.05 * (~changed).sum()  # no candidate fitted there
    selection = json.loads(Path("out/select-truncated/selection.json").read_text())
    assert selection["num_scored"] - selection["num_kept"] == (kept == -100).sum()


@pytest.mark.usefixtures("texts")
def test_an_arm_that_deletes_tokens_edits_texts_and_is_cut_afterwards():
    plan = the_plan()
    after = {name: stage.inputs["after"] for name, stage in plan.stages.items()}
    digest = {name: stage.digest for name, stage in plan.stages.items()}
    assert after["edit-drop"] == after["cut"] == [digest["load"]]
    assert after["cut-drop"] == [digest["edit-drop"]]
    trained_on = {"source": "cut", "toedit": "edit-toedit", "truncated": "select-truncated", "drop": "cut-drop"}
    for arm, rows in trained_on.items():
        assert after[f"train-{arm}-seed3"] == [digest[rows]]
    for name in ("load", "edit-drop"):
        rows_of(plan, name)
    whole = [id_ for row in rows_of(plan, "cut-drop")["input_ids"] for id_ in row]
    texts = load_from_disk("out/edit-drop/data")["text"]
    assert texts != list(some_texts(12))
    tokenizer = tokenizer_with_padding()
    expected = [id_ for text in texts for id_ in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    assert whole == expected[: len(whole)]


@pytest.mark.usefixtures("texts")
def test_all_arms_of_a_seed_start_from_the_same_weights_and_see_the_same_rows(monkeypatch):
    """By hash: the weights before the first step, and every batch but for the tokens that the edit changed."""
    plan, seen = the_plan(), []
    step = trl.SFTTrainer.training_step

    def watched(trainer, model, inputs, *arguments, **keywords):
        weights = b"".join(value.detach().numpy().tobytes() for value in model.state_dict().values())
        ids = inputs["input_ids"].numpy().copy()
        seen.append((hashlib.sha256(weights).hexdigest(), ids, inputs["labels"].numpy().copy()))
        return step(trainer, model, inputs, *arguments, **keywords)

    monkeypatch.setattr(trl.SFTTrainer, "training_step", watched)
    rows_of(plan, "load")
    names = ("cut", "edit-toedit", "edit-clean", "select-truncated")
    for name in names:
        rows = rows_of(plan, name).select_columns(["input_ids", "labels"])
        rows.save_to_disk(f"{name}-rows")
        train(TrainJob(f"{name}-rows", f"{name}-trained", TINY, STEPS, seed=3))
    source, toedit, clean, truncated = (seen[3 * i : 3 * i + 3] for i in range(4))
    assert len({arm[0][0] for arm in (source, toedit, clean, truncated)}) == 1
    assert source[2][0] != toedit[2][0]  # and training moves them apart
    for (_, ids, labels), (_, edited, new), (_, edited_too, old), (_, same, kept) in zip(
        source, toedit, clean, truncated, strict=True
    ):
        changed = edited != ids
        assert 0 < changed.mean() < 0.5
        assert (new == edited).all()
        assert (edited_too == edited).all()
        assert (old == labels).all()
        assert (same == ids).all()
        assert (kept[~changed & (kept != -100)] == labels[~changed & (kept != -100)]).all()
    del seen[:]
    train(TrainJob("cut-rows", "again", TINY, STEPS, seed=4))
    assert seen[0][0] != source[0][0]
    assert (seen[0][1] != source[0][1]).any()
