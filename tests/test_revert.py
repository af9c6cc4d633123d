"""The way back: an untouched row gives the original to the last character, a row that changed is one line."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import datasets
import numpy as np
import pytest
from command_line import fail, run
from datasets import Dataset, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PROSE, Distribution, make_transform, one_line, tokenizer_of

from hf_toedit import RowError, ToEditTransform, revert, summarize
from hf_toedit.report.edits import edited_rows, show_edits

moderate = settings(max_examples=150, deadline=None)
CHAT = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": PROSE}]


@cache
def transform_of(**options: Any) -> ToEditTransform:
    return make_transform("demo", Distribution("demo"), exclude_target=True, chat_template="", **options)


def edit(row: dict[str, Any], **options: Any) -> dict[str, Any]:
    edited = transform_of(**options)(row)
    assert edited["toedit"]["edits"]
    return edited


IDS = tokenizer_of("demo").encode(PROSE).ids
ROWS = {
    "text": {"id": 1, "text": PROSE},
    "pair": {"question": "Why?", "answer": PROSE},
    "messages": {"id": 2, "messages": CHAT},
    "parts": {"messages": [{"role": "assistant", "content": [{"type": "text", "text": PROSE}]}]},
    "ids": {"input_ids": IDS, "labels": [-100] * 5 + IDS[5:]},
}


def strings(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """Path and value of each text and each list of ids."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in strings(inner, (*path, key))]
    if isinstance(value, list) and value and not isinstance(value[0], int):
        return [found for i, inner in enumerate(value) for found in strings(inner, (*path, i))]
    return [(path, value)] if isinstance(value, (str, list)) else []


def put(row: Any, path: tuple[Any, ...], value: Any) -> Any:
    row = copy.deepcopy(row)
    inner = row
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return row


def is_refused(row: dict[str, Any]) -> str:
    """The one line of the error, which holds nothing of the row's contents."""
    with pytest.raises(RowError) as error:
        revert(row)
    line = one_line(error)
    assert not any(word in line for word in PROSE.split() if len(word) > 3)
    return line


# tampering


@pytest.mark.parametrize("shape", ROWS)
def test_a_change_anywhere_in_what_was_edited_is_noticed(shape):
    row = ROWS[shape]
    edited = edit(row)
    assert revert(edited) == row
    before = dict(strings(row))
    places = [(path, value) for path, value in strings({name: edited[name] for name in row}) if value != before[path]]
    assert places

    @moderate
    @given(st.data())
    def check(data):
        path, value = data.draw(st.sampled_from(places))
        start = data.draw(st.integers(0, len(value)))
        end = data.draw(st.integers(start, min(len(value), start + 2)))
        piece = data.draw(st.text(max_size=2) if isinstance(value, str) else st.lists(st.integers(0, 300), max_size=2))
        changed = value[:start] + piece + value[end:]
        tampered = put(edited, path, changed)
        if changed == value or {name: tampered[name] for name in row} == row:
            assert revert(tampered) == row
        else:
            is_refused(tampered)

    check()


@pytest.mark.parametrize("shape", ROWS)
def test_text_appended_behind_the_last_edit_is_noticed(shape):
    edited = edit(ROWS[shape])
    for path, value in strings({name: edited[name] for name in ROWS[shape]}):
        if dict(strings(ROWS[shape]))[path] != value:
            is_refused(put(edited, path, value + (" and more" if isinstance(value, str) else [5])))


@given(st.lists(st.sampled_from(PROSE.split()), min_size=6, max_size=9, unique=True), st.data())
@moderate
def test_the_edits_of_another_row_are_noticed(words, data):
    others = data.draw(st.permutations(words))
    one, other = (edit({"text": " ".join(["So", *some, "it is."])}) for some in (words, others))
    for mine, theirs in ((one, other), (other, one)):
        swapped = {**mine, "toedit": theirs["toedit"]}
        if words == others:
            assert revert(swapped) == revert(mine)
        else:
            is_refused(swapped)


def test_edits_that_were_changed_or_lost_are_noticed():
    edited = edit(ROWS["text"])
    edits = edited["toedit"]["edits"]
    for changed in ([], edits[1:], edits[:-1], [{**edits[0], "old": "x"}, *edits[1:]], [*edits, edits[-1]]):
        is_refused({**edited, "toedit": {**edited["toedit"], "edits": changed}})


@pytest.mark.parametrize("name", ["text", "ids", "messages"])
def test_a_column_that_is_gone_shorter_or_of_another_type_is_one_line(name):
    edited = edit(ROWS[name])
    column = "input_ids" if name == "ids" else name
    rest = {key: value for key, value in edited.items() if key != column}
    assert f"no column {column!r}, which was edited" in is_refused(rest)
    assert f"no column {column!r}, which was edited" in is_refused({**rest, "renamed": edited[column]})
    other = [] if name == "text" else "some text"
    for value in (edited[column][:1], edited[column][:0], None, 3, other, [None], ["x"], [[1]], {"role": "x"}):
        assert "changed after editing" in is_refused({**edited, column: value})


def test_a_record_that_is_none_is_one_line():
    edited = edit(ROWS["text"])
    for wrong in ({}, {"edits": 3}, {"edits": [3]}, {"edits": [{"column": "text"}]}, 3, True):
        assert "does not hold what editing wrote there" in is_refused({**edited, "toedit": wrong})
    wrong = [{**edited["toedit"]["edits"][0], "start": "x"}]
    assert "does not hold" in is_refused({**edited, "toedit": {"edits": wrong}})
    with pytest.raises(RowError, match="no column 'toedit'"):
        revert({"text": PROSE})


# what was edited decides, not the name of its column


def without(struct: dict[str, Any], *fields: str) -> dict[str, Any]:
    edits = [{name: value for name, value in one.items() if name not in fields} for one in struct["edits"]]
    return {**{name: value for name, value in struct.items() if name not in fields}, "edits": edits}


@pytest.mark.parametrize("shape", ROWS)
def test_records_from_before_kind_and_digest_still_revert(shape):
    edited = edit(ROWS[shape])
    old = {**edited, "toedit": without(edited["toedit"], "kind", "digest")}
    assert set(old["toedit"]["edits"][0]) == {"column", "start", "old", "new"}
    assert revert(old) == ROWS[shape]
    path, value = strings({name: edited[name] for name in ROWS[shape]})[-1]
    is_refused(put(old, path, value[:3]))


@pytest.mark.parametrize("column", ["labels", "input_ids_text", "attention_mask", "messages[0].content", "a[1].value"])
def test_a_text_column_of_any_name_comes_back(column):
    row = {column: PROSE, "messages": CHAT}
    edited = edit(row, columns=(column,))
    assert edited[column] != PROSE
    assert revert(edited) == row
    is_refused({**edited, column: edited[column] + "."})


def test_a_column_named_like_a_message_beside_the_messages():
    """Both edited, or one of them: each gets its own edits back."""
    odd = "messages[1].content"
    row = {"messages": CHAT, odd: f"Once more: {PROSE}"}
    for columns in (("messages",), (odd,), ("messages", odd)):
        edited = edit(row, columns=columns)
        assert {name for name in row if edited[name] != row[name]} == set(columns)
        assert revert(edited) == row
        assert {one["column"] for one in edited["toedit"]["edits"]} == {odd}
        assert len({one["kind"] for one in edited["toedit"]["edits"]}) == len(columns)


def test_the_edit_that_is_shown_is_that_of_its_column():
    from rich.console import Console

    row = {"messages": CHAT, "messages[1].content": "Zebras " * 20}
    ds = Dataset.from_list([row]).map(transform_of(columns=("messages",)))
    shown = edited_rows(ds, 1)
    assert set(shown[0][1]) == {"messages", "toedit"}
    console = Console(width=200, record=True)
    show_edits(console, [("0", Dataset.from_list([edit(row, columns=("messages",))])[0])])
    assert "Zebras" not in console.export_text()


@pytest.mark.parametrize("kind", [tuple, np.array, range])
def test_ids_of_any_sequence_come_back_as_a_list(kind):
    ids = range(300, 350)
    transform = make_transform("demo", Distribution("demo"), exclude_target=True, tokenizer=tokenizer_of("demo"))
    edited = transform({"input_ids": ids if kind is range else kind(ids)})
    assert edited["toedit"]["edits"]
    assert revert(edited) == {"input_ids": list(ids)}
    assert revert({"input_ids": np.array(edited["input_ids"]), "toedit": edited["toedit"]}) == {"input_ids": list(ids)}


def test_a_column_named_twice_is_edited_once():
    row = {"text": PROSE, "q": "Why?", "messages": CHAT}
    for twice, once in [
        ({"columns": ("text", "text")}, {"columns": "text"}),
        ({"columns": ("messages", "messages")}, {"columns": "messages"}),
        ({"columns": ("text", "text"), "context": ("q", "q")}, {"columns": "text", "context": "q"}),
    ]:
        edited = edit(row, **twice)
        assert edited == edit(row, **once)
        assert revert(edited) == row


def test_labels_follow_input_ids_also_where_both_are_named():
    row = ROWS["ids"]
    edited = edit(row, columns=("input_ids", "labels"))
    assert edited == edit(row)
    assert revert(edited) == row


# every way of walking


def walk_rows() -> list[dict[str, Any]]:
    return [
        {"id": 0, "text": PROSE},
        {"id": 1, "text": ""},
        {"id": 2, "text": f"{PROSE} Twice."},
        {"id": 3, "text": None},
    ]


@pytest.fixture(scope="module")
def edited_ds() -> Dataset:
    return Dataset.from_list(walk_rows()).map(transform_of(), batched=True)


@pytest.mark.parametrize("options", [{}, {"batched": True}, {"batched": True, "batch_size": 1}])
def test_map_gives_the_dataset_back_without_the_column(edited_ds, options):
    plain = Dataset.from_list(walk_rows())
    reverted = edited_ds.map(revert, **options)
    assert reverted.to_list() == plain.to_list()
    assert reverted.features == plain.features
    assert edited_ds.map(revert, remove_columns="toedit", **options).to_list() == plain.to_list()
    with pytest.raises(RowError, match="no column 'toedit'"):
        reverted.map(revert, **options)


@pytest.mark.parametrize("options", [{}, {"batched": True}, {"batched": True, "batch_size": 1}])
def test_streams_and_formats_come_back_and_a_second_time_changes_nothing(edited_ds, options):
    stream = edited_ds.to_iterable_dataset()
    assert list(stream.map(revert, remove_columns="toedit", **options)) == walk_rows()
    for kept in (stream.map(revert, **options), stream.map(revert, **options).map(revert, **options)):
        assert [{"id": row["id"], "text": row["text"]} for row in kept] == walk_rows()
    for kind in ("numpy", "torch"):
        formatted = edited_ds.with_format(kind)
        assert formatted.map(revert, remove_columns="toedit", **options).with_format(None).to_list() == walk_rows()
        twice = formatted.map(revert, **options).map(revert, **options).with_format(None)
        assert twice.remove_columns("toedit").to_list() == walk_rows()


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("kind", [None, "numpy", "torch"])
def test_every_shape_of_rows_comes_back_with_its_types(shape, kind):
    plain = Dataset.from_list([ROWS[shape]] * 3)
    large = {name: datasets.Value("large_string") for name, one in ROWS[shape].items() if isinstance(one, str)}
    large |= {name: datasets.List(datasets.Value("int32")) for name in ROWS[shape] if shape == "ids"}
    plain = plain.cast(datasets.Features({**plain.features, **large}))
    edited = plain.map(transform_of(), batched=True)
    assert edited["toedit"][0]["edits"]
    for batched in (False, True):
        again = edited.with_format(kind).map(revert, batched=batched, remove_columns="toedit").with_format(None)
        assert again.to_list() == plain.to_list()
        assert again.features == plain.features


@pytest.mark.parametrize("kind", ["pandas", "arrow"])
def test_tables_are_one_line_with_the_format_to_choose(edited_ds, kind):
    for batched in (False, True):
        with pytest.raises(RowError, match=r"with_format\(None\)") as error:
            edited_ds.with_format(kind).map(revert, batched=batched)
        one_line(error)


def test_a_plain_batch_of_any_sequence_is_a_batch(edited_ds):
    batch = edited_ds[:]
    expected = Dataset.from_list(walk_rows())[:]
    before = copy.deepcopy(batch)
    assert revert(batch) == expected
    assert batch == before
    assert revert({name: tuple(values) for name, values in batch.items()})["text"] == expected["text"]
    assert revert({name: values[:0] for name, values in batch.items()}) == {"id": [], "text": []}
    assert edited_ds.with_transform(revert)[:] == expected
    with pytest.raises(RowError, match="differ in length from"):
        revert({**batch, "text": batch["text"][:2]})


# files between


def test_jsonl_parquet_and_pandas_come_back_and_csv_is_one_line(edited_ds, folder):
    import pandas as pd

    edited_ds.to_json("rows.jsonl")
    edited_ds.to_parquet("rows.parquet")
    edited_ds.to_csv("rows.csv")
    for builder, name in (("json", "rows.jsonl"), ("parquet", "rows.parquet")):
        read = load_dataset(builder, data_files=name, split="train")
        assert read.map(revert).to_list() == walk_rows()
        assert [revert(row) for row in read] == walk_rows()
    with open("rows.jsonl", encoding="utf-8") as lines:
        assert [revert(json.loads(line)) for line in lines] == walk_rows()
    records = pd.read_parquet("rows.parquet").to_dict("records")
    assert isinstance(records[0]["toedit"]["edits"], np.ndarray)
    assert [revert(row)["text"] for row in records[:3]] == [row["text"] for row in walk_rows()[:3]]
    assert Dataset.from_pandas(pd.read_parquet("rows.parquet")).map(revert, batched=True).to_list() == walk_rows()
    text = load_dataset("csv", data_files="rows.csv", split="train")
    for batched in (False, True):
        with pytest.raises(RowError, match=r"CSV.*Parquet or JSONL") as error:
            text.map(revert, batched=batched)
        one_line(error)


def test_a_null_record_is_a_row_that_was_not_edited(edited_ds):
    for null in (None, float("nan"), {"status": None, "edits": None}):
        assert revert({"text": PROSE, "toedit": null}) == {"text": PROSE}
    mixed = datasets.concatenate_datasets([edited_ds, Dataset.from_list([{"id": 9, "text": PROSE}])])
    assert mixed[-1]["toedit"] is None
    expected = [*walk_rows(), {"id": 9, "text": PROSE}]
    for options in ({}, {"batched": True}, {"batched": True, "batch_size": 1}):
        assert mixed.map(revert, **options).to_list() == expected
    assert summarize(mixed["toedit"]).num_rows == 4


def test_the_command_line_reverts_null_records_and_refuses_csv(edited_ds, folder):
    mixed = datasets.concatenate_datasets([edited_ds, Dataset.from_list([{"id": 9, "text": PROSE}])])
    mixed.to_parquet("mixed.parquet")
    edited_ds.to_csv("rows.csv")
    run("revert", "mixed.parquet", "--out", "back")
    back = load_dataset("back")["train"]
    assert back.to_list() == [*walk_rows(), {"id": 9, "text": PROSE}]
    assert back.features == Dataset.from_list(walk_rows()).features
    assert "Parquet or JSONL" in fail("revert", "rows.csv", "--out", "none")
    tampered = [{**row, "text": f"{row['text']}."} for row in edited_ds]
    Dataset.from_list(tampered).to_parquet("tampered.parquet")
    line = fail("revert", "tampered.parquet", "--out", "none")
    assert "text changed after editing" in line
    assert "fox" not in line


def test_two_generations_each_know_their_own_text():
    row = {"text": PROSE}
    first = edit(row)
    second = make_transform(
        "demo", Distribution("demo", seed=1), exclude_target=True, generation=1, stats_column="second"
    )(first)
    assert revert(revert(second, "second")) == row
    with pytest.raises(RowError, match="text changed after editing"):
        revert(second)
