"""Find what in a recipe would run code that comes with it, which only `--trust-recipe` allows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError
from ..files.yamls import load_yaml
from .recipe import Recipe

FLAG = "--trust-recipe"
RUNS_CODE = ("trust_remote_code", "use_kernels", "worker_cls", "worker_extension_cls", "logits_processors")
# The keys a plain lm_eval task may have. lm_eval fills its templates with unrestricted Jinja, looks up unknown metrics
# among the Hub's scripts, and lets a file include any other.
TASK_KEYS = re.compile(
    r"task|task_alias|tag|group|group_alias|dataset_(path|name|kwargs)|(training|validation|test|fewshot)_split|"
    r"fewshot_config|num_fewshot|output_type|doc_to_(text|target|choice|decontamination_query)|"
    r"(target|fewshot)_delimiter|description|gen_prefix|generation_kwargs|repeats|metric_list|aggregate_metric_list|"
    r"filter_list|should_decontaminate|metadata"
)
METRICS = re.compile(
    r"acc(_norm|_bytes|_mutual_info)?|bits_per_byte|bleu|brier_score|chrf|exact_match|f1|likelihood|mcc|ter|"
    r"((byte|word)_)?perplexity"
)
FIELD = re.compile(r"\{\{\s*[A-Za-z]\w*(\.[A-Za-z]\w*|\[\d+\])*(\s*\|\s*[a-z]+)*\s*\}\}")


def check_trust(recipe: Recipe, *, trusted: bool) -> None:
    """Raise ConfigError if the recipe would run code, unless it is trusted."""
    place = None if trusted else next(code_in(recipe), None)
    if place:
        raise ConfigError(f"the recipe would run code that comes with it ({place}): read it, and give {FLAG}")


def code_in(recipe: Recipe) -> Iterator[str]:
    """The places in a recipe that would run code."""
    yield from _in_tree(dataclasses.asdict(recipe), "")
    folder = recipe.evaluate.include_path
    if folder and recipe.evaluate.tasks:
        for file in sorted(Path(folder).rglob("*.y*ml")):
            if why := _in_task(file):
                yield f"evaluate.include_path: {file.name} {why}"


def _in_tree(tree: Any, place: str) -> Iterator[str]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    for name, value in items:
        below = f"{place}.{name}" if place else str(name)
        is_kernel = name == "attn_implementation" and "/" in str(value)  # from the Hub
        if is_kernel or (name in RUNS_CODE and value):
            yield below
        yield from _in_tree(value, below)


def _in_task(file: Path) -> str:
    """Why a task is not plain; empty if it is. A task with tags, such as `!function`, does not load here."""
    try:
        task = load_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return "is more than plain YAML"
    if not isinstance(task, dict):
        return "is not a task"
    if unknown := [name for name in task if not TASK_KEYS.fullmatch(name)]:
        return f"has {unknown[0]!r}"
    if task.get("dataset_path") == "pandas":
        return "reads pickles"
    for entry in task.get("metric_list") or []:
        is_known = isinstance(entry, dict) and METRICS.fullmatch(str(entry.get("metric")))
        if not is_known or entry.get("hf_evaluate"):
            return "has a metric that is not built in"
    if next(_in_tree(task, ""), None):
        return "has trust_remote_code"
    return "has a template of more than fields" if any(map(_computes, _texts(task))) else ""


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _texts(value)


def _computes(template: str) -> bool:
    return bool(re.search(r"\{[{%#]", FIELD.sub("", template)))
