"""Training with TRL and PEFT: one job, its configuration, its checkpoints.

`python -m hf_toedit.experiments.training JOB.json` trains one job, on several devices under `accelerate launch`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..editing.config import ToEditConfig
from ..editing.selection import LossSelection
from ..errors import ConfigError, PriorError, SourceError, any_of, import_extra, nearest, one_clear_line
from ..files.secret import with_secrets, without_secrets
from ..hub.training_edits import STATE
from ..priors.pretrained import DEMO, DEMO_FOLDER
from ..report.files import write_json
from ..scale.interrupts import end_with_parent
from ..types import Prior
from .conversion import convert
from .recipe import Fields, Model, PriorChoice

if TYPE_CHECKING:
    from trl.trainer.sft_config import SFTConfig

    from ..callback import ToEditCallback
    from ..priors.transformers_prior import TransformersPrior
    from ..priors.vllm_prior import VLLMPrior

MODEL, CHECKPOINTS, LOG, EDITS = "model", "checkpoints", "train.json", "edits"


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """One training run. data: a folder written by `save_to_disk`. folder: gets `model`, and `checkpoints` on the way.

    truncate, prior, config: take tokens that are eligible under the model itself, or under the prior, out of the loss.
    """

    data: str
    folder: str
    model: Model
    train: Fields
    seed: int
    lora: Fields | None = None
    truncate: Literal["self", "prior"] | None = None
    prior: PriorChoice | None = None
    config: Fields = dataclasses.field(default_factory=dict)


def optional(name: str) -> Any:
    """Import a package from the extra `recipes`, or say how to install it."""
    return import_extra(name, "recipes")


def load_prior(choice: PriorChoice) -> Prior:
    prior: Prior = _prior_class(choice)(choice.id, revision=choice.revision, **choice.options)
    return prior


def check_options(choice: PriorChoice) -> None:
    """Raise ConfigError for options that the prior does not take."""
    known = set(inspect.signature(_prior_class(choice)).parameters) - {"model", "revision"}
    for name in choice.options:
        if name not in known:
            raise ConfigError(f"unknown key 'prior.options.{name}'{nearest(name, known)}")


def _prior_class(choice: PriorChoice) -> type[TransformersPrior] | type[VLLMPrior]:
    if choice.backend == "vllm":
        from ..priors.vllm_prior import VLLMPrior

        return VLLMPrior
    from ..priors.transformers_prior import TransformersPrior

    return TransformersPrior


def location(name: str) -> str:
    return str(DEMO_FOLDER) if name == DEMO else name


def sft_config(job: TrainJob) -> SFTConfig:
    """The SFTConfig of a job. Raises ConfigError for values that TRL refuses, such as bf16 without a GPU."""
    of_the_run = {"output_dir": str(Path(job.folder) / CHECKPOINTS), "seed": job.seed}
    fields = {"report_to": "none", **job.train, **of_the_run}
    if job.model.id is not None:
        fields["model_init_kwargs"] = {**(fields.get("model_init_kwargs") or {}), "revision": job.model.revision}
    with _one_line_of_train():
        arguments: SFTConfig = optional("trl").SFTConfig(**fields)
    return arguments


def _one_line_of_train() -> one_clear_line:
    """Turn the errors for values that TRL and PEFT refuse into a ConfigError."""
    fix = "change it in the recipe, or with --set train.FIELD=VALUE"
    return one_clear_line(ConfigError, "train", fix, catches=any_of(TypeError, ValueError, ImportError))


def train(job: TrainJob) -> None:
    """Train with TRL's SFTTrainer into `job.folder/model`; resumes from the last checkpoint if there is one."""
    from datasets import load_from_disk
    from transformers import set_seed

    arguments, folder = sft_config(job), Path(job.folder)
    set_seed(job.seed)
    tokenizer = load_tokenizer(job.model)
    model: Any = location(job.model.id or "")
    if job.model.config is not None:
        model = new_model(job.model, tokenizer)
    # recorded in the adapter, so that evaluation reads the same base model
    lora = None if job.lora is None else optional("peft").LoraConfig(**{"revision": job.model.revision, **job.lora})
    callbacks = _callbacks(job)
    with _one_line_of_train():
        trainer = optional("trl").SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=load_from_disk(job.data),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=callbacks,
        )
    if arguments.model_init_kwargs:  # trackers log these
        arguments.model_init_kwargs = without_secrets(arguments.model_init_kwargs)
    checkpoint = _last_checkpoint(folder / CHECKPOINTS)
    trainer.add_callback(_last_step_was_taken())
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except _Trained:
        trainer.log({"total_flos": trainer.state.total_flos})
        trainer.callback_handler.on_train_end(arguments, trainer.state, trainer.control)
    except pickle.UnpicklingError as error:  # torch reads only weights, no objects that run code
        raise SourceError(f"the checkpoint {checkpoint!r} holds more than weights, or is broken: remove it") from error
    trainer.save_model(str(folder / MODEL))
    if trainer.is_world_process_zero():
        edits = trainer.state.stateful_callbacks.get(STATE)  # those of a ToEditCallback
        write_json(folder / LOG, {"log": trainer.state.log_history, EDITS: edits})


class _Trained(Exception):  # noqa: N818
    """The checkpoint to resume from is that of the last step: its weights are loaded, and there is nothing to train."""


def _last_step_was_taken() -> Any:
    """A callback that raises _Trained at such a checkpoint: in the middle of an epoch, Trainer takes one more step."""
    from transformers import TrainerCallback

    class LastStepWasTaken(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= state.max_steps:
                raise _Trained

    return LastStepWasTaken()


def load_tokenizer(model: Model) -> Any:
    """The tokenizer of a model to train. Raises PriorError if it has no token to end texts with."""
    from transformers import AutoTokenizer

    name = location(model.tokenizer or model.id or "")
    tokenizer = AutoTokenizer.from_pretrained(name, revision=model.revision)
    if tokenizer.eos_token is None:
        raise PriorError(f"the tokenizer {name!r} has no eos_token to end texts with: add a tokenizer_config.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def new_model(model: Model, tokenizer: Any) -> Any:
    """A model to train, in float32: with random weights, by its config, or a pretrained one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if model.config is None:
        name = location(model.id or "")
        return AutoModelForCausalLM.from_pretrained(name, revision=model.revision, dtype=torch.float32)
    ends = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    ends["bos_token_id"] = ends["eos_token_id"] if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    fields = {name: value for name, value in without_secrets(model.config).items() if name != "dtype"}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**ends, **fields}))  # type: ignore[no-untyped-call]


def _last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint: the trainer's state is written last."""
    checkpoints: dict[int, str] = {}
    for file in folder.glob("checkpoint-*/trainer_state.json"):
        with contextlib.suppress(ValueError, LookupError, TypeError):  # cut off by a full disk
            checkpoints[int(json.loads(file.read_text(encoding="utf-8"))["global_step"])] = str(file.parent)
    return checkpoints[max(checkpoints)] if checkpoints else None


def _callbacks(job: TrainJob) -> list[ToEditCallback]:
    if job.truncate is None:
        return []
    from ..callback import ToEditCallback

    prior = "self" if job.truncate == "self" or job.prior is None else load_prior(job.prior)
    return [ToEditCallback(prior, select=without_eligible(ToEditConfig.from_dict(job.config)))]


def without_eligible(config: ToEditConfig) -> LossSelection:
    """Truncated cross-entropy: the tokens that are eligible leave the loss."""
    return LossSelection(**{"high" if config.eligible == "above" else "low": config.threshold})


if __name__ == "__main__":
    end_with_parent()
    train(convert(TrainJob, with_secrets(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), "job"))
