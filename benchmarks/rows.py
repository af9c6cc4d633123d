"""What editing a dataset costs beyond the prior's own work, what short answers save, and how cost grows with rows.

    python benchmarks/rows.py measure     # writes results/rows-<machine>-cpu.json
    python benchmarks/rows.py table results/rows-x86_64-cpu.json

All with the demo prior, in one process; the prior is so small that Python's share is as large as it can be.
"""

from __future__ import annotations

import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from datasets import Dataset, disable_progress_bars

from hf_toedit import ToEditTransform, TransformersPrior
from hf_toedit.editing.decision import change_bound
from hf_toedit.experiments.docstrings import docstrings, standard_library

HERE = Path(__file__).parent
ANSWERS = HERE.parents[1] / "shared/data/flan_cot_creak.jsonl"
GROWTH = {1_000: 5, 10_000: 3, 100_000: 1}  # rows, and how often they are measured

app = typer.Typer(add_completion=False, help=__doc__)


class Recorder:
    """A prior that keeps what another one was asked."""

    def __init__(self, prior: TransformersPrior) -> None:
        self.prior = prior
        self.calls: list[Any] = []
        self.tokenizer, self.max_length, self.stride = prior.tokenizer, prior.max_length, prior.stride

    def score(self, requests: Any, top_k: int) -> Any:
        self.calls.append(requests)
        return self.prior.score(requests, top_k)


def human_texts(num_rows: int, longest: int = 10_000) -> list[str]:
    """Docstrings of the standard library, over and over."""
    found = [row["text"] for row in docstrings(standard_library()) if len(row["text"]) <= longest]
    return [found[i % len(found)] for i in range(num_rows)]


def time_map(rows: Dataset, transform: ToEditTransform) -> tuple[int, float]:
    """Tokens of a dataset, and seconds of `map` over it from Arrow to Arrow."""
    start = time.perf_counter()
    edited = rows.map(transform, batched=True, load_from_cache_file=False)
    seconds = time.perf_counter() - start
    return sum(row["num_tokens"] for row in edited["toedit"]), seconds


def run_map(rows: Dataset) -> dict[str, float]:
    """Seconds of `map` from Arrow to Arrow, and then of the prior alone, asked the same again."""
    prior = Recorder(TransformersPrior("demo"))
    transform = ToEditTransform(prior)
    transform(rows[:8])  # loads what is loaded once
    prior.calls.clear()
    tokens, seconds = time_map(rows, transform)
    start = time.perf_counter()
    for requests in prior.calls:
        prior.prior.score(requests, transform.config.top_k)
    return {"seconds": seconds, "prior_seconds": time.perf_counter() - start, "tokens": tokens}


def short_answers(num_rows: int = 1000) -> tuple[Dataset, float]:
    """Masked prompts with answers of a few tokens, and the share of rows that the bound lets never reach the model."""
    tokenizer = TransformersPrior("demo").tokenizer
    if ANSWERS.exists():
        with ANSWERS.open(encoding="utf-8") as lines:
            pairs = [(row["input"], row["target"]) for row in map(json.loads, lines)][:num_rows]
    else:
        pairs = [(text, "yes" if len(text) % 2 else "no") for text in human_texts(num_rows)]
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for prompt, answer in pairs:
        context, ids = (tokenizer.encode(text, add_special_tokens=False).ids for text in (prompt, " " + answer))
        columns["input_ids"].append(context + ids)
        columns["labels"].append([-100] * len(context) + ids)
    num_editable = np.array([sum(label != -100 for label in labels) for labels in columns["labels"]])
    bound = change_bound(ToEditTransform("demo").config)
    return Dataset.from_dict(columns), float(((1 - bound) ** num_editable).mean())


@app.command()
def grow(num_rows: int, runs: int) -> None:
    """Measure one size; `measure` runs this in a process of its own. Prints JSON."""
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        Dataset.from_dict({"text": human_texts(num_rows, longest=80)}).save_to_disk(folder)
        rows = Dataset.load_from_disk(folder)
        transform = ToEditTransform("demo")
        transform(rows[:8])
        measured = [time_map(rows, transform) for _ in range(runs)]
    rates = [tokens / seconds for tokens, seconds in measured]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    typer.echo(json.dumps({"tokens_per_second": round(statistics.median(rates)), "peak_mib": round(peak)}))


@app.command()
def measure(
    runs: Annotated[int, typer.Option(help="Counted runs.")] = 5, growth: Annotated[bool, typer.Option()] = True
) -> None:
    """Measure, and write the figures to a file."""
    disable_progress_bars()
    documents = Dataset.from_dict({"text": human_texts(1000)})
    answers, share = short_answers()
    found: dict[str, Any] = {"device": f"{platform.machine()} CPU", "runs": runs}
    whole, lazy, every = [], [], []
    for _ in range(runs):
        whole.append(run_map(documents))
        lazy.append(time_map(answers, ToEditTransform("demo"))[1])
        every.append(time_map(answers, ToEditTransform("demo", stats="full"))[1])
    asked = Recorder(TransformersPrior("demo"))
    ToEditTransform(asked)(answers[:])
    rates = {
        name: statistics.median(run["tokens"] / run[name] for run in whole) for name in ("seconds", "prior_seconds")
    }
    found["map"] = {
        "tokens_per_second": round(rates["seconds"]),
        "prior_tokens_per_second": round(rates["prior_seconds"]),
        "ratio": round(statistics.median(run["prior_seconds"] / run["seconds"] for run in whole), 3),
    }
    found["short_answers"] = {
        "share_without_model": round(1 - sum(map(len, asked.calls)) / len(answers), 4),
        "expected_share": round(share, 4),
        "rows_per_second": round(len(answers) / statistics.median(lazy)),
        "rows_per_second_every_row": round(len(answers) / statistics.median(every)),
    }
    if growth:
        found["growth"] = {}
        for num_rows, times in GROWTH.items():
            line = [sys.executable, __file__, "grow", str(num_rows), str(times)]
            found["growth"][f"{num_rows:,}"] = json.loads(subprocess.check_output(line, text=True))
    output = HERE / "results" / f"rows-{platform.machine()}-cpu.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n")
    typer.echo(table_of(found))


@app.command()
def table(file: Path) -> None:
    """Print the table of docs/speed.md of a file of figures."""
    typer.echo(table_of(json.loads(file.read_text(encoding="utf-8"))))


def table_of(found: dict[str, Any]) -> str:
    whole, short = found["map"], found["short_answers"]
    lines = [
        f"| {found['device']}, demo prior, one process | |",
        "|---|---:|",
        f"| prior alone, tokens/s | {whole['prior_tokens_per_second']:,} |",
        f"| `ds.map`, Arrow to Arrow, tokens/s | {whole['tokens_per_second']:,} ({whole['ratio']:.0%}) |",
        f"| short answers: rows that never reach the model | {short['share_without_model']:.1%} "
        f"(expected {short['expected_share']:.1%}) |",
        f"| short answers, rows/s | {short['rows_per_second']:,} |",
        f"| short answers with every row scored, rows/s | {short['rows_per_second_every_row']:,} |",
    ]
    for size, row in found.get("growth", {}).items():
        lines.append(f"| {size} rows | {row['tokens_per_second']:,} tokens/s, peak {row['peak_mib']:,} MiB |")
    return "\n".join(lines)


if __name__ == "__main__":
    app()
