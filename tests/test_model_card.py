"""The section on edits in the cards of trained models: once, true, and beside what others wrote."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load
from peft import LoraConfig
from tiny_training import MANY, lora_on_demo, make_sft_trainer, make_trainer, some_rows, tiny_model

from hf_toedit import ToEditCallback, ToEditWarning
from hf_toedit.hub.merging import END, START

pytestmark = pytest.mark.usefixtures("fast_collection")
SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
KINDS = {"Trainer": make_trainer, "SFTTrainer": make_sft_trainer}
BY_HAND = "\nThis model was trained by hand; ask <me@example.org> about it.\n"


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [True, False])
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
