"""Plain verdicts on how two datasets differ, from simultaneous intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from .figures import Figure, Figures
from .intervals import FEWEST_ROWS

CONFIDENCE = 0.95
SHIFT = "distribution of uni- and bigrams"


@dataclasses.dataclass(frozen=True)
class Question:
    """What a figure says about two datasets.

    figure: its name. topic: what it is about. less, more: what the sentence says if the figure is lower, or higher, in
    B. numbers: the rest of the sentence; {both} stands for the two values.
    """

    figure: str
    topic: str
    less: str
    more: str
    numbers: str
    is_share: bool = True

    def shown(self, value: float) -> str:
        return f"{value:.2%}" if self.is_share else f"{value:.4g}"

    def size(self, value: float) -> str:
        """The size of a difference."""
        return f"{abs(value) * 100:.2g}" if self.is_share else f"{abs(value):.2g}"


TAIL = "the tail above perplexity {edge} (A's 95th percentile)"
QUESTIONS = (
    Question("tail_mass", TAIL, f"{TAIL} has shrunk", f"{TAIL} has grown", "{both} of documents"),
    Question(
        "geometric_mean_perplexity",
        "perplexity of documents",
        "documents surprise the prior less",
        "documents surprise the prior more",
        "geometric-mean perplexity {both}",
        is_share=False,
    ),
    Question(
        "eligible_rate",
        "tokens that the prior is almost sure of",
        "tokens that the prior is almost sure of are rarer",
        "tokens that the prior is almost sure of are more frequent",
        "{both}",
    ),
    Question(
        "vocabulary",
        "vocabulary",
        "the vocabulary has shrunk",
        "the vocabulary has grown",
        "distinct words per word {both}",
    ),
    Question(
        "top_share",
        "concentration of n-grams",
        "n-grams are less concentrated",
        "n-grams are more concentrated",
        "their share in the fullest 1% of the buckets {both}",
    ),
    Question(
        "compression_ratio",
        "repetition within documents",
        "documents repeat themselves less",
        "documents repeat themselves more",
        "compression ratio {both}",
        is_share=False,
    ),
)


def verdicts(
    a: Figures, b: Figures, differences: Figures, shift: Mapping[str, float], num_rows: int
) -> Iterator[dict[str, Any]]:
    """A verdict on each question that applies: the figure, how B differs (None: no difference found), and a sentence.

    They hold jointly with CONFIDENCE: each is decided at a level of 1 - (1 - CONFIDENCE) / K (Bonferroni).

    shift: what `shift_test` returns. num_rows: of the smaller dataset.
    """
    asked = [question for question in QUESTIONS if question.figure in differences]
    error = (1 - CONFIDENCE) / (len(asked) + 1)
    edge = f"{a['perplexity_95'].value:.4g}" if "perplexity_95" in a else ""
    for question in asked:
        name = question.figure
        differs, text = _verdict(question, (a[name], b[name], differences[name]), 1 - error, num_rows)
        yield {"figure": question.figure, "differs": differs, "text": text.format(edge=edge)}
    yield {"figure": "js_divergence", **_on_shift(shift, error, num_rows)}


def _verdict(
    question: Question, figures: tuple[Figure, Figure, Figure], level: float, num_rows: int
) -> tuple[str | None, str]:
    """How B differs, and a sentence. figures: of A, of B, and their difference."""
    a, b, difference = figures
    low, high = difference.interval(level)
    values = [question.shown(figure.value) for figure in (a, b)]
    if math.isnan(low):
        return None, f"{question.topic}: too few rows to tell ({question.numbers.format(both=' and '.join(values))})"
    if low <= 0 <= high:
        seen = question.numbers.format(both=" and ".join(values))
        return None, f"{question.topic}: no difference that {num_rows:,} rows could show ({seen})"
    differs, what = ("more", question.more) if low > 0 else ("less", question.less)
    seen = question.numbers.format(both="from {} to {}".format(*values))
    near, far = sorted((abs(low), abs(high)))
    unit = " points" if question.is_share else ""
    ends = f"[{question.size(near)}, {question.size(far)}]"
    return differs, f"{what}: {seen}, by {question.size(difference.value)} {ends}{unit}"


def _on_shift(shift: Mapping[str, float], error: float, num_rows: int) -> dict[str, Any]:
    divergence, chance, p = (shift[name] for name in ("js_divergence", "expected_by_chance", "p_value"))
    seen = f"Jensen-Shannon divergence {divergence:.3g} bits, {chance:.3g} by chance, p = {p:.2g}"
    if math.isnan(p):
        return {"differs": None, "text": f"{SHIFT}: there are no n-grams to compare"}
    if num_rows < FEWEST_ROWS:
        return {"differs": None, "text": f"{SHIFT}: too few rows to tell ({seen})"}
    if p > error:
        return {"differs": None, "text": f"{SHIFT}: no shift that {num_rows:,} rows could show ({seen})"}
    return {"differs": "shifted", "text": f"the {SHIFT} has shifted: {seen}"}
