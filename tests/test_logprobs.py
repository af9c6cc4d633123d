"""score_cells: the log-probabilities of tokens equal those of a full softmax in float64, and those that edits read."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import NUM_IDS
from oracle import Oracle
from strategies import Distribution, tokenization_of, tokenizer_of

from hf_toedit import StaticPrior, ToEditConfig, TransformersPrior
from hf_toedit.editing.cells import Text, TokenRow, encode
from hf_toedit.editing.editor import Editor
from hf_toedit.editing.logprobs import score_cells
from hf_toedit.editing.tokenization import Tokenization
from hf_toedit.statuses import Status


def cells_of(tokenization, *sources):
    return encode(sources, tokenization, (), check_ids=False)


def row(ids, scope=None):
    ids_T = np.array(ids, dtype=np.int64)
    return TokenRow(ids_T, np.ones(len(ids), dtype=bool), np.ones(len(ids), dtype=bool) if scope is None else scope)


@pytest.mark.parametrize("window", [512, 24])
def test_equals_a_full_softmax_in_float64(window, pretrained_folder, familiar_texts):
    """Also where a text is read in several windows."""
    prior = TransformersPrior(pretrained_folder, max_length=window, stride=window // 2)
    oracle = Oracle(pretrained_folder, window, window // 2)
    tokenization = Tokenization(prior.tokenizer)
    texts = [text[:300] for text in familiar_texts]
    scores = score_cells(prior, tokenization, cells_of(tokenization, *map(Text, texts)))
    for text, found in zip(texts, scores, strict=True):
        ids = oracle.encode(text)
        expected_T = oracle.logprobs(ids)[np.arange(len(ids)), ids]
        assert found.status is None
        assert found.positions_E.tolist() == [t for t, i in enumerate(ids) if i not in oracle.special]
        np.testing.assert_allclose(found.logprob_E, expected_T[found.positions_E], atol=1e-4)


def test_equals_what_an_edit_reads(pretrained, familiar_texts):
    """Bit for bit, for texts and for ids; an edit that visits everything adds the same numbers up."""
    editor = Editor(pretrained, ToEditConfig(strategy="none"), "full", check_ids=False)
    texts = [Text(text[:300]) for text in familiar_texts]
    sources = [*texts, *(row(editor.tokenization.encode_ids(text.value)) for text in texts)]
    scores = score_cells(pretrained, editor.tokenization, editor.encode(sources))
    for edited, found in zip(editor.edit(sources), scores, strict=True):
        assert len(found.logprob_E) == edited.stats.num_visited > 10
        assert found.logprob_E.sum() == edited.stats.logprob_sum


def test_only_wanted_tokens_and_what_can_not_be_scored():
    name = "demo"
    prior = StaticPrior(tokenizer_of(name), Distribution(name, target=0.25))
    tokenization = tokenization_of(name)
    ids = tokenization.encode_ids("The quick brown fox jumps over the lazy dog.")
    cells = cells_of(tokenization, row(ids), Text(None), row([NUM_IDS + 5, 1]))
    wanted = [np.array([2, 5]), *[np.empty(0, dtype=np.int64)] * 2]
    first, *others = score_cells(prior, tokenization, cells, wanted)
    assert first.positions_E.tolist() == [2, 5]
    np.testing.assert_allclose(np.exp(first.logprob_E), 0.25)
    assert [found.status for found in others] == [Status.NULL, Status.UNKNOWN_TOKEN_ID]
    assert not any(len(found.positions_E) or len(found.logprob_E) for found in others)


def test_a_cell_without_finite_numbers_has_none():
    name = "demo"
    prior = StaticPrior(tokenizer_of(name), lambda ids, t: {int(ids[t]): float("nan") if len(ids) > 6 else 0.5})
    tokenization = tokenization_of(name)
    cells = cells_of(tokenization, row(range(300, 310)), row(range(300, 305)))
    bad, good = score_cells(prior, tokenization, cells)
    assert (bad.status, len(bad.positions_E)) == (Status.NONFINITE, 0)
    assert (good.status, good.positions_E.tolist()) == (None, [1, 2, 3, 4])
