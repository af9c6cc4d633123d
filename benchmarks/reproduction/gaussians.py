"""Figures of Gaussians: python -m benchmarks.reproduction.gaussians [NAME ...]"""

from __future__ import annotations

from itertools import pairwise

from benchmarks.reproduction.figure import Comparison, Figure, compare, main
from hf_toedit.collapse import Accumulate, AccumulateSubsample, Gaussian, Replace, cardinality, simulate
from hf_toedit.collapse.simulation import mean_interval
from hf_toedit.collapse.workflows import label_of

ORDER = (Accumulate(), AccumulateSubsample(), Replace())
Z = 2.576  # standard errors of a 99% interval
LOGGED = {  # at generation 100, in the logs of the paper: mean and standard error of trace ratio and squared error
    (Accumulate(), 10): ((0.8732, 0.0476), (0.1581, 0.0185)),
    (Accumulate(), 32): ((0.9550, 0.0272), (0.0529, 0.0062)),
    (Accumulate(), 100): ((0.9967, 0.0168), (0.0160, 0.0024)),
    (Accumulate(), 316): ((1.0080, 0.0150), (0.0048, 0.0011)),
    (Replace(), 10): ((0.000003, 0.000002), (0.9255, 0.1658)),
    (Replace(), 32): ((0.0731, 0.0431), (0.7278, 0.1199)),
    (Replace(), 100): ((0.3087, 0.0399), (0.5837, 0.1060)),
    (Replace(), 316): ((0.7031, 0.0774), (0.1999, 0.0438)),
}


def levels() -> Figure:
    comparisons = []
    for (workflow, n), logged in LOGGED.items():
        found = simulate(Gaussian(1), workflow, n=n, generations=100, runs=3000)
        for measure, (paper, error) in zip(("trace_ratio", "squared_error"), logged, strict=True):
            what = f"{measure.replace('_', ' ')} at generation 100, {label_of(workflow)}, n = {n}"
            comparisons.append(compare(what, found, measure, 100, paper=paper, tolerance=Z * error / paper))
    return Figure(
        "kazdan_gaussians",
        "kazdan",
        "Figure 1",
        "Gaussians: trace of the covariance and squared error of the mean",
        "One dimension, covariance with 1/n, 100 generations. The paper's values are means of its logs.",
        "3,000 runs, not 49 to 115. The tolerance is the 99% interval of the paper's own runs.",
        comparisons=comparisons,
    )


def order() -> Figure:
    """How much further each workflow drifts than the next better one, at each cell."""
    comparisons = []
    for dimensions in (1, 10, 31):
        for n in (10, 100, 316):
            runs = 400 if n * dimensions < 1000 else 60
            errors = [
                simulate(Gaussian(dimensions), workflow, n=n, generations=100, runs=runs).values_RG["squared_error"]
                for workflow in ORDER
            ]
            for (better, less), (worse, more) in pairwise(zip(ORDER, errors, strict=True)):
                ours, low, high = mean_interval(more[:, -1] - less[:, -1])
                what = f"squared error, {label_of(worse)} less {label_of(better)}, d = {dimensions}, n = {n}"
                comparisons.append(Comparison(what, float(ours), float(low), float(high)))
    return Figure(
        "kazdan_gaussians_order",
        "kazdan",
        "Figure 1",
        "Gaussians: accumulate <= accumulate-subsample <= replace",
        "Generation 100. All differences should be above zero; workflows start from the same real rows, run by run.",
        "60 to 400 runs.",
        comparisons=comparisons,
    )


def worth() -> Figure:
    table = cardinality(
        Gaussian(10), num_real=[10, 100, 1000], num_synthetic=[0, 10, 100, 1000], generator_rows=1000, runs=400
    )
    table = table[(table.measure == "squared_error") & (table.num_synthetic > 0)]
    return Figure(
        "kazdan_cardinality_gaussians",
        "kazdan",
        "Figure 5",
        "Gaussians: what synthetic rows add to the squared error of the mean",
        "A Gaussian of ten dimensions fitted to 1,000 real rows writes the synthetic ones; negative changes help.",
        "The paper fine-tunes Gemma-2-2B.",
        comparisons=[
            Comparison(
                f"change by {row.num_synthetic:,} synthetic rows beside {row.num_real:,} real ones",
                row.change,
                row.change_low,
                row.change_high,
            )
            for row in table.itertuples()
        ],
    )


if __name__ == "__main__":
    main({"kazdan_gaussians": levels, "kazdan_gaussians_order": order, "kazdan_cardinality_gaussians": worth})
