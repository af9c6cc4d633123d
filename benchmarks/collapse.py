"""What Kazdan et al.'s sweep of Gaussians costs, beside a plain numpy loop over the same cells.

    python benchmarks/collapse.py measure     # writes results/collapse-<machine>-cpu.json
    python benchmarks/collapse.py table results/collapse-x86_64-cpu.json

5 dimensions, 5 sizes, 100 generations, 100 runs, three workflows. The loop takes one run after the other, each with
the same work, so that two of its 100 runs are timed and multiplied by 50.
"""

from __future__ import annotations

import json
import platform
import resource
import time
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from threadpoolctl import threadpool_limits

from hf_toedit.collapse import Accumulate, AccumulateSubsample, Gaussian, Replace, Workflow, sweep
from hf_toedit.collapse.workflows import label_of

HERE = Path(__file__).parent
DIMENSIONS, SIZES = (1, 3, 10, 31, 100), (10, 32, 100, 316, 1000)
WORKFLOWS = (Replace(), AccumulateSubsample(), Accumulate())
GENERATIONS, RUNS = 100, 100

app = typer.Typer(add_completion=False, help=__doc__)


def loop(workflow: Workflow, dimensions: int, n: int) -> None:
    """One run, written the obvious way: keep rows, fit, measure, sample."""
    rows = np.random.multivariate_normal(np.zeros(dimensions), np.eye(dimensions), n)
    for _ in range(GENERATIONS):
        chosen = rows
        if isinstance(workflow, AccumulateSubsample):
            chosen = rows[np.random.choice(len(rows), n, replace=False)]
        mean, covariance = chosen.mean(axis=0), np.atleast_2d(np.cov(chosen, rowvar=False, bias=True))
        (mean**2).sum(), np.trace(covariance), np.linalg.det(covariance)
        new = np.random.multivariate_normal(mean, covariance, n)
        rows = new if isinstance(workflow, Replace) else np.concatenate([rows, new])


def cpu_seconds() -> float:
    """Of this process and of those that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(work: Any) -> dict[str, float]:
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    return {"seconds": round(time.perf_counter() - wall, 1), "cpu_seconds": round(cpu_seconds() - cpu, 1)}


def sweep_of(workflow: Workflow, workers: int) -> None:
    settings = [Gaussian(dimensions) for dimensions in DIMENSIONS]
    sweep(settings, [workflow], SIZES, generations=GENERATIONS, runs=RUNS, workers=workers)


def loops_of(workflow: Workflow, loop_runs: int) -> None:
    with threadpool_limits(1):
        for dimensions, n, _ in product(DIMENSIONS, SIZES, range(loop_runs)):
            loop(workflow, dimensions, n)


@app.command()
def measure(
    workers: Annotated[int, typer.Option(help="Processes of the sweep.")] = 2,
    loop_runs: Annotated[int, typer.Option(help="Runs of the loop that are timed.")] = 2,
) -> None:
    """Measure, and write the figures to a file."""
    found: dict[str, Any] = {"device": f"{platform.machine()} CPU", "workers": workers, "loop_runs": loop_runs}
    for workflow in WORKFLOWS:
        ours = timed(lambda workflow=workflow: sweep_of(workflow, workers))
        plain = timed(lambda workflow=workflow: loops_of(workflow, loop_runs))
        found[label_of(workflow)] = {"sweep": ours, "loop": plain}
        typer.echo(f"{label_of(workflow)}: {found[label_of(workflow)]}")
    output = HERE / "results" / f"collapse-{platform.machine()}-cpu.json"
    output.write_text(json.dumps(found, indent=1) + "\n")
    typer.echo(table_of(found))


@app.command()
def table(file: Path) -> None:
    """Print the table of docs/speed.md of a file of figures."""
    typer.echo(table_of(json.loads(file.read_text(encoding="utf-8"))))


def table_of(found: dict[str, Any]) -> str:
    share = RUNS / found["loop_runs"]
    lines = [
        f"| {found['device']} | `sweep`, {found['workers']} processes, s | CPU time, s "
        f"| plain loop, CPU time, s (from {found['loop_runs']} of {RUNS} runs) | CPU time saved |",
        "|---|---:|---:|---:|---:|",
    ]
    names = [name for name in found if isinstance(found[name], dict)]
    total = {"seconds": 0.0, "cpu_seconds": 0.0, "loop": 0.0}
    for name in names:
        ours, plain = found[name]["sweep"], found[name]["loop"]["cpu_seconds"] * share
        total = {**{key: total[key] + ours[key] for key in ours}, "loop": total["loop"] + plain}
        lines.append(line(f"`{name}`", ours, plain))
    return "\n".join([*lines, line("all three", total, total["loop"])])


def line(name: str, ours: dict[str, float], plain: float) -> str:
    times = f"{ours['seconds']:,.0f} | {ours['cpu_seconds']:,.0f} | {plain:,.0f}"
    return f"| {name} | {times} | {plain / ours['cpu_seconds']:.0f} times |"


if __name__ == "__main__":
    app()
