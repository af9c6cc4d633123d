"""A unit holds what `ds.map` and `to_parquet` would write, and all shards of an output have one schema."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile

import pyarrow.parquet as pq
import pytest
from conftest import load_tokenizer
from datasets import ClassLabel, Dataset, Features, Image, Json, List, Value, config, load_dataset
from jobs import TEXTS, FailingPrior, job_of, never, on, shards

from hf_toedit import ToEditTransform
from hf_toedit.editing.stats import summarize
from hf_toedit.scale.workers import edit_units
from hf_toedit.statuses import told_afterwards

PROSE = TEXTS[0]
ASKED, SAID = {"role": "user", "content": "Hi."}, {"role": "assistant", "content": PROSE}
IDS = load_tokenizer("demo").encode(PROSE, add_special_tokens=False).ids
ANY = {
    "text": Value("large_string"),
    "floats": List(Value("float32")),
    "when": Value("timestamp[ns]"),
    "bytes": Value("binary"),
    "pair": List(Value("int8"), length=2),
    "none": Value("null"),
    "any": Json(),
    "label": ClassLabel(names=["x", "y"]),
}
ANY_ROW = {"text": PROSE, "floats": [0.1], "when": 1, "bytes": b"\xff", "pair": [1, 2], "none": None, "label": 1}
ANY_ROW["any"] = [1, {"a": "x"}]
CALL = {**SAID, "tool_calls": [{"name": "f", "arguments": {"x": 1.5}}]}
SHAPES = {
    "text": Dataset.from_dict({"id": range(9), "text": TEXTS[:9]}),
    "an empty first row of edits": Dataset.from_dict({"text": ["", "", None, PROSE, *TEXTS[:5]]}),
    "all skipped": Dataset.from_dict({"text": ["", None] * 5}),
    "all null": Dataset.from_dict({"text": [None] * 9}, features=Features({"text": Value("string")})),
    "a null column": Dataset.from_dict({"text": TEXTS[:9], "none": [None] * 9}),
    "null until the last unit": Dataset.from_dict({"text": TEXTS[:9], "note": [None] * 8 + ["x"]}),
    "messages": Dataset.from_dict({"messages": [[ASKED, SAID], [ASKED, {**SAID, "content": None}], [], None] * 3}),
    "ShareGPT": Dataset.from_dict(
        {"conversations": [[{"from": "human", "value": "Hi."}, {"from": "gpt", "value": PROSE}]] * 9}
    ),
    "JSON messages": Dataset.from_dict(
        {"messages": [[ASKED, CALL], [ASKED], None] * 3, "tools": [[{"f": {}}], None, []] * 3},
        features=Features({"messages": List(Json()), "tools": List(Json())}),
    ),
    "ids with masks": Dataset.from_dict(
        {
            "input_ids": [IDS, IDS[::-1], []] * 3,
            "labels": [[-100] * 9 + IDS[9:], [-100] * len(IDS), []] * 3,
            "attention_mask": [[1] * len(IDS), [1] * len(IDS), []] * 3,
        },
        features=Features(
            {"input_ids": List(Value("int32")), "labels": List(Value("int64")), "attention_mask": List(Value("int8"))}
        ),
    ),
    "packed": Dataset.from_dict(
        {"input_ids": [IDS + IDS[:20] + IDS] * 9, "seq_lengths": [[len(IDS), 20, len(IDS)]] * 9}
    ),
    "images": Dataset.from_list(
        [{"text": text, "images": [{"bytes": bytes([i]), "path": None}]} for i, text in enumerate(TEXTS[:9])],
        features=Features({"text": Value("string"), "images": List(Image())}),
    ),
    "any type": Dataset.from_list([ANY_ROW] * 9, features=Features(ANY)),
    "a question and its answer": Dataset.from_dict(
        {"question": ["Why?", None, ""] * 3, "answer": [PROSE, "", None] * 3}
    ),
}


def raw(rows):
    """The rows as they are stored: images are not decoded."""
    return rows.with_format("arrow")[:].to_pylist()


def written(job):
    return [pq.ParquetFile(io.BytesIO(data)) for data in shards(job).values()]


def read(job):
    return load_dataset("parquet", data_dir=str(job.storage.path / ".toedit/data"), split="train")


@pytest.mark.parametrize("name", SHAPES)
def test_units_equal_map_and_have_one_schema(name, folder):
    rows = SHAPES[name]
    job = job_of("out", rows, FailingPrior(never), batch_size=2, unit_bytes=rows.data.nbytes // 3)
    edit_units(job, job.to_do())
    assert len(written(job)) > 2
    assert len({file.schema_arrow.serialize().to_pybytes() for file in written(job)}) == 1
    edited = read(job)
    with told_afterwards():
        expected = rows.map(job.transform, batched=True)
    assert edited.column_names == expected.column_names
    assert edited.features == expected.features
    assert raw(edited) == raw(expected)
    counts = [job.manifest(number).stats for number in range(len(job.plan.units))]
    assert sum(stats.num_rows for stats in counts) == len(rows)
    assert sum(stats.tokens.num_changed for stats in counts) == summarize(expected).tokens.num_changed


@pytest.mark.parametrize("name", SHAPES)
def test_a_failed_row_of_any_shape_passes_through_as_it_is(name, folder):
    rows = SHAPES[name]
    job = job_of("out", rows, FailingPrior(on(0)), batch_size=4)
    edit_units(job, job.to_do())
    with told_afterwards():
        edited = raw(rows.map(ToEditTransform(FailingPrior(never), exclude_target=True), batched=True))
    found = raw(read(job))
    assert read(job).features == rows.features | {"toedit": read(job).features["toedit"]}
    failed = [row["toedit"]["status"] == "skipped:prior_failed" for row in found]
    assert any(failed) == any(row["toedit"]["status"] == "edited" for row in edited)
    for source, row, other, is_failed in zip(raw(rows), found, edited, failed, strict=True):
        assert row == ({**source, "toedit": row["toedit"]} if is_failed else other)
        assert not is_failed or not row["toedit"]["edits"]


def test_shards_are_written_as_datasets_writes_them(folder):
    """With a page index, and in chunks by content, so that a shard that changes a little is uploaded in part."""
    job = job_of("out", SHAPES["text"], FailingPrior(never))
    edit_units(job, job.to_do())
    [file, *_] = written(job)
    assert json.loads(file.metadata.metadata[b"content_defined_chunking"]) == config.DEFAULT_CDC_OPTIONS
    assert file.metadata.row_group(0).column(0).has_offset_index
    assert json.loads(file.metadata.metadata[b"huggingface"])["info"]["features"]["text"]["dtype"] == "string"
    manifest = job.manifest(0)
    data = shards(job)[manifest.shard]
    assert (manifest.num_bytes, manifest.digest) == (len(data), hashlib.blake2b(data, digest_size=16).hexdigest())


def test_a_unit_leaves_no_file_behind(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    job = job_of("out", SHAPES["text"], FailingPrior(never))
    before = {path for path in tmp_path.rglob("*") if ".toedit" not in path.parts}
    edit_units(job, job.to_do())
    assert {path for path in tmp_path.rglob("*") if ".toedit" not in path.parts} == before
    assert {path.name for path in (folder / "out/.toedit").iterdir()} - {"tmp"} == {
        "plan.json",
        "transform.pkl",
        "source",
        "units",
        "data",
    }
    assert not [*(folder / "out/.toedit").glob("tmp/*")]
