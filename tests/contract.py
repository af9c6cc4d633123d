"""What every prior keeps to. Called on a prior by the tests of each kind."""

from __future__ import annotations

import numpy as np

from hf_toedit import ScoreRequest

WINDOW = 512


def some_requests(lengths, num_ids, seed=0):
    """Random tokens, with 40 % of their positions."""
    generator = np.random.default_rng(seed)
    requests = []
    for length in lengths:
        positions = np.flatnonzero(generator.random(length - 1) < 0.4) + 1
        requests.append(ScoreRequest(generator.integers(1, num_ids, length), positions))
    return requests


def largest_difference(found, expected):
    """Of target and candidate log-probabilities."""
    return max(
        np.abs(getattr(one, name) - getattr(other, name)).max(initial=0.0)
        for one, other in zip(found, expected, strict=True)
        for name in ("logprob_E", "candidate_logprob_EK")
    )


def check_contract(prior, *, tolerance=0.0, sums_to_one=True):
    """tolerance: how far scores may differ between batches. sums_to_one: the scores cover the vocabulary."""
    num_ids = prior.tokenizer.get_vocab_size()
    assert prior.score([], 8) == []
    check_shapes(prior, num_ids)
    check_values(prior, num_ids, tolerance)
    check_batches(prior, num_ids, tolerance)
    if sums_to_one:
        [scores] = prior.score(some_requests([30], num_ids), num_ids + 5)
        assert scores.candidate_ids_EK.shape[1] >= num_ids  # K = min(top_k, V)
        np.testing.assert_allclose(np.exp(scores.candidate_logprob_EK).sum(axis=1), 1.0, atol=1e-4)


def check_shapes(prior, num_ids):
    """One Scores per request, in order and of its length, up to the exact window; nothing for no positions."""
    longest = prior.max_length or WINDOW
    requests = some_requests([40, 3, longest, 17, 2], num_ids)
    requests.append(ScoreRequest(np.array([7, 8]), np.array([], dtype=np.int64)))
    requests.append(ScoreRequest(np.array([7]), np.array([], dtype=np.int64)))
    requests.append(ScoreRequest(requests[2].input_ids, np.arange(1, longest)))
    before = [request.input_ids.copy() for request in requests]
    for request, ids, scores in zip(requests, before, prior.score(requests, 8), strict=True):
        size = len(request.positions)
        assert scores.logprob_E.shape == (size,)
        assert scores.candidate_ids_EK.shape == scores.candidate_logprob_EK.shape == (size, 8)
        assert scores.logprob_E.dtype == scores.candidate_logprob_EK.dtype == np.float64
        assert scores.candidate_ids_EK.dtype == np.int64
        assert (scores.logprob_E < 0).all()
        assert (np.diff(scores.candidate_logprob_EK, axis=1) <= 0).all()
        np.testing.assert_array_equal(request.input_ids, ids)


def check_values(prior, num_ids, tolerance):
    """The target is scored whether or not it is a candidate, and top_k only cuts the candidates off."""
    requests = some_requests([200], num_ids)
    [wide], [narrow] = prior.score(requests, 8), prior.score(requests, 2)
    assert (narrow.candidate_ids_EK == wide.candidate_ids_EK[:, :2]).mean() > 0.98  # but for ties
    np.testing.assert_allclose(narrow.logprob_E, wide.logprob_E, atol=tolerance)
    targets = requests[0].input_ids[requests[0].positions]
    is_target_EK = wide.candidate_ids_EK == targets[:, None]
    row_E, column_E = np.nonzero(is_target_EK)
    np.testing.assert_allclose(wide.candidate_logprob_EK[row_E, column_E], wide.logprob_E[row_E], atol=1e-9)
    outside_E = ~is_target_EK.any(axis=1)
    assert (wide.logprob_E[outside_E] <= wide.candidate_logprob_EK[outside_E, -1] + 1e-9).all()


def check_batches(prior, num_ids, tolerance):
    """A request's scores do not depend on what else is asked, not even on requests that begin alike."""
    [whole] = some_requests([150], num_ids, seed=1)
    cuts = [whole.positions[whole.positions < end] for end in (60, 100, 150)]
    alike = [ScoreRequest(whole.input_ids[: cut[-1] + 1], cut) for cut in cuts]
    requests = [*alike, *some_requests([40, 3, 17, 100], num_ids, seed=2), whole]
    together = prior.score(requests, 8)
    for request, scores in zip(requests, together, strict=True):
        assert largest_difference(prior.score([request], 8), [scores]) <= tolerance
    for cut, scores in zip(cuts, together, strict=False):
        np.testing.assert_allclose(scores.logprob_E, together[-1].logprob_E[: len(cut)], atol=max(tolerance, 1e-5))
