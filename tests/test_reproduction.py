"""The figures of the papers: their files, their verdicts, and the page."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest

from hf_toedit.collapse import Gaussian, Replace, simulate

sys.path.append(str(Path(__file__).parents[1]))
from benchmarks.reproduction.figure import RESULTS, Comparison, Figure, compare, read_all, write
from benchmarks.reproduction.page import page_text


@pytest.mark.parametrize(
    ("paper", "tolerance", "verdict"),
    [
        (None, 0.0, None),
        (1.0, 0.0, "agrees"),
        (1.1, 0.0, "agrees"),
        (1.2, 0.0, "disagrees"),
        (1.2, 0.1, "agrees"),
        (0.8, 0.05, "disagrees"),
        (0.8, 0.2, "agrees"),
        (-1.0, 0.1, "disagrees"),
    ],
)
def test_a_verdict_is_whether_the_ranges_overlap(paper, tolerance, verdict):
    assert Comparison("x", 1.0, 0.9, 1.1, paper=paper, tolerance=tolerance).verdict == verdict


def test_negative_numbers_have_a_tolerance_too():
    assert Comparison("x", -1.0, -1.1, -0.9, paper=-1.2, tolerance=0.1).verdict == "agrees"


def test_formulas_are_held_against_the_interval():
    comparison = Comparison("x", 1.0, 0.9, 1.1, expected=1.05, printed=1.2)
    assert comparison.holds(comparison.expected)
    assert not comparison.holds(comparison.printed)
    assert comparison.holds(comparison.paper) is None


def test_a_number_that_is_none_is_refused():
    with pytest.raises(ValueError, match="x: low is nan"):
        Comparison("x", 1.0, math.nan, 1.1)


def test_a_figure_survives_its_file(tmp_path):
    simulation = simulate(Gaussian(), Replace(), n=10, generations=5, runs=20)
    mean_G, low_G, high_G = simulation.interval("trace_ratio")
    found = compare("trace", simulation, "trace_ratio", 5, paper=0.5, tolerance=0.1, printed=math.pi)
    assert [found.ours, found.low, found.high] == pytest.approx([mean_G[4], low_G[4], high_G[4]], rel=1e-5)
    figure = Figure("kazdan-figure-0", "kazdan", "Figure 0", "Gaussians", "As it is.", comparisons=[found])
    assert write(figure, tmp_path).name == "kazdan-figure-0.json"
    assert read_all(tmp_path) == [figure]


def test_the_page_counts_verdicts_and_links_to_its_sections():
    numbers = [Comparison("a", 1, 0.9, 1.1, paper=paper, expected=1, printed=2) for paper in (1.0, 2.0, None)]
    first = Figure("b", "toedit", "Figure 1", "Edits, (again)", "Run.", "Smaller.", 3.0, numbers)
    second = Figure("a", "seddik", "Table 2", "Dirac", "Run.", comparisons=[Comparison("a", 1, 1, 1)])
    page = page_text([first, second])
    assert "Of 2 numbers in the papers, 1 agree with ours and 1 disagree." in page
    assert "| Edits, (again) | 1 | 1 | 3 of 3 | 0 of 3 | 3 s |" in page
    assert page.count("**disagrees**") == 1
    assert page.index("### Seddik et al., Table 2: Dirac") < page.index("### Zhu et al., Figure 1: Edits, (again)")
    headings = {
        re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^### (.*)$", page, re.M)
    }
    assert {*re.findall(r"\]\(#([^)]*)\)", page)} == headings


@pytest.mark.parametrize("figure", read_all(), ids=lambda figure: figure.name)
def test_committed_figures_are_complete(figure):
    assert (RESULTS / f"{figure.name}.json").exists()
    assert figure.comparisons
    assert figure.setup.endswith(".")
    assert all(one.low <= one.ours <= one.high for one in figure.comparisons)
