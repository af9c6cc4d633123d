"""What a reader of a dataset card can run: load the rows, undo the edits, repeat them, query them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import yaml

from ..errors import RowError
from ..report.queries import queries
from ..rows.provenance import bare_name
from .records import DatasetEdit, Record
from .source import Source

REPLACEMENTS = "Every replacement, most frequent first"
ANY_ID = "ID"  # stands for a repository's id where it isn't known yet
ENGINES = {"TransformersPrior": [], "VLLMPrior": ["--engine", "vllm"], "VLLMServerPrior": ["--url", "URL"]}


@dataclasses.dataclass(frozen=True)
class Home:
    """Where a dataset is, or will be.

    repo_id: its id on the Hub; None for a folder. config_name: its config; None for the default one.
    data: the folder of its Parquet files. record, stats, histogram: its `toedit.json`, `stats.json` and
        `histogram.png`, all as seen from the card; None for a file that isn't there.
    kept: the splits that the card does not describe, from earlier pushes of the same edit.
    measurements: what `hf-toedit measure` found there, which is in its `measurements.json`, too.
    is_patch: whether it holds a patch, which has no text of the source, rather than the rows.
    """

    repo_id: str | None = None
    config_name: str | None = None
    data: str = "data"
    record: str = "toedit.json"
    stats: str | None = None
    histogram: str | None = None
    is_patch: bool = False
    kept: Sequence[str] = ()
    measurements: Record | None = None

    @property
    def id(self) -> str:
        return self.repo_id or ANY_ID


def load_code(home: Home) -> str:
    """Python that loads the dataset."""
    library, function = ("hf_toedit", "load_edited") if home.is_patch else ("datasets", "load_dataset")
    arguments = ", ".join(f'"{name}"' for name in (home.id, home.config_name) if name)
    note = "" if home.repo_id else f"  # {ANY_ID}: the id of this repository, or the path of its folder"
    return f"from {library} import {function}\n\ndataset = {function}({arguments}){note}"


def revert_code(edits: Sequence[DatasetEdit]) -> str:
    """Python that undoes the edits, the last one first."""
    columns = reversed(list(dict.fromkeys(edit.stats_column for edit in edits)))
    options = ["" if column == "toedit" else f", fn_kwargs={{'stats_column': {column!r}}}" for column in columns]
    calls = "".join(f".map(revert, batched=True{option})" for option in options)
    return f"from hf_toedit import revert\n\noriginal = dataset{calls}"


def settings_yaml(record: Record) -> str:
    """The settings of an edit as `--config` reads them."""
    names = ("config", "columns", "context", "roles")
    return str(yaml.safe_dump({name: record[name] for name in names if record.get(name)}, sort_keys=False))


def reproduce_commands(
    edits: Sequence[DatasetEdit], source: Source | None, home: Home, read_by: Sequence[str] = ()
) -> str:
    """The commands that repeat edits made one after the other.

    read_by: the SOURCE and the options with which a command read it.

    Raises RowError, which says why, if commands can't.
    """
    if any(not edit.record.get("config") for edit in edits):
        raise RowError("the record of an earlier edit is not available")
    if len({edit.stats_column for edit in edits}) < len(edits):
        raise RowError("the rows come from parts that were edited separately")
    rows = list(read_by or _source_words(source, edits))
    lines, files = [], [home.record] if len(edits) == 1 else [f"edit-{i}.yaml" for i in range(1, len(edits) + 1)]
    for i, (edit, file) in enumerate(zip(edits, files, strict=True), 1):
        out = "again" if i == len(edits) else f"again-{i}"
        options = ["--config", file, *_prior_words(edit.record), *_shape_words(edit), "--out", out]
        lines.append(_wrapped(["hf-toedit", "edit", *rows], options))
        rows = [out]
    return "\n".join(lines)


def filter_command(record: Record, read_by: Sequence[str]) -> str:
    """The command that filters rows by perplexity again. record: what `filter.json` holds. read_by: see above."""
    low, high = record["perplexity_quantile"]
    options = ["--perplexity-quantile", f"{low:g}:{high:g}", *_prior_words(record["run"])]
    for name in ("columns", "context", "roles"):
        options += [f"--{name}", ",".join(record[name])] if record.get(name) else []
    options += ["--keep-unscorable"] if record["keeps_unscorable"] else []
    return _wrapped(["hf-toedit", "filter", *read_by], [*options, "--out", "again"])


def _wrapped(words: Sequence[str], options: Sequence[str]) -> str:
    """A command with each option on a line."""
    lines = [shlex.join(words)]
    for word in options:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n    ".join(lines)


def _source_words(source: Source | None, edits: Sequence[DatasetEdit]) -> list[str]:
    if source is None:
        return ["SOURCE"]
    if source.is_local:
        return [source.name]
    words = [str(source), *(["--subset", source.subset] if source.subset else [])]
    splits = {split for edit in edits for split in edit.stats}
    return [*words, *(["--split", *splits] if len(splits) == 1 else [])]


def _prior_words(record: Record) -> list[str]:
    name, kind = str(record["prior"]), record.get("prior_class")
    options: dict[str, Any] = dict(record.get("prior_options") or {})
    dtype, code = options.pop("dtype", "auto"), options.pop("trust_remote_code", False)
    if kind not in ENGINES:
        raise RowError(f"the prior was an object in Python ({kind})")
    if options.pop("lazy", True) is not True or any(options.values()):
        raise RowError("the prior was loaded with options that a command doesn't have")
    hub_id = record.get("prior_hub_id")
    words = ["--prior", hub_id or bare_name(name)]
    words += ["--revision", str(record["revision"])] if hub_id else []
    words += ["--dtype", str(dtype)] if dtype != "auto" else []
    words += ["--trust-remote-code"] if code else []
    max_length, stride = record.get("max_length"), record.get("stride")
    words += ["--max-length", str(max_length)] if max_length else []
    words += ["--stride", str(stride)] if max_length and stride != max_length // 2 else []
    return [*words, *ENGINES[kind]]


def _shape_words(edit: DatasetEdit) -> list[str]:
    record = edit.record
    if record.get("chat_template") is not None:
        raise RowError("it used a chat template of its own")
    if record.get("same_tokenizer"):
        raise RowError("it was set by hand which tokenizer made the ids")
    words = ["--stats", str(record["stats"])] if record.get("stats") != "sampled" else []
    return words + (["--stats-column", edit.stats_column] if edit.stats_column != "toedit" else [])


def duckdb_query(edit: DatasetEdit, home: Home) -> str:
    """SQL that counts the replacements, for DuckDB: on the Hub's files or in the folder."""
    split = next(iter(edit.stats))
    place = f"hf://datasets/{home.repo_id}/" if home.repo_id else ""
    return queries(f"'{place}{home.data}/{split}-*.parquet'", edit.stats_column)[REPLACEMENTS]


def console_url(edit: DatasetEdit, home: Home) -> str | None:
    """The address of the same query in the Hub's SQL console, in which a split of the default config is a table."""
    if home.repo_id is None or home.config_name is not None:
        return None
    split = next(iter(edit.stats))
    options = urlencode(
        {"views[]": split, "sql_console": "true", "sql": queries(split, edit.stats_column)[REPLACEMENTS]}
    )
    return f"https://huggingface.co/datasets/{home.repo_id}/viewer/default/{split}?{options}"
