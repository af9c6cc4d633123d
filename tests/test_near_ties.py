"""Near-ties: they hold what rounding turns over, and the margin follows the dtype that the prior computes in."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from conftest import NUM_IDS, breadth, shared_path
from contract import some_requests
from tiny_training import demo_model, some_texts, tokenizer_with_padding
from vllm_server import serving

from hf_toedit import ScoreRequest, Scores, ToEditConfig, TransformersPrior, VLLMServerPrior
from hf_toedit.editing.cells import TokenRow
from hf_toedit.editing.decision import UNCHANGED, change_bound, decide
from hf_toedit.editing.editor import Editor
from hf_toedit.editing.tokenization import Tokenization
from hf_toedit.priors.model_prior import ModelPrior
from hf_toedit.priors.split_model import SplitModel

CONFIGS = [
    ToEditConfig(threshold=0.5),
    ToEditConfig(threshold=0.9),
    ToEditConfig(threshold=0.8, temperature=0.3),
    ToEditConfig(threshold=0.5, temperature=3.0, top_p=0.9),
    ToEditConfig(threshold=0.1, top_p=0.6, top_k=5),
    ToEditConfig(threshold=0.5, exclude_target=True),
    ToEditConfig(threshold=0.9, exclude_target=True, temperature=0.05),
    ToEditConfig(threshold=0.5, temperature=3.0, top_p=0.9, distribution="unigram"),
    ToEditConfig(threshold=0.5, exclude_target=True, distribution="uniform"),
    ToEditConfig(strategy="random", threshold=0.5),
    ToEditConfig(strategy="random", rate=1.0, distribution="prior"),
    ToEditConfig(strategy="drop", drop_below=0.05),
    ToEditConfig(strategy="resample_and_drop", threshold=0.6, drop_below=0.1),
]


def decided(scores, target_E, u_E, visited_E, allowed_EK, config):
    """What `decide` decides. Where new tokens come from elsewhere, that is only whether a token changes."""
    new_E, near_E = decide(scores, target_E, u_E, visited_E, allowed_EK, config)
    return new_E if config.draws_from in ("prior", None) else np.minimum(new_E, 0), near_E


def scores_of(logits_EV, target_E, num_candidates, logit_error):
    """Scores by the definition."""
    logprob_EV = logits_EV - np.logaddexp.reduce(logits_EV, axis=1, keepdims=True)
    ids_EK = np.argsort(-logprob_EV, axis=1, kind="stable")[:, :num_candidates]
    own_E = np.take_along_axis(logprob_EV, target_E[:, None], 1)[:, 0]
    return Scores(own_E, ids_EK, np.take_along_axis(logprob_EV, ids_EK, 1), logit_error)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.strategy}-{config.temperature}")
@pytest.mark.parametrize("logit_error", [0.05, 0.5])
def test_where_there_is_no_near_tie_no_error_within_the_margin_changes_the_outcome(config, logit_error):
    """Every logit moves by up to half of the margin, in 40 ways; the candidates are sorted anew."""
    generator = np.random.default_rng(0)
    size, num_ids = 3000, 12
    logits_EV = generator.normal(scale=2.0, size=(size, num_ids))
    target_E = generator.integers(num_ids, size=size)
    logits_EV[np.arange(size), target_E] += generator.uniform(0, 10, size)
    near_target = generator.random((size, num_ids)) < 0.05  # ties, with the target too
    logits_EV = np.where(near_target, logits_EV[np.arange(size), target_E][:, None], logits_EV)
    u_E, everywhere = generator.random(size), np.ones(size, dtype=bool)
    u_E[::2] *= 10.0 ** -generator.uniform(0, 4, size // 2)  # c is small where p is large
    u_E[:5] = 0.0
    allowed_V = generator.random(num_ids) < (0.8 if config.top_k >= num_ids else 1.1)

    def outcome(logits):
        scores = scores_of(logits, target_E, num_ids, logit_error)
        return decided(scores, target_E, u_E, everywhere, allowed_V[scores.candidate_ids_EK], config)

    own_E, near_E = outcome(logits_EV)
    assert not near_E.all()
    num_different = 0
    for trial in range(40):
        noise_EV = generator.uniform(-0.5, 0.5, logits_EV.shape)
        if trial % 2:
            noise_EV = np.sign(noise_EV) / 2  # as far as it goes
        new_E, _ = outcome(logits_EV + logit_error * noise_EV * (1 - 1e-9))
        num_different += int((new_E != own_E).sum())
        assert not ((new_E != own_E) & ~near_E).any()
    assert num_different > 5


def test_the_margin_is_a_difference_of_log_odds_and_of_neighbours():
    """At p = 0.99, in nats of log p, a margin of 0.1 is a hundred times narrower than at 0.01."""
    config = ToEditConfig(threshold=0.99, exclude_target=True, top_k=3)

    def is_near(log_odds, gap=5.0, u=0.5):
        p = 1 / (1 + math.exp(-log_odds))
        rest = np.array([1.0, math.exp(-gap)])
        rest = np.log(rest / rest.sum() * (1 - p))
        scores = Scores(np.array([math.log(p)]), np.array([[0, 1, 2]]), np.array([[math.log(p), *rest]]), 0.1)
        allowed = np.array([[True, True, True]])
        return bool(decide(scores, np.array([0]), np.array([u]), np.array([True]), allowed, config)[1][0])

    edge = math.log(99)
    assert is_near(edge + 0.099)
    assert is_near(edge - 0.099)
    assert not is_near(edge + 0.101)
    assert not is_near(edge - 0.101)
    assert is_near(edge + 2, gap=0.099, u=0.1)  # which of the two comes first
    assert not is_near(edge + 2, gap=0.101, u=0.1)
    assert not is_near(edge - 2, gap=0.0)  # not eligible: whatever comes first
    share = 1 / (1 + math.exp(-5.0 / 1.5))
    assert is_near(edge + 2, u=share)  # between the two
    assert not is_near(edge + 2, u=share - 0.05)


# a real change of dtype


def sequences(name):
    """Token ids of texts that suit a prior."""
    if name == "demo":
        texts, prior = some_texts(40), "demo"
    else:
        prior = shared_path("models/stories260K")
        texts = shared_path("data/tinystories_sample_cs336.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    tokenizer = TransformersPrior(prior).tokenizer
    return prior, [np.array(ids[:512]) for text in texts if len(ids := tokenizer.encode(text).ids) > 20]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["demo", breadth("stories260K")])
def test_near_ties_hold_what_float32_decides_differently(name, dtype):
    prior, rows = sequences(name)
    requests = [ScoreRequest(ids, np.arange(1, len(ids))) for ids in rows]
    target_E = np.concatenate([ids[1:] for ids in rows])
    may_be_chosen_V = Tokenization(TransformersPrior(prior).tokenizer).is_candidate_V
    parts = {one: TransformersPrior(prior, dtype=one).score(requests, 8) for one in ("float32", dtype)}
    scores = {
        one: Scores(
            np.concatenate([part.logprob_E for part in found]),
            np.concatenate([part.candidate_ids_EK for part in found]),
            np.concatenate([part.candidate_logprob_EK for part in found]),
            found[0].logit_error,
        )
        for one, found in parts.items()
    }
    num_different = num_found = num_near = num_changed = 0
    for config in [ToEditConfig(), *CONFIGS]:
        for seed in range(6):
            u_E = np.random.default_rng(seed).random(len(target_E))
            visited_E = u_E < change_bound(config)
            (own_E, _), (new_E, near_E) = (
                decided(scores[one], target_E, u_E, visited_E, may_be_chosen_V[scores[one].candidate_ids_EK], config)
                for one in ("float32", dtype)
            )
            num_different += int((new_E != own_E).sum())
            num_found += int(((new_E != own_E) & near_E).sum())
            num_near += int(near_E.sum())
            num_changed += int((own_E != UNCHANGED).sum())
    assert num_different > 50
    assert num_found >= (0.95 if dtype == "bfloat16" else 0.9) * num_different
    assert num_near < 1.5 * num_changed


def test_the_count_of_a_row_covers_what_another_dtype_changes(demo):
    """Through the editor: of the tokens that float32 and bfloat16 edit differently, the rows count nearly all."""
    rows = [TokenRow(ids, ids >= 0, ids >= 0) for ids in sequences("demo")[1]]
    low = TransformersPrior("demo", dtype="bfloat16")
    num_different = num_covered = 0
    for seed in range(3):
        config = ToEditConfig(threshold=0.9, exclude_target=seed % 2 == 0, seed=seed)
        ours, theirs = (Editor(prior, config).edit(rows) for prior in (low, demo))
        for one, other in zip(ours, theirs, strict=True):
            different = int((one.value != other.value).sum())
            num_different += different
            num_covered += min(different, one.stats.num_near_ties)
    assert num_different > 20
    assert num_covered >= 0.95 * num_different


# the margin follows the dtype


def error_of(prior):
    [scores] = prior.score(some_requests([20], NUM_IDS), 8)
    return scores.logit_error


def test_scores_tell_the_dtype_that_the_prior_computes_in(demo, tmp_path):
    error = {dtype: error_of(TransformersPrior("demo", dtype=dtype)) for dtype in ("bfloat16", "float16", "float32")}
    assert error["float32"] == error_of(demo) == Scores(np.empty(0), np.empty((0, 1)), np.empty((0, 1))).logit_error
    assert 0.05 < error["bfloat16"] < 1
    assert error["bfloat16"] == pytest.approx(8 * error["float16"], rel=0.05)
    model, tokenizer = demo_model().eval(), tokenizer_with_padding()
    assert error_of(ModelPrior(model, tokenizer)) == error["float32"]
    mixed = ModelPrior(model, tokenizer, autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    assert error_of(mixed) == pytest.approx(error["bfloat16"], rel=0.05)
    for dtype in (torch.float32, torch.bfloat16):
        demo_model().to(dtype).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        models = [{"id": str(tmp_path), "root": str(tmp_path), "max_model_len": 201}]
        with serving(demo, models=models) as (url, _):
            served = error_of(VLLMServerPrior(tmp_path, url))
        assert served == error["float32"] if dtype == torch.float32 else served > 0.05


# models that run whole


def log_odds(logprob):
    return logprob - np.log(-np.expm1(logprob))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_that_runs_whole_in_half_precision_says_how_far_off_it_is(dtype, demo, monkeypatch):
    """The range that the warning names for p = 0.99 is what errors stay within, and no much wider one."""
    requests = [ScoreRequest(ids, np.arange(1, len(ids))) for ids in sequences("demo")[1]]
    own_E = np.concatenate([one.logprob_E for one in demo.score(requests, 8)])
    monkeypatch.setattr(SplitModel, "_adds_up", lambda self, *own: False)
    with pytest.warns(
        UserWarning, match=rf"\(slower\)\. Its logits are rounded to {dtype}, .* dtype='float32'"
    ) as caught:
        found = TransformersPrior("demo", dtype=dtype).score(requests, 8)
    told = re.search(
        r"probability of 0.99 can come out anywhere between (0[.]9\d+) and (0[.]9\d+)", str(caught[0].message)
    )
    low, high = (log_odds(math.log(float(p))) for p in told.groups())
    found_E = np.concatenate([one.logprob_E for one in found])
    likely_E = (own_E > math.log(0.5)) & (own_E < math.log(0.9999))
    error_E = np.abs(log_odds(found_E) - log_odds(own_E))[likely_E]
    assert len(error_E) > 100
    assert (error_E <= (high - low) / 2 * 1.05).mean() > 0.95  # the printed range is rounded
    assert error_E.max() > 0.1 * (high - low)
    assert found[0].logit_error == pytest.approx((high - low) / 2, rel=0.05)


def test_a_model_that_runs_whole_in_float32_only_says_that_it_is_slower(demo, monkeypatch):
    monkeypatch.setattr(SplitModel, "_adds_up", lambda self, *own: False)
    with pytest.warns(UserWarning, match=r"running the whole model \(slower\)$"):
        error = error_of(TransformersPrior("demo"))
    assert error == error_of(demo)
