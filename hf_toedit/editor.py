"""The main path: encode, draw, score, decide, splice.

Shape suffixes: T tokens of a row, E visited positions, K candidates, V ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .config import ToEditConfig
from .errors import ConfigError
from .law import UNCHANGED, change_bound, decide, is_eligible, redraw_at_random
from .protect import protected_spans
from .sampling import uniform
from .splice import Edit, splice_text
from .stats import TokenStats, probability_histogram
from .tokenization import Encoded, Tokenization, byte_offsets
from .types import BoolArray, FloatArray, IntArray, Prior, ScoreRequest, Scores

StatsMode = Literal["sampled", "full"]
NO_STATS = TokenStats()


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
    """What became of a text. `text` is the input itself, of whatever type, unless the status is `edited`."""

    text: Any
    status: str
    edits: list[Edit] = dataclasses.field(default_factory=list)
    stats: TokenStats = NO_STATS
    drifted: bool = False


@dataclasses.dataclass(frozen=True)
class EditedIds:
    """What became of a TokenRow: the new ids, of the same length."""

    input_ids_T: IntArray
    status: str
    stats: TokenStats = NO_STATS


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A text or a row of ids, ready to draw: what its numbers are keyed by, its tokens, and where it may change.

    scorable_T: has context, is in scope and is no special token. editable_T: a scorable token that may be changed.
    """

    key: bytes
    prefix_ids: IntArray
    input_ids_T: IntArray
    scorable_T: BoolArray
    editable_T: BoolArray


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

    def edit_texts(self, texts: Sequence[Any], column: str = "text") -> list[EditedText]:
        """Edit texts. One result per text, in order; what is no text passes through with a `skipped:` status."""
        results: list[EditedText] = [EditedText(text, skip_reason(text)) for text in texts]
        todo = [i for i, result in enumerate(results) if not result.status]
        encoded = self.tokenization.encode([texts[i] for i in todo])
        cells = [self._text_cell(texts[i], row) for i, row in zip(todo, encoded, strict=True)]
        for i, row, decision in zip(todo, encoded, self._decide(cells), strict=True):
            results[i] = self._splice(texts[i], row, decision, column)
        return results

    def edit_ids(self, rows: Sequence[TokenRow]) -> list[EditedIds]:
        """Edit rows of ids in place: same length, padding and context untouched."""
        if self.config.strategy in ("drop", "resample_and_drop"):
            raise ConfigError(f"strategy={self.config.strategy!r} would shorten input_ids: use it on text columns")
        cells = [self._ids_cell(row) for row in rows]
        results = [
            EditedIds(row.input_ids_T, self._mismatch(cell.input_ids_T)) for row, cell in zip(rows, cells, strict=True)
        ]
        todo = [i for i, result in enumerate(results) if not result.status]
        for i, decision in zip(todo, self._decide([cells[i] for i in todo]), strict=True):
            results[i] = self._replace_ids(rows[i], cells[i], decision)
        return results

    # encode

    def _text_cell(self, text: str, encoded: Encoded) -> _Cell:
        tables = self.tokenization
        scorable_T = ~tables.lookup(tables.is_special_V, encoded.input_ids_T)
        if not len(tables.prefix_ids):
            scorable_T[:1] = False
        editable_T = scorable_T & encoded.spliceable_T
        if self.config.protect:
            editable_T &= ~self._protected(text, encoded.start_T, encoded.end_T)
        return _Cell(text.encode(), tables.prefix_ids, encoded.input_ids_T, scorable_T, editable_T)

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

    def _mismatch(self, ids_T: IntArray) -> str:
        """Why ids can't come from the prior's tokenizer, or an empty string."""
        if not self.tokenization.knows(ids_T):
            return "skipped:unknown_token_id"
        if self.check_ids and not self.tokenization.reproduces(ids_T):
            return "skipped:tokenizer_mismatch"
        return ""

    def _protected(self, text: str, start_T: IntArray, end_T: IntArray) -> BoolArray:
        """Tokens that overlap a protected span."""
        byte_of_char = byte_offsets(text)
        depth = np.zeros(int(byte_of_char[-1]) + 1, dtype=np.int64)
        for start, end in protected_spans(text, self.config.protect):
            depth[byte_of_char[start]] += 1
            depth[byte_of_char[end]] -= 1
        covered = np.concatenate([[0], np.cumsum(np.cumsum(depth) > 0)])
        overlaps: BoolArray = covered[end_T] > covered[start_T]
        return overlaps

    # draw, score, decide

    def _decide(self, cells: Sequence[_Cell]) -> list[_Decision]:
        drawn = [self._draw(cell) for cell in cells]
        scores = self._score(cells, [visited_E for _, visited_E in drawn])
        return [
            self._settle(cell, u_T, visited_E, score)
            for cell, (u_T, visited_E), score in zip(cells, drawn, scores, strict=True)
        ]

    def _uniform(self, cell: _Cell, stream: str = "resample") -> FloatArray:
        return uniform(
            cell.key,
            len(cell.input_ids_T),
            seed=self.config.seed,
            generation=self.config.generation,
            stream=stream,
        )

    def _draw(self, cell: _Cell) -> tuple[FloatArray, IntArray]:
        """One number per token, and the positions to visit: all, or those whose number lies below the bound."""
        u_T = self._uniform(cell)
        visited_T = cell.scorable_T if self.stats == "full" else cell.scorable_T & (u_T < self.bound)
        return u_T, np.flatnonzero(visited_T)

    def _score(self, cells: Sequence[_Cell], visited: Sequence[IntArray]) -> list[Scores]:
        """Ask the prior for the visited positions; texts longer than its window in overlapping pieces."""
        requests, owners = [], []
        for i, (cell, visited_E) in enumerate(zip(cells, visited, strict=True)):
            for request in self._requests(cell, visited_E):
                requests.append(request)
                owners.append(i)
        found: list[list[Scores]] = [[] for _ in cells]
        for i, scores in zip(owners, self.prior.score(requests, self.config.top_k) if requests else [], strict=True):
            found[i].append(scores)
        return [_concatenate(parts) for parts in found]

    def _requests(self, cell: _Cell, visited_E: IntArray) -> list[ScoreRequest]:
        """Windows of a cell that hold visited positions, each only up to its last one."""
        requests = []
        num_prefix = len(cell.prefix_ids)
        limit = self.prior.max_length
        capacity = max(2, len(cell.input_ids_T)) if limit is None else limit - num_prefix
        for start, first, end in windows(len(cell.input_ids_T), capacity, self.prior.stride):
            inside = visited_E[slice(*np.searchsorted(visited_E, [first, end]))]
            if len(inside):
                ids = np.concatenate([cell.prefix_ids, cell.input_ids_T[start : inside[-1] + 1]])
                requests.append(ScoreRequest(ids, inside - start + num_prefix))
        return requests

    def _settle(self, cell: _Cell, u_T: FloatArray, visited_E: IntArray, scores: Scores) -> _Decision:
        num_tokens = len(cell.input_ids_T)
        if not np.isfinite(scores.logprob_E).all():
            return _Decision(None, TokenStats(num_tokens=num_tokens))
        target_E, editable_E = cell.input_ids_T[visited_E], cell.editable_T[visited_E]
        # Statistics may have visited more than the law needs: beyond the bound nothing changes.
        may_change_E = editable_E & (u_T[visited_E] < self.bound)
        allowed_EK = self.tokenization.lookup(self.tokenization.is_candidate_V, scores.candidate_ids_EK)
        new_E, num_near_ties = decide(scores, target_E, u_T[visited_E], may_change_E, allowed_EK, self.config)
        new_T = np.full(num_tokens, UNCHANGED, dtype=np.int64)
        new_T[visited_E] = new_E
        if self.config.strategy == "random":
            new_T = self._randomize(cell, int((new_E != UNCHANGED).sum()))
        stats = TokenStats(
            num_tokens=num_tokens,
            num_visited=len(visited_E),
            num_visited_eligible=int((is_eligible(scores, self.config) & editable_E).sum()),
            num_changed=int((new_T != UNCHANGED).sum()),
            num_near_ties=num_near_ties,
            logprob_sum=float(scores.logprob_E.sum()),
            histogram=probability_histogram(scores.logprob_E),
        )
        return _Decision(new_T, stats)

    def _randomize(self, cell: _Cell, num_changes: int) -> IntArray:
        place_T, pick_T = self._uniform(cell, "place"), self._uniform(cell, "pick")
        return redraw_at_random(num_changes, cell.input_ids_T, cell.editable_T, place_T, pick_T, self.unigram_counts_V)

    # splice

    def _splice(self, text: str, encoded: Encoded, decision: _Decision, column: str) -> EditedText:
        if decision.new_T is None:
            return EditedText(text, "skipped:nonfinite", stats=decision.stats)
        if not encoded.exact and not encoded.spliceable_T.any():
            return EditedText(text, "skipped:lossy", stats=decision.stats)
        if not decision.stats.num_changed:
            return EditedText(text, "unchanged", stats=decision.stats)
        spliced = splice_text(text, encoded, decision.new_T, self.tokenization, column, self.config.stable_only)
        stats = dataclasses.replace(decision.stats, num_changed=len(spliced.edits))
        status = "edited" if spliced.edits else "unchanged"
        return EditedText(spliced.text, status, spliced.edits, stats, spliced.drifted)

    def _replace_ids(self, row: TokenRow, cell: _Cell, decision: _Decision) -> EditedIds:
        if decision.new_T is None:
            return EditedIds(row.input_ids_T, "skipped:nonfinite", decision.stats)
        if not decision.stats.num_changed:
            return EditedIds(row.input_ids_T, "unchanged", decision.stats)
        ids = row.input_ids_T.copy()
        ids[row.attention_T] = np.where(decision.new_T >= 0, decision.new_T, cell.input_ids_T)
        return EditedIds(ids, "edited", decision.stats)


def skip_reason(text: Any) -> str:
    """Why a value can't be edited (`skipped:<reason>`), or an empty string."""
    if text is None:
        return "skipped:null"
    if not isinstance(text, str):
        return "skipped:not_text"
    if not text:
        return "skipped:empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "skipped:lone_surrogates"
    return ""


def windows(num_tokens: int, capacity: int, stride: int) -> list[tuple[int, int, int]]:
    """Cut a text into windows `(start, first scored, end)` of at most `capacity` tokens.

    Each token is scored once; beyond the first window it has at least `stride` tokens of context, as far as the
    capacity allows, and at least one.
    """
    if capacity < 2:
        raise ConfigError(f"the prior's window leaves room for {capacity} tokens of text: set a larger max_length")
    context = max(1, min(stride, capacity - 1))
    cuts, first = [(0, 0, min(num_tokens, capacity))], min(num_tokens, capacity)
    while first < num_tokens:
        start = first - context
        end = min(num_tokens, start + capacity)
        cuts.append((start, first, end))
        first = end
    return cuts


def _concatenate(parts: list[Scores]) -> Scores:
    if not parts:
        return Scores(np.empty(0), np.empty((0, 1), dtype=np.int64), np.empty((0, 1)))
    if len(parts) == 1:
        return parts[0]
    fields = [field.name for field in dataclasses.fields(Scores)]
    return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))
