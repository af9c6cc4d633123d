"""The same ToEditCallback given twice, two of them on one trainer, and one that edits nothing."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any

import pytest
from tiny_training import (
    MANY,
    edit_offline,
    equal,
    make_trainer,
    some_rows,
    tiny_model,
    train,
)
from transformers import TrainerCallback

from hf_toedit import StaticPrior, ToEditCallback

pytestmark = pytest.mark.usefixtures("fast_collection")


def test_the_same_one_given_twice_works_once(tmp_path, demo):
    """In each of three epochs; what stands between is called as often as before."""

    class Epochs(TrainerCallback):
        begun = 0

        def on_epoch_begin(self, *arguments: Any, **kwargs: Any) -> None:
            self.begun += 1

    rows, options = some_rows(4), {"num_train_epochs": 3, "max_steps": -1}
    once = make_trainer(tmp_path, rows, [ToEditCallback(demo, **MANY)], **options)
    callback, count = ToEditCallback(demo, **MANY), Epochs()
    twice = make_trainer(tmp_path, rows, [callback, count, callback, callback], **options)
    assert equal(train(twice), train(once))
    assert count.begun == 3
    assert twice.callback_handler.callbacks.count(callback) == 1
    assert once.state.log_history[2]["toedit/visited"] == twice.state.log_history[2]["toedit/visited"]


def test_two_edit_one_after_the_other_and_log_apart(tmp_path, demo):
    rows = some_rows()
    other = {"threshold": 0.1, "exclude_target": True, "seed": 1}
    edited = edit_offline(demo, edit_offline(demo, rows), **other)
    both = make_trainer(tmp_path, rows, [ToEditCallback(demo, **MANY), ToEditCallback(demo, **other)])
    assert equal(train(both), train(make_trainer(tmp_path, edited)))
    alone = make_trainer(tmp_path, rows, [ToEditCallback(demo, **MANY)])
    alone.train()
    second = make_trainer(tmp_path, edit_offline(demo, rows), [ToEditCallback(demo, **other)])
    second.train()
    for step in range(3):
        logged = both.state.log_history[step]
        for names, trainer in (("toedit/", alone), ("toedit_2/", second)):
            expected = trainer.state.log_history[step]
            for name in ("visited", "eligible_rate", "changed_rate", "prior_perplexity", "skipped_rate"):
                assert logged[names + name] == expected["toedit/" + name]


def test_they_edit_in_the_order_of_the_list_whichever_is_attached_first(tmp_path, demo):
    def run(attach: bool) -> Any:
        callbacks = [ToEditCallback(demo, **MANY), ToEditCallback(demo, **{**MANY, "threshold": 0.1, "seed": 1})]
        trainer = make_trainer(tmp_path, some_rows(), callbacks)
        if attach:
            callbacks[1].attach(trainer)
        weights = train(trainer)
        return weights, trainer.state.log_history[0]

    (weights, logged), (other_weights, other_logged) = run(True), run(False)
    assert equal(weights, other_weights)
    assert logged == other_logged


# a run that edits nothing


def far_ids() -> dict[str, list[list[int]]]:
    """Rows with ids that the prior does not have, but for the last one."""
    rows = some_rows(8)
    return {"input_ids": [[token + 400 for token in ids] for ids in rows["input_ids"][:-1]] + rows["input_ids"][-1:]}


def run(folder: Any, rows: Any, callback: ToEditCallback, **options: Any) -> list[str]:
    """What the run warns of."""
    trainer = make_trainer(folder, rows, [callback], model=tiny_model(num_ids=800), **options)
    trainer.processing_class = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    return [str(one.message) for one in caught if "ToEdit" in str(one.message)]


@pytest.mark.parametrize("logging", ["steps", "no"])
@pytest.mark.parametrize("select", [{"high": 0.99}, None])
def test_a_run_whose_every_sequence_is_skipped_says_so_once(logging, select, tmp_path, demo):
    rows = {"input_ids": far_ids()["input_ids"][:-1]}
    [message] = run(tmp_path, rows, ToEditCallback(demo, select=select), logging_strategy=logging)
    assert "skipped:unknown_token_id" in message
    assert "use a prior with the tokenizer that made them" in message
    assert "\n" not in message


def test_one_sequence_that_is_edited_is_enough(tmp_path, demo):
    assert run(tmp_path, far_ids(), ToEditCallback(demo, **MANY), logging_steps=3) == []


def test_numbers_that_are_not_finite_have_another_remedy(tmp_path, demo):
    prior = StaticPrior(demo.tokenizer, lambda ids, t: {int(ids[t]): float("nan")})
    [message] = run(tmp_path, some_rows(4), ToEditCallback(prior, **MANY))
    assert "skipped:nonfinite" in message
    assert "run it in float32" in message


def test_the_docstring_names_every_metric():
    metrics = re.findall(r'"(toedit/\w+)"', inspect.getsource(ToEditCallback._metrics))
    assert metrics
    assert [name for name in metrics if f"`{name}`" not in (ToEditCallback.__doc__ or "")] == []
