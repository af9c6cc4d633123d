"""Statistics over seeds for a report: intervals, paired contrasts between arms, multiplicity, power."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LEVEL = 0.95  # of intervals; tests are two-sided at 1 - LEVEL
POWER = 0.8
ROUNDING = 1e-9  # relative to the mean: differences that spread less than this count as equal
SOURCE = "source"  # the arm that all others are compared with
Metrics = Mapping[str, Mapping[Any, Mapping[str, float]]]  # arm -> seed -> metric -> value


def interval(values: Sequence[float]) -> dict[str, Any]:
    """The mean and its 95 % interval by Student's t with n - 1 degrees of freedom. A single value has no interval."""
    from scipy import stats

    mean, half = math.fsum(values) / len(values), None
    if len(values) > 1:
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * _deviation(values) / math.sqrt(len(values))
    bounds = {"low": None, "high": None} if half is None else {"low": mean - half, "high": mean + half}
    return {"mean": mean, **bounds, "values": list(values)}


def contrasts(metrics: Metrics, controls: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each arm minus `source` and minus its control, for each metric, paired by the seeds that both have.

    A contrast is an `interval` of the differences with `arm`, `against`, `metric`, and the results of a paired t-test:
    sd: the standard deviation of the differences. detectable: the true difference that a test with this number of
        seeds would find with 80 % power if this were the true standard deviation.
    p: two-sided; null for a single seed, or if all differences are equal. p_holm: adjusted by Holm (1979) for all
        contrasts in the list.
    """
    contrasted = []
    for arm, seeds in metrics.items():
        for against in dict.fromkeys((SOURCE, controls.get(arm, SOURCE))):
            shared = [seed for seed in seeds if seed in metrics.get(against, {})] if arm != against else []
            for name in sorted({name for seed in shared for name in seeds[seed]}):
                differences = [seeds[seed][name] - metrics[against][seed][name] for seed in shared]
                labels = {"arm": arm, "against": against, "metric": name}
                contrasted.append({**labels, **interval(differences), **_test(differences)})
    for contrast, p in zip(contrasted, holm([contrast["p"] for contrast in contrasted]), strict=True):
        contrast["p_holm"] = p
    return contrasted


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for their number (Holm 1979), which bounds the probability of one or more false findings."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


def detectable(sd: float, num_pairs: int) -> float:
    """The true mean difference that a two-sided paired t-test at the 5 % level finds with 80 % probability."""
    from scipy import optimize, stats

    degrees = num_pairs - 1
    critical = float(stats.t.ppf((1 + LEVEL) / 2, degrees))

    def missing(shift: float) -> float:
        return float(stats.nct.sf(critical, degrees, shift)) - POWER  # the other tail adds nothing at this power

    return float(optimize.brentq(missing, 1.0, 2 * critical + 2)) * sd / math.sqrt(num_pairs)


def _test(differences: Sequence[float]) -> dict[str, float | None]:
    from scipy import stats

    n, mean = len(differences), math.fsum(differences) / len(differences)
    if n < 2:
        return {"sd": None, "detectable": None, "p": None}
    sd = _deviation(differences)
    if sd <= ROUNDING * abs(mean):  # for accuracies, 0.12 - 0.1 and 0.32 - 0.3 differ in the last bit
        return {"sd": 0.0, "detectable": None, "p": None}
    t = mean / (sd / math.sqrt(n))
    return {"sd": sd, "detectable": detectable(sd, n), "p": float(2 * stats.t.sf(abs(t), n - 1))}


def _deviation(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def contrast_lines(contrasted: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The contrasts as a Markdown table, and what the numbers mean."""
    if not contrasted:
        return
    tested = sum(contrast["p"] is not None for contrast in contrasted)
    yield "| metric | arm | minus | mean difference | sd | detectable | p | p (Holm) |"
    yield "|---" * 8 + "|"
    for contrast in contrasted:
        numbers = " | ".join(number(contrast[name]) for name in ("sd", "detectable", "p", "p_holm"))
        yield f"| {contrast['metric']} | {contrast['arm']} | {contrast['against']} | {cell(contrast)} | {numbers} |"
    yield ""
    yield (
        f"Differences are paired by seed. p: paired t-test, two-sided; p (Holm): adjusted for all {tested} contrasts "
        "with a p-value. sd: standard deviation of the differences; detectable: the true difference that so many seeds "
        "would show with 80 % power, unadjusted."
    )


def cell(value: Mapping[str, Any] | None) -> str:
    """A mean and its interval."""
    if value is None:
        return "-"
    bounds = "" if value["low"] is None else f" [{number(value['low'])}, {number(value['high'])}]"
    return number(value["mean"]) + bounds


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1 else f"{value:.3f}"
