"""An output in an object store: whatever fails there, and however late it lists, the rows are those of a folder."""

import os
from collections import Counter
from itertools import count
from pathlib import Path
from time import sleep
from typing import ClassVar

import fsspec
import pytest
from command_line import fail, run
from datasets import Dataset, load_dataset
from fsspec.implementations.memory import MemoryFileSystem
from test_finish import made_rows, planned

from hf_toedit import ConfigError, SourceError, ToEditTransform
from hf_toedit.scale import job as job_module
from hf_toedit.scale import object_store
from hf_toedit.scale.finish import finish
from hf_toedit.scale.job import Job, output
from hf_toedit.scale.status import status_of
from hf_toedit.scale.unit import edit_unit

BESIDE = ["README.md", "histogram.png", "stats.json", "toedit.json"]


@pytest.fixture(scope="module")
def rows():
    return made_rows()


@pytest.fixture(scope="module")
def sampled(demo):
    return ToEditTransform(demo, threshold=0.9)


class FaultyStore(MemoryFileSystem):
    """A store in which one operation in ten fails, and whose listings show what is new only on the second look."""

    protocol = "faulty"
    operations = count(1)
    seen: ClassVar[set[str]] = set()
    failures = 0
    is_calm = False

    def _may_fail(self):
        if not FaultyStore.is_calm and next(FaultyStore.operations) % 10 == 0:
            FaultyStore.failures += 1
            raise OSError("SlowDown: reduce your request rate")

    def cat_file(self, path, **options):
        self._may_fail()
        return super().cat_file(path, **options)

    def pipe_file(self, path, value, **options):
        self._may_fail()
        return super().pipe_file(path, value, **options)

    def put_file(self, lpath, rpath, **options):
        self._may_fail()
        return super().put_file(lpath, rpath, **options)

    def info(self, path, **options):
        self._may_fail()
        return super().info(path, **options)

    def ls(self, path, detail=True, **options):
        found = super().ls(path, detail=detail, **options)
        known = [entry for entry in found if str(entry) in self.seen]
        self.seen |= set(map(str, found))
        return found if FaultyStore.is_calm else known


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    """The stores are empty, and nobody waits."""
    fsspec.register_implementation("faulty", FaultyStore, clobber=True)
    monkeypatch.setattr(object_store, "WAITS_SECONDS", (0, 0, 0))
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def contents(url):
    """What a reader gets, on a day on which nothing fails."""
    fs, root = fsspec.core.url_to_fs(url)
    FaultyStore.is_calm = True
    files = {name: fs.cat_file(f"{root}/{name}") for name in BESIDE}
    shards = {path.rpartition("/")[2]: fs.cat_file(path) for path in fs.glob(f"{root}/data/*")}
    FaultyStore.is_calm = False
    return files, shards


@pytest.fixture
def in_a_folder(folder, rows, sampled):
    """The same edit into a folder."""
    finish(planned("whole", {"train": rows}, sampled, 500))
    return contents("whole")


@pytest.mark.parametrize("url", ["memory://bucket/out", "faulty://bucket/out"])
def test_an_output_in_a_store_equals_that_in_a_folder(in_a_folder, rows, sampled, url):
    before = FaultyStore.failures
    finish(planned(url, {"train": rows}, sampled, 500))
    assert contents(url) == in_a_folder
    assert (FaultyStore.failures > before) == url.startswith("faulty")
    left = {path.partition("/.toedit/")[2].partition("/")[0] for path in MemoryFileSystem.store if "/.toedit/" in path}
    assert left == {"plan.json", "units"}


def test_a_shard_without_its_manifest_is_written_again(in_a_folder, rows, sampled, monkeypatch):
    """A worker that dies between a shard and its manifest, and one that dies within the upload of a shard."""
    dies = iter([None, None, KeyboardInterrupt()])

    def commit(job, manifest, commit=Job.commit):
        if error := next(dies):
            raise error
        commit(job, manifest)

    with monkeypatch.context() as patched:
        patched.setattr(Job, "commit", commit)
        with pytest.raises(KeyboardInterrupt):
            planned("memory://bucket/out", {"train": rows}, sampled, 500)
    fs, _ = fsspec.core.url_to_fs("memory://")
    job = Job("memory://bucket/out")
    shard = f"/bucket/out/data/{job.plan.shard_name(2)}"
    assert fs.exists(shard)
    assert job.to_do() == list(range(2, len(job.plan.units)))
    fs.pipe_file(shard, fs.cat_file(shard)[:100])
    with pytest.raises(SourceError, match=r"unit 2 of the output .* is not done"):
        finish(job)
    with output("memory://bucket/out") as again:
        for number in again.to_do():
            edit_unit(again, number)
        finish(again)
    assert contents("memory://bucket/out") == in_a_folder


def test_the_command_writes_to_a_store_and_resumes_there(folder):
    Dataset.from_dict({"text": ["Return a copy of the string."] * 3}).to_parquet("rows.parquet")
    options = ("edit", "rows.parquet", "--prior", "demo", "--threshold", 0.3)
    printed = run(*options, "--out", "memory://bucket/out")
    assert "read it with load_dataset('parquet', data_files='memory://bucket/out/data/*')" in printed
    run(*options, "--out", "out")
    assert contents("memory://bucket/out")[0]["README.md"] == Path("out/README.md").read_bytes()
    assert "done" in run("status", "memory://bucket/out")
    run(*options, "--out", "memory://bucket/out")  # finished: nothing is left to do
    files = {"train": "memory://bucket/out/data/*"}
    found = load_dataset("parquet", data_files=files, split="train")
    assert found.to_list() == load_dataset("out", split="train").to_list()
    assert sorted(os.listdir()) == ["out", "rows.parquet"]
    fsspec.filesystem("memory").pipe_file("/mine/notes.txt", b"mine")
    assert "the output 'memory://mine' exists: remove it or name another folder" in fail(
        *options, "--out", "memory://mine"
    )
    assert "--push sends a folder" in fail(*options, "--out", "memory://bucket/x", "--push", "me/x")


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("s4://bucket/out", "can't use the output 's4://bucket/out': Protocol not known: s4"),
        ("hf://datasets/me/x", "is a repository, in which each file would be a commit"),
    ],
)
def test_a_url_that_can_not_hold_an_output_is_told(url, line):
    with pytest.raises(SourceError) as error:
        Job(url)
    assert line in str(error.value)


def test_a_store_that_keeps_failing_is_one_line(monkeypatch):
    job = Job("memory://bucket/out")
    tries = []

    def fails(self, *arguments, **options):
        tries.append(arguments)
        raise OSError("503 Service Unavailable")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", fails)
    with pytest.raises(SourceError, match="can't reach the output 'memory://bucket/out': 503 Service Unav"):
        job.storage.write("x", b"")
    assert len(tries) == 4
    with pytest.raises(ConfigError, match="is in an object store"):
        _ = job.folder


def test_what_is_left_to_do_takes_a_request_for_each_unit_that_is_done(rows, sampled, monkeypatch):
    """And two listings, however many units there are."""
    job = planned("memory://bucket/out", {"train": rows}, sampled, 200)
    number, last = len(job.plan.units), len(job.plan.units) - 1
    job.take_back(1)
    job.storage.remove(f"data/{job.plan.shard_name(2)}")
    job.storage.write(f"data/{job.plan.shard_name(3)}", b"half")
    job.storage.write(f".toedit/units/{last:06d}.json", b"{")
    expected = [number for number in range(number) if job.manifest(number) is None]
    assert expected == [1, 2, 3, last]
    requests = []
    for name in ("cat_file", "info", "ls"):
        method = getattr(MemoryFileSystem, name)
        monkeypatch.setattr(
            MemoryFileSystem,
            name,
            lambda self, *given, method=method, name=name, **options: (
                requests.append(name) or method(self, *given, **options)
            ),
        )
    assert job.to_do() == expected
    assert Counter(requests) == {"cat_file": number - 1, "ls": 2}
    requests.clear()
    status = status_of(job)
    assert (status.num_units, status.num_units_done) == (number, number - 4)
    assert status.num_bytes == sum(manifest.num_bytes for n in range(number) if (manifest := job.manifest(n)))


def test_manifests_that_nobody_waits_for_are_not_read():
    read = []
    found = job_module._in_threads(lambda number: read.append(number) or sleep(0.001), range(100_000))
    assert next(found) is None
    found.close()
    assert 0 < len(read) < 100_000
