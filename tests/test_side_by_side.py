"""Two datasets side by side: figures against `hf_toedit.measure`, and verdicts that flip where the data does."""

from __future__ import annotations

import os

import numpy as np
import pytest
from scipy.stats import binom

from hf_toedit.measure.batches import Batch
from hf_toedit.measure.documents import Document
from hf_toedit.measure.figures import Figure, vocabulary
from hf_toedit.measure.side_by_side import one_side, side_by_side
from hf_toedit.measure.tally import Tally, each_left_out, merged
from hf_toedit.measure.verdicts import verdicts
from hf_toedit.statuses import Status

REPEATS = int(os.environ.get("HF_TOEDIT_REPEATS", "60"))
WORDS = np.array([f"w{number}" for number in range(400)])
SHARE = 1 / np.arange(1, 401)
SHARE /= SHARE.sum()
FREQUENT = {*WORDS[:150]}


def draw(rng, num_rows=200, words=SHARE, mean_nats=2.0):
    """Documents of a population: words by Zipf's law, and documents that the prior likes more and less."""
    rows = []
    for _ in range(num_rows):
        text = rng.choice(WORDS, size=5 + rng.poisson(12), p=words)
        nats_E = rng.exponential(mean_nats * rng.gamma(8, 1 / 8), size=20 + rng.poisson(10))
        nats_E *= rng.random(len(nats_E)) > 0.2  # sure of one in five
        rows.append((text.tolist(), -nats_E))
    return rows


def slightly_changed(rng, rows):
    """Each word of a row changes to another of the population with a probability of one in ten."""
    changed = []
    for words, logprob_E in rows:
        others = rng.choice(WORDS, size=len(words), p=SHARE)
        kept = rng.random(len(words)) > 0.1
        noise_E = np.where(rng.random(len(logprob_E)) > 0.1, logprob_E, -rng.exponential(2.0, len(logprob_E)))
        changed.append((np.where(kept, words, others).tolist(), noise_E))
    return changed


def tally_of(rows, num_compared=None):
    tally = Tally(len(rows), num_compared or len(rows), with_prior=True, with_edits=False)
    tally.add(Batch([Document(" ".join(words), logprob_E=logprob_E) for words, logprob_E in rows]))
    return tally


def compared(a, b, *, paired):
    num_compared = min(len(a), len(b))
    return side_by_side(tally_of(a, num_compared), tally_of(b, num_compared), paired=paired)


def differs(found):
    return {verdict["figure"]: verdict["differs"] for verdict in found["verdicts"]}


def test_without_a_change_there_is_no_verdict():
    rng = np.random.default_rng(0)
    found = compared(draw(rng), draw(rng), paired=False)
    assert set(differs(found).values()) == {None}
    assert all("no " in verdict["text"] and "200 rows" in verdict["text"] for verdict in found["verdicts"])
    rows = draw(rng)
    equal = compared(rows, rows, paired=True)
    assert set(differs(equal).values()) == {None}
    assert {figure["value"] for figure in equal["differences"].values()} == {0}
    assert {end for figure in equal["differences"].values() for end in figure["interval"]} == {0}


def test_a_lost_tail_is_seen_and_a_gained_one_is_its_opposite():
    rng = np.random.default_rng(1)
    a, b = draw(rng, 400), draw(rng, 440)
    edge = np.quantile([-logprob_E.mean() for _, logprob_E in b], 0.93)
    b = [row for row in b if -row[1].mean() <= edge]
    lost, gained = compared(a, b, paired=False), compared(b, a, paired=False)
    assert differs(lost)["tail_mass"] == "less"
    assert differs(gained)["tail_mass"] == "more"
    text = lost["verdicts"][0]["text"]
    share = lost["b"]["figures"]["tail_mass"]["value"]
    assert text.startswith("the tail above perplexity ")
    assert f"has shrunk: from 5.00% to {share:.2%} of documents" in text
    assert {differs(lost)[name] for name in ("vocabulary", "top_share", "js_divergence")} == {None}


def test_a_tail_that_no_row_shows_may_still_be_there():
    """If no row of 200 lies in it, its share can be as high as p, where (1 - p)^200 is 2.5 %."""
    rng = np.random.default_rng(1)
    a, b = draw(rng), [(words, logprob_E / 10) for words, logprob_E in draw(rng)]
    found = compared(a, [*b, (["unscored"], np.empty(0))], paired=False)
    figure = found["b"]["figures"]["tail_mass"]
    assert figure["value"] == figure["interval"][0] == 0
    assert (1 - figure["interval"][1]) ** 200 == pytest.approx(0.025)
    assert differs(found)["tail_mass"] == "less"


def test_concentration_is_seen_and_spread_is_its_opposite():
    rng = np.random.default_rng(2)
    a = draw(rng)
    b = [([word if word in FREQUENT else "w0" for word in words], logprob_E) for words, logprob_E in a]
    for first, second, how in ((a, b, ("more", "less")), (b, a, ("less", "more"))):
        found = differs(compared(first, second, paired=True))
        assert (found["top_share"], found["vocabulary"]) == how
        assert found["js_divergence"] == "shifted"
        assert {found[name] for name in ("tail_mass", "geometric_mean_perplexity", "eligible_rate")} == {None}


def test_pairs_show_what_separate_rows_do_not():
    rng = np.random.default_rng(3)
    a = draw(rng)
    b = [(words, logprob_E * 1.02) for words, logprob_E in a]
    assert differs(compared(a, b, paired=True))["geometric_mean_perplexity"] == "more"
    assert differs(compared(a, b, paired=False))["geometric_mean_perplexity"] is None


def test_the_vocabularies_of_datasets_of_unequal_size_are_compared_at_equal_size():
    rng = np.random.default_rng(4)
    a, b = ([(words * 3, logprob_E) for words, logprob_E in draw(rng, num_rows)] for num_rows in (100, 400))
    found = compared(a, b, paired=False)
    assert found["differences"]["distinct_1"]["interval"][1] < 0  # the larger one repeats its words more often
    assert differs(found)["vocabulary"] is None
    assert found["shift"]["test"]["num_rows"] == 100
    assert differs(found)["js_divergence"] is None


def test_intervals_from_a_sample_are_scaled_to_all_rows(monkeypatch):
    rows = draw(np.random.default_rng(8), 400)
    of_all = one_side(tally_of(rows))["a"]["figures"]
    monkeypatch.setattr("hf_toedit.measure.tally.MOST_RESAMPLED", 100)
    of_sample = one_side(tally_of(rows))["a"]["figures"]
    assert [*tally_of(rows).sampled] == np.linspace(0, 399, 100).round().tolist()
    for name in ("compression_ratio", "eligible_rate", "token_perplexity", "geometric_mean_perplexity"):
        assert of_sample[name]["value"] == of_all[name]["value"]
        low, high = of_sample[name]["interval"]
        assert low < of_all[name]["value"] < high
        assert high - low == pytest.approx(np.ptp(of_all[name]["interval"]), rel=0.35)
    found = compared(rows, rows[:100], paired=False)  # a fourth of A's rows, and all of B's
    for name in ("eligible_rate", "geometric_mean_perplexity"):
        assert np.ptp(found["differences"][name]["interval"]) > np.ptp(found["b"]["figures"][name]["interval"])


def test_the_vocabulary_of_a_part_is_that_of_documents_drawn_at_random():
    rng = np.random.default_rng(9)
    rows = [words * 3 for words, _ in draw(rng, 60)]
    whole = merged(*tally_of([(words, np.array([-1.0])) for words in rows]).groups)
    num_words = sum(map(len, rows))
    distinct = [len({word for row in rng.permutation(60)[:20] for word in rows[row]}) for _ in range(2000)]
    assert vocabulary(whole, num_words // 3) == pytest.approx(np.mean(distinct) / (num_words / 3), rel=0.02)
    assert vocabulary(whole, num_words) == len({word for words in rows for word in words}) / num_words


def test_rows_in_order_are_compared_as_if_they_were_shuffled():
    """The larger dataset begins with other words, and the words of both come round every 32 rows."""
    rng = np.random.default_rng(10)
    score_E = np.array([-1.0])
    mixed = [([f"w{i % 32}", *rng.choice(["x", "y"], 9)], score_E) for i in rng.permutation(96)]
    ordered = [([f"w{i % 32}", *rng.choice(["x", "y"], 9)], score_E) for i in range(384)]
    ordered.sort(key=lambda row: int(row[0][0][1:]) >= 8)
    found = compared(mixed, ordered, paired=False)
    assert differs(found)["js_divergence"] is None
    assert tally_of(ordered, 96).compared_GD.sum() == 96 * (10 + 9)  # words and pairs of as many rows as A has
    periodic = [([f"w{i % 32}", *["x"] * 9], score_E) for i in range(320)]
    shuffled = [periodic[i] for i in rng.permutation(320)]
    widths = [np.ptp(one_side(tally_of(rows))["a"]["figures"]["entropy"]["interval"]) for rows in (periodic, shuffled)]
    assert widths[0] == pytest.approx(widths[1], rel=0.6)


def test_documents_at_the_edge_are_not_above_it():
    rows = [([f"w{i}"], np.array([-2.0])) for i in range(30)]
    figures = compared(rows, rows[:25], paired=False)
    assert figures["a"]["figures"]["tail_mass"]["value"] == figures["b"]["figures"]["tail_mass"]["value"] == 0


@pytest.mark.parametrize(("p_value", "shifted"), [(0.0166, "shifted"), (0.0167, None)])
def test_the_verdicts_share_the_error_of_five_percent(p_value, shifted):
    """Here two figures and the shift: a third of it each."""
    levels = []

    def difference(level):
        levels.append(level)
        return -0.08, -0.02

    names = ("tail_mass", "compression_ratio")
    of_a, of_b = ({name: Figure(value, lambda _: (0, 1)) for name in names} for value in (0.25, 0.2))
    shift = {"js_divergence": 0.2, "expected_by_chance": 0.1, "p_value": p_value}
    differences = {name: Figure(-0.05, difference) for name in names}
    found = list(verdicts(of_a, of_b, differences, shift, 100))
    assert levels == pytest.approx([1 - 0.05 / 3] * 2)
    assert [verdict["differs"] for verdict in found] == ["less", "less", shifted]
    assert found[0]["text"].endswith(" has shrunk: from 25.00% to 20.00% of documents, by 5 [2, 8] points")
    assert found[1]["text"].endswith(": compression ratio from 0.25 to 0.2, by 0.05 [0.02, 0.08]")


def test_all_groups_but_one_are_those_of_brute_force():
    tally = tally_of(draw(np.random.default_rng(5), 40))
    for number, rest in enumerate(each_left_out(tally.groups)):
        expected = merged(*(group for i, group in enumerate(tally.groups) if i != number))
        for part, other in zip(rest.parts(), expected.parts(), strict=True):
            assert part.result() == other.result()


@pytest.mark.parametrize("num_rows", [1, 2, 19])
def test_few_rows_are_too_few_to_tell(num_rows):
    rng = np.random.default_rng(6)
    found = compared(draw(rng, num_rows), draw(rng, num_rows), paired=False)
    assert set(differs(found).values()) == {None}
    assert all("too few rows to tell" in verdict["text"] for verdict in found["verdicts"])
    assert all(np.isnan(figure["interval"]).all() for figure in found["differences"].values())
    found = compared(draw(rng, num_rows), draw(rng, 40), paired=False)
    assert all(np.isnan(figure["interval"]).all() for figure in found["differences"].values())


def test_rows_without_text_or_scores_are_left_out():
    tally = Tally(3, 3, with_prior=True, with_edits=False)
    empty = Document("", Status.EMPTY, scores_status=Status.EMPTY)
    one = Document("one word", logprob_E=np.empty(0))
    tally.add(Batch([empty, one, Document("two words", logprob_E=np.array([-1.0, -2.0]))]))
    figures = one_side(tally)["a"]["figures"]
    assert figures["median_perplexity"]["value"] == pytest.approx(np.exp(1.5))
    assert figures["words_per_document"]["value"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("paired", [False, True])
def test_coverage_and_false_verdicts_of_the_whole(paired):
    """HF_TOEDIT_REPEATS=400 gives finer figures, and prints them with -s."""
    rng = np.random.default_rng(7)
    results = []
    for _ in range(REPEATS):
        origin = draw(rng, 150)
        a = slightly_changed(rng, origin) if paired else origin
        results.append(compared(a, slightly_changed(rng, origin) if paired else draw(rng, 150), paired=paired))
    for part in ("a", "differences"):
        figures = [(found["a"]["figures"] if part == "a" else found[part]) for found in results]
        for name in figures[0]:
            truth = np.mean([figure[name]["value"] for figure in figures]) if part == "a" else 0.0
            ends = [figure[name]["interval"] for figure in figures if not np.isnan(figure[name]["interval"][0])]
            hits = sum(low <= truth <= high for low, high in ends)
            print(f"{'paired' if paired else 'separate'} {part} {name}: {hits}/{len(ends)}")
            assert not ends or binom.ppf(0.0005, len(ends), 0.92) <= hits, name
    false = sum(any(differs(found).values()) for found in results)
    print(f"{'paired' if paired else 'separate'} false verdicts: {false}/{REPEATS}")
    assert false <= binom.ppf(0.9995, REPEATS, 0.07)


@pytest.mark.parametrize(("num_rows", "is_told"), [(199, False), (200, True)])
def test_a_tail_of_fewer_than_ten_rows_has_no_interval(num_rows, is_told):
    rng = np.random.default_rng(5)
    found = compared(draw(rng, num_rows), draw(rng, num_rows), paired=False)
    [verdict] = [verdict for verdict in found["verdicts"] if verdict["figure"] == "tail_mass"]
    assert ("too few rows to tell" in verdict["text"]) is not is_told
