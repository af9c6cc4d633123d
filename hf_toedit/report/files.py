"""Reports as files: `stats.json` and a histogram."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..editing.stats import NUM_BINS, DatasetStats
from ..errors import SourceError

STATS, HISTOGRAM = "stats.json", "histogram.png"


def write_report(folder: Path, stats: DatasetStats, record: Mapping[str, Any]) -> None:
    """Write `stats.json` (the statistics and the record) and, if matplotlib is installed, `histogram.png`.

    Raises SourceError if it can't.
    """
    try:
        write_json(folder / STATS, stats_record(stats, record))
        if find_spec("matplotlib"):
            write_histogram(folder / HISTOGRAM, stats, str(record["prior"]))
    except OSError as error:
        raise SourceError(f"can't write the report: {error}") from error


def stats_record(stats: DatasetStats, record: Mapping[str, Any]) -> dict[str, Any]:
    """What `stats.json` holds: the statistics and the record of the run."""
    return {**stats.to_dict(), "run": dict(record)}


def json_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_whole(path, json_text(value))


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears with its whole text or not at all."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_histogram(path: Path, stats: DatasetStats, prior: str) -> None:
    """Write a PNG histogram of the visited tokens' probabilities, in ten bins."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total = max(1, sum(stats.tokens.histogram))
    shares = [count / total for count in stats.tokens.histogram]
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bars = axes.bar([(i + 0.5) / NUM_BINS for i in range(NUM_BINS)], shares, width=0.9 / NUM_BINS)
    axes.bar_label(bars, [f"{share:.1%}" for share in shares], fontsize=8)
    axes.set_xticks([i / NUM_BINS for i in range(NUM_BINS + 1)])
    axes.set_xlabel("probability of the token")
    axes.set_ylabel("share of the visited tokens")
    axes.set_title(f"{stats.tokens.num_visited:,} tokens under {prior}", parse_math=False)
    figure.savefig(path, dpi=150, format="png")
