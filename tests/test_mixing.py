"""The workflows on datasets: the rows that they choose, that nothing is copied, and wrong calls."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Value, load_dataset, load_from_disk
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_toedit import ConfigError, RowError
from hf_toedit.collapse import (
    Accumulate,
    AccumulateSubsample,
    Mixture,
    Replace,
    accumulate,
    accumulate_subsample,
    mixture,
    replace,
    toedit,
)
from hf_toedit.collapse.generations import rng_of
from hf_toedit.collapse.mixing import DatasetMixing, largest_mixture
from hf_toedit.priors.pretrained import DEMO_FOLDER


def rows(name, count):
    return Dataset.from_dict({"text": [f"{name}{i}" for i in range(count)]})


HISTORY = [rows("human", 30), rows("a", 20), rows("b", 10)]
EVERYTHING = [text for part in HISTORY for text in part["text"]]


def test_what_each_workflow_trains_on():
    assert replace(HISTORY)["text"] == HISTORY[2]["text"]
    assert accumulate(HISTORY)["text"] == EVERYTHING
    chosen = accumulate_subsample(HISTORY, 25, seed=1)["text"]
    assert len(set(chosen)) == 25
    assert set(chosen) < set(EVERYTHING)
    mixed = mixture(*HISTORY[:2], synthetic_share=0.25, n=20)["text"]
    assert Counter(text.strip("0123456789") for text in mixed) == {"human": 15, "a": 5}
    assert len(set(mixed)) == 20
    assert mixture(*HISTORY[:2])["text"] == EVERYTHING[:50]


@pytest.mark.parametrize(
    ("function", "workflow"),
    [
        (lambda rng: replace(HISTORY), Replace()),
        (lambda rng: accumulate(HISTORY), Accumulate()),
        (lambda rng: accumulate_subsample(HISTORY, 13, rng), AccumulateSubsample()),
        (lambda rng: mixture(HISTORY[0], HISTORY[2], synthetic_share=0.3, n=13, seed=rng), Mixture(0.3)),
        (lambda rng: mixture(HISTORY[0], HISTORY[2]), Mixture()),
    ],
)
def test_functions_choose_as_the_workflows_do(function, workflow):
    rng, again = rng_of(5, 6), rng_of(5, 6)
    assert function(rng)["text"] == workflow.training_rows(DatasetMixing(), HISTORY, 13, again)["text"]


def test_subsamples_are_uniform_and_seeded():
    counts = Counter(text for seed in range(400) for text in accumulate_subsample(HISTORY, 6, seed)["text"])
    expected = 400 * 6 / 60
    chi_square = sum((counts[text] - expected) ** 2 / expected for text in EVERYTHING)
    assert chi_square < 98  # the 99.9 % quantile at 59 degrees of freedom; without replacement it is lower still
    first, again, other = (accumulate_subsample(HISTORY, 6, seed)["text"] for seed in (1, 1, 2))
    assert first == again != other
    drawn = [mixture(*HISTORY[:2], synthetic_share=0.5, n=6, seed=seed)["text"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_each_generation_draws_others_with_the_same_seed():
    """Equal numbers of rows: if the seed alone chose, the same row numbers would come out."""
    two, three = [HISTORY[0], HISTORY[0]], [HISTORY[1], HISTORY[1], HISTORY[1]]
    numbers = [
        [np.flatnonzero(np.isin(accumulate(parts)["text"], accumulate_subsample(parts, 20)["text"]))]
        for parts in (two, three)
    ]
    assert not np.array_equal(*numbers)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 1))
def test_a_mixture_is_as_large_as_its_share_allows(num_human, num_synthetic, share):
    """Brute force: the largest n for which there are enough rows of both kinds, exactly in that share or rounded."""
    n = largest_mixture(num_human, num_synthetic, share)
    assert n * share <= num_synthetic + 1e-9
    assert n * (1 - share) <= num_human + 1e-9
    assert (n + 1) * share > num_synthetic - 1e-9 or (n + 1) * (1 - share) > num_human - 1e-9
    if n:
        mixed = mixture(rows("human", num_human), rows("a", num_synthetic), synthetic_share=share)["text"]
        assert sum(text.startswith("a") for text in mixed) == round(share * n)
        assert len(mixed) == n


def addresses(dataset):
    """Where the texts lie in memory."""
    chunks = dataset.data.column("text").chunks
    return {buffer.address for chunk in chunks for buffer in chunk.buffers() if buffer is not None}


def test_no_text_is_copied(tmp_path):
    """The results read the very bytes of the inputs, and no file is written: for datasets in memory and on disk."""
    for number, part in enumerate(HISTORY):
        part.to_parquet(tmp_path / f"{number}.parquet")
    loaded = [
        load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "cache"), split="train")
        for path in sorted(tmp_path.glob("*.parquet"))
    ]
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    shuffled = [HISTORY[0].shuffle(seed=0), *HISTORY[1:]]  # has indices of its own
    for parts in (HISTORY, loaded, shuffled):
        before = set().union(*map(addresses, parts))
        for mixed in (
            replace(parts),
            accumulate(parts),
            accumulate_subsample(parts, 20),
            mixture(parts[0], parts[1], synthetic_share=0.5, n=10),
        ):
            assert addresses(mixed) <= before
            cached = {file["filename"] for part in parts for file in part.cache_files}
            assert {file["filename"] for file in mixed.cache_files} <= cached
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


def test_toedit_edits_again_with_other_draws(human_texts):
    human = Dataset.from_dict({"text": human_texts[:8], "number": list(range(8))})
    settings = {"threshold": 0.5, "temperature": 3.0}
    generations = [human]
    for _ in range(3):
        generations.append(toedit(generations, "demo", **settings))
    texts = [part["text"] for part in generations]
    assert all(one != other for one, other in itertools.pairwise(texts))
    assert all(part.features == human.features and part["number"] == human["number"] for part in generations)
    assert toedit([human], "demo", settings)["text"] == texts[1]
    assert toedit([human, human], "demo", settings)["text"] != texts[1]  # the second edit of the same text
    assert toedit([human], "demo", seed=1, **settings)["text"] != texts[1]
    anew = toedit(generations, "demo", anew=True, **settings)["text"]
    assert anew == toedit([human], "demo", generation=3, **settings)["text"]
    assert toedit([human], "demo", columns="text", generation=1, **settings)["text"] != texts[1]


def test_toedit_asks_the_model_as_it_is(human_texts, tmp_path):
    """A model trained on in memory, and rows on disk, whose edits `map` caches."""
    Dataset.from_dict({"text": human_texts[:8]}).save_to_disk(tmp_path)
    human = load_from_disk(tmp_path)
    pair = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER), AutoTokenizer.from_pretrained(DEMO_FOLDER)
    before, again = (toedit([human], pair, threshold=0.5, temperature=3.0)["text"] for _ in range(2))
    with torch.no_grad():
        pair[0].get_output_embeddings().weight.mul_(1.5)
    assert before == again != toedit([human], pair, threshold=0.5, temperature=3.0)["text"]


OTHER = Dataset.from_dict({"content": ["x"]})
LARGE = HISTORY[0].cast(Features({"text": Value("large_string")}))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: accumulate(HISTORY[0]), RowError, r"pass a list that begins with the human rows"),
        (lambda: accumulate([]), RowError, r"must be a list that begins with the human rows"),
        (lambda: accumulate({"human": HISTORY[0]}), RowError, r"must be a list"),
        (lambda: accumulate([DatasetDict(train=HISTORY[0])]), RowError, r"human dataset is a DatasetDict.*\('train'\)"),
        (lambda: replace([HISTORY[0], HISTORY[1].to_iterable_dataset()]), RowError, r"synthetic dataset 1 is a stream"),
        (lambda: replace([["a text"]]), RowError, r"must be a datasets.Dataset, not list"),
        (lambda: accumulate([HISTORY[0], HISTORY[1].select([])]), RowError, r"synthetic dataset 1 has no rows"),
        (lambda: accumulate([HISTORY[0], OTHER]), RowError, r"no column 'text', which the human dataset has: rename"),
        (
            lambda: accumulate([HISTORY[0], HISTORY[1].add_column("n", range(20))]),
            RowError,
            r"human dataset has no column 'n'.*select_columns\(\['text'\]\)",
        ),
        (lambda: accumulate([HISTORY[0], LARGE]), RowError, r"\(large_string, not string\): synthetic.cast"),
        (lambda: accumulate_subsample(HISTORY, 61), ConfigError, r"can't take 61 of 60 rows"),
        (lambda: accumulate_subsample(HISTORY, 0), ConfigError, r"n=0 must be an integer of at least 1"),
        (lambda: accumulate_subsample(HISTORY, 0.5), ConfigError, r"n=0.5 must be an integer"),
        (lambda: accumulate_subsample(HISTORY, 5, seed=-1), ConfigError, r"seed=-1 must be an integer of at least 0"),
        (lambda: mixture(*HISTORY[:2], synthetic_share=1.5), ConfigError, r"synthetic_share=1.5 must be between"),
        (lambda: mixture(*HISTORY[:2], synthetic_share=0.5, n=50), ConfigError, r"can't take 25 of 20 rows"),
        (lambda: mixture(*HISTORY[:2], n=50), ConfigError, r"n=50 needs a share"),
        (lambda: toedit(HISTORY, "demo", column="text"), ConfigError, r"did you mean 'columns'"),
    ],
)
def test_wrong_calls_are_one_line(call, error, says):
    with pytest.raises(error, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
