"""What a trained model's card says about the edits of its training data: one section, and the metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..editing.config import ToEditConfig
from ..priors.pretrained import DEMO
from ..statuses import Status
from .records import Source
from .training_edits import TrainingEdit

if TYPE_CHECKING:
    from jinja2 import Template

TAGS = ("toedit", "token-level-editing")
HUB = "https://huggingface.co"
LIVE = {"base": "the frozen base model under the adapter", "self": "the model in training, as it was at each step"}
COMMIT = re.compile("[0-9a-f]{40}")
ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def is_hub_id(name: object) -> bool:
    """Whether a name can be that of a repository on the Hub: not a path, and nothing that exists here."""
    return isinstance(name, str) and bool(ID.fullmatch(name)) and name != DEMO and not Path(name).exists()


def model_card_section(
    edits: Sequence[TrainingEdit], sources: Sequence[Source] = (), base_model: str | None = None
) -> str:
    """The section of a model's card about the edits of its training data, as Markdown.

    edits: in the order in which they were made. sources: the data before them. base_model: its Hub id.
    """
    ends = {edit.steps[1] for edit in edits if edit.steps}
    told = [_told(edit, base_model, not edit.steps or edit.steps[0] - 1 not in ends) for edit in edits]
    data = [link(source, "datasets/") for source in sources if not source.is_local]
    return _template().render(edits=told, sources=data, versions=_versions(edits)).strip() + "\n"


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hf_toedit.hub"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.get_template("model_card.md.j2")


def _told(edit: TrainingEdit, base_model: str | None, is_first: bool) -> dict[str, Any]:
    """What the template shows of an edit. is_first: no other one covers the steps before it."""
    import yaml

    config = ToEditConfig.from_dict(edit.record["config"])
    return {
        "what": what_it_does(config, truncate=bool(edit.record.get("truncate"))),
        "prior": _prior(edit.record, base_model),
        "lines": _lines(edit, is_first),
        "config": yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True).strip(),
        "fingerprint": edit.record.get("fingerprint"),
    }


def what_it_does(config: ToEditConfig, *, truncate: bool = False) -> str:
    """What an edit of this configuration does to a text, in one or two sentences."""
    bound = f"at {'least' if config.eligible == 'above' else 'most'} {config.threshold:g}"
    eligible = f"that the prior gave a probability of {bound}"
    if truncate:
        return (
            f"No token was changed. Tokens {eligible} were left out of the loss (truncated cross-entropy, "
            "[arXiv 2509.08972](https://arxiv.org/abs/2509.08972))."
        )
    but = "" if not config.exclude_target else ", other than themselves"
    mass = "" if config.top_p is None else f", cut to the smallest set with a share of {config.top_p:g}"
    resample = (
        f"Tokens {eligible} were drawn again from the {config.top_k} likeliest candidates{but}{mass}, at temperature "
        f"{config.temperature:g}."
    )
    above = f" or above {config.drop_above:g}" if config.drop_above < 1 else ""
    drop = f"Tokens with a probability below {config.drop_below:g}{above} were deleted."
    random = (
        "As a control, as many tokens as such an edit changes were replaced at random positions, by tokens drawn from "
        "the unigram distribution of the corpus."
    )
    sentences = {
        "resample": [resample],
        "drop": [drop],
        "resample_and_drop": [resample, drop],
        "random": [random],
        "none": ["As a control, nothing was edited."],
    }
    return " ".join(sentences[config.strategy])


def _prior(record: Mapping[str, Any], base_model: str | None) -> str:
    """The prior in words, with a link to its commit if it is on the Hub."""
    name, revision = str(record["prior"]), record["revision"]
    if name in LIVE:
        return LIVE[name] + (f", {link(Source(base_model))}" if name == "base" and base_model else "")
    if name == DEMO:
        return "`demo`, the small one bundled with hf_toedit"
    if not is_hub_id(name):
        return f"`{_code(Path(name).name)}`, not on the Hub" + (f" (revision `{revision}`)" if revision else "")
    return link(Source(name, revision))


def link(source: Source, kind: str = "") -> str:
    """A Markdown link to a repository on the Hub, at its commit if that is known. kind: "datasets/" for those."""
    name, revision = source.id, source.revision
    if revision is None or not COMMIT.fullmatch(revision):
        return f"[{name}]({HUB}/{kind}{name})"
    return f"[{name}]({HUB}/{kind}{name}/tree/{revision}) at commit `{revision}`"


def _code(text: str) -> str:
    """Text that is safe in a code span in a table."""
    return re.sub(r"[`|\s<>\x00-\x1f]", "_", text)


def _lines(edit: TrainingEdit, is_first: bool) -> list[tuple[str, str]]:
    """The counts and rates of an edit, as (name, value)."""
    redraw = edit.record.get("redraw")
    lines = []
    if edit.steps is None:
        lines.append(("applied to", "the dataset, before training"))
    else:
        again = "" if edit.record.get("truncate") else f", {'anew' if redraw else 'with the same edits'} in each epoch"
        lines.append(("applied to", f"batches, during training{again}"))
        lines.append(("training steps", _steps(edit.steps, is_first)))
    stats, tokens = edit.stats, edit.stats.tokens
    skipped = {Status(status): count for status, count in sorted(stats.statuses.items()) if Status(status).is_skipped}
    lines.append(("rows" if edit.steps is None else "sequences", f"{stats.num_rows:,}"))
    lines += [(f"- skipped, {status.meaning}", f"{count:,}") for status, count in skipped.items()]
    lines.append(("tokens", f"{tokens.num_tokens:,}"))
    lines.append(("editable", f"{tokens.num_editable:,}"))
    lines.append(("scored by the prior", f"{tokens.num_visited:,}"))
    if not tokens.num_visited:
        return lines
    lines.append(("eligible rate, of these", f"{stats.eligible_rate:.4f}"))
    if edit.record.get("truncate"):
        lines.append(("left out of the loss", f"{tokens.num_visited_eligible:,}"))
    else:
        lines.append(("changed", f"{tokens.num_changed:,}"))
        lines.append(("changed rate, of all tokens", f"{stats.changed_rate:.5f}"))
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
