"""Figures of kernel density estimates: python -m benchmarks.reproduction.densities [NAME ...]"""

from __future__ import annotations

import numpy as np

from benchmarks.reproduction.figure import Comparison, Figure, compare, main
from hf_toedit.collapse import Accumulate, AccumulateSubsample, KernelDensity, Replace, Workflow, cardinality, simulate
from hf_toedit.collapse.simulation import mean_interval
from hf_toedit.collapse.workflows import label_of

BANDWIDTHS = ("0.1", "0.5", "1.0")
RUNS = 60
READ_OFF: dict[tuple[Workflow, int], float] = {  # at iteration 100: the mean over the three bandwidths
    (Replace(), 10): 80,
    (Replace(), 32): 42,
    (Replace(), 100): 14,
    (Replace(), 1000): 5,
    (AccumulateSubsample(), 10): 6.3,
    (AccumulateSubsample(), 32): 3.1,
    (AccumulateSubsample(), 100): 2.6,
    (Accumulate(), 10): 2.7,
    (Accumulate(), 32): 2.6,
    (Accumulate(), 100): 2.55,
}


def levels() -> Figure:
    comparisons = []
    for (workflow, n), paper in READ_OFF.items():
        found = [
            simulate(
                KernelDensity("moons", width), workflow, n=n, generations=100, runs=RUNS if n < 1000 else 6, seed=i
            )
            for i, width in enumerate(BANDWIDTHS)
        ]
        ours, low, high = mean_interval(np.mean([one.values_RG["nll"][:, -1] for one in found], axis=0))
        what = f"NLL at generation 100, {label_of(workflow)}, n = {n:,}, mean over the bandwidths"
        comparisons.append(Comparison(what, float(ours), float(low), float(high), paper, tolerance=0.1))
    return Figure(
        "kazdan_moons",
        "kazdan",
        "Figure 1",
        "Kernel density estimates of moons",
        "500 held-out rows. We take the paper's lines for means over the bandwidths 0.1, 0.5 and 1: no single one "
        "gives their levels.",
        "60 runs per bandwidth (6 for n = 1,000), not 100.",
        comparisons=comparisons,
    )


def variances() -> Figure:
    """The mechanism: a kernel adds h^2 to the variance of each generation's rows."""
    comparisons = []
    for workflow in (Replace(), AccumulateSubsample(), Accumulate()):
        for n in (10, 100):
            found = simulate(KernelDensity("moons", "0.5"), workflow, n=n, generations=100, runs=200)
            for generation in (1, 10, 100):
                what = f"variance at generation {generation}, {label_of(workflow)}, n = {n}"
                comparisons.append(compare(what, found, "variance", generation))
    return Figure(
        "kazdan_moons_variance",
        "kazdan",
        "appendix on kernel density estimates",
        "Why kernel density estimates drift: the variance of the estimate",
        "Moons, bandwidth h = 0.5. Under replace it tends to n h^2; under accumulate it grows like h^2 log g.",
        "The paper shows no variances; the closed forms are ours.",
        comparisons=comparisons,
    )


def worth() -> Figure:
    reals, synthetics = [10, 32, 100, 1000], [0, 10, 32, 100, 316, 1000, 3160]
    comparisons = []
    for width in ("0.1", "0.5"):
        table = cardinality(
            KernelDensity("moons", width), num_real=reals, num_synthetic=synthetics, generator_rows=1000, runs=40
        )
        for row in table[(table.measure == "nll") & (table.num_synthetic > 0)].itertuples():
            what = f"h = {width}: change by {row.num_synthetic:,} synthetic rows beside {row.num_real:,} real ones"
            comparisons.append(Comparison(what, row.change, row.change_low, row.change_high))
    return Figure(
        "kazdan_cardinality_moons",
        "kazdan",
        "Figure 5",
        "Moons: what synthetic rows add to the NLL of real ones",
        "An estimate fitted to 1,000 real rows writes the synthetic ones; negative changes help.",
        "The paper fine-tunes Gemma-2-2B.",
        comparisons=comparisons,
    )


if __name__ == "__main__":
    main({"kazdan_moons": levels, "kazdan_moons_variance": variances, "kazdan_cardinality_moons": worth})
