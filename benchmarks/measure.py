"""What measuring costs, beside the obvious ways to count the same.

    python benchmarks/measure.py measure --file books.jsonl.gz     # writes results/measure-<machine>-cpu.json
    python benchmarks/measure.py table results/measure-x86_64-cpu.json

On passages of real texts (JSON lines with a `text`; by default docstrings of the standard library), on 50 of these
passages over and over, and on words none of which occurs twice. One process; figures are of processor time, so that
other work does not count, and the ways take turns.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rows import HERE, human_texts

from hf_toedit.measure import CompressionRatio, DistinctN, Document, NGrams, WordFrequencies, measure
from hf_toedit.measure.batches import in_batches
from hf_toedit.measure.one_pass import default_measurements
from hf_toedit.measure.side_by_side import one_side
from hf_toedit.measure.tally import CHARACTERS, Tally

PASSAGE = 2000  # characters
REPEATED = 50  # passages
BUCKETS = 10_000
Texts = Sequence[str]

app = typer.Typer(add_completion=False, help=__doc__)


def with_intervals(texts: Texts) -> None:
    """What `hf-toedit measure` does with rows it has read."""
    tally = Tally(len(texts), len(texts), with_prior=False, with_edits=False)
    for batch in in_batches(map(Document, texts), CHARACTERS):
        tally.add(batch)
    one_side(tally)


def words_by_nltk(texts: Texts) -> Iterator[list[str]]:
    from nltk.tokenize import WordPunctTokenizer

    return map(WordPunctTokenizer().tokenize, map(str.lower, texts))


def hash_every_ngram(texts: Texts) -> None:
    """DSIR's way."""
    counts = np.zeros(BUCKETS, dtype=int)
    for words in words_by_nltk(texts):
        for gram in itertools.chain(words, map(" ".join, itertools.pairwise(words))):
            counts[int(hashlib.sha256(gram.encode("utf-8")).hexdigest(), 16) % BUCKETS] += 1


def sets_of_tuples(texts: Texts) -> None:
    found: list[set[tuple[str, ...]]] = [set(), set(), set()]
    for words in words_by_nltk(texts):
        for n, grams in enumerate(found, start=1):
            grams.update(zip(*(words[i:] for i in range(n)), strict=False))


def counter_of_words(texts: Texts) -> None:
    counts: Counter[str] = Counter()
    for words in words_by_nltk(texts):
        counts.update(words)


def hashing_vectorizer(texts: Texts) -> None:
    from sklearn.feature_extraction.text import HashingVectorizer

    pattern = {"token_pattern": r"\w+|[^\w\s]+", "ngram_range": (1, 2)}
    HashingVectorizer(n_features=BUCKETS, alternate_sign=False, norm=None, **pattern).transform(texts).sum(axis=0)


WAYS: dict[str, Callable[[Texts], Any]] = {
    "`NGrams`": lambda texts: measure(texts, NGrams()),
    "SHA-256 of every n-gram, as in DSIR's code": hash_every_ngram,
    "scikit-learn's `HashingVectorizer` (MurmurHash)": hashing_vectorizer,
    "`DistinctN`": lambda texts: measure(texts, DistinctN()),
    "sets of tuples of NLTK's words": sets_of_tuples,
    "`WordFrequencies`": lambda texts: measure(texts, WordFrequencies()),
    "`Counter` of NLTK's words": counter_of_words,
    "`CompressionRatio`": lambda texts: measure(texts, CompressionRatio()),
    "all four in one pass": lambda texts: measure(texts, *default_measurements(with_prior=False)),
    "all four with intervals (`hf-toedit measure`)": with_intervals,
}


def real_passages(file: Path | None, num_bytes: float) -> list[str]:
    """Passages in random order."""
    if file is None:
        texts = human_texts(100_000)
    else:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines]
    passages = [text[i : i + PASSAGE] for text in texts for i in range(0, len(text), PASSAGE)]
    random.Random(0).shuffle(passages)
    return up_to(passages, num_bytes)


def up_to(texts: Any, num_bytes: float) -> list[str]:
    """The first texts, of so many bytes together."""
    found, length = [], 0
    for text in texts:
        found.append(text)
        length += len(text.encode())
        if length >= num_bytes:
            break
    return found


def new_words() -> Any:
    number = itertools.count()
    while True:
        yield " ".join(f"word{next(number)}" for _ in range(PASSAGE // 10))


@app.command(name="measure")
def measure_all(
    file: Annotated[Path | None, typer.Option(help="JSON lines with a `text`, compressed with gzip.")] = None,
    megabytes: Annotated[float, typer.Option(help="Of each kind of text.")] = 4,
    runs: Annotated[int, typer.Option(help="Counted runs.")] = 3,
) -> None:
    """Measure, and write the figures to a file."""
    passages = real_passages(file, megabytes * 1e6)
    kinds = {
        "docstrings" if file is None else file.name.split(".")[0].split("_")[0]: passages,
        "repeated text": up_to(itertools.cycle(passages[:REPEATED]), megabytes * 1e6),
        "new words": up_to(new_words(), megabytes * 1e6),
    }
    load = os.getloadavg()[0]
    for call in WAYS.values():  # imports what is imported once
        call(passages[:REPEATED])
    rates: dict[str, dict[str, list[float]]] = {way: {kind: [] for kind in kinds} for way in WAYS}
    for _ in range(runs):
        for kind, texts in kinds.items():
            num_bytes = sum(len(text.encode()) for text in texts)
            for way, call in WAYS.items():
                start = time.process_time()
                call(texts)
                rates[way][kind].append(num_bytes / 1e6 / (time.process_time() - start))
    found = {
        "device": f"{platform.machine()} CPU",
        "load_before": round(load, 1),
        "runs": runs,
        "megabytes": megabytes,
        "megabytes_per_second": {
            way: {kind: round(statistics.median(of_runs), 2) for kind, of_runs in of_kinds.items()}
            for way, of_kinds in rates.items()
        },
    }
    output = HERE / "results" / f"measure-{platform.machine()}-cpu.json"
    output.write_text(json.dumps(found, indent=1) + "\n")
    typer.echo(table_of(found))


@app.command()
def table(file: Path) -> None:
    """Print the table of docs/speed.md of a file of figures."""
    typer.echo(table_of(json.loads(file.read_text(encoding="utf-8"))))


def table_of(found: dict[str, Any]) -> str:
    rates = found["megabytes_per_second"]
    kinds = list(next(iter(rates.values())))
    lines = [
        f"| {found['device']}, MB of text per second | {' | '.join(kinds)} |",
        "|---|" + "---:|" * len(kinds),
    ]
    for way, of_kinds in rates.items():
        name = way if way.startswith(("`Counter`", "SHA", "sci", "sets")) else f"**{way}**"
        lines.append(f"| {name} | {' | '.join(f'{rate:.1f}' for rate in of_kinds.values())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    app()
