"""The rows of a unit: those that `load_source` gives for the whole source, wherever the units begin and end."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Image,
    Json,
    LargeList,
    List,
    Value,
    concatenate_datasets,
    load_dataset,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import one_line

from hf_toedit import SourceError
from hf_toedit.files.sources import load_source
from hf_toedit.scale.json_lines import line_ends
from hf_toedit.scale.planning import Planned, plan_source
from hf_toedit.scale.reading import Reader
from hf_toedit.scale.storage import LocalFolder

pytestmark = pytest.mark.usefixtures("folder")
SECRET = "ein Geheimnis"
SOME = settings().max_examples // 4  # examples that read files
MODULES = ["json_lines", "planning", "reading"]


@pytest.fixture(autouse=True)
def _no_progress_bars() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@contextmanager
def planned(sources: str | list[str], unit_bytes: int, **options: Any) -> Iterator[tuple[Planned, Reader]]:
    """The plan of a source, with what reads its units."""
    names = [sources] if isinstance(sources, str) else sources
    with TemporaryDirectory() as out:
        storage = LocalFolder(out)
        plan = plan_source(names, storage, unit_bytes=unit_bytes, **options)
        errors = options.get("encoding_errors", "strict")
        yield plan, Reader(storage, plan.as_features(), plan.files, unit_bytes, errors)
        assert not storage.names(".toedit/tmp")


def read(sources: str | list[str], unit_bytes: int, **options: Any) -> DatasetDict:
    """All units of a source, put together again."""
    with planned(sources, unit_bytes, **options) as (plan, reader):
        parts: dict[str, list[Dataset]] = {}
        for unit in plan.units:
            assert unit.shard == len(parts.setdefault(unit.split, []))
            parts[unit.split].append(reader.read(unit))
        return DatasetDict({split: concatenate_datasets(rows) for split, rows in parts.items()})


def check_equal(ours: DatasetDict, theirs: DatasetDict) -> None:
    full = {split: rows for split, rows in theirs.items() if len(rows)}
    assert list(ours) == list(full)
    for split, rows in full.items():
        assert ours[split].features == rows.features
        assert ours[split].data.table.schema.equals(rows.data.table.schema)
        assert ours[split].with_format("arrow")[:].equals(rows.with_format("arrow")[:])


def check(sources: str | list[str], unit_bytes: int, **options: Any) -> None:
    """The claim: units are `load_source` in parts."""
    check_equal(read(sources, unit_bytes, **options), load_source(sources, **options))


def write(name: str, content: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def lines(*rows: Any, end: str = "\n") -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)


# JSON Lines

VALUES = {
    "text": st.text(st.characters(codec="utf-8", exclude_characters="\ufeff"), max_size=20) | st.just('"quoted"'),
    "number": st.integers(-9, 9),
    "score": st.floats(-1, 1, width=16),
    "day": st.sampled_from(["2024-05-06", "2024-05-07", "a day"]),
    "tags": st.lists(st.sampled_from(["a", "b"]), max_size=2),
    "info": st.fixed_dictionaries({"a": st.integers(0, 3)}, optional={"b": st.booleans()}),
    "messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text("xé\n", max_size=3)})),
}
ROWS = st.lists(
    st.fixed_dictionaries({}, optional={k: st.none() | v for k, v in VALUES.items()}), min_size=1, max_size=8
)
ENDS = st.sampled_from(["\n", "\n", "\r\n", " \n"])


@st.composite
def json_files(draw: st.DrawFn) -> list[bytes]:
    """One to three files of rows with the same kinds of values."""
    names = draw(st.sets(st.sampled_from(sorted(VALUES)), min_size=1))
    files = []
    for number in range(draw(st.integers(1, 3))):
        rows = [{k: v for k, v in row.items() if k in names} for row in draw(ROWS)]
        if number == 0:
            rows[0] = {name: draw(VALUES[name]) for name in sorted(names)}
        text = "".join(lines(row, end=draw(ENDS)) for row in rows)
        files.append(
            draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + (text if draw(st.booleans()) else text.rstrip()).encode()
        )
    return files


@settings(max_examples=SOME, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(json_files(), st.integers(1, 6))
def test_json_lines_equal_load_source_wherever_units_begin(contents, num_units):
    names = [write(f"{i}.jsonl", content) for i, content in enumerate(contents)]
    try:
        theirs = load_source(names)
    except SourceError:  # such as a BOM in a later file beside a column of mixed types
        return
    check_equal(read(names, max(1, max(map(len, contents)) // num_units)), theirs)


@contextmanager
def chunks_of(num_bytes: int) -> Iterator[None]:
    """Chunks as small as that, in place of 10 MiB."""
    patches = [mock.patch(f"hf_toedit.scale.{module}.CHUNK_BYTES", num_bytes) for module in MODULES]
    with patches[0], patches[1], patches[2]:
        yield


@settings(max_examples=SOME, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["2024-05-06", "2024-05-07", "a day", "x"]), min_size=1, max_size=40),
    st.integers(20, 300),
    st.integers(1, 900),
)
def test_chunks_are_those_of_datasets_in_which_types_are_inferred(days, chunk, unit_bytes):
    """A text that looks like a date in all lines of a chunk is written as `datasets` writes timestamps."""
    name = write("a.jsonl", lines({"day": "first"}, *({"day": day, "n": i} for i, day in enumerate(days))))
    theirs = load_dataset(
        "json",
        data_files=[os.path.abspath(name)],
        chunksize=chunk,
        features=Features({"day": Value("string"), "n": Value("int64")}),
    )
    with chunks_of(chunk), mock.patch("hf_toedit.scale.planning._json_features", return_value=theirs["train"].features):
        check_equal(read(name, unit_bytes), theirs)


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 50), st.booleans())
def test_line_ends_are_where_datasets_ends_its_chunks(lengths, step, ended):
    content = b"\n".join(b"x" * length for length in lengths) + b"\n" * ended
    name = write("a", content)
    with open(name, "rb") as file:
        expected = []
        while file.read(step):  # as in datasets/packaged_modules/json
            file.readline()
            expected.append(file.tell())
    with open(name, "rb") as file:
        assert list(line_ends(file, len(content), step)) == expected


@pytest.mark.parametrize(
    "content",
    [
        "\n\n" + lines({"text": "a"}) + "\n \n" + lines({"text": "b"}) + "\n\n",
        lines({"text": "a"}, {"text": ["b", 1]}, {"text": {"c": 2}}),  # of mixed types: Json
        lines({"tools": [{"a": 1}, {"b": "x"}]}, {"tools": []}, {"tools": None}),
        '[{"text": "a"}, {"text": "b"}]',
        '{"text": "a",\n "n": 1}\n{"text": "b",\n "n": 2}\n',
        '{"text": "a", "n": 1}',
        '["a", "b"]',
        lines({"text": "a" * 5000}, {"text": "b"}, {"text": "c" * 3000}),
        lines({"a.b": 1, "text": "x", "": "y"}),
        lines({"text": None}, {"text": None}),
        lines({"text": ""}, {"text": ""}),
    ],
)
@pytest.mark.parametrize("unit_bytes", [1, 16, 1 << 30])
def test_unusual_json_equals_load_source(content, unit_bytes):
    check(write("a.json", content), unit_bytes)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_read_whole(pack):
    suffix = {gzip: "gz", bz2: "bz2", lzma: "xz"}[next(m for m in (gzip, bz2, lzma) if m.compress is pack)]
    names = [
        write(f"{n}.jsonl.{suffix}", pack(lines(*({"text": f"{n}{i}"} for i in range(20))).encode())) for n in "ab"
    ]
    check(names, 1)
    with planned(names, 1) as (plan, _):
        assert [(unit.file, unit.start, unit.stop) for unit in plan.units] == [(0, 0, -1), (1, 0, -1)]


def test_numbers_among_strings_leave_the_strings_as_they_are():
    """Where `datasets` meets a number among strings, it puts these, and all strings in later files, in quotes."""
    write("a.jsonl", lines({"id": "x", "m": [{"c": "p"}]}))
    write(
        "b.jsonl",
        lines({"id": 5, "m": [{"c": "q"}]}, {"id": 'say "y"', "m": [{"c": 1}]}, {"id": {"k": "é"}, "m": None}),
    )
    write("c.jsonl", lines({"id": "z", "m": []}))
    names = ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert load_source(names)["train"]["id"][-1] == '"z"'
    for unit_bytes in (1, 10_000):
        rows = read(names, unit_bytes)["train"]
        assert rows["id"][:] == ["x", "5", 'say "y"', '{"k": "é"}', "z"]
        assert rows["m"][:] == [[{"c": "p"}], [{"c": "q"}], [{"c": "1"}], None, []]


# Parquet


@settings(max_examples=SOME, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=3),
    st.integers(1, 25),
    st.integers(1, 3000),
    st.none() | st.integers(1, 100),
)
def test_parquet_equals_load_source_wherever_units_begin(sizes, group, unit_bytes, limit):
    names = []
    for number, size in enumerate(sizes):
        rows = [
            {"text": f"{number} {i}" * (i % 5), "n": i, "m": [{"a": None}] * (i % 3), "z": None} for i in range(size)
        ]
        schema = pa.schema(
            {"text": pa.string(), "n": pa.int64(), "m": pa.list_(pa.struct({"a": pa.float32()})), "z": pa.null()}
        )
        pq.write_table(pa.Table.from_pylist(rows, schema), f"{number}.parquet", row_group_size=group)
        names.append(f"{number}.parquet")
    check(names, unit_bytes, limit=limit)


def test_parquet_files_without_rows_are_passed_over():
    for name, texts in [("a", []), ("b", ["x", "y"]), ("c", []), ("d", ["z"])]:
        pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), f"{name}.parquet")
    assert read(["a.parquet", "b.parquet", "c.parquet", "d.parquet"], 1)["train"]["text"][:] == ["x", "y", "z"]


def test_the_features_of_parquet_files_are_kept():
    features = Features(
        {
            "text": Value("large_string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "image": Image(),
            "sound": datasets.Audio(decode=False),  # to write it takes torchcodec
            "free": Json(),
            "ids": LargeList(Value("int32")),
            "pair": List(Value("int8"), length=2),
            "matrix": datasets.Array2D((2, 2), "float32"),
            "toedit": {"edits": List({"old": Value("string"), "start": Value("int32")})},
            "nothing": Value("null"),
            "when": Value("timestamp[us, tz=UTC]"),
            "blob": Value("binary"),
        }
    )
    row = {
        "text": "a",
        "label": 1,
        "image": {"bytes": b"png", "path": "a.png"},
        "sound": None,
        "free": {"a": [1, "x"]},
        "ids": [1],
        "pair": [1, 2],
        "matrix": np.ones((2, 2)),
        "toedit": {"edits": []},
        "nothing": None,
        "when": None,
        "blob": b"\xff",
    }
    rows = [row, dict.fromkeys(features), {**row, "text": ""}]
    made = Dataset.from_list(rows, features=features)
    made.to_parquet("a.parquet")
    made.save_to_disk("saved")
    for unit_bytes in (1, 1 << 20):
        check("a.parquet", unit_bytes)
        check("saved", unit_bytes)
    assert read("saved", 1)["train"].features == features


def test_parquet_files_of_other_types_and_orders_are_cast_to_the_first():
    first = pa.schema(
        [
            pa.field("text", pa.string()),
            pa.field("n", pa.int64()),
            pa.field("p", pa.struct({"a": pa.string(), "b": pa.int32()})),
        ]
    )
    other = pa.schema(
        [
            pa.field("p", pa.struct({"b": pa.int64(), "a": pa.large_string()})),
            pa.field("n", pa.int32(), nullable=False),
            pa.field("text", pa.large_string()),
        ]
    )
    row = {"text": "a", "n": 1, "p": {"a": "x", "b": 2}}
    pq.write_table(pa.Table.from_pylist([row], first), "a.parquet")
    pq.write_table(pa.Table.from_pylist([row, row], other), "b.parquet")
    pq.write_table(pa.table({"text": ["c"]}), "c.parquet")  # missing columns are null
    check(["a.parquet", "b.parquet", "c.parquet"], 1)
    check(["b.parquet", "a.parquet"], 1 << 20)


# everything else


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,text\n1,a\n2,\n3,NA\n"),
        ("a.tsv", "id\ttext\n1\ta\n"),
        ("a.txt", "one\n\ntwo"),
        ("a.csv.gz", gzip.compress(b"text\na\nb\n", mtime=0)),
        ("folder/train.csv", "text\na\n"),
        ("folder/train.jsonl", lines({"text": "a"}, {"text": "b"})),
        ("folder/README.md", "---\nconfigs: [{config_name: default, data_files: '*.csv', sep: ';'}]\n---\n"),
    ],
)
@pytest.mark.parametrize("unit_bytes", [1, 1 << 20])
def test_other_sources_equal_load_source(name, content, unit_bytes):
    if name.endswith("README.md"):
        write("folder/a.csv", "id;text\n1;a\n2;b\n")
    write(name, content)
    check(name.split("/")[0], unit_bytes)


def test_splits_saved_with_other_columns_keep_them():
    saved = DatasetDict(a=Dataset.from_dict({"text": ["x"]}), b=Dataset.from_dict({"text": ["y"], "n": [1]}))
    saved.save_to_disk("saved")
    check("saved", 1 << 20)


def test_reading_fills_no_cache():
    write("a.jsonl", lines(*({"text": f"{i}"} for i in range(50))))
    Dataset.from_dict({"text": ["a"] * 50}).to_parquet("a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        read(name, 100)
    assert not list(Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow"))


def test_a_unit_is_read_without_the_rest_of_the_file():
    name = write("a.jsonl", lines(*({"text": f"{i:05d}"} for i in range(5000))))
    taken = []
    with chunks_of(1000), planned(name, 5000) as (plan, reader):
        assert len(plan.units) > 10

        def copied(path: str, start: int, stop: int, copy: Path) -> None:
            taken.append(stop - start)
            copy.write_bytes(Path(path).read_bytes()[start:stop])

        with mock.patch("hf_toedit.scale.reading.copy_range", copied):
            rows = reader.read(plan.units[7])
    assert taken == [plan.units[7].stop - plan.units[7].start]
    assert 0 < len(rows) < 400


# what can't be read


def refused(sources: str | list[str], unit_bytes: int = 1 << 20, **options: Any) -> str:
    with pytest.raises(SourceError) as error:
        read(sources, unit_bytes, **options)
    assert SECRET not in one_line(error)
    return str(error.value)


GOOD = {"text": "a", "n": 1}


@pytest.mark.parametrize("unit_bytes", [1, 40, 1 << 20])
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ('{"text": "' + SECRET, "line 8 is not valid JSON: "),
        (f'{{"text": "{SECRET} \\ud800", "n": 1}}\n', "line 8 has a lone surrogate (byte 25): "),
        (f'{{"text": "{SECRET}'.encode() + b' \xe9", "n": 1}\n', "line 8 is not UTF-8 (byte 25): "),
        (f'"{SECRET}"\n', "line 8 is not a JSON object"),
        (f'{{"text": "a", "n": "{SECRET}"}}\n', "line 8: 'n' is not int64, as in the first rows of the source: "),
        ('{"text": "a", "n": [1]}\n', "line 8: 'n' is not int64, as in the first rows of the source: "),
        (f'{{"text": "a", "m": "{SECRET}"}}\n', "line 8 has 'm', which the first rows of the source do not have: "),
    ],
)
def test_a_bad_line_is_named_with_its_number_in_the_file(bad, says, unit_bytes):
    write("good.jsonl", lines(*[GOOD] * 5))
    write(
        "a.jsonl",
        (lines(*[GOOD] * 4) + "\n\n" + lines(GOOD)).encode() + (bad.encode() if isinstance(bad, str) else bad),
    )
    assert refused(["good.jsonl", "a.jsonl"], unit_bytes).startswith(f"'a.jsonl' {says}")


def test_bad_bytes_are_written_out_on_request():
    content = lines(GOOD, GOOD).encode() + b'{"text": "\xe9t\xe9", "n": 2}\n{"text": "\\ud800", "n": 3}\n'
    write("a.jsonl", content)
    for unit_bytes in (1, 30, 1 << 20):
        check("a.jsonl", unit_bytes, encoding_errors="backslashreplace")


def test_a_column_that_the_first_parquet_file_lacks_is_named():
    pq.write_table(pa.table({"text": ["a"]}), "a.parquet")
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), "b.parquet")
    assert (
        refused(["a.parquet", "b.parquet"])
        == "'b.parquet' has a column 'n', which 'a.parquet' does not have: give files with the same columns"
    )


def test_parquet_that_can_not_be_read_is_named():
    pq.write_table(pa.table({"text": [SECRET * 100, "b"] * 500}), "a.parquet", compression="none", use_dictionary=False)
    content = Path("a.parquet").read_bytes()
    write("cut.parquet", content[:-100])
    assert refused("cut.parquet").startswith("can't read 'cut.parquet': ")
    assert refused("cut.parquet").endswith("; it is cut off, or is not Parquet: restore it")
    broken = bytearray(content)
    broken[4:40] = b"\xff" * 36  # the header of the first page
    write("broken.parquet", bytes(broken))
    assert refused("broken.parquet").startswith("can't read 'broken.parquet' rows 1 to 1,000: ")


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_file_that_changed_since_the_plan_is_refused_until_it_is_restored(name):
    write("a.jsonl", lines(*[GOOD] * 50))
    Dataset.from_list([GOOD] * 50).to_parquet("a.parquet", batch_size=10)
    before, file = Path(name).read_bytes(), Path(name)
    now = file.stat()
    with planned(name, 100) as (plan, reader):
        unit = plan.units[1]
        expected = reader.read(unit)[:]
        for change, says in [
            (lambda: file.rename("away"), f"can't read '{name}': No such file or directory; restore it"),
            (lambda: file.write_bytes(before[:-30]), f"'{name}' has changed since the edit began (it has "),
            (
                lambda: file.write_bytes(before),
                f"'{name}' has changed since the edit began (it was written again): restore",
            ),
        ]:
            change()
            with pytest.raises(SourceError) as error:
                reader.read(unit)
            assert one_line(error).startswith(says)
        os.utime(file, ns=(now.st_atime_ns, now.st_mtime_ns))
        assert reader.read(unit)[:] == expected


def test_a_file_that_changes_while_it_is_read_is_noticed():
    write("a.jsonl", lines(*[GOOD] * 50))
    with planned("a.jsonl", 200) as (plan, reader):
        copy = reader._json

        def changing(*args: Any) -> Any:
            table = copy(*args)
            write("a.jsonl", lines(*[GOOD] * 51))
            return table

        with mock.patch.object(reader, "_json", changing), pytest.raises(SourceError, match="has changed since"):
            reader.read(plan.units[0])
