"""Cut long texts into the rows that this recipe was run on.

    python -m hf_toedit.experiments.recipes.small.cut books.jsonl.gz texts.jsonl --every-second
    python -m hf_toedit.experiments.recipes.small.cut wikitext2_valid.txt others.jsonl

JSON lines hold a text each in the field `text`; a `.txt` file holds articles under WikiText's ` = Title = ` lines.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Annotated

import typer

TITLE = re.compile(r"^(?= = [^=].*[^=] = $)", re.MULTILINE)
SIZE = 4000  # characters, at most; cut at a space
SHORTEST = 500  # what is left of a text is a row from here on
SHORTEST_ARTICLE = 1000


def read(path: Path) -> list[str]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if path.suffix == ".txt":
        return [article.strip() for article in TITLE.split(raw.decode()) if len(article) > SHORTEST_ARTICLE]
    return [json.loads(line)["text"] for line in raw.splitlines()]


def rows(text: str) -> list[str]:
    found, start = [], 0
    while len(text) - start > SHORTEST:
        end = min(start + SIZE, len(text))
        space = text.rfind(" ", start, end)
        end = space if end < len(text) and space > start else end
        found.append(text[start:end].strip())
        start = end
    return found


def main(
    source: Path,
    out: Path,
    every_second: Annotated[bool, typer.Option("--every-second", help="Only the second, fourth, ... text.")] = False,
) -> None:
    texts = read(source)
    found = [row for text in (texts[1::2] if every_second else texts) for row in rows(text)]
    random.Random(0).shuffle(found)
    out.write_text("".join(json.dumps({"text": row}) + "\n" for row in found), encoding="utf-8")
    print(f"{len(found):,} rows, {sum(map(len, found)):,} characters")


if __name__ == "__main__":
    typer.run(main)
