"""Evaluate a trained model: lm_eval tasks, and perplexity on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..editing.stats import summarize
from ..errors import ConfigError, ToEditError, nearest
from ..statuses import Status, told_afterwards
from ..transform import ToEditTransform
from .recipe import Evaluate, Fields
from .training import MODEL, optional

if TYPE_CHECKING:
    from datasets import Dataset
    from lm_eval.tasks import TaskManager


def evaluate(
    trained: Path, settings: Evaluate, held_out: Mapping[str, Dataset], shape: Fields, work: Path
) -> dict[str, float]:
    """Metrics of a trained model: lm_eval's as `task/metric`, and `name/perplexity` for held-out rows."""
    checkpoint = merged(trained / MODEL, work)
    metrics = run_tasks(checkpoint, settings) if settings.tasks else {}
    return {**metrics, **{f"{name}/perplexity": perplexity(checkpoint, rows, shape) for name, rows in held_out.items()}}


def merged(model: Path, work: Path) -> Path:
    """The folder of a full checkpoint: `model` itself, or `work` with an adapter merged (in float32) into its base."""
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
def _index(include_path: str | None) -> TaskManager:
    """lm_eval's index of tasks, which takes seconds to build."""
    optional("lm_eval")
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def task_manager(settings: Evaluate) -> TaskManager:
    """lm_eval's index of tasks. Raises ConfigError for a task that it does not have."""
    manager = _index(settings.include_path and str(Path(settings.include_path).resolve()))
    for name in settings.tasks:
        if not manager.match_tasks([name]):
            raise ConfigError(f"lm_eval has no task {name!r}{nearest(name, manager.all_tasks)}")
    return manager


def run_tasks(checkpoint: Path, settings: Evaluate) -> dict[str, float]:
    import torch

    results = optional("lm_eval").simple_evaluate(
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
        for task, values in results.items()
        for name, value in values.items()
        if isinstance(value, (int, float)) and "_stderr" not in name and "," in name
    }
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ConfigError(f"lm_eval gives {name} = {value}: leave the task out, or raise evaluate.limit")
    return metrics


def perplexity(checkpoint: Path | tuple[Any, Any], rows: Dataset, shape: Fields) -> float:
    """exp of the mean negative log-likelihood, in nats, of all tokens that have a context, summed in float64.

    Long rows are scored in overlapping windows, each token once. In prompts and conversations only the answers count.
    checkpoint: a folder, or a model in memory and its tokenizer.
    """
    scorer = ToEditTransform(checkpoint, strategy="none", stats="full", **shape)
    with told_afterwards():
        stats = summarize(rows.map(scorer, batched=True, keep_in_memory=True)["toedit"])
    if lost := stats.statuses.get(Status.NONFINITE):
        raise ToEditError(f"the trained model gives no finite probabilities ({lost:,} rows): lower train.learning_rate")
    if not stats.tokens.num_visited:
        raise ConfigError("the held-out rows have no token to score: set evaluate.held_out to rows with text")
    if math.isinf(stats.perplexity):
        raise ToEditError("the trained model's perplexity is too large for a number: lower train.learning_rate")
    return stats.perplexity
