"""Statistics: the interval covers the dataset's own rate, whatever repeats in it; the rates are of what they say."""

from __future__ import annotations

import dataclasses
import json
from itertools import islice

import numpy as np
import pytest
from conftest import load_tokenizer
from datasets import Dataset
from scipy import stats as scipy_stats

from hf_toedit import StaticPrior, ToEditTransform, summarize
from hf_toedit.editing import draws, stats
from hf_toedit.editing.editor import Edited
from hf_toedit.experiments.docstrings import docstrings, standard_library
from hf_toedit.rows.column import to_struct
from hf_toedit.statuses import Status

VISITED = 0.082  # of all positions, at the paper's settings
NUM_SEEDS = 250
WORDS = "the cat sat on a mat and the dog lay by the door until the rain came over the hill "


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 7), (125, 1000), (1, 10**6)])
def test_the_interval_is_wilsons(successes, trials):
    expected = scipy_stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert stats.wilson_interval(successes / trials, trials) == pytest.approx((expected.low, expected.high), abs=1e-7)


def rows_of(num_rows, num_tokens, rate, concentration=5.0, seed=0):
    """Rows of tokens that are eligible or not; their rates are spread around `rate`, so that rows are unlike."""
    rng = np.random.default_rng(seed)
    rates = rng.beta(rate * concentration, (1 - rate) * concentration, num_rows)
    return [rng.random(rng.integers(num_tokens // 2, num_tokens * 2)) < rate for rate in rates]


DATA = {
    "independent": (rows_of(100, 40, 0.3), [1] * 100),
    "300 equal": (rows_of(1, 200, 0.3), [300]),
    "duplicates": (rows_of(100, 40, 0.3), [1] * 60 + [4] * 30 + [20] * 10),
    "few long": (rows_of(3, 3000, 0.2), [1] * 3),
    "low rates": (rows_of(100, 40, 0.01, 20.0), [1] * 100),
    "low rates, duplicates": (rows_of(100, 40, 0.01, 20.0), [1] * 60 + [4] * 30 + [20] * 10),
    "one text is most of it": ([*rows_of(99, 60, 0.01), *rows_of(1, 60, 0.5, 50.0)], [1] * 99 + [200]),
}


def sampled(rows, times, seed, visited=VISITED):
    """The statistics of these rows, each so many times over, from the draws of one seed."""
    structs = []
    for i, (eligible_T, copies) in enumerate(zip(rows, times, strict=True)):
        keyed = {"seed": seed, "generation": 0}
        visited_T = draws.uniform(str(i).encode(), len(eligible_T), **keyed) < visited
        counts = {
            "num_scorable": len(eligible_T),
            "num_visited": int(visited_T.sum()),
            "num_visited_eligible": int((visited_T & eligible_T).sum()),
        }
        tokens = stats.TokenStats(num_tokens=len(eligible_T), **counts)
        cell = Edited(None, Status.UNCHANGED, tokens, key=draws.draw_key(str(i).encode(), **keyed)[:8].hex())
        structs += [to_struct([cell], {})] * copies
    return summarize(structs)


@pytest.mark.parametrize("name", DATA)
def test_the_interval_covers_the_datasets_rate(name):
    """In 95% of the seeds, within the binomial error of as many seeds (3 standard errors: 1 test in 740 too low)."""
    rows, times = DATA[name]
    truth = sum(n * row.sum() for row, n in zip(rows, times, strict=True))
    truth /= sum(n * len(row) for row, n in zip(rows, times, strict=True))
    covered = naive = 0
    for seed in range(NUM_SEEDS):
        summary = sampled(rows, times, seed)
        low, high = summary.eligible_interval
        covered += low <= truth <= high
        low, high = stats.wilson_interval(summary.eligible_rate, summary.tokens.num_visited)
        naive += low <= truth <= high
    error = 3 * np.sqrt(0.95 * 0.05 / NUM_SEEDS)
    assert covered / NUM_SEEDS >= 0.95 - error
    if max(times) == 1:  # nothing repeats: as wide as it must be, and no wider
        assert covered / NUM_SEEDS <= 0.95 + error
    else:  # as if all visited tokens were drawn independently
        assert naive / NUM_SEEDS < 0.9


def test_the_interval_closes_as_all_is_visited():
    rows, times = rows_of(50, 60, 0.3), [1] * 40 + [20] * 10
    widths = []
    for visited in (0.05, 0.3, 0.9, 1.0):
        low, high = sampled(rows, times, 0, visited).eligible_interval
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(0, abs=1e-12)


def test_equal_texts_are_one_draw_in_every_interval(demo):
    """The whole way, with the prior: 40 seeds of one text 50 times over."""
    text = next(islice(docstrings(standard_library()), 33, None))["text"][:400]
    full = summarize(ToEditTransform(demo, threshold=0.4, strategy="none", stats="full")({"text": [text]})["toedit"])
    assert full.eligible_interval == pytest.approx((full.eligible_rate, full.eligible_rate))
    assert 0.05 < full.eligible_rate < 0.95
    transform = ToEditTransform(demo, threshold=0.4)
    covered = 0
    for seed in range(40):
        transform.editor.config = dataclasses.replace(transform.config, seed=seed)
        [struct] = transform({"text": [text]})["toedit"]
        summary = summarize([struct] * 50)
        assert transform({"text": [text] * 2})["toedit"] == [struct] * 2
        assert summary.num_independent == pytest.approx(summarize([struct]).num_independent)
        low, high = summary.eligible_interval
        covered += low <= full.eligible_rate <= high
    assert covered >= scipy_stats.binom.ppf(0.001, 40, 0.95)


def test_cells_are_keyed_as_their_draws_are(demo):
    """Each column edited by itself has its own key; text and ids, seeds and generations are told apart."""
    rows = {"a": ["one text", "other text"], "b": ["a text of both", "a text of both"]}
    structs = ToEditTransform(demo, columns=["a", "b"], threshold=0.3, stats="full")(rows)["toedit"]
    keys = [[cell["key"] for cell in struct["cells"]] for struct in structs]
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] == keys[1][1]
    for struct in structs:
        for name in stats.CELL_COUNTS:
            assert sum(cell[name] for cell in struct["cells"]) == struct[name]
    others = [{"seed": 1}, {"generation": 1}, {"seed": 0}]
    found = [ToEditTransform(demo, **fields)({"text": "one text"})["toedit"]["cells"][0]["key"] for fields in others]
    assert len({*found}) == 3
    assert found[-1] == keys[0][0]
    assert ToEditTransform(demo, stats="full")({"text": ""})["toedit"]["cells"] == []


def test_columns_that_repeat_beside_columns_that_do_not(demo):
    """300 questions that are all the same, 300 answers that are not: the questions count once."""
    texts = [row["text"][:200] for row in islice(docstrings(standard_library()), 40, 60)]
    questions = ["What does this function do, and what does it return? Answer in a sentence or two."] * len(texts)
    transform = ToEditTransform(demo, columns=["question", "answer"], threshold=0.4)
    both = summarize(transform({"question": questions, "answer": texts})["toedit"])
    answers = summarize(ToEditTransform(demo, columns="answer", threshold=0.4)({"answer": texts})["toedit"])
    assert both.num_independent < answers.num_independent
    assert both.tokens.num_visited > answers.tokens.num_visited


def test_editable_tokens_are_counted(demo):
    """The prompt is no editable token, nor is what a rule protects; a rate for each denominator."""
    tokenizer = load_tokenizer("demo")
    prior = StaticPrior(tokenizer, lambda ids, t: {int(ids[t]): 0.999, 300: 0.001})
    row = {"prompt": WORDS * 5 + "\n", "completion": WORDS + "12345"}
    summary = summarize([ToEditTransform(prior, exclude_target=True)(row)["toedit"]])
    tokens, alone = summary.tokens, len(tokenizer.encode(WORDS + "12345", add_special_tokens=False).ids)
    assert abs(tokens.num_editable - alone) <= 1
    assert tokens.num_editable == tokens.num_scorable == tokens.num_visited
    assert summary.editable_rate == tokens.num_editable / tokens.num_tokens
    assert summary.changed_rate == tokens.num_changed / tokens.num_tokens
    assert summary.editable_changed_rate == tokens.num_changed / tokens.num_editable > 4 * summary.changed_rate
    protected = summarize([ToEditTransform(prior, exclude_target=True, protect=["numbers"])(row)["toedit"]]).tokens
    assert 0 < protected.num_editable < tokens.num_editable
    assert protected.num_scorable == tokens.num_scorable
    ids = {"input_ids": list(range(300, 320)), "completion_mask": [0] * 12 + [1] * 8}
    transform = ToEditTransform(prior, tokenizer=tokenizer, stats="full")
    assert transform(ids)["toedit"]["num_editable"] == 8


def test_the_interval_and_the_rates_are_in_json(demo):
    text = next(islice(docstrings(standard_library()), 33, None))["text"][:400]
    summary = summarize(Dataset.from_dict({"text": [text]}).map(ToEditTransform(demo, threshold=0.3))["toedit"])
    written = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    assert written["eligible_interval"] == list(summary.eligible_interval)
    assert written["eligible_interval"][0] < summary.eligible_rate < written["eligible_interval"][1]
    assert written["editable_rate"] == summary.editable_rate
    assert written["editable_changed_rate"] == summary.editable_changed_rate
    nothing = summarize([]).to_dict()
    assert nothing["eligible_interval"] is nothing["editable_rate"] is None
    assert {field.name for field in dataclasses.fields(stats.TokenStats)} <= nothing.keys()
