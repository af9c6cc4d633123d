"""The last stage of a recipe: the metrics and edit rates of all arms, side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import SourceError, in_one_line
from ..report.files import STATS, write_json
from .contrasts import LEVEL, SOURCE, Planned, cell, contrast_lines, contrasts, interval, number


def report(
    evaluations: Mapping[str, Mapping[int, Path]],
    edits: Mapping[str, Sequence[Path]],
    controls: Mapping[str, str],
    folder: Path,
    planned: Planned | None = None,
) -> None:
    """Write `report.json` and `report.md`: each arm's metrics over seeds and edit rates, and the contrasts."""
    metrics = {
        arm: {seed: read_metrics(path / "metrics.json") for seed, path in seeds.items()}
        for arm, seeds in evaluations.items()
    }
    contrasted = contrasts(metrics, controls, planned)
    arms: dict[str, Any] = {}
    for arm, seeds in metrics.items():
        names = sorted({name for values in seeds.values() for name in values})
        arms[arm] = {
            "edits": [_rates(path / STATS) for path in edits.get(arm, [])],
            "metrics": {name: interval([values[name] for values in seeds.values()]) for name in names},
        }
        if shared := [seed for seed in seeds if arm != SOURCE and seed in metrics.get(SOURCE, {})]:
            minus = {name: [seeds[seed][name] - metrics[SOURCE][seed][name] for seed in shared] for name in names}
            arms[arm]["minus_source"] = {name: interval(differences) for name, differences in minus.items()}
    write_json(folder / "report.json", {"level": LEVEL, "arms": arms, "contrasts": contrasted})
    lines = [*markdown(arms), "", *contrast_lines(contrasted)]
    (folder / "report.md").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a file written by an earlier stage. Raises SourceError if the file is broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise broken(path, in_one_line(error)) from error
    if not isinstance(value, dict):
        raise broken(path, "it is not a mapping")
    return value


def broken(path: Path, why: str) -> SourceError:
    return SourceError(
        f"can't read {str(path)!r}: {why}; remove the folder {str(path.parent)!r} to run its stage again"
    )


def read_metrics(path: Path) -> dict[str, float]:
    """The metrics that an evaluation wrote. Raises SourceError if the file is broken."""
    metrics = read_json(path)
    if not all(isinstance(value, (int, float)) for value in metrics.values()):
        raise broken(path, "not all of its values are numbers")
    return metrics


def _rates(path: Path) -> dict[str, Any]:
    stats = read_json(path)
    names = ("num_rows", "num_tokens", "num_visited", "eligible_rate", "num_changed", "changed_rate")
    try:
        return {"generation": stats["run"]["config"]["generation"], **{name: stats[name] for name in names}}
    except (LookupError, TypeError) as error:
        raise broken(path, f"it has no {error}") from error


def markdown(arms: Mapping[str, Any]) -> Iterator[str]:
    """The tables of a report: metrics, differences from `source`, and the rates of the edits."""
    names = sorted({name for arm in arms.values() for name in arm["metrics"]})
    num_seeds = max((len(value["values"]) for arm in arms.values() for value in arm["metrics"].values()), default=0)
    yield f"Means over {num_seeds} seed(s) with their 95 % intervals (Student's t)."
    for title, key in (("metric", "metrics"), ("minus source, by seed", "minus_source")):
        columns = [name for name, arm in arms.items() if key in arm]
        if columns:
            yield from ("", f"| {title} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|")
            for name in names:
                yield f"| {name} | " + " | ".join(cell(arms[arm][key].get(name)) for arm in columns) + " |"
    rates = [(name, rate) for name, arm in arms.items() for rate in arm["edits"]]
    if rates:
        yield from ("", "| arm | generation | tokens | eligible rate | changed rate |", "|---|---|---|---|---|")
    for arm, rate in rates:
        shown = [number(rate[name]) for name in ("eligible_rate", "changed_rate")]
        yield f"| {arm} | {rate['generation']} | {rate['num_tokens']:,} | " + " | ".join(shown) + " |"
