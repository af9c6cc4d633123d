"""Measurements: their figures equal those of brute force, numpy and scipy; shards add up to the whole, to the bit."""

from __future__ import annotations

import gzip
import hashlib
import math
import pickle
import re
import zlib
from collections import Counter
from itertools import pairwise, permutations, product
from pathlib import Path

import numpy as np
import pytest
from conftest import load_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from strategies import one_line, texts

import hf_toedit.measure
from hf_toedit import ConfigError, RowError, StaticPrior, ToEditTransform
from hf_toedit.measure import (
    CompressionRatio,
    DistinctN,
    Document,
    EditProfile,
    NGrams,
    Perplexity,
    TokenProbability,
    WordFrequencies,
    distinct,
    frequencies,
    measure,
    words_of,
)
from hf_toedit.measure.batches import Batch, in_batches
from hf_toedit.measure.edits import kind_of
from hf_toedit.measure.perplexity import RELATIVE_ERROR
from hf_toedit.measure.probability import histogram_figures
from hf_toedit.statuses import Status

OF_TEXT = [NGrams, DistinctN, WordFrequencies, CompressionRatio]
OF_SCORES = [TokenProbability, Perplexity]
KINDS = [*OF_TEXT, *OF_SCORES]
# Table 6 of the paper, in percent of 1,119,960,606 tokens.
TABLE_6 = [34.7, 8.1, 5.4, 4.4, 3.8, 3.6, 3.7, 4.0, 5.2, 27.1]

logprobs = st.lists(st.floats(-40, 0), max_size=8).map(np.array)
documents = st.builds(
    Document,
    text=texts,
    status=st.sampled_from([None, None, None, Status.EMPTY]),
    logprob_E=logprobs,
    scores_status=st.sampled_from([None, None, None, Status.NONFINITE]),
)


def measured(measurement, items):
    for item in items:
        measurement.add(item)
    return measurement


def of_texts(measurement, *items):
    return measured(measurement, map(Document, items))


def of_logprobs(measurement, *items):
    return measured(measurement, [Document("", logprob_E=np.array(item, dtype=float)) for item in items])


def same(a, b):
    """Equal to the last bit, where NaN equals NaN."""
    return repr(a) == repr(b)


# shards


@pytest.mark.parametrize("kind", KINDS)
@given(items=st.lists(documents, max_size=10), random=st.randoms(use_true_random=False))
def test_shards_add_up_to_the_whole_in_any_order(kind, items, random):
    """Whatever rows the shards have, and whatever the order of rows and merges; a shard may come from a pickle."""
    whole = measured(kind(), items)
    shards = [kind() for _ in range(4)]
    for item in random.sample(items, len(items)):
        random.choice(shards).add(item)
    random.shuffle(shards)
    while len(shards) > 1:
        other = shards.pop(random.randrange(len(shards)))
        random.choice(shards).merge(pickle.loads(pickle.dumps(other)))
    assert same(shards[0].result(), whole.result())
    assert whole.result()["num_rows"] == len(items)


@pytest.mark.parametrize("kind", KINDS)
@given(items=st.lists(documents, max_size=10), characters=st.integers(1, 40))
def test_batches_equal_their_rows(kind, items, characters):
    """However long batches are, measurements equal those of one row after the other."""
    batches = [*in_batches(items, characters)]
    assert [document for batch in batches for document in batch.documents] == items
    of_batches = kind()
    for batch in batches:
        of_batches.add_batch(batch)
    assert same(of_batches.result(), measured(kind(), items).result())


@pytest.mark.parametrize(
    ("kind", "good", "bad", "error"),
    [
        (NGrams, Document("a"), Document(None), RowError),
        (Perplexity, Document("a", logprob_E=np.array([-1.0])), Document("a"), ConfigError),
        (EditProfile, Document("a"), Document("a", edit=[]), RowError),
    ],
)
def test_a_batch_with_an_error_is_not_measured_at_all(kind, good, bad, error):
    measurement = kind()
    with pytest.raises(error):
        measurement.add_batch(Batch([good, Document("", Status.EMPTY, scores_status=Status.EMPTY), bad]))
    assert same(measurement.result(), kind().result())


@pytest.mark.parametrize("kind", OF_SCORES)
def test_sums_do_not_depend_on_the_order(kind):
    """As floats they would: (0.1 + 0.2) + 0.3 is not 0.1 + (0.2 + 0.3)."""
    results = {
        repr(of_logprobs(kind(), *([value] for value in order)).result()) for order in permutations([-0.1, -0.2, -0.3])
    }
    assert len(results) == 1


@pytest.mark.parametrize("most", [1, 3, 20])
@given(items=st.lists(texts.map(Document), min_size=1, max_size=8), random=st.randoms(use_true_random=False))
def test_also_where_memory_has_run_out(most, items, random):
    """Words are counted in buckets, and distinct n-grams estimated: which is decided by the rows alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frequencies, "MOST_WORDS", most)
        patch.setattr(frequencies, "NUM_BUCKETS", 64)
        patch.setattr(distinct, "MOST_KEPT", most + 2)
        for kind in (WordFrequencies, DistinctN):
            whole, first, second = measured(kind(), items), kind(), kind()
            for item in random.sample(items, len(items)):
                random.choice([first, second]).add(item)
            assert same(whole.result(), first.merge(second).result())


@pytest.mark.parametrize(
    ("a", "b"), [(NGrams(), NGrams(n=1)), (NGrams(), DistinctN()), (Perplexity(), Perplexity(tails=[2]))]
)
def test_other_settings_do_not_merge(a, b):
    with pytest.raises(ConfigError, match="measure both with the same settings") as error:
        a.merge(b)
    one_line(error)


@pytest.mark.parametrize(
    "call",
    [
        lambda: NGrams(n=0),
        lambda: NGrams(num_buckets=2**32 + 1),
        lambda: NGrams(num_buckets=0),
        lambda: DistinctN(n=0),
        lambda: WordFrequencies(top=1),
        lambda: TokenProbability(threshold=0),
        lambda: Perplexity(tails=[0.5]),
        lambda: Perplexity(tails=[math.nan]),
        lambda: Perplexity().quantile(1.5),
        lambda: Perplexity().tail_mass(0.5),
        lambda: NGrams().shift(NGrams(n=1)),
    ],
)
def test_settings_out_of_range(call):
    with pytest.raises(ConfigError) as error:
        call()
    one_line(error)


# nothing, one, equal rows


@pytest.mark.parametrize("kind", [*KINDS, EditProfile])
def test_of_nothing_all_is_nan_or_zero(kind):
    def check(value):
        if isinstance(value, dict):
            all(map(check, value.values()))
        elif isinstance(value, list):
            all(map(check, value))
        elif isinstance(value, float):
            assert math.isnan(value) or value == 0
        return True

    result = kind().result()
    assert (result["num_rows"], result["num_measured"], result["skipped"]) == (0, 0, {})
    assert check(result)
    shift = NGrams().shift(NGrams())
    assert all(map(math.isnan, shift.values()))
    assert math.isnan(Perplexity().tail_mass(3))


def test_rows_that_could_not_be_read_are_counted():
    items = [Document("", Status.NULL, None, Status.NULL), Document("a", None, None, Status.NONFINITE)]
    assert measured(NGrams(), items).result()["skipped"] == {"skipped:null": 1}
    result = measured(Perplexity(), items).result()
    assert (result["num_rows"], result["num_measured"]) == (2, 0)
    assert result["skipped"] == {"skipped:nonfinite": 1, "skipped:null": 1}


def test_equal_rows():
    """They all have the same perplexity; and the distribution of words does not depend on how many there are."""
    one, many = of_logprobs(Perplexity(), [-1, -2]), of_logprobs(Perplexity(), *[[-1, -2]] * 50)
    assert one.result()["quantiles"] == many.result()["quantiles"]
    assert {*many.result()["quantiles"].values()} == {math.exp(1.5)}
    row = "the cat sat on the mat"
    one, many = of_texts(WordFrequencies(), row).result(), of_texts(WordFrequencies(), *[row] * 50).result()
    assert one["entropy"] == pytest.approx(many["entropy"])
    assert one["zipf_slope"] == pytest.approx(many["zipf_slope"])
    assert of_texts(WordFrequencies(), "one " * 9).result()["entropy"] == 0
    assert of_texts(WordFrequencies(), "one two three four").result()["zipf_slope"] == 0


# what a prior says


@given(st.lists(logprobs, min_size=1, max_size=10), st.floats(0.01, 1))
def test_token_probabilities_by_brute_force(items, threshold):
    result = of_logprobs(TokenProbability(threshold), *items).result()
    logprob_E = np.concatenate(items)
    assert result["num_tokens"] == len(logprob_E)
    if not len(logprob_E):
        return
    p_E = np.exp(logprob_E)
    expected = [int(((p_E * 10 >= i) & ((p_E * 10 < i + 1) | (i == 9))).sum()) for i in range(10)]
    assert result["histogram"] == expected
    assert result["eligible_rate"] == np.mean(logprob_E >= math.log(threshold))
    assert result["shares"] == pytest.approx(np.array(expected) / len(p_E))
    assert result["share_below_0.6"] == pytest.approx(sum(expected[:6]) / len(p_E))
    assert result["u_shape"] == pytest.approx((min(expected[0], expected[9]) - np.mean(expected[1:9])) / len(p_E))
    assert result["mean_logprob"] == pytest.approx(logprob_E.mean())
    assert result["perplexity"] == pytest.approx(math.exp(-logprob_E.mean()))


def test_a_token_at_the_threshold_is_eligible():
    assert of_logprobs(TokenProbability(0.5), [math.log(0.5)]).result()["eligible_rate"] == 1


def test_table_6_of_the_paper():
    """60.0 % of the tokens are below .6, and the ends are fuller than the middle."""
    figures = histogram_figures([round(1000 * share) for share in TABLE_6])
    assert figures["share_below_0.6"] == pytest.approx(0.600, abs=5e-4)
    assert figures["u_shape"] == pytest.approx(0.271 - 0.382 / 8, abs=5e-4)
    assert histogram_figures([100] * 10)["u_shape"] == 0
    assert histogram_figures([0, 0, 0, 0, 5, 5, 0, 0, 0, 0])["u_shape"] < 0
    assert histogram_figures([50, 0, 0, 0, 0, 0, 0, 0, 0, 50])["u_shape"] == 0.5


@given(st.lists(st.lists(st.floats(-30, 0), min_size=1, max_size=4), min_size=1, max_size=30), st.floats(0, 1))
def test_quantiles_are_those_of_numpy_within_the_stated_error(items, level):
    measurement = of_logprobs(Perplexity(tails=[2, 14, 100]), *items)
    perplexities = [math.exp(-math.fsum(item) / len(item)) for item in items]
    assert measurement.quantile(level) == pytest.approx(np.quantile(perplexities, level), rel=RELATIVE_ERROR + 1e-9)
    result = measurement.result()
    assert result["median"] == pytest.approx(np.median(perplexities), rel=RELATIVE_ERROR + 1e-9)
    assert (result["min"], result["max"]) == pytest.approx((min(perplexities), max(perplexities)))
    assert result["geometric_mean"] == pytest.approx(stats.gmean(perplexities))
    for edge, share in result["tail_mass"].items():
        assert share == np.mean(np.array(perplexities) > float(edge))


def test_the_tail_above_any_perplexity():
    """The edge is moved by at most the stated error, down or up."""
    nats = np.linspace(0, math.log(20), 3000)
    measurement, perplexities = of_logprobs(Perplexity(), *([-value] for value in nats)), np.exp(nats)
    for edge in np.linspace(1.1, 19, 50):
        low, high = (np.mean(perplexities > edge * by) for by in (1.0101, 1 / 1.0101))
        assert low <= measurement.tail_mass(edge) <= high
    assert measurement.tail_mass(1) == 1


def test_a_document_without_scored_tokens_has_no_perplexity():
    result = of_logprobs(Perplexity(), [], [-1], []).result()
    assert (result["num_measured"], result["num_unscored"]) == (3, 2)
    assert result["median"] == math.e


def test_perplexities_too_large_for_a_float_are_infinite():
    measurement = of_logprobs(Perplexity(), [-2000], [-1], [-3000])
    result = measurement.result()
    assert (result["median"], result["max"], result["min"]) == (math.inf, math.inf, math.e)
    assert result["tail_mass"] == {"14": 2 / 3, "100": 2 / 3}
    assert of_logprobs(TokenProbability(), [-2000]).result()["perplexity"] == math.inf


# words and n-grams


def dsir_words(text):
    return re.findall(r"\w+|[^\w\s]+", text.lower())


@given(st.text(st.characters(max_codepoint=0x2FF, exclude_characters="İ")))  # whose lower case has a mark
def test_words_are_those_of_dsir_where_there_are_no_marks(text):
    assert words_of(text) == dsir_words(text)


@given(texts)
def test_words_leave_nothing_out_but_space(text):
    assert "".join(words_of(text)) == re.sub(r"\s", "", text.lower())


MARKS, UNSPACED = "\u0301\u0e31\u200c\u200d\ufe0f", "日本ส々"


def words_by_hand(text):
    """One character after the other: marks join a word, and a character of an unspaced script is a new one."""
    words, last = [], "space"
    for char in text.lower():
        kind = "word" if re.match(r"\w", char) else "space" if char.isspace() else "punctuation"
        kind = "unspaced" if char in UNSPACED else kind
        if char in MARKS and last in ("word", "unspaced"):
            words[-1] += char  # and `last` stays: after a character that stands alone, letters begin a new word
        elif kind == last in ("word", "punctuation"):
            words[-1] += char
        else:
            words += [char] * (kind != "space")
            last = kind
    return words


@given(st.text("aZ9_é " + "!'" + "😀" + MARKS + UNSPACED, max_size=12))
def test_words_by_hand(text):
    assert words_of(text) == words_by_hand(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't panic!", ["don", "'", "t", "panic", "!"]),
        ("日本語 text中文", ["日", "本", "語", "text", "中", "文"]),
        ("葛\U000e0100城", ["葛\U000e0100", "城"]),
        ("한국어 말", ["한국어", "말"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("👩‍👩‍👧😀 ❤️", ["👩‍👩‍👧😀", "❤️"]),
        ("", []),
    ],
)
def test_words_of_other_scripts(text, words):
    assert words_of(text) == words


def dsir_counts(items, num_buckets, n):
    counts = np.zeros(num_buckets, dtype=int)
    for item in items:
        words = dsir_words(item)
        for k in range(1, n + 1):
            for i in range(len(words) - k + 1):
                counts[int(hashlib.sha256(" ".join(words[i : i + k]).encode()).hexdigest(), 16) % num_buckets] += 1
    return counts


@pytest.mark.parametrize(("n", "num_buckets"), [(2, 10_000), (1, 50), (3, 37), (1, 123_457)])
def test_buckets_are_those_of_dsir(human_texts, n, num_buckets):
    items = human_texts[:50]
    measurement = of_texts(NGrams(n, num_buckets), *items)
    expected = dsir_counts(items, num_buckets, n)
    assert np.array_equal(measurement.counts_D, expected)
    result = measurement.result()
    assert (result["num_ngrams"], result["num_used_buckets"]) == (expected.sum(), np.count_nonzero(expected))
    num_top = max(1, num_buckets // 100)
    assert result["top_share"] == pytest.approx(sorted(expected)[::-1][:num_top] @ np.ones(num_top) / expected.sum())


def test_shift_equals_scipy(human_texts):
    a, b = of_texts(NGrams(), *human_texts[:40]), of_texts(NGrams(), *human_texts[40:60])
    p, q = (m.counts_D / m.counts_D.sum() for m in (a, b))
    shift = a.shift(b)
    assert shift["js_divergence"] == pytest.approx(jensenshannon(p, q, base=2) ** 2)
    assert shift["total_variation"] == pytest.approx(np.abs(p - q).sum() / 2)
    assert shift["over_concentration"] == pytest.approx(np.sort(q)[-100:].sum() - np.sort(p)[-100:].sum())
    assert a.shift(b)["js_divergence"] == b.shift(a)["js_divergence"]
    assert a.shift(a) == {"js_divergence": 0, "total_variation": 0, "over_concentration": 0}
    apart = of_texts(NGrams(), "one").shift(of_texts(NGrams(), "two"))
    assert apart == {"js_divergence": 1, "total_variation": 1, "over_concentration": 0}


def test_repetition_is_over_concentration(human_texts):
    a, b = of_texts(NGrams(), *human_texts[:40]), of_texts(NGrams(), *human_texts[:40], *[human_texts[0]] * 40)
    assert a.shift(b)["over_concentration"] > 0.1


# diversity


@given(st.lists(texts, max_size=6))
def test_distinct_n_by_brute_force(items):
    result = of_texts(DistinctN(3), *items).result()
    for n in (1, 2, 3):
        grams = [tuple(w[i : i + n]) for w in map(words_of, items) for i in range(len(w) - n + 1)]
        assert result["num_ngrams"][str(n)] == len(grams)
        assert result["num_distinct"][str(n)] == len({*grams})
        assert result["relative_error"][str(n)] == 0
        if grams:
            assert result["distinct"][str(n)] == len({*grams}) / len(grams)


def test_the_estimate_of_distinct_values_is_within_its_error():
    """200 estimates of 5,000 values from 102 hashes: unbiased, with the stated standard deviation."""
    estimates = []
    for seed in range(200):
        values = distinct.DistinctValues(102)
        hashes = np.random.default_rng(seed).integers(2**64, size=5000, dtype=np.uint64)
        values.add(np.concatenate([hashes, hashes[:2000]]))
        assert not values.is_exact
        estimates.append(values.count())
    assert np.mean(estimates) == pytest.approx(5000, rel=4 * 0.1 / math.sqrt(200))
    assert np.std(estimates) == pytest.approx(500, rel=0.2)


@pytest.mark.parametrize("n", [2, 3])
def test_the_estimate_is_as_good_for_ngrams_of_few_words(n):
    """All n-grams of 40 or 12 words, 50 times, estimated from 52 hashes: unbiased, with the stated deviation."""
    num_words, estimates = {2: 40, 3: 12}[n], []
    for seed in range(50):
        grams = product([f"{seed}w{i}" for i in range(num_words)], repeat=n)
        values = distinct.DistinctValues(52)
        values.add(Batch([Document(" ".join(gram)) for gram in grams]).hashes(n))
        estimates.append(values.count() / num_words**n)
    assert np.mean(estimates) == pytest.approx(1, abs=4 * 50**-0.5 * 50**-0.5)
    assert np.std(estimates) == pytest.approx(50**-0.5, rel=0.4)


@given(st.lists(texts, min_size=1, max_size=6))
def test_entropy_and_slope_equal_scipy(items):
    result = of_texts(WordFrequencies(top=5), *items).result()
    counts = sorted(Counter(word for item in items for word in words_of(item)).values(), reverse=True)
    assert (result["num_words"], result["num_distinct_words"]) == (sum(counts), len(counts))
    if counts:
        assert result["entropy"] == pytest.approx(stats.entropy(counts), abs=1e-12)
    top = counts[:5]
    if len(top) < 2:
        assert math.isnan(result["zipf_slope"])
    else:
        slope = stats.linregress(np.log(range(1, len(top) + 1)), np.log(top)).slope
        assert result["zipf_slope"] == pytest.approx(slope, abs=1e-12)


def test_more_words_than_are_counted_each_by_itself(monkeypatch, human_texts):
    """With buckets to spare, figures hardly change; the memory is that of the buckets."""
    exact = of_texts(WordFrequencies(), *human_texts).result()
    monkeypatch.setattr(frequencies, "MOST_WORDS", 100)
    measurement = of_texts(WordFrequencies(), *human_texts)
    result = measurement.result()
    assert (result["is_exact"], len(measurement.words)) == (False, 0)
    assert result["num_words"] == exact["num_words"]
    assert result["num_distinct_words"] == pytest.approx(exact["num_distinct_words"], rel=1e-3)
    assert result["entropy"] == pytest.approx(exact["entropy"], rel=1e-3)
    assert result["zipf_slope"] == pytest.approx(exact["zipf_slope"], rel=1e-3)


@given(st.lists(texts, max_size=6))
def test_compression_by_zlib_and_gzip(items):
    """A raw stream is that of zlib without 6 bytes, and that of gzip without 18."""
    result = of_texts(CompressionRatio(), *items).result()
    data = [item.encode() for item in items]
    assert result["num_bytes"] == sum(map(len, data))
    assert result["num_compressed_bytes"] == sum(len(zlib.compress(item, 9)) - 6 for item in data)
    assert result["num_compressed_bytes"] == sum(len(gzip.compress(item, 9)) - 18 for item in data)


def test_a_long_text_is_compressed_as_by_gzip(human_texts):
    text = " ".join(human_texts)
    result = of_texts(CompressionRatio(), text).result()
    assert result["num_compressed_bytes"] == len(gzip.compress(text.encode(), 9)) - 18
    assert result["compression_ratio"] == len(text.encode()) / result["num_compressed_bytes"]


def test_repetition_compresses():
    ratios = [of_texts(CompressionRatio(), "the cat sat " * n).result()["compression_ratio"] for n in (1, 10, 100)]
    assert all(a < b for a, b in pairwise(ratios))


# edits


def surely(ids, t):
    """Nearly certain of every token, with one other choice."""
    return {int(ids[t]): 0.995, (int(ids[t]) * 7 + t) % 100 + 260: 0.005}


@pytest.fixture(scope="module")
def transform():
    prior = StaticPrior(load_tokenizer("demo"), surely, max_length=512)
    return ToEditTransform(prior, threshold=0.99, exclude_target=True, protect=["numbers"])


def test_edit_profile_by_brute_force(transform, human_texts):
    batch = transform({"text": [*human_texts[:20], "", None]})
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    result = measure([*rows, {"text": "not edited"}], EditProfile())["edit_profile"]
    structs = [row["toedit"] for row in rows]
    edits = [edit for struct in structs for edit in struct["edits"]]
    assert (result["num_rows"], result["num_not_edited"], len(edits) > 200) == (23, 1, True)
    assert result["statuses"] == {"edited": 20, "skipped:empty": 1, "skipped:null": 1}
    for name in ("num_tokens", "num_visited", "num_visited_eligible", "num_changed"):
        assert result[name] == sum(struct[name] for struct in structs)
    assert result["changed_rate"] == result["num_changed"] / result["num_tokens"]
    assert result["eligible_rate"] == result["num_visited_eligible"] / result["num_visited"]
    assert result["source"]["histogram"] == np.sum([struct["histogram"] for struct in structs], axis=0).tolist()
    assert result["source"]["perplexity"] == pytest.approx(
        math.exp(-sum(struct["logprob_sum"] for struct in structs) / result["num_visited"])
    )
    assert result["edits_per_row"]["mean"] == len(edits) / 22
    assert result["edits_per_row"]["max"] == max(len(struct["edits"]) for struct in structs)
    assert sum(result["edits_per_row"]["counts"].values()) == 22
    parts = Counter(
        10 * edit["start"] // len(text)
        for text, struct in zip(human_texts, structs, strict=False)
        for edit in struct["edits"]
    )
    assert result["positions"] == [parts[part] for part in range(10)]
    assert (result["num_unplaced"], sum(result["replacements"].values())) == (0, len(edits))


def test_edit_profiles_merge(transform, human_texts):
    rows = [transform({"text": text}) for text in human_texts[:12]]
    rows += [{**transform({"text": human_texts[0]}), "text": None}, {"text": "not edited"}]
    parts = [EditProfile().update(rows[i::3]) for i in range(3)]
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert same(merged.result(), EditProfile().update(rows).result())


def test_edits_of_ids_and_of_rows_that_changed_since(transform):
    """A change of an id and of its label is one edit."""
    ids = list(range(300, 340))
    result = EditProfile().update([transform({"input_ids": ids, "labels": ids})]).result()
    assert result["replacements"] == {"id to id": result["num_changed"]}
    assert sum(result["positions"]) == result["edits_per_row"]["max"] == result["num_changed"] > 0
    edited = transform({"text": "The quick brown fox jumps over the lazy dog."})
    result = EditProfile().update([{**edited, "text": None}]).result()
    assert (sum(result["positions"]), result["num_unplaced"]) == (0, result["num_changed"])


def test_structs_of_another_version_are_refused():
    with pytest.raises(RowError, match="edit again with this version") as error:
        EditProfile().update([{"text": "a", "toedit": {"status": "edited"}}])
    one_line(error)
    with pytest.raises(RowError, match="must be a struct, not str: set stats_column=") as error:
        EditProfile().update([{"text": "a", "toedit": "edited"}])
    one_line(error)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "nothing"),
        (" \n", "space"),
        (" word", "word"),
        ("b2b", "word"),
        (" 1999", "number"),
        ("½", "number"),
        ("...", "punctuation"),
        (" 😀", "punctuation"),
        ("word.", "mixed"),
        ("x 1", "mixed"),
        ("日本", "word"),
        ("e\u0301", "word"),
    ],
)
def test_kinds_of_text(text, kind):
    assert kind_of(text) == kind
    assert kind_of(text, "ids") == "id"


def test_public_names_are_there_and_documented():
    """None of them is hidden by a module of the same name."""
    modules = {path.stem for path in Path(hf_toedit.measure.__file__).parent.glob("*.py")}
    for name in hf_toedit.measure.__all__:
        assert name not in modules
        assert getattr(hf_toedit.measure, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        hf_toedit.measure.Nothing  # noqa: B018
