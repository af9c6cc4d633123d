"""What measurements read: the same of any container, the right part of any format, every token scored once."""

from __future__ import annotations

import json
import math
from itertools import product
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import load_tokenizer
from datasets import Dataset, DatasetDict, IterableDataset
from hypothesis import given
from hypothesis import strategies as st
from jobs import NUM_ROWS, TEXTS, job_of, never
from jobs import FailingPrior as ScriptedPrior
from oracle import Oracle
from strategies import one_line, texts

from hf_toedit import ConfigError, PriorError, RowError, SourceError, StaticPrior, ToEditTransform, TransformersPrior
from hf_toedit.measure import (
    DistinctN,
    EditProfile,
    NGrams,
    Perplexity,
    TokenProbability,
    WordFrequencies,
    containers,
    measure,
    read_documents,
)
from hf_toedit.scale.finish import finish
from hf_toedit.scale.workers import edit_units

ROWS = [*TEXTS[:7], "", None, "word"]
CHAT = [
    {"role": "user", "content": "What is the cat?"},
    {"role": "assistant", "content": "An animal."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


def coin(ids, t):
    """Every token has a probability of 1/2, except that a whole batch of ids above 700 has 1/4."""
    return {int(ids[t]): 0.25 if int(ids[t]) > 700 else 0.5}


@pytest.fixture(scope="module")
def prior():
    return StaticPrior(load_tokenizer("demo"), coin, max_length=64)


def texts_of(data, **options):
    return [document.text for document in read_documents(data, **options)]


# containers


def write_parquet(path, rows=ROWS):
    pq.write_table(pa.table({"text": pa.array(rows, pa.string()), "id": range(len(rows))}), path, row_group_size=4)
    return path


def parts(folder):
    """A folder with two Parquet files of one split."""
    (folder / "data").mkdir(parents=True)
    write_parquet(folder / "data/train-00000-of-00002.parquet", ROWS[:6])
    write_parquet(folder / "data/train-00001-of-00002.parquet", ROWS[6:])
    return folder


def saved(folder):
    Dataset.from_dict({"text": ROWS}).save_to_disk(str(folder))
    return folder


def json_lines(path):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ROWS), encoding="utf-8")
    return str(path)


def stream(known=True):
    data = Dataset.from_dict({"text": ROWS, "id": range(len(ROWS))}).to_iterable_dataset(num_shards=2)
    return data if known else IterableDataset.from_generator(lambda: ({"text": text} for text in ROWS))


CONTAINERS = {
    "texts": lambda folder: ROWS,
    "iterator": lambda folder: iter(ROWS),
    "rows": lambda folder: [{"text": text, "n": 1} for text in ROWS],
    "batch": lambda folder: {"text": ROWS, "id": [*range(len(ROWS))]},
    "dataset": lambda folder: Dataset.from_dict({"text": ROWS, "id": range(len(ROWS))}),
    "indexed dataset": lambda folder: Dataset.from_dict({"text": ROWS[::-1]}).select(range(len(ROWS) - 1, -1, -1)),
    "numpy dataset": lambda folder: Dataset.from_dict({"text": ROWS}).with_format("numpy"),
    "splits": lambda folder: DatasetDict(
        a=Dataset.from_dict({"text": ROWS[:3]}),
        b=Dataset.from_dict({"text": []}),
        c=Dataset.from_dict({"text": ROWS[3:]}),
    ),
    "stream": lambda folder: stream(),
    "unknown stream": lambda folder: stream(known=False),
    "table": lambda folder: pa.table({"text": ROWS}),
    "record batches": lambda folder: pa.table({"text": ROWS}).to_batches(max_chunksize=3),
    "frame": lambda folder: pd.DataFrame({"text": ROWS, "id": range(len(ROWS))}),
    "frame of nullable text": lambda folder: pd.DataFrame({"text": pd.array(ROWS, dtype="string")}),
    "series": lambda folder: pd.Series(ROWS),
    "parquet": lambda folder: write_parquet(folder / "rows.parquet"),
    "folder": lambda folder: parts(folder / "parts"),
    "saved": lambda folder: saved(folder / "saved"),
    "json lines": lambda folder: json_lines(folder / "rows.jsonl"),
    "datasets": lambda folder: [
        Dataset.from_dict({"text": ROWS[:4]}),
        *ROWS[4:6],
        Dataset.from_dict({"text": ROWS[6:]}),
    ],
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_gives_the_same(kind, folder, monkeypatch):
    """Also if they are larger than a batch."""
    monkeypatch.setattr(containers, "BATCH_ROWS", 4)
    expected = measure(ROWS)
    assert expected["ngrams"]["num_rows"] == len(ROWS)
    assert expected["ngrams"]["skipped"] == {"skipped:empty": 1, "skipped:null": 1}
    assert measure(CONTAINERS[kind](folder)) == expected


@pytest.mark.parametrize(
    "data", [[], {"text": []}, Dataset.from_dict({"text": []}), DatasetDict(), pd.DataFrame(), iter(())]
)
def test_nothing_to_read(data):
    result = measure(data, NGrams())["ngrams"]
    assert (result["num_rows"], math.isnan(result["top_share"])) == (0, True)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (3, RowError, "pass a dataset, rows, texts or a folder, not int"),
        (b"text", RowError, "not bytes"),
        ("no such text", SourceError, "there is no file or folder 'no such text': pass texts as a list"),
        ([{"body": "a"}], RowError, "no text column"),
        ({"text": ["a", "b"], "toedit": [None]}, RowError, "differ in length"),
    ],
)
def test_what_can_not_be_read_says_why(data, error, message):
    with pytest.raises(error, match=message) as raised:
        measure(data)
    one_line(raised)


def test_a_broken_file_says_which(folder):
    (folder / "rows.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(SourceError, match=r"can't read '.*rows.parquet'") as error:
        measure(folder / "rows.parquet")
    one_line(error)


def test_values_that_are_not_text_are_counted_one_by_one(prior):
    rows = [{"text": "a b"}, {"text": 3}, {"text": None}, {"text": ""}, {"text": "\ud800"}, {"other": "x"}, 7, ["a"]]
    for scored_by in (None, prior):
        result = measure(rows, NGrams(), prior=scored_by)["ngrams"]
        assert (result["num_rows"], result["num_ngrams"]) == (8, 3)
        assert result["skipped"] == {
            "skipped:empty": 1,
            "skipped:lone_surrogates": 1,
            "skipped:not_text": 3,
            "skipped:null": 2,
        }


@given(st.lists(st.one_of(texts, st.none(), st.integers()), max_size=5))
def test_any_list_of_values_is_measured(items):
    results = measure(items, EditProfile(), *(kind() for kind in (NGrams, DistinctN, WordFrequencies)))
    assert {result["num_rows"] for result in results.values()} == {len(items)}


# a large edit


@pytest.mark.parametrize("is_finished", [False, True])
def test_the_folder_of_a_large_edit(folder, is_finished):
    """While it runs, the units that are done; then all."""
    job = job_of(folder / "out", Dataset.from_dict({"text": TEXTS}), ScriptedPrior(never))
    assert measure(folder / "out", EditProfile())["edit_profile"]["num_rows"] == 0
    to_do = job.to_do()
    edit_units(job, to_do if is_finished else to_do[:2])
    if is_finished:
        finish(job)
    result = measure(folder / "out", EditProfile(), NGrams())
    statuses = result["edit_profile"]["statuses"]
    num_rows = sum(len(pq.read_table(path)) for path in folder.glob("out/**/*.parquet") if "source" not in path.parts)
    assert sum(statuses.values()) == result["ngrams"]["num_rows"] == num_rows
    assert (num_rows == NUM_ROWS) == is_finished
    assert result["edit_profile"]["num_changed"] > num_rows


# formats


FORMATS = [
    ({"text": "a b"}, {}, "a b"),
    ({"content": "a b", "id": 3}, {}, "a b"),
    ({"prompt": "ask ", "completion": "answer"}, {}, "answer"),
    ({"instruction": "ask", "input": "this", "output": "answer"}, {}, "answer"),
    ({"messages": CHAT}, {}, "An animal.\nYes."),
    ({"messages": CHAT}, {"roles": "user"}, "What is the cat?\nSure?"),
    ({"messages": CHAT}, {"roles": ["user", "assistant"]}, "What is the cat?\nAn animal.\nSure?\nYes."),
    ({"conversations": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "answer"}]}, {}, "answer"),
    ({"chosen": "good", "rejected": "bad", "prompt": "ask"}, {"columns": ["chosen", "rejected"]}, "good\nbad"),
    ({"chosen": "good", "rejected": "bad", "prompt": "ask"}, {"columns": "rejected", "context": "prompt"}, "bad"),
    ({"text": "a b", "other": "c"}, {"columns": "other"}, "c"),
]


@pytest.mark.parametrize(("row", "options", "text"), FORMATS)
def test_text_is_what_may_be_edited(row, options, text, prior):
    """With a prior or without, for a row, a batch and a dataset."""
    batch = {name: [value, value] for name, value in row.items()}
    for data, num in ((row, 1), ([row], 1), (batch, 2), (Dataset.from_list([row] * 3), 3)):
        assert texts_of(data, **options) == [text] * num
        assert texts_of(data, prior=prior, **options) == [text] * num


def test_ids_are_read_with_their_tokenizer(prior):
    ids = prior.tokenizer.encode("The cat sat on the mat.", add_special_tokens=False).ids
    mask = [0] * 3 + [1] * (len(ids) - 3)
    row = {"input_ids": ids, "completion_mask": mask}
    expected = prior.tokenizer.decode(ids[3:])
    assert texts_of(row, tokenizer=prior.tokenizer) == texts_of(row, prior=prior) == [expected]
    assert texts_of(Dataset.from_list([row]), prior=prior) == [expected]
    special = min(prior.tokenizer.get_added_tokens_decoder())
    assert texts_of([{"input_ids": [special, *ids, special]}], prior=prior) == ["The cat sat on the mat."]
    with pytest.raises(RowError, match="give the tokenizer that made them") as error:
        measure([row], NGrams())
    one_line(error)
    assert measure([row], EditProfile())["edit_profile"]["num_not_edited"] == 1
    statuses = [
        document.status for document in read_documents([{"input_ids": [10**6]}, {"input_ids": None}], prior=prior)
    ]
    assert statuses == ["skipped:unknown_token_id", "skipped:null"]


def test_a_row_is_measured_whole_or_not_at_all(prior):
    rows = [{"chosen": "good", "rejected": None}]
    assert measure(rows, NGrams(), columns=["chosen", "rejected"])["ngrams"]["skipped"] == {"skipped:null": 1}
    assert measure(rows, Perplexity(), columns=["chosen", "rejected"], prior=prior)["perplexity"]["num_measured"] == 0


# scores


@pytest.mark.parametrize("window", [512, 24])
def test_scores_equal_a_full_softmax_in_float64(window, pretrained_folder, familiar_texts):
    """Of each token, also where a text is read in several windows; in the bins of Table 6, and in perplexities."""
    items = [text[:300] for text in familiar_texts]
    oracle = Oracle(pretrained_folder, window, window // 2)
    expected = []
    for ids in map(oracle.encode, items):
        scorable = [t for t, i in enumerate(ids) if i not in oracle.special and (t or oracle.bos)]
        expected.append(oracle.logprobs(ids)[scorable, [ids[t] for t in scorable]])
    scored = TransformersPrior(pretrained_folder, max_length=window, stride=window // 2)
    found = [document.logprob_E for document in read_documents(items, prior=scored)]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    probability, perplexity = TokenProbability(threshold=0.9), Perplexity()
    result = measure(items, probability, perplexity, prior=scored)
    p = np.exp(np.concatenate(expected))
    np.testing.assert_allclose(
        result["token_probability"]["histogram"], np.histogram(p, np.linspace(0, 1, 11))[0], atol=1
    )
    assert result["token_probability"]["eligible_rate"] == pytest.approx(np.mean(p >= 0.9), abs=1 / len(p))
    perplexities = [math.exp(-logprob.mean()) for logprob in expected]
    assert result["perplexity"]["median"] == pytest.approx(np.median(perplexities), rel=0.0101)
    assert result["perplexity"]["max"] == pytest.approx(max(perplexities), rel=1e-4)


def test_scores_are_those_of_a_full_edit(prior):
    """Of texts, conversations, pairs and ids, the same tokens as `stats="full"` visits."""
    ids = prior.tokenizer.encode(TEXTS[0]).ids
    template = "{% for message in messages %}{{ message.role }} says {{ message.content }}{% endfor %}"
    rows = [
        {"text": TEXTS[0]},
        {"messages": CHAT},
        {"messages": [*CHAT, {"role": "user", "content": TEXTS[2]}]},
        {"prompt": TEXTS[0], "completion": TEXTS[1]},
        {"input_ids": ids, "labels": [-100, *ids[1:]]},
        {"input_ids": ids + ids, "seq_lengths": [len(ids), len(ids)]},
    ]
    for row, roles, chat_template in product(rows, ["assistant", "user"], [None, template]):
        options = {"roles": roles, "chat_template": chat_template}
        struct = ToEditTransform(prior, strategy="none", stats="full", **options)(row)["toedit"]
        [document] = read_documents([row], prior=prior, **options)
        assert len(document.logprob_E) == struct["num_visited"] > 0
        assert document.logprob_E.sum() == pytest.approx(struct["logprob_sum"])


def test_a_template_of_the_prior_is_used():
    """One that rejects the messages leaves them unscored, not unread."""
    template = "{{ raise_exception('no') if messages[0].role == 'user' else messages[0].content }}"
    prior = StaticPrior(load_tokenizer("demo"), coin, max_length=64, chat_template=template)
    rows = [{"messages": CHAT}, {"messages": CHAT[1:2]}]
    result = measure(rows, NGrams(), Perplexity(), prior=prior)
    assert result["perplexity"]["skipped"] == {"skipped:template": 1}
    assert result["ngrams"]["skipped"] == {}


def test_ids_of_another_tokenizer_are_not_read(prior):
    """Unless the tokenizer that made them is given, and is the prior's."""
    encode, text = prior.tokenizer.encode, "the cat sat on the mat"
    row = {"input_ids": [i for character in text for i in encode(character, add_special_tokens=False).ids]}
    for name, result in measure([row], NGrams(), Perplexity(), prior=prior).items():
        assert result["skipped"] == {"skipped:tokenizer_mismatch": 1}, name
    result = measure([row], NGrams(), Perplexity(), prior=prior, tokenizer=prior.tokenizer)
    assert result["perplexity"]["num_measured"] == result["ngrams"]["num_measured"] == 1
    with pytest.raises(PriorError, match="not the one that made input_ids"):
        measure([row], prior=prior, tokenizer=load_tokenizer("gpt2"))


def test_the_context_is_read_but_not_scored(prior):
    row = {"question": TEXTS[0], "answer": "x y z"}
    [alone], [pair] = read_documents(["x y z"], prior=prior), read_documents([row], prior=prior)
    assert len(pair.logprob_E) <= len(alone.logprob_E) + 1 < 10


def test_each_row_is_scored_once(prior):
    with mock.patch.object(StaticPrior, "score", autospec=True, side_effect=StaticPrior.score) as score:
        measure([TEXTS[0], *TEXTS[:3]], TokenProbability(), Perplexity(), NGrams(), prior=prior)
    assert sum(len(call.args[1]) for call in score.call_args_list) == 4


def test_what_the_prior_can_not_score_is_counted():
    """Its text is measured all the same."""
    broken = StaticPrior(
        load_tokenizer("demo"), lambda ids, t: {int(ids[t]): float("nan") if len(ids) > 10 else 0.5}, max_length=64
    )
    result = measure([TEXTS[0], "a b"], NGrams(), Perplexity(), prior=broken)
    assert result["perplexity"]["skipped"] == {"skipped:nonfinite": 1}
    assert result["perplexity"]["median"] == pytest.approx(2)
    assert result["ngrams"]["num_measured"] == 2
    with pytest.raises(PriorError):
        measure(TEXTS[:1], Perplexity(), prior=StaticPrior(load_tokenizer("demo"), lambda ids, t: {int(ids[t]): 2.0}))


def test_without_a_prior_there_is_no_perplexity():
    with pytest.raises(ConfigError, match=r"needs a prior: measure\(data, Perplexity\(\), prior='demo'\)") as error:
        measure(TEXTS[:1], Perplexity())
    one_line(error)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["demo"], {}, r"'demo' is not a measurement: measure\(data, NGrams\(\)"),
        ([NGrams], {}, "the class NGrams is not a measurement"),
        ([Dataset.from_dict({"text": ["a"]})], {}, "^Dataset is not a measurement"),
        ([], {"model": "demo"}, "unknown keyword 'model'; did you mean 'prior'"),
        ([], {"role": "user"}, "unknown keyword 'role'; did you mean 'roles'"),
        ([], {"columns": []}, "reads nothing"),
        ([], {"roles": []}, "reads nothing"),
        ([], {"context": "prompt"}, "needs columns="),
        ([], {"prior": 3}, "prior is a value of type int"),
        ([], {"tokenizer": "gpt2"}, "tokenizer= must be a tokenizer"),
    ],
)
def test_wrong_calls_say_what_the_right_one_is(arguments, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        measure(TEXTS, *arguments, **options)
    one_line(error)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Perplexity(tails="14"), "tails='14' must be perplexities"),
        (lambda: Perplexity(tails=[0.5]), "at least 1, such as"),
        (lambda: TokenProbability("0.9"), "threshold='0.9' must be a number in"),
        (lambda: NGrams(n=0), "n=0 must be an integer of at least 1"),
        (lambda: DistinctN(n="3"), "n='3' must be an integer of at least 1"),
        (lambda: WordFrequencies(top=1), "top=1 must be an integer of at least 2"),
        (lambda: NGrams().shift(TEXTS), r"pass NGrams\(\).update\(data\)"),
    ],
)
def test_wrong_settings_are_one_clear_line(call, message):
    with pytest.raises(ConfigError, match=message) as error:
        call()
    one_line(error)


def test_one_tail_is_a_list_of_one():
    assert Perplexity(tails=5).settings == Perplexity(tails=[5.0]).settings


def test_two_of_a_kind_need_two_calls():
    with pytest.raises(ConfigError, match="two measurements called 'ngrams'") as error:
        measure(TEXTS, NGrams(), NGrams(n=1))
    one_line(error)


def test_by_default_all_measurements_of_a_text(prior):
    assert [*measure(TEXTS[:2])] == ["ngrams", "distinct_n", "word_frequencies", "compression_ratio"]
    assert [*measure(TEXTS[:2], prior=prior)][-2:] == ["token_probability", "perplexity"]
