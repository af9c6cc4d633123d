"""Links to the Hub, in Markdown."""

from __future__ import annotations

import re
from pathlib import Path

from ..priors.pretrained import DEMO
from ..rows.provenance import bare_name
from .markdown import as_code, as_text
from .records import Record
from .source import ID, Source

HUB = "https://huggingface.co"
COMMIT = re.compile("[0-9a-f]{40}")


def is_hub_id(name: object) -> bool:
    """Whether a name can be that of a repository on the Hub: not a path, and nothing that exists here."""
    return isinstance(name, str) and bool(ID.fullmatch(name)) and name != DEMO and not Path(name).exists()


def prior_link(record: Record) -> str:
    """The prior in Markdown, with a link to its commit if it is on the Hub."""
    hub_id, name = record.get("prior_hub_id"), bare_name(str(record["prior"]))
    if hub_id:
        return f"[{as_text(hub_id)}]({HUB}/{hub_id}/tree/{record['revision']})"
    return as_code(name) + (", bundled with hf_toedit" if name == DEMO else "")


def link(source: Source, kind: str = "") -> str:
    """A Markdown link to a repository on the Hub, at its commit if that is known. kind: "datasets/" for those."""
    name, revision = source.id, source.revision
    if revision is None or not COMMIT.fullmatch(revision):
        return f"[{as_text(name)}]({HUB}/{kind}{name})"
    return f"[{as_text(name)}]({HUB}/{kind}{name}/tree/{revision}), revision {as_code(revision)}"
