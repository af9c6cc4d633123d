"""The card of an edited dataset: what it is, how it was made, what changed, how to undo and repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from ..editing.config import ToEditConfig
from ..editing.stats import TokenStats
from ..errors import RowError
from ..priors.pretrained import DEMO
from . import commands, tables
from .commands import Home
from .licences import Combined, prior_material, source_material
from .links import HUB, prior_link
from .markdown import as_code, as_text, fenced, table
from .merging import CARD, merged
from .method import CITATION, PAPER, TAGS, meaning, what_it_does
from .records import DatasetEdit, Record
from .source import Source, file_of
from .tables import Excerpt

TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md.j2"


def dataset_card(
    excerpt: Excerpt,
    edits: Sequence[DatasetEdit],
    source: Source | None,
    home: Home,
    *,
    existing: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    terms: Combined | None = None,
    read_by: Sequence[str] = (),
) -> str:
    """The text of a README.md: an existing card, if any, with our section and metadata.

    excerpt: from `excerpt_of`. edits: all those in the rows, from `edits_of`. home: where the dataset is, or will be.
    metadata: for the front matter, beside what the card says by itself: `configs` and `dataset_info`, a license to
        declare instead of the one that follows from `terms`, the `language` and `language_creators` of the source.
    terms: the licences; by default those that can be found out.
    read_by: the SOURCE and options with which a command read the rows.

    Raises SourceError if the existing card can't be completed without losing something.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    terms = terms or terms_of(source, [edit.record for edit in edits])
    given = metadata or {}
    metadata = card_metadata(source, {**({} if "license" in given else terms.metadata), **given})
    told: dict[str, Any] = {
        "home": home,
        "summary": _summary(edits, source, home),
        "edits": [_edit(edit, f"Edit {i}" if len(edits) > 1 else "The edit") for i, edit in enumerate(edits, 1)],
        "statistics": [tables.statistics(edit, excerpt.sizes) for edit in edits],
        "by_source": [] if home.is_patch else [tables.by_source(edit) for edit in edits],
        "skipped": tables.skipped(edits),
        "measurements": tables.measurements(home.measurements) if home.measurements else "",
        "examples": "" if home.is_patch else excerpt.examples,
        "load": fenced(commands.load_code(home), "python"),
        "revert": fenced(commands.revert_code(edits), "python") if excerpt.is_intact else "",
        "reproduce": _reproduce(excerpt.sizes, edits, source, home, read_by),
        "visited": tables.visited(edits),
        "query": "" if home.is_patch else fenced(commands.duckdb_query(edits[-1], home), "sql"),
        "console": None if home.is_patch else commands.console_url(edits[-1], home),
        "terms": terms.markdown.strip(),
        "citation": fenced(CITATION, "bibtex"),
    }
    card = DatasetCard.from_template(DatasetCardData(**metadata), template_path=str(TEMPLATE), **told)
    return merged(existing, card.text, metadata, home.config_name or "")


def card_metadata(source: Source | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The front matter of a dataset card. What the source's card says of its text holds for the edited text too."""
    own: dict[str, Any] = {"tags": list(TAGS)}
    if source is not None and not source.is_local:
        own["source_datasets"] = [source.id]
    creators = given.get("language_creators")
    if creators:
        listed = [creators] if isinstance(creators, str) else creators
        own["language_creators"] = list(dict.fromkeys([*listed, "machine-generated"]))
    return {**given, **own}


def terms_of(source: Source | None, records: Sequence[Record], token: str | bool | None = None) -> Combined:
    """The licences of the source and of the priors, as far as they can be found out; no path of this machine.

    records: of the edits.
    """
    priors = [prior_material(record["prior"] or "", record.get("prior_hub_id"), token) for record in records]
    return Combined((source_material(source, token), *dict.fromkeys(priors)))


def source_metadata(source: Source | None, token: str | bool | None = None) -> dict[str, Any]:
    """`language` and `language_creators`, as the card of the source gives them; nothing if it can't be read."""
    from huggingface_hub import DatasetCard

    path = None if source is None else file_of(source, CARD, token)
    try:
        data = DatasetCard.load(path).data.to_dict() if path else {}
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return {}
    return {name: data[name] for name in ("language", "language_creators") if _is_listing(data.get(name))}


def _is_listing(value: Any) -> bool:
    """Whether a value is a name or a list of names."""
    return bool(value) and all(isinstance(name, str) for name in (value if isinstance(value, list) else [value]))


def source_words(source: Source | None) -> str:
    """The source in Markdown."""
    if source is None:
        return "a dataset that is not recorded"
    if source.is_local:
        return f"a local file or folder ({as_code(source.name)})"
    url = f"{HUB}/datasets/{source.id}" + (f"/tree/{quote(source.revision, safe='')}" if source.revision else "")
    subset = f", subset {as_code(source.subset)}" if source.subset else ""
    revision = f", revision {as_code(source.revision)}" if source.revision else ""
    return f"[{as_text(source.id)}]({url}){subset}{revision}"


def _summary(edits: Sequence[DatasetEdit], source: Source | None, home: Home) -> str:
    """What this is, for a reader who has never heard of it."""
    columns = list(dict.fromkeys(edit.stats_column for edit in edits))
    num_tokens = sum(_tokens(edit).num_tokens for edit in edits if edit.stats_column == columns[0])
    num_changed = sum(_tokens(edit).num_changed for edit in edits)
    share = f" ({num_changed / num_tokens:.2%})" if num_tokens and len(columns) == 1 else ""
    rounds = f" in {len(columns)} rounds of editing" if len(columns) > 1 else ""
    names = _listed([*map(as_code, columns)])
    changed = (
        f"{num_changed:,} of {num_tokens:,} tokens{share} changed{rounds} by [token-level editing (ToEdit)]({PAPER})"
    )
    configs = (edit.record.get("config") for edit in edits)
    what = meaning([ToEditConfig.from_dict(config) if config else None for config in configs])
    if home.is_patch:
        return (
            f"This is a patch: the edits of {source_words(source)}, without any of its text. Applied to that dataset, "
            f"it gives the edited one, with {changed}. {what}"
        )
    return (
        f"This is an edited dataset: the rows of {source_words(source)}, with {changed}. {what} Each row lists its "
        f"edits in the column{'s' * (len(columns) > 1)} {names}, so that they can be inspected and undone."
    )


def _listed(names: Sequence[str]) -> str:
    """Names as in a sentence: a, b and c."""
    *first, last = names
    return " and ".join([", ".join(first), last] if first else [last])


def _tokens(edit: DatasetEdit) -> TokenStats:
    return sum((stats.tokens for stats in edit.stats.values()), start=TokenStats())


def _edit(edit: DatasetEdit, title: str) -> dict[str, str]:
    """What the record of an edit says."""
    record = edit.record
    fingerprint = "none: this prior has no revision, so the rows can't prove which edit made them"
    if edit.fingerprint:
        fingerprint = f"{as_code(edit.fingerprint)}, in the column {as_code(edit.stats_column)} of its rows"
    if not record.get("config"):
        what = "The record of this edit was not available when this card was written."
        return {"title": title, "what": what, "facts": table(["", ""], [["fingerprint", fingerprint]]), "settings": ""}
    tokenizer = record.get("tokenizer")
    columns = dict.fromkeys(
        [*(record.get("columns") or ()), *(name for names in edit.changes.values() for name in names)]
    )
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    facts = {
        "prior": prior_link(record),
        "revision of the prior": as_code(str(record["revision"])) if record["revision"] else "none",
        "tokenizer": f"{tokenizer['num_tokens']:,} tokens, digest {as_code(tokenizer['digest'])}" if tokenizer else "",
        "edited columns": ", ".join(map(as_code, columns)),
        "context": ", ".join(map(as_code, record.get("context") or ())),
        "fingerprint": fingerprint,
        "versions": as_code(versions),
    }
    return {
        "title": title,
        "what": what_it_does(ToEditConfig.from_dict(record["config"])),
        "facts": table(["", ""], [[name, fact] for name, fact in facts.items() if fact]),
        "settings": fenced(commands.settings_yaml(record), "yaml"),
    }


def _reproduce(
    sizes: Mapping[str, int],
    edits: Sequence[DatasetEdit],
    source: Source | None,
    home: Home,
    read_by: Sequence[str],
) -> str:
    """How to repeat the edits, or why commands can't."""
    try:
        code = fenced(commands.reproduce_commands(edits, source, home, read_by), "sh")
        if any({split: stats.num_rows for split, stats in edit.stats.items()} != sizes for edit in edits):
            raise RowError("only some of the rows were edited")
    except RowError as error:
        return f"No command can repeat this: {as_text(str(error))}."
    notes = []
    if len(edits) > 1:
        notes.append("First save the settings of each edit as the file that `--config` names, such as `edit-1.yaml`.")
    if source is None and not read_by:
        notes.append("`SOURCE` is the dataset before the edit, which is not recorded.")
    elif source is None or source.is_local:
        notes.append("The source is not on the Hub: you need the same rows.")
    if any(edit.record.get("corpus_digest") for edit in edits):
        notes.append(
            "The command counts the tokens of the rows that it reads; if `fit` was given others, edits differ."
        )
    if any(not edit.record.get("prior_hub_id") and edit.record["prior"] != DEMO for edit in edits):
        notes.append("The prior is a folder: its revision, above, is a digest of its files.")
    return "\n\n".join([code, *(notes and [" ".join(notes)])])
