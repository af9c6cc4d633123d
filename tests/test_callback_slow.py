"""ToEditCallback under DDP and torch.compile."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from conftest import ROOT
from tiny_training import (
    MANY,
    check_equivalence,
    edit_offline,
    equal,
    lora_on_demo,
    make_trainer,
    some_rows,
    train,
)

from hf_toedit import ToEditCallback, ToEditTransform, summarize

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What two ranks have trained, on CPUs, over gloo."""
    folder = tmp_path_factory.mktemp("ddp")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "tests/ddp_training.py", folder]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    card = (folder / "model/README.md").read_text(encoding="utf-8")
    return [{**torch.load(folder / f"rank{rank}.pt"), "card": card} for rank in range(2)]


def test_ranks_train_as_on_edited_rows(ranks):
    first, second = ranks
    for name in first.keys() - {"card"}:
        assert equal(first[name]["weights"], second[name]["weights"])
    assert equal(first["callback"]["weights"], first["offline"]["weights"])
    assert not equal(first["plain"]["weights"], first["offline"]["weights"])
    assert equal(first["sft, callback"]["weights"], first["sft, offline"]["weights"])
    assert equal(first["truncated"]["weights"], first["truncated, offline"]["weights"])
    assert not equal(first["truncated"]["weights"], first["plain"]["weights"])


def test_ranks_ask_the_base_of_the_model_in_training(ranks):
    assert equal(ranks[0]["lora, base"]["weights"], ranks[0]["lora, apart"]["weights"])


def test_logs_are_of_all_ranks_together(ranks, demo):
    """Two steps see every row once."""
    rows = {"input_ids": some_rows()["input_ids"]}
    offline = summarize(ToEditTransform(demo, columns="input_ids", **MANY)(rows)["toedit"]).tokens
    for results in ranks:
        logs = [entry for entry in results["callback"]["logs"] if "loss" in entry]
        visited = [entry["toedit/visited"] for entry in logs]
        assert sum(visited) == offline.num_visited
        eligible = sum(entry["toedit/eligible_rate"] * entry["toedit/visited"] for entry in logs)
        assert eligible == pytest.approx(offline.num_visited_eligible)


def test_a_model_card_is_of_all_ranks_together(ranks, demo):
    rows = {"input_ids": some_rows()["input_ids"]}
    offline = summarize(ToEditTransform(demo, columns="input_ids", **MANY)(rows)["toedit"])
    card = ranks[0]["card"]
    assert f"| sequences | {offline.num_rows:,} |" in card
    assert f"| changed | {offline.tokens.num_changed:,} |" in card
    assert "| training steps | 1 to 2 |" in card


def test_truncation_counts_the_labels_of_all_ranks(ranks, tmp_path, demo):
    """The loss of two ranks is that of one process on the same rows."""
    callback = ToEditCallback(demo, select={"high": 0.5})
    trainer = make_trainer(tmp_path, some_rows(), [callback], per_device_train_batch_size=6, max_steps=2)
    trainer.train()
    alone, together = trainer.state.log_history, ranks[0]["truncated"]["logs"]
    assert alone[0]["toedit/visited"] == together[0]["toedit/visited"]
    assert alone[0]["toedit/kept_rate"] == pytest.approx(together[0]["toedit/kept_rate"])
    assert together[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-4)


COMPILED = {"torch_compile": True, "torch_compile_backend": "aot_eager"}


def test_a_compiled_model_trains_as_on_edited_rows(tmp_path, demo):
    rows = some_rows()

    def make(given: Any, callbacks: list[Any]) -> Any:
        return make_trainer(tmp_path, given, callbacks, **COMPILED)

    check_equivalence(make, rows, edit_offline(demo, rows), demo)


@pytest.mark.parametrize("by_user", [True, False])
def test_a_compiled_model_can_be_the_prior(by_user, tmp_path, demo):
    def make(prior: Any) -> Any:
        model = torch.compile(lora_on_demo(), backend="aot_eager") if by_user else lora_on_demo()
        options = {} if by_user else COMPILED
        return make_trainer(tmp_path, some_rows(), [ToEditCallback(prior, **MANY)], model=model, **options)

    apart = train(make(demo))
    assert equal(train(make("base")), apart)
    assert not equal(train(make("self")), apart)
