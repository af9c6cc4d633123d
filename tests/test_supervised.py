"""Language models on prompts and completions: what the loss counts, what they answer, what ToEdit changes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from datasets import Dataset, DatasetDict, load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_toedit import ConfigError, ToEditTransform
from hf_toedit.collapse import (
    Accumulate,
    LanguageModel,
    Replace,
    ToEdit,
    accumulate,
    accumulate_subsample,
    train_generations,
)
from hf_toedit.collapse.generations import rng_of
from hf_toedit.collapse.language_model import TextSource
from hf_toedit.collapse.supervised import answered
from hf_toedit.editing.config import ToEditConfig
from hf_toedit.experiments.recipe import Model
from hf_toedit.priors.pretrained import DEMO_FOLDER

TRAIN = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "dataloader_pin_memory": False}
NUM_HUMAN, NUM_ROWS = 24, 6


@pytest.fixture(scope="module")
def rows(human_texts):
    """Docstrings, of which the first three words are the prompt."""
    pairs = [text.split(" ", 3) for text in human_texts if text.count(" ") > 8][: NUM_HUMAN + 4]
    return Dataset.from_dict(
        {
            "prompt": [" ".join(words[:3]) for words in pairs],
            "completion": [f" {words[3][:80]}" for words in pairs],
            "number": list(range(len(pairs))),
        }
    )


@pytest.fixture(scope="module")
def setting(rows):
    human, held_out = rows.select(range(NUM_HUMAN)), rows.select(range(NUM_HUMAN, len(rows)))
    edits = ToEditConfig(threshold=0.5, temperature=3.0)
    model = Model(id="demo")
    return LanguageModel(human, held_out, model, TRAIN, edits, contexts=rows["prompt"][:3], max_new_tokens=8)


@pytest.fixture(scope="module")
def written(setting):
    """Human rows, and those that the demo model answers."""
    model = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32).eval()
    return setting.sample(TextSource(7), NUM_ROWS, rng_of(0)), setting.sample(TextSource(7, model), NUM_ROWS, rng_of(1))


def test_the_loss_counts_the_completions_and_their_ends_alone(setting, rows, tmp_path):
    """By hand: a prompt's tokens have no label, a completion's are their own, and padding has none."""
    model = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER)
    trainer = setting.trainer(model, setting._arguments(str(tmp_path), 0), rows.select(range(4)), tmp_path)
    [batch] = list(trainer.get_train_dataloader())
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    end, start = tokenizer.eos_token_id, tokenizer("")["input_ids"]
    expected = {}
    for row in rows.select(range(4)):
        prompt, completion = (
            tokenizer(row[name], add_special_tokens=False)["input_ids"] for name in ("prompt", "completion")
        )
        labels = [-100] * len([*start, *prompt]) + [*completion, end]
        expected[*start, *prompt, *completion, end] = labels
    longest = batch["input_ids"].shape[1]
    assert longest == max(map(len, expected))
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        [(inputs, by_hand)] = [item for item in expected.items() if ids[: len(item[0])] == list(item[0])]
        assert labels == by_hand + [-100] * (longest - len(inputs))


def test_models_answer_the_prompts_of_the_same_human_rows(setting, written, rows):
    human, synthetic = written
    assert human["prompt"] == synthetic["prompt"]
    assert human["completion"] != synthetic["completion"]
    assert set(human["prompt"]) < set(rows["prompt"])
    assert human.features == synthetic.features == rows.select_columns(["prompt", "completion"]).features
    assert setting.sample(TextSource(8), NUM_ROWS, rng_of(0))["prompt"] != human["prompt"]
    with pytest.raises(ConfigError, match=r"can't take 25 of 24 rows"):
        setting.sample(TextSource(7), NUM_HUMAN + 1, rng_of(0))


def test_more_answers_than_prompts(rows):
    model = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32).eval()
    few = LanguageModel(rows.select(range(3)), rows, Model(id="demo"), TRAIN, max_new_tokens=4)
    prompts = few.sample(TextSource(0, model), 7, rng_of(0))["prompt"]
    assert prompts[:3] == prompts[3:6]
    assert prompts[6] == prompts[0]


def test_prompts_that_are_too_long(setting):
    model = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32)
    long = dataclasses.replace(setting, max_new_tokens=505)
    with pytest.raises(ConfigError, match=r"a prompt has \d+ tokens and max_new_tokens=505, but the model reads 512"):
        long.sample(TextSource(7, model), NUM_ROWS, rng_of(0))


def test_completions_are_decoded_in_context(setting, rows):
    some = rows.select(range(4))
    tokenizer = setting.tokenizer
    start = len(tokenizer("")["input_ids"])
    prompts = setting.starts(some["prompt"])
    completions = [ids[start:] for ids in tokenizer(list(some["completion"]))["input_ids"]]
    assert answered(some, tokenizer, prompts, completions)["completion"] == some["completion"]


def test_toedit_edits_completions_in_the_context_of_their_prompts(setting, written):
    model = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32).eval()
    edited = setting.edit(written[0], TextSource(7, model), None, None, rng_of(3))
    assert edited["prompt"] == written[0]["prompt"]
    assert edited["completion"] != written[0]["completion"]
    seed = int(rng_of(3).integers(2**32))
    config = dataclasses.replace(setting.edits, seed=seed)
    by_hand = written[0].map(ToEditTransform("demo", config), batched=True)  # prompt + completion, scored together
    assert edited["completion"] == by_hand["completion"]


def test_generations(setting, rows, tmp_path):
    """Each starts from the base model again, writes the rows that training reads, and keeps its prompts."""
    found = train_generations(setting, Replace(), n=NUM_ROWS, generations=2, out=tmp_path)
    assert found["next_token_l1"][0] == 0 < found["next_token_l1"][1]
    places = [tmp_path / "seed-0" / name for name in ("generation-1", "replace/generation-2")]
    history = [load_from_disk(place / "rows") for place in places]
    assert history[0]["prompt"] == history[1]["prompt"]
    assert not list(tmp_path.rglob("cache-*.arrow"))
    saved = AutoModelForCausalLM.from_pretrained(places[1] / "model").state_dict()
    from_the_base = setting.fit(history[1], setting.truth(1, NUM_ROWS, rng_of(0, 0, 0))).model.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in from_the_base.items())
    parts = [part.select_columns(setting.columns) for part in history]
    assert Accumulate().training_rows(setting, history, 0, rng_of(0)).to_dict() == accumulate(parts).to_dict()
    assert setting.subsample(history, 7, rng_of(9)).to_dict() == accumulate_subsample(parts, 7, rng_of(9)).to_dict()


def test_toedit_over_generations(setting, tmp_path):
    found = train_generations(setting, ToEdit(), n=NUM_ROWS, generations=2, out=tmp_path)
    assert 0 < found["changed_rate"][1] < found["eligible_rate"][1] < 1
    assert found["num_tokens"][0] > NUM_ROWS


MESSAGES = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
CHAT = Dataset.from_dict({"prompt": MESSAGES, "completion": MESSAGES})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prefix_tokens": 3}, r"prefix_tokens=3: rows begin with their prompts; leave it out"),
        ({"sampler": "vlm"}, r"sampler='vlm' is unknown; did you mean 'vllm'"),
        ({"train": {"max_lenght": 3}}, r"unknown field train.max_lenght; did you mean 'max_length'"),
        ({"held_out": Dataset.from_dict({"text": ["a"]})}, r"held_out= .* has no 'prompt'"),
        ({"human": Dataset.from_dict({"messages": MESSAGES})}, r"human= has conversations.*apply_chat_template"),
        (
            {"human": Dataset.from_dict({"prompt": MESSAGES, "completion": MESSAGES})},
            r"'prompt' of human= does not hold",
        ),
        ({"human": DatasetDict(train=CHAT)}, r"human= is a DatasetDict: choose a split"),
        ({"held_out": CHAT.to_iterable_dataset()}, r"held_out= must be a Dataset, not IterableDataset"),
        ({"human": ["a"]}, r"human= must be a Dataset, not list"),
    ],
)
def test_wrong_settings_are_one_line(setting, changes, says):
    with pytest.raises(ConfigError, match=says) as caught:
        dataclasses.replace(setting, **changes)
    assert "\n" not in str(caught.value)
