"""A patch makes the edited dataset of its source, exactly, and holds none of its text."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import breadth
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    Json,
    List,
    Value,
    concatenate_datasets,
    load_dataset,
)
from hub_store import COMMIT, File
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PROSE, Distribution, make_transform, one_line, texts, tokenizer_of

from hf_toedit import RowError, SourceError, ToEditTransform, load_edited, revert, show, summarize
from hf_toedit.hub.patch_files import PATCH, stages_of
from hf_toedit.hub.patch_rows import applied, digests, parquet_options, patch_rows
from hf_toedit.hub.patches import write_patch
from hf_toedit.hub.records import edits_of
from hf_toedit.hub.source import Source
from hf_toedit.rows.column import struct_type

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


def words_of(value: Any, size: int = 12) -> set[str]:
    """All substrings of this size in the strings of a row."""
    if isinstance(value, str):
        return {value[i : i + size] for i in range(len(value) - size + 1)}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {word for part in inner for word in words_of(part, size)}


def assert_no_text(patch: Path, source: DatasetDict) -> None:
    """No 12 characters of the source stand anywhere in the files of a patch, compressed or not."""
    rows, about = sorted(path for path in patch.rglob("*") if path.is_file())
    assert (rows.name, about.name) == ("train-00000-of-00001.parquet", "patch.json")
    pq.write_table(pq.read_table(rows), "plain.parquet", compression="none", use_dictionary=False)
    written = Path("plain.parquet").read_bytes() + rows.read_bytes() + about.read_bytes()
    words = {word for row in source["train"] for word in words_of(row)}
    assert len(words) > 10
    assert not [word for word in words if word.encode() in written]
    assert "old" not in pq.read_schema(rows).field(2).type.field("edits").type.value_type


# Every shape of row comes back, and its text is not published.

EMPTY_STRUCT = Features.from_arrow_schema(pa.schema({"toedit": struct_type()}))
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


OFTEN = {
    "text",
    "nothing to edit",
    "not ASCII",
    "two columns",
    "pair",
    "preference",
    "messages",
    "ids",
    "packed",
    "drop",
}


@pytest.mark.parametrize("shape", [shape if shape in OFTEN else breadth(shape) for shape in SHAPES])
def test_the_patch_of_any_row_makes_the_edited_row_and_has_no_text(shape):
    columns, options = SHAPES[shape]
    about = [f"Person {i} lives in Spooner Street" for i in range(len(next(iter(columns.values()))))]
    source = saved(Dataset.from_dict({**columns, "about": about}))
    transform = transform_of(**options)
    edited = source.map(transform, batched=True)
    name = transform.stats_column
    assert any(struct["edits"] for struct in edited["train"][name])
    patch = patched(edited, transform)
    assert_no_text(patch, source)
    loaded = load_edited(patch, source="source")
    assert_same(loaded, edited)
    assert summarize(loaded, name) == summarize(edited, name)
    before = loaded["train"].map(revert, fn_kwargs={"stats_column": name})
    assert before.to_list() == source["train"].to_list()


@given(st.lists(texts, min_size=1, max_size=3), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
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


def test_the_second_edit_of_a_dataset_that_was_edited_before():
    """Its source has a `toedit` column of its own; the patch holds the second edit alone."""
    first, second = transform_of(), transform_of(stats_column="second", seed=2)
    source = saved(Dataset.from_dict({"text": NUMBERED}).map(first, batched=True))
    edited = source.map(second, batched=True)
    folder = patched(edited, [first, second])
    assert [record["stats_column"] for record in json.loads((folder / PATCH).read_text())["edits"]] == ["second"]
    assert_same(load_edited(folder, source="source"), edited)
    with pytest.raises(RowError, match="'source' has these edits already: name the dataset before them with source="):
        patched(source, first, "patch-2")


def test_an_edit_whose_record_is_lost():
    source = saved(Dataset.from_dict({"text": NUMBERED}))
    edited = source.map(transform_of(), batched=True)
    [edit] = edits_of(edited, transform_of())
    lost = {**dict.fromkeys(("fingerprint", "config", "prior", "revision")), "stats_column": "toedit"}
    Path("patch").mkdir()
    write_patch(edited, Path("patch"), [replace(edit, record=lost)], Source(str(Path("source").resolve())))
    assert_same(load_edited("patch", source="source"), edited)


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


OFTEN_CHOSEN = {"shuffled after", "divided", "both splits as one", "one split", "no rows"}


@pytest.mark.parametrize("way", [way if way in OFTEN_CHOSEN else breadth(way) for way in CHOSEN])
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
    """Of any type."""
    features = {"text": Value("large_string"), "floats": List(Value("float32")), "when": Value("timestamp[ns]")}
    features |= {"bytes": Value("binary"), "pair": List(Value("int8"), length=2), "none": Value("null"), "any": Json()}
    features |= {"messages": List({"role": Value("string"), "content": Value("string"), "call": Json()})}
    features = Features({**features, "label": ClassLabel(names=["x", "y"])})
    row = {"text": PROSE, "floats": [float("nan"), 0.1], "when": 1, "bytes": b"\xff", "pair": [1, 2], "none": None}
    row |= {"messages": [{**ASKED, "call": {"b": [1, "x"], "a": None}}, {**SAID, "call": None}], "any": [1, {"a": "x"}]}
    rows = [{**row, "label": i} for i in range(2)]
    source = saved(Dataset.from_list(rows, features=features))
    transform = transform_of(columns=("text", "messages"))
    edited = source.map(transform, batched=True)
    loaded = load_edited(patched(edited, transform), source="source")
    assert loaded["train"].features == edited["train"].features
    assert repr(loaded["train"][:]) == repr(edited["train"][:])


def test_messages_in_json_are_edited_and_restored():
    said = [ASKED, {**SAID, "tool_calls": [{"name": "f", "arguments": {"x": 1.5}}]}, {"role": "tool", "content": None}]
    features = Features({"messages": List(Json()), "tools": List(Json())})
    rows = {"messages": [said, said[:1], None], "tools": [[{"f": {}}], None, []]}
    source = saved(Dataset.from_dict(rows, features=features))
    edited = source.map(transform_of(), batched=True)
    assert edited["train"][0]["toedit"]["edits"]
    loaded = load_edited(patched(edited, transform_of()), source="source")
    assert loaded["train"].features == edited["train"].features
    assert loaded["train"].to_list() == edited["train"].to_list()
    assert loaded["train"].map(revert)[:] == source["train"][:] == rows


def test_images_are_neither_decoded_nor_compared():
    features = Features({"text": Value("string"), "images": List(Image())})
    rows = [{"text": PROSE, "images": [{"bytes": bytes([i]), "path": None}]} for i in (1, 2)]
    source = saved(Dataset.from_list(rows, features=features))
    edited = source.map(transform_of(), batched=True)
    patch = patched(edited, transform_of())
    assert_same(load_edited(patch, source="source"), edited)
    saved(Dataset.from_list([{**row, "images": []} for row in rows], features=features), "without")
    assert load_edited(patch, source="without")["train"]["text"] == edited["train"]["text"]


def test_a_row_without_edits_costs_few_bytes():
    """Of its struct, only what the source does not tell is kept: half of what the structs themselves would take."""
    transform = transform_of(strategy="none", exclude_target=False)
    before = Dataset.from_dict({"text": [f"{i * i} {PROSE[: 40 + i % 60]}" for i in range(600)]})
    table = before.map(transform, batched=True).with_format("arrow")[:]
    stages = stages_of([transform.provenance()], table.column_names)
    found = digests(before, ["text"])
    sizes = {}
    for num_rows in (1, 600):
        patch = patch_rows(table[:num_rows], stages, np.arange(num_rows), found[:num_rows])
        pq.write_table(patch, "patch.parquet", **parquet_options(stages))
        pq.write_table(table[:num_rows].select(["toedit"]), "structs.parquet", compression="zstd")
        sizes[num_rows] = [Path(name).stat().st_size for name in ("patch.parquet", "structs.parquet")]
    of_patch, of_structs = ((many - one) / 599 for many, one in zip(sizes[600], sizes[1], strict=True))
    assert of_patch < 20
    assert of_patch < of_structs / 2


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


def test_ids_of_the_source_are_not_in_a_patch():
    source = saved(Dataset.from_dict({"input_ids": [IDS]}))
    folder = patched(source.map(transform_of(exclude_target=False), batched=True), transform_of(exclude_target=False))
    [row] = pq.read_table(folder / "data/train-00000-of-00001.parquet").to_pylist()
    assert row["toedit_patch"]["edits"]
    assert {*row["toedit_patch"]["edits"][0]} == {"column", "start", "length", "new", "kind"}
    assert {*row} == {"source_row", "source_digest", "toedit_patch"}


# The source must be the one that was edited.


@pytest.fixture(scope="module")
def source_and_patch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as here:
        here.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        here.chdir(work)
        source = saved(Dataset.from_dict({"id": [1, 2, 3, 4], "text": NUMBERED}))
        patched(source.map(transform_of(), batched=True), transform_of())
    return work


@pytest.fixture
def patch(source_and_patch: Path, folder: Path) -> Path:
    shutil.copytree(source_and_patch, folder, dirs_exist_ok=True)
    return Path("patch")


def test_a_row_that_differs_is_refused(patch):
    rows = [{"id": i + 1, "text": text} for i, text in enumerate(NUMBERED)]
    for place, change in ((2, {"text": NUMBERED[2] + " "}), (3, {"id": 5})):
        changed = [{**row, **(change if i == place else {})} for i, row in enumerate(rows)]
        saved(Dataset.from_list(changed), f"changed-{place}")
        with pytest.raises(SourceError, match=f"source row {place} differs from the one that was edited") as error:
            load_edited(patch, source=f"changed-{place}")
        assert "fox" not in one_line(error)
    longer = saved(Dataset.from_list([*rows, {"id": 9, "text": "More."}]), "longer")
    assert len(load_edited(patch, source="longer")["train"]) == len(longer["train"]) - 1  # other rows do not matter


def test_a_difference_that_no_row_shows_is_refused(patch):
    """Rows are compared by 32 bits: where these are equal by chance, the digest of the whole split is not."""
    about = json.loads((patch / PATCH).read_text())
    about["splits"]["train"]["digest"] = "0" * 32
    (patch / PATCH).write_text(json.dumps(about))
    with pytest.raises(SourceError, match="the rows of the source differ from those that were edited"):
        load_edited(patch, source="source")


def test_a_source_without_the_rows_columns_or_splits_is_one_line(patch):
    saved(Dataset.from_dict({"id": [1], "text": NUMBERED[:1]}), "short")
    saved(Dataset.from_dict({"text": NUMBERED}), "narrow")
    saved(DatasetDict(test=Dataset.from_dict({"id": [1, 2, 3, 4], "text": NUMBERED})), "elsewhere")
    for name, said in (
        ("short", "the source has 1 rows, and .* has edits for others"),
        ("narrow", r"the source has no column 'id' \(it has text\)"),
        ("elsewhere", r"the source has no split 'train' \(it has test\)"),
        ("missing.jsonl", "there is no file or folder 'missing.jsonl'"),
    ):
        with pytest.raises(SourceError, match=said) as error:
            load_edited(patch, source=name)
        one_line(error)


def test_a_source_that_is_not_on_the_hub_must_be_named(patch, folder):
    assert "source" not in (patch / PATCH).read_text().replace('"source"', "").replace("source_splits", "")
    assert str(folder) not in (patch / PATCH).read_text()
    with pytest.raises(SourceError, match="name your copy of it with source="):
        load_edited(patch)


@pytest.mark.parametrize("failing", ["map", "from_parquet"])
def test_a_full_disk_is_one_line(patch, failing, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Dataset, failing, full)
    with pytest.raises(SourceError, match="No space left on device") as error:
        load_edited(patch, source="source")
    assert "HF_DATASETS_CACHE" in one_line(error)


def test_splits_of_a_source_may_have_other_columns():
    parts = {"train": {"text": NUMBERED}, "test": {"text": NUMBERED[:2], "id": [1, 2]}, "more": {"a": [1]}}
    source = DatasetDict({name: Dataset.from_dict(columns) for name, columns in parts.items()})
    source.save_to_disk("source")
    transform = transform_of()
    edited = DatasetDict({name: source[name].map(transform, batched=True) for name in ("test",)})
    assert_same(load_edited(patched(edited, transform), source="source"), edited)
    mixed = DatasetDict(mine=edited["test"].remove_columns("id").select([1, 0]))
    assert_same(load_edited(patched(mixed, transform, "patch-2"), source="source"), mixed)


# A patch from a stranger may hold anything: it is refused in one line.


def tampered(patch: Path, change: Any) -> Path:
    """A patch with other rows."""
    path = patch / "data/train-00000-of-00001.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    return patch


def edit_with(**fields: Any) -> Any:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[1]["toedit_patch"]["edits"][0].update(fields)

    return change


BAD_EDITS = [
    {"start": -1},
    {"start": 10**15},
    {"start": None},
    {"length": -5},
    {"length": 2**62},
    {"length": None},
    {"new": None},
    {"column": None},
    {"column": "absent"},
    {"column": "toedit"},
    {"column": "id"},
    {"column": "id", "kind": "ids"},
    {"kind": "ids"},
    {"column": "text[0].content", "kind": "message"},
    {"column": "text[" + "9" * 5000 + "].content", "kind": "message"},
    {"column": "../../etc/passwd", "kind": "message"},
    {"start": 0, "length": 10},
]


@pytest.mark.parametrize("fields", BAD_EDITS, ids=lambda fields: str(fields)[:40])
def test_edits_that_do_not_fit_are_refused(patch, fields):
    with pytest.raises(SourceError, match=r"is damaged: its edits do not fit the rows") as error:
        load_edited(tampered(patch, edit_with(**fields)), source="source")
    assert "fox" not in one_line(error)


@pytest.mark.parametrize("new", ["-1", "9" * 30, "9" * 5000, "x", "", "70000"], ids=lambda new: new[:9])
def test_ids_that_are_none_are_refused(new):
    source = saved(Dataset.from_dict({"input_ids": [IDS]}, features=Features({"input_ids": List(Value("int16"))})))
    folder = patched(source.map(transform_of(), batched=True), transform_of())

    def change(rows: list[dict[str, Any]]) -> None:
        rows[0]["toedit_patch"]["edits"][0]["new"] = new

    with pytest.raises(SourceError, match="do not fit the rows"):
        load_edited(tampered(folder, change), source="source")


OTHERS = {
    "another text": edit_with(new="another"),
    "another place": lambda rows: rows[1]["toedit_patch"]["edits"][0].update(start=0, length=0),
    "another kind": edit_with(kind=None),
    "an edit less": lambda rows: rows[1]["toedit_patch"]["edits"].pop(),
    "another status": lambda rows: rows[1]["toedit_patch"].update(status="unchanged"),
    "another count": lambda rows: rows[1]["toedit_patch"].update(num_tokens=1),
    "another fingerprint": lambda rows: rows[1]["toedit_patch"].update(fingerprint="0" * 16),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_patch_that_fits_but_restores_other_rows_is_refused(patch, other):
    with pytest.raises(SourceError, match="does not restore the rows of split 'train' that were published"):
        load_edited(tampered(patch, OTHERS[other]), source="source")


def test_a_record_that_would_restore_other_keys_is_refused(patch):
    content = json.loads((patch / PATCH).read_text())
    content["edits"][0]["config"]["seed"] += 1
    (patch / PATCH).write_text(json.dumps(content))
    with pytest.raises(SourceError, match="does not restore the rows of split 'train' that were published"):
        load_edited(patch, source="source")


@pytest.mark.parametrize("place", [-1, 4, 2**62, None])
def test_places_outside_the_source_are_refused(patch, place):
    with pytest.raises(SourceError, match=r"has 4 rows, and .* has edits for others"):
        load_edited(tampered(patch, lambda rows: rows[0].update(source_row=place)), source="source")


def without(*path: Any) -> Any:
    def change(about: Any) -> None:
        for key in path[:-1]:
            about = about[key]
        del about[path[-1]]

    return change


def set_to(value: Any, *path: Any) -> Any:
    def change(about: Any) -> None:
        for key in path[:-1]:
            about = about[key]
        about[path[-1]] = value

    return change


BAD_JSON = {
    **{f"no {name}": without(name) for name in ("format", "version", "source", "splits", "edits")},
    "other format": set_to("zip", "format"),
    "version 0": set_to(0, "version"),
    "version is text": set_to("1", "version"),
    "no splits": set_to({}, "splits"),
    "splits are a list": set_to(["train"], "splits"),
    "a split outside the folder": lambda about: about["splits"].update({"../../x": about["splits"].pop("train")}),
    "no digest": without("splits", "train", "digest"),
    "columns twice": set_to(["text", "text", "toedit"], "splits", "train", "columns"),
    "only edits": set_to(["toedit"], "splits", "train", "columns"),
    "column is a number": set_to(["text", 3, "toedit"], "splits", "train", "columns"),
    "no source splits": set_to([], "splits", "train", "source_splits"),
    "a folder as the source": set_to("/etc", "source", "id"),
    "source is a number": set_to(3, "source", "id"),
    "seed": set_to("0; import os", "edits", 0, "config", "seed"),
    "huge seed": set_to(2**64, "edits", 0, "config", "seed"),
    "no config": without("edits", 0, "config"),
    "config of an edit": set_to({"seed": 0}, "edits", 0, "config"),
    "columns of an edit": set_to([["text"]], "edits", 0, "columns"),
    "fingerprint": set_to({}, "edits", 0, "fingerprint"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_patch_json_that_is_wrong_is_refused(patch, case):
    about = json.loads((patch / PATCH).read_text())
    BAD_JSON[case](about)
    (patch / PATCH).write_text(json.dumps(about))
    with pytest.raises(SourceError, match=r"patch.json can't be understood") as error:
        load_edited(patch, source="source")
    one_line(error)


def test_a_patch_json_that_is_no_json_is_refused(patch):
    for text in (b"", b"{", b"[]", b"null", b"3", b"[" * 100_000, b"\xef\xbb\xbf{}", b"\xff\xfe"):
        (patch / PATCH).write_bytes(text)
        with pytest.raises(SourceError, match=r"patch.json can't be understood"):
            load_edited(patch, source="source")


def test_a_patch_of_a_later_version_says_so(patch):
    about = json.loads((patch / PATCH).read_text())
    (patch / PATCH).write_text(json.dumps({**about, "version": 2, "splits": "all of them"}))
    with pytest.raises(SourceError, match="written by a later version of hf_toedit: pip install -U hf_toedit"):
        load_edited(patch, source="source")


def test_rows_that_are_missing_broken_or_of_another_kind_are_refused(patch):
    path = patch / "data/train-00000-of-00001.parquet"
    table, whole = pq.read_table(path), path.read_bytes()
    pq.write_table(table.slice(1), path)
    with pytest.raises(SourceError, match="does not have 4 rows"):
        load_edited(patch, source="source")
    pq.write_table(table.drop_columns("toedit_patch"), path)
    with pytest.raises(SourceError, match="has other columns than a patch"):
        load_edited(patch, source="source")
    for content in (b"", whole[: len(whole) // 2], whole[: len(whole) // 2] + whole[len(whole) // 2 + 9 :]):
        path.write_bytes(content)
        with pytest.raises(SourceError, match="is damaged") as error:
            load_edited(patch, source="source")
        one_line(error)
    path.unlink()
    with pytest.raises(SourceError, match=r"is damaged: train-00000-of-00001.parquet"):
        load_edited(patch, source="source")


def test_what_is_no_patch_is_one_line(folder):
    saved(Dataset.from_dict({"text": NUMBERED}))
    with pytest.raises(
        SourceError, match=r"'source' is not a patch \(it has no patch.json\): read it with load_dataset"
    ):
        load_edited("source")
    with pytest.raises(SourceError, match=r"there is no folder './missing'; give one that exists or the id of a patch"):
        load_edited("./missing")


# On the Hub.

SOURCE = "can't read the source 'org/source':"


@pytest.fixture
def hub_patch(hub: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetDict:
    """The edited dataset whose patch is me/patch and whose source is org/source. The caches are empty."""
    Dataset.from_dict({"text": NUMBERED}).to_parquet("rows.parquet")
    hub.add("dataset", "org/source", {"data/train-00000-of-00001.parquet": Path("rows.parquet").read_bytes()})
    edited = load_dataset("org/source").map(transform_of(), batched=True)
    (folder / "patch").mkdir()
    write_patch(edited, folder / "patch", edits_of(edited, transform_of()), Source("org/source", COMMIT))
    hub.add("dataset", "me/patch", folder / "patch")
    hub.adopt(monkeypatch, folder / "home of a reader")
    return edited


def test_a_patch_on_the_hub_reads_its_source_at_the_commit_that_was_edited(hub, hub_patch):
    later = File(b"nothing", is_large=True)
    repo = hub.repo("dataset", "org/source")
    repo.commit("main", "other rows", "org", {"data/train-00000-of-00001.parquet": later}, ())
    assert_same(load_edited("me/patch"), hub_patch)
    assert load_edited("me/patch", split="train", revision="main").to_list() == hub_patch["train"].to_list()


def test_a_reader_without_access_to_the_source_is_told(hub, hub_patch):
    hub.repo("dataset", "org/source").gated = True
    with pytest.raises(SourceError, match=f"{SOURCE} Dataset 'org/source' is a gated dataset on the Hub") as error:
        load_edited("me/patch", token=hub.stranger)
    one_line(error)
    hub.repo("dataset", "org/source").private = True
    with pytest.raises(SourceError, match=f"{SOURCE} Dataset 'org/source' doesn't exist on the Hub or cannot be"):
        load_edited("me/patch", token=hub.stranger)
    assert_same(load_edited("me/patch", token=hub.token), hub_patch)


def test_a_source_that_is_gone_or_lost_its_commit_is_told(hub, hub_patch):
    repo = hub.repos.pop(("dataset", "org/source"))
    with pytest.raises(SourceError, match=f"{SOURCE} Dataset 'org/source' doesn't exist on the Hub"):
        load_edited("me/patch")
    repo.name = "org/moved"
    hub.repos["dataset", "org/moved"] = repo
    assert_same(load_edited("me/patch", source=f"org/moved@{COMMIT}"), hub_patch)
    with pytest.raises(SourceError, match=r"can't read the source 'org/moved': Revision '1+' doesn't exist"):
        load_edited("me/patch", source=f"org/moved@{'1' * 40}")


def test_what_is_not_a_patch_on_the_hub_is_told(hub, hub_patch):
    with pytest.raises(SourceError, match=r"'org/source' is not a patch .* read it with load_dataset\('org/source'\)"):
        load_edited("org/source")
    with pytest.raises(SourceError, match="can't read the patch 'me/absent': there is no such repository"):
        load_edited("me/absent")
    hub.fail("GET /api/datasets/me/patch", 503)
    with pytest.raises(SourceError, match="can't read the patch 'me/patch': the Hub is having trouble"):
        load_edited("me/patch", revision="main")


def revert_all(rows: Dataset) -> None:
    rows.map(revert)


def test_load_dataset_shows_the_edits_of_a_patch(hub, hub_patch):
    rows = load_dataset("me/patch", split="train")
    assert rows.column_names == ["source_row", "source_digest", "toedit_patch"]
    for use in (summarize, revert_all, show):
        with pytest.raises(RowError, match="no column 'toedit'"):
            use(rows)
    for use in (summarize, show, lambda rows: edits_of(DatasetDict(train=rows), transform_of())):
        with pytest.raises(RowError, match="these are the rows of a patch: read it with load_edited"):
            use(rows)
    for struct, whole in zip(rows["toedit_patch"], hub_patch["train"]["toedit"], strict=True):
        same = [
            {**edit, "old": whole_edit["old"]} for edit, whole_edit in zip(struct["edits"], whole["edits"], strict=True)
        ]
        assert [{**edit, "length": len(edit["old"])} for edit in whole["edits"]] == same
