"""The local Hub of the tests answers as the libraries expect of the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

ROWS = Dataset.from_dict({"text": ["one", "two"], "id": [1, 2]})


@pytest.mark.parametrize("is_streaming", [False, True])
def test_datasets_push_and_load(hub, is_streaming):
    ROWS.push_to_hub("me/rows", private=True)
    loaded = load_dataset("me/rows", split="train", streaming=is_streaming)
    assert list(loaded) == list(ROWS)
    assert hub.repo("dataset", "me/rows").private
    assert sorted(hub.files("dataset", "me/rows")) == [
        ".gitattributes",
        "README.md",
        "data/train-00000-of-00001.parquet",
    ]
    assert hub.asked("PUT /lfs/datasets/me/rows/")


def test_commits_branches_and_pull_requests(hub, tmp_path):
    api = HfApi()
    api.create_repo("me/x", repo_type="dataset")
    for content in (b"a", b"b"):
        api.upload_file(path_or_fileobj=content, path_in_repo="f/a.txt", repo_id="me/x", repo_type="dataset")
    api.create_branch("me/x", branch="other", repo_type="dataset", revision=hub.history("dataset", "me/x")[1].oid)
    made = api.upload_file(
        path_or_fileobj=b"c", path_in_repo="f/c.txt", repo_id="me/x", repo_type="dataset", create_pr=True
    )
    assert made.pr_url == f"{hub.endpoint}/datasets/me/x/discussions/1"
    contents = {r: hub.files("dataset", "me/x", r).get("f/a.txt") for r in ("main", "other", "refs/pr/1")}
    assert contents == {"main": b"b", "other": b"a", "refs/pr/1": b"b"}
    assert "f/c.txt" not in hub.files("dataset", "me/x")
    assert sorted(api.list_repo_files("me/x", repo_type="dataset", revision="refs/pr/1"))[-2:] == ["f/a.txt", "f/c.txt"]
    assert {ref.name for ref in api.list_repo_refs("me/x", repo_type="dataset").branches} == {"main", "other"}
    got = snapshot_download("me/x", repo_type="dataset", revision="other")
    assert Path(got, "f/a.txt").read_text() == "a"
    assert [commit.title for commit in api.list_repo_commits("me/x", repo_type="dataset")][-1] == "initial commit"
    api.delete_file("f/a.txt", "me/x", repo_type="dataset")
    assert "f/a.txt" not in hub.files("dataset", "me/x")
    old = hub.history("dataset", "me/x")[1].oid
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as raised:
        api.upload_file(path_or_fileobj=b"d", path_in_repo="d", repo_id="me/x", repo_type="dataset", parent_commit=old)
    assert raised.value.response.status_code == 412


def test_an_unchanged_file_is_sent_once(hub, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"rows")
    (tmp_path / "a.txt").write_text("text")
    HfApi().create_repo("me/x", repo_type="dataset")
    for _ in range(2):
        HfApi().upload_folder(folder_path=tmp_path, repo_id="me/x", repo_type="dataset")
    assert len(hub.asked("PUT /lfs/")) == len(hub.asked("POST .*/commit/")) == 1
    HfApi().upload_file(path_or_fileobj=b"rows", path_in_repo="b.parquet", repo_id="me/x", repo_type="dataset")
    assert len(hub.asked("PUT /lfs/")) == 1


def test_who_may_do_what(hub, monkeypatch):
    hub.add("dataset", "me/private", {"a.txt": b"a"}, private=True)
    hub.add("dataset", "me/gated", {"a.txt": b"a"}, gated=True)
    assert HfApi().whoami()["name"] == "me"
    for token, status in ((hub.stranger, 404), (False, 401), ("hf_unknown", 401)):
        with pytest.raises(HfHubHTTPError) as raised:
            hf_hub_download("me/private", "a.txt", repo_type="dataset", token=token)
        assert raised.value.response.status_code == status
        assert isinstance(raised.value, RepositoryNotFoundError) == (token != "hf_unknown")
    for token, status in ((hub.stranger, 403), (False, 401)):
        with pytest.raises(GatedRepoError) as raised:
            hf_hub_download("me/gated", "a.txt", repo_type="dataset", token=token)
        assert raised.value.response.status_code == status
    hub.repo("dataset", "me/gated").allowed.add("stranger")
    assert hf_hub_download("me/gated", "a.txt", repo_type="dataset", token=hub.stranger)
    for token, status in ((hub.stranger, 403), (hub.reader, 403), (False, 401)):
        with pytest.raises(HfHubHTTPError) as raised:
            HfApi(token=token).create_repo("me/new", repo_type="dataset")
        assert raised.value.response.status_code == status
    assert hf_hub_download("me/private", "a.txt", repo_type="dataset", token=hub.reader)


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ("license: apache-2.0\nlanguage: [en, pt-BR]\nsource_datasets: [me/x, original]\ntags: [toedit]", None),
        ("license: apache-3.0", '"license" must be one of'),
        ("language: English", '"language" has'),
        ("license_name: Llama 3", '"license_name" has'),
        ("language_creators: [nobody]", '"language_creators" must be one of'),
        ("tags: {a: 1}", '"tags" must be a string or a list of strings'),
        ("configs: [{data_files: a}]", 'needs a "config_name" in each'),
        ("a: [", "invalid YAML"),
    ],
)
def test_metadata_is_checked(hub, metadata, error):
    text = f"---\n{metadata}\n---\n# Card\n"
    if error is None:
        DatasetCard(text).validate()
        return
    with pytest.raises(ValueError, match="Invalid metadata") as raised:
        HfApi()._validate_yaml(text, repo_type="dataset")
    assert error in str(raised.value)


def test_faults_come_as_planned(hub, tmp_path):
    api = HfApi()
    api.create_repo("me/x", repo_type="dataset")
    hub.fail("POST .*/preupload/", 429, headers={"RateLimit": '"api";r=0;t=55'}, times=1)
    hub.fail("POST .*/preupload/", 503, times=2)
    hub.fail("PUT /lfs/", drop=True, times=1)
    api.upload_file(path_or_fileobj=b"rows", path_in_repo="a.parquet", repo_id="me/x", repo_type="dataset")
    assert hub.waits == [56, 2, 4, 1]
    assert hub.files("dataset", "me/x")["a.parquet"] == b"rows"
    hub.fail("commit", lost=True, times=1)
    with pytest.raises(Exception, match="disconnected"):
        api.upload_file(path_or_fileobj=b"new", path_in_repo="b.txt", repo_id="me/x", repo_type="dataset")
    assert hub.files("dataset", "me/x")["b.txt"] == b"new"
    hub.fail("resolve", cut=True, times=1, after=1)
    assert Path(hf_hub_download("me/x", "b.txt", repo_type="dataset")).read_text() == "new"
