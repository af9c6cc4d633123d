"""A report as a static Space: a private web page on the Hub."""

from __future__ import annotations

from ..errors import SourceError
from ..files.outputs import scratch_folder
from .merging import CARD
from .uploads import read_card, upload

TAG = "toedit-report"  # marks a Space as a report, which the next one may replace


def push_page(page: str, repo_id: str, title: str, token: str | None = None) -> str:
    """Upload a page to a static Space, which is created, private, if there is none; return its address.

    page: what `page_of` returns. repo_id: "owner/name". title: of the Space, if it is new.

    Raises SourceError if the Space exists and is not a report or is public, or if it can't be uploaded.
    """
    from huggingface_hub import constants

    card = read_card(repo_id, repo_type="space", token=token)
    if card is not None and TAG not in card:
        raise SourceError(f"the Space {repo_id!r} exists and is not a report: name another one")
    with scratch_folder() as folder:
        (folder / "index.html").write_text(page, encoding="utf-8")
        (folder / CARD).write_text(card if card is not None else _card(title), encoding="utf-8")
        upload(folder, repo_id, repo_type="space", token=token, message="Upload a report with hf_toedit")
    return f"{constants.ENDPOINT}/spaces/{repo_id}"


def _card(title: str) -> str:
    from huggingface_hub import SpaceCard, SpaceCardData

    data = SpaceCardData(title=title, sdk="static", tags=[TAG], emoji="🔎", colorFrom="blue", colorTo="gray")
    return str(SpaceCard(f"---\n{data}\n---\n\nA page that shows token-level edits, made by `hf-toedit report`.\n"))
