"""A local Hub: serves folders as model and dataset repositories over real HTTP, read-only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class Handler(BaseHTTPRequestHandler):
    """Routes: /api/{models,datasets}/ID[/revision/REV|/tree/REV], /[datasets/]ID/resolve/REV/PATH."""

    protocol_version = "HTTP/1.1"
    repos: dict[str, Path]
    requests: list[str]

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        paths = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}").get("paths", [])
        kind, name, *_ = self.split()
        tree = self.tree(self.repos.get(f"{kind}/{name}"))
        self.send(200, json.dumps([entry for entry in tree if entry["path"] in paths]).encode())

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
            self.send(200, json.dumps(self.tree(folder)).encode())
        else:
            siblings = [{"rfilename": entry["path"]} for entry in self.tree(folder)]
            self.send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings, "private": False}).encode())

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
    """Serve `{"models/org/name": folder, ...}`; yields the address and the list of requests so far."""
    handler = type("LocalHub", (Handler,), {"repos": repos, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
