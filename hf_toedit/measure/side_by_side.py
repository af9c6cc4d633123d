"""One dataset, or two side by side: figures with intervals, differences and verdicts, ready for JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..types import FloatArray
from .figures import TAIL_MASS, Figure, Figures, bootstrap, pair_figures, word_figures
from .intervals import Interval, exact_interval, shift_test
from .tally import Group, Tally, merged
from .verdicts import CONFIDENCE, verdicts

NOTHING = {"js_divergence": math.nan, "expected_by_chance": math.nan, "p_value": math.nan}


def one_side(tally: Tally, seed: int = 0) -> dict[str, Any]:
    """The results and figures of one dataset."""
    whole = merged(*tally.groups)
    figures = word_figures(tally, whole) | bootstrap(tally, (seed, 0)).figures()
    figures.pop(TAIL_MASS, None)  # of a dataset above its own quantile
    return {"a": _side(tally, whole, figures), "b": None}


def side_by_side(a: Tally, b: Tally, *, paired: bool, seed: int = 0) -> dict[str, Any]:
    """The results and figures of both datasets, their differences B - A, and verdicts.

    paired: whether row i of A is row i of B, such as a source and its edit.
    """
    wholes = merged(*a.groups), merged(*b.groups)
    figures_a, figures_b, differences = pair_figures(a, b, wholes, paired=paired)
    sums_a = bootstrap(a, (seed, 0))
    sums_b = bootstrap(b, (seed, 0 if paired else 1), sums_a)
    figures_a, figures_b = figures_a | sums_a.figures(), figures_b | sums_b.figures()
    differences |= sums_b.minus(sums_a).figures()
    shift = _shift_test(a, b, seed, paired=paired)
    num_rows = min(a.num_rows, b.num_rows)
    found = list(verdicts(figures_a, figures_b, differences, shift, num_rows))
    if TAIL_MASS in figures_a:  # by definition
        figures_a[TAIL_MASS] = dataclasses.replace(figures_a[TAIL_MASS], interval=lambda _: (math.nan, math.nan))
        figures_b[TAIL_MASS] = _of_a_tail(figures_b[TAIL_MASS], b.nats_N)
    return {
        "a": _side(a, wholes[0], figures_a),
        "b": _side(b, wholes[1], figures_b),
        "paired": paired,
        "differences": _shown(differences),
        "shift": {**wholes[0].ngrams.shift(wholes[1].ngrams), "test": {"num_rows": num_rows, **shift}},
        "verdicts": found,
    }


def _side(tally: Tally, whole: Group, figures: Figures) -> dict[str, Any]:
    return {"num_rows": tally.num_rows, "figures": _shown(figures), "results": tally.results(whole)}


def _of_a_tail(figure: Figure, nats_N: FloatArray) -> Figure:
    """The share of B in A's tail, with an interval at least as wide as the exact one.

    If none of B's rows lies in the tail, no resample of them has one there, either.
    """
    num_scored = int((~np.isnan(nats_N)).sum())

    def interval(level: float) -> Interval:
        low, high = figure.interval(level)
        if math.isnan(low):
            return low, high
        exact_low, exact_high = exact_interval(round(figure.value * num_scored), num_scored, level)
        return min(low, exact_low), max(high, exact_high)

    return dataclasses.replace(figure, interval=interval)


def _shown(figures: Figures) -> dict[str, dict[str, Any]]:
    return {
        name: {"value": figure.value, "interval": list(figure.interval(CONFIDENCE))} for name, figure in figures.items()
    }


def _shift_test(a: Tally, b: Tally, seed: int, *, paired: bool) -> Mapping[str, float]:
    """`shift_test` on equally many groups of equally many rows."""
    num_groups = min(len(a.groups), len(b.groups))
    counts = a.compared_GD[:num_groups], b.compared_GD[:num_groups]
    if not all(counts_GD.any() for counts_GD in counts):
        return NOTHING
    return shift_test(*counts, np.random.default_rng((seed, 2)), paired=paired)
