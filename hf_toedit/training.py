"""What a recipe leaves to others: training by TRL and PEFT, tasks by lm_eval; and the perplexity of held-out rows.

`python -m hf_toedit.training JOB.json` trains one job; under `accelerate launch` on several devices.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import json
import math
import pickle
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from .config import ToEditConfig
from .errors import ConfigError, PriorError, SourceError, ToEditError, in_one_line, nearest
from .pretrained import DEMO, DEMO_FOLDER
from .recipe import Evaluate, Model, PriorChoice, convert
from .remedies import told_afterwards
from .report import write_json
from .secret import with_secrets, without_secrets
from .stats import summarize
from .transform import ToEditTransform
from .types import Prior

MODEL, CHECKPOINTS, LOG = "model", "checkpoints", "train.json"
EXTRA = "pip install 'hf_toedit[recipes]'"


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """One training run. data: a folder of `save_to_disk`. folder: gets `model`, and `checkpoints` while it runs.

    truncate, prior, config: take tokens that the model itself, or the prior, finds eligible out of the loss.
    """

    data: str
    folder: str
    model: Model
    train: dict[str, Any]
    seed: int
    lora: dict[str, Any] | None = None
    truncate: Literal["self", "prior"] | None = None
    prior: PriorChoice | None = None
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


def optional(name: str) -> Any:
    """Import a package of the extra `recipes`, or say how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"this recipe needs the package {error.name}: {EXTRA}") from error


def load_prior(choice: PriorChoice) -> Prior:
    prior: Prior = _prior_class(choice)(choice.id, revision=choice.revision, **choice.options)
    return prior


def check_options(choice: PriorChoice) -> None:
    """Raise ConfigError for options that the prior does not take."""
    known = set(inspect.signature(_prior_class(choice)).parameters) - {"model", "revision"}
    for name in choice.options:
        if name not in known:
            raise ConfigError(f"unknown key 'prior.options.{name}'{nearest(name, known)}")


def _prior_class(choice: PriorChoice) -> Any:
    if choice.backend == "vllm":
        from .vllm_prior import VLLMPrior

        return VLLMPrior
    from .transformers_prior import TransformersPrior

    return TransformersPrior


def location(name: str) -> str:
    return str(DEMO_FOLDER) if name == DEMO else name


def sft_config(job: TrainJob) -> Any:
    """The SFTConfig of a job. Raises ConfigError for values that TRL refuses, such as bf16 where there is no GPU."""
    own = {"output_dir": str(Path(job.folder) / CHECKPOINTS), "seed": job.seed}
    fields = {"report_to": "none", **job.train, **own}
    if job.model.id is not None:
        fields["model_init_kwargs"] = {**(fields.get("model_init_kwargs") or {}), "revision": job.model.revision}
    with _one_line_of_train():
        return optional("trl").SFTConfig(**fields)


@contextlib.contextmanager
def _one_line_of_train() -> Iterator[None]:
    """Values that TRL and PEFT refuse as a ConfigError."""
    try:
        yield
    except (TypeError, ValueError, ImportError) as error:
        fix = "change it in the recipe, or with --set train.FIELD=VALUE"
        raise ConfigError(f"train: {in_one_line(error)}; {fix}") from error


def train(job: TrainJob) -> None:
    """Train with TRL's SFTTrainer into `job.folder/model`; resumes from the last checkpoint if there is one."""
    from datasets import load_from_disk
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

    arguments, folder = sft_config(job), Path(job.folder)
    set_seed(job.seed)
    name = location(job.model.tokenizer or job.model.id or "")
    tokenizer = AutoTokenizer.from_pretrained(name, revision=job.model.revision)
    if tokenizer.eos_token is None:
        raise PriorError(f"the tokenizer {name!r} has no eos_token to end texts with: add a tokenizer_config.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model: Any = location(job.model.id or "")
    if job.model.config is not None:
        ends = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
        ends["bos_token_id"] = ends["eos_token_id"] if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        fields = {name: value for name, value in without_secrets(job.model.config).items() if name != "dtype"}
        config = AutoConfig.for_model(**{**ends, **fields})
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    # the adapter's own record of its base model: evaluation reads the same one
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
    if arguments.model_init_kwargs:  # trackers write them
        arguments.model_init_kwargs = without_secrets(arguments.model_init_kwargs)
    checkpoint = _last_checkpoint(folder / CHECKPOINTS)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except pickle.UnpicklingError as error:  # torch reads weights only, and no objects that run code
        raise SourceError(f"the checkpoint {checkpoint!r} holds more than weights, or is broken: remove it") from error
    trainer.save_model(str(folder / MODEL))
    if trainer.is_world_process_zero():
        write_json(folder / LOG, {"log": trainer.state.log_history})


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end, which is the trainer's state."""
    found: dict[int, str] = {}
    for file in folder.glob("checkpoint-*/trainer_state.json"):
        with contextlib.suppress(ValueError, LookupError, TypeError):  # cut off by a full disk
            found[int(json.loads(file.read_text(encoding="utf-8"))["global_step"])] = str(file.parent)
    return found[max(found)] if found else None


def _callbacks(job: TrainJob) -> list[Any]:
    if job.truncate is None:
        return []
    from .callback import ToEditCallback

    prior = "self" if job.truncate == "self" or job.prior is None else load_prior(job.prior)
    return [ToEditCallback(prior, ToEditConfig.from_dict(job.config), truncate=True)]


def evaluate(
    trained: Path, settings: Evaluate, held_out: Mapping[str, Any], shape: Mapping[str, Any], work: Path
) -> dict[str, float]:
    """Metrics of a trained model: lm_eval's by `task/metric`, and `name/perplexity` of the held-out rows."""
    checkpoint = merged(trained / MODEL, work)
    found = run_tasks(checkpoint, settings) if settings.tasks else {}
    return {**found, **{f"{name}/perplexity": perplexity(checkpoint, rows, shape) for name, rows in held_out.items()}}


def merged(model: Path, work: Path) -> Path:
    """The folder of a whole checkpoint: `model` itself, or an adapter merged (in float32) into its base model."""
    if not (model / "adapter_config.json").is_file():
        return model
    import torch
    from transformers import AutoConfig, AutoTokenizer

    peft = optional("peft")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(str(model), dtype=torch.float32)
    base = loaded.peft_config["default"]
    dtype = AutoConfig.from_pretrained(base.base_model_name_or_path, revision=base.revision).dtype
    loaded.merge_and_unload().to(dtype or torch.float32).save_pretrained(str(work))
    AutoTokenizer.from_pretrained(str(model)).save_pretrained(str(work))
    return work


@cache
def _index(include_path: str | None) -> Any:
    """lm_eval's index of tasks; it takes seconds to make."""
    optional("lm_eval")
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def task_manager(settings: Evaluate) -> Any:
    """lm_eval's index of tasks. Raises ConfigError for a task that it does not have."""
    manager = _index(settings.include_path and str(Path(settings.include_path).resolve()))
    for name in settings.tasks:
        if not manager.match_tasks([name]):
            raise ConfigError(f"lm_eval has no task {name!r}{nearest(name, manager.all_tasks)}")
    return manager


def run_tasks(checkpoint: Path, settings: Evaluate) -> dict[str, float]:
    import torch

    found = optional("lm_eval").simple_evaluate(
        model="hf",
        model_args={"pretrained": str(checkpoint), "dtype": "auto"},
        tasks=settings.tasks,
        num_fewshot=settings.num_fewshot,
        limit=settings.limit,
        batch_size=settings.batch_size,
        device=None if torch.cuda.is_available() else "cpu",
        bootstrap_iters=0,
        task_manager=task_manager(settings),
    )["results"]
    metrics = {
        f"{task}/{name.removesuffix(',none')}": float(value)
        for task, values in found.items()
        for name, value in values.items()
        if isinstance(value, (int, float)) and "_stderr" not in name and "," in name
    }
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ConfigError(f"lm_eval gives {name} = {value}: leave the task out, or raise evaluate.limit")
    return metrics


def perplexity(checkpoint: Path, rows: Any, shape: Mapping[str, Any]) -> float:
    """exp of the mean negative log-likelihood, in nats, of all tokens that have a context, summed in float64.

    Long rows are scored in overlapping windows, each token once. Of prompts and conversations only the answers count.
    """
    from .transformers_prior import TransformersPrior

    scorer = ToEditTransform(TransformersPrior(checkpoint), strategy="none", stats="full", **shape)
    with told_afterwards():
        stats = summarize(rows.map(scorer, batched=True, keep_in_memory=True)["toedit"])
    if lost := stats.statuses.get("skipped:nonfinite"):
        raise ToEditError(f"the trained model gives no finite probabilities ({lost:,} rows): lower train.learning_rate")
    if not stats.tokens.num_visited:
        raise ConfigError("the held-out rows have no token to score: set evaluate.held_out to rows with text")
    if math.isinf(stats.perplexity):
        raise ToEditError("the trained model's perplexity is too large for a number: lower train.learning_rate")
    return stats.perplexity


if __name__ == "__main__":
    train(convert(TrainJob, with_secrets(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), "job"))
