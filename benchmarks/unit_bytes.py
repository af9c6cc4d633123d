"""What a unit of work leaves behind, in bytes, and how fast one core can keep the books of many units.

    python benchmarks/unit_bytes.py measure     # a minute; writes results/unit-bytes.json
    python benchmarks/unit_bytes.py table benchmarks/results/unit-bytes.json

The texts are real web pages and abstracts, or docstrings where those are absent. A scripted prior edits them, because
only the number of edits matters here: one token in eight is eligible, as in the paper.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import typer
from datasets import Dataset, disable_progress_bars
from gpu import ScriptedPrior, train_tokenizer
from tokenizers import Tokenizer
from typer.testing import CliRunner

from hf_toedit import ToEditTransform, summarize
from hf_toedit.cli import app as hf_toedit
from hf_toedit.experiments.docstrings import docstrings, standard_library
from hf_toedit.scale.job import Manifest
from hf_toedit.scale.plan import Plan, SourceFile, Unit
from hf_toedit.scale.unit import BatchDone

HERE = Path(__file__).parent
RESULTS = HERE / "results/unit-bytes.json"
SHARED = HERE.parents[1] / "shared"
TEXTS = (
    "dolma_cc_en_head.jsonl",
    "dolma_test_documents.jsonl",
    "olmo_c4_sample.jsonl",
    "pubmedqa_instruct_pretrain.jsonl",
)
UNITS_PER_FILE = 16  # 2 GB of text in a file, as in FineWeb
NUM_UNITS = 20_000

app = typer.Typer(add_completion=False, help=__doc__)


def real_texts() -> tuple[list[str], Tokenizer]:
    """Web pages and abstracts, and the tokenizer of Qwen2; else docstrings, and a tokenizer trained on them."""
    if not SHARED.exists():
        texts = [row["text"] for row in docstrings(standard_library())]
        return texts, train_tokenizer(texts, 32_000)
    rows = (json.loads(line) for name in TEXTS for line in (SHARED / "data" / name).open(encoding="utf-8"))
    return [row["text"] for row in rows], Tokenizer.from_file(str(SHARED / "tokenizers/qwen2/tokenizer.json"))


def column_bytes(rows: Dataset, file: Path) -> dict[str, int]:
    """Bytes of each column in a Parquet file, as units are written."""
    rows.to_parquet(str(file))
    sizes: dict[str, int] = {}
    metadata = pq.ParquetFile(file).metadata
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            part = metadata.row_group(group).column(column)
            name = part.path_in_schema.split(".")[0]
            sizes[name] = sizes.get(name, 0) + part.total_compressed_size
    return sizes


def measure_rows(folder: Path) -> dict[str, Any]:
    """Bytes of text and of the `toedit` column: of a row without edits, and of each edit."""
    texts, tokenizer = real_texts()
    rows = Dataset.from_dict({"text": texts})
    prior: Any = ScriptedPrior(SimpleNamespace(tokenizer=tokenizer, max_length=None, stride=256))  # type: ignore[arg-type]
    edited = rows.map(ToEditTransform(prior), batched=True)
    untouched = rows.map(ToEditTransform(prior, strategy="none"), batched=True)
    tokens = summarize(edited).tokens
    sizes, bare = column_bytes(edited, folder / "edited.parquet"), column_bytes(untouched, folder / "bare.parquet")
    return {
        "num_rows": len(rows),
        "num_tokens": tokens.num_tokens,
        "eligible_rate": round(tokens.num_visited_eligible / tokens.num_visited, 4),
        "changed_rate": round(tokens.num_changed / tokens.num_tokens, 5),
        "text_bytes_per_token": round(sum(len(text.encode()) for text in texts) / tokens.num_tokens, 3),
        "stored_text_bytes_per_token": round(bare["text"] / tokens.num_tokens, 3),
        "column_bytes_per_row": round(bare["toedit"] / len(rows), 1),
        "column_bytes_per_edit": round((sizes["toedit"] - bare["toedit"]) / tokens.num_changed, 1),
        "memory_bytes_per_token": round(edited.data.nbytes / tokens.num_tokens, 2),
    }


def core_seconds(function: Callable[[], object]) -> float:
    """Seconds of a core: they do not depend on what else the machine does."""
    start = time.process_time()
    function()
    return time.process_time() - start


def measure_manifests(folder: Path) -> dict[str, Any]:
    """Bytes of a manifest that the command wrote, and how many a core reads in a second."""
    texts, out = folder / "texts.jsonl", folder / "out"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in real_texts()[0][-20:]), encoding="utf-8")
    result = CliRunner().invoke(hf_toedit, ["edit", str(texts), "--prior", "demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
    [path] = (out / ".toedit/units").iterdir()
    text = path.read_text(encoding="utf-8")
    copies = [folder / f"{number}.json" for number in range(2000)]
    for copy in copies:
        copy.write_text(text, encoding="utf-8")
    seconds = core_seconds(lambda: [Manifest.from_json(copy.read_text(encoding="utf-8")) for copy in copies])
    return {"manifest_bytes": len(text.encode()), "manifests_per_second": round(len(copies) / seconds)}


def measure_plan() -> dict[str, Any]:
    """Bytes of a plan for each unit, and how many units of it a core reads in a second."""
    names = (f"/data/fineweb/data/CC-MAIN-2024-10/{i // 1000:03d}_{i:05d}.parquet" for i in range(NUM_UNITS))
    files = tuple(
        SourceFile(next(names), "parquet", 2**31, "1716239022123456789") for _ in range(NUM_UNITS // UNITS_PER_FILE)
    )
    units = tuple(
        Unit("train", i, i // UNITS_PER_FILE, i % UNITS_PER_FILE * 30_000, i % UNITS_PER_FILE * 30_000 + 30_000)
        for i in range(NUM_UNITS)
    )
    text = Plan({}, {}, {}, files, units, {}).to_json()
    seconds = core_seconds(lambda: Plan.from_json(text).digest)
    return {"plan_bytes_per_unit": round(len(text) / NUM_UNITS, 1), "plan_units_per_second": round(NUM_UNITS / seconds)}


def _report(parent: Connection, num_messages: int) -> None:
    for number in range(num_messages):
        parent.send(BatchDone(number, 30_000, 1000, 1000, 1_000_000, 80_000, 10_000, 5_000))


def measure_messages(num_messages: int = 50_000) -> dict[str, Any]:
    """How many reports of finished batches the core of a parent takes in a second."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_report, args=(there, num_messages))
    process.start()
    here.recv()
    seconds = core_seconds(lambda: [here.recv() for _ in range(num_messages - 1)])
    process.join()
    return {"messages_per_second": round(num_messages / seconds)}


def measure_spooling(folder: Path) -> dict[str, Any]:
    """Bytes of text that a core writes as Parquet in a second."""
    texts = real_texts()[0]
    rows = Dataset.from_dict({"text": [f"{i} {text}" for i in range(10) for text in texts]})
    seconds = core_seconds(lambda: rows.to_parquet(str(folder / "spooled.parquet")))
    return {"spooled_bytes_per_second": round(rows.data.nbytes / seconds)}


@app.command()
def measure() -> None:
    """Measure, and write the figures to a file."""
    disable_progress_bars()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in (
            measure_rows(folder),
            measure_manifests(folder),
            measure_plan(),
            measure_messages(),
            measure_spooling(folder),
        ):
            found |= part
            print(json.dumps(part), flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


@app.command()
def table(file: Path) -> None:
    """Print the table of a file of figures."""
    print(table_of(json.loads(file.read_text(encoding="utf-8"))))


def table_of(found: dict[str, Any]) -> str:
    mean = found["num_tokens"] / found["num_rows"]
    lines = [
        f"| {found['num_rows']:,} web pages and abstracts of {mean:,.0f} tokens (Qwen2) | |",
        "|---|---:|",
        f"| text, bytes a token | {found['text_bytes_per_token']:.2f} |",
        f"| text in Parquet, bytes a token | {found['stored_text_bytes_per_token']:.2f} |",
        f"| edited rows in memory, bytes a token | {found['memory_bytes_per_token']:.2f} |",
        f"| `toedit` column in Parquet, bytes a row | {found['column_bytes_per_row']:.0f} |",
        f"| ... and for each edit | {found['column_bytes_per_edit']:.0f} |",
        f"| a manifest, bytes | {found['manifest_bytes']:,} |",
        f"| a plan, bytes a unit | {found['plan_bytes_per_unit']:.0f} |",
        f"| manifests read by a core, a second | {found['manifests_per_second']:,} |",
        f"| units of a plan read by a core, a second | {found['plan_units_per_second']:,} |",
        f"| reports of workers read by a core, a second | {found['messages_per_second']:,} |",
        f"| text written to Parquet by a core, MB a second | {found['spooled_bytes_per_second'] / 1e6:.0f} |",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    app()
