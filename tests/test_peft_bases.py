"""`prior="base"`: with its adapters off a PEFT model is, bit for bit, the model they were put on; or it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from conftest import NUM_IDS
from contract import largest_difference, some_requests
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import initialize_lora_eva_weights
from peft.tuners.lora.loraga import preprocess_loraga
from strategies import one_line
from tiny_training import demo_model, lora_on_demo, make_trainer, some_rows, tiny_model, tokenizer_with_padding
from transformers import AutoModelForCausalLM

from hf_toedit import ConfigError, ToEditCallback, TransformersPrior
from hf_toedit.priors.model_prior import ModelPrior
from hf_toedit.priors.pretrained import DEMO_FOLDER

pytestmark = [  # PEFT says much of what has no part in this
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning"),
]

TARGETS = ["q_proj", "v_proj"]
REQUESTS = some_requests([120, 30], NUM_IDS)
IDS = torch.arange(40)[None]

ACCEPTED: dict[str, dict[str, Any]] = {
    "default": {},
    "no init": {"init_lora_weights": False},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "bias of its own": {"lora_bias": True},
    "head saved": {"modules_to_save": ["lm_head"]},
    "embedding saved": {"modules_to_save": ["embed_tokens"]},
    "norms saved": {"modules_to_save": ["norm", "input_layernorm"]},
    "tokens": {"trainable_token_indices": [5, 6, 7]},
    "head and embedding": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "parameters": {"target_parameters": ["q_proj.weight"], "target_modules": []},
}
OTHERS: dict[str, dict[str, Any]] = {  # one of each PEFT type, with what it needs
    "IA3Config": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LNTuningConfig": {},
    "AdaLoraConfig": {"total_step": 10, "target_modules": TARGETS},
    "LoHaConfig": {"target_modules": TARGETS},
    "LoKrConfig": {"target_modules": TARGETS},
    "OFTConfig": {"target_modules": TARGETS, "oft_block_size": 4},
    "BOFTConfig": {"target_modules": TARGETS, "boft_block_size": 4},
    "VeraConfig": {"target_modules": TARGETS},
    "FourierFTConfig": {"target_modules": TARGETS, "n_frequency": 10},
    "HRAConfig": {"target_modules": TARGETS},
    "MissConfig": {"target_modules": TARGETS},
    "RandLoraConfig": {"target_modules": TARGETS},
    "ShiraConfig": {"target_modules": TARGETS},
    "C3AConfig": {"target_modules": TARGETS, "block_size": 4},
    "RoadConfig": {"target_modules": TARGETS, "group_size": 4},
    "WaveFTConfig": {"target_modules": TARGETS, "n_frequency": 10},
    "DeloraConfig": {"target_modules": TARGETS},
    "TrainableTokensConfig": {"token_indices": [5, 6, 7], "target_modules": ["embed_tokens"]},
    "VBLoRAConfig": {"target_modules": TARGETS, "num_vectors": 8, "vector_length": 8},
    "OSFConfig": {"target_modules": TARGETS},
    "AdaptionPromptConfig": {"adapter_len": 4, "adapter_layers": 1},
    "BeftConfig": {"target_modules": ["v_proj"]},
    "GraloraConfig": {"target_modules": TARGETS},
    "LilyConfig": {"target_modules": TARGETS},
    "FrodConfig": {"target_modules": TARGETS},
    "PveraConfig": {"target_modules": TARGETS},
    "GloraConfig": {"target_modules": TARGETS},
    "UniLoraConfig": {"target_modules": TARGETS},
    "HiraConfig": {"target_modules": TARGETS},
    "TinyLoraConfig": {"target_modules": TARGETS},
    "PsoftConfig": {"target_modules": TARGETS},
    "PeanutConfig": {"target_modules": TARGETS},
    "ShadowConfig": {},
    "SupertuningConfig": {"target_modules": TARGETS},
    "DeftConfig": {"target_modules": TARGETS},
    "AdamssConfig": {"target_modules": TARGETS},
}


def shake(model: Any) -> Any:
    """Training, in a word: every trainable parameter moves."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def off_by(model: Any, untouched: Any, base: bool = True) -> float:
    return largest_difference(ModelPrior(model, tokenizer_with_padding(), base=base).score(REQUESTS, 8), untouched)


@pytest.fixture(scope="module")
def untouched(demo: TransformersPrior) -> Any:
    return demo.score(REQUESTS, 8)


@pytest.mark.parametrize("case", ACCEPTED)
def test_lora_that_leaves_the_base_alone(case, untouched):
    model = shake(lora_on_demo(**ACCEPTED[case]))
    assert off_by(model, untouched) == 0
    assert off_by(model, untouched, base=False) > 1e-3


@pytest.mark.parametrize("case", ["default", "head saved", "head and embedding"])
def test_in_half_precision_too(case):
    """There the head's likeliest logits are taken from its weights once more."""
    apart = TransformersPrior("demo", dtype="bfloat16").score(REQUESTS, 8)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.bfloat16)
    config = peft.LoraConfig(**{"r": 4, "target_modules": TARGETS, **ACCEPTED[case]})
    assert off_by(shake(peft.get_peft_model(model, config)), apart) == 0


def test_eva_that_has_seen_data(untouched):
    config = peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights="eva", eva_config=peft.EvaConfig(rho=1.0))
    model = peft.get_peft_model(demo_model(), config)
    batches = [{"input_ids": torch.randint(0, NUM_IDS, (4, 32)), "attention_mask": torch.ones(4, 32).long()}] * 4
    initialize_lora_eva_weights(model, batches, show_progress_bar=False)
    assert off_by(shake(model), untouched) == 0


@pytest.mark.parametrize("kind", OTHERS)
def test_adapters_of_other_kinds_leave_the_base_alone(kind, untouched):
    torch.manual_seed(0)
    config = getattr(peft, kind)(task_type="CAUSAL_LM", **OTHERS[kind])
    model = shake(peft.get_peft_model(demo_model(), config))
    assert off_by(model, untouched) == 0


def test_every_kind_of_peft_is_tried_or_refused():
    tried = {getattr(peft, name)().peft_type for name in OTHERS if name not in ("AdaLoraConfig",)}
    prompts = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"}
    everything = {one.value for one in peft.PeftType}
    assert everything == {one.value for one in tried} | prompts | {"LORA", "ADALORA", "POLY", "XLORA"}


# refused


def preprocessed(config: Any, prepare: Callable[[Any], None]) -> Any:
    torch.manual_seed(0)
    model = demo_model()
    prepare(model)
    return peft.get_peft_model(model, config)


def lora_ga() -> Any:
    options = {"init_lora_weights": "lora_ga", "lora_ga_config": peft.LoraGAConfig()}
    config = peft.LoraConfig(r=4, target_modules=TARGETS, **options)

    def prepare(model: Any) -> None:
        preprocess_loraga(model, config, lambda: model(input_ids=IDS, labels=IDS).loss.backward())

    return preprocessed(config, prepare)


def corda() -> Any:
    config = peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights="corda", corda_config=CordaConfig())

    def prepare(model: Any) -> None:
        preprocess_corda(model, config, run_model=lambda: model(IDS))

    return preprocessed(config, prepare)


REWRITTEN: dict[str, Callable[[], Any]] = {
    "pissa": lambda: lora_on_demo(init_lora_weights="pissa"),
    "pissa_niter_4": lambda: lora_on_demo(init_lora_weights="pissa_niter_4"),
    "olora": lambda: lora_on_demo(init_lora_weights="olora"),
    "corda": corda,
    "lora_ga": lora_ga,
}


@pytest.mark.parametrize("init", REWRITTEN)
def test_lora_that_rewrites_the_base_is_refused(init, untouched, monkeypatch):
    model = REWRITTEN[init]()
    with pytest.raises(ConfigError, match=f"init_lora_weights='{init}' .* give a prior by name") as error:
        ModelPrior(model, tokenizer_with_padding(), base=True)
    one_line(error)
    ModelPrior(model, tokenizer_with_padding())
    monkeypatch.setattr("hf_toedit.priors.model_prior.LEAVE_BASE_ALONE", (init,))
    assert off_by(model, untouched) > 0.01, "and rightly"


def test_other_ways_to_change_the_base_are_refused(tmp_path):
    quantised = lora_on_demo()
    quantised.peft_config["default"].init_lora_weights = "loftq"  # which needs bitsandbytes to be made
    repeated = lora_on_demo(layer_replication=[[0, 2], [1, 2]])
    cases = ((quantised, "'loftq'"), (repeated, "layer_replication"), (lora_on_demo(bias="all"), "bias='none'"))
    for model, message in cases:
        trainer = make_trainer(tmp_path, some_rows(), [ToEditCallback("base")], model=model)
        with pytest.raises(ConfigError, match=message) as error:
            trainer.train()
        assert "give a prior by name" in one_line(error)


@pytest.mark.parametrize("base", [True, False])
def test_adapters_that_tokens_do_not_suffice_for_are_refused(base):
    config = peft.PolyConfig(task_type="CAUSAL_LM", target_modules=TARGETS, n_tasks=1, r=4)
    model = peft.get_peft_model(tiny_model(), config)
    with pytest.raises(ConfigError, match="POLY needs more input than tokens") as error:
        ModelPrior(model, tokenizer_with_padding(), base=base)
    one_line(error)


def test_adapters_that_are_part_of_the_model_are_no_peft_model():
    """As transformers' own add_adapter puts them there."""
    model = tiny_model()
    model.add_adapter(peft.LoraConfig(r=4, target_modules=TARGETS))
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM is not a PeftModel, .* or wrap the model with") as error:
        ModelPrior(model, tokenizer_with_padding(), base=True)
    one_line(error)
