"""Datatrove pipelines, and the tables of Ray Data: the rows of `ds.map`, in the same order, with the same types."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import shutil
import sys
import tempfile
import types
import warnings
from collections import Counter
from unittest import mock

import dill
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, concatenate_datasets, load_dataset
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.writers import JsonlWriter, ParquetWriter

from hf_toedit import ConfigError, RowError, StaticPrior, ToEditTransform, revert, summarize

SETTINGS = {"threshold": 0.5, "temperature": 2.0, "seed": 3}
NUM_FILES = 3
FORKS = "ignore:.*multi-threaded, use of fork:DeprecationWarning"  # datatrove's manager, from Python 3.12 on


@pytest.fixture(scope="module")
def transform(demo):
    return ToEditTransform(demo, **SETTINGS)


@pytest.fixture(scope="module")
def texts(human_texts):
    """For three files of four: one without edits, one with edits in each, one whose first text has none."""
    return ["x", "y", "z", "x", *human_texts[:4], "y", *human_texts[4:7]]


def edited(transform, rows):
    return Dataset.from_list(rows).map(transform, batched=True)


def documents(texts, **metadata):
    return [Document(text, f"id {i}", metadata=dict(metadata)) for i, text in enumerate(texts)]


def rows_of(documents):
    return [{"id": document.id, "text": document.text, **document.metadata} for document in documents]


# the step by itself


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_documents_are_edited_as_rows_are(transform, texts, batch_size):
    texts = ["", None, *texts, "", "\udc80"]
    step = transform.to_datatrove(batch_size=batch_size)
    out = rows_of(step(iter(documents(texts, url="u"))))
    expected = transform({"text": texts})
    assert [row["text"] for row in out] == expected["text"]
    assert [row["toedit"] for row in out] == expected["toedit"]
    assert [(row["id"], row["url"]) for row in out] == [(f"id {i}", "u") for i in range(len(texts))]
    assert len({row["toedit"]["status"] for row in out}) == 5


def test_batches_are_no_larger_than_asked_and_read_when_needed(transform):
    step, read = transform.to_datatrove(batch_size=2), []

    def reading():
        for document in documents(["x"] * 5):
            read.append(document)
            yield document

    out = step(reading())
    next(out)
    assert len(read) == 2
    assert len(list(out)) == 4


@pytest.mark.parametrize("data", [None, iter(())])
def test_no_documents_are_none(transform, data):
    assert list(transform.to_datatrove()(data)) == []


def test_the_statistics_of_a_task_are_those_of_its_rows(transform, texts):
    step = transform.to_datatrove(batch_size=4)
    out = list(step(documents([*texts, "", None])))
    totals = {name: stat.total for name, stat in step.stats.stats.items()}
    stats = summarize([document.metadata["toedit"] for document in out])
    assert totals.pop("total") == len(texts) + 2
    names = ("num_tokens", "num_visited", "num_visited_eligible", "num_changed")
    assert totals == {**stats.statuses, **{name: getattr(stats.tokens, name) for name in names}}
    assert stats.tokens.num_changed > 0


def test_without_the_column_documents_are_counted_all_the_same(demo, texts):
    step = ToEditTransform(demo, stats_column=None, **SETTINGS).to_datatrove()
    out = rows_of(step(documents(texts)))
    assert {*out[0]} == {"id", "text"}
    assert step.stats.stats["total"].total == len(texts)
    assert step.schema.names == ["text", "id"]


MESSAGES = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "Return a copy of the string."},
]


def test_named_columns_are_read_from_the_metadata(demo):
    transform = ToEditTransform(demo, columns="messages", **SETTINGS)
    out = rows_of(
        transform.to_datatrove(batch_size=1)([*documents(["kept"] * 2, messages=MESSAGES), *documents(["no"])])
    )
    expected = transform({"messages": [MESSAGES]})
    assert [row["messages"] for row in out[:2]] == expected["messages"] * 2 != [MESSAGES] * 2
    assert [row["text"] for row in out] == ["kept", "kept", "no"]
    assert out[2]["toedit"]["status"] == "skipped:null"
    assert "messages" not in out[2]


def test_token_ids_are_edited_in_the_metadata_with_their_labels(demo, texts):
    transform = ToEditTransform(demo, columns="input_ids", **SETTINGS)
    ids = demo.tokenizer.encode(texts[-1]).ids
    row = {"input_ids": ids, "labels": [-100, *ids[1:]]}
    (document,) = transform.to_datatrove()(documents(["-"], **row))
    assert document.metadata == {
        name: values[0] for name, values in transform({k: [v] for k, v in row.items()}).items()
    }
    assert document.metadata["labels"][1:] == document.metadata["input_ids"][1:] != ids[1:]


def test_context_is_read_from_the_metadata(demo, texts):
    transform = ToEditTransform(demo, columns="text", context="title", **SETTINGS)
    out = rows_of(transform.to_datatrove()(documents(texts, title="The manual")))
    expected = transform({"title": ["The manual"] * len(texts), "text": texts})
    assert (
        [row["text"] for row in out] == expected["text"] != ToEditTransform(demo, **SETTINGS)({"text": texts})["text"]
    )
    with pytest.raises(RowError, match="no column 'title'"):
        list(transform.to_datatrove()(documents(texts)))


def test_other_metadata_never_replaces_the_text_by_default(transform, texts):
    out = rows_of(transform.to_datatrove()(documents(texts, messages=MESSAGES, input_ids=[1, 2])))
    assert [row["text"] for row in out] == transform({"text": texts})["text"]
    assert all(row["messages"] == MESSAGES for row in out)


def test_an_earlier_edit_is_not_overwritten(transform, demo):
    once = list(transform.to_datatrove()(documents(["x"])))
    with pytest.raises(RowError, match="'toedit' already exists"):
        list(transform.to_datatrove()(once))
    again = ToEditTransform(demo, stats_column="toedit_1", generation=1).to_datatrove()
    assert {*next(again(once)).metadata} == {"toedit", "toedit_1"}
    assert again.schema.names == ["text", "id", "toedit_1"]


class Loading:
    """A prior that counts, in its process, how often it is loaded, and is pickled without what it has loaded."""

    loads = 0

    def __init__(self, prior):
        self.prior, self.tokenizer, self.max_length, self.stride = prior, prior.tokenizer, None, 0

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "loaded"}

    def score(self, requests, top_k):
        if "loaded" not in self.__dict__:
            self.loaded = True
            Loading.loads += 1
        return self.prior.score(requests, top_k)


def halves(input_ids, t):
    return {int(input_ids[t]): 0.5, 383: 0.5}


@pytest.fixture
def loading(demo, monkeypatch):
    monkeypatch.setattr("hf_toedit.pipeline_step._loaded", {})
    Loading.loads = 0
    return ToEditTransform(Loading(StaticPrior(demo.tokenizer, halves)), exclude_target=True, threshold=0.5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), lambda x: dill.copy(x)])
def test_copies_of_a_step_do_the_same_and_load_nothing_again(loading, texts, copied):
    step = loading.to_datatrove()
    outs = [rows_of(copied(step)(documents(texts))) for _ in range(3)]
    outs += [rows_of(loading.to_datatrove()(documents(texts)))]
    assert Loading.loads == 1
    assert all(out == outs[0] for out in outs)
    other = ToEditTransform(loading.prior, threshold=0.4).to_datatrove()  # another edit is another transform
    assert rows_of(other(documents(texts))) != outs[0]


def test_a_prior_that_cannot_be_pickled_is_one_line(demo):
    answers = ({0: 1.0} for _ in range(9))
    prior = StaticPrior(demo.tokenizer, lambda ids, t: next(answers))
    with pytest.raises(ConfigError, match=r"^datatrove copies .* can't be pickled: .*generator.*; give one by name$"):
        ToEditTransform(prior).to_datatrove()


def test_without_datatrove_the_error_names_the_extra(transform, monkeypatch):
    monkeypatch.delitem(sys.modules, "hf_toedit.pipeline_step", raising=False)
    monkeypatch.setitem(sys.modules, "datatrove.data", None)
    with pytest.raises(ConfigError, match=r"to_datatrove needs datatrove: .*; pip install 'hf-toedit\[slurm\]'$"):
        transform.to_datatrove()


# pipelines


def run(folder, *steps, workers=1):
    """Run a pipeline with a task for each file."""
    with mock.patch.dict(os.environ):  # the executor leaves variables there
        executor = LocalPipelineExecutor(
            list(steps), tasks=NUM_FILES, workers=workers, logging_dir=str(folder / f"logs-{workers}")
        )
        return executor.run()


@pytest.fixture
def sources(folder, texts):
    """A folder with three Parquet files of four rows."""
    rows = Dataset.from_list([{"id": f"id {i}", "text": text, "number": i} for i, text in enumerate(texts)])
    for file in range(NUM_FILES):
        rows.shard(NUM_FILES, file, contiguous=True).to_parquet(f"in/{file}.parquet")
    return folder / "in"


@pytest.mark.filterwarnings(FORKS)
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_pipeline_writes_the_rows_of_map(sources, folder, transform, texts, workers):
    """The first file has no edits, the types are the same all the same, and `revert` undoes the others."""
    step = transform.to_datatrove(batch_size=3)
    schema = step.schema.append(pa.field("number", pa.int64()))
    writer = ParquetWriter(str(folder / "out"), expand_metadata=True, schema=schema, batch_size=2)
    stats = run(folder, ParquetReader(str(sources)), step, writer, workers=workers)

    expected = edited(transform, [{"text": text, "id": f"id {i}", "number": i} for i, text in enumerate(texts)])
    files = sorted((folder / "out").glob("*.parquet"))
    assert len(files) == NUM_FILES
    assert pa.concat_tables(map(pq.read_table, files)).to_pylist() == [
        {name: row[name] for name in schema.names} for row in expected
    ]
    assert {
        Features.from_arrow_schema(pq.read_schema(file))["toedit"] == expected.features["toedit"] for file in files
    } == {True}
    assert not summarize(pq.read_table(files[0]).to_pylist()).tokens.num_changed
    again = load_dataset("parquet", data_files=[*map(str, files)], split="train")
    assert again.map(revert)["text"] == texts
    assert again["text"] != texts

    of_step = stats.stats[1]
    assert of_step["total"].total == len(texts)
    assert of_step["num_changed"].total == summarize(again).tokens.num_changed
    assert Counter(again.flatten()["toedit.status"]) == {
        status: of_step[status].total for status in ("edited", "unchanged")
    }


@pytest.mark.slow
@pytest.mark.filterwarnings(FORKS)
def test_each_worker_takes_a_device_of_its_own(folder):
    def note_rank(data, rank, world_size):
        import time

        from hf_toedit.priors.devices import _process_rank

        time.sleep(1)  # until the other worker is there
        (folder / f"{rank}.txt").write_text(str(_process_rank() % 2))
        yield from ()

    run(folder, note_rank, workers=2)
    assert {(folder / f"{rank}.txt").read_text() for rank in range(NUM_FILES)} == {"0", "1"}


@pytest.mark.filterwarnings(FORKS)
def test_tasks_in_one_process_share_a_prior(sources, folder, loading):
    run(folder, ParquetReader(str(sources)), loading.to_datatrove())
    assert Loading.loads == 1
    executor = json.loads((folder / "logs-1/executor.json").read_text())
    assert executor["pipeline"][1]["transform"] == repr(loading)


@pytest.mark.filterwarnings(FORKS)
def test_without_the_schema_a_first_document_without_edits_fails(sources, folder, transform):
    """This is datatrove's: when it no longer fails, `schema` can go."""
    writer = ParquetWriter(str(folder / "out"), batch_size=1)
    with pytest.raises(ValueError, match="schema"):
        run(folder, ParquetReader(str(sources)), transform.to_datatrove(), writer)


@pytest.mark.filterwarnings(FORKS)
def test_json_lines_lose_empty_texts_and_keep_the_rest(folder, transform, texts):
    pytest.importorskip("orjson", reason="needs the extra `slurm`")
    (folder / "in").mkdir()
    lines = [json.dumps({"text": text, "id": str(i)}) + "\n" for i, text in enumerate(["", *texts, ""])]
    for file in range(NUM_FILES):
        (folder / f"in/{file}.jsonl").write_text("".join(lines[file::NUM_FILES]))
    step = transform.to_datatrove()
    reader = JsonlReader(str(folder / "in"), add_file_path=False)
    run(folder, reader, step, JsonlWriter(str(folder / "out"), expand_metadata=True))
    files = [str(folder / f"out/{file:05}.jsonl.gz") for file in range(NUM_FILES)]
    again = load_dataset("json", data_files=files, features=Features.from_arrow_schema(step.schema), split="train")
    rows = [{"text": text, "id": str(i + 1)} for i, text in enumerate(texts)]
    expected = [row for file in range(NUM_FILES) for row in rows if int(row["id"]) % NUM_FILES == file]
    expected = edited(transform, expected)
    assert again.to_list() == expected.select_columns(step.schema.names).to_list()
    assert again.features["toedit"] == expected.features["toedit"]


# tables


IDS = [[5, 6, 7, 8], [5, 6], [], [9] * 6]
ROWS = {
    "text": [
        {"text": text, "n": i or None, "image": b"\xff" * i} for i, text in enumerate(["x", None, "", "Return a copy."])
    ],
    "messages": [{"messages": MESSAGES, "n": None}, {"messages": None, "n": 1}, {"messages": MESSAGES[:1], "n": 2}],
    "ids": [{"input_ids": ids, "labels": [-100, *ids[1:]] if i else None} for i, ids in enumerate(IDS)],
    "pair": [{"prompt": "What is it?", "completion": f"Return a copy of string {i}."} for i in range(3)],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_tables_are_edited_as_datasets_are(demo, rows):
    transform = ToEditTransform(demo, **SETTINGS)
    table = pa.Table.from_pylist(rows)
    out, expected = transform(table), edited(transform, rows)
    assert out.to_pylist() == expected.to_list()
    assert out.column_names == [*table.column_names, "toedit"]
    assert out.schema.field("toedit").type == expected.features.arrow_schema.field("toedit").type
    assert [out.schema.field(name) for name in table.column_names] == [*table.schema]
    chunks = [transform(table.slice(i, 1)) for i in range(len(rows))]
    assert pa.concat_tables(chunks).equals(out)  # a block without edits has the same types


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_table_keeps_the_types_of_text(transform, texts, kind):
    table = pa.table({"text": pa.array(texts).cast(kind) if kind != pa.string_view() else pa.array(texts, kind)})
    out = transform(table)
    assert out.schema.field("text").type == kind
    assert out["text"].to_pylist() == transform({"text": texts})["text"]


def test_arrays_of_a_ray_actor_are_refused_and_lists_are_not(transform, monkeypatch):
    import numpy as np

    batch = {"text": np.array(["x", None], dtype=object), "n": np.array([1.0, np.nan])}
    assert transform(batch)["text"] == ["x", None]
    context = types.SimpleNamespace(get_actor_id=lambda: "1")
    ray = types.SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(RowError, match=r"^Ray's numpy batches lose types and nulls: .*batch_format='pyarrow'"):
        transform(batch)
    with pytest.raises(RowError, match=r"not as a table of pandas: .*batch_format='pyarrow'"):
        transform(Dataset.from_dict({"text": ["x"]}).to_pandas())
    assert transform({"text": ["x"]})["text"] == ["x"]
    context.get_actor_id = lambda: None
    assert transform(batch)["text"] == ["x", None]


# Ray


def of_ray(test):
    """Starting a cluster takes seconds, and so does each actor. Warnings within Ray are not ours."""
    return pytest.mark.slow(pytest.mark.filterwarnings("ignore")(test))


@pytest.fixture(scope="module")
def ray():
    """A local cluster of two CPUs."""
    pytest.importorskip("ray", reason="needs the extra `ray`")
    import ray
    import ray.data

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets need a short path
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    try:
        with mock.patch.dict(os.environ, RAY_USAGE_STATS_ENABLED="0"), warnings.catch_warnings(action="ignore"):
            ray.init(num_cpus=2, _temp_dir=folder, **quiet)
            logging.getLogger("ray.data").setLevel("CRITICAL")
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars, context.execution_options.preserve_order = False, True
            yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def map_batches(ray, ds, size=1, **options):
    return ds.map_batches(
        ToEditTransform,
        fn_constructor_kwargs={"prior": "demo", **SETTINGS},
        compute=ray.data.ActorPoolStrategy(size=size),
        **{"batch_format": "pyarrow", "batch_size": 3, **options},
    )


@of_ray
@pytest.mark.parametrize("name", ROWS)
def test_ray_gives_the_rows_of_map(ray, demo, name):
    """The first block has no edits; texts go through two actors."""
    rows = ROWS[name] * 4
    ds = ray.data.from_items(rows, override_num_blocks=4)
    out = map_batches(ray, ds, size=1 + (name == "text"), batch_size=2).materialize()
    expected = edited(ToEditTransform(demo, **SETTINGS), rows)
    assert out.take_all() == expected.to_list()
    kind = expected.features.arrow_schema.field("toedit").type
    assert {block.schema.field("toedit").type for block in ray.get(out.get_internal_block_refs())} == {kind}
    assert summarize(out.iter_rows()).to_dict() == summarize(expected).to_dict()


@of_ray
def test_ray_reads_and_writes_parquet_as_datasets_does(ray, demo, folder, texts):
    rows = Dataset.from_list([{"text": text, "n": i} for i, text in enumerate(texts)])
    for file in range(NUM_FILES):
        rows.shard(NUM_FILES, file, contiguous=True).to_parquet(f"in/{file}.parquet")
    map_batches(ray, ray.data.read_parquet(str(folder / "in"))).write_parquet(str(folder / "out"))
    again = load_dataset("parquet", data_files="out/*.parquet", split="train")
    expected = rows.map(ToEditTransform(demo, **SETTINGS), batched=True)
    assert sorted(again, key=lambda row: row["n"]) == expected.to_list()  # write_parquet may mix its files
    assert again.features == expected.features


@of_ray
def test_ray_turns_arrays_of_ids_into_lists_and_refuses_other_batches(ray, demo):
    rows = [{"input_ids": ids} for ids in IDS if ids]
    arrays = ray.data.from_items(rows).map_batches(lambda batch: batch, batch_format="numpy")
    assert map_batches(ray, arrays).take_all() == edited(ToEditTransform(demo, **SETTINGS), rows).to_list()
    for batch_format, line in (("numpy", "numpy batches lose types"), ("pandas", "table of pandas")):
        with pytest.raises(ray.exceptions.RayTaskError) as error:
            map_batches(ray, ray.data.from_items(ROWS["text"]), batch_format=batch_format).take_all()
        assert line in str(error.value)


def test_both_give_what_two_halves_give(transform, texts):
    """Blocks and tasks cut the rows anywhere."""
    rows = [{"text": text} for text in texts]
    halves = concatenate_datasets([edited(transform, rows[:5]), edited(transform, rows[5:])])
    assert halves.to_list() == edited(transform, rows).to_list()
