"""`hf-toedit demo`: the docstrings of Python's standard library, edited with the small bundled prior."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..display import visible
from ..editing.config import ToEditConfig
from ..editing.stats import summarize
from ..experiments.docstrings import docstrings, standard_library
from ..files.outputs import WORK_FOLDER, new_folder
from ..hub.folder import write_edited
from ..report.edits import CONTEXT, show_edits
from ..report.tables import show_run
from ..scale.mapping import edit_rows
from ..transform import ToEditTransform
from .options import say_where

if TYPE_CHECKING:
    from datasets import Dataset

NUM_SHOWN = 20
BATCH_SIZE = 250
MAX_PROCESSES = 8
DEFAULT_FOLDER = "toedit-demo"
WORDS = (
    "visited: the prior was asked for its probability; eligible: visited, editable and at or above the threshold; "
    "changed: the draw gave another token."
)
LOOK_FOR = (
    "Look for words that the prior was almost certain of, and what became of them. This prior is tiny, so not every "
    "new word fits; a real one knows better."
)
NO_LETTER = re.compile(r"[\W\d_]")
MIN_USES = 3
MIN_PROSE = 0.9
OUT_HELP = "The folder to write to. Default: toedit-demo, with a number appended if that exists."


def demo(
    config: ToEditConfig,
    out: Annotated[Path | None, typer.Option(help=OUT_HELP)] = None,
    limit: Annotated[int | None, typer.Option(help="Edit only the first docstrings, this many.", min=1)] = None,
) -> None:
    """Edit the docstrings of Python itself with the demo prior."""
    console = Console()
    folder = run_demo(out, limit, config, console)
    say_where(console, folder, f"load_dataset({str(folder)!r})")
    name = shlex.quote(visible(str(folder)))
    reverted = shlex.quote(f"{visible(str(folder))}-reverted")
    for line in (
        f"See the edits:      hf-toedit report {name}",
        f"Undo the edits:     hf-toedit revert {name} --out {reverted}",
        "Edit your own text: hf-toedit edit texts.jsonl --prior Qwen/Qwen2.5-0.5B --out edited",
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def run_demo(out: Path | None, limit: int | None, config: ToEditConfig, console: Console) -> Path:
    """Edit, write everything to a folder, show what happened, and return the folder.

    out: the folder to write to; by default `toedit-demo` here, with a number appended if that exists.
    limit: edit only the first `limit` docstrings.

    Raises SourceError if `out` exists or can't be written.
    """
    target = out or free_folder(Path(DEFAULT_FOLDER))
    with new_folder(target) as folder:
        from datasets import Dataset, DatasetDict

        console.print(f"Reading the docstrings below {standard_library()} ...", soft_wrap=True, highlight=False)
        dataset = Dataset.from_list(list(islice(docstrings(standard_library()), limit)))
        transform = ToEditTransform("demo", config)
        if config.needs_corpus:
            transform.fit(dataset)
        edited = edit_rows(
            dataset,
            transform,
            folder / WORK_FOLDER / "demo.arrow",
            batch_size=BATCH_SIZE,
            num_proc=num_processes(len(dataset)),
        )
        stats = summarize(edited)
        shown = telling_rows(edited, dataset["text"], NUM_SHOWN)
        write_edited(folder, DatasetDict(train=edited), stats, transform)
    show_run(console, stats)
    for text in (WORDS, LOOK_FOR) if config.needs_prior else ():
        console.print(text + "\n", highlight=False)
    show_edits(console, [(f"{row['module']}.{row['name']}", row) for row in shown])
    return target


def telling_rows(edited: Dataset, texts: Sequence[str], num_rows: int) -> list[dict[str, Any]]:
    """Up to `num_rows` edited rows, each with its most telling edit in front; no two show the same change.

    A telling edit turns one word into another, both in use, amid prose. Telling edits come first, evenly spread over
    the rows; if there are too few, others follow.

    texts: the `text` of each row before the edit.
    """
    uses = Counter(word for text in texts for word in NO_LETTER.split(text))
    found: dict[bool, dict[tuple[str, str], dict[str, Any]]] = {True: {}, False: {}}
    for i, struct in enumerate(edited["toedit"]):
        if struct["edits"]:
            telling = [is_telling(texts[i], edit, uses) for edit in struct["edits"]]
            first = struct["edits"].pop(telling.index(max(telling)))
            row = {**edited[i], "toedit": {**struct, "edits": [first, *struct["edits"]]}}
            found[max(telling)].setdefault(changed_word(texts[i], first), row)
    shown = spread(list(found[True].values()), num_rows)
    return shown + spread(list(found[False].values()), num_rows - len(shown))


def is_telling(text: str, edit: Mapping[str, Any], uses: Mapping[str, int]) -> bool:
    """Whether an edit of `text` turns one word into another, both used at least `MIN_USES` times, amid prose."""
    start = edit["start"]
    around = text[max(0, start - CONTEXT) : start + len(edit["old"]) + CONTEXT]
    prose = sum(character.isalpha() or character in " ,." for character in around)
    return prose >= MIN_PROSE * len(around) and all(
        len(word) > 1 and uses[word] >= MIN_USES for word in changed_word(text, edit)
    )


def changed_word(text: str, edit: Mapping[str, Any]) -> tuple[str, str]:
    """What an edit of `text` does to the word that it touches: ("returned", "returns") for `ed` turned into `s`."""
    old, new, start = edit["old"], edit["new"], edit["start"]
    if old[:1] == new[:1] == " ":
        old, new, start = old[1:], new[1:], start + 1
    before, after = NO_LETTER.split(text[:start])[-1], NO_LETTER.split(text[start + len(old) :], maxsplit=1)[0]
    return before + old + after, before + new + after


def spread(rows: Sequence[dict[str, Any]], num_rows: int) -> list[dict[str, Any]]:
    """`num_rows` of the rows, evenly spread, or all if there are fewer."""
    num_rows = min(num_rows, len(rows))
    return [rows[i * len(rows) // num_rows] for i in range(num_rows)]


def num_processes(num_rows: int) -> int:
    """One per core, if there are rows enough; a model this small gains nothing from threads."""
    return max(1, min(os.cpu_count() or 1, MAX_PROCESSES, num_rows // BATCH_SIZE))


def free_folder(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, ... that does not exist."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(folder for folder in chain([path], numbered) if not folder.exists())
