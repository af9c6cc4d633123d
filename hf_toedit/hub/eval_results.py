"""Results on benchmarks that the Hub ranks: `.eval_results/*.yaml` in a model's folder.

Format: https://huggingface.co/docs/hub/eval-results. Only tasks of lm_eval that measure a registered benchmark's own
metric on its own, whole test set are listed; the ids of tasks are those in the benchmark's `eval.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import yaml

from ..report.files import write_whole

FOLDER = ".eval_results"
HARNESS = "https://github.com/EleutherAI/lm-evaluation-harness"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on the Hub. dataset, task: its ids there. metric, shots: those of the lm_eval task."""

    dataset: str
    task: str
    metric: str
    shots: int


BENCHMARKS = {  # by task of lm_eval
    "gsm8k": Benchmark("openai/gsm8k", "gsm8k", "exact_match,flexible-extract", 5),
    "mmlu_pro": Benchmark("TIGER-Lab/MMLU-Pro", "mmlu_pro", "exact_match,custom-extract", 5),
    "gpqa_diamond_cot_zeroshot": Benchmark("Idavidrein/gpqa", "diamond", "exact_match,flexible-extract", 0),
}


def write_eval_results(folder: Path, metrics: Mapping[str, float], num_fewshot: int | None = None) -> list[str]:
    """Write `.eval_results/TASK.yaml` below a model's folder for each registered benchmark. Returns their tasks.

    metrics: of lm_eval on whole test sets, by `task/metric`. num_fewshot: for all tasks; None for each task's own.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    written = []
    for task, benchmark in BENCHMARKS.items():
        value = metrics.get(f"{task}/{benchmark.metric}")
        if value is None:
            continue
        shots = benchmark.shots if num_fewshot is None else num_fewshot
        entry = EvalResultEntry(
            dataset_id=benchmark.dataset,
            task_id=benchmark.task,
            value=round(100 * value, 2),  # the benchmarks' leaderboards are in percent
            source_url=HARNESS,
            source_name=f"lm_eval {metadata.version('lm_eval')}",
            notes=f"{shots}-shot, {benchmark.metric}",
        )
        (folder / FOLDER).mkdir(exist_ok=True)
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
        write_whole(folder / FOLDER / f"{task}.yaml", text)
        written.append(task)
    return written
