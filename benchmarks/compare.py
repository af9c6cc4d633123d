"""What editing costs, next to the ways one would pick instead, on the same documents and in one run.

    python benchmarks/compare.py --runs 5

A random Llama (which positions are visited does not depend on the weights), documents of some hundred tokens. Ways:
the bare backbone; the model's own full forward; full softmax and top-k for every position (the published script's
method, in transformers); ours with sampled and with full statistics. Prints medians with minimum and maximum, and the
ratio to the backbone; `--json` writes them to a file.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from hf_toedit import ScoreRequest, ToEditConfig, TransformersPrior
from hf_toedit.law import change_bound
from hf_toedit.pretrained import DEMO_FOLDER

NUM_SPECIAL = 16


def new_prior(hidden: int, layers: int, vocabulary: int, dtype: str, folder: str) -> TransformersPrior:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # a prior needs one; here it reads no text
        shutil.copy(DEMO_FOLDER / name, folder)
    return TransformersPrior(folder, dtype=dtype)


def new_documents(num_documents: int, vocabulary: int) -> list[np.ndarray]:
    """Random ids with log-normal lengths around 500 tokens."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(np.log(450), 0.5, num_documents), 32, 2000).astype(int)
    return [generator.integers(NUM_SPECIAL, vocabulary, length) for length in lengths]


def requests_for(documents: list[np.ndarray], bound: float) -> list[ScoreRequest]:
    """Requests as the editor makes them: positions with u below the bound, each text up to the last of them."""
    generator = np.random.default_rng(1)
    requests = []
    for ids in documents:
        positions = np.flatnonzero(generator.random(len(ids) - 1) < bound) + 1
        if len(positions):
            requests.append(ScoreRequest(ids[: positions[-1] + 1], positions))
    return requests


def ways(prior: TransformersPrior, documents: list[np.ndarray]) -> dict[str, Callable[[], object]]:
    model = prior._model.model
    rows = [torch.from_numpy(ids)[None] for ids in documents]
    config = ToEditConfig()

    def run_each(function: Callable[[torch.Tensor], object]) -> Callable[[], object]:
        @torch.inference_mode()
        def run() -> None:
            for row in rows:
                function(row)

        return run

    def published(row: torch.Tensor) -> object:
        logits = model(input_ids=row, use_cache=False).logits
        return torch.log_softmax(logits.float(), -1).topk(config.top_k, -1)

    sampled, full = requests_for(documents, change_bound(config)), requests_for(documents, 1.0)
    return {
        "backbone alone": run_each(lambda row: model.base_model(input_ids=row, use_cache=False)),
        "full forward": run_each(lambda row: model(input_ids=row, use_cache=False)),
        "softmax and top-k of every token": run_each(published),
        "ours, sampled statistics": lambda: prior.score(sampled, config.top_k),
        "ours, full statistics": lambda: prior.score(full, config.top_k),
    }


def measure(functions: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each way, in turn, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(runs + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main(
    hidden: int = 384,
    layers: int = 12,
    vocabulary: int = 128_256,
    dtype: str = "bfloat16",
    documents: Annotated[int, typer.Option(help="Number of documents.")] = 24,
    runs: Annotated[int, typer.Option(help="Counted runs of each way.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="File to write the figures to.")] = None,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prior = new_prior(hidden, layers, vocabulary, dtype, folder)
        texts = new_documents(documents, vocabulary)
        seconds = measure(ways(prior, texts), runs)
    num_tokens = sum(map(len, texts))
    base = statistics.median(seconds["backbone alone"])
    table = Table(title=f"{hidden} x {layers}, vocabulary {vocabulary:,}, {dtype}: {num_tokens:,} tokens, {runs} runs")
    for heading in ("way", "tokens/s (median)", "min", "max", "time over backbone"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    figures = {}
    for name, values in seconds.items():
        median = statistics.median(values)
        rates = [num_tokens / value for value in (median, max(values), min(values))]
        table.add_row(name, *(f"{rate:,.0f}" for rate in rates), f"{median / base:.2f}")
        figures[name] = {
            "tokens_per_second": rates[0],
            "min": rates[1],
            "max": rates[2],
            "over_backbone": median / base,
        }
    Console().print(table)
    if json_file:
        setting = {"hidden": hidden, "layers": layers, "vocabulary": vocabulary, "dtype": dtype, "runs": runs}
        machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps({**setting, **machine, "ways": figures}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
