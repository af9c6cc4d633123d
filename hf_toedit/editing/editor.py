"""The main path of an edit: encode, draw, ask, decide, splice.

Shape suffixes: T tokens of a cell, E visited positions, K candidates, V ids.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Literal

import numpy as np

from ..errors import ConfigError
from ..statuses import Status
from ..types import BoolArray, FloatArray, IntArray, Prior, ScoreRequest, Scores
from .cells import Cell, Text, TokenRow, encode
from .config import SHORTENING, ToEditConfig
from .decision import UNCHANGED, change_bound, decide, is_eligible, random_positions, redraw_at_random
from .draws import draw_key, uniform
from .scoring import ask, is_usable
from .splice import Edit, splice_text
from .stats import TokenStats, probability_histogram
from .threads import ahead, thread_beside
from .tokenization import Tokenization
from .windows import requests_for

StatsMode = Literal["sampled", "full"]
NO_STATS = TokenStats()
PIECE_CHARACTERS = 500_000  # about a tenth of a second of Python and a few seconds of the model


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A cell with one uniform number for each token, and the positions to ask the prior about.

    may_change_T: where the numbers let a token change; full statistics visit other positions, too.
    requests: the windows of the cell that contain visited positions.
    """

    cell: Cell
    u_T: FloatArray
    may_change_T: BoolArray
    visited_E: IntArray
    requests: list[ScoreRequest]


@dataclasses.dataclass(frozen=True)
class Decision:
    """What to do with a cell. status: why it can't be edited, or None. new_T: new ids, UNCHANGED or DELETED."""

    status: Status | None
    new_T: IntArray
    stats: TokenStats


@dataclasses.dataclass(frozen=True)
class Edited:
    """The outcome for a text or a document of ids.

    value: the new text, or the new ids (the same number); the original value, of any type, unless the status is
        `edited`.
    edits: the changes to a text.
    drifted: whether the new text encodes to ids other than those the prior chose.
    key: 16 hex characters, equal if the draws were equal; "" if there were none.
    """

    value: Any
    status: Status
    stats: TokenStats = NO_STATS
    edits: list[Edit] = dataclasses.field(default_factory=list)
    drifted: bool = False
    key: str = ""


class Editor:
    """Edits texts and documents of ids with one prior and one config.

    stats: "sampled" visits only positions that could change, which are a uniform sample; "full" visits all.
    unigram_counts_V: the corpus's token counts, for `strategy="random"` or `distribution="unigram"` to draw from.
    check_ids: whether to skip documents whose ids do not look like those of the prior's tokenizer.
    """

    def __init__(
        self,
        prior: Prior,
        config: ToEditConfig,
        stats: StatsMode = "sampled",
        *,
        unigram_counts_V: IntArray | None = None,
        check_ids: bool = True,
    ) -> None:
        self.prior, self.config, self.stats, self.check_ids = prior, config, stats, check_ids
        self.tokenization = Tokenization(prior.tokenizer)
        self.bound = change_bound(config)
        may_be_chosen_V = self.tokenization.is_candidate_V
        if not config.needs_corpus:
            self.counts_V = may_be_chosen_V.astype(np.int64)
        elif unigram_counts_V is None:
            raise ConfigError("new tokens are drawn from the corpus's counts: call transform.fit(dataset) first")
        else:
            may_be_chosen_V = may_be_chosen_V[: len(unigram_counts_V)]
            self.counts_V = np.where(may_be_chosen_V, unigram_counts_V[: len(may_be_chosen_V)], 0)

    def at_generation(self, generation: int) -> Editor:
        """The same editor, with the draws of another generation."""
        editor = copy.copy(self)
        editor.config = dataclasses.replace(self.config, generation=generation)
        return editor

    def edit(self, sources: Sequence[Text | TokenRow]) -> list[Edited]:
        """One result for each source, in order; what can't be edited passes through with a `skipped:` status.

        While the prior works on one piece, a thread prepares the next one and settles the previous one. The prior
        itself runs in the caller's thread, where an interrupt can reach it.
        """
        pieces = _pieces(sources)
        with thread_beside(len(pieces)) as thread:
            drawn = ahead(thread, (self.draw(self.encode(piece)) for piece in pieces))
            settled: list[Future[list[Edited]]] = []
            for piece in drawn:
                scores = self.ask([cell.requests for cell in piece])
                if settled:
                    settled[-1].result()  # an error in the thread ends the work here, not after all pieces
                settled.append(thread.submit(self.settle, piece, scores))
        return [edited for piece in settled for edited in piece.result()]

    def encode(self, sources: Sequence[Text | TokenRow]) -> list[Cell]:
        """The cells of the sources, in order. One that can't be edited has a status and no tokens."""
        if self.config.strategy in SHORTENING and any(isinstance(s, TokenRow) for s in sources):
            raise ConfigError(f"strategy={self.config.strategy!r} would shorten input_ids: use it on text columns")
        return encode(sources, self.tokenization, self.config.protect, self.check_ids)

    def draw(self, cells: Sequence[Cell]) -> list[Drawn]:
        """One number per token, and the positions to visit: all, those whose number is below the bound, or none.

        With a rate, the place numbers are compared instead, and the bound is the rate.
        """
        visits_all = self.stats == "full" and self.config.needs_prior
        drawn = []
        for cell in cells:
            u_T = self._uniform(cell)
            number_T = u_T if self.config.rate is None else self._uniform(cell, "place")
            may_change_T = cell.scorable_T & (number_T < self.bound)
            visited_E = np.flatnonzero(cell.scorable_T if visits_all else may_change_T)
            drawn.append(Drawn(cell, u_T, may_change_T, visited_E, self.requests_for(cell, visited_E)))
        return drawn

    def requests_for(self, cell: Cell, visited_E: IntArray) -> list[ScoreRequest]:
        """The windows of a cell that contain visited positions."""
        return requests_for(cell.prefix_ids, cell.input_ids_T, visited_E, self.tokenization.prefix_ids, self.prior)

    def ask(self, requests: Sequence[Sequence[ScoreRequest]]) -> list[Scores]:
        """The scores of each cell's visited positions, from its requests. All cells go to the prior together."""
        return ask(self.prior, requests, self.config.top_k)

    def settle(self, drawn: Sequence[Drawn], scores: Sequence[Scores]) -> list[Edited]:
        """Decide and splice."""
        edited = []
        for drawn_cell, its_scores in zip(drawn, scores, strict=True):
            decision = self.decide(drawn_cell, its_scores)
            edited.append(self.splice(drawn_cell.cell, decision))
        return edited

    def decide(self, drawn: Drawn, scores: Scores) -> Decision:
        """Which tokens change, and what they become."""
        cell, visited_E = drawn.cell, drawn.visited_E
        num_tokens = len(cell.input_ids_T)
        new_T = np.full(num_tokens, UNCHANGED, dtype=np.int64)
        if cell.status or not is_usable(scores):
            return Decision(cell.status or Status.NONFINITE, new_T, TokenStats(num_tokens=num_tokens))
        target_E, editable_E, u_E = cell.input_ids_T[visited_E], cell.editable_T[visited_E], drawn.u_T[visited_E]
        may_change_E = editable_E & drawn.may_change_T[visited_E]
        allowed_EK = self.tokenization.lookup(self.tokenization.is_candidate_V, scores.candidate_ids_EK)
        new_T[visited_E], near_E = decide(scores, target_E, u_E, may_change_E, allowed_EK, self.config)
        if self.config.draws_from in ("unigram", "uniform"):
            new_T = self._randomize(cell, np.flatnonzero(new_T != UNCHANGED))
        stats = TokenStats(
            num_tokens=num_tokens,
            num_editable=int(cell.editable_T.sum()),
            num_scorable=int(cell.scorable_T.sum()),
            num_visited=len(visited_E),
            num_visited_eligible=int((is_eligible(scores, self.config) & editable_E).sum()),
            num_changed=int((new_T != UNCHANGED).sum()),
            num_near_ties=int(near_E.sum()),
            logprob_sum=float(scores.logprob_E.sum()),
            histogram=probability_histogram(scores.logprob_E),
        )
        return Decision(None, new_T, stats)

    def splice(self, cell: Cell, decision: Decision) -> Edited:
        """Write the chosen tokens over the old ones, in the text or in the ids."""
        source, stats = cell.source, decision.stats
        key = "" if cell.status else self._key(cell)
        status = decision.status or (Status.LOSSY if cell.is_lossy else None)
        if status or not stats.num_changed:
            return Edited(source.value, status or Status.UNCHANGED, stats, key=key)
        if isinstance(source, TokenRow):
            ids_T = source.input_ids_T.copy()
            ids_T[source.attention_T] = np.where(decision.new_T >= 0, decision.new_T, cell.input_ids_T)
            return Edited(ids_T, Status.EDITED, stats, key=key)
        assert cell.encoded is not None
        spliced = splice_text(
            source.value, cell.encoded, decision.new_T, self.tokenization, source.column, self.config.stable_only
        )
        stats = dataclasses.replace(stats, num_changed=len(spliced.edits))
        status = Status.EDITED if spliced.edits else Status.UNCHANGED
        return Edited(spliced.text, status, stats, spliced.edits, spliced.drifted, key)

    # draws

    def _uniform(self, cell: Cell, stream: str = "resample") -> FloatArray:
        keyed_by = {"seed": self.config.seed, "generation": self.config.generation}
        return uniform(cell.draw_bytes, len(cell.input_ids_T), stream=stream, **keyed_by)

    def _key(self, cell: Cell) -> str:
        return draw_key(cell.draw_bytes, seed=self.config.seed, generation=self.config.generation)[:8].hex()

    def _randomize(self, cell: Cell, chosen_E: IntArray) -> IntArray:
        """New tokens, not from the prior, at the chosen positions or, for `random`, at as many others."""
        if self.config.strategy == "random":
            place_T = self._uniform(cell, "place")
            chosen_E = random_positions(self.config, cell.editable_T, place_T, len(chosen_E))
        return redraw_at_random(chosen_E, cell.input_ids_T, self._uniform(cell, "pick"), self.counts_V)


def _pieces(sources: Sequence[Text | TokenRow]) -> list[Sequence[Text | TokenRow]]:
    """Consecutive sources, grouped into pieces of about PIECE_CHARACTERS characters."""
    sizes = [source.num_characters for source in sources]
    changes = np.flatnonzero(np.diff(np.cumsum(sizes) // PIECE_CHARACTERS)) + 1
    return [sources[start:end] for start, end in itertools.pairwise([0, *changes.tolist(), len(sources)])]
