"""The excess of all tokens of a dataset, and the bar that a share of them clears.

Shape suffixes: E scored tokens of a row, N different values.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from ..types import FloatArray
from .selection import DIGITS, number_of

TICKS = 10**DIGITS  # per nat


class ExcessCounts:
    """How many tokens have each excess, to DIGITS decimals.

    The memory depends on the range of the values, at most 10,000 counts for each nat of it, not on their number.
    """

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()  # by the excess in ticks

    def update(self, excess_E: FloatArray) -> None:
        tick_E = np.floor(excess_E * TICKS + 0.5)
        # The product is rounded: compare with the bars themselves, as the selection does.
        tick_E += excess_E >= (tick_E + 0.5) / TICKS
        tick_E -= excess_E < (tick_E - 0.5) / TICKS
        self.counts.update(tick_E.astype(np.int64).tolist())

    @property
    def total(self) -> int:
        return self.counts.total()

    def bar(self, share: float) -> tuple[float, int]:
        """The bar that the ceil(share * total) largest values clear, and the number of values that clear it.

        It lies half a tick below the smallest of them. Equal values clear it or fail together: if only some of the
        smallest belong to the share, whichever brings the number closer; at least one value clears it. The total must
        not be 0.
        """
        tick_N = sorted(self.counts, reverse=True)
        reach_N = np.cumsum([self.counts[tick] for tick in tick_N])
        number = number_of(share, self.total)
        place = int(np.searchsorted(reach_N, number))
        if place and number - reach_N[place - 1] < reach_N[place] - number:
            place -= 1
        return (tick_N[place] - 0.5) / TICKS, int(reach_N[place])
