"""One row in, one row out: the same rows and the same bytes, however the dataset is walked."""

from __future__ import annotations

import subprocess
import sys

import datasets
import pytest
from conftest import load_tokenizer, shared_path
from datasets import Dataset, DatasetDict, concatenate_datasets
from datasets.fingerprint import Hasher

from hf_toedit import (
    RowError,
    StaticPrior,
    ToEditConfig,
    ToEditTransform,
    ToEditWarning,
    TransformersPrior,
    revert,
    summarize,
)

SETTINGS = {"threshold": 0.8, "seed": 3}


@pytest.fixture(scope="module")
def rows(human_texts):
    """Real texts, and among them every kind of row that is skipped."""
    texts = [*human_texts[:40], None, "", "\u00e9 \U0001f600 \u65e5\u672c", "x", *human_texts[40:50]]
    return [{"id": i, "text": text, "tags": ["a", str(i)]} for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def ds(rows):
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def transform(pretrained):
    return ToEditTransform(pretrained, **SETTINGS)


@pytest.fixture(scope="module")
def edited(ds, transform):
    return ds.map(transform, batched=True).to_list()


def test_real_text_is_edited_and_comes_back(edited, rows):
    stats = summarize(row["toedit"] for row in edited)
    assert stats.statuses["edited"] > 10
    assert stats.statuses["skipped:null"] == stats.statuses["skipped:empty"] == 1
    assert stats.num_rows == len(rows)
    assert stats.tokens.num_changed == sum(len(row["toedit"]["edits"]) for row in edited)
    assert [revert(row) for row in edited] == rows
    for row, before in zip(edited, rows, strict=True):
        assert (row["text"] != before["text"]) == (row["toedit"]["status"] == "edited")


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_does_not_matter(ds, transform, edited, batch_size):
    assert ds.map(transform, batched=True, batch_size=batch_size).to_list() == edited


def test_one_row_at_a_time_is_the_same(ds, transform, edited):
    assert ds.map(transform).to_list() == edited


def test_order_does_not_matter(ds, transform, edited):
    mixed = ds.shuffle(seed=1).map(transform, batched=True).to_list()
    assert sorted(mixed, key=lambda row: row["id"]) == edited


@pytest.mark.parametrize("batched", [True, False])
def test_two_processes_give_the_same(ds, transform, edited, batched):
    assert ds.map(transform, batched=batched, num_proc=2).to_list() == edited


@pytest.mark.parametrize("batched", [True, False])
def test_streaming_gives_the_same(ds, transform, edited, batched):
    assert list(ds.to_iterable_dataset(num_shards=3).map(transform, batched=batched, batch_size=11)) == edited


def test_with_transform_gives_the_same(ds, transform, edited):
    lazy = ds.with_transform(transform)
    assert lazy[5] == edited[5]
    assert lazy[20:50]["text"] == [row["text"] for row in edited[20:50]]


def test_dataset_dict_and_formats(ds, transform, edited):
    splits = DatasetDict({"train": ds, "test": ds.select(range(20))}).map(transform, batched=True)
    assert splits["train"].to_list() == edited
    assert splits["test"].to_list() == edited[:20]
    assert ds.with_format("numpy").map(transform, batched=True).with_format(None).to_list() == edited


def test_types_of_columns_stay_and_the_struct_is_typed_without_any_edit(ds, pretrained):
    features = datasets.Features({**ds.features, "text": datasets.Value("large_string")})
    quiet = ds.cast(features).map(ToEditTransform(pretrained, threshold=1.0), batched=True)
    assert {name: quiet.features[name] for name in features} == features
    assert set(quiet.features["toedit"]["edits"].feature) == {"column", "start", "old", "new", "kind"}
    loud = ds.map(ToEditTransform(pretrained, **SETTINGS), batched=True)
    assert quiet.features["toedit"] == loud.features["toedit"]


def test_caches_and_keeps_its_fingerprint_once_the_model_is_loaded(ds, pretrained, tmp_path):
    on_disk = str(tmp_path / "ds")
    ds.save_to_disk(on_disk)
    loaded = datasets.load_from_disk(on_disk)
    fresh = ToEditTransform(TransformersPrior(pretrained.name), **SETTINGS)
    before = Hasher.hash(fresh)
    first = loaded.map(fresh, batched=True)
    assert Hasher.hash(fresh) == before
    again = loaded.map(ToEditTransform(TransformersPrior(pretrained.name), **SETTINGS), batched=True)
    assert again.cache_files == first.cache_files
    other = loaded.map(ToEditTransform(TransformersPrior(pretrained.name), **{**SETTINGS, "seed": 4}), batched=True)
    assert other.cache_files != first.cache_files


SECOND_PROCESS = """
import json, sys
from datasets import load_from_disk
from datasets.fingerprint import Hasher
from hf_toedit import ToEditTransform
t = ToEditTransform(sys.argv[1], threshold=0.8, seed=3)
rows = load_from_disk(sys.argv[2]).map(t, batched=True, batch_size=13, load_from_cache_file=False).to_list()
print(json.dumps([Hasher.hash(t), rows]))
"""


@pytest.mark.slow
def test_a_second_process_gives_the_same_rows_and_fingerprint(ds, edited, pretrained_folder, tmp_path):
    import json

    ds.save_to_disk(tmp_path / "ds")
    out = subprocess.run(
        [sys.executable, "-c", SECOND_PROCESS, str(pretrained_folder), str(tmp_path / "ds")],
        capture_output=True,
        text=True,
        check=True,
    )
    fingerprint, rows = json.loads(out.stdout.splitlines()[-1])
    assert rows == edited
    assert fingerprint == Hasher.hash(ToEditTransform(str(pretrained_folder), **SETTINGS))


def test_equal_rows_get_equal_edits(pretrained, human_texts):
    twins = Dataset.from_dict({"text": human_texts[:20] + human_texts[:20]})
    texts = twins.map(ToEditTransform(pretrained, **SETTINGS), batched=True)["text"]
    assert texts[:20] == texts[20:]


def test_several_columns(pretrained, human_texts):
    two = Dataset.from_dict({"q": human_texts[:30], "a": human_texts[30:60]})
    both = two.map(ToEditTransform(pretrained, columns=["q", "a"], **SETTINGS), batched=True)
    for column in ("q", "a"):
        alone = two.map(ToEditTransform(pretrained, columns=column, **SETTINGS), batched=True)
        assert alone[column] == both[column]
    assert {edit["column"] for row in both for edit in row["toedit"]["edits"]} == {"q", "a"}
    assert [revert(row) for row in both] == two.to_list()


def test_generations_keep_their_edits(pretrained, human_texts):
    ds = Dataset.from_dict({"text": human_texts[:60]})
    first = ds.map(ToEditTransform(pretrained, **SETTINGS), batched=True)
    with pytest.raises(RowError, match="toedit_1"):
        first.map(ToEditTransform(pretrained, generation=1, **SETTINGS), batched=True)
    second = first.map(
        ToEditTransform(pretrained, generation=1, stats_column="toedit_1", **SETTINGS), batched=True
    ).to_list()
    assert any(row["toedit_1"]["edits"] for row in second)
    assert [revert(revert(row, "toedit_1")) for row in second] == ds.to_list()


def test_no_stats_column(ds, pretrained, edited):
    bare = ds.map(ToEditTransform(pretrained, stats_column=None, **SETTINGS), batched=True)
    assert bare.column_names == ds.column_names
    assert bare["text"][:] == [row["text"] for row in edited]


def test_config_object_and_fields_are_the_same(pretrained):
    whole = ToEditTransform(pretrained, ToEditConfig(threshold=0.8), seed=3)
    assert whole.config == ToEditTransform(pretrained, **SETTINGS).config


def test_revert_refuses_a_row_that_changed(edited):
    row = next(row for row in edited if row["toedit"]["edits"])
    with pytest.raises(RowError, match="changed after editing"):
        revert({**row, "text": row["text"][: row["toedit"]["edits"][0]["start"]]})
    with pytest.raises(RowError, match="no column 'toedit'"):
        revert({"text": "x"})


def test_a_text_without_visited_positions_never_reaches_the_prior(human_texts):
    def forbidden(input_ids, t):
        raise AssertionError("the prior was asked")

    prior = StaticPrior(load_tokenizer("demo"), forbidden)
    row = ToEditTransform(prior, threshold=1.0)({"text": human_texts[0]})
    assert row["toedit"]["status"] == "unchanged"
    assert row["toedit"]["num_visited"] == 0


def test_random_arm_needs_the_corpus(ds, pretrained):
    transform = ToEditTransform(pretrained, strategy="random", **SETTINGS)
    with pytest.raises(ValueError, match=r"transform.fit\(dataset\)"):
        transform({"text": "some text"})
    rows = ds.map(transform.fit(ds), batched=True).to_list()
    assert [revert(row) for row in rows] == ds.to_list()
    counts = transform.unigram_counts_V
    for same in (
        DatasetDict({"a": ds.select(range(30)), "b": ds.select(range(30, len(ds)))}),
        ds.to_iterable_dataset(),
    ):
        assert (transform.fit(same).unigram_counts_V == counts).all()


def test_a_corpus_without_tokens_is_warned_of():
    for corpus in ([], datasets.Dataset.from_dict({"text": ["", None]})):
        with pytest.warns(ToEditWarning, match="fit found no token that may be edited"):
            ToEditTransform("demo", strategy="random").fit(corpus)


@pytest.mark.slow
def test_recorded_human_text_in_real_formats(tmp_path):
    """A Dolma file as it lies on disk goes through whole."""
    path = shared_path("data/dolma_cc_en_head.jsonl")
    ds = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path))
    ds = ds.select(range(5))
    edited = ds.map(ToEditTransform("demo", threshold=0.9), batched=True)
    assert [revert(row) for row in edited] == ds.to_list()


def test_rows_that_were_never_edited_have_null_and_come_back_as_they_are(ds, edited):
    plain = [{**row, "id": 900 + i} for i, row in enumerate(ds.to_list()[:3])]
    mixed = concatenate_datasets([Dataset.from_list(edited), Dataset.from_list(plain)])
    assert mixed[-1]["toedit"] is None
    assert [revert(row) for row in mixed] == [*ds.to_list(), *plain]
    assert summarize(mixed["toedit"]) == summarize(row["toedit"] for row in edited)


def test_ids_that_look_foreign_are_skipped_unless_the_tokenizer_was_compared(demo):
    tokenizer = load_tokenizer("demo")
    letters = [tokenizer.token_to_id(letter) for letter in "thestringandtheotherinformation"]
    row = {"input_ids": [0, *letters]}  # the tokenizer itself would have merged them
    assert ToEditTransform(demo)(row)["toedit"]["status"] == "skipped:tokenizer_mismatch"
    compared = ToEditTransform(demo, tokenizer=tokenizer, stats="full")(row)["toedit"]
    assert compared["num_visited"] == len(letters)
