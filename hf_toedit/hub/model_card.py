"""What a trained model's card says about the edits of its training data: one section, and the metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..editing.config import ToEditConfig
from ..editing.selection import LossSelection
from ..editing.stats import DatasetStats
from ..errors import SourceError, in_one_line
from ..report.files import write_whole
from ..statuses import Status
from . import licences
from .commands import settings_yaml
from .licences import Combined, Material
from .links import link, prior_link
from .markdown import as_code, fenced, table
from .merging import CARD, merged
from .method import CITATION, PAPER, TAGS, what_it_does, what_it_selects
from .records import DatasetEdit
from .source import Source
from .training_edits import TrainingEdit, total

if TYPE_CHECKING:
    from jinja2 import Environment

# Their licences are asked of the Hub once, not at each checkpoint.
source_material, prior_material = cache(licences.source_material), cache(licences.prior_material)
LIVE_IN_WORDS = {
    "base": "the frozen base model under the adapter",
    "self": "the model in training, as it was at each step",
}


def model_card_section(
    edits: Sequence[TrainingEdit], sources: Sequence[Source] = (), base_model: str | None = None
) -> str:
    """The section of a model's card about the edits of its training data, as Markdown.

    edits: in the order in which they were made. sources: the data before them. base_model: its Hub id.
    """
    ends = {edit.steps[1] for edit in edits if edit.steps}
    told = [_told(edit, base_model, not edit.steps or edit.steps[0] - 1 not in ends) for edit in edits]
    data = [source for source in sources if not source.is_local]
    materials = [*map(source_material, data), *_prior_materials(edits, base_model)]
    return rendered(
        "model_card.md.j2",
        edits=told,
        sources=[link(source, "datasets/") for source in data],
        licences=Combined(tuple(dict.fromkeys(materials))).model_markdown if materials else "",
        versions=_versions(edits),
        citation=fenced(CITATION, "bibtex"),
        paper=PAPER,
    )


def write_model_card(
    folder: Path, edits: Sequence[DatasetEdit], source: Source | None = None, base_model: str | None = None
) -> None:
    """Put the section on the card in a model's folder; for a model trained on a dataset that was edited before.

    Raises SourceError if there is no such folder, if the card can't be read or written, or if its markers or front
    matter are broken.
    """
    if not folder.is_dir():
        raise SourceError(f"there is no folder {str(folder)!r}: save the model there first")
    path, sources = folder / CARD, [source] if source and not source.is_local else []
    told = [TrainingEdit(edit.record, total(edit.stats.values())) for edit in edits]
    metadata = {"base_model": base_model, "datasets": [source.id for source in sources], "tags": list(TAGS)}
    try:
        existing = path.read_text(encoding="utf-8") if path.exists() else None
        write_whole(path, merged(existing, model_card_section(told, sources, base_model), metadata))
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"can't write the model card {str(path)!r}: {in_one_line(error)}") from error


def rendered(template: str, **values: Any) -> str:
    """A template of this folder as text."""
    return _environment().get_template(template).render(values).strip() + "\n"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("hf_toedit.hub")
    return Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)


def _told(edit: TrainingEdit, base_model: str | None, is_first: bool) -> dict[str, Any]:
    """What the template shows of an edit. is_first: no other one covers the steps before it."""
    facts = [("prior", _prior(edit.record, base_model))]
    if base := edit.record.get("base"):
        facts.append(("base", _prior(base, base_model)))
    if selected := edit.record.get("select"):
        what, settings = what_it_selects(LossSelection.from_dict(selected)), yaml.safe_dump({"select": selected})
    else:
        config = ToEditConfig.from_dict(edit.record["config"])
        what, settings = what_it_does(config), settings_yaml({**edit.record, "config": config.to_dict()})
    table_of_facts = table(["", ""], [*facts, *_lines(edit, is_first)])
    return {"what": what, "facts": table_of_facts, "settings": fenced(settings, "yaml")}


def _prior(record: Mapping[str, Any], base_model: str | None) -> str:
    """The prior in words, with a link to its commit if it is on the Hub."""
    name, revision = str(record["prior"]), record["revision"]
    if name in LIVE_IN_WORDS:
        return LIVE_IN_WORDS[name] + (f", {link(Source(base_model))}" if name == "base" and base_model else "")
    return prior_link(record) + (f", revision {as_code(revision)}" if revision else "")


def _prior_materials(edits: Sequence[TrainingEdit], base_model: str | None) -> Iterator[Material]:
    records = [record for edit in edits for record in (edit.record, edit.record.get("base")) if record]
    for record in records:
        name, hub_id = str(record["prior"]), record.get("prior_hub_id")
        if name in LIVE_IN_WORDS:
            hub_id = base_model
        if hub_id or name not in LIVE_IN_WORDS:
            yield prior_material(hub_id or name, hub_id)


def _lines(edit: TrainingEdit, is_first: bool) -> list[tuple[str, str]]:
    """The counts and rates of an edit, as (name, value)."""
    redraw = edit.record.get("redraw")
    lines = []
    if edit.steps is None:
        lines.append(("applied to", "the dataset, before training"))
    else:
        again = "" if edit.record.get("select") else f", {'afresh' if redraw else 'with the same edits'} in each epoch"
        lines.append(("applied to", f"batches during training{again}"))
        lines.append(("training steps", _steps(edit.steps, is_first)))
    if edit.record.get("fingerprint"):
        lines.append(("fingerprint", as_code(edit.record["fingerprint"])))
    stats = edit.stats
    skipped = {Status(status): count for status, count in sorted(stats.statuses.items()) if Status(status).is_skipped}
    lines.append(("rows" if edit.steps is None else "sequences", f"{stats.num_rows:,}"))
    lines += [(f"- skipped, {status.meaning}", f"{count:,}") for status, count in skipped.items()]
    return lines + (_selected(stats) if edit.record.get("select") else _changed(stats))


def _changed(stats: DatasetStats) -> list[tuple[str, str]]:
    tokens = stats.tokens
    lines = [
        ("tokens", f"{tokens.num_tokens:,}"),
        ("editable", f"{tokens.num_editable:,}"),
        ("scored by the prior", f"{tokens.num_visited:,}"),
    ]
    if tokens.num_visited:
        lines.append(("eligible rate, of these", f"{stats.eligible_rate:.4f}"))
    if tokens.num_visited or tokens.num_changed:
        lines.append(("changed", f"{tokens.num_changed:,}"))
        lines.append(("changed rate, of all tokens", f"{stats.changed_rate:.5f}"))
    return lines


def _selected(stats: DatasetStats) -> list[tuple[str, str]]:
    tokens = stats.tokens
    lines = [
        ("- left without a token in the loss", f"{stats.statuses.get(Status.NO_LABELS, 0):,}"),
        ("tokens", f"{tokens.num_tokens:,}"),
        ("scored by the prior", f"{tokens.num_visited:,}"),
    ]
    if tokens.num_visited:
        lines.append(("left out of the loss", f"{tokens.num_visited_eligible:,}"))
        lines.append(("kept rate, of the scored tokens", f"{1 - stats.eligible_rate:.4f}"))
    return lines


def _steps(steps: tuple[int, int], is_first: bool) -> str:
    first, last = steps
    shown = f"{first:,} to {last:,}" if last >= first else f"from {first:,} on; nothing is counted yet"
    return shown + ("; there is no record of those before" if first > 1 and is_first else "")


def _versions(edits: Sequence[TrainingEdit]) -> dict[str, str]:
    """The versions that made the edits; several where they differ."""
    found: dict[str, dict[str, None]] = {}
    for edit in edits:
        for name, version in edit.record.get("versions", {}).items():
            found.setdefault(name, {})[str(version)] = None
    return {name: " and ".join(versions) for name, versions in found.items()}
