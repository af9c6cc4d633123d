"""What ToEditCallback adds to a training step, beside one forward pass of the prior over the same batch.

    python benchmarks/training.py --steps 6

A random Llama trains on docstrings; the prior is the model itself, or a copy if the model is the base of a selection. A
random model is sure of nothing: the figures are of scoring (all tokens that a real prior would be asked for), not of
changes, which cost nothing to speak of. Prints one line of JSON per setting, times in seconds, medians over the steps.
"""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from hf_toedit import ToEditCallback
from hf_toedit.experiments.docstrings import docstrings, standard_library
from hf_toedit.priors.pretrained import DEMO_FOLDER

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "threshold=0.9": {"threshold": 0.9},
    "exclude_target": {"exclude_target": True},
    "select": {"select": {"high": 0.99}},
    "select with a base": {"select": {"share": 0.6}, "base": "self"},
}


class Clock:
    """Keeps how long calls took: processor seconds on a CPU, where other work then does not count, else the wall's."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.is_on_cpu = not torch.accelerator.is_available()
        self.now = time.process_time if self.is_on_cpu else time.perf_counter

    def timed(self, call: Callable[..., Any], label: str) -> Callable[..., Any]:
        taken = self.seconds.setdefault(label, [])

        def run(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            result = call(*args, **kwargs)
            if not self.is_on_cpu:
                torch.accelerator.synchronize()
            taken.append(self.now() - start)
            return result

        return run

    def median(self, label: str) -> float:
        return statistics.median(self.seconds[label][1:])  # the first call warms up


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def rows_of(num_rows: int, num_tokens: int) -> Dataset:
    """Docstrings one after the other, cut into rows of one length: no padding blurs the figures."""
    tokenizer, ids = AutoTokenizer.from_pretrained(DEMO_FOLDER), []
    for row in docstrings(standard_library()):
        ids += tokenizer(row["text"])["input_ids"]
        if len(ids) >= num_rows * num_tokens:
            break
    return Dataset.from_dict({"input_ids": [ids[i * num_tokens : (i + 1) * num_tokens] for i in range(num_rows)]})


def measure(model: Any, dataset: Dataset, batch_size: int, steps: int, **options: Any) -> dict[str, float]:
    """Seconds of one forward pass, of editing and of the rest of a step; editing in forward passes."""
    clock, tokenizer = Clock(), AutoTokenizer.from_pretrained(DEMO_FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=batch_size, report_to="none", disable_tqdm=True,
            save_strategy="no", logging_strategy="no", remove_unused_columns=False, learning_rate=0.0,
        )  # fmt: skip
        trainer = Trainer(model, args, data_collator=collate, train_dataset=dataset, processing_class=tokenizer)
        trainer.get_batch_samples = clock.timed(trainer.get_batch_samples, "load")
        prior = (copy.deepcopy(model), tokenizer) if "base" in options else "self"
        ToEditCallback(prior, **options).attach(trainer)
        edit = clock.timed(trainer.get_batch_samples, "load and edit")
        forward = clock.timed(torch.no_grad()(model.forward), "forward")

        def get_batch_samples(*given: Any) -> Any:
            batches, num_items = edit(*given)
            forward(input_ids=batches[0]["input_ids"], attention_mask=batches[0]["attention_mask"])
            return batches, num_items

        trainer.get_batch_samples = get_batch_samples
        trainer.training_step = clock.timed(trainer.training_step, "step")
        trainer.train()
    editing = clock.median("load and edit") - clock.median("load")
    seconds = {"forward": clock.median("forward"), "editing": editing, "step": clock.median("step")}
    plain_step = clock.median("load") + seconds["step"]
    return {
        **seconds,
        "editing_in_forward_passes": editing / seconds["forward"],
        "step_over_plain_step": (editing + plain_step) / plain_step,
    }


def main(
    steps: Annotated[int, typer.Option()] = 6,
    batch_size: Annotated[int, typer.Option()] = 4,
    num_tokens: Annotated[int, typer.Option()] = 256,
    hidden: Annotated[int, typer.Option()] = 256,
    layers: Annotated[int, typer.Option()] = 6,
    vocabulary: Annotated[int, typer.Option()] = 32_000,
) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=8 * hidden // 3, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, max_position_embeddings=2048, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    dataset = rows_of(batch_size * steps, num_tokens)
    for name, options in SETTINGS.items():
        figures = measure(LlamaForCausalLM(config), dataset, batch_size, steps, **options)
        print(json.dumps({"setting": name, **{key: round(value, 4) for key, value in figures.items()}}), flush=True)


if __name__ == "__main__":
    typer.run(main)
