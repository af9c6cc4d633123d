"""`summarize` takes whatever holds an edited dataset, and says in one line what it can't take."""

from __future__ import annotations

import dataclasses

import datasets
import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict

from hf_toedit import RowError, ToEditTransform, summarize

FORMATS = ("pandas", "arrow", "numpy", "torch")
TEXTS = ["The cat sat on the mat.", None, "def f(x):\n    return x + 1\n", "", "To be, or not to be."] * 2


@pytest.fixture(scope="module")
def edited(demo):
    return Dataset.from_dict({"text": TEXTS, "n": range(len(TEXTS))}).map(
        ToEditTransform(demo, threshold=0.3), batched=True
    )


@pytest.fixture(scope="module")
def expected(edited):
    stats = summarize(edited["toedit"])
    assert stats.num_rows == len(TEXTS)
    assert stats.tokens.num_visited
    return stats


WAYS = {
    "a dataset": lambda ds: ds,
    "its column": lambda ds: ds["toedit"],
    "its column as a list": lambda ds: list(ds["toedit"]),
    "a dict of splits": lambda ds: DatasetDict(a=ds.select(range(3)), b=ds.select(range(3, 10))),
    "splits, one without rows": lambda ds: DatasetDict(a=ds.remove_columns("toedit").select([]), b=ds),
    "a stream": lambda ds: ds.to_iterable_dataset(),
    "a stream that does not know its columns": lambda ds: datasets.IterableDataset.from_generator(lambda: iter(ds)),
    "a dict of streams": lambda ds: IterableDatasetDict(
        a=ds.select(range(3)).to_iterable_dataset(), b=ds.select(range(3, 10)).to_iterable_dataset()
    ),
    "its rows": lambda ds: iter(ds),
    "a list of rows": lambda ds: list(ds),
    "a batch": lambda ds: ds[:],
    "a table of pandas": lambda ds: ds.to_pandas(),
    "a column of pandas": lambda ds: ds.to_pandas()["toedit"],
    "a table of Arrow": lambda ds: ds.with_format("arrow")[:],
    "a column of Arrow": lambda ds: ds.with_format("arrow")[:]["toedit"],
    **{f"a {name} dataset": lambda ds, name=name: ds.with_format(name) for name in FORMATS},
    **{f"the column of a {name} dataset": lambda ds, name=name: ds.with_format(name)["toedit"] for name in FORMATS},
    "a formatted stream": lambda ds: ds.to_iterable_dataset().with_format("arrow"),
}


@pytest.mark.parametrize("name", WAYS)
def test_it_is_summed_whatever_holds_it(name, edited, expected):
    got = summarize(WAYS[name](edited))
    single = "torch" in name  # whose floats are single
    assert got.tokens.logprob_sum == pytest.approx(expected.tokens.logprob_sum, rel=1e-5 if single else 1e-12)
    tokens = dataclasses.replace(got.tokens, logprob_sum=expected.tokens.logprob_sum)
    assert dataclasses.replace(got, tokens=tokens) == expected
    assert all(type(count) is int for count in got.tokens.histogram)
    assert type(got.tokens.num_visited) is int


def test_one_row_and_one_struct(edited):
    row = edited[0]
    assert summarize(row) == summarize(row["toedit"]) == summarize([row]) == summarize([row["toedit"]])
    assert summarize(row).num_rows == 1
    assert summarize({**row, "toedit": None}).num_rows == 0
    assert summarize([None, row, {**row, "toedit": None}]) == summarize(row)


def test_another_column(edited, expected):
    renamed = edited.rename_column("toedit", "toedit_1")
    assert summarize(renamed, stats_column="toedit_1") == expected
    assert summarize(renamed.to_pandas(), "toedit_1").num_rows == len(TEXTS)


def wrong(edited):
    plain = edited.remove_columns("toedit")
    return {
        "no column, a dataset": (plain, "no column 'toedit' (columns: 'text', 'n')"),
        "no column, splits": (DatasetDict(a=plain), "no column 'toedit' (columns: 'text', 'n')"),
        "no column, a stream": (plain.to_iterable_dataset(), "no column 'toedit' (columns: 'text', 'n')"),
        "no column, rows": (list(plain), "no column 'toedit' (columns: 'text', 'n')"),
        "no column, a row": (plain[0], "no column 'toedit' (columns: 'text', 'n')"),
        "no column, pandas": (plain.to_pandas(), "no column 'toedit' (columns: 'text', 'n')"),
        "no column, Arrow": (plain.with_format("arrow")[:], "no column 'toedit' (columns: 'text', 'n')"),
        "texts": (edited["text"], "must hold structs, not str"),
        "a path": ("edited", "summarize takes an edited dataset, its rows or its 'toedit' column, not str"),
        "nothing": (None, "not NoneType"),
        "a number": (5, "not int"),
        "an older struct": (_older(edited), "edit again"),
    }


def _older(edited):
    return [{name: value for name, value in edited[0]["toedit"].items() if name != "cells"}]


def test_what_it_cannot_take_is_one_line(edited):
    for name, (data, line) in wrong(edited).items():
        with pytest.raises(RowError) as caught:
            summarize(data)
        message = str(caught.value)
        assert line in message, name
        assert "\n" not in message
        assert "cat" not in message
    fix = "edit the dataset first, or name it with stats_column="
    with pytest.raises(RowError, match=fix):
        summarize(edited, stats_column="other")
