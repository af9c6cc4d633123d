"""What a local Hub holds: users, repositories, commits and their files; without HTTP (see hub_server)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

COMMIT = "c0ffee" + "0" * 34  # the first commit of a repository made from a folder
LARGE = (".parquet", ".arrow", ".safetensors", ".bin", ".png", ".gz", ".zip")  # suffixes that go by LFS
MOST_REGULAR = 10 * 2**20  # bytes
TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}


class RefusedError(Exception):
    """What the Hub answers instead: a status, its code in `X-Error-Code`, and a message."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


@dataclass(frozen=True)
class User:
    name: str
    can_write: bool = True
    orgs: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.orgs)


@dataclass(frozen=True)
class File:
    content: bytes
    is_large: bool

    @property
    def blob(self) -> str:
        """The git digest of what git stores: the content, or the pointer of a large file."""
        stored = self.pointer if self.is_large else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        line = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return line.encode()

    @property
    def oid(self) -> str:
        """What `preupload` and an ETag tell."""
        return self.sha256 if self.is_large else self.blob

    def entry(self, path: str) -> dict[str, Any]:
        told = {"type": "file", "path": path, "size": len(self.content), "oid": self.blob}
        if self.is_large:
            told["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return told


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    user: str
    files: Mapping[str, File]
    changed: tuple[str, ...] = ()  # the paths that the commit names, deletions among them


@dataclass
class PullRequest:
    num: int
    title: str
    user: str
    status: str = "draft"


@dataclass
class Repo:
    kind: str  # "model", "dataset" or "space"
    name: str
    private: bool = False
    gated: bool = False
    allowed: set[str] = field(default_factory=set)  # who may read the files of a gated repository
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # branches by name and refs/pr/N
    pulls: list[PullRequest] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)  # uploaded by LFS, by their sha256

    def commit(self, ref: str, title: str, user: str, files: Mapping[str, File], changed: tuple[str, ...]) -> Commit:
        parent = self.refs.get(ref)
        text = f"{self.kind} {self.name} {parent} {title} {len(self.commits)} {sorted(files)}"
        made = Commit(hashlib.sha1(text.encode()).hexdigest(), parent, title, user, dict(files), changed)
        self.commits[made.oid] = made
        self.refs[ref] = made.oid
        return made

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a pull request, or (the first digits of) a commit's digest."""
        name = revision.removeprefix("refs/heads/")
        if name in self.refs:
            return self.commits[self.refs[name]]
        if re.fullmatch("[0-9a-f]{7,40}", name):
            for oid, commit in self.commits.items():
                if oid.startswith(name):
                    return commit
        raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str) -> Iterator[Commit]:
        """Newest first."""
        oid: str | None = self.at(revision).oid
        while oid is not None:
            yield self.commits[oid]
            oid = self.commits[oid].parent


def is_large(path: str, content: bytes) -> bool:
    return path.endswith(LARGE) or len(content) > MOST_REGULAR


def files_in(folder: Path) -> dict[str, File]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {path: File(content, is_large(path, content)) for path, content in found.items()}


def applied(
    files: Mapping[str, File], lines: list[dict[str, Any]], stored: Callable[[str], bytes | None]
) -> dict[str, File]:
    """The files after the operations of a commit. stored: the content of an uploaded large file by its sha256."""
    after = dict(files)
    for line in lines:
        key, value = line["key"], line["value"]
        path = value.get("path", "")
        if key == "file":
            after[path] = File(base64.b64decode(value["content"]), is_large=False)
        elif key == "lfsFile":
            content = stored(value["oid"])
            if content is None:
                raise RefusedError(400, f"LFS pointer pointed to a file that does not exist: {value['oid']}")
            after[path] = File(content, is_large=True)
        elif key == "deletedFile":
            if after.pop(path, None) is None:
                raise RefusedError(404, f"{path} does not exist", "EntryNotFound")
        elif key == "deletedFolder":
            after = {name: file for name, file in after.items() if not name.startswith(path.rstrip("/") + "/")}
        elif key != "header":
            raise RefusedError(400, f"unknown operation {key!r}")
    return after


# metadata of a card, as https://huggingface.co/api/validate-yaml checks it

LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc
cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0
cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c
ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa
unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1
llama3.2 llama3.3 llama4 grok2-community gemma unknown other
"""
CREATORS = {"found", "crowdsourced", "expert-generated", "machine-generated", "other"}
SIZES = {"unknown", "n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B"} | {
    "1B<n<10B",
    "10B<n<100B",
    "100B<n<1T",
    "n>1T",
}
HUB_ID = r"[\w.-]+(/[\w.-]+)?"
SOURCES = r"original|extended(\|.+)?|" + HUB_ID


def card_errors(content: str, repo_type: str) -> list[str]:
    """What is wrong with a card's metadata; empty if nothing is."""
    block = re.match(r"\s*---\r?\n(.*?)^---\s*$", content, re.DOTALL | re.MULTILINE)
    if block is None:
        return []
    try:
        data = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return [f"invalid YAML: {' '.join(str(error).split())}"]
    if data is None:
        return []
    if not isinstance(data, dict):
        return ["the metadata must be a mapping"]
    return [error for key, value in data.items() for error in _errors_of(str(key), value, repo_type)]


def _errors_of(key: str, value: Any, repo_type: str) -> Iterator[str]:
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in listed) and key in (*PATTERNS, *CHOICES):
        yield f'"{key}" must be a string or a list of strings'
    elif key in PATTERNS:
        yield from (f'"{key}" has {one!r}' for one in listed if not re.fullmatch(PATTERNS[key], one))
    elif key in CHOICES:
        known = CHOICES[key]
        yield from (f'"{key}" must be one of {sorted(known)}, not {one!r}' for one in listed if one not in known)
    elif key in ("configs", "dataset_info") and repo_type == "dataset":
        blocks = [one for one in listed if isinstance(one, dict)]
        if len(blocks) < len(listed):
            yield f'"{key}" must hold mappings'
        names = [one.get("config_name") for one in blocks]
        if key == "configs" and not all(isinstance(name, str) for name in names):
            yield '"configs" needs a "config_name" in each'
        if len(set(names)) < len(names):
            yield f'"{key}" names a config twice'


PATTERNS = {
    "tags": ".{1,100}",
    "language": "[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|code|multilingual",
    "license_name": "[a-z0-9][a-z0-9.-]*",
    "license_link": r"LICENSE(\.\w+)?|https?://\S+",
    "pretty_name": ".+",
    "source_datasets": SOURCES,
    "datasets": HUB_ID,
    "base_model": HUB_ID,
    "task_categories": "[a-z0-9-]+",
}
CHOICES = {
    "license": set(LICENSES.split()),
    "language_creators": CREATORS,
    "annotations_creators": CREATORS | {"no-annotation"},
    "size_categories": SIZES,
}
