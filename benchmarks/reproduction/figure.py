"""A figure or table of a paper, run again: the paper's numbers, ours, and whether they agree.

A script of this folder runs a subject, `python -m benchmarks.reproduction.gaussians [NAME ...]`, and writes a file of
`results/` for each figure. `docs/reproduction.md` is made from these files alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_toedit.collapse import Simulation
from hf_toedit.report.files import write_json

RESULTS = Path(__file__).parent / "results"
Paper = Literal["seddik", "kazdan", "gerstgrasser", "toedit"]
Verdict = Literal["agrees", "disagrees"]


@dataclass(frozen=True)
class Comparison:
    """One number: the paper's and ours.

    ours, low, high: the mean over the runs, and its 99% interval.
    paper: what the paper reports, if it does.
    tolerance: how far off that may be, as a share of it: for numbers that are rounded, or read off a figure.
    expected: the closed form.
    printed: what the paper's own formula gives, where it is wrong.
    """

    what: str
    ours: float
    low: float
    high: float
    paper: float | None = None
    tolerance: float = 0.0
    expected: float | None = None
    printed: float | None = None

    def __post_init__(self) -> None:
        """Round to the digits that are written."""
        for name, value in vars(self).items():
            if name != "what" and value is not None:
                if not math.isfinite(value):
                    raise ValueError(f"{self.what}: {name} is {value}")
                object.__setattr__(self, name, float(f"{value:.6g}"))

    @property
    def verdict(self) -> Verdict | None:
        """Whether the paper's number, as exact as it is known, overlaps our interval."""
        if self.paper is None:
            return None
        margin = abs(self.paper) * self.tolerance
        return "agrees" if self.paper - margin <= self.high and self.low <= self.paper + margin else "disagrees"

    def holds(self, number: float | None) -> bool | None:
        """Whether a number, such as `expected` or `printed`, lies in our interval."""
        return None if number is None else self.low <= number <= self.high


@dataclass(frozen=True)
class Figure:
    """A figure or table, run again.

    name: of its file. item: as the paper calls it, "Figure 2". setup: what is run, in a sentence or two.
    differs: how our run differs from the paper's. seconds: what it took on one core.
    """

    name: str
    paper: Paper
    item: str
    title: str
    setup: str
    differs: str = ""
    seconds: float = 0.0
    comparisons: Sequence[Comparison] = ()


def compare(what: str, simulation: Simulation, measure: str, generation: int, **of_the_paper: Any) -> Comparison:
    """A measure at a generation (1 is the first) beside the paper's numbers: fields of Comparison by name.

    `expected` is the simulation's own closed form, unless given.
    """
    ours, low, high = (float(bound_G[generation - 1]) for bound_G in simulation.interval(measure))
    if measure in simulation.expected_G:
        of_the_paper.setdefault("expected", float(simulation.expected_G[measure][generation - 1]))
    return Comparison(what, ours, low, high, **of_the_paper)


def write(figure: Figure, folder: Path = RESULTS) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{figure.name}.json"
    write_json(path, dataclasses.asdict(figure))
    return path


def read_all(folder: Path = RESULTS) -> list[Figure]:
    """All written figures, sorted by name."""

    def read(path: Path) -> Figure:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Figure(**{**fields, "comparisons": [Comparison(**one) for one in fields["comparisons"]]})

    return [read(path) for path in sorted(folder.glob("*.json"))]


def main(figures: Mapping[str, Callable[[], Figure]]) -> None:
    """Run the figures named on the command line, or all, and write their files with the seconds they took."""
    names = sys.argv[1:] or list(figures)
    if unknown := [name for name in names if name not in figures]:
        sys.exit(f"there is no figure {unknown[0]!r}: choose from {', '.join(figures)}")
    for name in names:
        start = time.perf_counter()
        figure = figures[name]()
        path = write(dataclasses.replace(figure, name=name, seconds=round(time.perf_counter() - start, 1)))
        print(f"{path.name}: {figure.item}, {len(figure.comparisons)} comparisons")
