"""Statistics over seeds for a report: intervals, paired contrasts between arms, multiplicity, power.

Shape suffix: S quantiles of an estimated standard deviation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError

LEVEL = 0.95  # of intervals; tests are two-sided at 1 - LEVEL
POWER = 0.8
NUM_SDS = 10_000  # quantiles that a power is averaged over
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


@dataclasses.dataclass(frozen=True)
class Planned:
    """The contrasts that an experiment is for, named before it is run: Holm's correction is for these alone.

    pairs: an arm, and the one it is compared with. metrics: as in `metrics.json`; all of them by default. The report
    has the pairs' other metrics, too, but without a corrected p.
    """

    pairs: list[list[str]]
    metrics: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        for pair in self.pairs:
            if len({*pair}) != 2 or len(pair) != 2:
                raise ConfigError(f"contrasts.pairs: {pair!r} must name two arms, such as [toedit, source]")
            if self.pairs.count(pair) + self.pairs.count(pair[::-1]) > 1:
                raise ConfigError(f"contrasts.pairs names {pair!r} twice")


def contrasts(metrics: Metrics, controls: Mapping[str, str], planned: Planned | None = None) -> list[dict[str, Any]]:
    """Each arm minus `source` and minus its control, or the planned pairs, by metric, paired by the seeds both have.

    Perplexities are compared by their logarithms, in nats per token: the metric is then called `log NAME`, and a
    difference of 0.03 is a perplexity 3 % higher.

    A contrast is an `interval` of the differences with `arm`, `against`, `metric`, and the results of a paired t-test:
    sd: the standard deviation of the differences. detectable: the true difference that a test with this number of
        seeds would find with 80 % power if this were the true standard deviation.
    p: two-sided; null for a single seed, or if all differences are equal. p_holm: adjusted by Holm (1979) for all
        contrasts in the list, or for those that are planned.
    """
    contrasted, tested = list[dict[str, Any]](), list[dict[str, Any]]()
    for arm, against in _pairs(metrics, controls, planned):
        shared = [seed for seed in metrics[arm] if seed in metrics[against]]
        for name in sorted({name for seed in shared for name in metrics[arm][seed]}):
            shown, on_scale = _scale(name)
            differences = [
                on_scale(metrics[arm][seed][name]) - on_scale(metrics[against][seed][name]) for seed in shared
            ]
            labels = {"arm": arm, "against": against, "metric": shown}
            contrasted.append({**labels, **interval(differences), **_test(differences), "p_holm": None})
            if planned is None or not planned.metrics or name in planned.metrics:
                tested.append(contrasted[-1])
    for contrast, p in zip(tested, holm([contrast["p"] for contrast in tested]), strict=True):
        contrast["p_holm"] = p
    return contrasted


def _pairs(metrics: Metrics, controls: Mapping[str, str], planned: Planned | None) -> list[tuple[str, str]]:
    """The arms to compare, of those that were run."""
    if planned is not None:
        pairs = [(arm, against) for arm, against in planned.pairs]
    else:
        pairs = [(arm, against) for arm in metrics for against in dict.fromkeys((SOURCE, controls.get(arm, SOURCE)))]
    return [(arm, against) for arm, against in pairs if arm != against and arm in metrics and against in metrics]


def _scale(metric: str) -> tuple[str, Callable[[float], float]]:
    """The name of what is compared of a metric, and how it is calculated."""
    return (f"log {metric}", math.log) if metric.endswith("perplexity") else (metric, float)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for their number (Holm 1979), which bounds the probability of one or more false findings."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


def detectable(sd: float, num_pairs: int, power: float = POWER, level: float = 1 - LEVEL) -> float:
    """The true mean difference that a two-sided paired t-test at this level finds with this probability."""
    from scipy import optimize

    def missing(shift: float) -> float:
        return _found(shift, num_pairs, level) - power

    most = 1.0
    while missing(most) < 0:
        most *= 2
    return float(optimize.brentq(missing, 0.0, most)) * sd / math.sqrt(num_pairs)


def needed_pairs(sd: float, difference: float, power: float = POWER, level: float = 1 - LEVEL) -> int:
    """The smallest number of pairs with which a two-sided paired t-test finds a true difference with this power.

    sd: the standard deviation of the differences between the two of a pair. level: of one test; with m contrasts,
    0.05 / m, which is the first step of Holm's procedure.

    Raises ConfigError if a number is out of range.
    """
    for name, share in (("power", power), ("level", level)):
        if not 0 < share < 1:
            raise ConfigError(f"{name}={share!r} must be in (0, 1)")
    if not (0 < sd < math.inf and 0 < abs(difference) < math.inf):
        raise ConfigError(f"sd={sd!r} must be above 0, and difference={difference!r} other than 0; both finite")
    difference = abs(difference)
    few, enough = 1, 2
    while _found(difference / sd * math.sqrt(enough), enough, level) < power:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        if _found(difference / sd * math.sqrt(middle), middle, level) < power:
            few = middle
        else:
            enough = middle
    return enough


def upper_sd(sd: float, num_pairs: int, confidence: float = POWER) -> float:
    """An upper bound on the true standard deviation, with this confidence, if the differences are normal.

    A pilot of few pairs is often too optimistic; plan with this instead of its standard deviation.
    """
    if num_pairs < 2:
        raise ConfigError(f"num_pairs={num_pairs!r} must be at least 2: a single pair has no standard deviation")
    from scipy import stats

    return sd * math.sqrt((num_pairs - 1) / float(stats.chi2.ppf(1 - confidence, num_pairs - 1)))


def _found(shift: float, num_pairs: int, level: float) -> float:
    """The power of a two-sided paired t-test. shift: the true difference over its standard error.

    Equals P(|T| > t) for T noncentral t with this shift: the mean, over the estimated standard deviation, of what a
    normal test would find. (scipy's nct loses its tails at few degrees of freedom.)
    """
    from scipy import stats

    degrees = num_pairs - 1
    critical = float(stats.t.isf(level / 2, degrees))
    sd_S = np.sqrt(stats.chi2.ppf((np.arange(NUM_SDS) + 0.5) / NUM_SDS, degrees) / degrees)  # over the true one
    return float(np.mean(stats.norm.sf(critical * sd_S - shift) + stats.norm.cdf(-critical * sd_S - shift)))


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
    tested = sum(contrast["p_holm"] is not None for contrast in contrasted)
    yield "| metric | arm | minus | mean difference | sd | detectable | p | p (Holm) |"
    yield "|---" * 8 + "|"
    for contrast in contrasted:
        numbers = " | ".join(number(contrast[name]) for name in ("sd", "detectable", "p", "p_holm"))
        yield f"| {contrast['metric']} | {contrast['arm']} | {contrast['against']} | {cell(contrast)} | {numbers} |"
    yield ""
    yield (
        f"Differences are paired by seed. p: paired t-test, two-sided; p (Holm): adjusted for the {tested} contrasts "
        "that have one. sd: standard deviation of the differences; detectable: the true difference that so many seeds "
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
