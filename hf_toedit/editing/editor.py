"""The main path: encode, draw, score, decide, splice.

Shape suffixes: T tokens of a row, E visited positions, K candidates, V ids.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import numpy as np

from ..errors import ConfigError
from ..statuses import Status
from ..types import BoolArray, FloatArray, IntArray, Prior, ScoreRequest, Scores
from .config import ToEditConfig
from .decision import UNCHANGED, change_bound, decide, is_eligible, redraw_at_random
from .draws import draw_key, uniform
from .protect import protected_spans
from .scoring import ask, is_usable
from .spans import Span, inside_spans, skip_reason
from .splice import Edit, splice_text
from .stats import TokenStats, probability_histogram
from .tokenization import Encoded, Tokenization, byte_offsets
from .windows import begins_with, join_scores, requests_of

StatsMode = Literal["sampled", "full"]
NO_STATS = TokenStats()
PIECE_CHARACTERS = 500_000  # a tenth of a second of Python, some seconds of a model
CHARACTERS_PER_TOKEN = 4
Row = TypeVar("Row")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class TokenRow:
    """A row that is already tokens. Shape [T] each.

    attention_T: real tokens (padding is left alone). scope_T: tokens that may be edited; the others are context.
    """

    input_ids_T: IntArray
    attention_T: BoolArray
    scope_T: BoolArray


@dataclasses.dataclass(frozen=True)
class EditedText:
    """What became of a text. `text` is the input itself, of whatever type, unless the status is `edited`.

    key: 16 hex characters, equal where the draws were equal; "" where there were none.
    """

    text: Any
    status: Status
    edits: list[Edit] = dataclasses.field(default_factory=list)
    stats: TokenStats = NO_STATS
    drifted: bool = False
    key: str = ""


@dataclasses.dataclass(frozen=True)
class EditedIds:
    """What became of a TokenRow: the new ids, of the same length. key: as of EditedText."""

    input_ids_T: IntArray
    status: Status
    stats: TokenStats = NO_STATS
    key: str = ""


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A text or a row of ids, ready to draw: what its numbers are keyed by, its tokens, and where it may change.

    prefix_ids: what the prior reads in front of a text, and is not of it. scorable_T: has context, is in scope and is
    no special token. editable_T: a scorable token that may be changed. encoded: of a text.
    """

    key: bytes
    prefix_ids: IntArray
    input_ids_T: IntArray
    scorable_T: BoolArray
    editable_T: BoolArray
    encoded: Encoded | None = None


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Rows that the prior is asked about together.

    reasons: why a row can't be edited, or None. cells, u, visited: of the other rows. owners: the cell of each request.
    """

    rows: Sequence[Any]
    reasons: list[Status | None]
    cells: list[_Cell]
    u: list[FloatArray]
    visited: list[IntArray]
    requests: list[ScoreRequest]
    owners: list[int]


@dataclasses.dataclass(frozen=True)
class _Decision:
    """The new id of each token, UNCHANGED or DELETED; None where the prior gave no finite number."""

    new_T: IntArray | None
    stats: TokenStats


class Editor:
    """Edits texts and rows of ids with one prior and one config.

    stats: "sampled" visits only positions that may change, a uniform sample; "full" visits all.
    unigram_counts_V: the corpus' token counts; `strategy="random"` draws from them.
    check_ids: skip rows of ids that do not look like the prior's tokenizer's.
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
        if config.strategy == "random":
            if unigram_counts_V is None:
                raise ConfigError("strategy='random' draws from the corpus' tokens: call transform.fit(dataset) first")
            may_be_chosen = self.tokenization.is_candidate_V[: len(unigram_counts_V)]
            self.unigram_counts_V = np.where(may_be_chosen, unigram_counts_V[: len(may_be_chosen)], 0)

    def edit_texts(
        self,
        texts: Sequence[Any],
        column: str = "text",
        spans: Sequence[Sequence[Span] | None] | None = None,
        templated: Sequence[bool] | None = None,
    ) -> list[EditedText]:
        """Edit texts. One result per text, in order; what is no text passes through with a `skipped:` status.

        spans: of each text, the characters that may be edited, ascending; None for all. Tokens that do not lie wholly
            inside a span are context. Protect rules look at each span by itself.
        templated: of each text, whether a chat template made it; no begin-of-text token is then put in front.
        """

        def prepare(piece: Sequence[tuple[Any, Sequence[Span] | None, bool]]) -> _Piece:
            reasons = [skip_reason(text) for text, _, _ in piece]
            good = [row for row, reason in zip(piece, reasons, strict=True) if not reason]
            encoded = self.tokenization.encode([text for text, _, _ in good])
            cells = [self._text_cell(*row, one) for row, one in zip(good, encoded, strict=True)]
            return self._draw(piece, reasons, cells)

        def finish(piece: _Piece, scores: list[Scores]) -> list[EditedText]:
            decided = iter(zip(piece.cells, self._settle(piece, scores), strict=True))
            return [
                EditedText(text, reason) if reason else self._splice(text, *next(decided), column)
                for (text, _, _), reason in zip(piece.rows, piece.reasons, strict=True)
            ]

        rows = list(zip(texts, spans or [None] * len(texts), templated or [False] * len(texts), strict=True))
        sizes = [len(text) if isinstance(text, str) else 0 for text in texts]
        return overlap(_cut(rows, sizes, PIECE_CHARACTERS), prepare, self._ask, finish)

    def edit_ids(self, rows: Sequence[TokenRow]) -> list[EditedIds]:
        """Edit rows of ids in place: same length, padding and context untouched."""
        if self.config.strategy in ("drop", "resample_and_drop"):
            raise ConfigError(f"strategy={self.config.strategy!r} would shorten input_ids: use it on text columns")

        def prepare(piece: Sequence[TokenRow]) -> _Piece:
            cells = [self._ids_cell(row) for row in piece]
            reasons = [self.mismatch(cell.input_ids_T) for cell in cells]
            return self._draw(piece, reasons, [cell for cell, reason in zip(cells, reasons, strict=True) if not reason])

        def finish(piece: _Piece, scores: list[Scores]) -> list[EditedIds]:
            decided = iter(zip(piece.cells, self._settle(piece, scores), strict=True))
            return [
                EditedIds(row.input_ids_T, reason) if reason else self._replace_ids(row, *next(decided))
                for row, reason in zip(piece.rows, piece.reasons, strict=True)
            ]

        sizes = [CHARACTERS_PER_TOKEN * len(row.input_ids_T) for row in rows]
        return overlap(_cut(rows, sizes, PIECE_CHARACTERS), prepare, self._ask, finish)

    # encode

    def _text_cell(self, text: str, spans: Sequence[Span] | None, templated: bool, encoded: Encoded) -> _Cell:
        tables, ids_T, prefix_ids = self.tokenization, encoded.input_ids_T, self.tokenization.prefix_ids
        if templated or begins_with(ids_T, prefix_ids):
            prefix_ids = prefix_ids[:0]
        scorable_T = ~tables.lookup(tables.is_special_V, ids_T)
        if spans is not None:
            inside_T = inside_spans(text, spans, encoded)
            scorable_T &= inside_T
            encoded = dataclasses.replace(encoded, spliceable_T=encoded.spliceable_T & inside_T)
        if not len(prefix_ids):
            scorable_T[:1] = False
        editable_T = scorable_T & encoded.spliceable_T
        if self.config.protect:
            editable_T &= ~self._protected(text, encoded.start_T, encoded.end_T, spans)
        return _Cell(text.encode(), prefix_ids, ids_T, scorable_T, editable_T, encoded)

    def _ids_cell(self, row: TokenRow) -> _Cell:
        tables = self.tokenization
        ids_T = row.input_ids_T[row.attention_T]
        scorable_T = ~tables.lookup(tables.is_special_V, ids_T) & row.scope_T[row.attention_T]
        scorable_T[:1] = False
        editable_T = scorable_T & tables.lookup(tables.is_candidate_V, ids_T)
        if self.config.protect and tables.knows(ids_T):
            text = tables.join(ids_T).decode("utf-8", "surrogateescape")
            editable_T &= ~self._protected(text, *tables.spans(ids_T))
        return _Cell(ids_T.astype("<i8").tobytes(), np.empty(0, dtype=np.int64), ids_T, scorable_T, editable_T)

    def mismatch(self, ids_T: IntArray) -> Status | None:
        """Why ids can't come from the prior's tokenizer, or None."""
        if not self.tokenization.knows(ids_T):
            return Status.UNKNOWN_TOKEN_ID
        if self.check_ids and not self.tokenization.reproduces(ids_T):
            return Status.TOKENIZER_MISMATCH
        return None

    def _protected(
        self, text: str, start_T: IntArray, end_T: IntArray, spans: Sequence[Span] | None = None
    ) -> BoolArray:
        """Tokens that overlap a stretch that the rules find in the text, or in each of the spans by itself."""
        byte_of_char = byte_offsets(text)
        depth = np.zeros(int(byte_of_char[-1]) + 1, dtype=np.int64)
        for first, last in [(0, len(text))] if spans is None else spans:
            for start, end in protected_spans(text[first:last], self.config.protect):
                depth[byte_of_char[first + start]] += 1
                depth[byte_of_char[first + end]] -= 1
        covered = np.concatenate([[0], np.cumsum(np.cumsum(depth) > 0)])
        overlaps: BoolArray = covered[end_T] > covered[start_T]
        return overlaps

    # draw, score, decide

    def _uniform(self, cell: _Cell, stream: str = "resample") -> FloatArray:
        return uniform(
            cell.key,
            len(cell.input_ids_T),
            seed=self.config.seed,
            generation=self.config.generation,
            stream=stream,
        )

    def _key(self, cell: _Cell) -> str:
        return draw_key(cell.key, seed=self.config.seed, generation=self.config.generation)[:8].hex()

    def _draw(self, rows: Sequence[Any], reasons: list[Status | None], cells: list[_Cell]) -> _Piece:
        """One number per token, the positions to visit (all, or those whose number lies below the bound), the plan."""
        piece = _Piece(rows, reasons, cells, [self._uniform(cell) for cell in cells], [], [], [])
        for i, (cell, u_T) in enumerate(zip(cells, piece.u, strict=True)):
            visited_T = cell.scorable_T if self.stats == "full" else cell.scorable_T & (u_T < self.bound)
            piece.visited.append(np.flatnonzero(visited_T))
            num_prefix = len(cell.prefix_ids)
            sequence_T = np.concatenate([cell.prefix_ids, cell.input_ids_T])
            wanted_E = piece.visited[-1] + num_prefix
            requests = requests_of(sequence_T, wanted_E, self.tokenization.prefix_ids, self.prior)
            piece.requests.extend(requests)
            piece.owners.extend([i] * len(requests))
        return piece

    def _ask(self, piece: _Piece) -> list[Scores]:
        return ask(self.prior, piece.requests, self.config.top_k)

    def _settle(self, piece: _Piece, scores: list[Scores]) -> list[_Decision]:
        """What becomes of each cell, from the scores of its windows."""
        found: list[list[Scores]] = [[] for _ in piece.cells]
        for i, part in zip(piece.owners, scores, strict=True):
            found[i].append(part)
        joined = [join_scores(parts) for parts in found]
        return [self._decide(*parts) for parts in zip(piece.cells, piece.u, piece.visited, joined, strict=True)]

    def _decide(self, cell: _Cell, u_T: FloatArray, visited_E: IntArray, scores: Scores) -> _Decision:
        num_tokens = len(cell.input_ids_T)
        if not is_usable(scores):
            return _Decision(None, TokenStats(num_tokens=num_tokens))
        target_E, editable_E = cell.input_ids_T[visited_E], cell.editable_T[visited_E]
        # Statistics may have visited more than the law needs: beyond the bound nothing changes.
        may_change_E = editable_E & (u_T[visited_E] < self.bound)
        allowed_EK = self.tokenization.lookup(self.tokenization.is_candidate_V, scores.candidate_ids_EK)
        new_E, near_E = decide(scores, target_E, u_T[visited_E], may_change_E, allowed_EK, self.config)
        new_T = np.full(num_tokens, UNCHANGED, dtype=np.int64)
        new_T[visited_E] = new_E
        if self.config.strategy == "random":
            new_T = self._randomize(cell, int((new_E != UNCHANGED).sum()))
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
        return _Decision(new_T, stats)

    def _randomize(self, cell: _Cell, num_changes: int) -> IntArray:
        place_T, pick_T = self._uniform(cell, "place"), self._uniform(cell, "pick")
        return redraw_at_random(num_changes, cell.input_ids_T, cell.editable_T, place_T, pick_T, self.unigram_counts_V)

    # splice

    def _splice(self, text: str, cell: _Cell, decision: _Decision, column: str) -> EditedText:
        encoded, key = cell.encoded, self._key(cell)
        assert encoded is not None
        if decision.new_T is None:
            return EditedText(text, Status.NONFINITE, stats=decision.stats, key=key)
        if not encoded.exact and not encoded.spliceable_T.any():
            return EditedText(text, Status.LOSSY, stats=decision.stats, key=key)
        if not decision.stats.num_changed:
            return EditedText(text, Status.UNCHANGED, stats=decision.stats, key=key)
        spliced = splice_text(text, encoded, decision.new_T, self.tokenization, column, self.config.stable_only)
        stats = dataclasses.replace(decision.stats, num_changed=len(spliced.edits))
        status = Status.EDITED if spliced.edits else Status.UNCHANGED
        return EditedText(spliced.text, status, spliced.edits, stats, spliced.drifted, key)

    def _replace_ids(self, row: TokenRow, cell: _Cell, decision: _Decision) -> EditedIds:
        key = self._key(cell)
        if decision.new_T is None:
            return EditedIds(row.input_ids_T, Status.NONFINITE, decision.stats, key)
        if not decision.stats.num_changed:
            return EditedIds(row.input_ids_T, Status.UNCHANGED, decision.stats, key)
        ids = row.input_ids_T.copy()
        ids[row.attention_T] = np.where(decision.new_T >= 0, decision.new_T, cell.input_ids_T)
        return EditedIds(ids, Status.EDITED, decision.stats, key)


def _cut(rows: Sequence[Row], sizes: Sequence[int], most: int) -> list[Sequence[Row]]:
    """Pieces of neighbouring rows that reach `most` together."""
    ends = np.cumsum(sizes) // most
    starts = [0, *(np.flatnonzero(np.diff(ends)) + 1).tolist(), len(rows)] if len(rows) else [0, 0]
    return [rows[start:end] for start, end in itertools.pairwise(starts)]


def overlap(
    pieces: Sequence[Sequence[Row]],
    prepare: Callable[[Sequence[Row]], _Piece],
    ask: Callable[[_Piece], list[Scores]],
    finish: Callable[[_Piece, list[Scores]], list[Result]],
) -> list[Result]:
    """All results in order. While the prior works, a thread prepares the next piece and finishes the last one.

    The prior works in the caller's thread, where an interrupt reaches it.
    """
    if len(pieces) == 1:
        piece = prepare(pieces[0])
        return finish(piece, ask(piece))
    with ThreadPoolExecutor(1) as thread:
        coming, finished = thread.submit(prepare, pieces[0]), []
        for following in [*pieces[1:], None]:
            piece = coming.result()
            if following is not None:
                coming = thread.submit(prepare, following)
            finished.append(thread.submit(finish, piece, ask(piece)))
        return [result for part in finished for result in part.result()]
