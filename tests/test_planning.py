"""From a SOURCE to units: what stays where it is, what is copied, how units are cut; what a second call compares."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import fail, run
from datasets import Dataset, DatasetDict
from hub_store import COMMIT
from strategies import one_line
from test_reading import check, chunks_of, lines, planned, read, write
from typer.testing import CliRunner

from hf_toedit import ConfigError, SourceError, ToEditTransform
from hf_toedit.cli.command import app
from hf_toedit.files.sources import load_source
from hf_toedit.hub.source import Source
from hf_toedit.scale.json_lines import line_ends
from hf_toedit.scale.plan import Plan, Unit
from hf_toedit.scale.planning import as_bytes, check_same_files, files_read

pytestmark = pytest.mark.usefixtures("folder")
ROWS = [{"text": f"row {i}", "n": i} for i in range(100)]


def parquet(name: str, rows: Any = ROWS, group: int = 10) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(list(rows)).to_parquet(name, batch_size=group)
    return name


def ranges(sources: str | list[str], unit_bytes: int, **options: Any) -> list[tuple[int, int, int, int]]:
    with planned(sources, unit_bytes, **options) as (plan, _):
        return [(unit.file, unit.start, unit.stop, unit.num_files) for unit in plan.units]


def is_copied(sources: str | list[str], **options: Any) -> bool:
    with planned(sources, 1 << 20, **options) as (plan, _):
        copied = {not os.path.isabs(file.path) for file in plan.files}
        assert len(copied) == 1
        return copied.pop()


def test_parquet_and_json_lines_stay_where_they_are():
    parquet("a.parquet"), parquet("folder/train.parquet"), parquet("folder/test.parquet")
    write("a.jsonl", lines(*ROWS)), write("b.jsonl.gz", gzip.compress(lines(*ROWS).encode()))
    write("carded/a.jsonl", lines(*ROWS))
    write("carded/README.md", "---\nconfigs: [{config_name: one, data_files: a.jsonl}]\n---\n")
    write("a.csv", "text\na\n")
    write("array.json", json.dumps(ROWS))
    DatasetDict(train=Dataset.from_list(ROWS)).save_to_disk("saved")
    for source in ["a.parquet", "a.jsonl", "b.jsonl.gz", "folder", "carded"]:
        assert not is_copied(source), source
    for source in ["a.csv", "array.json", "saved"]:
        assert is_copied(source), source
    assert is_copied("a.parquet", split="train[10:20]")
    assert not is_copied("a.parquet", limit=3)
    assert not is_copied("folder", split="test")


def test_units_follow_row_groups_and_divide_large_ones():
    groups = [pq.ParquetFile(parquet("a.parquet")).metadata.row_group(i).total_byte_size for i in range(10)]
    size = groups[0]
    assert all(abs(other - size) < 20 for other in groups)
    assert ranges("a.parquet", 2 * size + 40) == [(0, i, i + 20, 1) for i in range(0, 100, 20)]
    assert ranges("a.parquet", size // 2 + 20) == [(0, i, i + 5, 1) for i in range(0, 100, 5)]
    assert ranges("a.parquet", 1 << 20) == [(0, 0, 100, 1)]
    assert ranges("a.parquet", 2 * size + 40, limit=25) == [(0, 0, 20, 1), (0, 20, 25, 1)]


def test_lines_are_cut_at_the_first_end_after_the_size():
    write("a.jsonl", lines(*ROWS))
    content, ends = Path("a.jsonl").read_bytes(), []
    for _, start, stop, _ in ranges("a.jsonl", 1000):
        assert content[stop - 1 : stop] == b"\n"
        assert stop == len(content) or stop - start >= 1000 > content.rfind(b"\n", 0, stop - 1) - start
        ends.append((start, stop))
    assert [start for start, _ in ends] == [0, *(stop for _, stop in ends[:-1])]
    assert ends[-1][1] == len(content)


def test_a_line_is_never_divided():
    write("a.jsonl", lines({"text": "a" * 5000}, {"text": "b"}))
    assert [stop - start for _, start, stop, _ in ranges("a.jsonl", 100)] == [5013, 14]
    check("a.jsonl", 100)
    with chunks_of(1000):
        assert [stop - start for _, start, stop, _ in ranges("a.jsonl", 1000)] == [5013, 14]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_small_files_share_a_unit(suffix):
    names = [f"{i}.{suffix}" for i in range(6)]
    for i, name in enumerate(names):
        rows = ROWS[:50] if i == 3 else ROWS[i : i + 1]
        parquet(name, rows) if suffix == "parquet" else write(name, lines(*rows))
    units = ranges(names, 1000)
    assert [unit[0] for unit in units if unit[3] > 1] == [0, 4]
    assert [unit[3] for unit in units if unit[0] == 3] == [1] * (len(units) - 2)
    check(names, 1000)


def test_splits_come_in_order_and_those_without_rows_are_named():
    (
        write("folder/train.jsonl", lines(*ROWS)),
        write("folder/test.jsonl", ""),
        write("folder/validation.jsonl", lines(*ROWS[:5])),
    )
    with planned("folder", 500) as (plan, _):
        assert list(dict.fromkeys(unit.split for unit in plan.units)) == ["train", "validation"]
        assert plan.empty_splits == ("test",)
    (
        parquet("other/train.parquet"),
        pq.write_table(
            pa.table({"text": pa.array([], pa.string()), "n": pa.array([], pa.int64())}), "other/test.parquet"
        ),
    )
    with planned("other", 500) as (plan, _):
        assert plan.empty_splits == ("test",)


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 7},
        {"limit": 1000},
        {"split": "train[:10]"},
        {"split": "train[50%:]"},
        {"split": "test"},
        {"split": "train+test"},
        {"split": "train", "limit": 3},
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_splits_and_limits_are_those_of_load_source(options, suffix):
    for split in ("train", "test"):
        Path("folder").mkdir(exist_ok=True)
        getattr(
            Dataset.from_list(ROWS if split == "train" else ROWS[:30]),
            "to_json" if suffix == "jsonl" else f"to_{suffix}",
        )(f"folder/{split}.{suffix}")
    check("folder", 500, **options)


def test_a_limit_reads_no_further_than_it_must(monkeypatch):
    write("a.jsonl", lines(*ROWS[:3]) + "{broken\n" + lines(*ROWS[3:]))
    with chunks_of(30):
        assert read("a.jsonl", 30, limit=2)["train"]["n"][:] == [0, 1]
        with pytest.raises(SourceError, match="line 4 is not valid JSON"):
            read("a.jsonl", 30)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", "", "'a.jsonl' is empty"),
        ("a.parquet", b"PAR1", "can't read 'a.parquet': "),
        ("a.jsonl", "{broken\n", "'a.jsonl' line 1 is not valid JSON: "),
        ("gone.jsonl/x", "", "there is no file or folder 'a.jsonl'"),
    ],
)
def test_a_source_that_can_not_be_planned_is_refused(name, content, says):
    write(name, content)
    source = name if "gone" not in name else "a.jsonl"
    with pytest.raises(SourceError) as error, planned(source, 100):
        pass
    assert says in one_line(error)


def test_an_unknown_split_or_subset_is_refused_as_by_load_source():
    parquet("folder/train.parquet")
    for options in ({"split": "nope"}, {"subset": "nope"}):
        with pytest.raises(SourceError) as expected:
            load_source("folder", **options)
        with pytest.raises(SourceError) as error:
            read("folder", 100, **options)
        assert one_line(error) == one_line(expected)


# the Hub


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_files_on_the_hub_are_read_there_at_the_commit_of_the_plan(hub, suffix):
    files = {}
    for split, rows in [("train", ROWS), ("test", ROWS[:20])]:
        name = f"data/{split}.{suffix}"
        write(name, lines(*rows)) if suffix == "jsonl" else parquet(name, rows)
        files[name] = Path(name).read_bytes()
    hub.add("dataset", "me/rows", files)
    expected = load_source("me/rows")
    with planned("me/rows", 300) as (plan, reader):
        assert plan.source == Source("me/rows", COMMIT)
        assert {file.path.partition("@")[2][:40] for file in plan.files} == {COMMIT}
        asked = len(hub.requests)
        first, second = map(reader.read, plan.units[:2])
        fetched = {request for request in hub.requests[asked:] if "/resolve/" in request}
        assert fetched == {f"GET /datasets/me/rows/resolve/{COMMIT}/data/train.{suffix}"}
        assert first["n"][:] + second["n"][:] == expected["train"]["n"][: len(first) + len(second)]
        write("other", lines({"text": "other"}))
        huggingface_hub.upload_file(path_or_fileobj="other", path_in_repo=name, repo_id="me/rows", repo_type="dataset")
        assert reader.read(plan.units[-1])["n"][-1] == 19
    hub.add("dataset", "me/rows", files)
    check("me/rows", 300)
    check("me/rows", 300, limit=13)
    check("me/rows", 300, split="train[10:20]")


def test_a_subset_on_the_hub_is_in_the_source(hub):
    card = b"---\nconfigs:\n- {config_name: one, data_files: a.jsonl}\n- {config_name: two, data_files: b.jsonl}\n---\n"
    hub.add(
        "dataset", "me/two", {"README.md": card, "a.jsonl": lines(*ROWS).encode(), "b.jsonl": lines(*ROWS[:9]).encode()}
    )
    with planned("me/two", 300, subset="two") as (plan, _):
        assert plan.source == Source("me/two", COMMIT, "two")
    check("me/two", 300, subset="two")


# what a second call compares


def test_a_file_that_was_added_changed_or_removed_is_named():
    write("data/a.jsonl", lines(*ROWS)), write("data/b.jsonl", lines(*ROWS))
    before = json.loads(json.dumps(files_read(["data/*.jsonl"])))
    check_same_files(before, files_read(["data/*.jsonl"]))
    check_same_files(before, files_read(["data"]))
    for change, says in [
        (lambda: write("data/c.jsonl", lines(*ROWS)), "'data/c.jsonl' is new: "),
        (lambda: os.remove("data/b.jsonl"), "'data/b.jsonl' is gone (and so on: 2 files differ): "),
        (lambda: write("data/a.jsonl", lines(*ROWS[:5])), "'data/a.jsonl' has changed (and so on: 3 files differ): "),
    ]:
        change()
        with pytest.raises(SourceError) as error:
            check_same_files(before, files_read(["data/*.jsonl"]))
        assert one_line(error).startswith("the source is not what it was when the edit began: " + says)


@pytest.mark.parametrize("source", ["a.csv", "saved", "carded"])
def test_copied_sources_are_compared_by_their_original_files(source):
    write("a.csv", "text\na\n"), write("carded/a.csv", "text\na\n"), write("carded/README.md", "x")
    Dataset.from_list(ROWS).save_to_disk("saved")
    before = files_read([source])
    assert before
    file = next(Path(path) for path in before if path.endswith(("csv", "arrow")))
    file.write_bytes(file.read_bytes() + b"b\n")
    with pytest.raises(SourceError, match=f"{file.name}' has changed"):
        check_same_files(before, files_read([source]))


CHANGES_NOTHING = ["--strategy", "random", "--rate", "0", "--distribution", "uniform"]  # and asks no model
LINE = ["--prior", "demo", *CHANGES_NOTHING, "--unit-size", "1KB", "--out", "out"]


def interrupt(monkeypatch: pytest.MonkeyPatch, source: str, stdin: str | None = None) -> None:
    """Edit a source, but fail at the end, when all units are done."""

    def dies(*_: Any) -> None:
        raise SourceError("no end")

    with monkeypatch.context() as patches:
        patches.setattr("hf_toedit.cli.edit.finish", dies)
        result = CliRunner().invoke(app, ["edit", source, *LINE], input=stdin)
        assert "error: no end" in result.stderr


def test_the_same_command_resumes_only_if_the_source_is_the_same(monkeypatch):
    write("data/a.jsonl", lines(*ROWS[:40]))
    interrupt(monkeypatch, "data")
    write("data/b.jsonl", lines(*ROWS))
    assert "'data/b.jsonl' is new: remove it, or name another output folder" in fail("edit", "data", *LINE)
    assert "data, now data/a.jsonl: repeat the options" in fail("edit", "data/a.jsonl", *LINE)
    os.remove("data/b.jsonl")
    assert "1KB, now 2KB: repeat the options" in fail("edit", "data", *LINE, "--unit-size", "2KB")
    run("edit", "data", *LINE)
    assert load_source("out")["train"]["text"][:] == [row["text"] for row in ROWS[:40]]


def test_rows_from_standard_input_are_not_read_twice(monkeypatch):
    interrupt(monkeypatch, "-", lines(*ROWS[:40]))
    result = CliRunner().invoke(app, ["edit", "-", *LINE], input="other")
    assert "note: using the rows that were read from standard input the first time" in result.stderr
    assert load_source("out")["train"]["text"][:] == [row["text"] for row in ROWS[:40]]


def test_sizes_of_units():
    assert [as_bytes(size) for size in ("1", "10B", "2KB", "1.5 MiB", "1gb")] == [1, 10, 2048, 3 << 19, 1 << 30]
    for wrong in ("", "MB", "-1MB", "1TB", "0", "1 M B"):
        with pytest.raises(ConfigError, match="must be a size, such as 128MB"):
            as_bytes(wrong)


# strategy="random"


def test_the_corpus_of_random_edits_is_counted_unit_by_unit(demo):
    write("a.jsonl", lines(*ROWS))
    whole = ToEditTransform(demo, strategy="random").fit(load_source("a.jsonl"))
    with planned("a.jsonl", 300) as (plan, reader):
        parts = ToEditTransform(demo, strategy="random").fit(map(reader.read, plan.units))
    assert (whole.unigram_counts_V == parts.unigram_counts_V).all()
    assert whole.fingerprint == parts.fingerprint


def test_a_limit_looks_for_the_ends_of_lines_no_further_than_it_reads(monkeypatch):
    write("a.jsonl", lines(*ROWS))
    found: list[int] = []

    def counted(*args: Any) -> Any:
        for end in line_ends(*args):
            found.append(end)
            yield end

    monkeypatch.setattr("hf_toedit.scale.planning.line_ends", counted)
    with chunks_of(100):
        assert len(read("a.jsonl", 100, limit=5)["train"]) == 5
    assert found
    assert max(found) < 300


class Counted(tuple[Any, ...]):
    """Counts how often all its items are looked at."""

    times = 0

    def __iter__(self) -> Any:
        Counted.times += 1
        return super().__iter__()


def test_names_of_shards_are_found_without_looking_at_all_units_each_time():
    units = [Unit("train", number, 0, number, number + 1) for number in range(20)]
    plan = Plan({}, {}, {}, (), Counted([*units, Unit("test", 0, 0, 0, 1)]), {})
    names = [plan.shard_name(number) for number in range(21)]
    assert names[19:] == ["train-00019-of-00020.parquet", "test-00000-of-00001.parquet"]
    assert len(set(names)) == 21
    assert Counted.times == 1
