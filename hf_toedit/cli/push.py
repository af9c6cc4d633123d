"""`hf-toedit push`: an edited dataset, with its card, to the Hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..display import visible
from ..hub.content import Mode
from ..hub.push import Pushed, push_folder

EDITED_HELP = (
    "A folder written by `hf-toedit edit` or `transform.save`, or the Hub id of a pushed dataset; with --record, any "
    "dataset, as for `edit`."
)
RECORD_HELP = "The toedit.json of the edit, if the dataset has none. Repeat it for several edits, oldest first."
SOURCE_HELP = "The Hub id of the dataset before the edit, as org/name or org/name@revision."
MODE_HELP = "The rows, or only a patch: the edits, without any text of the source."
CONFIG_HELP = "The config (subset) to push to. Default: default, or toedit in a repository with unedited rows."
PUBLIC_HELP = "Make a new dataset public, or push to a public one. By default, a new one is private."


@dataclasses.dataclass(frozen=True)
class PushOptions:
    """What to push, and where to."""

    source: Annotated[str | None, typer.Option(help=SOURCE_HELP)] = None
    mode: Annotated[Mode, typer.Option(help=MODE_HELP)] = "full"
    config_name: Annotated[str | None, typer.Option(help=CONFIG_HELP)] = None
    public: Annotated[bool, typer.Option("--public", help=PUBLIC_HELP)] = False
    revision: Annotated[str | None, typer.Option(help="The branch to push to. Default: main.")] = None
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the card and the files; push nothing.")] = False

    def to_dict(self) -> dict[str, Any]:
        """The arguments of `push_dataset`."""
        fields = dataclasses.asdict(self)
        return {"private": not fields.pop("public"), **fields}


def push(
    edited: Annotated[str, typer.Argument(metavar="EDITED", show_default=False, help=EDITED_HELP)],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", show_default=False, help="Such as me/flan-toedit.")],
    options: PushOptions,
    record: Annotated[list[Path] | None, typer.Option(help=RECORD_HELP)] = None,
) -> None:
    """Push an edited dataset to the Hub, with its card."""
    pushed = push_folder(edited, repo_id, records=record or (), **options.to_dict())
    if options.dry_run:
        print("\n".join(map(visible, pushed.card.splitlines())) + "\n")
    show_pushed(pushed)


def show_pushed(pushed: Pushed) -> None:
    """Print what was pushed, and how to load it."""
    Console().print(repr(pushed), soft_wrap=True, highlight=False, markup=False)
