"""Pushing: shards, what the card says about files, and whole pushes to a local Hub."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest
from command_line import fail, run
from datasets import (
    Array2D,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    Value,
    concatenate_datasets,
    load_dataset,
    load_dataset_builder,
)
from hub_server import COMMIT
from huggingface_hub import HfApi
from typer.testing import CliRunner

from hf_toedit import (
    ConfigError,
    RowError,
    SourceError,
    ToEditTransform,
    ToEditWarning,
    load_edited,
    push_dataset,
    revert,
    summarize,
)
from hf_toedit.cli.command import app
from hf_toedit.experiments import stages
from hf_toedit.hub.configs import choose_config, configs_metadata, kept_splits, stale_shards
from hf_toedit.hub.repository import Repository
from hf_toedit.hub.shards import write_shards
from hf_toedit.hub.uploads import upload
from hf_toedit.report.files import write_report

TEXTS = [f"Return a copy of the string number {i} with leading and trailing whitespace removed." for i in range(40)]


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.parquet")
    }


@pytest.fixture(autouse=True)
def _no_histograms(monkeypatch):
    """Drawing one takes longer than a push."""
    monkeypatch.setattr("hf_toedit.report.files.find_spec", lambda _: None)


# shards


@pytest.fixture(scope="module")
def transform():
    return ToEditTransform("demo", threshold=0.9, temperature=2, seed=42)


@pytest.fixture(scope="module")
def edited(transform):
    return Dataset.from_dict({"text": TEXTS}).map(transform, batched=True, batch_size=7)


def test_the_same_rows_give_the_same_shards_however_they_lie_in_memory(edited, tmp_path):
    parts = concatenate_datasets([edited.select(range(i, i + 8)) for i in range(0, 40, 8)])
    order = sorted(range(40), key=lambda i: TEXTS[i])
    picked = edited.select(order)
    write_shards(DatasetDict(train=picked.flatten_indices()), tmp_path / "a", "data", 4000)
    write_shards(DatasetDict(train=picked.with_format("numpy")), tmp_path / "b", "data", 4000)
    write_shards(DatasetDict(train=edited), tmp_path / "c", "data", 4000)
    write_shards(DatasetDict(train=parts), tmp_path / "d", "data", 4000)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "c") == digests(tmp_path / "d") != digests(tmp_path / "a")


def test_shards_are_about_as_large_as_asked_and_hold_every_row_once(edited, tmp_path):
    shards = write_shards(DatasetDict(train=edited, test=edited.select([3])), tmp_path, "data", edited.data.nbytes // 3)
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    of = len(names) - 1
    assert names == ["test-00000-of-00001.parquet"] + [f"train-{i:05d}-of-{of:05d}.parquet" for i in range(of)]
    assert of in (3, 4)
    loaded = load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].to_list() == edited.to_list()
    assert [(info.name, info.num_examples) for info in shards.splits] == [("train", 40), ("test", 1)]
    assert shards.splits[0].num_bytes == pytest.approx(edited.data.nbytes, rel=0.02)
    assert shards.sizes == {str(p.relative_to(tmp_path)): p.stat().st_size for p in (tmp_path / "data").iterdir()}


def test_more_shards_than_rows_are_never_written(edited, tmp_path):
    shards = write_shards(DatasetDict(train=edited.select(range(2))), tmp_path, "data", 1)
    assert len(shards.sizes) == 2


def test_images_are_inside_the_shards(tmp_path):
    PIL = pytest.importorskip("PIL.Image")
    PIL.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    rows = Dataset.from_dict({"image": [str(tmp_path / "red.png")]}).cast_column("image", Image())
    write_shards(DatasetDict(train=rows), tmp_path / "out", "data")
    (tmp_path / "red.png").unlink()
    [path] = (tmp_path / "out/data").iterdir()
    assert str(tmp_path).encode() not in path.read_bytes()
    loaded = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image"].getpixel((0, 0)) == (255, 0, 0)


def test_an_image_that_is_gone_is_one_clear_line(tmp_path):
    rows = Dataset.from_dict({"image": [str(tmp_path / "red.png")]}).cast_column("image", Image())
    with pytest.raises(SourceError, match="can't read a file that the rows name"):
        write_shards(DatasetDict(train=rows), tmp_path / "out", "data")


# what the card says about the files


def card(*configs, infos=()):
    """A card with these `configs`, as (name, {split: path}), and `dataset_info`."""
    import yaml

    entries = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
        for name, files in configs
    ]
    block = yaml.safe_dump({"license": "mit", "configs": entries, "dataset_info": list(infos)}, sort_keys=False)
    return f"---\n{block}---\n# Mine\n"


def info(name, features, **splits):
    splits = [{"name": split, "num_bytes": 10, "num_examples": count} for split, count in splits.items()]
    return {"config_name": name, "features": features, "splits": splits, "download_size": 1, "dataset_size": 2}


TEXT = {"name": "text", "dtype": "string"}


@pytest.fixture(scope="module")
def shards(edited, tmp_path_factory):
    return write_shards(DatasetDict(train=edited), tmp_path_factory.mktemp("shards"), "data")


def after(shards, tmp_path, **splits):
    """A repository after a push of these splits."""
    import yaml

    metadata = configs_metadata(Repository("me/rows"), "default", shards)
    return Repository("me/rows", f"---\n{yaml.safe_dump(metadata)}---\n", dict(shards.sizes))


def test_a_new_repository_gets_the_default_config(shards, edited):
    metadata = configs_metadata(
        Repository("me/rows"), choose_config(Repository("me/rows"), None, is_source=False), shards
    )
    files = [{"split": "train", "path": "data/train-*"}]
    assert metadata["configs"] == [{"config_name": "default", "data_files": files}]
    assert metadata["dataset_info"]["download_size"] == sum(shards.sizes.values())
    assert metadata["dataset_info"]["splits"][0]["num_examples"] == 40


def test_rows_of_the_source_are_never_overwritten():
    mine = Repository("me/rows", card(("default", {"train": "data/train-*"}), infos=[info("default", [TEXT], train=3)]))
    assert choose_config(mine, None, is_source=False) == "toedit"
    assert choose_config(mine, "other", is_source=False) == "other"
    assert choose_config(Repository("me/rows"), None, is_source=True) == "toedit"
    with pytest.raises(SourceError, match="config 'default' of me/rows holds rows without edits"):
        choose_config(mine, "default", is_source=False)


@pytest.mark.parametrize("name", ["data", "a/b", "", "../x", "a b", ".hidden"])
def test_names_that_are_no_configs_are_refused(name):
    with pytest.raises(ConfigError, match="config_name="):
        choose_config(Repository("me/rows"), name, is_source=False)


def test_other_configs_stay_and_the_one_that_was_read_by_default_still_is(shards):
    theirs = ("english", {"train": "en/train-*", "test": "en/test-*"})
    mine = Repository("me/rows", card(theirs, infos=[info("english", [TEXT], train=3, test=1)]))
    metadata = configs_metadata(mine, "toedit", shards)
    assert [entry["config_name"] for entry in metadata["configs"]] == ["english", "toedit"]
    assert metadata["configs"][0] == {**mine.configs["english"], "default": True}
    assert metadata["dataset_info"][0] == info("english", [TEXT], train=3, test=1)
    assert metadata["dataset_info"][1]["config_name"] == "toedit"


@pytest.mark.parametrize("names", [["english"], ["english", "french"]])
def test_no_second_config_is_read_by_default(names):
    mine = Repository("me/rows", card(*((name, {"train": f"{name}/train-*"}) for name in names)))
    assert choose_config(mine, None, is_source=False) == ("toedit" if len(names) == 1 else "default")
    mine.configs["english"]["default"] = True
    assert choose_config(mine, None, is_source=False) == "toedit"
    with pytest.raises(SourceError, match="reads config 'english' of me/rows by default"):
        choose_config(mine, "default", is_source=False)


def test_a_split_of_other_columns_is_refused_and_one_of_the_same_is_kept(edited, shards, tmp_path):
    repository = after(shards, tmp_path)
    test = write_shards(DatasetDict(test=edited.select(range(5))), tmp_path / "same", "data")
    assert kept_splits(repository, "default", test) == ["train"]
    metadata = configs_metadata(repository, "default", test)
    assert [part["split"] for part in metadata["configs"][0]["data_files"]] == ["train", "test"]
    assert {part["name"]: part["num_examples"] for part in metadata["dataset_info"]["splits"]} == {
        "train": 40,
        "test": 5,
    }
    assert metadata["dataset_info"]["download_size"] == sum(shards.sizes.values()) + sum(test.sizes.values())
    more = edited.add_column("more", range(40))
    other = write_shards(DatasetDict(test=more), tmp_path / "other", "data")
    with pytest.raises(SourceError, match="split 'train' of config 'default' in me/rows has other columns"):
        configs_metadata(repository, "default", other)
    whole = configs_metadata(repository, "default", write_shards(DatasetDict(train=more), tmp_path / "whole", "data"))
    assert [feature["name"] for feature in whole["dataset_info"]["features"]] == ["text", "toedit", "more"]


def test_shards_that_an_earlier_push_left_are_stale(shards):
    old = [f"data/train-0000{i}-of-00002.parquet" for i in range(2)]
    others = ["data/train_b-00000-of-00001.parquet", "toedit/train-00000-of-00002.parquet", "data/train-notes.parquet"]
    repository = Repository("me/rows", None, dict.fromkeys([*old, *others, *shards.sizes], 1))
    assert stale_shards(repository, "default", shards) == old
    assert stale_shards(repository, "toedit", shards) == ["toedit/train-00000-of-00002.parquet"]


@pytest.mark.parametrize(
    ("text", "files", "message"),
    [
        ("", ["train.jsonl"], "not Parquet"),
        ("", ["train.parquet"], "no `configs` that list its data files"),
        (card(("default", {"train": "train.jsonl"})), ["train.jsonl"], "not Parquet"),
        ("---\nconfigs: [3]\n---\n", [], "`configs`"),
        ("---\nconfigs: {a: [\n---\n", [], "front matter"),
        ("---\nconfigs: [{config_name: default}]\ndataset_info: [{features: 3}]\n---\n", [], "`dataset_info`"),
    ],
)
def test_a_repository_that_could_not_be_loaded_afterwards_is_refused(text, files, message):
    with pytest.raises(SourceError, match=message):
        choose_config(Repository("me/rows", text, dict.fromkeys(files, 1)), None, is_source=False)


# whole pushes


def section(card):
    return card.partition("<!-- hf-toedit:start -->")[2].partition("<!-- hf-toedit:end -->")[0]


def downloaded(name, *config, **options):
    return load_dataset(name, *config, download_mode="force_redownload", **options)


def test_a_pushed_dataset_loads_streams_and_reverts(hub, edited, transform):
    pushed = push_dataset(edited, "me/rows", transform=transform, token=hub.token)
    assert hub.repo("dataset", "me/rows").private
    assert pushed.url.startswith(f"{hub.endpoint}/datasets/me/rows/commit/")
    there = {path: len(content) for path, content in hub.files("dataset", "me/rows").items()}
    assert pushed.files == {path: size for path, size in there.items() if path != ".gitattributes"}
    assert pushed.load == "load_dataset('me/rows')"
    loaded = load_dataset("me/rows", split="train")
    assert loaded.features == edited.features
    assert loaded.to_list() == edited.to_list()
    assert list(load_dataset("me/rows", split="train", streaming=True)) == edited.to_list()
    assert loaded.map(revert, batched=True)["text"][:] == TEXTS
    stats = json.loads(hub.files("dataset", "me/rows")["stats.json"])
    assert {**summarize(edited).to_dict(), "run": stats["run"]} == stats
    described = load_dataset_builder("me/rows").info
    assert described.splits["train"].num_examples == 40
    assert described.download_size == sum(size for path, size in pushed.files.items() if path.endswith(".parquet"))


def test_columns_of_every_kind_and_name_come_back(hub, edited, transform):
    more = {
        'a/b "c" | d': [None, "x"] * 20,
        "naïve.column": [{"deep": [{"er": i}]} for i in range(40)],
        "label": [i % 2 for i in range(40)],
        "array": [[[0.5, i], [1.5, i]] for i in range(40)],
    }
    features = {
        'a/b "c" | d': Value("string"),
        "naïve.column": {"deep": [{"er": Value("int8")}]},
        "label": ClassLabel(names=["no", "yes: really"]),
        "array": Array2D((2, 2), "float32"),
    }
    rows = concatenate_datasets([edited, Dataset.from_dict(more, features=Features(features))], axis=1)
    push_dataset(rows, "me/rows", transform=transform)
    loaded = load_dataset("me/rows", split="train")
    assert loaded.features == rows.features
    assert loaded.to_list() == rows.to_list()


def test_a_push_that_changes_nothing_says_so(hub, edited, transform):
    first = push_dataset(edited, "me/rows", transform=transform)
    assert repr(first).startswith(f"Pushed to {first.url}\n")
    for options in ({}, {"create_pr": True}, {"revision": "same"}):
        again = push_dataset(edited, "me/rows", transform=transform, **options)
        assert not again.has_changed
        assert repr(again).startswith(f"No file has changed since {first.url}\n")
    assert not hub.repo("dataset", "me/rows").pulls
    assert push_dataset(edited.select([1]), "me/rows", transform=transform).has_changed


def test_a_dry_run_shows_everything_and_sends_nothing(hub, edited, transform):
    would = push_dataset(edited, "me/rows", transform=transform, dry_run=True)
    assert would.url is None
    assert not hub.asked("^(POST|PUT|DELETE) ")
    pushed = push_dataset(edited, "me/rows", transform=transform)
    assert (would.files, would.card) == (pushed.files, pushed.card)
    assert repr(would).startswith("A push to me/rows would write:\n")
    assert all(path in repr(would) for path in would.files)


def test_rows_with_new_columns_load_after_a_second_push(hub, edited, transform):
    """Where `push_to_hub` of one split of several would leave features that don't fit (datasets issue 8608)."""
    both = DatasetDict(train=edited, test=edited.select(range(4)))
    push_dataset(both, "me/rows", transform=transform)
    more = edited.add_column("more", range(40))
    with pytest.raises(SourceError, match="split 'test' of config 'default' in me/rows has other columns"):
        push_dataset(more, "me/rows", transform=transform)
    assert downloaded("me/rows")["test"].num_rows == 4
    push_dataset(DatasetDict(train=more, test=more.select([1])), "me/rows", transform=transform)
    loaded = downloaded("me/rows")
    assert loaded["train"]["more"][:] == list(range(40))
    assert loaded["test"]["more"][:] == [1]
    push_dataset(more.select(range(9)), "me/rows", transform=transform)
    loaded = downloaded("me/rows")
    assert {split: rows.num_rows for split, rows in loaded.items()} == {"train": 9, "test": 1}


def test_a_kept_split_of_the_same_edit_is_named_on_the_card(hub, edited, transform):
    push_dataset(DatasetDict(train=edited, test=edited.select([2])), "me/rows", transform=transform)
    pushed = push_dataset(edited.select(range(5)), "me/rows", transform=transform)
    assert "pushed earlier, with the same edit (`test`)" in pushed.card
    assert {split: len(rows) for split, rows in downloaded("me/rows").items()} == {"train": 5, "test": 1}


def test_a_kept_split_of_another_edit_is_refused(hub, edited, transform):
    """Its record would be lost, and the card would tell of one edit alone."""
    push_dataset(DatasetDict(train=edited, test=edited.select([2])), "me/rows", transform=transform)
    other = ToEditTransform("demo", threshold=0.8, seed=1)
    rows = Dataset.from_dict({"text": TEXTS[:9]}).map(other, batched=True)
    with pytest.raises(SourceError, match="split 'test' of config 'default' in me/rows was made by another edit"):
        push_dataset(rows, "me/rows", transform=other)
    assert downloaded("me/rows", split="train").num_rows == 40


def test_rows_of_two_edits_are_pushed_with_both_records(hub, edited, transform):
    other = ToEditTransform("demo", threshold=0.8, seed=1)
    rows = concatenate_datasets([edited, Dataset.from_dict({"text": TEXTS}).map(other, batched=True)])
    with pytest.raises(RowError, match=r"give all edits of these rows, transform=\[first, second\]"):
        push_dataset(rows, "me/rows", transform=transform)
    pushed = push_dataset(rows, "me/rows", transform=[transform, other])
    assert transform.fingerprint in pushed.card
    assert other.fingerprint in pushed.card
    record = json.loads(hub.files("dataset", "me/rows")["toedit.json"])
    again = push_dataset(load_dataset("me/rows"), "me/rows", transform=record)
    assert section(again.card) == section(pushed.card)


def test_fewer_shards_leave_no_old_ones(hub, edited, transform, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            "hf_toedit.hub.content.write_shards",
            functools.partial(write_shards, max_shard_bytes=edited.data.nbytes // 3),
        )
        many = push_dataset(edited, "me/rows", transform=transform)
    old = {path for path in many.files if path.endswith(".parquet")}
    assert len(old) > 2
    one = push_dataset(edited, "me/rows", transform=transform)
    assert set(one.deleted) == old
    assert old.isdisjoint(hub.files("dataset", "me/rows"))
    assert downloaded("me/rows", split="train").to_list() == edited.to_list()


OWN = b"""---
license: cc-by-4.0  # as agreed
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
# My rows

Written by hand.
"""


@pytest.fixture
def owned(hub, tmp_path):
    """A repository with rows of its own and a card that somebody wrote."""
    write_shards(DatasetDict(train=Dataset.from_dict({"text": TEXTS})), tmp_path / "own", "data")
    (tmp_path / "own/README.md").write_bytes(OWN)
    hub.add("dataset", "me/own", tmp_path / "own")
    return hub


def test_rows_of_the_source_and_the_owners_text_stay(owned, transform):
    source = load_dataset("me/own", split="train")
    edited = source.map(transform, batched=True)
    pushed = push_dataset(edited, "me/own", transform=transform, private=False)
    assert pushed.load == "load_dataset('me/own', 'toedit')"
    again = push_dataset(edited.select(range(9)), "me/own", transform=transform, private=False)
    for card in (pushed.card, again.card):
        assert "# My rows\n\nWritten by hand.\n" in card
        assert card.startswith("---\nlicense: cc-by-4.0  # as agreed\n")
        assert card.count("<!-- hf-toedit:start toedit -->") == 1
    assert downloaded("me/own", split="train").to_list() == source.to_list()
    assert downloaded("me/own", "toedit", split="train").to_list() == edited.select(range(9)).to_list()


def test_rows_that_push_to_hub_put_there_stay(hub, transform):
    source = Dataset.from_dict({"text": TEXTS})
    source.push_to_hub("me/rows", private=True)
    edited = source.map(transform, batched=True)
    assert push_dataset(edited, "me/rows", transform=transform).config_name == "toedit"
    assert downloaded("me/rows", split="train").to_list() == source.to_list()
    assert downloaded("me/rows", "toedit", split="train").to_list() == edited.to_list()


def test_a_license_that_becomes_known_is_declared(owned, transform):
    edited = load_dataset("me/own", split="train").map(transform, batched=True)
    flat = Dataset.from_list(edited.to_list(), features=edited.features)
    assert "\nlicense: unknown\n" in push_dataset(flat, "me/rows", transform=transform).card
    card = push_dataset(flat, "me/rows", transform=transform, source="me/own").card
    record = json.loads(owned.files("dataset", "me/rows")["toedit.json"])
    again = load_dataset("me/rows")
    assert section(push_dataset(again, "me/rows", transform=record).card) == section(card)  # its source is not me/rows
    assert "me/rows" not in push_dataset(again, "me/others", transform=transform, dry_run=True).card
    assert "\nlicense: cc-by-4.0\n" in card
    assert "\nsource_datasets:\n- me/own\n" in card


def test_each_config_has_its_own_part_of_the_card(hub, edited, transform):
    other = ToEditTransform("demo", threshold=0.8, seed=1)
    second = Dataset.from_dict({"text": TEXTS}).map(other, batched=True)
    push_dataset(edited, "me/rows", transform=transform, config_name="a")
    push_dataset(second, "me/rows", transform=other, config_name="b")
    card = push_dataset(edited.select(range(5)), "me/rows", transform=transform, config_name="a").card
    parts = dict(re.findall(r"<!-- hf-toedit:start (.) -->(.*?)<!-- hf-toedit:end \1 -->", card, re.DOTALL))
    assert list(parts) == ["a", "b"]
    assert transform.fingerprint in parts["a"]
    assert other.fingerprint in parts["b"]
    assert downloaded("me/rows", "b", split="train").to_list() == second.to_list()
    assert downloaded("me/rows", "a", split="train").num_rows == 5


def test_a_public_repository_is_refused_before_anything_is_written(owned, edited, transform):
    with pytest.raises(SourceError, match="'me/own' is public already: pass private=False"):
        push_dataset(edited, "me/own", transform=transform)
    assert not owned.asked("^(POST|PUT|DELETE) ")


def test_a_branch_and_a_pull_request_leave_main_alone(hub, edited, transform):
    push_dataset(edited, "me/rows", transform=transform)
    main = hub.history("dataset", "me/rows")[0].oid
    less = edited.select(range(7))
    onto = push_dataset(less, "me/rows", transform=transform, revision="less")
    assert onto.load == "load_dataset('me/rows', revision='less')"
    pull = push_dataset(less, "me/rows", transform=transform, create_pr=True)
    assert pull.url == f"{hub.endpoint}/datasets/me/rows/discussions/1"
    assert hub.history("dataset", "me/rows")[0].oid == main
    for revision in ("less", "refs/pr/1"):
        assert downloaded("me/rows", split="train", revision=revision).to_list() == less.to_list()


def test_an_upload_that_breaks_off_resumes_without_sending_shards_again(hub, edited, transform):
    hub.fail("POST .*/commit/", 500)
    with pytest.raises(SourceError, match="run it again later to resume"):
        push_dataset(edited, "me/rows", transform=transform)
    sent = len(hub.asked("^PUT /lfs/"))
    assert sent
    hub.faults.clear()
    push_dataset(edited, "me/rows", transform=transform)
    assert len(hub.asked("^PUT /lfs/")) == sent
    assert load_dataset("me/rows", split="train").to_list() == edited.to_list()


def test_what_the_owner_writes_during_an_upload_is_not_lost(owned, edited, transform, monkeypatch):
    def after_the_owner(*arguments, **options):
        own = {"path_or_fileobj": OWN + b"Mine.", "path_in_repo": "README.md"}
        HfApi().upload_file(**own, repo_id="me/own", repo_type="dataset")
        return upload(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr("hf_toedit.hub.push.upload", after_the_owner)
        with pytest.raises(SourceError, match=r"someone else is changing it at the same time \(412\); run it again"):
            push_dataset(edited, "me/own", transform=transform, private=False)
    assert owned.files("dataset", "me/own")["README.md"] == OWN + b"Mine."
    push_dataset(edited, "me/own", transform=transform, private=False)
    assert b"Mine." in owned.files("dataset", "me/own")["README.md"]


# patches and licences


@pytest.fixture
def of_the_hub(owned, transform):
    """The rows of `me/own`, edited."""
    return load_dataset("me/own", split="train").map(transform, batched=True)


def test_a_patch_restores_the_edited_rows_and_publishes_no_text(owned, of_the_hub, transform):
    pushed = push_dataset(of_the_hub, "me/patch", transform=transform, mode="patch")
    assert pushed.load == "load_edited('me/patch')"
    restored = load_edited("me/patch", split="train")
    assert restored.features == of_the_hub.features
    assert restored.to_list() == of_the_hub.to_list()
    assert json.loads(owned.files("dataset", "me/patch")["patch.json"])["source"]["revision"] == COMMIT
    assert "number 17 with leading" not in pushed.card
    assert load_dataset("me/patch", split="train").num_rows == 40
    again = push_dataset(of_the_hub.select(range(9)), "me/patch", transform=transform, mode="patch")
    assert not again.deleted
    assert load_edited("me/patch", split="train").num_rows == 9


def test_the_source_of_a_patch_is_pinned(owned, edited, transform):
    push_dataset(edited, "me/patch", transform=transform, mode="patch", source="me/own")
    assert json.loads(owned.files("dataset", "me/patch")["patch.json"])["source"]["revision"] == COMMIT


def test_a_patch_is_pushed_as_a_whole(owned, of_the_hub, transform):
    both = DatasetDict(train=of_the_hub, test=of_the_hub.select(range(5)))
    push_dataset(both, "me/patch", transform=transform, mode="patch", source="me/own")
    with pytest.raises(SourceError, match="also has a patch of split 'test': push all splits together"):
        push_dataset(of_the_hub, "me/patch", transform=transform, mode="patch")
    assert {split: rows.num_rows for split, rows in load_edited("me/patch").items()} == {"train": 40, "test": 5}


def test_patches_and_rows_have_repositories_of_their_own(owned, of_the_hub, edited, transform):
    with pytest.raises(SourceError, match="set source='org/name@revision'"):
        push_dataset(edited, "me/patch", transform=transform, mode="patch")
    with pytest.raises(SourceError, match="a patch needs a repository of its own"):
        push_dataset(of_the_hub, "me/own", transform=transform, mode="patch", private=False)
    with pytest.raises(ConfigError, match="leave config_name='a' out"):
        push_dataset(of_the_hub, "me/patch", transform=transform, mode="patch", config_name="a")
    push_dataset(of_the_hub, "me/patch", transform=transform, mode="patch")
    with pytest.raises(SourceError, match="me/patch holds a patch"):
        push_dataset(of_the_hub, "me/patch", transform=transform)
    with pytest.raises(ConfigError, match="mode='patches' is unknown; did you mean 'patch'"):
        push_dataset(of_the_hub, "me/patch", transform=transform, mode="patches")


def test_a_licence_without_derivatives_points_to_a_patch(owned, of_the_hub, transform, tmp_path):
    assert "license: cc-by-4.0" in push_dataset(of_the_hub, "me/new", transform=transform, dry_run=True).card
    (tmp_path / "own/README.md").write_bytes(OWN.replace(b"cc-by-4.0", b"cc-by-nd-4.0"))
    owned.add("dataset", "me/own", tmp_path / "own")
    with pytest.raises(SourceError, match="does not allow sharing edited text: keep the dataset private, or publish"):
        push_dataset(of_the_hub, "me/rows", transform=transform, private=False)
    with pytest.warns(ToEditWarning, match="keep this dataset private, or publish a patch"):
        push_dataset(of_the_hub, "me/rows", transform=transform)
    push_dataset(of_the_hub, "me/patch", transform=transform, mode="patch", private=False)
    assert load_edited("me/patch", split="train").to_list() == of_the_hub.to_list()


# runs


def test_an_arm_of_several_generations_is_pushed_with_all_its_edits(hub, edited, transform, tmp_path):
    later = ToEditTransform("demo", threshold=0.9, temperature=2, seed=42, generation=1)
    twice = edited.remove_columns("toedit").map(later, batched=True)
    for name, rows, made_by in (("first", edited, transform), ("second", twice, later)):
        rows.save_to_disk(tmp_path / name / "data")
        write_report(tmp_path / name, summarize(rows), made_by.provenance())
    stages.push([tmp_path / "first", tmp_path / "second"], "me/arms", "arm", None, False, tmp_path)
    rows = load_dataset("me/arms", "arm", split="train")
    assert rows["text"][:] == twice["text"][:]
    rows = rows.map(revert, batched=True)
    assert rows["text"][:] == edited["text"][:]
    assert rows.map(revert, batched=True, fn_kwargs={"stats_column": "toedit_1"})["text"][:] == TEXTS
    card = hub.files("dataset", "me/arms")["README.md"].decode()
    assert card.index(transform.fingerprint) < card.index(later.fingerprint)


# interrupts


def test_a_push_that_is_killed_resumes(hub, edited, transform, tmp_path, monkeypatch):
    transform.save(DatasetDict(train=edited, test=edited.select(range(20))), tmp_path / "saved")
    hub.fail("^PUT /lfs/", delay=60, after=1)
    command = [sys.executable, "-m", "hf_toedit", "push", str(tmp_path / "saved"), "me/rows"]
    environment = {**hub.environment(tmp_path / "elsewhere"), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while len(hub.asked("^PUT /lfs/")) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    [arrived] = hub.repo("dataset", "me/rows").large
    assert "README.md" not in hub.files("dataset", "me/rows")
    hub.faults.clear()
    del hub.requests[:]
    run("push", tmp_path / "saved", "me/rows")
    assert len(hub.asked("^PUT /lfs/")) == len(hub.repo("dataset", "me/rows").large) - 1
    assert not hub.asked(f"^PUT /lfs/.*{arrived}")
    assert load_dataset("me/rows", split="train").to_list() == edited.to_list()


# the command


@pytest.fixture
def saved(hub, folder, edited, transform):
    """A folder that `save` wrote, in the working folder."""
    transform.save(edited, "saved")
    return folder


def test_the_command_pushes_what_the_function_pushes(hub, saved, edited, transform):
    by_function = push_dataset(edited, "me/rows", transform=transform, dry_run=True)
    out = run("push", "saved", "me/rows")
    assert out.splitlines()[0].startswith(f"Pushed to {hub.endpoint}/datasets/me/rows/commit/")
    assert out.splitlines()[-1] == "Read it with load_dataset('me/rows')"
    files = hub.files("dataset", "me/rows")
    assert {path: len(content) for path, content in files.items() if path.startswith("data/")} == {
        path: size for path, size in by_function.files.items() if path.startswith("data/")
    }
    assert load_dataset("me/rows", split="train").to_list() == edited.to_list()


def test_a_dry_run_of_the_command_prints_card_and_files(hub, saved):
    out = run("push", "saved", "me/rows", "--dry-run")
    assert out.startswith("---\n")
    assert "A push to me/rows would write:\n  README.md" in out
    assert not hub.asked("^(POST|PUT|DELETE) ")


def test_any_dataset_can_be_pushed_with_its_record(hub, saved, edited):
    edited.to_parquet("rows.parquet")
    for name in ("rows.parquet", "nothing", "me/nothing"):
        error = fail("push", name, "me/rows")
        assert f"no toedit.json, the record of the edit, in '{name}': check the name, or set --record" in error
    run("push", "rows.parquet", "me/rows", "--record", "saved/toedit.json")
    assert load_dataset("me/rows", split="train").to_list() == edited.to_list()


def test_a_dataset_on_the_hub_is_pushed_with_the_record_beside_it(hub, edited, transform):
    push_dataset(edited, "me/rows", transform=transform)
    run("push", "me/rows", "org/copy")
    assert load_dataset("org/copy", split="train").to_list() == edited.to_list()
    assert hub.files("dataset", "org/copy")["toedit.json"] == hub.files("dataset", "me/rows")["toedit.json"]


def test_text_written_into_the_folders_card_is_kept(hub, saved, edited):
    path = saved / "saved/README.md"
    path.write_text((path.read_text() if path.exists() else "") + "\nWritten by hand.\n")
    run("push", "saved", "me/named", "--config-name", "named")
    assert "<!-- hf-toedit:start -->" not in hub.files("dataset", "me/named")["README.md"].decode()
    assert "\nWritten by hand.\n" in hub.files("dataset", "me/named")["README.md"].decode()
    run("push", "saved", "me/rows")
    assert "\nWritten by hand.\n" in hub.files("dataset", "me/rows")["README.md"].decode()
    assert load_dataset("me/rows", split="train").to_list() == edited.to_list()


def test_the_command_tells_what_is_wrong_in_its_own_options(hub, owned, saved):
    assert "is public already: pass --public to publish there" in fail("push", "saved", "me/own")
    assert "set --config-name to another name" in fail(
        "push", "saved", "me/own", "--public", "--config-name", "default"
    )
    record = json.loads(Path("saved/toedit.json").read_text())
    Path("other.json").write_text(json.dumps({**record, "fingerprint": "0" * 16}))
    assert "give all edits of these rows, --record FIRST --record SECOND" in fail(
        "push", "saved", "me/new", "--record", "other.json"
    )


def test_a_folder_that_was_uploaded_by_other_means_is_replaced(hub, saved):
    """Its card has no `dataset_info`, but the record beside it says that the rows are edited."""
    HfApi().create_repo("me/rows", repo_type="dataset", private=True)
    HfApi().upload_folder(repo_id="me/rows", repo_type="dataset", folder_path="saved")
    assert run("push", "saved", "me/rows").endswith("Read it with load_dataset('me/rows')\n")
    assert hub.files("dataset", "me/rows")["README.md"].count(b"<!-- hf-toedit:start") == 1


def test_rows_beside_which_no_card_stands_are_still_read_by_default(shards):
    files = dict.fromkeys(["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], 1)
    theirs = Repository("me/rows", None, {**files, "data/test_b.c-00000-of-00001.parquet": 1, "notes.txt": 1})
    assert choose_config(theirs, None, is_source=False) == "toedit"
    found = [{"split": split, "path": f"data/{split}-*"} for split in ("test_b.c", "train")]
    first, ours = configs_metadata(theirs, "toedit", shards)["configs"]
    assert first == {"config_name": "default", "data_files": found}
    assert ours["config_name"] == "toedit"


def test_edit_pushes_too_and_keeps_the_rows_if_that_fails(hub, folder):
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    edit = ("edit", "texts.jsonl", "--prior", "demo", "--threshold", "0.9", "--push", "me/rows")
    run(*edit, "--out", "out")
    expected = load_dataset("out", split="train").to_list()
    assert load_dataset("me/rows", split="train").to_list() == expected
    hub.fail("POST .*/commit/", 500)
    error = fail(*edit[:-1], "me/others", "--out", "again")
    assert "try again with `hf-toedit push again me/others`" in error
    hub.faults.clear()
    run("push", "again", "me/others")
    assert load_dataset("again", split="train").to_list() == expected


def test_edit_refuses_a_public_dataset_before_it_starts(owned, folder):
    Path("texts.jsonl").write_text(json.dumps({"text": TEXTS[0]}))
    error = fail("edit", "texts.jsonl", "--prior", "demo", "--out", "out", "--push", "me/own")
    assert "is public already: pass --public" in error
    assert not Path("out").exists()


def test_edit_refuses_to_publish_what_may_not_be_shared_before_it_starts(owned, folder, tmp_path):
    (tmp_path / "own/README.md").write_bytes(OWN.replace(b"cc-by-4.0", b"cc-by-nd-4.0"))
    owned.add("dataset", "org/closed", tmp_path / "own")
    edit = ("edit", "org/closed", "--prior", "demo", "--out", "out", "--push", "me/rows")
    assert "does not allow sharing edited text: keep the dataset private" in fail(*edit, "--public")
    assert not Path("out").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("default", ToEditWarning)
        result = CliRunner().invoke(app, edit)
    lines = [line for line in result.stderr.splitlines() if "does not allow sharing" in line]
    assert lines == [
        "warning: the licence of the source or of the prior does not allow sharing edited text, so keep this dataset "
        "private, or publish a patch, which has no text of the source, with mode='patch'"
    ]


# what can't be pushed


def test_only_true_records_are_published(hub, edited, transform):
    with pytest.raises(RowError, match="another edit made rows"):
        push_dataset(edited, "me/rows", transform=ToEditTransform("demo", seed=7))
    with pytest.raises(RowError, match="no column 'toedit'"):
        push_dataset(edited.remove_columns("toedit"), "me/rows", transform=transform)
    silent = ToEditTransform("demo", stats_column=None)
    with pytest.raises(RowError, match="with stats_column=None rows don't say"):
        push_dataset(Dataset.from_dict({"text": TEXTS}).map(silent), "me/rows", transform=silent)
    assert not hub.requests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.to_iterable_dataset(), "not a stream: collect them first, Dataset.from_generator"),
        (lambda rows: rows.to_list(), "takes a Dataset or a DatasetDict, not list"),
        (lambda rows: rows.select([]), "no rows to push"),
        (lambda rows: DatasetDict({"a-b": rows}), "'a-b' is not the name of a split"),
        (
            lambda rows: DatasetDict(a=rows, b=rows.rename_column("text", "t")),
            "splits 'a' and 'b' have different columns",
        ),
    ],
)
def test_what_the_hub_could_not_load_is_refused(hub, edited, transform, change, message):
    with pytest.raises(RowError, match=message):
        push_dataset(change(edited), "me/rows", transform=transform)
    assert not hub.requests


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"repo_id": "rows"}, SourceError, "'rows' has no owner: write it as 'user/rows'"),
        ({"repo_id": "a/b/c"}, SourceError, "this is not a valid repository name"),
        ({"create_pr": True, "revision": "v2"}, ConfigError, "leave out either create_pr= or revision="),
        ({"source": "https://example.org"}, SourceError, "must be the Hub id of a dataset"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_written(hub, edited, transform, options, kind, message):
    with pytest.raises(kind, match=message):
        push_dataset(edited, **{"repo_id": "me/rows", "transform": transform, "dry_run": True, **options})
    assert not hub.repos


def test_a_login_is_asked_for_before_anything_is_written(hub, edited, transform, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(Dataset, "to_parquet", None)
    with pytest.raises(SourceError, match="you are not logged in; run `hf auth login` or set HF_TOKEN"):
        push_dataset(edited, "me/rows", transform=transform)


def test_files_that_hold_something_else_are_one_line(hub, saved):
    Path("other.json").write_text("[1]")
    assert "'other.json' is not the record of an edit" in fail("push", "saved", "me/x", "--record", "other.json")
    Path("other.json").write_text("{")
    assert "'other.json' is not the record of an edit: Expecting" in fail(
        "push", "saved", "me/x", "--record", "other.json"
    )
    Path("saved/README.md").write_bytes(b"\xff")
    assert "can't read 'saved/README.md': " in fail("push", "saved", "me/x")
    assert not hub.repos


def test_rows_that_somebody_else_pushes_in_the_meantime_are_not_overwritten(hub, edited, transform, monkeypatch):
    def also_push(*args, **options):
        Dataset.from_dict({"text": TEXTS}).push_to_hub("me/rows", private=True)
        return write_shards(*args, **options)

    monkeypatch.setattr("hf_toedit.hub.content.write_shards", also_push)
    with pytest.raises(SourceError, match="somebody else has just pushed to 'me/rows'"):
        push_dataset(edited, "me/rows", transform=transform)


def test_splits_without_rows_are_left_out_with_a_warning(hub, edited, transform):
    with pytest.warns(ToEditWarning, match="splits without rows are left out: 'test'"):
        push_dataset(DatasetDict(train=edited, test=edited.select([])), "me/rows", transform=transform)
    assert list(load_dataset("me/rows")) == ["train"]


@pytest.mark.parametrize(
    ("raised", "seen", "message"),
    [
        (OSError(errno.ENOSPC, "full"), SourceError, "No space left on device; free some space, or set TMPDIR"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_a_push_that_stops_halfway_leaves_nothing(hub, edited, transform, tmp_path, monkeypatch, raised, seen, message):
    def stop(*_, **__):
        raise raised

    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(Dataset, "to_parquet", stop)
    with pytest.raises(seen, match=message):
        push_dataset(edited, "me/rows", transform=transform)
    assert not list((tmp_path / "scratch").iterdir())
    assert not hub.asked("^(POST|PUT|DELETE) ")
