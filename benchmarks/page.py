"""How large the report is, how long it takes to write, and how soon a browser shows it.

    python benchmarks/page.py measure     # writes results/page-<machine>-cpu.json
    python benchmarks/page.py table results/page-x86_64-cpu.json

1,000 paragraphs of the standard library's docstrings, densely edited, once and 100 times over. Each page is opened from
a file, in a new context of a headless Chromium. Needs playwright and Chromium.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from datasets import Dataset, disable_progress_bars

from hf_toedit import ToEditTransform
from hf_toedit.experiments.docstrings import docstrings, standard_library
from hf_toedit.report.counts import Counts
from hf_toedit.report.page import About, page_of

HERE = Path(__file__).parent
SIZES = (1_000, 100_000)
FIRST_PAINT = """() => new Promise((found) => {
    new PerformanceObserver((list) => found(list.getEntries()[0].startTime))
        .observe({ type: "paint", buffered: true });
})"""
LOADED = "() => performance.getEntriesByType('navigation')[0].domInteractive"

app = typer.Typer(add_completion=False, help=__doc__)


def edited_rows() -> Dataset:
    """1,000 rows, about every sixth token changed."""
    texts = [line for row in docstrings(standard_library() / "email") for line in row["text"].split("\n\n")]
    rows = Dataset.from_dict({"text": [texts[i % len(texts)] for i in range(1_000)]})
    return rows.map(ToEditTransform("demo", threshold=0.5, temperature=3), batched=True)


def write(rows: Dataset, path: Path) -> dict[str, float]:
    """Write the page; seconds and bytes."""
    start, splits = time.perf_counter(), {"train": rows}
    path.write_text(page_of(splits, Counts(splits), About()), encoding="utf-8")
    return {"seconds": time.perf_counter() - start, "bytes": path.stat().st_size}


def show(path: Path, runs: int) -> dict[str, float]:
    """Medians of the milliseconds until the first paint and until the page can be used."""
    from playwright.sync_api import sync_playwright

    paints, uses = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        for _ in range(runs):
            context = browser.new_context()
            tab = context.new_page()
            tab.goto(path.as_uri())
            paints.append(tab.evaluate(FIRST_PAINT))
            uses.append(tab.evaluate(LOADED))
            context.close()
        browser.close()
    return {"first_paint_ms": statistics.median(paints), "usable_ms": statistics.median(uses)}


@app.command()
def measure(
    runs: Annotated[int, typer.Option(help="How often each page is opened.")] = 9,
    output: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
) -> None:
    """Measure everything, and print the table."""
    disable_progress_bars()
    found: dict[str, Any] = {"machine": platform.machine(), "runs": runs}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        edited = edited_rows()
        for size in SIZES:
            rows = edited.select([i % 1_000 for i in range(size)]).flatten_indices() if size > 1_000 else edited
            path = folder / f"{size}.html"
            found[str(size)] = {**write(rows, path), **show(path, runs)}
    output = output or HERE / "results" / f"page-{platform.machine()}-cpu.json"
    output.write_text(json.dumps(found, indent=1) + "\n")
    typer.echo(table_of(found))


@app.command()
def table(file: Path) -> None:
    """Print the table of figures that were measured before."""
    typer.echo(table_of(json.loads(file.read_text(encoding="utf-8"))))


def table_of(found: dict[str, Any]) -> str:
    head = f"| {found['machine']} CPU | size | written in | first paint | usable after |\n|---|---:|---:|---:|---:|\n"
    return head + "\n".join(
        f"| {size:,} rows | {row['bytes'] / 1e6:.1f} MB | {row['seconds']:.1f} s "
        f"| {row['first_paint_ms']:.0f} ms | {row['usable_ms']:.0f} ms |"
        for size in SIZES
        for row in [found[str(size)]]
    )


if __name__ == "__main__":
    app()
