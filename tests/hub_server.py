"""A local Hub over real HTTP: serves folders as model and dataset repositories, and takes new datasets."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class Handler(BaseHTTPRequestHandler):
    """Routes: /api/{models,datasets}/ID[/revision/REV|/tree/REV], /[datasets/]ID/resolve/REV/PATH.

    To push: /api/repos/create, /api/validate-yaml, /api/datasets/ID/{preupload,commit}/REV; Parquet goes by LFS.
    """

    protocol_version = "HTTP/1.1"
    repos: dict[str, Path]
    requests: list[str]
    blobs: dict[str, bytes]

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/api/repos/create"):
            self.reply(self.create(json.loads(body)))
            return
        if self.path.startswith("/api/validate-yaml"):
            self.reply({"errors": [], "warnings": []})
            return
        if self.path.endswith("/info/lfs/objects/batch"):
            self.reply({"transfer": "basic", "objects": [self.upload(file) for file in json.loads(body)["objects"]]})
            return
        kind, name, *rest = self.split()
        folder = self.repos.get(f"{kind}/{name}")
        if rest[0] == "commit":
            self.reply(self.commit(folder, [json.loads(line) for line in body.splitlines()]))
        elif rest[0] == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if path.endswith(".parquet") else "regular" for path in paths]
            files = zip(paths, modes, strict=True)
            self.reply({"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in files]})
        else:
            paths = json.loads(body or b"{}").get("paths", [])
            self.reply([entry for entry in self.tree(folder) if entry["path"] in paths])

    def create(self, wanted):
        name = f"{wanted['organization']}/{wanted['name']}"
        folder = self.repos["new"] / name
        folder.mkdir(parents=True, exist_ok=True)
        self.repos[f"{wanted['type']}s/{name}"] = folder
        return {"url": f"http://{self.headers['Host']}/{wanted['type']}s/{name}", "id": name}

    def upload(self, file):
        href = f"http://{self.headers['Host']}/blobs/{file['oid']}"
        return {**file, "actions": {"upload": {"href": href}}}

    def do_PUT(self):
        self.blobs[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply({})

    def commit(self, folder, lines):
        url = f"http://{self.headers['Host']}/datasets/{'/'.join(folder.parts[-2:])}"
        for line in lines:
            value = line["value"]
            if line["key"] in ("file", "lfsFile"):
                path = folder / value["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                is_inside = line["key"] == "file"
                path.write_bytes(base64.b64decode(value["content"]) if is_inside else self.blobs[value["oid"]])
        return {"success": True, "commitOid": COMMIT, "commitUrl": f"{url}/commit/{COMMIT}"}

    def reply(self, value):
        self.send(200, json.dumps(value).encode())

    def split(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api":
            parts = parts[1:]
        kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
        return kind, "/".join(parts[:2]), *parts[2:]

    def answer(self):
        self.requests.append(f"{self.command} {self.path}")
        kind, name, *rest = self.split()
        folder = self.repos.get(f"{kind}/{name}")
        if folder is None:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif len(rest) > 1 and rest[1] not in ("main", COMMIT):
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif rest[:1] == ["resolve"]:
            self.send_file(folder / "/".join(rest[2:]))
        elif rest[:1] == ["tree"]:
            self.send_tree(folder, "/".join(rest[2:]))
        else:
            siblings = [{"rfilename": entry["path"]} for entry in self.tree(folder)]
            self.send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings, "private": False}).encode())

    def send_tree(self, folder, below):
        """What stands in a folder; `recursive=true` gives the files below it too."""
        is_recursive = "recursive=true" in self.path.lower()
        if not (folder / below).is_dir():
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        files = [entry for entry in self.tree(folder) if (folder / entry["path"]).is_relative_to(folder / below)]
        folders = {str(path.relative_to(folder)) for path in (folder / below).iterdir() if path.is_dir()}
        if not is_recursive:
            files = [entry for entry in files if (folder / entry["path"]).parent == folder / below]
        self.reply([{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)] + files)

    @staticmethod
    def tree(folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [
            {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": "0" * 40}
            for path in files
        ]

    def send_file(self, path):
        if not path.is_file():
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        content = path.read_bytes()
        self.send(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def send(self, status, content, headers=None):
        span = self.headers.get("Range")
        if status == 200 and span:
            start, _, end = span.removeprefix("bytes=").partition("-")
            last = int(end) if end else len(content) - 1
            headers = {**(headers or {}), "Content-Range": f"bytes {start}-{last}/{len(content)}"}
            content, status = content[int(start) : last + 1], 206
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def serve(repos):
    """Serve `{"models/org/name": folder, ...}`; yields the address and the list of requests so far.

    "new": the folder below which pushed repositories go; without it the Hub takes none.
    """
    handler = type("LocalHub", (Handler,), {"repos": repos, "requests": [], "blobs": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
