"""Publishing during an edit: readers see nothing before all of it is there, and nothing is sent twice."""

import shutil
import time
from pathlib import Path

import pytest
from command_line import fail, run
from datasets import Dataset, load_dataset
from test_finish import made_rows, planned

from hf_toedit import SourceError, ToEditTransform
from hf_toedit.errors import ToEditWarning
from hf_toedit.files.sources import load_source
from hf_toedit.scale.finish import finish
from hf_toedit.scale.job import Job
from hf_toedit.scale.publishing import Publisher


@pytest.fixture(scope="module")
def done(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done") / "out"
    planned(folder, {"train": made_rows()}, ToEditTransform(demo, threshold=0.9), 500)
    return folder


@pytest.fixture
def job(hub, folder, done):
    shutil.copytree(done, "out")
    return Job("out")


def publisher(job):
    return Publisher(job, "me/x", private=True)


def test_what_is_finished_is_sent_once_and_seen_at_the_end(hub, job):
    """Also where the process is killed in between, and a new one goes on."""
    names = [job.plan.shard_name(number) for number in range(len(job.plan.units))]
    last = Path("out/.toedit/units") / f"{len(names) - 1:06d}.json"
    kept = last.read_bytes()
    last.unlink()
    assert publisher(job).send() == names[:-1]
    sent = len(hub.asked("PUT /lfs"))
    assert hub.repo("dataset", "me/x").private
    assert list(hub.files("dataset", "me/x")) == [".gitattributes"]  # on main
    with pytest.raises(SourceError):
        load_source("me/x")
    last.write_bytes(kept)
    again = publisher(Job("out"))
    assert again.send() == names[-1:]
    assert again.send() == []
    assert len(hub.asked("PUT /lfs")) == sent + 1
    stats, edited = finish(job)
    pushed = again.publish(edited, stats)
    assert len(hub.asked("PUT /lfs")) == sent + 2  # the histogram
    files = hub.files("dataset", "me/x")
    assert {path.removeprefix("data/") for path in files if path.startswith("data/")} == {*names}
    assert not any(".toedit" in path for path in files)
    assert load_dataset("me/x", split="train").to_list() == load_source("out")["train"].to_list()
    assert len(hub.repo("dataset", "me/x").pulls) == 1
    assert pushed.files.keys() == files.keys() - {".gitattributes"}
    before = hub.repo("dataset", "me/x").at("main").oid
    assert not publisher(job).publish(edited, stats).has_changed
    assert hub.repo("dataset", "me/x").at("main").oid == before


def test_a_hub_that_fails_for_a_while_does_not_stop_the_edit(hub, job):
    hub.fail("POST .*/commit/", 500, times=1)
    own = publisher(job)
    tries = len(hub.asked("POST .*/commit/"))

    def edit():
        with own.running(every=0.01):
            while len(hub.asked("POST .*/commit/")) < tries + 2:
                time.sleep(0.01)

    with pytest.warns(ToEditWarning, match=r"can't push to 'me/x': .* \(500\).*; the edit goes on"):
        edit()
    assert own.send() == []


def test_the_card_is_that_of_a_push_of_the_folder(hub, job):
    stats, edited = finish(job)
    publisher(job).publish(edited, stats)
    run("push", "out", "me/other")
    cards = [hub.files("dataset", name)["README.md"].decode() for name in ("me/x", "me/other")]
    sizes = ("num_bytes", "download_size", "dataset_size")  # of the same rows in shards of another size
    plain = [[line for line in card.splitlines() if not line.strip().startswith(sizes)] for card in cards]
    assert plain[0] == [line.replace("me/other", "me/x") for line in plain[1]]


def test_the_command_publishes_while_it_runs(hub, folder):
    Dataset.from_dict({"text": ["Return a copy of the string."] * 3}).to_parquet("rows.parquet")
    options = ("edit", "rows.parquet", "--prior", "demo", "--threshold", 0.3, "--out", "out")
    assert "--push-while-running needs --push" in fail(*options, "--push-while-running")
    printed = run(*options, "--push", "me/x", "--push-while-running")
    assert "Read it with load_dataset('me/x')" in printed
    assert load_dataset("me/x", split="train").to_list() == load_source("out")["train"].to_list()
    assert "No file has changed" in run(*options, "--push", "me/x", "--push-while-running")
