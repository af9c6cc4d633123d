"""`SelectiveLabels.fit`: a share of all tokens of a dataset, as the bar that they reach."""

from __future__ import annotations

import math
import pickle
import warnings
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from conftest import DEMO_FOLDER, breadth, load_tokenizer, shared_path
from datasets import Dataset, DatasetDict
from datasets.fingerprint import Hasher
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import one_line
from tiny_training import (
    equal,
    make_sft_trainer,
    make_trainer,
    some_rows,
    some_texts,
    tiny_model,
    tokenizer_with_padding,
    train,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_toedit import (
    ConfigError,
    LossSelection,
    RowError,
    SelectiveLabels,
    StaticPrior,
    ToEditCallback,
    ToEditWarning,
    summarize_selection,
)
from hf_toedit.editing.excess import ExcessCounts

TICK = 1e-4  # nats: excesses are compared to four decimals
ERROR = 1e-4  # nats: the models of float32 and their copies of float64 may differ by this

pytestmark = pytest.mark.usefixtures("fast_collection")


# against brute force


def perturbed(model, noise):
    """A copy of a model, with noise on its weights."""
    torch.manual_seed(0)
    other = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += noise * parameter.std().nan_to_num() * torch.randn_like(parameter)
    return other


def stories():
    text = shared_path("data/tinystories_sample_cs336.txt").read_text(encoding="utf-8")
    return [part.strip()[:300] for part in text.split("<|endoftext|>") if part.strip()]


@pytest.fixture(scope="module", params=["demo", breadth("stories260K")])
def models(request):
    """A reference, its base, rows of their tokenizer, and the excess of each row's tokens in float64."""
    is_demo = request.param == "demo"
    folder = DEMO_FOLDER if is_demo else shared_path("models/stories260K")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = some_texts(12) if is_demo else stories()
    rows = Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in texts])
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    base = perturbed(reference, 0.1)
    exact = [pickle.loads(pickle.dumps(model)).double() for model in (reference, base)]
    excess = [np.subtract(*(logprobs(model, row["input_ids"]) for model in exact)) for row in rows]
    return (reference, tokenizer), (base, tokenizer), rows, excess


def logprobs(model, ids):
    """log P(x_t | x_<t) for t = 1, 2, ...: the full softmax over all logits."""
    with torch.no_grad():
        logits_TV = model(torch.tensor([ids])).logits[0]
    return logits_TV.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_the_kept_tokens_are_the_top_share_of_all(share, models):
    reference, base, rows, excess = models
    labels = SelectiveLabels(reference, base=base, share=share, tokenizer=reference[1]).fit(rows)
    out = rows.map(labels, batched=True, batch_size=3)
    every = np.concatenate(excess)
    number = math.ceil(share * len(every))
    kept = np.concatenate([np.array(row["labels"][1:]) != -100 for row in out])
    lowest = np.sort(every)[::-1][number - 1]
    near = np.abs(every - lowest) < TICK + ERROR
    assert near.sum() < 0.02 * len(every) + 2
    assert (kept == (every >= lowest))[~near].all()
    assert abs(kept.sum() - number) <= near.sum()
    assert labels.select == LossSelection(min_excess=labels.select.min_excess)
    rates = [row["num_kept"] / row["num_scored"] for row in out["selection"]]
    assert max(rates) - min(rates) > 0.05  # not a share of each row


@example([[2, 1, 1]], 0.5)
@example([[2, 2], [1]], 0.001)
@given(
    st.lists(st.lists(st.integers(-12, 12), max_size=6), min_size=1, max_size=5).filter(any),
    st.sampled_from([0.001, 0.07, 0.29, 0.5, 0.6, 0.7, 0.95, 1.0]),
)
def test_the_bar_keeps_a_share_as_near_as_it_can(rows, share):
    """Of all bars that some value reaches, however many are equal; of two as near, the lower one."""
    counts = ExcessCounts()
    for row in rows:
        counts.update(np.array(row, dtype=float) / 1000)
    every = [value / 1000 for row in rows for value in row]
    wanted = -(-round(1000 * share) * len(every) // 1000)
    bar, num_kept = counts.bar(share)
    found = [value >= bar for value in every]
    numbers = {sum(other >= value for other in every) for value in every}
    assert sum(found) == num_kept == min(numbers, key=lambda number: (abs(number - wanted), -number))
    assert counts.total == len(every)


def test_values_on_both_sides_of_an_edge_are_kept_as_they_are_counted():
    rng = np.random.default_rng(0)
    edges = (rng.integers(-9999, 9999, 1000) + 0.5) * TICK
    near = [np.nextafter(edges, side) for side in (-np.inf, np.inf)]
    values = np.concatenate([edges, *near, np.round(rng.normal(size=1000), 5)])  # the last also between two edges
    counts = ExcessCounts()
    for part in np.array_split(values, 7):
        counts.update(part)
    for share in np.arange(1, 100) / 100:
        bar, num_kept = counts.bar(float(share))
        assert abs(num_kept - share * 4000) <= 3
        assert (values >= bar).sum() == num_kept


# what it takes


@pytest.fixture(scope="module")
def two_priors():
    """A reference and a base that disagree."""
    model, tokenizer = tiny_model().eval(), tokenizer_with_padding()
    return {"prior": (perturbed(model, 3.0), tokenizer), "base": (model, tokenizer)}


def labels_of(two_priors, **fields):
    return SelectiveLabels(**two_priors, **{"share": 0.6, "tokenizer": tokenizer_with_padding(), **fields})


FORMS = {
    "stream": lambda ds: ds.to_iterable_dataset(),
    "splits": lambda ds: DatasetDict(train=ds.select(range(5)), test=ds.select(range(5, 12))),
    "backwards": lambda ds: ds.select(range(12)[::-1]),
    "rows": lambda ds: list(ds),
    "a generator": lambda ds: (row for row in ds),
    "a batch": lambda ds: ds[:],
    "numpy": lambda ds: ds.with_format("numpy"),
    "a table": lambda ds: ds.data.table,
}


def test_every_form_has_the_same_bar(two_priors):
    rows = Dataset.from_dict({**some_rows(mask="labels"), "name": [*map(str, range(12))]})
    bars = [labels_of(two_priors).fit(form(rows)).select.min_excess for form in (*FORMS.values(), lambda ds: ds)]
    assert max(bars) - min(bars) < 1.5 * TICK
    assert labels_of(two_priors).fit(Dataset.from_dict(some_rows())).select.min_excess not in bars


TEMPLATE = "{% for m in messages %}<|endoftext|>{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}"
OF_TEXT = {
    "text": lambda text: {"text": text},
    "pair": lambda text: {"prompt": text[:33], "completion": text[33:]},
    "messages": lambda text: {
        "messages": [{"role": "user", "content": text[:30]}, {"role": "assistant", "content": text[30:]}]
    },
}


@pytest.mark.parametrize("row_of", OF_TEXT.values(), ids=OF_TEXT)
def test_rows_of_text_keep_the_share_that_was_asked_for(row_of, two_priors):
    rows = Dataset.from_list([row_of(text) for text in some_texts()])
    labels = labels_of(two_priors, share=0.3, chat_template=TEMPLATE).fit(rows)
    stats = summarize_selection(rows.map(labels, batched=True))
    assert stats.num_scored > 300
    assert stats.num_kept == pytest.approx(math.ceil(0.3 * stats.num_scored), abs=2)


def test_texts_and_a_packed_row(two_priors):
    texts = list(some_texts(3))
    assert labels_of(two_priors).fit(texts).select == labels_of(two_priors).fit({"text": texts}).select
    ids = some_rows(3)["input_ids"]
    packed = {"input_ids": [[*chain(*ids)]], "seq_lengths": [[*map(len, ids)]]}
    bars = [labels_of(two_priors).fit(rows).select.min_excess for rows in (packed, {"input_ids": ids})]
    assert bars[0] == pytest.approx(bars[1], abs=1.5 * TICK)


def scripted(demo, of_id):
    """Each token has the probability that its id is given, or 0.5."""
    return StaticPrior(demo.tokenizer, lambda ids, t: {int(ids[t]): of_id.get(int(ids[t]), 0.5)})


def test_what_is_not_scored_is_left_out(demo):
    """Rows that can't be read, what is out of the loss, and scores that are no numbers."""
    prior = scripted(demo, {10: 0.9, 11: 0.8, 12: 0.7, 13: 0.6, 7: math.nan})
    labels = SelectiveLabels(prior, base=scripted(demo, {}), share=0.5, tokenizer=demo.tokenizer)
    rows = {
        "input_ids": [None, [], [3, 7, 10], [3, 10, 11, 12, 13], [3, 10, 10, 10], [3]],
        "labels": [None, [], [3, 7, 10], [3, 10, 11, 12, 13], [-100] * 4, [3]],
    }
    labels.fit(rows)
    assert math.log(0.7 / 0.5) < labels.select.min_excess < math.log(0.8 / 0.5)
    out = labels(rows)
    assert out["labels"] == [None, [], [3, 7, 10], [3, 10, 11, -100, -100], [-100] * 4, [3]]
    assert [row["status"] for row in out["selection"]] == [
        *("skipped:null", "skipped:empty", "skipped:nonfinite", "unchanged", "no_labels", "no_labels")
    ]


# what it gives


def test_the_bar_replaces_the_share(two_priors):
    rows = Dataset.from_dict(some_rows())
    labels = labels_of(two_priors, share=0.4)
    before = Hasher.hash(labels)
    assert labels.fingerprint is None  # of a base in memory
    assert labels.fit(rows) is labels
    bar = labels.select.min_excess
    plain = labels_of(two_priors, share=None, min_excess=bar)
    assert labels.select == plain.select == LossSelection(min_excess=bar)
    assert Hasher.hash(labels) not in (before, Hasher.hash(labels_of(two_priors, share=0.4)))
    assert rows.map(labels, batched=True).to_dict() == rows.map(plain, batched=True).to_dict()
    assert repr(labels).endswith(f"min_excess={bar!r})")
    assert len(repr(round(bar, 6))) >= len(repr(bar))  # a number that can be copied into a recipe


def test_the_fingerprint_follows_the_bar():
    rows, labels = {"input_ids": [[5, 6, 7, 8]]}, SelectiveLabels("demo", base="demo", share=0.5)
    before = labels.fingerprint
    with pytest.warns(
        ToEditWarning, match=r"^min_excess=-5e-05 keeps 1 of the tokens, not share=0.5: many have the same"
    ):
        labels.fit(rows)
    assert labels.fingerprint == SelectiveLabels("demo", base="demo", min_excess=-5e-05).fingerprint != before
    assert labels.select.keeps(np.zeros(3), np.zeros(3)).all()


def test_few_tokens_are_no_reason_to_warn(demo):
    priors = scripted(demo, {10: 0.9, 11: 0.8, 12: 0.7}), scripted(demo, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = SelectiveLabels(priors[0], base=priors[1], share=0.1, tokenizer=demo.tokenizer)
        labels.fit({"input_ids": [[3, 10, 11, 12]]})
    assert labels({"input_ids": [3, 10, 11, 12]})["labels"] == [3, 10, -100, -100]


def test_the_other_conditions_stay(two_priors):
    rows = Dataset.from_dict(some_rows())
    bar = labels_of(two_priors).fit(rows).select.min_excess
    for fields, expected in [
        ({"high": 0.9}, {"min_excess": bar, "high": 0.9}),
        ({"min_excess": bar + 1}, {"min_excess": bar + 1}),
        ({"min_excess": bar - 1}, {"min_excess": bar}),
    ]:
        assert labels_of(two_priors, **fields).fit(rows).select == LossSelection(**expected)


@pytest.mark.parametrize("make", [make_trainer, breadth(make_sft_trainer)])
def test_the_callback_trains_with_the_same_bar(make, two_priors, tmp_path):
    rows = some_rows()
    labels = labels_of(two_priors, stats_column=None).fit(Dataset.from_dict(rows))
    make = partial(make, tmp_path, gradient_accumulation_steps=2, per_device_train_batch_size=2)
    offline = train(make(labels(rows)))
    assert equal(offline, train(make(rows, [ToEditCallback(**two_priors, select=labels.select)])))
    assert not equal(offline, train(make(labels_of(two_priors, stats_column=None)(rows))))


# wrong calls


def other_share(demo):
    return SelectiveLabels(demo, base=scripted(demo, {}), share=0.5, tokenizer=demo.tokenizer)


WRONG = {
    "no share": (
        lambda demo: SelectiveLabels(demo, high=0.5).fit([]),
        ConfigError,
        "there is no share for fit to replace .* with share=, such as 0.6",
    ),
    "twice": (lambda demo: other_share(demo).fit([{"input_ids": [5, 6, 7]}] * 2).fit([]), ConfigError, "with share="),
    "a class": (lambda demo: other_share(demo).fit(Dataset), RowError, "or a folder, not the class Dataset"),
    "no rows": (lambda demo: other_share(demo).fit([]), RowError, "fit scored no token of the dataset: it has no rows"),
    "no tokens": (
        lambda demo: other_share(demo).fit([{"input_ids": None}, {"input_ids": None}]),
        RowError,
        r"no token of the dataset: skipped:null \(2 rows\)",
    ),
    "no dataset": (lambda demo: other_share(demo).fit(3), RowError, "a dataset, rows, texts or a folder, not int"),
    "format": (lambda demo: other_share(demo).fit([{"name": "a"}]), RowError, "no text column"),
    "labels": (
        lambda demo: other_share(demo).fit([{"input_ids": [1, 2, 3], "labels": [1, 3, 2]}]),
        RowError,
        "neither its input_ids",
    ),
    "tokenizer": (
        lambda demo: SelectiveLabels(demo, base=StaticPrior(load_tokenizer("gpt2"), lambda ids, t: {}), share=0.5).fit(
            [{"input_ids": [5, 6]}]
        ),
        Exception,
        "tokenizer",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.filterwarnings("ignore:min_excess=:hf_toedit.ToEditWarning")
def test_wrong_calls_are_one_line(call, kind, message, demo):
    with pytest.raises(kind, match=message) as error:
        call(demo)
    one_line(error)


def test_a_fit_that_fails_changes_nothing(demo):
    labels = other_share(demo)
    with pytest.raises(RowError):
        labels.fit([])
    assert labels.select == LossSelection(share=0.5)
