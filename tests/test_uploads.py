"""Folders go to the Hub whole, private, and again only where they changed; each failure is a line of its own."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from conftest import breadth
from datasets import Dataset
from typer.testing import CliRunner

from hf_toedit import ConfigError, SourceError, ToEditTransform
from hf_toedit.cli.command import app
from hf_toedit.hub.failures import hub_errors
from hf_toedit.hub.uploads import FILES_PER_COMMIT, read_card, upload

CARD = "---\nlicense: mit\n---\n# Rows\n"

COMMIT, PREUPLOAD, BATCH, PUT = "POST .*/commit/", "POST .*/preupload/", "POST .*/objects/batch", "PUT /lfs/"
BRANCH = "POST .*/branch/"
INFO, CREATE, TREE, YAML = (
    "GET /api/datasets/me/x$",
    "POST /api/repos/create",
    "GET .*/tree/",
    "POST /api/validate-yaml",
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "out"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "data/train.parquet").write_bytes(b"rows")
    return folder


@pytest.fixture(params=["lfs", "xet"])
def way(request, hub, monkeypatch):
    """How files are sent: by hf_xet if it is installed, as it usually is."""
    if request.param == "xet":
        pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", request.param == "lfs")
    return request.param


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def uploaded(hub, name="me/x", revision="main", kind="dataset"):
    files = hub.files(kind, name, revision)
    del files[".gitattributes"]
    return files


@pytest.mark.parametrize("kind", ["dataset", "model", "space"])
def test_a_folder_becomes_a_private_repository(hub, folder, way, kind):
    if kind != "dataset":
        (folder / "data/train.parquet").rename(folder / "data/rows.bin")
    address = upload(folder, "me/x", repo_type=kind, message="Edited")
    assert uploaded(hub, kind=kind) == contents(folder)
    assert hub.repo(kind, "me/x").private
    commit, _ = hub.history(kind, "me/x")
    assert address.endswith(f"me/x/commit/{commit.oid}")
    assert commit.title == "Edited"


def test_what_is_there_is_not_sent_again(hub, folder, way):
    first = upload(folder, "me/x")
    assert upload(folder, "me/x") == first
    (folder / "data/test.parquet").write_bytes(b"more")
    upload(folder, "me/x")
    assert [set(commit.changed) for commit in hub.history("dataset", "me/x")[:-1]] == [
        {"data/test.parquet"},
        {"data/train.parquet", "README.md"},
    ]
    assert len(hub.asked("PUT /lfs/")) == (2 if way == "lfs" else 0)
    assert uploaded(hub) == contents(folder)


def test_files_that_are_no_longer_there_are_deleted_with_the_last_commit(hub, folder):
    hub.add(
        "dataset", "me/x", {"data/train-0.parquet": b"a", "data/other.parquet": b"b", "a[1].txt": b"c"}, private=True
    )
    upload(folder, "me/x", delete=["data/train-0.parquet", "a[1].txt", "data/train.parquet", "never there"])
    kept = {"data/other.parquet": b"b", **contents(folder)}
    assert hub.files("dataset", "me/x") == kept
    assert len(hub.history("dataset", "me/x")) == 2


def test_many_files_go_in_commits_of_fewer_than_100_with_the_card_in_the_last(hub, folder, way):
    for i in range(FILES_PER_COMMIT * 2):
        (folder / f"data/{i}[x].txt").write_text(str(i))
    upload(folder, "me/x", message="Edited")
    *_, first = commits = hub.history("dataset", "me/x")[:-1]
    assert [len(commit.changed) for commit in commits] == [2, FILES_PER_COMMIT, FILES_PER_COMMIT]
    assert "README.md" in commits[0].changed
    assert (first.title, commits[0].title) == ("Edited", "Edited (part 3)")
    assert uploaded(hub) == contents(folder)


def test_a_branch_and_a_pull_request(hub, folder, way):
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
    with pytest.raises(ConfigError, match="which can't be changed: give the name of a branch"):
        upload(folder, "me/x", revision=hub.history("dataset", "me/x")[0].oid)


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
    with pytest.raises(SourceError, match="is having trouble"):
        read_card("me/x")


# interruptions and neighbours

UPLOAD = """
import sys
from pathlib import Path
from hf_toedit.hub.uploads import upload
upload(Path(sys.argv[1]), "me/x")
"""


def killed_at(hub, folder, way, request, count):
    """Upload in another process, which is killed when the Hub has had so many requests of a kind and holds the last."""
    hub.fail(request, after=count - 1, delay=60)
    environment = hub.environment(folder.parent / "other")
    environment["HF_HUB_DISABLE_XET"] = "1" if way == "lfs" else ""
    process = subprocess.Popen([sys.executable, "-c", UPLOAD, str(folder)], env=environment, stderr=subprocess.PIPE)
    try:
        while len(hub.asked(request)) < count:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    hub.faults.clear()


def test_an_upload_killed_between_commits_resumes(hub, folder, way):
    for i in range(FILES_PER_COMMIT):
        (folder / f"{i}.txt").write_text(str(i))
    killed_at(hub, folder, way, COMMIT, 2)
    assert len(uploaded(hub)) == FILES_PER_COMMIT
    assert "README.md" not in uploaded(hub)
    upload(folder, "me/x")
    assert uploaded(hub) == contents(folder)
    changed = [len(commit.changed) for commit in hub.history("dataset", "me/x")]
    assert changed == [2, FILES_PER_COMMIT, 1]


def test_large_files_that_arrived_before_the_kill_are_not_sent_again(hub, folder):
    for i in range(8):
        (folder / f"data/{i}.parquet").write_bytes(bytes([i]) * 1000)
    killed_at(hub, folder, "lfs", PUT, 6)
    assert not uploaded(hub)
    there = set(hub.repo("dataset", "me/x").large)
    assert there
    before = Counter(hub.asked(PUT))
    upload(folder, "me/x")
    assert uploaded(hub) == contents(folder)
    again = Counter(hub.asked(PUT)) - before
    assert not there & {request.rpartition("/")[2] for request in again}


def test_two_uploads_at_once_are_both_there(hub, folder, tmp_path):
    folders = [folder, tmp_path / "second"]
    (folders[1] / "data").mkdir(parents=True)
    for i, one in enumerate(folders):
        for j in range(FILES_PER_COMMIT):
            (one / f"data/{i}-{j}.txt").write_text(f"{i} {j}")
    hub.fail(COMMIT, 412, after=1, times=2)
    failures = []

    def send(one):
        try:
            upload(one, "me/x")
        except SourceError as error:
            failures.append(error)

    threads = [threading.Thread(target=send, args=(one,)) for one in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert uploaded(hub) == contents(folders[1]) | contents(folders[0])


def test_a_commit_in_between_does_not_mix_two_uploads(hub, folder, tmp_path, way):
    """The first upload has compared its shard to the one that is there before the second one replaces that."""
    upload(folder, "me/x")
    second = tmp_path / "second"
    (second / "data").mkdir(parents=True)
    (second / "data/train.parquet").write_bytes(b"other rows")
    (folder / "README.md").write_text(CARD + "changed")
    is_second_done = threading.Event()
    hub.fail(COMMIT, until=is_second_done, times=1)
    first = threading.Thread(target=upload, args=(folder, "me/x"))
    before = len(hub.asked(COMMIT))
    first.start()
    while len(hub.asked(COMMIT)) == before:
        time.sleep(0.01)
    upload(second, "me/x")
    assert uploaded(hub)["data/train.parquet"] == b"other rows"
    is_second_done.set()
    first.join()
    assert uploaded(hub) == contents(folder)


def test_a_folder_made_for_an_older_commit_is_refused(hub, folder):
    upload(folder, "me/x")
    old = hub.history("dataset", "me/x")[1].oid
    (folder / "README.md").write_text(CARD + "changed")
    with pytest.raises(SourceError, match=r"someone else is changing it at the same time \(412\)"):
        upload(folder, "me/x", parent=old)
    upload(folder, "me/x", parent=hub.history("dataset", "me/x")[0].oid)
    assert uploaded(hub) == contents(folder)


# what goes wrong

LIMITED = {"RateLimit": '"api";r=0;t=299', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
LIMIT = r"too many requests \(429\); run it again "
SHORT = {"RateLimit": '"api";r=0;t=9'}
LARGE = {"oid": "a", "size": 4}
XET = {"accessToken": "xet", "exp": 2**33}
HTML = {"Content-Type": "text/html"}
LOGIN = r"you are not logged in \(401\); run `hf auth login` or set HF_TOKEN$"
TROUBLE = r"the Hub is having trouble \({}\); run it again later to resume$"
BROKE = r"the connection to the Hub broke \(.+\); run it again to resume$"
SENSELESS = (
    "the answer is incomplete, or does not come from the Hub; check HF_ENDPOINT and proxies, or run it again later$"
)
FULL = r"the storage limit is reached \({}: .+\); free some space on the Hub or buy more$"
FAULTS = [
    (INFO, {"status": 401}, LOGIN),
    (CREATE, {"status": 401}, LOGIN),
    (COMMIT, {"status": 401}, LOGIN),
    (INFO, {"status": 401, "headers": {"X-Error-Message": "Invalid credentials in Authorization header"}},
     r"the Hub does not accept this token \(401\); log in with `hf auth login`, or set HF_TOKEN to a valid one$"),
    (CREATE, {"status": 403, "body": '{"error": "You don\'t have the rights"}'},
     r"the token does not allow this \(You don't have the rights\); use one with write access to the owner's"),
    (COMMIT, {"status": 403}, r"the token does not allow this \(.+\); use one with write access"),
    (INFO, {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, "it is gated; ask for access on its page"),
    (INFO, {"status": 403, "headers": {"X-Error-Message": "Access to this resource is disabled."}},
     "the Hub has disabled it; ask its owner$"),
    (COMMIT, {"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}, "there is no such repository, or you"),
    (PREUPLOAD, {"status": 404, "headers": {"X-Error-Code": "RevisionNotFound"}}, "it has no such revision; check"),
    (COMMIT, {"status": 409}, r"someone else is changing it at the same time \(409\); run it again$"),
    (COMMIT, {"status": 412}, r"someone else is changing it at the same time \(412\); run it again$"),
    (COMMIT, {"status": 400, "body": '{"error": "the name\\nis odd"}'}, r"the Hub refused it \(400: the name is odd\)"),
    (COMMIT, {"status": 418, "body": b"a teapot"}, r"the Hub refused it \(418: a teapot\)"),
    (INFO, {"status": 429, "headers": LIMITED}, LIMIT + "in 300 seconds$"),
    (COMMIT, {"status": 429, "headers": {"Retry-After": "70"}}, LIMIT + "in 70 seconds$"),
    (YAML, {"status": 429, "body": b"slow down"}, LIMIT + "in a few minutes$"),
    *((route, {"status": status}, TROUBLE.format(status))
      for route, status in [(INFO, 500), (CREATE, 502), (TREE, 503), (PREUPLOAD, 500), (BATCH, 503), (PUT, 500),
                            (PUT, 504), (COMMIT, 503), (YAML, 500), (INFO, 408)]),
    (BATCH, {"status": 403, "body": '{"error": "Private repository storage limit reached"}'}, FULL.format(403)),
    (BATCH, {"status": 413}, FULL.format(413)),
    (PUT, {"status": 507}, FULL.format(507)),
    (CREATE, {"status": 402, "body": '{"error": "Payment required"}'}, FULL.format(402)),
    (BATCH, {"status": 200, "body": json.dumps({"objects": [{**LARGE, "error": {"code": 507, "message": "quota"}}]})},
     r"the storage limit is reached \(LFS batch API returned errors: .+`quota\); free some space"),
    *((route, {"drop": True}, BROKE) for route in (INFO, CREATE, PREUPLOAD, PUT, COMMIT)),
    (INFO, {"lost": True}, BROKE),
    *((route, {"cut": True}, BROKE) for route in (INFO, TREE, PREUPLOAD, BATCH)),
    *((route, {"status": 200, "body": b"<html>hello</html>", "headers": HTML}, SENSELESS)
      for route in (INFO, CREATE, TREE, PREUPLOAD, BATCH, COMMIT)),
    *((route, {"status": 200, "body": b"{}"}, SENSELESS) for route in (INFO, CREATE, PREUPLOAD, BATCH, COMMIT)),
    *((route, {"status": 200, "body": b"[1, 2]"}, SENSELESS) for route in (INFO, TREE, PREUPLOAD, BATCH, COMMIT)),
]  # fmt: skip


@pytest.mark.parametrize(("route", "fault", "says"), FAULTS)
def test_a_failure_is_a_line_with_its_fix_and_the_next_call_finishes(hub, folder, route, fault, says):
    hub.fail(route, **fault)
    with pytest.raises(SourceError, match=rf"^can't push to 'me/x': {says}") as raised:
        upload(folder, "me/x", delete=["none"])
    assert "\n" not in str(raised.value)
    hub.faults.clear()
    upload(folder, "me/x")
    assert uploaded(hub) == contents(folder)
    assert hub.repo("dataset", "me/x").private


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder that `save` wrote."""
    folder = tmp_path_factory.mktemp("edited") / "saved"
    transform = ToEditTransform("demo", threshold=0.9)
    transform.save(Dataset.from_dict({"text": ["Return a list of items."]}).map(transform, batched=True), folder)
    return folder


@pytest.mark.parametrize(
    ("route", "fault", "says"), [fault if i % 5 == 0 else breadth(*fault) for i, fault in enumerate(FAULTS)]
)
def test_the_command_tells_it_in_one_line_and_never_the_token(hub, saved, monkeypatch, route, fault, says):
    monkeypatch.setattr("hf_toedit.report.files.find_spec", lambda _: None)  # no histogram: drawing takes long
    if route != CREATE:
        hub.add("dataset", "me/x", {}, private=True)
    hub.fail(route, **fault)
    result = CliRunner().invoke(app, ["push", str(saved), "me/x"])
    assert result.exit_code == 2, result.output
    [*_, line] = result.stderr.splitlines()
    assert re.search(rf"^error: can't push to 'me/x': {says}", line)
    assert "Traceback" not in result.output
    assert hub.token not in result.output


@pytest.mark.parametrize(
    ("route", "fault", "waits"),
    [
        *((route, {"status": 503}, [1, 2]) for route in (INFO, YAML, BRANCH, PREUPLOAD, BATCH, PUT, COMMIT)),
        *((route, {"status": 429, "headers": SHORT}, [10, 10]) for route in (INFO, PUT, COMMIT)),
        *((route, {"status": 429, "headers": {"Retry-After": "9"}}, [9, 9]) for route in (INFO, COMMIT)),
        *((COMMIT, {"status": status}, [1, 2]) for status in (409, 412)),
        (INFO, {"delay": 0.1}, []),
        *((route, {"drop": True}, [1, 2]) for route in (INFO, PUT, COMMIT)),
    ],
)
def test_what_passes_is_waited_for(hub, folder, route, fault, waits, caplog):
    hub.fail(route, **fault, times=2)
    upload(folder, "me/x", revision="other")
    assert uploaded(hub, revision="other") == contents(folder)
    assert hub.waits == waits
    notes = [record.message for record in caplog.records if record.name == "hf_toedit.hub.uploads"]
    assert notes or route != INFO or "delay" in fault
    trouble = "can't be reached" if "drop" in fault else "is busy"
    assert all(f"the Hub {trouble}; trying again in " in note for note in notes)


def test_a_hub_that_does_not_answer(hub, folder, monkeypatch):
    monkeypatch.setattr("hf_toedit.hub.uploads.TIMEOUT", 0.1)
    hub.fail(INFO, delay=60)
    with pytest.raises(SourceError, match=BROKE.replace(".+", "timed out")):
        upload(folder, "me/x")


@pytest.mark.parametrize("fault", ["lost", "cut"])
def test_an_answer_that_is_lost_does_not_commit_twice(hub, folder, fault):
    hub.fail(COMMIT, **{fault: True}, times=1)
    address = upload(folder, "me/x")
    assert address.endswith(hub.history("dataset", "me/x")[0].oid)
    assert len(hub.history("dataset", "me/x")) == 2


def test_a_pull_request_is_opened_once(hub, folder):
    hub.add("dataset", "me/x", {}, private=True)
    hub.fail(COMMIT, lost=True)
    with pytest.raises(SourceError, match="broke"):
        upload(folder, "me/x", create_pr=True)
    assert len(hub.repo("dataset", "me/x").pulls) == 1


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"status": 401}, LOGIN),
        ({"status": 403}, r"the token does not allow this \(Forbidden\); use one with write access"),
        ({"status": 429}, LIMIT + "in a few minutes$"),
        ({"status": 503}, TROUBLE.format(503)),
        ({"drop": True}, BROKE),
        ({"cut": True}, BROKE),
        ({"status": 200, "body": "<html>"}, BROKE),
        ({"status": 200, "body": json.dumps({**XET, "casUrl": "http://127.0.0.1:9"})}, BROKE),
        ({"status": 200, "body": json.dumps({**XET, "casUrl": "local:///proc/none"})}, "I/O error: .*No such file"),
    ],
)
@pytest.mark.parametrize("way", ["xet"], indirect=True)
@pytest.mark.usefixtures("way")
def test_failures_of_the_storage_library(hub, folder, fault, says):
    hub.fail("GET .*/xet-write-token/", **fault)
    with pytest.raises(SourceError, match=rf"^can't push to 'me/x': {says}") as raised:
        upload(folder, "me/x")
    assert "\n" not in str(raised.value)
    hub.faults.clear()
    upload(folder, "me/x")
    assert uploaded(hub) == contents(folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("me/x y", "this is not a valid repository name; write 'owner/name' with letters"),
        ("me/x/y", "this is not a valid repository name"),
        ("", "this is not a valid repository name"),
        ("stranger/x", r"the token does not allow this \(You don't have the rights to create a dataset under"),
        ("stranger/theirs", r"the token does not allow this \(You don't have the rights to create a dataset under"),
        ("stranger/public", r"the token does not allow this \(Forbidden"),
    ],
)
def test_names(hub, folder, name, says):
    hub.add("dataset", "stranger/theirs", {}, private=True)
    hub.add("dataset", "stranger/public", {})
    with pytest.raises(SourceError, match=rf"^can't push to '{name}': {says}"):
        upload(folder, name, private=False)


def test_a_name_without_its_owner(hub, folder):
    with pytest.raises(SourceError, match=r"^'x' has no owner: write it as 'user/x'$"):
        upload(folder, "x")


def test_a_pull_request_needs_a_repository(hub, folder):
    for token, says in (
        (None, r"\(404\); check the name, and whose token"),
        (False, r"\(401\); .* log in with `hf auth"),
    ):
        with pytest.raises(SourceError, match=f"there is no such repository, or you may not see it {says}"):
            upload(folder, "me/x", create_pr=True, token=token)
    hub.add("dataset", "stranger/public", {})
    upload(folder, "stranger/public", private=False, create_pr=True)
    assert hub.files("dataset", "stranger/public", "refs/pr/1") == contents(folder)


SECRET = "hf_" + "aSentinelThatNobodyMaySee" * 2


@pytest.mark.parametrize(
    ("token", "says"),
    [
        (SECRET, r"the Hub does not accept this token \(401\)"),
        ("short-sentinel", r"the Hub does not accept this token \(401\)"),
        (f"{SECRET}\nX: y", "the token contains a character that tokens never have"),
        (f"{SECRET}ä", "the token contains a character that tokens never have"),
        (False, r"you are not logged in \(401\)"),
    ],
)
def test_tokens_are_never_told(hub, folder, token, says):
    with pytest.raises(SourceError, match=says) as raised:
        upload(folder, "me/x", token=token)
    assert "sentinel" not in str(raised.value).lower()
    assert "\n" not in str(raised.value)


def test_a_token_that_the_server_repeats_is_masked(hub, folder):
    hub.users["short-sentinel"] = hub.users[hub.token]
    hub.fail(COMMIT, 400, body='{"error": "Bearer short-sentinel is odd"}')
    with pytest.raises(SourceError, match=r"\(400: Bearer \*\*\* is odd\)"):
        upload(folder, "me/x", token="short-sentinel")
    with pytest.raises(SourceError, match=r"^'\*\*\*' has no owner"):
        upload(folder, SECRET)
    with pytest.raises(SourceError) as raised:
        upload(folder, f"https://me:{SECRET}@huggingface.co/me/x")
    assert SECRET not in str(raised.value)


def test_nobody_is_logged_in(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    for token in (None, True):
        with pytest.raises(SourceError, match="you are not logged in"):
            upload(folder, "me/x", token=token)


def test_the_hub_is_not_reached(hub, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for call in (lambda: upload(folder, "me/x"), lambda: read_card("me/x")):
        with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set; unset it to reach the Hub"):
            call()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for place in ("http://127.0.0.1:9", "127.0.0.1", "http://[", "ftp://127.0.0.1"):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", f"{place}/{{repo_id}}/{{filename}}"
        )
        for call in (lambda: upload(folder, "me/x"), lambda: read_card("me/x")):
            with pytest.raises(
                SourceError, match=r"can't be reached \(.+\); check the network, proxies and HF_ENDPOINT"
            ):
                call()


def test_a_full_disk_and_a_file_that_can_not_be_read(hub, folder, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.HfApi.upload_folder", full)
        with pytest.raises(SourceError, match="the disk is full; free some space and run it again"):
            upload(folder, "me/x")

    def unreadable(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "data/train.parquet")

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", unreadable)
    with pytest.raises(SourceError, match=r"Permission denied: 'data/train\.parquet'"):
        upload(folder, "me/x")


def test_metadata_that_the_hub_refuses_is_told_before_anything_is_sent(hub, folder):
    for metadata, says in (
        ("license: apache-3.0", '^the Hub refused the metadata of README.md: "license" must be one of'),
        ("a: [", "^the metadata of README.md is not valid YAML: while parsing"),
    ):
        (folder / "README.md").write_text(f"---\n{metadata}\n---\n")
        with pytest.raises(SourceError, match=says):
            upload(folder, "me/x")
    (folder / "README.md").write_bytes(b"\xff")
    with pytest.raises(SourceError, match="is not UTF-8"):
        upload(folder, "me/x")
    assert not hub.repos
    with pytest.raises(SourceError, match="there is no folder"):
        upload(folder / "none", "me/x")


def test_errors_of_our_own_pass():
    with pytest.raises(ConfigError, match=r"^ours$"), hub_errors("me/x"):
        raise ConfigError("ours")
    with pytest.raises(ZeroDivisionError), hub_errors("me/x"):
        raise ZeroDivisionError
