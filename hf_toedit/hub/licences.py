"""Licences of source and prior: what they ask of edited text and of models trained on it, each with its citation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import printable
from ..files.yamls import load_yaml, read_yaml
from ..priors.pretrained import DEMO
from ..rows.provenance import bare_name
from .merging import CARD, front_matter
from .source import Source

TABLE = Path(__file__).with_name("licences.yaml")
UNKNOWN, OTHER = "unknown", "other"
RESTRICTIONS = ("no-derivatives", "non-commercial", "no-training", "use-policy")
DUTIES = ("share-alike", "same-terms", "name", "display", "attribution", "notice", "copy", "changes")
ASKS = (*RESTRICTIONS, *DUTIES, "unverified", "nothing")
MILD = ("attribution", "notice", "copy", "changes", "nothing")  # what leaves the source's licence as it is
ADVICE = "This is a summary, not legal advice."
URL = re.compile(r"https?://[\w.~:/?#@!$&*+,;=%-]+")
HUB_TIMEOUT_SECONDS = 10

Role = Literal["source", "prior"]
Of = Literal["source", "text", "models"]


@dataclass(frozen=True)
class Term:
    """What a licence asks, in a sentence or two.

    of: source (data under it, shared in edited form), text (what a model under it writes), or models (trained on such
        text). asks: one of ASKS. at: where in the licence.
    """

    of: Of
    asks: str
    says: str
    at: str


@dataclass(frozen=True)
class Licence:
    """A licence, and what it asks if the table has it.

    id: what `license` is on the Hub, "other" where it has none for it. name: the `license_name` then.
    url: of its text. read: what was read for the table; empty where nothing was.
    terms: empty for a licence that is not in the table.
    """

    id: str
    title: str
    url: str | None = None
    name: str | None = None
    read: str = ""
    terms: tuple[Term, ...] = ()

    @property
    def key(self) -> str:
        """Its key in the table."""
        return self.name or self.id

    @property
    def link(self) -> str:
        """Its title in Markdown, linked to its text."""
        return f"[{self.title}]({self.url})" if self.url else self.title

    def cited(self, term: Term) -> str:
        """What a term of it says, with the citation, in Markdown."""
        return f"{term.says.removesuffix('.')} ({self.link}, {term.at}{'' if self.read else ', unverified'})."


@dataclass(frozen=True)
class Material:
    """What edited text is made of: the source's text, or what a prior writes. licence: None if it is unknown."""

    role: Role
    name: str
    licence: Licence | None

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms that matter in its role. A source under a licence for models is treated as a model's output."""
        terms = self.licence.terms if self.licence else ()
        is_data = self.role == "source" and any(term.of == "source" for term in terms)
        return tuple(term for term in terms if term.of in ("source" if is_data else "text", "models"))

    @property
    def is_known(self) -> bool:
        """Whether the table has its terms."""
        return bool(self.terms) and not self.asks("unverified")

    @property
    def binds(self) -> bool:
        """Whether it asks more than credit and notices."""
        return not self.terms or any(term.asks not in MILD for term in self.terms)

    def asks(self, what: str) -> bool:
        return any(term.asks == what for term in self.terms)

    def __str__(self) -> str:
        return f"{self.role} `{printable(self.name).replace('`', '')}`" if self.name else self.role

    @property
    def introduced(self) -> str:
        """The line that names its licence."""
        start = str(self)[0].upper() + str(self)[1:]
        if self.licence is None:
            return f"{start}: its licence is unknown. Find it out before you share anything made with it."
        if not self.is_known:
            return f"{start}: {self.licence.link}, unverified. Read its terms before you share anything made with it."
        return f"{start}: {self.licence.link}."


@dataclass(frozen=True)
class Combined:
    """What the licences of sources and priors ask of edited text, and of models trained on it."""

    materials: tuple[Material, ...]

    def of(self, role: Role) -> tuple[Material, ...]:
        """The sources, or the priors."""
        return tuple(material for material in self.materials if material.role == role)

    @property
    def may_be_shared(self) -> bool | None:
        """Whether the licences allow sharing the edited text; None if one of them is unknown or unverified."""
        if any(material.asks("no-derivatives") for material in self.materials):
            return False
        return all(material.is_known for material in self.materials) or None

    @property
    def metadata(self) -> dict[str, str]:
        """`license`, with `license_name` and `license_link` where they belong, for the front matter of a dataset card.

        The source's licence; "other" with all names if a prior's licence asks for more than credit; "unknown" if there
        is no source, or the licence of a source or prior is unknown.
        """
        sources = [source.licence for source in self.of("source") if source.licence]
        if not sources or len(sources) < len(self.of("source")) or not all(prior.terms for prior in self.of("prior")):
            return {"license": UNKNOWN}
        binding = [prior.licence for prior in self.of("prior") if prior.licence and prior.binds]
        licences = dict.fromkeys([*sources, *binding])
        if len(licences) == 1 and sources[0].id != OTHER:
            return {"license": sources[0].id}
        name = "-and-".join(licence.key for licence in licences)
        link = next((licence.url for licence in reversed(licences) if licence.url), None)
        return {"license": OTHER, "license_name": name} | ({"license_link": link} if link else {})

    @property
    def restrictions(self) -> tuple[str, ...]:
        """What the edited text may not be used for."""
        return self._cited(RESTRICTIONS, "source", "text")

    @property
    def duties(self) -> tuple[str, ...]:
        """What to do when sharing the edited text."""
        return self._cited((*DUTIES, "unverified"), "source", "text")

    @property
    def of_models(self) -> tuple[str, ...]:
        """What is asked of models trained on the edited text."""
        return self._cited((*RESTRICTIONS, *DUTIES, "unverified"), "models")

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Terms that may exclude each other, with the reason."""
        return tuple(_conflicts(self))

    @property
    def markdown(self) -> str:
        """The section of a dataset card, without its heading."""
        return self._told({"Sharing the edited text:": [*self.conflicts, *self.restrictions, *self.duties]})

    @property
    def model_markdown(self) -> str:
        """The section of the card of a model that was trained on the text, without its heading."""
        return self._told({})

    def _told(self, sharing: Mapping[str, Sequence[str]]) -> str:
        introduced = [material.introduced for material in self.materials]
        parts = {"": introduced, **sharing, "Models trained on the text:": self.of_models}
        lists = [(head, "\n".join(f"- {line}" for line in lines)) for head, lines in parts.items() if lines]
        return "\n\n".join([part for pair in lists for part in pair if part] + [ADVICE]) + "\n"

    def _cited(self, asks: Sequence[str], *of: Of) -> tuple[str, ...]:
        """The terms of these kinds, each once."""
        found = [
            material.licence.cited(term)
            for ask in asks
            for material in self.materials
            for term in material.terms
            if material.licence and term.asks == ask and term.of in of
        ]
        return tuple(dict.fromkeys(found))


def _conflicts(combined: Combined) -> Iterator[str]:
    for source in combined.of("source"):
        if source.asks("no-derivatives"):
            yield (
                f"The {source} may not be shared in edited form. A patch holds none of its text, but whether it is a "
                "derivative itself is not settled."
            )
        if source.asks("share-alike"):
            for other in combined.materials:
                if other.terms and other.binds and other.licence != source.licence:
                    yield (
                        f"The {source} must be shared under its own licence, without further terms, and the {other} "
                        "brings further terms: they may be incompatible."
                    )
    closed = dict.fromkeys(m.licence.title for m in combined.materials if m.licence and m.asks("no-training"))
    if len(closed) > 1:
        yield f"{' and '.join(closed)} each restrict which models the text may improve: together they may leave none."


def source_material(source: Source | None, token: str | bool | None = None) -> Material:
    """The source of edited text, with its licence; None for one that isn't on record."""
    if source is None:
        return Material("source", "", None)
    is_there = not source.is_local or os.path.exists(source.id)
    return Material("source", source.name, licence_of_dataset(source.id, token=token) if is_there else None)


def prior_material(name: str, hub_id: str | None = None, token: str | bool | None = None) -> Material:
    """A prior, with its licence. name: its folder, "demo", or "" for one that isn't on record. hub_id: if it has one.

    A folder that is gone may be named like any model, so that its licence is unknown.
    """
    is_there = hub_id is not None or name == DEMO or os.path.isdir(name)  # Path.is_dir refuses very long names
    licence = licence_of_model(hub_id or name, token=token) if name and is_there else None
    return Material("prior", bare_name(hub_id or name), licence)


def licence_of_model(name: str, *, token: str | bool | None = None) -> Licence | None:
    """The licence of a folder with a model, or of a Hub model; None if it is unknown.

    It is the one that the card declares. Where the Hub is out of reach, well-known ids are looked up in the table.
    """
    if name == DEMO:
        return known_licence("apache-2.0")
    return _licence_of(name, "model", token)


def licence_of_dataset(name: str, *, token: str | bool | None = None) -> Licence | None:
    """The licence of a folder with a dataset, or of a Hub dataset; None if it is unknown. See `licence_of_model`."""
    return _licence_of(name, "dataset", token)


def known_licence(id: str, name: str | None = None, url: str | None = None) -> Licence | None:
    """The licence that a card declares as `license`, `license_name` and `license_link`; None if that says nothing.

    One that is not in the table has no terms.
    """
    table = _table()
    named = name if name and id.strip().lower() in (OTHER, UNKNOWN) else id
    key = re.sub(r"[^a-z0-9.+-]+", "-", named.lower())[:60].strip("-")
    key = table.aliases.get(key, key)
    if key in table.licences:
        return table.licences[key]
    if key in ("", UNKNOWN, OTHER):
        return None
    return Licence(key, key) if key in table.hub_ids else Licence(OTHER, key, url, key)


@dataclass(frozen=True)
class _Table:
    licences: Mapping[str, Licence]
    aliases: Mapping[str, str]
    hub_ids: frozenset[str]
    corrections: Mapping[str, str]
    well_known: Mapping[str, Mapping[str, str]]  # by the type of the repository


@cache
def _table() -> _Table:
    table = read_yaml(TABLE)
    licences: dict[str, Licence] = {}
    aliases: dict[str, str] = {}
    for key, entry in table["licences"].items():
        name = entry.get("license_name")
        terms = tuple(Term(**term) for term in entry["terms"])
        licences[key] = Licence(
            OTHER if name else key, entry["title"], entry["url"], name, entry.get("read", ""), terms
        )
        aliases |= dict.fromkeys(entry.get("aliases", ()), key)
    well_known = {"model": table["models"], "dataset": table["datasets"]}
    return _Table(licences, aliases, frozenset(table["hub_ids"]), table["corrections"], well_known)


def all_licences() -> tuple[Licence, ...]:
    """The licences in the table."""
    return tuple(_table().licences.values())


def _licence_of(name: str, repo_type: str, token: str | bool | None) -> Licence | None:
    table = _table()
    if os.path.exists(name):
        return _declared(_metadata_in(Path(name) / CARD))
    if name in table.corrections and repo_type == "model":
        return table.licences[table.corrections[name]]
    declared = _declared(_metadata_on_the_hub(name, repo_type, token))
    patterns = table.well_known[repo_type].items()
    fits = (table.licences[key] for pattern, key in patterns if fnmatchcase(name.lower(), pattern.lower()))
    return declared or next(fits, None)


def _metadata_in(card: Path) -> Any:
    """The metadata of a card; None if there is no card, or if it is broken."""
    try:
        return load_yaml(front_matter(card.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def _metadata_on_the_hub(name: str, repo_type: str, token: str | bool | None) -> Any:
    """The metadata of a card on the Hub; None if the Hub has none, or can't be asked."""
    import httpx2
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    ask = api.model_info if repo_type == "model" else api.dataset_info
    try:
        return ask(name, timeout=HUB_TIMEOUT_SECONDS).card_data.to_dict()  # type: ignore[union-attr]
    except (httpx2.HTTPError, OSError, ValueError):  # not found, no access, no network, not an id
        return None
    except (TypeError, LookupError, AttributeError):  # no card, or an answer of another shape
        return None


def _declared(metadata: Any) -> Licence | None:
    """The licence that a card's metadata declares; None if it declares none, or several."""
    if not isinstance(metadata, dict):
        return None
    ids, name, url = metadata.get("license"), metadata.get("license_name"), metadata.get("license_link")
    id = ids[0] if isinstance(ids, list) and len(ids) == 1 else ids
    if not isinstance(id, str):
        return None
    is_url = isinstance(url, str) and URL.fullmatch(url)
    return known_licence(id, name if isinstance(name, str) else None, url if is_url else None)
