"""`hf-toedit` itself: its commands, in the order of `--help`, and `--version`."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from .. import __version__
from ..scale.interrupts import outlive_readers
from .collapse import collapse
from .collapse_language_model import language_model
from .command import app, command
from .demo import demo
from .edit import edit
from .estimate import estimate
from .filter import filter
from .measure import measure
from .push import push
from .report import report
from .revert import revert
from .run import run
from .score import score
from .status import status

for function in (estimate, edit, status, score, measure, filter, revert, report, push, demo, run):
    command(function)
command(language_model, collapse)
app.add_typer(collapse, name="collapse")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hf-toedit {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    outlive_readers()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows "?"
