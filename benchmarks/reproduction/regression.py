"""Linear regression: ToEdit's theorems (Zhu et al.), replace and accumulate (Gerstgrasser et al.), Kazdan's sweep.

python -m benchmarks.reproduction.regression [NAME ...]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.reproduction.figure import Comparison, Figure, compare, main
from hf_toedit.collapse import (
    Accumulate,
    AccumulateSubsample,
    LinearRegression,
    Replace,
    Simulation,
    ToEdit,
    least_squares_error,
    simulate,
    toedit_inflation_as_printed,
)

WORKFLOWS = {"replace": Replace(), "subsample": AccumulateSubsample(), "accumulate": Accumulate()}
IN_UNITS = "Errors are in units of sigma^2 d/(T-d-1), the expected error of a model trained on real labels."


def inflation(what: str, simulation: Simulation, generation: int, **of_the_paper: Any) -> Comparison:
    """The test error of a generation in units of the first's expected one."""
    unit = least_squares_error(simulation.n, simulation.setting.dimensions, simulation.setting.noise_variance)
    error = compare(what, simulation, "test_error", generation)
    expected = None if error.expected is None else error.expected / unit
    return Comparison(what, error.ours / unit, error.low / unit, error.high / unit, expected=expected, **of_the_paper)


def toedit_theorem_2() -> Figure:
    comparisons = []
    for share, num_edits in [(0.5, 1), (0.125, 1), (0.125, 4), (0.125, 8), (0.5, 2), (0.1, 10), (0.05, 20)]:
        found = simulate(LinearRegression(10), ToEdit(share=share), n=400, generations=num_edits + 1, runs=4000)
        printed = float(toedit_inflation_as_printed([share] * num_edits)[-1])
        edits = "1 edit" if num_edits == 1 else f"{num_edits} disjoint edits"
        comparisons.append(inflation(f"{edits} of {share:.1%} of the rows", found, num_edits + 1, printed=printed))
    return Figure(
        name="toedit_theorem_2",
        paper="toedit",
        item="Theorems 1 and 2",
        title="Test error after edits that never touch a row twice",
        setup=f"Linear regression with T = 400 rows and d = 10, 4,000 runs. {IN_UNITS}",
        differs="There is no figure to compare with, only the theorems: Theorem 1 gives 1 plus the total share of "
        "edited rows, and Theorem 2 the bound 2.",
        comparisons=comparisons,
    )


def toedit_iterated() -> Figure:
    comparisons = []
    for decay, name in [(1.0, "12.5% each time"), (0.9415, "each share 0.9415 times the last")]:
        workflow = ToEdit(share=0.125, overlapping=True, decay=decay)
        found = simulate(LinearRegression(10), workflow, n=400, generations=51, runs=4000)
        printed = toedit_inflation_as_printed([0.125 * decay**i for i in range(50)])
        comparisons += [
            inflation(
                f"{num_edits} {'edit' if num_edits == 1 else 'edits'}, {name}",
                found,
                num_edits + 1,
                printed=float(printed[num_edits]),
            )
            for num_edits in (1, 3, 10, 20, 30, 40, 50)
        ]
    return Figure(
        name="toedit_iterated",
        paper="toedit",
        item="Theorem 2 and Table 15",
        title="Test error when the same data is edited again and again",
        setup="Linear regression with T = 400 rows and d = 10, 4,000 runs. Each edit resamples the labels of rows "
        f"chosen at random, 12.5% the first time, as in Table 15. {IN_UNITS}",
        differs="The theorems assume that no row is edited twice and bound the error by 2. What is shown as printed "
        "is Theorem 1's formula, 1 plus all shares.",
        comparisons=comparisons,
    )


def toedit_table_15() -> Figure:
    total, edited = 4_671_834, [584_103, 549_519, 517_433]
    shares = [count / total for count in edited]
    ratios = [edited[1] / edited[0], edited[2] / edited[1]]
    decay = float(np.sqrt(ratios[0] * ratios[1]))
    exact = [(f"share of edited tokens, generation {i}", share) for i, share in enumerate(shares, 1)]
    papers = [0.125, 0.1176, 0.1108]
    return Figure(
        name="toedit_table_15",
        paper="toedit",
        item="Table 15",
        title="Shares of edited tokens, and what they add up to",
        setup="Arithmetic on the paper's counts: 584,103, 549,519 and 517,433 of 4,671,834 tokens.",
        differs="Theorem 2 asks for shares that shrink and rows that are edited once. Shares that go on shrinking as "
        "they do in the table add up to more than 1, so that tokens must be edited more than once.",
        comparisons=[
            *(
                Comparison(what, s, s, s, paper=paper, tolerance=5e-4)
                for (what, s), paper in zip(exact, papers, strict=True)
            ),
            *(Comparison(f"ratio, generation {i} to {i - 1}", r, r, r) for i, r in enumerate(ratios, 2)),
            Comparison("sum of all shares, if they go on like this", *[shares[0] / (1 - decay)] * 3),
        ],
    )


def gerstgrasser_linear() -> Figure:
    comparisons = []
    for name in ("replace", "accumulate"):
        found = simulate(LinearRegression(10), WORKFLOWS[name], n=100, generations=10, runs=4000)
        comparisons += [inflation(f"{name}, generation {g}", found, g) for g in (1, 2, 3, 5, 10)]
    return Figure(
        name="gerstgrasser_linear",
        paper="gerstgrasser",
        item="Theorem 2 and its figure",
        title="Linear growth if data is replaced, a bound if it accumulates",
        setup=f"Linear regression with T = 100 rows a generation and d = 10, 4,000 runs. {IN_UNITS} The closed forms "
        "are the paper's: n if replaced, 1 + 1/4 + 1/9 + ... if accumulated.",
        differs="We don't know the T, d and sigma of the paper's figure, so its curves are not compared.",
        comparisons=comparisons,
    )


def kazdan_regression() -> Figure:
    figure = {
        "replace": {32: 50, 100: 11, 316: 3.2, 1000: 1},
        "subsample": {32: 2.4, 100: 0.36, 316: 0.09, 1000: 0.03},
        "accumulate": {32: 0.78, 100: 0.2, 316: 0.055, 1000: 0.016},
    }
    comparisons = []
    for name, values in figure.items():
        for n, paper in values.items():
            found = simulate(LinearRegression(10), WORKFLOWS[name], n=n, generations=100, runs=100)
            comparisons.append(compare(f"{name}, n = {n}", found, "test_error", 100, paper=paper, tolerance=0.1))
    return Figure(
        name="kazdan_regression",
        paper="kazdan",
        item="Linear regression",
        title="Test error after 100 iterations",
        setup="Linear regression with d = 10 and noise variance 1, n rows an iteration, 100 runs.",
        differs="The paper's values are read off a figure on a logarithmic scale, to about 10%.",
        comparisons=comparisons,
    )


def kazdan_regression_order() -> Figure:
    """Cells of the sweep in which the order of the means holds."""
    orders = {"accumulate is best": (2, 1), "replace is worst": (1, 0), "accumulate beats replace": (2, 0)}
    held: dict[str, list[bool]] = {f"{where}: {order}": [] for where in ("n > d", "n = d", "n < d") for order in orders}
    for dimensions in (1, 3, 10, 32, 100):
        for n in (10, 32, 100, 316, 1000):
            for noise_variance in (0.1, 1.0, 10.0):
                setting = LinearRegression(dimensions, noise_variance)
                found = [simulate(setting, w, n=n, generations=30, runs=30) for w in WORKFLOWS.values()]
                means = [one.values_RG["test_error"][:, -1].mean() for one in found]
                where = f"n {'>' if n > dimensions else '=' if n == dimensions else '<'} d"
                for order, (better, worse) in orders.items():
                    held[f"{where}: {order}"].append(bool(means[better] <= means[worse]))
    return Figure(
        name="kazdan_regression_order",
        paper="kazdan",
        item="Linear regression",
        title="Order of the workflows over the sweep",
        setup="The number of cells in which one mean error is below another, for d in 1, 3, 10, 32, 100, n in 10, 32, "
        "100, 316, 1000 and noise variance in 0.1, 1, 10. In the paper, the order is accumulate, subsample, replace.",
        differs="30 iterations and 30 runs; the paper has 100 of each. Where n = d, least squares is at its worst (its "
        "expected error is infinite), and drawing rows avoids that, as some are left out. Where n < d, a direction of "
        "w* is lost with each row that is left out; at low noise, that is worse than replacing.",
        comparisons=[
            Comparison(f"{name} (of {len(cells)} cells)", *[float(sum(cells))] * 3, paper=float(len(cells)))
            for name, cells in held.items()
        ],
    )


FIGURES = [
    toedit_theorem_2,
    toedit_iterated,
    toedit_table_15,
    gerstgrasser_linear,
    kazdan_regression,
    kazdan_regression_order,
]

if __name__ == "__main__":
    main({figure.__name__: figure for figure in FIGURES})
