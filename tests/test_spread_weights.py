"""A prior by name beside a training whose weights are spread over ranks: each rank has all of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import NUM_IDS
from contract import largest_difference, some_requests
from strategies import one_line
from tiny_training import MANY, edit_offline, equal, lora_on_demo, make_trainer, some_rows, train
from transformers import TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from hf_toedit import ConfigError, ToEditCallback, TransformersPrior

REQUESTS = some_requests([60, 30], NUM_IDS)


class ZeRO3:
    """What transformers asks of its HfDeepSpeedConfig, which needs deepspeed to be installed."""

    config = {"zero_optimization": {"stage": 3}}  # noqa: RUF012

    def is_zero3(self) -> bool:
        return True


@pytest.fixture
def zero3(demo: TransformersPrior) -> Iterator[ZeRO3]:
    demo.score(REQUESTS, 8)  # is loaded before
    config = ZeRO3()
    set_hf_deepspeed_config(config)
    yield config
    unset_hf_deepspeed_config()


def test_under_zero3_a_prior_is_loaded_whole(zero3, demo):
    whole = demo.score(REQUESTS, 8)
    assert is_deepspeed_zero3_enabled()
    assert largest_difference(TransformersPrior("demo").score(REQUESTS, 8), whole) == 0
    assert is_deepspeed_zero3_enabled(), "the model in training goes on as it was"


@pytest.mark.parametrize("prior", ["base", "self"])
def test_a_model_that_is_spread_over_ranks_is_no_prior(prior, tmp_path):
    class Spread(TrainerCallback):
        def on_train_begin(self, *arguments: Any, **kwargs: Any) -> None:
            trainer.is_fsdp_enabled = True

    trainer = make_trainer(tmp_path, some_rows(), [Spread(), ToEditCallback(prior)], model=lora_on_demo())
    with pytest.raises(ConfigError, match="give a prior by name") as error:
        trainer.train()
    one_line(error)


def test_a_prior_by_name_is_loaded_in_the_first_step(zero3, tmp_path, demo):
    """So the advice holds: the prior of a callback is loaded when training has begun."""
    rows = some_rows()
    trainer = make_trainer(tmp_path, rows, [ToEditCallback("demo", **MANY)], max_steps=1)
    assert equal(train(trainer), train(make_trainer(tmp_path, edit_offline(demo, rows), max_steps=1)))
