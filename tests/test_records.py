"""What the rows of a dataset say about their edits is what its records say."""

from __future__ import annotations

import dataclasses
import json
import pickle
from itertools import islice
from pathlib import Path

import pytest
from conftest import load_tokenizer
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset, load_from_disk
from huggingface_hub import HfApi

from hf_toedit import ConfigError, RowError, SourceError, StaticPrior, ToEditTransform, summarize
from hf_toedit.experiments.docstrings import docstrings, standard_library
from hf_toedit.hub.records import EARLIER, edits_of, records_of
from hf_toedit.hub.source import Source, source_of

pytestmark = pytest.mark.usefixtures("folder")
SETTINGS = {"threshold": 0.4, "exclude_target": True}


@pytest.fixture(scope="module")
def texts():
    return [row["text"][:200] for row in islice(docstrings(standard_library()), 40, 52)]


@pytest.fixture(scope="module")
def first(demo):
    return ToEditTransform(demo, **SETTINGS)


@pytest.fixture(scope="module")
def second(demo):
    return ToEditTransform(demo, **SETTINGS, generation=1, stats_column="again")


@pytest.fixture(scope="module")
def edited(texts, first):
    return Dataset.from_dict({"text": texts}).map(first, batched=True)


@pytest.fixture(scope="module")
def twice(edited, second):
    return edited.map(second, batched=True)


def facts(edits):
    return [(edit.fingerprint, edit.stats_column, dict(edit.stats), dict(edit.changes)) for edit in edits]


def num_edits(rows, column="toedit"):
    return sum(len(struct["edits"]) for struct in rows[column])


def test_one_edit_is_told_with_its_statistics_by_split_and_column(edited, first):
    [edit] = edits_of(DatasetDict(train=edited, test=edited.select([3])), first)
    assert edit.record == first.provenance()
    assert edit.stats == {"train": summarize(edited), "test": summarize(edited.select([3]))}
    assert edit.changes["train"] == {"text": num_edits(edited)}
    assert (edit.fingerprint, edit.stats_column) == (first.fingerprint, "toedit")


def test_two_edits_in_a_row_are_both_told_in_their_order(twice, first, second):
    for given in (
        [first, second],
        [second.provenance(), first],
        {**second.provenance(), EARLIER: [first.provenance()]},
    ):
        edits = edits_of(DatasetDict(train=twice), given)
        assert [edit.fingerprint for edit in edits] == [first.fingerprint, second.fingerprint]
        assert [edit.stats_column for edit in edits] == ["toedit", "again"]
        assert edits[1].stats["train"] == summarize(twice, "again")
    for lone in (first, second):
        with pytest.raises(RowError, match=r"another edit made rows of .*transform=\[first, second\]"):
            edits_of(DatasetDict(train=twice), lone)


def test_concatenated_parts_are_each_told_with_their_own_statistics(edited, texts, first, demo):
    other = ToEditTransform(demo, **SETTINGS, seed=5)
    part = Dataset.from_dict({"text": texts[:5]}).map(other, batched=True)
    mixed = concatenate_datasets([edited.select(range(4)), part, edited.select(range(4, len(edited)))])
    edits = edits_of(DatasetDict(train=mixed, test=part), [other, first])
    assert facts(edits) == [
        (other.fingerprint, "toedit", {s: summarize(part) for s in ("train", "test")}, edits[0].changes),
        (first.fingerprint, "toedit", {"train": summarize(edited)}, {"train": {"text": num_edits(edited)}}),
    ]
    with pytest.raises(RowError, match=f"fingerprint {other.fingerprint}; given: {first.fingerprint}"):
        edits_of(DatasetDict(train=mixed), first)


def test_a_transform_that_edited_no_row_is_refused(edited, texts, first, demo):
    other = ToEditTransform(demo, **SETTINGS, seed=5)
    with pytest.raises(RowError, match=f"no row has the fingerprint {other.fingerprint}"):
        edits_of(DatasetDict(train=edited), [first, other])
    with pytest.raises(RowError, match="another edit made rows"):
        edits_of(DatasetDict(train=edited), other)
    with pytest.raises(RowError, match=r"no column 'toedit' \(columns: 'text'\)"):
        edits_of(DatasetDict(train=Dataset.from_dict({"text": texts})), first)


def test_rows_that_were_not_edited_are_not_counted(edited, texts, first):
    mixed = concatenate_datasets([edited, Dataset.from_dict({"text": texts[:3]})])
    assert mixed[-1]["toedit"] is None
    unedited = Dataset.from_dict({"text": texts})
    [edit] = edits_of(DatasetDict(train=mixed, test=unedited), first)
    assert edit.stats == {"train": summarize(edited)}


def exact(stats):
    """Statistics without what rounds when it is added in another order or written as decimals."""
    return dataclasses.replace(stats, tokens=dataclasses.replace(stats.tokens, logprob_sum=0.0))


def to_disk(rows, folder):
    rows.save_to_disk("disk")
    return load_from_disk("disk")


def to_parquet(rows, folder):
    rows.to_parquet("rows.parquet")
    return load_dataset("parquet", data_files="rows.parquet", split="train")


def to_json(rows, folder):
    rows.to_json("rows.jsonl")
    return load_dataset("json", data_files="rows.jsonl", split="train")


MOVES = {
    "save_to_disk": to_disk,
    "Parquet": to_parquet,
    "JSON Lines": to_json,
    "pickle": lambda rows, folder: pickle.loads(pickle.dumps(rows)),
    "format": lambda rows, folder: rows.with_format("numpy"),
    "shuffle": lambda rows, folder: rows.shuffle(seed=1),
    "cast": lambda rows, folder: rows.cast(rows.features),
    "rename": lambda rows, folder: rows.rename_column("toedit", "made_by").rename_column("text", "body"),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_provenance_survives(move, edited, first, folder):
    moved = move(edited, folder)
    [edit] = edits_of(DatasetDict(other=moved), first)
    assert exact(edit.stats["other"]) == exact(summarize(edited))
    assert edit.changes["other"] == {"text": num_edits(edited)}


def test_every_column_that_was_edited_is_counted(demo):
    pairs = Dataset.from_dict({"prompt": ["Return the"] * 3, "completion": [" number of items in the list."] * 3})
    chats = [{"role": role, "content": "Return the number of items in the list."} for role in ("user", "assistant")]
    dataset = pairs.add_column("messages", [chats * 2] * 3)
    transform = ToEditTransform(demo, columns=["completion", "messages"], **SETTINGS)
    edited = dataset.map(transform, batched=True)
    [edit] = edits_of(DatasetDict(train=edited), transform)
    places = [edit["column"].partition("[")[0] for struct in edited["toedit"] for edit in struct["edits"]]
    assert edit.changes == {"train": {name: places.count(name) for name in dict.fromkeys(places)}}
    assert {*places} == {"completion", "messages"}


def test_a_prior_without_revision_is_known_by_its_column_alone(texts, edited, first):
    prior = StaticPrior(load_tokenizer("demo"), lambda ids, t: {int(ids[t]): 0.999, 300: 0.001})
    nameless = ToEditTransform(prior, stats_column="again")
    rows = edited.map(nameless, batched=True)
    edits = edits_of(DatasetDict(train=rows), [first, nameless])
    assert [edit.fingerprint for edit in edits] == [first.fingerprint, None]
    with pytest.raises(RowError, match="fingerprint unknown"):
        edits_of(DatasetDict(train=rows), [first, ToEditTransform(prior)])


def test_records_are_those_of_transforms_files_and_lists(first, second):
    record = json.loads(json.dumps(first.provenance()))
    assert records_of(first) == records_of(record) == records_of([record]) == [record]
    assert records_of([first, second]) == [first.provenance(), second.provenance()]
    nested = {**second.provenance(), EARLIER: [record]}
    assert records_of(nested) == [record, second.provenance()]


@pytest.mark.parametrize("wrong", [None, 3, [], "toedit.json", [3], {}, {"fingerprint": "x"}, [["x"]]])
def test_what_is_not_a_record_is_refused(wrong, edited):
    with pytest.raises(RowError, match=r"record|transform="):
        edits_of(DatasetDict(train=edited), wrong)


BROKEN = {
    "prior_hub_id": ["x) <script>", "../x", 3],
    "revision": ["main) <b>", 3],
    "config": ["x", [1], {1: 2}],
    "versions": ["x"],
    "tokenizer": [{"digest": "x"}, "x"],
    "columns": ["text", [1]],
    "prior": [3],
    "max_length": ["3"],
    EARLIER: ["x", {}, [3]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BROKEN.items() for value in values])
def test_a_record_of_somebody_else_is_looked_at(first, name, value):
    with pytest.raises(RowError, match="record of an edit"):
        records_of({**first.provenance(), name: value})


def test_a_config_of_another_version_is_refused(first):
    with pytest.raises(ConfigError, match="unknown config field 'later'"):
        records_of({**first.provenance(), "config": {"later": 1}})


def test_rows_that_do_not_say_who_edited_them_are_refused(edited, demo):
    with pytest.raises(RowError, match="stats_column=None"):
        edits_of(DatasetDict(train=edited), ToEditTransform(demo, stats_column=None, **SETTINGS))


def test_sources_are_hub_ids_or_paths(folder):
    assert Source.parse("org/name@v1.0") == Source("org/name", "v1.0")
    assert Source.parse("squad") == Source("squad")
    (folder / "org/name").mkdir(parents=True)
    local = Source.parse("org/name")
    assert (local.is_local, local.name, local.revision) == (True, "name", None)
    for path in ("/home/me/texts.jsonl", "~/texts.jsonl", "texts.jsonl.gz", "data/*.jsonl", "C:\\me\\texts.txt", "-"):
        assert Source.parse(path).is_local, path
        assert not {*"/\\"} & {*Source.parse(path).name}
    for wrong in ("", " ", "https://huggingface.co/datasets/org/name", None):
        with pytest.raises(SourceError, match="source="):
            Source.parse(wrong)


def test_what_was_read_from_the_hub_is_known_with_its_commit(hub, folder, first, texts):
    Dataset.from_dict({"text": texts}).to_parquet("rows.parquet")
    configs = "---\nconfigs:\n- config_name: small\n  data_files: data/*\n---\n"
    files = {"data/rows.parquet": Path("rows.parquet").read_bytes(), "README.md": configs.encode()}
    hub.add("dataset", "org/texts", files)
    source = Source("org/texts", HfApi().dataset_info("org/texts").sha, "small")
    rows = load_dataset("org/texts")
    other = Dataset.from_dict({"text": texts})
    edited = rows.map(first, batched=True)
    for moved in (rows, edited, edited.filter(lambda row: row["text"]), edited.shuffle(seed=1)):
        assert source_of(moved) == source
    both = concatenate_datasets([edited["train"], edited["train"].select([1])])
    assert source_of(DatasetDict(train=both)) == source
    assert source_of(rows, "org/texts") == source
    assert source_of(rows, "org/texts@main") == Source("org/texts", "main")
    assert source_of(rows, "org/others") == Source("org/others")
    edited.save_to_disk("saved")
    for unknown in (DatasetDict(train=concatenate_datasets([rows["train"], other])), load_from_disk("saved")):
        assert source_of(unknown) is None


def test_rows_in_memory_and_from_files_have_no_known_source(edited, texts):
    assert source_of(DatasetDict(train=edited)) is None
    Dataset.from_dict({"text": texts}).to_json("texts.jsonl")
    loaded = load_dataset("json", data_files="texts.jsonl")
    assert source_of(loaded) is None
    assert source_of(loaded, "texts.jsonl").name == "texts.jsonl"
    assert source_of(loaded, "org/name@main") == Source("org/name", "main")
