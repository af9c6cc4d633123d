"""A local Hub over real HTTP: models, datasets and spaces with users, branches, pull requests, commits and LFS.

    with serve({"models/org/name": folder, ...}) as hub:
        hub.endpoint, hub.token             # an address, and a token of `me`, who owns `me/...` and `org/...`
        hub.files("dataset", "me/x")        # {path: bytes} at a revision
        hub.fail("POST .*/commit/", 503, times=2)

The fixture `hub` (conftest) makes it the Hub of this process; `hub.environment(home)` that of another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from hub_store import (
    COMMIT,
    TYPES,
    Commit,
    File,
    PullRequest,
    RefusedError,
    Repo,
    User,
    applied,
    card_errors,
    files_in,
    is_large,
)
from hub_xet import content_of

__all__ = ["COMMIT", "Hub", "serve"]
DATE = "2025-06-01T00:00:00.000Z"
HARDWARE = [
    {
        "name": name,
        "prettyName": words,
        "cpu": "8 vCPU",
        "ram": "30 GB",
        "ephemeralStorage": "400 GB",
        "accelerator": None,
        "unitCostMicroUSD": cost,
        "unitCostUSD": cost / 1e6,
        "unitLabel": "minute",
    }
    for name, words, cost in [("cpu-basic", "CPU Basic", 167), ("l4x1", "1x Nvidia L4", 13333)]
]


@dataclass
class Fault:
    """What goes wrong with a request: see `Hub.fail`."""

    route: re.Pattern[str]
    status: int | None
    headers: Mapping[str, str]
    body: bytes
    times: float
    after: int
    drop: bool
    lost: bool
    cut: bool
    delay: float
    until: threading.Event | None


@dataclass
class HubJob:
    """A job: what was asked for, and how far it is."""

    id: str
    namespace: str
    spec: dict[str, Any]
    stage: str = "SCHEDULING"
    message: str | None = None
    log: list[str] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """As the Hub tells it; of secrets, their names alone."""
        hidden = dict.fromkeys(self.spec.get("secrets", {}), "")
        status = {"stage": self.stage, "message": self.message}
        owner = {"id": "0", "name": self.namespace, "type": "user"}
        return {**self.spec, "id": self.id, "secrets": hidden, "status": status, "owner": owner, "createdAt": DATE}


@dataclass
class Hub:
    storage: Path  # for clients that send files by hf_xet
    endpoint: str = ""
    token: str = "hf_" + "OwnerOfTheLocalHub" + "0" * 16
    reader: str = "hf_" + "ReadOnlyTokenOfTheOwner" + "0" * 11
    stranger: str = "hf_" + "SomebodyElseOnTheHub" + "0" * 14
    requests: list[str] = field(default_factory=list)  # "POST /api/repos/create", in the order of arrival
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)  # by type and id: ("dataset", "me/x")
    waits: list[float] = field(default_factory=list)  # seconds that clients in this process would have waited
    faults: list[Fault] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    jobs: dict[str, HubJob] = field(default_factory=dict)
    work: Callable[[HubJob], None] = lambda job: None  # what happens to a job each time somebody asks about it
    is_closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        me = User("me", orgs=("org",))
        self.users = {
            self.token: me,
            self.reader: User("me", can_write=False, orgs=("org",)),
            self.stranger: User("stranger"),
        }

    # what tests prepare and look at

    def add(self, kind: str, name: str, files: Mapping[str, bytes] | Path, **settings: Any) -> Repo:
        """A repository with a first commit. settings: private, gated, allowed (see Repo)."""
        found = files_in(files) if isinstance(files, Path) else {p: File(c, is_large(p, c)) for p, c in files.items()}
        repo = Repo(kind, name, **settings)
        first = Commit(COMMIT, None, "initial commit", name.partition("/")[0], found, tuple(found))
        repo.commits[COMMIT] = first
        repo.refs["main"] = COMMIT
        self.repos[kind, name] = repo
        return repo

    def repo(self, kind: str, name: str) -> Repo:
        return self.repos[kind, name]

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        """The content of each file at a revision."""
        return {path: file.content for path, file in self.repo(kind, name).at(revision).files.items()}

    def checkout(self, kind: str, name: str, folder: Path, revision: str = "main") -> Path:
        """Write the files of a revision into a folder."""
        for path, content in self.files(kind, name, revision).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder

    def history(self, kind: str, name: str, revision: str = "main") -> list[Commit]:
        """Newest first."""
        return list(self.repo(kind, name).history(revision))

    def asked(self, route: str) -> list[str]:
        """The requests so far that match a pattern such as "PUT /lfs/"."""
        return [request for request in self.requests if re.search(route, request)]

    def fail(
        self,
        route: str,
        status: int | None = None,
        *,
        headers: Mapping[str, str] = {},
        body: bytes | str = b"",
        times: float = float("inf"),
        after: int = 0,
        drop: bool = False,
        lost: bool = False,
        cut: bool = False,
        delay: float = 0,
        until: threading.Event | None = None,
    ) -> None:
        """Make requests fail whose "METHOD /path?query" matches a pattern (by `re.search`).

        status, headers, body: answer with these instead. drop: close the connection halfway through the request's
        body. lost: carry out the request, then close without an answer. cut: carry it out, then close halfway through
        the answer's body. delay: wait so many seconds first. until: wait for this event first. times: how often;
        afterwards requests succeed again. after: how many requests pass before the first failure.
        """
        content = body.encode() if isinstance(body, str) else body
        self.faults.append(
            Fault(re.compile(route), status, headers, content, times, after, drop, lost, cut, delay, until)
        )

    def fault_of(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.route.search(request):
                    if fault.after > 0:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def adopt(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Make this the Hub of this process, with `me` logged in and empty caches. Waits between retries are skipped.

        What was read from HF_ENDPOINT when the libraries were imported is replaced where they look it up.
        """
        import datasets
        import huggingface_hub
        from huggingface_hub.utils._xet import XetSessionHolder

        from hf_toedit.hub import uploads

        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", self.endpoint)
        for module in (huggingface_hub.utils._http, uploads):
            monkeypatch.setattr(module, "time", types.SimpleNamespace(sleep=self.waits.append))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", self.endpoint)
        monkeypatch.setattr(
            datasets.config, "HUB_DATASETS_URL", self.endpoint + "/datasets/{repo_id}/resolve/{revision}/{path}"
        )
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        monkeypatch.setenv("HF_TOKEN", self.token)
        monkeypatch.setenv("HF_XET_CACHE", str(home / "xet"))
        monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "1ms")
        monkeypatch.setattr(huggingface_hub.utils._xet, "_GLOBAL_XET_HOLDER", XetSessionHolder())
        for name in ("HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            monkeypatch.delenv(name, raising=False)
        huggingface_hub.HfFileSystem.clear_instance_cache()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment of a process whose Hub this is and that is logged in. home: where it caches."""
        return {
            **os.environ,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": self.token if token is None else token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }


class Handler(BaseHTTPRequestHandler):
    """One connection. A method `<verb>_<part of the path>` each for what comes after /api/TYPE/ID/."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def handle_request(self) -> None:
        hub, request = self.hub, f"{self.command} {self.path}"
        with hub.lock:
            hub.requests.append(request)
        fault = hub.fault_of(request)
        if fault is not None and fault.delay:
            hub.is_closing.wait(fault.delay)
        while fault is not None and fault.until is not None and not fault.until.wait(0.01):
            if hub.is_closing.is_set():
                break
        length = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.drop:
            self.rfile.read(length // 2)
            self.hang_up()
            return
        body = self.rfile.read(length) if "chunked" not in self.headers.get("Transfer-Encoding", "") else self.chunks()
        try:
            if fault is not None and fault.status is not None:
                status, content, headers = fault.status, fault.body, {"Content-Type": "application/json"}
                headers |= fault.headers
            else:
                with hub.lock:
                    status, content, headers = self.answer(body)
        except RefusedError as refusal:
            status = refusal.status
            content = json.dumps({"error": refusal.message, **refusal.more}).encode()
            headers = {"Content-Type": "application/json", "X-Error-Message": refusal.message}
            headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
        if fault is not None and fault.lost:
            self.hang_up()
            return
        self.send(status, content, headers, cut=fault is not None and fault.cut)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, status: int, content: bytes, headers: Mapping[str, str], *, cut: bool) -> None:
        span = self.headers.get("Range")
        if status == 200 and span and content:
            start, _, end = span.removeprefix("bytes=").partition("-")
            last = min(int(end), len(content) - 1) if end else len(content) - 1
            headers = {**headers, "Content-Range": f"bytes {start}-{last}/{len(content)}"}
            content, status = content[int(start) : last + 1], 206
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.wfile.flush()
        if cut:
            self.hang_up()

    # routes

    def answer(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Status, content and headers."""
        self.body = body
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.user = self.who()
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "lfs":
            return self.large_file(*parts[1:])
        is_api = parts[0] == "api"
        parts = parts[1:] if is_api else parts
        if is_api and parts[0] == "jobs":
            return self.jobs(*parts[1:])
        if is_api and parts[0] not in TYPES:
            told = getattr(self, "api_" + "_".join(parts).replace("-", "_"), None)
            if told is None:
                raise RefusedError(404, "Not found")
            return told()
        kind = TYPES[parts.pop(0)] if parts[0] in TYPES else "model"
        name = "/".join(parts[:2])
        if name.endswith(".git"):
            return self.lfs_batch(self.found(kind, name.removesuffix(".git")))
        verb, *rest = parts[2:] or ["revision"]
        if rest[:2] == ["refs", "pr"]:  # not quoted by the client
            rest = ["/".join(rest[:3]), *rest[3:]]
        method = "get" if self.command == "HEAD" else self.command.lower()
        told = getattr(self, f"{method}_{verb.replace('-', '_')}", None)
        if told is None:
            raise RefusedError(404, "Not found")
        repo = self.found(kind, name)
        return told(repo, *rest)

    def json(self, value: Any, status: int = 200) -> tuple[int, bytes, dict[str, str]]:
        return status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8"}

    def read(self) -> Any:
        return json.loads(self.body or b"{}")

    # who may do what

    def who(self) -> User | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not given:
            return None
        user = self.hub.users.get(given)
        if user is None:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return user

    def found(self, kind: str, name: str) -> Repo:
        """A repository that the user may see."""
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and not self.owns(name)):
            if self.user is None:
                raise RefusedError(401, "Invalid username or password.", "RepoNotFound")
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        return repo

    def owns(self, name: str) -> bool:
        return self.user is not None and self.user.owns(name.partition("/")[0])

    def needs_to_read(self, repo: Repo) -> None:
        if repo.gated and not self.owns(repo.name) and (self.user is None or self.user.name not in repo.allowed):
            what = f"Access to {repo.kind} {repo.name} is restricted"
            if self.user is None:
                raise RefusedError(401, f"{what}. You must have access to it and be authenticated.", "GatedRepo")
            raise RefusedError(403, f"{what} and you are not in the authorized list.", "GatedRepo")

    def needs_to_write(self, repo: Repo, *, is_proposal: bool = False) -> User:
        if self.user is None:
            raise RefusedError(401, "Invalid username or password.")
        if not self.user.can_write or not (is_proposal or self.owns(repo.name)):
            raise RefusedError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return self.user

    # /api/...

    def api_whoami_v2(self) -> Any:
        if self.user is None:
            raise RefusedError(401, "Invalid username or password.")
        orgs = [{"type": "org", "name": name, "roleInOrg": "admin"} for name in self.user.orgs]
        role = "write" if self.user.can_write else "read"
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        return self.json({"type": "user", "name": self.user.name, "orgs": orgs, "auth": auth})

    def api_validate_yaml(self) -> Any:
        wanted = self.read()
        errors = card_errors(wanted["content"], wanted.get("repoType") or "model")
        return self.json({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    def api_repos_create(self) -> Any:
        wanted = self.read()
        kind = wanted.get("type") or "model"
        if self.user is None:
            raise RefusedError(401, "Invalid username or password.")
        namespace = wanted.get("organization") or self.user.name
        name = f"{namespace}/{wanted['name']}"
        if not self.user.can_write or not self.user.owns(namespace):
            raise RefusedError(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
        url = f"{self.hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.hub.repos:
            raise RefusedError(409, f"You already created this {kind} repo", url=url)
        repo = Repo(kind, name, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        attributes = File(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n", is_large=False)
        repo.commit("main", "initial commit", self.user.name, {".gitattributes": attributes}, (".gitattributes",))
        self.hub.repos[kind, name] = repo
        return self.json({"url": url, "name": name, "id": name, "private": repo.private})

    def api_repos_delete(self) -> Any:
        wanted = self.read()
        kind = wanted.get("type") or "model"
        name = f"{wanted.get('organization') or (self.user.name if self.user else '')}/{wanted['name']}"
        self.needs_to_write(self.found(kind, name))
        del self.hub.repos[kind, name]
        return self.json({})

    # /api/jobs/...

    def jobs(self, namespace: str, job_id: str = "", what: str = "") -> Any:
        if namespace == "hardware":
            return self.json(HARDWARE)
        if self.user is None or not self.user.owns(namespace):
            raise RefusedError(403, f"You can't run jobs for {namespace}")
        if not job_id and self.command == "POST":
            job = HubJob(f"{len(self.hub.jobs):024x}", namespace, self.read())
            self.hub.jobs[job.id] = job
            return self.json(job.told())
        if not job_id:
            labels = {tuple(label.split("=", 1)) for label in self.query.get("label", [])}
            found = [job for job in self.hub.jobs.values() if labels <= {*job.spec.get("labels", {}).items()}]
            return self.json([job.told() for job in found if job.stage in self.query.get("stage", [job.stage])])
        job = self.hub.jobs[job_id]
        if what == "logs":
            events = [json.dumps({"timestamp": DATE, "data": line}) for line in job.log]
            return (
                200,
                "".join(f"data: {event}\n\n" for event in events).encode(),
                {"Content-Type": "text/event-stream"},
            )
        if what == "cancel":
            job.stage = "CANCELED"
        elif self.command == "GET":
            self.hub.work(job)
        return self.json(job.told())

    # /api/TYPE/ID/...

    def get_revision(self, repo: Repo, revision: str = "main") -> Any:
        commit = repo.at(revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        if "blobs" in self.query:
            entries = {path: file.entry(path) for path, file in commit.files.items()}
            siblings = [
                {"rfilename": path, "size": entry["size"], "blobId": entry["oid"], "lfs": entry.get("lfs")}
                for path, entry in sorted(entries.items())
            ]
        card = commit.files.get("README.md")
        block = re.match(rb"\s*---\n(.*?)^---\s*$", card.content, re.DOTALL | re.MULTILINE) if card else None
        data = yaml.safe_load(block[1]) if block else None
        told = {"id": repo.name, "author": repo.name.partition("/")[0], "sha": commit.oid, "private": repo.private}
        told |= {"gated": "manual" if repo.gated else False, "disabled": False, "tags": [], "siblings": siblings}
        told |= {"lastModified": DATE, "createdAt": DATE, "downloads": 0, "likes": 0, "cardData": data or {}}
        return self.json(told)

    def get_refs(self, repo: Repo) -> Any:
        def told(name: str, ref: str) -> dict[str, str]:
            return {"name": name, "ref": ref, "targetCommit": repo.refs[name]}

        names = [name for name in repo.refs if not name.startswith("refs/")]
        refs = {"branches": [told(name, f"refs/heads/{name}") for name in names], "tags": [], "converts": []}
        if "include_prs" in self.query:
            refs["pullRequests"] = [told(name, name) for name in repo.refs if name.startswith("refs/pr/")]
        return self.json(refs)

    def get_commits(self, repo: Repo, revision: str) -> Any:
        return self.json(
            [
                {
                    "id": commit.oid,
                    "title": commit.title,
                    "message": "",
                    "authors": [{"user": commit.user}],
                    "date": DATE,
                }
                for commit in repo.history(revision)
            ]
        )

    def get_tree(self, repo: Repo, revision: str, *below: str) -> Any:
        self.needs_to_read(repo)
        prefix = "".join(f"{part}/" for part in below)
        files = {path: file for path, file in repo.at(revision).files.items() if path.startswith(prefix)}
        if not files and prefix:
            raise RefusedError(404, f"{prefix} does not exist on {revision!r}", "EntryNotFound")
        is_deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        folders = {path[: i + 1] for path in files for i, char in enumerate(path) if char == "/" and i >= len(prefix)}
        entries = [
            {"type": "directory", "path": path[:-1], "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
            for path in sorted(folders)
        ] + [file.entry(path) for path, file in sorted(files.items())]
        return self.json([one for one in entries if is_deep or "/" not in one["path"].removeprefix(prefix)])

    def post_paths_info(self, repo: Repo, revision: str) -> Any:
        is_json = "json" in self.headers.get("Content-Type", "")
        wanted = self.read() if is_json else parse_qs(self.body.decode())
        files = repo.at(revision).files
        paths = [path.rstrip("/") for path in wanted.get("paths", [])]
        found = [files[path].entry(path) for path in paths if path in files]
        for path in paths:
            if path not in files and any(name.startswith(path + "/") for name in files):
                found.append({"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()})
        return self.json(found)

    def post_branch(self, repo: Repo, branch: str) -> Any:
        self.needs_to_write(repo)
        if branch.startswith("refs/"):
            raise RefusedError(400, f"Invalid reference for a branch: {branch}")
        if branch in repo.refs:
            raise RefusedError(409, f"Reference {branch} already exists")
        repo.refs[branch] = repo.at(self.read().get("startingPoint") or "main").oid
        return self.json({})

    def delete_branch(self, repo: Repo, branch: str) -> Any:
        self.needs_to_write(repo)
        repo.at(branch)
        del repo.refs[branch]
        return self.json({})

    def put_settings(self, repo: Repo) -> Any:
        self.needs_to_write(repo)
        wanted = self.read()
        repo.private = wanted.get("visibility", "private" if repo.private else "public") == "private"
        return self.json({"private": repo.private})

    def post_preupload(self, repo: Repo, revision: str) -> Any:
        self.needs_to_write(repo, is_proposal="create_pr" in self.query)
        files = repo.at(revision).files
        told = []
        for wanted in self.read()["files"]:
            path = wanted["path"]
            is_by_lfs = path.endswith(".parquet") or is_large(path, b"") or wanted["size"] > 10 * 2**20
            mode = "lfs" if is_by_lfs else "regular"
            oid = {"oid": files[path].oid} if path in files else {}
            told.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **oid})
        return self.json({"files": told})

    def post_commit(self, repo: Repo, revision: str) -> Any:
        is_proposal = "create_pr" in self.query
        user = self.needs_to_write(repo, is_proposal=is_proposal or revision.startswith("refs/pr/"))
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        base = repo.at(revision)
        if "parentCommit" in header and not base.oid.startswith(header["parentCommit"]):
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        if revision not in repo.refs and revision.removeprefix("refs/heads/") not in repo.refs:
            raise RefusedError(400, f"{revision} is not a branch")
        files = applied(base.files, lines, partial(self.stored, repo))
        card = files.get("README.md")
        errors = card_errors(card.content.decode(), repo.kind) if card else []
        if errors:
            raise RefusedError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
        ref = revision.removeprefix("refs/heads/")
        if is_proposal:
            ref = self.pull_request(repo, header["summary"], base)
        changed = tuple(line["value"]["path"] for line in lines[1:])
        commit = repo.commit(ref, header["summary"], user.name, files, changed)
        url = self.url(repo)
        told = {"success": True, "commitOid": commit.oid, "commitUrl": f"{url}/commit/{commit.oid}"}
        told |= {"pullRequestUrl": f"{url}/discussions/{len(repo.pulls)}"} if is_proposal else {}
        return self.json(told)

    def url(self, repo: Repo) -> str:
        return f"{self.hub.endpoint}/{'' if repo.kind == 'model' else repo.kind + 's/'}{repo.name}"

    def pull_request(self, repo: Repo, title: str, base: Commit) -> str:
        assert self.user is not None
        repo.pulls.append(PullRequest(len(repo.pulls) + 1, title, self.user.name))
        ref = f"refs/pr/{len(repo.pulls)}"
        repo.refs[ref] = base.oid
        return ref

    def post_discussions(self, repo: Repo, *rest: str) -> Any:
        self.needs_to_write(repo, is_proposal=True)
        if rest:
            pull = repo.pulls[int(rest[0]) - 1]
            pull.status = "merged" if rest[1] == "merge" else self.read().get("status", "open")
            if pull.status == "merged":
                repo.refs["main"] = repo.at(f"refs/pr/{pull.num}").oid
            return self.json({"newStatus": {}})
        self.pull_request(repo, self.read()["title"], repo.at("main"))
        return self.json({"num": len(repo.pulls)})

    def get_discussions(self, repo: Repo, num: str = "") -> Any:
        pulls = [
            {
                "title": pull.title,
                "num": pull.num,
                "author": {"name": pull.user},
                "createdAt": DATE,
                "status": pull.status,
                "repo": {"name": repo.name, "type": repo.kind},
                "isPullRequest": True,
                "events": [],
                "changes": {"base": "refs/heads/main"},
                "filesWithConflicts": [],
            }
            for pull in repo.pulls
        ]
        if num:
            return self.json(pulls[int(num) - 1])
        return self.json({"discussions": pulls, "count": len(pulls), "start": 0})

    # files

    def get_resolve(self, repo: Repo, revision: str, *path: str) -> Any:
        self.needs_to_read(repo)
        commit = repo.at(revision)
        file = commit.files.get("/".join(path))
        if file is None:
            raise RefusedError(404, "Entry not found", "EntryNotFound")
        headers = {"Content-Type": "application/octet-stream", "ETag": f'"{file.oid}"', "X-Repo-Commit": commit.oid}
        return 200, file.content, headers | {"Accept-Ranges": "bytes"}

    def lfs_batch(self, repo: Repo) -> Any:
        self.needs_to_write(repo, is_proposal=True)
        told = []
        for wanted in self.read()["objects"]:
            href = f"{self.hub.endpoint}/lfs/{repo.kind}s/{repo.name}/{wanted['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            told.append(wanted if wanted["oid"] in repo.large else {**wanted, "actions": actions})
        return self.json({"transfer": "basic", "objects": told})

    def get_xet_write_token(self, repo: Repo, revision: str) -> Any:
        self.needs_to_write(repo, is_proposal=True)
        storage = f"local://{self.hub.storage}"
        return self.json({"accessToken": "xet", "exp": 2**33, "casUrl": storage})

    def stored(self, repo: Repo, sha256: str) -> bytes | None:
        return repo.large.get(sha256) or content_of(self.hub.storage, sha256)

    def large_file(self, kinds: str, user: str, name: str, oid: str, verify: str = "") -> Any:
        repo = self.hub.repos[TYPES[kinds], f"{user}/{name}"]
        if verify:
            if len(repo.large.get(oid, b"")) != self.read()["size"]:
                raise RefusedError(404, "the file was not uploaded")
        elif hashlib.sha256(self.body).hexdigest() != oid:
            raise RefusedError(400, "the content does not have this digest")
        else:
            repo.large[oid] = self.body
        return self.json({})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that hung up
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serve(repos: Mapping[str, Path] = {}) -> Iterator[Hub]:
    """A Hub with public repositories made from folders: {"models/org/name": folder, ...}."""
    scratch = TemporaryDirectory()
    hub = Hub(Path(scratch.name))
    for place, folder in repos.items():
        kinds, _, name = place.partition("/")
        hub.add(TYPES[kinds], name, Path(folder))
    server = Server(("127.0.0.1", 0), type("LocalHub", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.is_closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
        scratch.cleanup()
