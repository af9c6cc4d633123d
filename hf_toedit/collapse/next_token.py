"""The statistical language model of Seddik et al. (arXiv 2404.05090): a discrete distribution for each context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.random import Generator
from typer import Option

from ..errors import ConfigError
from ..types import FloatArray, IntArray
from .categorical import Frequencies, FrequencySetting
from .sum_squares import expected_sum_squares
from .workflows import Workflow

MOST_PROBABILITIES = 10**7  # of one run


@dataclass(frozen=True)
class NextToken(FrequencySetting):
    """The next token after each of vocabulary^context_length contexts (Seddik et al., section 2).

    Rows are counted per context: n is how many rows each context has, and num_real likewise. The true probabilities of
    each context are drawn uniformly from all distributions, separately for each run.

    Measures, means over the contexts: sum_squares, of the probabilities (S in Seddik et al.; 1 after total collapse);
    l1_truth and l1_first, the sums of absolute differences from the true probabilities and from those of generation 1
    (between 0 and 2); collapsed, the share of contexts with a single token left; entropy, in nats; missing, the number
    of lost tokens.
    """

    vocabulary: Annotated[int, Option(help="How many tokens there are.")] = 3
    context_length: Annotated[int, Option(help="How many tokens a context has.")] = 4
    threshold: Annotated[
        float, Option(help="toedit without a share: resample tokens that are at least this probable.")
    ] = 0.99

    def __post_init__(self) -> None:
        if self.vocabulary < 2:
            raise ConfigError(f"vocabulary={self.vocabulary} must be 2 or more")
        if self.context_length < 0:
            raise ConfigError(f"context_length={self.context_length} must be 0 or more")
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold} must be above 0 and at most 1")
        if self.vocabulary ** min(self.context_length + 1, 64) > MOST_PROBABILITIES:
            raise ConfigError(
                f"vocabulary={self.vocabulary} and context_length={self.context_length} give more than "
                f"{MOST_PROBABILITIES:,} probabilities: lower one of them"
            )

    @property
    def contexts(self) -> int:
        return int(self.vocabulary**self.context_length)

    def truth(self, runs: int, num_real: int, rng: Generator) -> Frequencies:
        return Frequencies(rng.dirichlet(np.ones(self.vocabulary), (runs, self.contexts)))

    def expected(self, workflow: Workflow, n: int, num_real: int, generations: int) -> dict[str, FloatArray]:
        expected_G = expected_sum_squares(workflow, n, num_real, generations, S_0=2 / (self.vocabulary + 1))
        return {} if expected_G is None else {"sum_squares": expected_G}

    def edit(
        self, rows: IntArray, model: Frequencies, share: float | None, start: int | None, rng: Generator
    ) -> IntArray:
        """With a share, as in all settings of counts; without, the threshold chooses, as in ToEdit's Algorithm 1.

        A token of probability p at or above the threshold keeps p^2 on average, and the others share the rest, until
        its probability is below the threshold.
        """
        if share is not None:
            return super().edit(rows, model, share, start, rng)
        eligible_RCV = model.probability >= self.threshold
        num_eligible_RC = np.where(eligible_RCV, rows, 0).sum(axis=-1)
        resampled_RCV: IntArray = rng.multinomial(num_eligible_RC, model.probability)
        return np.where(eligible_RCV, 0, rows) + resampled_RCV
