"""Discrete distributions: the figures of Seddik et al., their Theorem 2, and Kazdan's discrete collapse.

python -m benchmarks.reproduction.categorical [NAME ...]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from benchmarks.reproduction.figure import Comparison, Figure, compare, main
from hf_toedit.collapse import (
    AccumulateSubsample,
    Categorical,
    Mixture,
    NextToken,
    RecentModels,
    Replace,
    Simulation,
    collapse_time,
    collapse_time_bounds,
    collapse_time_exact,
    collapse_time_limit,
    simulate,
    sum_squares_partly_synthetic_as_printed,
)
from hf_toedit.collapse.simulation import CONFIDENCE

SHAPE = "600 outcomes, of which 52 have a probability above 0, with a sum of squared probabilities of 0.1"
PANELS = "The paper shows its values only in figures, with no numbers to compare"
POWER = "its probabilities are not given; ours are proportional to 1/rank^a"
TRUTH = Categorical(outcomes=600, support=52, sum_squares=0.1)


def seddik_figure_1() -> Figure:
    found = simulate(NextToken(vocabulary=3, context_length=4), Replace(), n=1000, generations=41, runs=100)
    comparisons = [
        compare(f"{what}, generation {generation}", found, measure, generation)
        for measure, what in [
            ("sum_squares", "sum of squared probabilities"),
            ("l1_truth", "distance from the truth"),
            ("entropy", "entropy, in nats"),
        ]
        for generation in (1, 11, 21, 31, 41)
    ]
    return Figure(
        name="seddik_figure_1",
        paper="seddik",
        item="Figure 1",
        title="A next-token model trained on its own text",
        setup="3 tokens, 81 contexts of 4 tokens, 1,000 rows per context, replace. Means over the contexts, 100 runs.",
        differs=f"{PANELS}: it shows a single run, as points in a triangle that drift to its sides and corners.",
        comparisons=comparisons,
    )


def mean_time(what: str, time_R: Sequence[int], expected: float | None = None, **of_the_paper: float) -> Comparison:
    mean = float(np.mean(time_R))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(time_R) - 1) * stats.sem(time_R))
    return Comparison(what, mean, mean - half, mean + half, expected=expected, **of_the_paper)


def seddik_figure_2() -> Figure:
    comparisons = []
    for n in (10, 50, 100, 200, 400):
        expected = float(collapse_time_limit(n, TRUTH.probabilities())) if n >= 100 else None
        lower = float(collapse_time_bounds(n, 0.1, 52)[0])
        what = f"generations until total collapse, n = {n} (at least {lower:.1f} by equation 8)"
        comparisons.append(mean_time(what, collapse_time(TRUTH, n, runs=400), expected))
    return Figure(
        name="seddik_figure_2",
        paper="seddik",
        item="Figure 2",
        title="The time to total collapse is linear in the number of rows",
        setup=f"{SHAPE}; replace with n rows, 400 runs. The closed form is ours, the limit for large n: "
        "-2 n sum (1 - p) log(1 - p).",
        differs=f"{PANELS}; {POWER}. The paper's lower bound is about half of the mean.",
        comparisons=comparisons,
    )


def seddik_figure_3() -> Figure:
    comparisons = []
    for n in (10, 50, 100, 500, 1000):
        found = simulate(TRUTH, Mixture(), n=n, num_real=100, generations=50, runs=400)
        comparisons += [
            compare(f"sum of squared probabilities, n = {n}, generation 2", found, "sum_squares", 2),
            compare(f"sum of squared probabilities, n = {n}, generation 50", found, "sum_squares", 50),
            compare(f"distance from generation 1, n = {n}, generation 2", found, "l1_first", 2),
            compare(f"distance from generation 1, n = {n}, generation 50", found, "l1_first", 50),
        ]
    return Figure(
        name="seddik_figure_3",
        paper="seddik",
        item="Figure 3",
        title="Partially synthetic data: the sum of squares stays flat, the distance rises with the synthetic rows",
        setup=f"{SHAPE}; 100 real rows and n synthetic ones in each generation, 400 runs. The closed form is Theorem 2 "
        "with its sign corrected.",
        differs=f"{PANELS}, nor for n; {POWER}.",
        comparisons=comparisons,
    )


def seddik_figure_4() -> Figure:
    comparisons = []
    for S_0 in (1 / 52, 0.05, 0.1, 0.3, 0.6):
        setting = Categorical(outcomes=600, support=52, sum_squares=S_0)
        found = simulate(setting, Mixture(), n=10, num_real=100, generations=50, runs=400)
        comparisons.append(compare(f"distance from generation 1, S_0 = {S_0:.3g}", found, "l1_first", 50))
    return Figure(
        name="seddik_figure_4",
        paper="seddik",
        item="Figure 4",
        title="The more concentrated the distribution, the smaller the distance",
        setup="600 outcomes, of which 52 have a probability above 0; 100 real rows and 10 synthetic ones, generation "
        "50, 400 runs. S_0: sum of squared probabilities.",
        differs=f"{PANELS}; {POWER}.",
        comparisons=comparisons,
    )


def share_collapsed(what: str, simulation: Simulation, generation: int, **of_the_paper: float) -> Comparison:
    """With the exact interval of a binomial probability."""
    collapsed_R = simulation.values_RG["collapsed"][:, generation - 1]
    found = stats.binomtest(int(collapsed_R.sum()), len(collapsed_R)).proportion_ci(CONFIDENCE)
    return Comparison(what, float(collapsed_R.mean()), float(found.low), float(found.high), **of_the_paper)


def seddik_figure_6() -> Figure:
    comparisons = []
    workflows = {f"the latest {K}": RecentModels(window=K) for K in (1, 2, 5, 10)}
    for name, workflow in {**workflows, "all of the past": AccumulateSubsample()}.items():
        found = simulate(Categorical(52, sum_squares=0.1), workflow, n=10, generations=500, runs=400)
        paper = {"paper": 0.01} if name == "all of the past" else {}
        comparisons += [
            share_collapsed(f"share of runs that collapsed by generation 50, rows from {name}", found, 50),
            share_collapsed(f"share of runs that collapsed by generation 500, rows from {name}", found, 500, **paper),
            compare(f"sum of squared probabilities, generation 50, rows from {name}", found, "sum_squares", 50),
        ]
    return Figure(
        name="seddik_figure_6",
        paper="seddik",
        item="Figure 6",
        title="Rows from the latest models delay collapse; rows from all generations hardly ever cause it",
        setup=f"{SHAPE}; 10 rows, 500 generations, 400 runs.",
        differs=f"1 of the paper's 100 runs collapsed with rows from all of the past; {POWER}. While there are fewer "
        "generations than the window, all of them are used in equal parts.",
        comparisons=comparisons,
    )


def seddik_theorem_2() -> Figure:
    comparisons = []
    for n in (100, 1000):
        found = simulate(Categorical(20, sum_squares=0.1), Mixture(), n=n, num_real=100, generations=3, runs=40_000)
        for generation in (1, 2, 3):
            printed = float(sum_squares_partly_synthetic_as_printed(generation, 100, n, 0.1))
            what = f"sum of squared probabilities, n = {n}, generation {generation}"
            comparisons.append(compare(what, found, "sum_squares", generation, printed=printed))
    return Figure(
        name="seddik_theorem_2",
        paper="seddik",
        item="Theorem 2",
        title="The sum of squared probabilities with partially synthetic data: a sign",
        setup="20 outcomes with a sum of squared probabilities of 0.1; 100 real rows, n synthetic ones, 40,000 runs.",
        differs="The paper prints a minus sign before (alpha/N) beta^m, with which generation 1 is wrong already; the "
        "closed form has a plus. The paper has no numbers.",
        comparisons=comparisons,
    )


def kazdan_discrete() -> Figure:
    setting, comparisons = Categorical(10), []
    papers = {10: 17, 100: 200, 1000: 1800, 10_000: 17_000, 100_000: 190_000}
    for (n, paper), runs in zip(papers.items(), (40_000, 4000, 4000, 400, 100), strict=True):
        uniform_V = setting.probabilities()
        expected = collapse_time_exact(n, uniform_V) if n == 10 else float(collapse_time_limit(n, uniform_V))
        time_R = collapse_time(setting, n, runs=runs)
        comparisons.append(
            mean_time(f"generations until total collapse, n = {n:,}", time_R, expected, paper=paper, tolerance=0.05)
        )
    return Figure(
        name="kazdan_discrete",
        paper="kazdan",
        item="Discrete distributions",
        title="The time to total collapse of ten equally likely outcomes is linear in the number of rows",
        setup="10 outcomes, replace with n rows; 40,000 to 100 runs, the fewer the larger n. The closed form is ours: "
        "exact for n = 10 (a Markov chain), else the limit for large n, -2 n sum (1 - p) log(1 - p).",
        differs="The paper's values are read off a figure with logarithmic axes, to about 5%; its "
        "100 runs leave a standard error of 5%, too.",
        comparisons=comparisons,
    )


FIGURES = (
    seddik_figure_1,
    seddik_figure_2,
    seddik_figure_3,
    seddik_figure_4,
    seddik_figure_6,
    seddik_theorem_2,
    kazdan_discrete,
)

if __name__ == "__main__":
    main({figure.__name__: figure for figure in FIGURES})
