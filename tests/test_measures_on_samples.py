"""Measures on a sample of texts: self-BLEU, the Vendi score and MAUVE, against brute force and their own libraries."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from conftest import DEMO_FOLDER
from scipy.stats import chisquare

from hf_toedit import ConfigError, PriorError, RowError, StaticPrior, ToEditError, TransformersPrior
from hf_toedit.measure import mauve, self_bleu, text_features, vendi_score, words_of
from hf_toedit.measure.samples import draw_sample

pytest.importorskip("mauve", reason="needs the extra `samples`")
ONE_SIDED = [self_bleu, vendi_score]
NAMES = ["mauve", "mauve_star", "frontier_integral", "frontier_integral_star"]


@pytest.fixture(scope="module")
def texts():
    """Of many lengths, some equal, some of one word, some in other scripts."""
    words = ["the", "cat", "sat", "on", "a", "mat,", "while", "it", "rained", "in", "東京", "and", "Москва", "."]
    rng = np.random.default_rng(1)
    made = [" ".join(rng.choice(words, size)) for size in rng.integers(1, 30, 40)]
    return [*made, *made[:3], "word", "word", "alone"]


@pytest.fixture(scope="module")
def model(demo):
    """A causal model in memory, with its tokenizer."""
    return demo._model.model, demo.tokenizer


# --- the sample


def test_a_sample_is_uniform_and_of_bounded_size():
    counts = np.zeros(12)
    rows = [f"text {i}" for i in range(12)]
    for seed in range(800):
        sample = draw_sample(iter(rows), 4, seed)
        assert len(set(sample.texts)) == sample.counts["num_sampled"] == 4
        assert sample.num_rows == 12
        counts[[int(text.split()[1]) for text in sample.texts]] += 1
    assert chisquare(counts).pvalue > 1e-3


def test_a_sample_of_all_texts_keeps_their_order_and_leaves_out_blank_ones():
    sample = draw_sample(["b", "", "a", " \n", None, "b"], 3)
    assert sample.texts == ["b", "a", "b"]
    assert sample.counts == {
        "num_rows": 6,
        "num_measured": 3,
        "skipped": {"skipped:empty": 2, "skipped:null": 1},
        "num_sampled": 3,
    }


def test_rows_of_any_format_are_sampled():
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a b c"}]
    assert draw_sample([{"messages": chat}]).texts == ["a b c"]
    assert draw_sample({"prompt": ["hi"], "completion": ["a b c"]}).texts == ["a b c"]
    assert draw_sample([{"body": "a b c", "text": "d"}], columns="body").texts == ["a b c"]
    with pytest.raises(RowError, match="give the tokenizer"):
        draw_sample([{"input_ids": [1, 2]}])


@pytest.mark.parametrize("measure", ONE_SIDED)
def test_size_and_seed_of_the_sample_change_the_figures(measure, texts):
    figures = [measure(texts, sample_size=size, seed=seed) for size, seed in ((20, 0), (20, 0), (20, 1), (99, 0))]
    assert figures[0] == figures[1]
    assert figures[0] != figures[2]
    assert [figure["num_sampled"] for figure in figures] == [20, 20, 20, len(texts)]
    assert all(figure["num_rows"] == len(texts) for figure in figures)


# --- self-BLEU


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_self_bleu_is_the_loop_over_the_librarys_sentence_bleu(texts, n):
    from sacrebleu import BLEU

    bleu = BLEU(tokenize="none", smooth_method="floor", max_ngram_order=n, effective_order=True)
    lines = [" ".join(words_of(text)) for text in texts]
    scores = [bleu.sentence_score(line, lines[:i] + lines[i + 1 :]).score for i, line in enumerate(lines)]
    found = self_bleu(texts, n=n)["self_bleu"]
    assert found == pytest.approx(np.mean(scores) / 100, rel=1e-12)
    assert 0 < found < 1


def test_self_bleu_is_that_of_texygen(texts):
    """nltk's, with its first smoothing; for texts that are at least as long as the longest n-gram."""
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    long = [text for text in texts if len(words_of(text)) >= 4]
    words = [words_of(text) for text in long]
    smoothing = bleu.SmoothingFunction().method1
    scores = [
        bleu.sentence_bleu(words[:i] + words[i + 1 :], one, smoothing_function=smoothing) for i, one in enumerate(words)
    ]
    assert self_bleu(long)["self_bleu"] == pytest.approx(np.mean(scores), rel=1e-12)


def test_self_bleu_of_equal_and_of_disjoint_texts():
    assert self_bleu(["a b c d e"] * 5)["self_bleu"] == pytest.approx(1)
    assert self_bleu(["a b c d", "e f g h", "i j k l"])["self_bleu"] == 0


# --- Vendi score


def ngram_kernel(words_of_texts, max_order):
    """The mean of the cosines over n, pair by pair, scaled to a diagonal of one."""
    size = len(words_of_texts)
    K = np.zeros((size, size))
    for n in range(1, max_order + 1):
        bags = [[tuple(words[i : i + n]) for i in range(len(words) - n + 1)] for words in words_of_texts]
        vocabulary = sorted({ngram for bag in bags for ngram in bag})
        X = np.array([[bag.count(ngram) for ngram in vocabulary] for bag in bags], dtype=float).reshape(size, -1)
        norms = np.linalg.norm(X, axis=1, keepdims=True)
        X = X / np.where(norms == 0, 1, norms)
        K += X @ X.T / max_order
    return K / np.sqrt(np.outer(K.diagonal(), K.diagonal()))


def exp_entropy(K):
    values = np.linalg.eigvalsh(K / len(K))
    values = values[values > 0]
    return np.exp(-(values * np.log(values)).sum())


@pytest.mark.parametrize("n", [1, 2, 4, 40])
def test_the_vendi_score_of_ngrams_is_the_exponential_of_the_entropy_of_the_eigenvalues(texts, n):
    K = ngram_kernel([words_of(text) for text in texts], n)
    found = vendi_score(texts, n=n)
    assert found["vendi_score"] == pytest.approx(exp_entropy(K), rel=1e-9)
    assert found["vendi_share"] == found["vendi_score"] / len(texts)
    assert 1 < found["vendi_score"] < len(texts)


def test_the_vendi_score_of_features(texts, demo):
    X = text_features(texts, demo)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    assert vendi_score(texts, demo)["vendi_score"] == pytest.approx(exp_entropy(X @ X.T), rel=1e-9)


def test_the_vendi_score_counts_different_texts(demo):
    assert vendi_score(["a b c d e"] * 5)["vendi_score"] == pytest.approx(1)
    assert vendi_score(["a b", "a b", "c d", "c d", "e f", "e f"])["vendi_score"] == pytest.approx(3)
    assert vendi_score(["a b c d e"] * 5, demo)["vendi_score"] == pytest.approx(1)


# --- features


@pytest.mark.parametrize("in_memory", [False, True])
def test_features_are_those_of_mauves_own_featurizer(texts, demo, model, in_memory):
    from mauve.utils import featurize_tokens_from_model

    tokens = [torch.tensor([demo.tokenizer.encode(text).ids]) for text in texts]
    with torch.no_grad():
        expected = featurize_tokens_from_model(model[0], tokens, batch_size=1).numpy()
    found = text_features(texts, model if in_memory else DEMO_FOLDER)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_features_do_not_depend_on_the_company_and_read_no_further_than_the_window(texts):
    short = TransformersPrior("demo", max_length=8)
    long = ["one two three four five six seven eight nine ten", "one two three four five six seven eight eleven"]
    assert len({tuple(short.tokenizer.encode(text).ids[:8]) for text in long}) == 1
    together = text_features([*texts, *long], short)
    assert np.array_equal(together[-1], together[-2])
    assert np.array_equal(together[-1], text_features(long[:1], short)[0])
    assert not np.array_equal(*text_features(long, "demo"))


def test_features_of_a_prior_without_hidden_states(demo):
    prior = StaticPrior(demo.tokenizer, lambda ids, t: {0: 1.0})
    with pytest.raises(ConfigError, match="StaticPrior gives no hidden states: give a folder"):
        text_features(["text"], prior)


def test_a_model_without_features_is_one_clear_line():
    """One that runs whole gives nothing but logits; one with broken weights gives NaN."""
    prior = TransformersPrior("demo")
    prior._model.is_split = False
    with pytest.raises(PriorError, match="LlamaForCausalLM gives no hidden states apart from its head"):
        text_features(["text"], prior)
    prior._model.is_split = True
    prior._model.model.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(PriorError, match="gives hidden states that aren't finite"):
        text_features(["text"], prior)


# --- MAUVE


def test_mauve_is_the_librarys(texts, human_texts, demo):
    from mauve import compute_mauve

    expected = compute_mauve(
        p_features=text_features(human_texts[:50], demo),
        q_features=text_features(texts, demo),
        num_buckets=7,
        seed=4,
    )
    found = mauve(human_texts[:50], texts, demo, num_buckets=7, seed=4)
    assert {name: found[name] for name in NAMES} == {name: float(getattr(expected, name)) for name in NAMES}
    assert (found["data"]["num_sampled"], found["references"]["num_sampled"]) == (50, len(texts))


def test_mauve_is_1_for_equal_texts_and_low_for_unrelated_ones(human_texts, demo):
    sides = human_texts[:50], [f"{i} * {i + 1} == {i * (i + 1)}" for i in range(50)]
    same, other = mauve(sides[0], sides[0], demo), mauve(*sides, demo)
    assert same["mauve"] == pytest.approx(1)
    assert same["frontier_integral"] == pytest.approx(0, abs=1e-9)
    assert other["mauve"] < 0.1 < 0.5 < other["frontier_integral"]


@pytest.mark.parametrize("texts", [["one"], ["one"] * 30, ["one", "another"] * 16])
def test_mauve_of_equal_histograms_is_1(texts, demo):
    """The library itself says 0.75, and of one text it divides by zero."""
    found = mauve(texts, texts, demo, num_buckets=2)
    assert [found[name] for name in NAMES] == [1, 1, 0, 0]
    longer = mauve(texts, texts * 2, demo, num_buckets=2)
    assert (longer["mauve"], longer["frontier_integral"]) == (1, 0)


# --- little, bad or missing


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_figures_of_nothing_are_nan(texts):
    for figures in (self_bleu(texts), vendi_score(texts)):
        assert math.isnan(next(iter(figures.values())))
        assert (figures["num_rows"], figures["num_sampled"]) == (len(texts), 0)


def test_mauve_of_nothing_is_nan(demo):
    for sides in (([], ["a"]), (["a"], [""]), ([], [])):
        found = mauve(*sides, demo)
        assert all(math.isnan(found[name]) for name in NAMES)
        json.dumps(found)


def test_one_text_is_one_text(demo):
    assert math.isnan(self_bleu(["a b"])["self_bleu"])
    assert [vendi_score(["a b"], model)["vendi_score"] for model in (None, demo)] == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        ("one text", {}, "there is no file or folder .one text."),
        (["a"], {"sample_size": 0}, "sample_size=0 must be"),
        (["a"], {"seed": -1}, "seed=-1 must be"),
        (["a"], {"n": 0}, "n=0 must be"),
    ],
)
@pytest.mark.parametrize("measure", ONE_SIDED)
def test_a_wrong_call_is_one_clear_line(measure, texts, settings, message):
    with pytest.raises(ToEditError, match=message):
        measure(texts, **settings)


@pytest.mark.parametrize(("num_buckets", "message"), [(1, "of at least 2"), (4, "at most 3, the texts of both sides")])
def test_the_texts_fill_the_buckets(num_buckets, message, demo):
    with pytest.raises(ConfigError, match=message):
        mauve(["a", "b"], ["c"], demo, num_buckets=num_buckets)


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("mauve", lambda: mauve(["a"], ["a"], "demo")),
        ("sacrebleu", lambda: self_bleu(["a"])),
        ("vendi_score", lambda: vendi_score(["a"])),
    ],
)
def test_a_missing_library_is_one_clear_line(package, call, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"pip install 'hf-toedit\[samples\]'") as caught:
        call()
    assert package in str(caught.value)


def test_the_libraries_leave_generators_and_threads_alone(texts, demo):
    numpy_state, torch_state, threads = np.random.get_state()[1], torch.get_rng_state(), torch.get_num_threads()
    mauve(texts, texts, demo)
    vendi_score(texts)
    self_bleu(texts)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.get_num_threads() == threads
