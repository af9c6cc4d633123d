"""`docs/reproduction.md`, made from the files in `results/` alone. `make docs-refresh` writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain

from .figure import Comparison, Figure, Paper

PAPERS: dict[Paper, tuple[str, str]] = {
    "seddik": ("Seddik et al.", "[How Bad is Training on Synthetic Data?](https://arxiv.org/abs/2404.05090)"),
    "kazdan": ("Kazdan et al.", "[Collapse or Thrive?](https://arxiv.org/abs/2410.16713)"),
    "gerstgrasser": ("Gerstgrasser et al.", "[Is Model Collapse Inevitable?](https://arxiv.org/abs/2404.01413)"),
    "toedit": (
        "Zhu et al.",
        "[How to Synthesize Text Data without Model Collapse?](https://arxiv.org/abs/2412.14689), the ToEdit paper",
    ),
}
NOT_RUN: dict[Paper, Sequence[tuple[str, str]]] = {
    "seddik": (),
    "kazdan": (
        ("Instruction tuning, Gemma-2 2B, 9B and 27B, up to 20 iterations", "needs GPUs"),
        ("Value of synthetic data by the number of real rows, Gemma-2 2B", "needs GPUs; character models are above"),
        ("Pre-training on TinyStories", "needs GPUs: 470 million tokens a model"),
    ),
    "gerstgrasser": (
        ("GPT-2 9M and Llama-2 12M to 126M on TinyStories", "needs GPUs: 470 million tokens a model"),
        ("GeoDiff on GEOM-Drugs, and a VAE on CelebA", "needs GPUs, and data and models outside text"),
    ),
    "toedit": (
        ("Tables 1, 9, 11, 13, 14, 17: GPT-2 and OLMo-237M on mixtures", "needs GPUs: 42 billion tokens a model"),
        (
            "Tables 2 to 5, 7, 8, 16: OLMo-1B and Llama-3-8B, trained on edited data",
            "needs GPUs; there are [recipes](guide/experiments.md), which have only been smoke-tested",
        ),
        (
            "Tables 6, 15 and Figures 4, 5, 10 to 14: probabilities, n-grams and embeddings of corpora",
            "needs a large prior on billions of tokens",
        ),
    ),
}
HEAD = """\
# Reproduction

This page compares what the papers on collapse report with what we get when we run their experiments again: each figure
and table that fits on a CPU. It is made from the files in `benchmarks/reproduction/results/` by `make docs-refresh`. To
run a figure again, pass the name of its file to the script of its subject:
`python -m benchmarks.reproduction.SUBJECT NAME`, where SUBJECT is a script in `benchmarks/reproduction/`.

- **ours** is the mean over independent runs, with its 99% interval by Student's t. It is too narrow where a few runs
  dominate the mean, as in a variance after a hundred generations of replace.
- **paper** is the number in the paper. A ± says how precisely it can be read: most are read off a figure.
- **verdict**: the paper's number *agrees* with ours if its range overlaps our interval; otherwise it *disagrees*. The
  paper's own sampling error is unknown in most cases and is not counted, so a narrow disagreement says little.
- **closed form** is the formula in `hf_toedit.collapse`. **As printed** is the paper's own where we found an error in
  it. Both are marked where they lie outside our interval. One in a hundred correct formulas does so by chance,
  more where the interval is too narrow. Rows of a figure share their random numbers, so they may be off together.
"""


def page_text(figures: Sequence[Figure]) -> str:
    papers = {key: [figure for figure in figures if figure.paper == key] for key in PAPERS}
    sections = chain.from_iterable(_section(key, papers[key]) for key in PAPERS if papers[key])
    return "\n".join([HEAD, *_summary([*chain(*papers.values())]), *sections, *_not_run()])


def _summary(figures: Sequence[Figure]) -> Iterator[str]:
    yield "## Summary\n"
    judged = [one for figure in figures for one in figure.comparisons if one.verdict]
    agree = sum(one.verdict == "agrees" for one in judged)
    yield f"Of {len(judged)} numbers in the papers, {agree} agree with ours and {len(judged) - agree} disagree.\n"
    yield from _row(
        "paper", "what", "agree", "disagree", "closed form in the interval", "printed formula in the interval", "time"
    )
    yield "|---|---|---:|---:|---:|---:|---:|"
    for figure in figures:
        verdicts = [one.verdict for one in figure.comparisons]
        yield from _row(
            f"[{PAPERS[figure.paper][0]}, {figure.item}](#{_slug(_title(figure))})",
            figure.title,
            *(str(verdicts.count(verdict) or "") for verdict in ("agrees", "disagrees")),
            _share([one.holds(one.expected) for one in figure.comparisons]),
            _share([one.holds(one.printed) for one in figure.comparisons]),
            f"{figure.seconds:,.0f} s",
        )
    yield ""


def _section(key: Paper, figures: Sequence[Figure]) -> Iterator[str]:
    name, title = PAPERS[key]
    yield f"## {name}\n\n{title}.\n"
    for figure in figures:
        yield f"### {_title(figure)}\n\n{figure.setup}"
        yield f"\nWhat differs from the paper: {figure.differs}\n" if figure.differs else ""
        yield from _table(figure.comparisons)
        yield ""


def _table(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """A row for each comparison; columns that are empty throughout are left out."""
    titles = ("", "paper", "ours", "99% interval", "verdict", "closed form", "as printed")
    rows = [_cells(one) for one in comparisons]
    kept = [i for i in range(len(titles)) if i in (0, 2, 3) or any(row[i] for row in rows)]
    yield from _row(*(titles[i] for i in kept))
    yield "|" + "|".join("---" if titles[i] in ("", "verdict") else "---:" for i in kept) + "|"
    for row in rows:
        yield from _row(*(row[i] for i in kept))


def _cells(one: Comparison) -> list[str]:
    paper = "" if one.paper is None else _number(one.paper)
    if paper and one.tolerance:
        paper += f" ± {_number(abs(one.paper or 0) * one.tolerance)}"
    interval = f"[{_number(one.low)}, {_number(one.high)}]"
    verdict = {"agrees": "agrees", "disagrees": "**disagrees**", None: ""}[one.verdict]
    formulas = (_formula(one, one.expected), _formula(one, one.printed))
    return [one.what, paper, _number(one.ours), interval, verdict, *formulas]


def _formula(one: Comparison, value: float | None) -> str:
    if value is None:
        return ""
    return _number(value) if one.holds(value) else f"{_number(value)}, outside"


def _share(held: Sequence[bool | None]) -> str:
    known = [each for each in held if each is not None]
    return f"{sum(known)} of {len(known)}" if known else ""


def _not_run() -> Iterator[str]:
    yield "## Not run here\n"
    yield from _row("paper", "what", "why")
    yield "|---|---|---|"
    for key, parts in NOT_RUN.items():
        for what, why in parts:
            yield from _row(PAPERS[key][0], what, why)
    yield ""


def _title(figure: Figure) -> str:
    return f"{PAPERS[figure.paper][0]}, {figure.item}: {figure.title}"


def _slug(title: str) -> str:
    """The anchor that Markdown gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    """Four digits, without an exponent where that is readable."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
