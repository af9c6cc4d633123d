"""A picture of theory over simulation: a panel for each measure, a color for each workflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..types import FloatArray
from .extra import extra
from .simulation import CONFIDENCE, Simulation
from .workflows import label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 30  # the ratio of the largest value to the smallest above which the axis is logarithmic


def plot(simulations: Sequence[Simulation], path: str | Path | None = None, confidence: float = CONFIDENCE) -> Figure:
    """Plot simulations of one setting: means with confidence bands, and closed forms as dashed lines.

    path: where to save a PNG, if anywhere.
    """
    extra("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 5 * len(_measures(simulations)), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(_measures(simulations)), squeeze=False)[0]
    for axes, measure in zip(panels, _measures(simulations), strict=True):
        _draw(axes, [each for each in simulations if measure in each.values_RG], measure, confidence)
    title = f"{simulations[0].title}\n{confidence:.0%} bands; dashed: closed form"
    figure.suptitle(title, fontsize=9, parse_math=False)
    if path is not None:
        figure.savefig(path, dpi=150, format="png")
    return figure


def _measures(simulations: Sequence[Simulation]) -> list[str]:
    return list(dict.fromkeys(measure for simulation in simulations for measure in simulation.values_RG))


def _draw(axes: Axes, simulations: Sequence[Simulation], measure: str, confidence: float) -> None:
    means: list[FloatArray] = []
    for number, simulation in enumerate(simulations):
        mean_G, low_G, high_G = simulation.interval(measure, confidence)
        generations, color = np.arange(1, len(mean_G) + 1), f"C{number}"
        axes.plot(generations, mean_G, color=color, label=label_of(simulation.workflow))
        axes.fill_between(generations, low_G, high_G, color=color, alpha=0.2, linewidth=0)
        if measure in simulation.expected_G:
            axes.plot(generations, simulation.expected_G[measure], color="black", linestyle="--", linewidth=1)
        means.append(mean_G)
    shown = np.concatenate(means)
    if shown.min() > 0 and shown.max() > WIDE * shown.min():
        axes.set_yscale("log")
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("generation")
    axes.set_ylabel(measure.replace("_", " "))
    axes.legend(fontsize=8)
