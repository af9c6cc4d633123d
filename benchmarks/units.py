"""What editing in units costs beyond `map`, and what a second worker brings.

    python benchmarks/units.py measure     # writes results/units-<machine>-cpu.json
    python benchmarks/units.py table results/units-x86_64-cpu.json

All with the demo prior and one thread. The ways take turns, so that they share whatever else the machine does; figures
are ratios of their medians.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import typer
from datasets import Dataset, disable_progress_bars
from rows import HERE, human_texts

from hf_toedit import ToEditTransform
from hf_toedit.scale.job import Job
from hf_toedit.scale.plan import Plan
from hf_toedit.scale.planning import plan_source
from hf_toedit.scale.unit import BatchDone
from hf_toedit.scale.workers import edit_units, planned_threads

app = typer.Typer(add_completion=False, help=__doc__)


def new_job(texts: list[str], folder: Path, num_units: int, batch_size: int) -> Job:
    """An output whose units are to be edited."""
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    job = Job(str(folder / "out"))
    planned = plan_source([str(source)], job.storage, unit_bytes=source.stat().st_size // num_units)
    transform = ToEditTransform("demo")
    request = {"batch_size": batch_size, "threads": 1}
    job.create(Plan(request, transform.provenance(), planned.features, planned.files, planned.units, {}), transform)
    return job


def tokens_per_second(texts: list[str], workers: int) -> float:
    """The throughput of workers, each a process of its own, while all of them are at work.

    It is taken from when the last of them has reported its first batch to when the first has reported its last one.
    """
    done: list[tuple[float, int, int]] = []

    def report(worker: int, batch: BatchDone) -> None:
        done.append((time.perf_counter(), worker, batch.num_tokens))

    with tempfile.TemporaryDirectory() as folder:
        job = new_job(texts, Path(folder), num_units=20, batch_size=20)
        edit_units(job, job.to_do(), workers, report)
    times = [[at for at, worker, _ in done if worker == number] for number in range(workers)]
    start, stop = max(of_worker[0] for of_worker in times), min(of_worker[-1] for of_worker in times)
    return sum(tokens for at, _, tokens in done if start < at <= stop) / (stop - start)


def map_and_units(texts: list[str]) -> tuple[float, float]:
    """Processor seconds of `map`, from Arrow to Arrow, and of the same rows in four units, from JSON to Parquet."""
    with tempfile.TemporaryDirectory() as folder:
        job = new_job(texts, Path(folder), num_units=4, batch_size=1000)
        rows = Dataset.from_list([{"text": text} for text in texts])
        job.transform(rows[:8])  # loads what is loaded once
        with planned_threads(job):
            start = time.process_time()
            rows.map(job.transform, batched=True, batch_size=1000, cache_file_name=f"{folder}/rows.arrow")
            middle = time.process_time()
        edit_units(job, job.to_do())
        return middle - start, time.process_time() - middle


@app.command()
def measure(
    runs: Annotated[int, typer.Option(help="Counted runs.")] = 5,
    num_rows: Annotated[int, typer.Option(help="Rows of each run.")] = 2000,
) -> None:
    """Measure, and write the figures to a file."""
    disable_progress_bars()
    texts = human_texts(num_rows, longest=1000)
    rates: dict[int, list[float]] = {1: [], 2: []}
    seconds: list[tuple[float, float]] = []
    load = os.getloadavg()[0]
    for _ in range(runs):
        seconds.append(map_and_units(texts))
        for workers, found in rates.items():
            found.append(tokens_per_second(texts, workers))
    one, two = (statistics.median(found) for found in rates.values())
    of_map, of_units = (statistics.median(column) for column in zip(*seconds, strict=True))
    found = {
        "device": f"{platform.machine()} CPU",
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(load, 1),
        "runs": runs,
        "rows": num_rows,
        "tokens_per_second": {"1": round(one), "2": round(two)},
        "speedup": round(two / one, 3),
        "map_seconds": round(of_map, 2),
        "units_seconds": round(of_units, 2),
        "overhead": round(of_units / of_map - 1, 4),
    }
    output = HERE / "results" / f"units-{platform.machine()}-cpu.json"
    output.write_text(json.dumps(found, indent=1) + "\n")
    typer.echo(table_of(found))


@app.command()
def table(file: Path) -> None:
    """Print the figures of a file as a table."""
    typer.echo(table_of(json.loads(file.read_text(encoding="utf-8"))))


def table_of(found: dict[str, Any]) -> str:
    rates = found["tokens_per_second"]
    lines = [
        f"| {found['device']}, {found['cores']} cores, demo prior, one thread per worker | |",
        "|---|---:|",
        f"| one worker, tokens/s | {rates['1']:,} |",
        f"| two workers, tokens/s | {rates['2']:,} ({found['speedup']:.2f} times) |",
        f"| units over `ds.map`, processor time | {found['overhead']:+.1%} |",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    app()
