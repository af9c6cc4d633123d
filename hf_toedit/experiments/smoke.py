"""`hf-toedit run --smoke`: a recipe with its model, data and tasks replaced by tiny local ones."""

from __future__ import annotations

import dataclasses
import json
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from ..editing.config import ToEditConfig
from ..errors import ConfigError
from ..priors.pretrained import DEMO, DEMO_FOLDER
from .docstrings import docstrings, standard_library
from .recipe import Arm, Data, Model, PriorChoice, Recipe
from .stage import Stage
from .training import LOG

NUM_ROWS = 80
NUM_TRAIN = 60
CHARACTERS = 400  # per text; prompts are shorter, so that max_length does not cut off their answers
PROMPT = 100
EASIER = 0.5  # factor for thresholds
OFTENER, MOST_CHANGED = 50, 0.5  # factor for the rates of random changes, and the highest
PIECE_TOKENS = 64
NUM_SAMPLES, SAMPLE_TOKENS = 8, 16
TASK = "smoke"
STEPS = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "activation_checkpointing": False,
    "max_length": 256,
    "bf16": False,
    "use_cpu": True,
    "dataloader_num_workers": 0,
    "disable_tqdm": True,
}
NOT_ON_A_CPU = ("model_init_kwargs", "optim", "tf32", "fp16", "torch_compile", "use_liger_kernel", "dataset_num_proc")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def smoke_recipe(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe cut down to seconds on a CPU: model and prior are the demo prior, data and task are files in `folder`.

    Kind, columns, arms, adapters and all other settings are kept, but thresholds are lower, or higher with
    `eligible: below`, so that every arm changes some of the few rows. `smoke_stage` writes the files.
    """
    demo_config = json.loads((DEMO_FOLDER / "config.json").read_text(encoding="utf-8"))
    model = Model(id=DEMO) if recipe.model.config is None else Model(tokenizer=DEMO, config=demo_config)
    train = {name: value for name, value in recipe.train.items() if name not in NOT_ON_A_CPU}
    if "chat_template_path" in train:
        train["chat_template_path"] = str(folder / "chat_template.jinja")
    return dataclasses.replace(
        recipe,
        model=model,
        prior=PriorChoice(DEMO),
        arms={name: _easier(recipe, arm, demo_config["vocab_size"]) for name, arm in recipe.arms.items()},
        data=[_data(source, f"train[:{NUM_TRAIN}]", folder) for source in recipe.data],
        train={**train, **STEPS},
        edit=dataclasses.replace(recipe.edit, num_proc=1),
        accelerate=None,
        piece_tokens=recipe.piece_tokens and min(recipe.piece_tokens, PIECE_TOKENS),
        evaluate=dataclasses.replace(
            recipe.evaluate,
            tasks=[TASK] if recipe.evaluate.tasks else [],
            include_path=str(folder),
            limit=None,
            batch_size=8,
            held_out={
                name: _data(source, f"train[{NUM_TRAIN}:]", folder) for name, source in recipe.evaluate.held_out.items()
            },
            samples=recipe.evaluate.samples
            and dataclasses.replace(recipe.evaluate.samples, num=NUM_SAMPLES, new_tokens=SAMPLE_TOKENS),
        ),
    )


def _easier(recipe: Recipe, arm: Arm, vocab_size: int) -> Arm:
    """The arm with a threshold that many tokens reach; half of them, for a model that has learnt nothing."""
    config = ToEditConfig.from_dict({**recipe.edit.config, **arm.fields})
    rate = {} if config.rate is None else {"rate": min(MOST_CHANGED, config.rate * OFTENER)}
    threshold = config.threshold * EASIER if config.eligible == "above" else min(1.0, config.threshold / EASIER)
    select = arm.select
    if select and select.get("high") is not None:
        select = {**select, "high": select["high"] * EASIER}
    if arm.truncate == "self" and recipe.model.config is not None:
        threshold = 1 / vocab_size
    return dataclasses.replace(arm, select=select, fields={**arm.fields, "threshold": threshold, **rate})


def check_arms(root: Path, seed: int) -> None:
    """Raise ConfigError for arms that trained on the same tokens, and for edits that changed nothing.

    root: the folder of a finished smoke run. The losses of its two steps tell arms apart.
    """
    arms = json.loads((root / "report" / "report.json").read_text(encoding="utf-8"))["arms"]
    for name, arm in arms.items():
        if arm["edits"] and not any(edit["num_changed"] for edit in arm["edits"]):
            raise ConfigError(f"this smoke run does not test the arm {name!r}: its edits change no token of the rows")
    known: dict[float, str] = {}
    for name in arms:
        log = json.loads((root / f"train-{name}-seed{seed}" / LOG).read_text(encoding="utf-8"))["log"]
        loss = log[-1].get("train_loss")  # none if the run was interrupted after the last step, and resumed
        same = name if loss is None else known.setdefault(loss, name)
        if same != name:
            raise ConfigError(
                f"this smoke run does not tell the arms {same!r} and {name!r} apart: they trained on the same tokens"
            )


def _data(data: Data, split: str, folder: Path) -> Data:
    return Data(source=str(folder / "rows.jsonl"), split=split, columns=data.columns, edit=data.edit)


def smoke_stage(recipe: Recipe, folder: Path) -> Stage:
    """The stage that writes the files of `smoke_recipe` into `folder`."""
    files = _files(recipe, folder)

    def write(work: Path) -> None:
        for name, text in files.items():
            (work / name).write_text(text, encoding="utf-8")

    return Stage(folder.name, {"files": files}, write)


def _files(recipe: Recipe, folder: Path) -> dict[str, str]:
    """The standard library's docstrings as rows with the recipe's fields, and as a multiple-choice task: file by file.

    folder: where the files will lie.
    """
    texts = [row["text"][:CHARACTERS] for row in islice(docstrings(standard_library()), NUM_ROWS)]
    sources = [*recipe.data, *recipe.evaluate.held_out.values()]
    fields = list(dict.fromkeys(name for data in sources for name in data.fields()))
    shapes = {template[1:-1]: name for data in sources for name, template in data.columns.items()}
    rows = [
        {name: _value(shapes.get(name, name), texts[i - j][:PROMPT], texts[i]) for j, name in enumerate(fields)}
        for i in range(len(texts))
    ]
    halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in texts[NUM_TRAIN:]]
    docs = [
        {"question": half, "choices": [rest, halves[i - 1][1]], "answer": 0} for i, (half, rest) in enumerate(halves)
    ]
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str((folder / "task.jsonl").resolve())}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    return {
        "rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "chat_template.jinja": CHAT_TEMPLATE,
        "task.jsonl": "".join(json.dumps(doc) + "\n" for doc in docs),
        "smoke.yaml": yaml.safe_dump(task),
    }


def _value(name: str, question: str, answer: str) -> Any:
    if name == "messages":
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if name == "conversations":
        return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return answer if name in ("text", "completion", "output", "response") else question
