"""Folders go to the Hub whole, private, and again only where they changed; each failure is a line of its own."""

from __future__ import annotations

import pytest

from hf_toedit import ConfigError, SourceError
from hf_toedit.hub.uploads import FILES_PER_COMMIT, read_card, upload

CARD = "---\nlicense: mit\n---\n# Rows\n"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "out"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "data/train.parquet").write_bytes(b"rows")
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def uploaded(hub, name="me/x", revision="main", kind="dataset"):
    files = hub.files(kind, name, revision)
    del files[".gitattributes"]
    return files


@pytest.mark.parametrize("kind", ["dataset", "model", "space"])
def test_a_folder_becomes_a_private_repository(hub, folder, kind):
    if kind != "dataset":
        (folder / "data/train.parquet").rename(folder / "data/rows.bin")
    address = upload(folder, "me/x", repo_type=kind, message="Edited")
    assert uploaded(hub, kind=kind) == contents(folder)
    assert hub.repo(kind, "me/x").private
    commit, _ = hub.history(kind, "me/x")
    assert address.endswith(f"me/x/commit/{commit.oid}")
    assert commit.title == "Edited"


def test_what_is_there_is_not_sent_again(hub, folder):
    first = upload(folder, "me/x")
    assert upload(folder, "me/x") == first
    (folder / "data/test.parquet").write_bytes(b"more")
    upload(folder, "me/x")
    assert [set(commit.changed) for commit in hub.history("dataset", "me/x")[:-1]] == [
        {"data/test.parquet"},
        {"data/train.parquet", "README.md"},
    ]
    assert len(hub.asked("PUT /lfs/")) == 2
    assert uploaded(hub) == contents(folder)


def test_files_that_are_no_longer_there_are_deleted_with_the_last_commit(hub, folder):
    hub.add(
        "dataset", "me/x", {"data/train-0.parquet": b"a", "data/other.parquet": b"b", "a[1].txt": b"c"}, private=True
    )
    upload(folder, "me/x", delete=["data/train*", "a[[]*"])
    kept = {"data/other.parquet": b"b", **contents(folder)}
    assert hub.files("dataset", "me/x") == kept
    assert len(hub.history("dataset", "me/x")) == 2


def test_many_files_go_in_commits_of_fewer_than_100_with_the_card_in_the_last(hub, folder):
    for i in range(FILES_PER_COMMIT * 2):
        (folder / f"data/{i}[x].txt").write_text(str(i))
    upload(folder, "me/x", message="Edited")
    *_, first = commits = hub.history("dataset", "me/x")[:-1]
    assert [len(commit.changed) for commit in commits] == [2, FILES_PER_COMMIT, FILES_PER_COMMIT]
    assert "README.md" in commits[0].changed
    assert (first.title, commits[0].title) == ("Edited", "Edited (part 3)")
    assert uploaded(hub) == contents(folder)


def test_a_branch_and_a_pull_request(hub, folder):
    hub.add("dataset", "me/x", {"README.md": CARD.replace("Rows", "Mine").encode()}, private=True)
    assert "Mine" in read_card("me/x", revision="other")
    upload(folder, "me/x", revision="other")
    assert hub.files("dataset", "me/x", "other") == contents(folder)
    assert "Rows" in read_card("me/x", revision="other")
    for i in range(FILES_PER_COMMIT):
        (folder / f"data/{i}.txt").write_text(str(i))
    assert upload(folder, "me/x", create_pr=True) == f"{hub.endpoint}/datasets/me/x/discussions/1"
    assert hub.files("dataset", "me/x", "refs/pr/1") == contents(folder)
    assert len(hub.repo("dataset", "me/x").pulls) == 1
    (folder / "more.txt").write_text("more")
    upload(folder, "me/x", revision="refs/pr/1")
    assert hub.files("dataset", "me/x", "refs/pr/1") == contents(folder)
    assert list(hub.files("dataset", "me/x")) == ["README.md"]
    with pytest.raises(ConfigError, match="leave out either create_pr or revision"):
        upload(folder, "me/x", revision="other", create_pr=True)


def test_a_public_repository_is_not_published_to_by_default(hub, folder):
    hub.add("dataset", "me/x", {})
    for settings in ({}, {"create_pr": True}, {"revision": "other"}):
        with pytest.raises(SourceError, match=r"^dataset 'me/x' is public already: pass private=False to publish"):
            upload(folder, "me/x", **settings)
    assert not hub.files("dataset", "me/x")
    upload(folder, "me/x", private=False)
    assert hub.files("dataset", "me/x") == contents(folder)
    upload(folder, "me/new", private=False)
    assert not hub.repo("dataset", "me/new").private
    hub.add("dataset", "me/private", {}, private=True)
    upload(folder, "me/private", private=False)
    assert hub.repo("dataset", "me/private").private


def test_the_card_that_is_there(hub):
    assert read_card("me/x") is None
    hub.add("dataset", "me/x", {}, private=True)
    assert read_card("me/x") is None
    hub.add("model", "me/x", {"README.md": "# Größe\r\n".encode()})
    assert read_card("me/x", repo_type="model") == "# Größe\r\n"
    hub.add("dataset", "me/x", {"README.md": b"first"}, private=True)
    assert read_card("me/x") == "first"
    assert read_card("me/x", token=hub.stranger) is None
    hub.add("dataset", "me/x", {"README.md": b"\xff"})
    with pytest.raises(SourceError, match="is not UTF-8"):
        read_card("me/x")


def test_an_old_copy_is_not_taken_for_the_card(hub):
    hub.add("dataset", "me/x", {"README.md": b"first"})
    assert read_card("me/x") == "first"
    hub.fail("GET|HEAD", 503)
    with pytest.raises(SourceError, match="has a problem of its own"):
        read_card("me/x")


# what goes wrong
