"""The code blocks of the README and of these pages: find them, run them, refresh what they print.

    python docs/blocks.py        # what `make docs-refresh` runs; tests/test_docs.py fails while a page is out of date

The Python blocks of a page run in order, in one namespace and one folder, and so do its `hf-toedit` commands. An HTML
comment in front of a block, which readers do not see, says what else to do with it:

    <!-- output -->             what the block before printed
    <!-- file: NAME -->         written to the folder under this name
    <!-- not run: REASON -->    needs something that a test can't have; names and options are checked all the same
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import re
import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
COMMANDS_PAGE = DOCS / "reference/command-line.md"
LICENCES_PAGE = DOCS / "guide/licences.md"
REPRODUCTION_PAGE = DOCS / "reproduction.md"
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
TERMINAL = {"COLUMNS": "80", "NO_COLOR": "1"}
MODEL = "Qwen/Qwen2.5-0.5B"  # where a page names it, the demo prior is run instead
TEXTS = [
    "The default value is used when the option is not given on the command line.",
    "Return a copy of the string with leading and trailing whitespace removed.",
    "Return a new list containing all items from the iterable in ascending order.",
    "If the optional argument is given and true, the result is a list of strings instead of a list of tuples.",
]
CHAT = [
    {"role": "user", "content": "What does the function do?"},
    {"role": "assistant", "content": "It removes the first item of the list and returns it."},
]


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language and code, the comment in front of it, and where the code stands."""

    language: str
    code: str
    note: str
    span: tuple[int, int]

    @property
    def is_run(self) -> bool:
        return not self.note.startswith("not run")

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of the `hf-toedit` commands in the block."""
        lines = self.code.replace("\\\n", " ").splitlines() if self.language == "sh" else []
        return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("hf-toedit")]


def blocks(page: str) -> list[Block]:
    return [
        Block(found["language"], found["code"], found["note"] or "", found.span("code"))
        for found in BLOCK.finditer(page)
    ]


def run(page: str) -> Iterator[tuple[Block, str]]:
    """Run a page in the current folder. Yields each output block with what was really printed there."""
    for name, rows in (("texts.jsonl", [{"text": text} for text in TEXTS]), ("chats.jsonl", [{"messages": CHAT}] * 4)):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page):
        if block.note == "output":
            yield block, printed
        elif block.note.startswith("file: "):
            Path(block.note.removeprefix("file: ")).write_text(block.code, encoding="utf-8")
        elif block.is_run and block.language == "python":
            printed = run_python(block.code, namespace)
        elif block.is_run:
            printed = "".join(map(run_command, block.commands)) or printed


def run_python(code: str, namespace: dict[str, Any]) -> str:
    """What a block prints, on a CPU and with the demo prior in place of MODEL."""
    import trl

    from hf_toedit import TransformersPrior

    on_cpu = functools.partial(trl.SFTConfig, use_cpu=True, report_to="none")
    program = compile(code.replace(f'"{MODEL}"', repr(TransformersPrior("demo").path)), "<block>", "exec")
    with (
        mock.patch.object(trl, "SFTConfig", on_cpu),
        mock.patch.dict(os.environ, TERMINAL),
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        exec(program, namespace)
    return printed.getvalue()


def run_command(arguments: list[str]) -> str:
    """What a `hf-toedit` command prints. Raises RuntimeError if it fails."""
    from typer.testing import CliRunner

    from hf_toedit.cli import app

    result = CliRunner(env=TERMINAL).invoke(app, [a.replace(MODEL, "demo") for a in arguments])
    if result.exit_code:
        raise RuntimeError(f"hf-toedit {shlex.join(arguments)}: {result.stderr or result.exception!r}")
    return result.stdout


def refreshed(page: str) -> str:
    """The page with its output blocks as they come out now."""
    for block, printed in reversed(list(run(page))):
        start, end = block.span
        lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
        page = page[:start] + "\n".join(lines) + "\n" + page[end:]
    return page


def commands_page() -> str:
    """The page with the `--help` of every command."""
    import typer

    from hf_toedit.cli import app

    def help_of(*command: str) -> str:
        return run_command([*command, "--help"]).replace("Usage: root", "Usage: hf-toedit").strip("\n")

    def sections(command: Any, *names: str) -> Iterator[str]:
        yield f"\n## {' '.join(['hf-toedit', *names])}\n\n```text\n{help_of(*names)}\n```\n"
        for name, each in getattr(command, "commands", {}).items():
            yield from sections(each, *names, name)

    head = COMMANDS_PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    return head + "".join(sections(typer.main.get_command(app)))


def licences_page() -> str:
    """The page with the table of licences, which is its end."""
    from hf_toedit.hub.licences import Licence, all_licences

    def row(licence: Licence) -> str:
        key = f"`{licence.name}` (`other`)" if licence.name else f"`{licence.id}`"
        asked = [
            " ".join(f"{term.says.removesuffix('.')} ({term.at})." for term in licence.terms if term.of == of) or "–"
            for of in ("source", "text", "models")
        ]
        return f"| {licence.link} {key} | {' | '.join(asked)} | {licence.read or 'unverified'} |\n"

    head = LICENCES_PAGE.read_text(encoding="utf-8").partition("\n| licence |")[0].rstrip("\n")
    titles = "\n\n| licence | data under it, edited | text by a model under it | models trained on the text | read |\n"
    return head + titles + "|---|---|---|---|---|\n" + "".join(map(row, all_licences()))


def reproduction_page() -> str:
    """The page with the figures of the papers, from the files of their results."""
    from benchmarks.reproduction.figure import read_all
    from benchmarks.reproduction.page import page_text

    return page_text(read_all())


def main() -> None:
    sys.path.insert(0, str(ROOT))
    warnings.simplefilter("ignore", FutureWarning)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HF_DATASETS_CACHE"] = cache
        for path in PAGES:
            page = path.read_text(encoding="utf-8")
            if path == COMMANDS_PAGE:
                new = commands_page()
            elif path == LICENCES_PAGE:
                new = licences_page()
            elif path == REPRODUCTION_PAGE:
                new = reproduction_page()
            elif "<!-- output -->" in page:
                with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                    new = refreshed(page)
            else:
                continue
            if new != page:
                path.write_text(new, encoding="utf-8")
                print(f"refreshed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
