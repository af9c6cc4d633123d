"""A patch makes the edited dataset of its source, exactly, and holds none of its text."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, concatenate_datasets, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PROSE, Distribution, make_transform, one_line, texts, tokenizer_of

from hf_toedit import RowError, SourceError, ToEditTransform, load_edited, revert, summarize
from hf_toedit.hub.patch_files import stages_of
from hf_toedit.hub.patch_rows import applied, digests, patch_rows
from hf_toedit.hub.patches import write_patch
from hf_toedit.hub.records import Source, edits_of
from hf_toedit.rows.column import typed

pytestmark = pytest.mark.usefixtures("folder")
IDS = tokenizer_of("demo").encode(PROSE).ids
SAID = {"role": "assistant", "content": PROSE}
ASKED = {"role": "user", "content": "Say it, and then say it once more."}


@cache
def transform_of(low: float = 0.0, seed: int = 0, **options: Any) -> ToEditTransform:
    return make_transform(
        "demo", Distribution("demo", low=low, seed=seed), **{"exclude_target": True, "chat_template": "", **options}
    )


def saved(rows: Dataset | DatasetDict, name: str = "source") -> DatasetDict:
    """The rows as a folder of Parquet files, read again."""
    for split, part in (rows if isinstance(rows, DatasetDict) else {"train": rows}).items():
        part.to_parquet(f"{name}/data/{split}-00000-of-00001.parquet")
    return load_dataset(f"./{name}")


def patched(edited: DatasetDict, transform: Any, name: str = "patch", source: str = "source") -> Path:
    """The folder of a patch."""
    folder = Path(name)
    folder.mkdir()
    write_patch(edited, folder, edits_of(edited, transform), Source(str(Path(source).resolve())))
    return folder


def assert_same(loaded: DatasetDict, edited: DatasetDict) -> None:
    assert list(loaded) == list(edited)
    for split, rows in edited.items():
        assert loaded[split].features == rows.features
        assert loaded[split].column_names == rows.column_names
        assert loaded[split].with_format("arrow")[:].equals(rows.with_format("arrow")[:])


# Every shape of row comes back.

EMPTY_STRUCT = Dataset(pa.table({"toedit": typed([])})).features
NUMBERED = [f"{i}. {PROSE}" for i in range(4)]
SHAPES: dict[str, tuple[dict[str, list[Any]], dict[str, Any]]] = {
    "text": ({"text": NUMBERED, "id": [1, 2, 3, 4]}, {}),
    "nothing to edit": ({"text": ["", None, "a", PROSE]}, {}),
    "beyond the basic plane": (
        {"text": [f"👩‍👩‍👧 {PROSE} 𝄞𝄞 {PROSE}", "日本語のテキスト" * 9, "e\u0301\ufeff\u0000" * 9]},
        {},
    ),
    "two columns": ({"a": NUMBERED, "b": [None, "", PROSE, "x"]}, {"columns": ("a", "b")}),
    "pair": ({"question": ["Why?", None, ""] * 2, "answer": [PROSE, PROSE, PROSE, None, "", "Ah."]}, {}),
    "preference": (
        {"prompt": ["Say."] * 2, "chosen": [PROSE, "So."], "rejected": [PROSE[:60], PROSE]},
        {"columns": ("chosen", "rejected"), "context": ("prompt",)},
    ),
    "preference of messages": (
        {"prompt": [[ASKED]], "chosen": [[SAID]], "rejected": [[{**SAID, "content": PROSE * 2}]]},
        {"columns": ("chosen", "rejected"), "context": ("prompt",)},
    ),
    "messages": ({"messages": [[ASKED, SAID, ASKED, SAID], [ASKED, {**SAID, "content": None}], [], None]}, {}),
    "parts": ({"messages": [[{"role": "assistant", "content": [{"type": "text", "text": PROSE}] * 2}]]}, {}),
    "ShareGPT": ({"conversations": [[{"from": "human", "value": "Hi."}, {"from": "gpt", "value": PROSE}]]}, {}),
    "named like a message": (
        {"messages": [[ASKED, SAID]], "messages[1].content": [PROSE]},
        {"columns": ("messages[1].content",)},
    ),
    "ids": (
        {
            "input_ids": [IDS, IDS[::-1]],
            "labels": [[-100] * 9 + IDS[9:], [-100] * len(IDS)],
            "attention_mask": [[1] * len(IDS)] * 2,
        },
        {},
    ),
    "packed": ({"input_ids": [IDS + IDS[:20] + IDS], "seq_lengths": [[len(IDS), 20, len(IDS)]]}, {}),
    "drop": ({"text": NUMBERED}, {"strategy": "drop", "low": 0.5, "exclude_target": False}),
    "resample and drop": ({"text": NUMBERED}, {"strategy": "resample_and_drop", "low": 0.5}),
    "full statistics": ({"text": NUMBERED}, {"stats": "full", "protect": ("numbers",), "exclude_target": False}),
    "seed and generation": ({"text": NUMBERED}, {"seed": 7, "generation": 2}),
    "another column": ({"text": NUMBERED, "toedit": ["x"] * 4}, {"stats_column": "edits of it"}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_patch_of_any_row_makes_the_edited_row(shape):
    columns, options = SHAPES[shape]
    source = saved(Dataset.from_dict(columns))
    transform = transform_of(**options)
    edited = source.map(transform, batched=True)
    name = transform.stats_column
    assert any(struct["edits"] for struct in edited["train"][name])
    loaded = load_edited(patched(edited, transform), source="source")
    assert_same(loaded, edited)
    assert summarize(loaded, name) == summarize(edited, name)
    before = loaded["train"].map(revert, fn_kwargs={"stats_column": name})
    assert before.to_list() == source["train"].to_list()


@given(st.lists(texts, min_size=1, max_size=3), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_the_rows_of_a_patch_restore_any_text(given_texts, seed):
    transform = transform_of(low=0.3, seed=seed, strategy="resample_and_drop")
    before = Dataset.from_dict({"text": given_texts})
    edited = Dataset.from_list([transform(row) for row in before.to_list()])
    edited = edited.cast(Features({"text": Value("string"), **EMPTY_STRUCT}))
    stages = stages_of([transform.provenance()], edited.column_names)
    table = edited.with_format("arrow")[:]
    patch = patch_rows(table, stages, digests(before, ["text"]).astype("int64"), digests(before, ["text"]))
    assert applied(before.with_format("arrow")[:], patch, stages).equals(table)


def test_two_edits_in_a_row():
    source = saved(Dataset.from_dict({"text": NUMBERED, "answer": NUMBERED[::-1]}))
    first, second = transform_of(columns=("text",)), transform_of(columns=("text", "answer"), stats_column="second")
    edited = source.map(first, batched=True).map(second, batched=True)
    loaded = load_edited(patched(edited, [first, second]), source="source")
    assert_same(loaded, edited)
    back = loaded["train"].map(revert, fn_kwargs={"stats_column": "second"}).map(revert)
    assert back.to_list() == source["train"].to_list()


def test_rows_of_several_edits_and_of_none():
    """Parts with their own transforms, joined with rows that were never edited: their structs are null."""
    source = saved(Dataset.from_dict({"text": [*NUMBERED, *(text + "!" for text in NUMBERED)]}))["train"]
    transforms = [make_transform("demo", Distribution("demo"), exclude_target=True, seed=seed) for seed in (1, 2)]
    for transform in transforms:
        transform.prior.revision = "a" * 40
    parts = [source.select(range(i, i + 3)).map(t, batched=True) for i, t in zip((0, 3), transforms, strict=True)]
    edited = DatasetDict(train=concatenate_datasets([*parts, source.select(range(6, 8))]))
    assert edited["train"][7]["toedit"] is None
    assert_same(load_edited(patched(edited, transforms), source="source"), edited)


# Rows may be chosen, reordered, repeated and divided into splits, before the edit and after it.

CHOSEN = {
    "filtered first": lambda source, edit: DatasetDict(train=edit(source["train"].filter(lambda row: row["id"] % 2))),
    "shuffled first": lambda source, edit: DatasetDict(train=edit(source["train"].shuffle(seed=3))),
    "shuffled after": lambda source, edit: DatasetDict(train=edit(source["train"]).shuffle(seed=3).select(range(5))),
    "divided": lambda source, edit: edit(source["train"]).train_test_split(0.5, seed=1),
    "renamed split": lambda source, edit: DatasetDict(mine=edit(source["test"])),
    "both splits as one": lambda source, edit: DatasetDict(
        train=concatenate_datasets([edit(source["test"]), edit(source["train"])])
    ),
    "repeated": lambda source, edit: DatasetDict(train=concatenate_datasets([edit(source["train"])] * 2)),
    "fewer columns": lambda source, edit: DatasetDict(train=edit(source["train"].select_columns(["text"]))),
    "other order": lambda source, edit: DatasetDict(
        train=edit(source["train"]).select_columns(["toedit", "text", "id"])
    ),
    "one split": lambda source, edit: DatasetDict(train=edit(source["train"]), test=source["test"]),
    "no rows": lambda source, edit: DatasetDict(train=edit(source["train"]), test=edit(source["test"]).select([])),
}


@pytest.mark.parametrize("way", CHOSEN)
def test_rows_are_found_in_the_source(way):
    rows = [{"id": i, "text": f"{i % 7}. {PROSE}"} for i in range(9)]
    parts = {"train": Dataset.from_list(rows), "test": Dataset.from_list([{"id": 9, "text": PROSE}])}
    source = saved(DatasetDict(parts))
    transform = transform_of()
    edited = CHOSEN[way](source, lambda part: part.map(transform, batched=True))
    assert_same(load_edited(patched(edited, transform), source="source"), edited)


def test_one_split_by_name():
    source = saved(DatasetDict({name: Dataset.from_dict({"text": NUMBERED}) for name in ("train", "test")}))
    edited = source.map(transform_of(), batched=True)
    folder = patched(edited, transform_of())
    assert load_edited(str(folder), split="test", source="source").to_list() == edited["test"].to_list()
    with pytest.raises(SourceError, match=r"no split 'train\[:2\]'; it has train, test"):
        load_edited(folder, split="train[:2]", source="source")


def test_other_columns_are_not_touched():
    """Of any type; images and the like are neither decoded nor compared."""
    features = Features(
        {
            "text": Value("large_string"),
            "n": List(Value("float32")),
            "when": Value("timestamp[ns]"),
            "b": Value("binary"),
        }
        | {"input_ids_too": List(Value("int8"), length=2), "none": Value("null"), "label": ClassLabel(names=["x", "y"])}
    )
    row = {"text": PROSE, "n": [float("nan"), 0.1], "when": 1, "b": b"\xff", "input_ids_too": [1, 2], "none": None}
    source = saved(Dataset.from_list([{**row, "label": i} for i in range(2)], features=features))
    edited = source.map(transform_of(), batched=True)
    loaded = load_edited(patched(edited, transform_of()), source="source")
    assert loaded["train"].features == edited["train"].features
    assert repr(loaded["train"][:]) == repr(edited["train"][:])


# What a patch can't say is refused before anything is published.


def changed_columns() -> dict[str, Any]:
    return {
        "no column 'extra'": lambda rows: rows.add_column("extra", [1] * len(rows)),
        "no column 'key'": lambda rows: rows.rename_column("id", "key"),
        "column 'id' has another type": lambda rows: rows.cast_column("id", Value("string")),
        "row 1 of split 'train'": lambda rows: rows.map(lambda row, i: {"id": row["id"] + (i == 1)}, with_indices=True),
    }


@pytest.mark.parametrize("said", changed_columns())
def test_what_a_patch_can_not_say_is_refused(said):
    source = saved(Dataset.from_dict({"id": [10, 20, 30, 40], "text": NUMBERED}))
    edited = DatasetDict(train=changed_columns()[said](source["train"].map(transform_of(), batched=True)))
    with pytest.raises(RowError, match=said) as error:
        patched(edited, transform_of())
    assert one_line(error).endswith('publish the rows themselves with mode="full"')


def test_rows_that_changed_after_editing_are_refused():
    source = saved(Dataset.from_dict({"text": NUMBERED}))
    edited = source.map(transform_of(), batched=True)
    with pytest.raises(RowError, match="text changed after editing"):
        patched(edited.map(lambda row: {"text": row["text"] + "!"}), transform_of())
    lied = edited.map(lambda row: {"toedit": {**row["toedit"], "digest": "0" * 16}})
    with pytest.raises(RowError, match="changed after editing"):
        patched(lied, transform_of(), "patch-2")


def test_a_patch_that_would_not_restore_a_row_is_refused():
    """An edit that says nothing of its kind, as a hand-made column may."""
    source = saved(Dataset.from_dict({"input_ids": [IDS]}))
    edited = source.map(transform_of(), batched=True)
    edits = [{**edit, "kind": None} for edit in edited["train"][0]["toedit"]["edits"]]
    changed = edited.map(lambda row: {"toedit": {**row["toedit"], "edits": edits}}, features=edited["train"].features)
    with pytest.raises((RowError, SourceError)):
        patched(changed, transform_of())
