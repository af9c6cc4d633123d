"""A finished output: what the manifests add up to equals what the whole dataset says, and it appears at once."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from command_line import fail, run
from datasets import Dataset, DatasetDict, load_dataset
from datasets.data_files import EmptyDatasetError
from huggingface_hub import HfApi
from test_card import TEXTS

from hf_toedit import SourceError, ToEditTransform, summarize
from hf_toedit.files.sources import load_source
from hf_toedit.hub.folder import write_edited
from hf_toedit.hub.records import EditCounts, edit_counts
from hf_toedit.hub.source import Source
from hf_toedit.scale.edited import EditedShards
from hf_toedit.scale.finish import finish
from hf_toedit.scale.job import Job, output
from hf_toedit.scale.plan import Plan
from hf_toedit.scale.planning import spool
from hf_toedit.scale.storage import LocalFolder
from hf_toedit.scale.unit import edit_unit

SETTINGS = {"threshold": 0.4, "exclude_target": True}
FILES = ["README.md", "histogram.png", "stats.json", "toedit.json"]


def planned(out, dataset, transform, unit_bytes, earlier=()):
    """An output whose units have about so many bytes."""
    with output(str(out)) as job:
        units = spool(dataset.items(), job.storage, unit_bytes)
        about = {"source": {"id": "/here/rows.jsonl"}, "earlier": list(earlier), "read_by": ["rows.jsonl"]}
        request = {"batch_size": 1000, "threads": 1}
        job.create(Plan(request, transform.provenance(), units.features, units.files, units.units, about), transform)
        for number in job.to_do():
            edit_unit(job, number)
    return Job(str(out))


def made_rows():
    texts = [f"{text[:40]} {i % 7}" for i in range(10) for text in TEXTS] + ["", None] * 3
    return Dataset.from_dict({"text": texts, "source": [f"web {i % 3}" for i in range(len(texts))]})


@pytest.fixture(scope="module")
def rows():
    return made_rows()


@pytest.fixture(scope="module")
def splits(rows):
    return DatasetDict(train=rows, test=rows.select([0, 5, 9, 44]))


@pytest.fixture(scope="module")
def sampled(demo):
    return ToEditTransform(demo, threshold=0.9)


@pytest.fixture(scope="module")
def done(tmp_path_factory, rows, sampled):
    """An output whose units are done."""
    folder = tmp_path_factory.mktemp("done") / "out"
    planned(folder, DatasetDict(train=rows), sampled, 500)
    return folder


@pytest.fixture
def job(folder, done):
    """A copy of `done`."""
    shutil.copytree(done, "out")
    return Job("out")


@pytest.fixture(scope="module")
def transform(demo):
    return ToEditTransform(demo, **SETTINGS)


def written(folder, dataset, transform, earlier=()):
    """What `write_edited` writes for the same rows."""
    folder.mkdir()
    stats = summarize(dataset, transform.stats_column)
    write_edited(folder, dataset, stats, [*earlier, transform], Source("/here/rows.jsonl"), ["rows.jsonl"])
    return stats


def load_rows(folder):
    return {split: rows.to_list() for split, rows in load_source(folder).items()}


def close(first, second):
    """Whether two contents of stats.json agree: the sums of floats of several units may differ in the last digits."""
    floats = ("logprob_sum", "perplexity")
    assert {k: v for k, v in first.items() if k not in floats} == {k: v for k, v in second.items() if k not in floats}
    assert [first[k] for k in floats] == pytest.approx([second[k] for k in floats], rel=1e-12)


@pytest.mark.parametrize("unit_bytes", [1 << 30, 500])
def test_all_files_equal_those_of_the_whole_dataset(folder, splits, transform, unit_bytes):
    job = planned("out", splits, transform, unit_bytes)
    edited = splits.map(transform, batched=True)
    stats = written(folder / "whole", edited, transform)
    found, shards = finish(job)
    num_units = len(job.plan.units)
    assert num_units == 2 if unit_bytes > 500 else num_units > 4
    for name in FILES:
        ours, whole = (Path(place, name).read_bytes() for place in ("out", "whole"))
        if name == "stats.json":
            close(json.loads(ours), json.loads(whole))
        if name != "stats.json" or num_units == 2:
            assert ours == whole, name
    assert found.num_independent == stats.num_independent
    loaded = load_source("out")
    assert {split: rows.to_list() for split, rows in loaded.items()} == {
        split: rows.to_list() for split, rows in edited.items()
    }
    assert sorted(os.listdir("out")) == [".toedit", "README.md", "data", "histogram.png", "stats.json", "toedit.json"]
    assert [label.split()[0] for label, _ in shards.some_rows(2)] == ["train", "train", "test", "test"]


def test_an_earlier_edit_is_in_the_card(folder, rows, transform, demo):
    first = DatasetDict(train=rows.select(range(16))).map(transform, batched=True)
    again = ToEditTransform(demo, **SETTINGS, generation=1, stats_column="again")
    job = planned("out", first, again, 500, [transform.provenance()])
    written(folder / "whole", first.map(again, batched=True), again, [transform.provenance()])
    finish(job)
    assert len(job.plan.units) > 2
    assert Path("out/README.md").read_text() == Path("whole/README.md").read_text()
    assert "Edit 2" in Path("out/README.md").read_text()
    assert Path("out/toedit.json").read_bytes() == Path("whole/toedit.json").read_bytes()


class Killed(BaseException):
    """What a kill leaves undone is what comes after it."""


@pytest.mark.parametrize("step", range(1, 11))
def test_a_call_killed_anywhere_is_finished_by_the_next(job, rows, monkeypatch, step):
    steps = iter(range(1, 100))

    def dies(method):
        def call(self, *arguments):
            if next(steps) == step:
                raise Killed
            return method(self, *arguments)

        return call

    with monkeypatch.context() as patched:
        for name in ("reveal", "put", "remove"):
            patched.setattr(LocalFolder, name, dies(getattr(LocalFolder, name)))
        try:
            finish(job)
        except Killed:
            assert step < 10, "finish has nine steps"
        else:
            assert step == 10
    if step == 1:
        with pytest.raises(SourceError, match="'out' holds an edit that is not finished: run its command again"):
            load_source("out")
        with pytest.raises(EmptyDatasetError):
            load_dataset(str(Path("out").resolve()))
    else:
        assert len(load_rows("out")["train"]) == len(rows)  # all of them or none, never some
    finish(Job("out"))
    assert sorted(os.listdir("out")) == [".toedit", "README.md", "data", "histogram.png", "stats.json", "toedit.json"]
    left = {path.relative_to("out/.toedit").parts[0] for path in Path("out/.toedit").rglob("*") if path.is_file()}
    assert left == {"plan.json", "units"}
    assert load_dataset(str(Path("out").resolve()))["train"].num_rows == len(rows)  # and nothing of .toedit


def test_an_output_with_a_unit_to_do_is_not_finished(job):
    Path("out/.toedit/units/000001.json").unlink()
    with pytest.raises(SourceError, match=r"unit 1 of the output .* is not done: run the same command again"):
        finish(job)
    assert os.listdir("out") == [".toedit"]


def test_equal_texts_count_once_up_to_a_limit(job, rows, sampled):
    whole = summarize(rows.map(sampled, batched=True))
    assert EditedShards(job).with_equal_texts().num_independent == whole.num_independent
    assert EditedShards(job).with_equal_texts(most=10).num_independent > whole.num_independent


def test_statistics_of_separate_rows_add_up(rows, sampled):
    """The sampling variances of the parts add up, whatever the order."""
    edited = rows.map(sampled, batched=True)
    first, second, third = (summarize(edited.select(range(low, low + 15))) for low in (0, 15, 30))
    total = first + second + third
    assert dataclasses.replace(total, num_independent=0) == dataclasses.replace(
        first + (second + third), num_independent=0
    )
    variances = [(part.tokens.num_visited**2 / part.num_independent) for part in (first, second, third)]
    assert total.num_independent == pytest.approx(total.tokens.num_visited**2 / sum(variances))
    [counts] = edit_counts(edited)
    assert EditCounts.from_dict(json.loads(json.dumps(dataclasses.asdict(counts)))) == counts


@pytest.mark.parametrize("source", [["texts/a.jsonl", "texts/sub/b.jsonl"], ["texts/a.jsonl"], ["texts"]])
def test_no_path_of_this_machine_is_in_a_finished_output(hub, folder, source):
    """A user may upload the folder as it is; the same command still knows it again."""
    Path("texts/sub").mkdir(parents=True)
    for name in ("texts/a.jsonl", "texts/sub/b.jsonl"):
        Path(name).write_text(json.dumps({"text": "Return a copy of the string."}) + "\n")
    options = ("edit", *[Path(name).resolve() for name in source], "--prior", "demo", "--out", "out")
    run(*options)
    HfApi().create_repo("me/x", repo_type="dataset", private=True)
    HfApi().upload_folder(repo_id="me/x", repo_type="dataset", folder_path="out")
    files = hub.files("dataset", "me/x")
    assert {".toedit/plan.json", ".toedit/units/000000.json", "data/train-00000-of-00001.parquet"} <= files.keys()
    for name, content in files.items():
        assert str(folder).encode() not in content, name
        assert str(Path.home()).encode() not in content, name
    assert load_dataset("me/x", split="train").to_list() == load_rows("out")["train"]
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if path.is_file()}
    run(*options)
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if path.is_file()} == before
    Path("texts/a.jsonl").write_text('{"text": "other"}\n')
    assert "has changed" in fail(*options)


def test_commands_read_an_output_of_many_shards(job, hub, rows):
    finish(job)
    assert len(os.listdir("out/data")) == len(job.plan.units) > 4
    run("revert", "out", "--out", "back")
    assert load_rows("back")["train"] == rows.to_list()
    rows.to_parquet("before.parquet")
    assert "46 rows" in run("report", "out", "--against", "before.parquet")
    run("push", "out", "me/x")
    assert load_dataset("me/x", split="train").to_list() == load_rows("out")["train"]
    assert not any(".toedit" in name for name in hub.files("dataset", "me/x"))
