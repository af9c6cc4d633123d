"""`measurements.json`: what `hf-toedit measure` found, as a file and as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import SourceError, any_of, one_clear_line, when_full
from .files import write_json

MEASUREMENTS = "measurements.json"
STALE = f"{MEASUREMENTS} is about other rows than these, and is left out: write it again with `hf-toedit measure`"
NO_PRIOR = "There is no prior, so perplexity and its tail were not measured: `--prior` measures them."
KIND = "hf-toedit measure"
FORMAT = 1
LABELS = {  # of figures, in the order of tables, and how they are shown
    "words_per_document": ("words per document", "{:.4g}"),
    "distinct_1": ("distinct words", "{:.2%}"),
    "distinct_2": ("distinct bigrams", "{:.2%}"),
    "distinct_3": ("distinct trigrams", "{:.2%}"),
    "vocabulary": ("distinct words, among equally many", "{:.2%}"),
    "entropy": ("entropy of words, nats", "{:.4f}"),
    "zipf_slope": ("slope of Zipf's law", "{:.4f}"),
    "top_share": ("n-grams in the fullest 1% of buckets", "{:.2%}"),
    "compression_ratio": ("compression ratio", "{:.4f}"),
    "eligible_rate": ("tokens with p >= 0.99", "{:.2%}"),
    "share_below_0.6": ("tokens with p < 0.6", "{:.2%}"),
    "token_perplexity": ("perplexity of all tokens", "{:.4g}"),
    "geometric_mean_perplexity": ("perplexity of documents, geometric mean", "{:.4g}"),
    "median_perplexity": ("perplexity of documents, median", "{:.4g}"),
    "perplexity_95": ("perplexity of documents, 95th percentile", "{:.4g}"),
    "tail_mass": ("documents above A's 95th percentile", "{:.2%}"),
    "changed_rate": ("tokens that the edit changed", "{:.3%}"),
}
Record = Mapping[str, Any]


def write_measurements(path: Path, record: Record) -> None:
    """Write a record. Raises SourceError if it can't."""
    what = f"can't write the measurements {str(path)!r}"
    with when_full(what), one_clear_line(SourceError, what, catches=any_of(OSError), says=_cause):
        write_json(path, record)


def check_replaceable(path: Path) -> None:
    """Raise SourceError unless a record can be written there: only an earlier one is replaced."""
    what = f"can't write the measurements {str(path)!r}"
    if path.is_dir():
        raise SourceError(f"{what}: it is a folder: name a file, such as {str(path / MEASUREMENTS)!r}")
    if not path.parent.is_dir():
        raise SourceError(f"{what}: there is no folder {str(path.parent)!r}")
    if path.exists() and not path.is_file():
        raise SourceError(f"{what}: it is a device or a pipe: name a file, or print the record with `--json`")
    if path.exists():
        try:
            read_measurements(path)
        except SourceError as error:
            raise SourceError(f"{what}: it exists and is not a record of measurements: name another file") from error


def read_measurements(path: Path) -> dict[str, Any]:
    """The record in a file. Raises SourceError if it isn't one."""
    what = f"{str(path)!r} is not a record of measurements"
    fix = "remove it, or measure again"
    with one_clear_line(SourceError, what, fix, catches=any_of(OSError, ValueError, RecursionError), says=_cause):
        record = json.loads(path.read_text(encoding="utf-8"))
    if not _is_record(record):
        raise SourceError(f"{what}; {fix}")
    return dict(record)


def _is_record(record: Any) -> bool:
    """Whether it was written by this version, and can be shown."""
    try:
        if record["kind"] != KIND or record["format"] != FORMAT:
            return False
        sides = [record[side]["splits"] for side in "ab" if record[side]]
        shown = [*header(record), *lines(record), *about(record), *verdict_texts(record), *record["columns"]]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return False
    numbers = [split[name] for splits in sides for split in splits.values() for name in ("num_rows", "digest")]
    return bool(shown and numbers)


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or ""


def header(record: Record) -> list[str]:
    """The titles of `lines`."""
    return ["", "A", "B", "B - A"] if record["b"] else ["", "A"]


def lines(record: Record) -> list[list[str]]:
    """The figures with their intervals: a label, that of A and, if there are two, of B and their difference."""
    parts = [record[side]["figures"] for side in "ab" if record[side]]
    parts += [record["differences"]] if record["b"] else []
    rows = [["documents", *(f"{record[side]['num_rows']:,}" for side in "ab" if record[side])]]
    rows[0] += [""] * (1 + len(parts) - len(rows[0]))
    for name, (label, shown) in LABELS.items():
        cells = [_with_interval(part.get(name), shown) for part in parts]
        if any(cells):
            rows.append([label, *cells])
    return rows


def about(record: Record) -> list[str]:
    """What a reader of the figures must know, in sentences."""
    level = f"{record['confidence']:.0%}"
    names = [f"{side.upper()} is {record[side]['source']}" for side in "ab" if record[side]]
    prior = f"The prior is {record['prior']['prior']}." if record["prior"] else NO_PRIOR
    sentences = [f"{'; '.join(names)}.", prior, f"In brackets: {level} intervals, each on its own."]
    if record["b"]:
        how = "Row by row (paired): both have the same rows, in the same order, before their edits."
        sentences += [how if record["paired"] else "Unpaired: the rows of A and B are not the same."]
        num = len(record["verdicts"])
        sentences += [f"The {num} verdicts hold jointly with {level} confidence (Bonferroni)."]
    return sentences


def verdict_texts(record: Record) -> Sequence[str]:
    return [verdict["text"] for verdict in record.get("verdicts") or ()]


def _with_interval(figure: Record | None, shown: str) -> str:
    if figure is None or figure["value"] is None:
        return ""
    value, interval = shown.format(figure["value"]), figure["interval"]
    if interval is None:
        return value
    return f"{value} [{', '.join(map(shown.format, interval))}]"
