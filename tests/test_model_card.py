"""The section on edits in the cards of trained models: once, true, and beside what others wrote."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import DEMO_FOLDER, NUM_IDS, breadth
from datasets import Dataset, load_dataset
from huggingface_hub import ModelCard, metadata_load
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_training import (
    MANY,
    arguments,
    lora_on_demo,
    make_sft_trainer,
    make_trainer,
    some_rows,
    some_texts,
    tiny_model,
    tokenizer_with_padding,
)
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from hf_toedit import (
    ConfigError,
    RowError,
    SourceError,
    ToEditCallback,
    ToEditConfig,
    ToEditTransform,
    ToEditWarning,
    summarize,
)
from hf_toedit.hub.merging import marker, merged
from hf_toedit.hub.model_card import model_card_section
from hf_toedit.hub.training_edits import TrainingEdit

pytestmark = pytest.mark.usefixtures("fast_collection")
START, END = marker("start"), marker("end")
SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
KINDS = {"Trainer": make_trainer, "SFTTrainer": make_sft_trainer}
LORA = LoraConfig(r=4, target_modules=["q_proj"])
WITHOUT = {"TrainerControl": {"args": {}, "attributes": {}}}
BY_HAND = "\nThis model was trained by hand; ask <me@example.org> about it.\n"


@pytest.fixture
def trainers_hub(hub, monkeypatch):
    """transformers keeps a client of the Hub that it met first."""
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)
    return hub


def is_regex(rule: str) -> bool:
    try:
        ToEditConfig(protect=[rule])
    except ConfigError:
        return False
    return True


class Count:
    """An independent count of what a trainer's batches hold before and after the edits."""

    def __init__(self, trainer: Any, *callbacks: ToEditCallback) -> None:
        self.tokens = self.sequences = self.changed = 0
        self._wrap(trainer, self._keep)
        for callback in callbacks:
            callback.attach(trainer)
        self._wrap(trainer, self._compare)

    def _wrap(self, trainer: Any, look: Any) -> None:
        original = trainer.get_batch_samples

        def looked_at(*args: Any) -> Any:
            batches, num_items = original(*args)
            look(batches)
            return batches, num_items

        trainer.get_batch_samples = looked_at

    def _keep(self, batches: Any) -> None:
        self.before = [batch["input_ids"].clone() for batch in batches]

    def _compare(self, batches: Any) -> None:
        for before, batch in zip(self.before, batches, strict=True):
            self.sequences += len(before)
            self.tokens += int(batch["attention_mask"].sum())
            self.changed += int((before != batch["input_ids"]).sum())


def section_of(path: Path) -> str:
    """The one section of a card, whose metadata are valid."""
    card = path.read_text(encoding="utf-8")
    assert card.count(START) == card.count(END) == 1
    ModelCard.load(path)
    metadata = metadata_load(path)
    assert {"toedit", "token-level-editing"} <= set(metadata["tags"])
    for name in (metadata.get("base_model"), *metadata["tags"]):
        assert os.sep + "priors" + os.sep not in str(name), "a local path"
    return card.partition(START)[2].partition(END)[0]


def text_of(section: str) -> str:
    """What a reader sees of it."""
    return section.partition("## Token-level editing")[2]


def figures(section: str) -> dict[str, str]:
    """The table of a section; of the last one if there are several."""
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE))


def check(section: str, count: Count, steps: str) -> None:
    found = figures(section)
    assert found["training steps"] == steps
    assert found["sequences"] == f"{count.sequences:,}"
    assert found["tokens"] == f"{count.tokens:,}"
    assert found["changed"] == f"{count.changed:,}"
    assert found["changed rate, of all tokens"] == f"{count.changed / count.tokens:.5f}"
    assert count.changed / int(found["scored by the prior"].replace(",", "")) == pytest.approx(
        float(found["eligible rate, of these"]), abs=5e-5
    )  # with exclude_target every eligible token changes


# where cards are written


@pytest.mark.parametrize(
    ("kind", "lora"),
    [("Trainer", False), ("SFTTrainer", True), breadth("Trainer", True), breadth("SFTTrainer", False)],
)
def test_checkpoints_and_saved_models_tell_what_was_edited(kind, lora, tmp_path):
    model = lora_on_demo() if lora else tiny_model()
    callback = ToEditCallback("base" if lora else "demo", **MANY)
    trainer = KINDS[kind](tmp_path / "out", some_rows(), model=model, **SAVING)
    count = Count(trainer, callback)
    trainer.train()
    trainer.save_model(tmp_path / "model")
    check(section_of(tmp_path / "model/README.md"), count, "1 to 4")
    check(section_of(tmp_path / "out/checkpoint-4/README.md"), count, "1 to 4")
    half = figures(section_of(tmp_path / "out/checkpoint-2/README.md"))
    assert half["training steps"] == "1 to 2"
    if kind == "SFTTrainer":
        check(section_of(tmp_path / "out/README.md"), count, "1 to 4")
        assert "# Model Card for out" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_pushed_model_tells_what_was_edited(kind, trainers_hub, tmp_path):
    hub = trainers_hub
    hub.add("model", "org/base", DEMO_FOLDER)
    model = AutoModelForCausalLM.from_pretrained("org/base", dtype="float32")
    Dataset.from_dict(some_rows()).push_to_hub("me/rows")
    rows = load_dataset("me/rows", split="train")
    options = {"push_to_hub": True, "hub_model_id": "me/model", "hub_strategy": "all_checkpoints"}
    trainer = KINDS[kind](tmp_path / "out", rows, model=get_peft_model(model, LORA), **SAVING, **options)
    count = Count(trainer, ToEditCallback("base", **MANY))
    trainer.train()
    trainer.push_to_hub()
    pushed = hub.checkout("model", "me/model", tmp_path / "pushed")
    section = section_of(pushed / "README.md")
    check(section, count, "1 to 4")
    check(section_of(pushed / "checkpoint-4/README.md"), count, "1 to 4")
    ModelCard.load(pushed / "README.md").validate()
    metadata = metadata_load(pushed / "README.md")
    assert (metadata["base_model"], metadata["datasets"]) == ("org/base", ["me/rows"])
    assert "the frozen base model under the adapter, [org/base](https://huggingface.co/org/base)" in section
    [commit] = [one.oid for one in hub.history("dataset", "me/rows")][:1]
    assert f"https://huggingface.co/datasets/me/rows/tree/{commit}" in section
    in_progress = [
        hub.files("model", "me/model", one.oid).get("README.md", b"") for one in hub.history("model", "me/model")
    ]
    assert len([card for card in in_progress if card]) > 1  # while training, too
    assert all(card.count(START.encode()) == 1 for card in in_progress if card)


@pytest.mark.parametrize("restores", [False, breadth(True)])
def test_a_resumed_run_tells_of_the_whole_training(restores, tmp_path, demo):
    """As an uninterrupted one does, also where the states of other callbacks are restored."""
    whole = make_sft_trainer(tmp_path / "whole", some_rows(), **SAVING)
    count = Count(whole, ToEditCallback(demo, **MANY))
    whole.train()
    section = section_of(tmp_path / "whole/README.md")
    check(section, count, "1 to 4")
    options = {**SAVING, "restore_callback_states_from_checkpoint": restores}
    resumed = make_sft_trainer(tmp_path / "out", some_rows(), [ToEditCallback(demo, **MANY)], **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    assert text_of(section_of(tmp_path / "out/README.md")) == text_of(section)


def test_a_resumed_run_with_other_settings_tells_both(tmp_path, demo):
    rows = some_rows()
    make_trainer(tmp_path / "out", rows, [ToEditCallback(demo, **MANY)], **{**SAVING, "max_steps": 2}).train()
    trainer = make_trainer(tmp_path / "out", rows, **SAVING)
    count = Count(trainer, ToEditCallback(demo, threshold=0.6, exclude_target=True))
    trainer.train(resume_from_checkpoint=True)
    section = section_of(tmp_path / "out/checkpoint-4/README.md")
    first, second = section.split("### Edit 2")
    assert figures(first)["training steps"] == "1 to 2"
    assert "threshold: 0.5" in first
    check(second, count, "3 to 4")
    assert "threshold: 0.6" in second


@pytest.mark.parametrize(
    "state", [{}, {"toedit": [[{"record": {}}]]}, breadth({"toedit": 3}), breadth({"toedit": [None]})]
)
def test_a_run_without_record_of_its_first_steps_says_so(state, tmp_path, demo):
    make_trainer(tmp_path / "out", some_rows(), **{**SAVING, "max_steps": 2}).train()
    file = tmp_path / "out/checkpoint-2/trainer_state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"stateful_callbacks": WITHOUT | state}))
    trainer = make_trainer(tmp_path / "out", some_rows(), **SAVING)
    count = Count(trainer, ToEditCallback(demo, **MANY))
    trainer.train(resume_from_checkpoint=True)
    check(section_of(tmp_path / "out/checkpoint-4/README.md"), count, "3 to 4; there is no record of those before")


def test_another_training_of_the_same_model_is_told_too(tmp_path, demo):
    trainer = make_trainer(tmp_path / "out", some_rows())
    count = Count(trainer, ToEditCallback(demo, **MANY))
    trainer.train()
    trainer.train()
    trainer.save_model(tmp_path / "model")
    first, second = section_of(tmp_path / "model/README.md").split("### Edit 2")
    changed = [int(figures(part)["changed"].replace(",", "")) for part in (first, second)]
    assert sum(changed) == count.changed
    assert all(changed)


# what others write on a card


def test_text_by_hand_stays_when_the_trainer_writes_its_card_anew(tmp_path, demo):
    """At checkpoints, after a resume, and although TRL's own trainer drops it."""

    def train(steps: int, **options: Any) -> Any:
        trainer = make_sft_trainer(
            tmp_path, some_rows(), [ToEditCallback(demo, **MANY)], **{**SAVING, "max_steps": steps}
        )
        trainer.train(**options)
        return trainer

    train(2)
    card = tmp_path / "README.md"
    fresh = card.read_text()
    card.write_text(
        fresh.replace("---\n", "---\nlanguage: en # and some French\n", 1).replace(START, f"{BY_HAND}\n{START}")
    )
    trainer = train(4, resume_from_checkpoint=True)
    trainer.create_model_card()
    written = card.read_text()
    assert figures(section_of(card))["training steps"] == "1 to 4"
    assert written.partition(START)[0] == card.read_text().partition(START)[0]
    assert BY_HAND in written
    assert "language: en # and some French" in written
    assert "This model was trained with SFT" in written


def test_the_trainers_text_is_renewed_where_nobody_touched_it(tmp_path, demo):
    trainer = make_sft_trainer(tmp_path, some_rows(), [ToEditCallback(demo, **MANY)], **SAVING)
    trainer.train()
    before = (tmp_path / "README.md").read_text()
    trainer.create_model_card(model_name="Another name", dataset_name="org/rows")
    after = (tmp_path / "README.md").read_text()
    assert "# Model Card for Another name" in after
    assert text_of(before) == text_of(after)
    assert metadata_load(tmp_path / "README.md")["datasets"] == ["org/rows"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_that_was_there_before_stays(kind, trainers_hub, tmp_path, demo):
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\ntags: [mine]\n---\n# My model\n{BY_HAND}")
    options = {"hub_model_id": "me/model"}
    trainer = KINDS[kind](tmp_path, some_rows(), [ToEditCallback(demo, **MANY)], **SAVING, **options)
    trainer.train()
    trainer.push_to_hub()
    section_of(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.text.startswith(f"# My model\n{BY_HAND}")
    assert card.data.license == "mit"
    assert {"mine", "generated_from_trainer"} <= set(card.data.tags)
    assert trainers_hub.files("model", "me/model")["README.md"] == (tmp_path / "README.md").read_bytes()


def test_text_by_hand_stays_on_an_adapters_card(tmp_path, demo):
    trainer = make_trainer(tmp_path, some_rows(), [ToEditCallback(demo, **MANY)], model=lora_on_demo())
    trainer.train()
    trainer.save_model()
    card = tmp_path / "README.md"
    card.write_text(card.read_text().replace("# Model Card for Model ID", f"# My adapter\n{BY_HAND}"))
    trainer.save_model()
    section_of(card)
    assert f"# My adapter\n{BY_HAND}" in card.read_text()
    assert card.read_text().count("- PEFT ") == 1


@pytest.mark.parametrize(
    "breakage",
    [
        lambda card: card.replace(END, ""),
        breadth(lambda card: card.replace(START, f"{START}\n{START}")),
        lambda card: card.replace("---\n", "---\n{", 1),
        breadth(lambda card: "---\n- a\n---\n" + card),
    ],
)
def test_a_broken_card_is_left_alone_with_a_warning(breakage, tmp_path, demo):
    trainer = make_sft_trainer(tmp_path, some_rows(), [ToEditCallback(demo, **MANY)], **SAVING)
    trainer.add_callback(BreakCard(tmp_path / "README.md", breakage))
    with pytest.warns(ToEditWarning, match="can't update the section on edits in .*README.md': .*; training continues"):
        trainer.train()
    assert trainer.state.global_step == 4
    assert (tmp_path / "README.md").read_text() == breakage(trainer.callback_handler.callbacks[-1].card)


class BreakCard(TrainerCallback):
    """Somebody edits the card at the third step."""

    def __init__(self, path: Path, breakage: Any) -> None:
        self.path, self.breakage = path, breakage

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            self.card = self.path.read_text()
            self.path.write_text(self.breakage(self.card))


def test_a_card_that_cannot_be_written_does_not_end_the_training(tmp_path, demo):
    trainer = make_trainer(tmp_path, some_rows(), [ToEditCallback(demo, **MANY)])
    trainer.train()
    (tmp_path / "model/README.md").mkdir(parents=True)
    with pytest.warns(ToEditWarning, match="can't update the section on edits"):
        trainer.save_model(tmp_path / "model")
    assert (tmp_path / "model/model.safetensors").exists()


def test_a_card_that_cannot_be_read_stays(tmp_path, demo, monkeypatch):
    trainer = make_trainer(tmp_path, some_rows(), [ToEditCallback(demo, **MANY)])
    trainer.train()
    card = tmp_path / "README.md"
    card.write_bytes("Größe".encode("latin-1"))
    with pytest.warns(ToEditWarning, match="it is not UTF-8"):
        trainer.save_model()
    assert card.read_bytes() == "Größe".encode("latin-1")
    with monkeypatch.context() as patched:
        patched.setattr(
            Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
        )
        with pytest.warns(ToEditWarning, match="Permission denied; training continues"):
            trainer.save_model()
    assert card.read_bytes() == "Größe".encode("latin-1")


# what is told


def test_two_callbacks_are_both_told(tmp_path, demo):
    callbacks = [ToEditCallback(demo, **MANY), ToEditCallback(demo, threshold=0.9, strategy="none")]
    trainer = make_trainer(tmp_path, some_rows(), callbacks)
    trainer.train()
    trainer.save_model()
    first, second = section_of(tmp_path / "README.md").split("### Edit 2")
    assert "threshold: 0.5" in first
    assert "threshold: 0.9" in second
    assert (figures(first)["training steps"], figures(second)["training steps"]) == ("1 to 3", "1 to 3")
    assert "changed" not in figures(second)
    assert "nothing is edited" in second


def test_truncation_is_told_as_what_it_is(tmp_path):
    """It changes no token."""
    trainer = make_trainer(tmp_path, some_rows(), [ToEditCallback("self", select={"high": 1 / NUM_IDS})])
    trainer.train()
    trainer.save_model()
    section = section_of(tmp_path / "README.md")
    assert "No token is changed." in section
    assert "the model in training, as it was at each step" in section
    left_out = [log["toedit/visited"] * (1 - log["toedit/kept_rate"]) for log in trainer.state.log_history[:3]]
    assert figures(section)["left out of the loss"] == f"{round(sum(left_out)):,}"
    assert "changed" not in figures(section)


def test_a_subclass_keeps_its_own_card(tmp_path, demo):
    class Mine(SFTTrainer):
        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            Path(self.args.output_dir, "README.md").write_text("---\ntags: [generated_from_trainer]\n---\n# Mine\n")

    trainer = Mine(
        model=tiny_model(),
        args=arguments(tmp_path, SFTConfig, **SAVING),
        train_dataset=Dataset.from_dict(some_rows()),
        processing_class=tokenizer_with_padding(),
        callbacks=[ToEditCallback(demo, **MANY)],
    )
    trainer.train()
    section_of(tmp_path / "README.md")
    assert "# Mine\n" in (tmp_path / "README.md").read_text()


def test_other_ranks_write_no_card(tmp_path, demo, monkeypatch):
    trainer = make_trainer(tmp_path, some_rows(), [ToEditCallback(demo, **MANY)])
    trainer.train()
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    trainer.save_model()
    trainer.create_model_card()
    assert not (tmp_path / "README.md").exists()


def test_before_training_nothing_is_told(tmp_path, demo):
    callback = ToEditCallback(demo, **MANY)
    trainer = make_trainer(tmp_path, some_rows(), [callback])
    callback.attach(trainer)
    trainer.create_model_card()
    assert START not in (tmp_path / "README.md").read_text()


def test_a_model_trained_on_an_edited_dataset_tells_of_the_edit(trainers_hub, tmp_path, demo):
    """By the dataset's own statistics; what stood on the card stays."""
    Dataset.from_dict({"text": some_texts()}).push_to_hub("me/rows")
    transform = ToEditTransform(demo, **MANY)
    edited = load_dataset("me/rows", split="train").map(transform, batched=True)
    (tmp_path / "README.md").write_text(f"# Mine\n{BY_HAND}")
    for _ in range(2):
        transform.write_model_card(edited, tmp_path, base_model="org/base")
    section, stats = section_of(tmp_path / "README.md"), summarize(edited)
    found = figures(section)
    assert found["applied to"] == "the dataset, before training"
    assert found["rows"] == f"{stats.num_rows:,}"
    assert found["changed"] == f"{stats.tokens.num_changed:,}"
    assert found["fingerprint"] == f"`{transform.fingerprint}`"
    assert f"# Mine\n{BY_HAND}" in (tmp_path / "README.md").read_text()
    metadata = metadata_load(tmp_path / "README.md")
    assert (metadata["base_model"], metadata["datasets"]) == ("org/base", ["me/rows"])


def test_a_card_for_rows_of_another_edit_or_no_folder_is_refused(tmp_path, demo):
    edited = Dataset.from_dict({"text": some_texts()}).map(ToEditTransform(demo, **MANY), batched=True)
    with pytest.raises(RowError, match="fingerprint"):
        ToEditTransform(demo).write_model_card(edited, tmp_path)
    with pytest.raises(SourceError, match="there is no folder 'nothing': save the model there first"):
        ToEditTransform(demo, **MANY).write_model_card(edited, "nothing")
    assert not (tmp_path / "README.md").exists()


def test_a_dataset_made_in_memory_is_none_of_the_hubs(tmp_path, demo):
    """transformers' Trainer takes the name of its builder for an id."""
    rows = Dataset.from_generator(lambda: iter([{"input_ids": ids} for ids in some_rows()["input_ids"]]))
    trainer = make_trainer(tmp_path, rows, [ToEditCallback(demo, **MANY)])
    trainer.create_model_card()
    assert metadata_load(tmp_path / "README.md")["datasets"] == ["generator"]
    trainer.train()
    trainer.create_model_card()
    assert "datasets" not in metadata_load(tmp_path / "README.md")


def llama_record(**fields: Any) -> dict[str, Any]:
    name = "meta-llama/Llama-3.1-8B"
    config = ToEditConfig(**fields).to_dict()
    return {"config": config, "prior": name, "prior_hub_id": name, "revision": "a" * 40}


def test_what_the_priors_licence_asks_of_the_model_is_told(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    section = model_card_section([TrainingEdit(llama_record(), summarize([]), (1, 2))])
    assert "https://huggingface.co/meta-llama/Llama-3.1-8B/tree/aaaa" in section
    assert "Built with Llama" in section
    assert "not legal advice" in section


def test_a_folder_is_not_taken_for_the_hubs_model_of_its_name(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    record = {**llama_record(), "prior_hub_id": None}
    section = model_card_section([TrainingEdit(record, summarize([]), (1, 2))])
    assert "its licence is unknown" in section
    assert "Built with Llama" not in section
    assert "https://huggingface.co/meta-llama" not in section


@given(st.lists(st.text(min_size=1).filter(is_regex), max_size=2), st.text())
@settings(max_examples=25)
def test_a_section_holds_any_text(rules, name):
    """Settings come out as they went in, and the table keeps its two columns."""
    record = {**llama_record(protect=rules), "prior": name, "prior_hub_id": None}
    section = model_card_section([TrainingEdit(record, summarize([]), (1, 2))])
    card = merged("# Mine\n", section, {})
    assert (card.count(START), card.count(END)) == (1, 1)
    block = re.search(r"^(`{3,})yaml\n(.*?)^\1$", section, re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(block[2])["config"]["protect"] == rules
    rows = [line for line in section.split("\n") if line.startswith("|")]
    assert all(len(re.split(r"(?<!\\)\|", row)) == 4 for row in rows)


def test_a_checkpoint_holds_no_path_of_the_prior(tmp_path):
    """It may be pushed. The run resumes with the same prior in another folder."""
    for name in ("here", "there"):
        shutil.copytree(DEMO_FOLDER, tmp_path / name / "prior")
    for name, steps in (("here", 2), ("there", 4)):
        callback = ToEditCallback(str(tmp_path / name / "prior"), **MANY)
        trainer = make_trainer(tmp_path / "out", some_rows(), [callback], **{**SAVING, "max_steps": steps})
        trainer.train(resume_from_checkpoint=name == "there")
    state = (tmp_path / "out/checkpoint-2/trainer_state.json").read_text()
    assert str(tmp_path / "here/prior") not in state
    section = section_of(tmp_path / "out/checkpoint-4/README.md")
    assert str(tmp_path) not in section
    assert "| prior | `prior`" in section
    assert figures(section)["training steps"] == "1 to 4"
