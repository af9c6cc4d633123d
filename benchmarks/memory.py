"""The memory of a worker, unit by unit, over many short rows and over rows of 10 MB.

    python benchmarks/memory.py measure    # prints a table and writes results/memory-<machine>.json

The prior answers at once and has no weights, so that what is measured is all but the model. Peak and resting memory are
those of the process that edits the units, which are made by another one.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from datasets import Dataset
from rich.console import Console
from rich.table import Table

from hf_toedit import ScoreRequest, Scores, ToEditTransform, TransformersPrior
from hf_toedit.experiments.docstrings import docstrings, standard_library
from hf_toedit.scale.job import Job
from hf_toedit.scale.plan import Plan
from hf_toedit.scale.planning import spool
from hf_toedit.scale.unit import edit_unit

HERE = Path(__file__).parent
# characters in a row, rows, rows in a unit
KINDS = {"short": (24, 1_000_000, 10_000), "long": (10_000_000, 12, 1)}

app = typer.Typer(add_completion=False, help=__doc__)


class CheapPrior:
    """Nearly certain of every token, at once."""

    max_length, stride, revision = 512, 256, "cheap"

    def __init__(self) -> None:
        self.tokenizer = TransformersPrior("demo").tokenizer
        self.num_ids = self.tokenizer.get_vocab_size()
        self.logprob_K = np.log([0.99, *[0.01 / 7] * 7])

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        scores = []
        for request in requests:
            target_E = request.input_ids[request.positions]
            ids_EK = (target_E[:, None] + np.arange(8)) % self.num_ids
            logprob_EK = np.tile(self.logprob_K, (len(target_E), 1))
            scores.append(Scores(logprob_EK[:, 0].copy(), ids_EK, logprob_EK))
        return scores


def text_of(num_characters: int) -> str:
    texts = [row["text"] for row in docstrings(standard_library())]
    text = "\n\n".join(texts)
    return (text * (num_characters // len(text) + 1))[:num_characters]


@app.command()
def plan(out: Path, kind: str) -> None:
    """Write the source and the plan of an output."""
    num_characters, num_rows, of_unit = KINDS[kind]
    text = text_of(num_characters * (1000 if kind == "short" else 1))
    starts = np.random.default_rng(0).integers(0, len(text), num_rows).tolist()
    rows = Dataset.from_dict({"text": [(text[i:] + text[:i])[:num_characters] for i in starts[:of_unit]]})
    job, transform = Job(str(out)), ToEditTransform(CheapPrior())
    planned = spool([("train", rows)], job.storage, 10**12)
    [file], [unit] = planned.files, planned.units
    units = tuple(dataclasses.replace(unit, shard=i) for i in range(num_rows // of_unit))
    about: dict[str, Any] = {"source": None, "earlier": [], "read_by": []}
    record = transform.provenance()
    job.create(Plan({"batch_size": 1000, "threads": 1}, record, planned.features, (file,), units, about), transform)


@app.command()
def edit(out: Path, most: int = 1000) -> None:
    """Edit the units of an output, at most this many, and print the memory after each of them, in MB."""
    job = Job(str(out))
    job.__dict__["transform"] = ToEditTransform(CheapPrior())
    for number in range(min(most, len(job.plan.units))):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        manifest = edit_unit(job, number)
        gc.collect()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        peak, resting = (int(status[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS"))
        print(json.dumps([round(peak), round(resting), round(manifest.seconds, 1)]), flush=True)
        job.storage.remove(f".toedit/data/{manifest.shard}")


@app.command()
def measure(kinds: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Measure the kinds of rows named, or all."""
    found: dict[str, list[list[float]]] = {}
    for kind in kinds or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            script = [sys.executable, __file__]
            subprocess.run([*script, "plan", folder, kind], check=True)
            result = subprocess.run([*script, "edit", folder], check=True, capture_output=True, text=True)
            found[kind] = [json.loads(line) for line in result.stdout.splitlines()]
        table = Table("unit", "peak MB", "resting MB", "seconds", title=f"{kind} rows")
        for number, values in enumerate(found[kind]):
            table.add_row(str(number), *map(str, values))
        Console().print(table)
    if not kinds:
        path = HERE / f"results/memory-{platform.machine()}.json"
        path.write_text(json.dumps({"columns": ["peak_mb", "resting_mb", "seconds"], "units": found}, indent=1) + "\n")


if __name__ == "__main__":
    app()
