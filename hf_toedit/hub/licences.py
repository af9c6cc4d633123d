"""Licences of source and prior: what they ask of edited text and of models trained on it, each with its citation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from ..errors import printable
from ..files.yamls import load_yaml, read_yaml
from ..priors.pretrained import DEMO

TABLE = Path(__file__).with_name("licences.yaml")
UNKNOWN, OTHER = "unknown", "other"
RESTRICTIONS = ("no-derivatives", "non-commercial", "no-training", "use-policy")
DUTIES = ("attribution", "notice", "copy", "changes", "share-alike", "same-terms", "name", "display")
ASKS = (*RESTRICTIONS, *DUTIES, "nothing")
ADVICE = "This summary is not legal advice."

Role = Literal["source", "prior"]
Of = Literal["source", "text", "models"]


@dataclass(frozen=True)
class Term:
    """What a licence asks, in one sentence.

    of: source (data under it, shared in edited form), text (made with a model under it), or models (trained on such
        text). asks: one of ASKS. at: where in the licence. words: what a name must begin with or what to display.
    """

    of: Of
    asks: str
    says: str
    at: str
    words: str | None = None


@dataclass(frozen=True)
class Licence:
    """A licence, and what it asks if the table has it.

    id: what `license` is on the Hub, "other" where it has none for it. name: the `license_name` then.
    read: which text was read for the table; empty where none was.
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
        return self.name if self.id == OTHER and self.name else self.id

    @property
    def link(self) -> str:
        """Its title in Markdown, linked to its text."""
        return f"[{self.title}]({self.url})" if self.url else self.title


@dataclass(frozen=True)
class Material:
    """Something that edited text is made of: the source's text, or what a prior writes. licence: None if unknown."""

    role: Role
    name: str
    licence: Licence | None

    @property
    def terms(self) -> tuple[Term, ...]:
        """Those that matter: a source's own text is not made with a model, unless a model's licence covers it."""
        terms = self.licence.terms if self.licence else ()
        return tuple(term for term in terms if self.role == "source" or term.of != "source")

    @property
    def asked(self) -> tuple[Term, ...]:
        """Its terms that ask for something."""
        return tuple(term for term in self.terms if term.asks != "nothing")

    def has(self, ask: str) -> bool:
        """Whether one of its terms asks for this."""
        return any(term.asks == ask for term in self.terms)


@dataclass(frozen=True)
class Combined:
    """The licences of edited text: of its source and of the priors that edited it."""

    materials: tuple[Material, ...]

    @property
    def source(self) -> Material:
        return self.materials[0]

    @property
    def priors(self) -> tuple[Material, ...]:
        return self.materials[1:]

    @property
    def is_known(self) -> bool:
        """Whether the table has the licences of source and priors."""
        return all(material.terms for material in self.materials)

    @property
    def may_be_shared(self) -> bool | None:
        """Whether the licences allow sharing the edited text; None where a licence is unknown."""
        if any(material.has("no-derivatives") for material in self.materials):
            return False
        return True if self.is_known else None

    @property
    def metadata(self) -> dict[str, str]:
        """`license`, and `license_name` and `license_link` with it, for the front matter of the card.

        The source's licence if no prior's licence asks for anything, "other" with both names if one does, and
        "unknown" where a licence is unknown.
        """
        source = self.source.licence
        if source is None or not all(prior.terms for prior in self.priors):
            return {"license": UNKNOWN}
        binding = dict.fromkeys(prior.licence for prior in self.priors if prior.licence and prior.asked)
        binding.pop(source, None)
        if binding:
            names = [source.key, *(licence.key for licence in binding)]
            return {"license": OTHER, "license_name": "-and-".join(names), "license_link": "README.md"}
        named = {"license_name": source.name, "license_link": source.url} if source.id == OTHER else {}
        return {"license": source.id} | {key: value for key, value in named.items() if value}

    @property
    def duties(self) -> tuple[str, ...]:
        """What to do when sharing the text, each with its citation."""
        return self._sentences(DUTIES, ("source", "text"))

    @property
    def restrictions(self) -> tuple[str, ...]:
        """What the text may not be used for, each with its citation."""
        return self._sentences(RESTRICTIONS, ("source", "text"))

    @property
    def of_models(self) -> tuple[str, ...]:
        """What is asked of models trained on the text, each with its citation."""
        return self._sentences((*RESTRICTIONS, *DUTIES), ("models",))

    def _sentences(self, asks: Sequence[str], of: Sequence[str]) -> tuple[str, ...]:
        found = {
            _sentence(material.licence, term): None
            for material in self.materials
            for term in material.asked
            if material.licence and term.asks in asks and term.of in of
        }
        return tuple(found)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Terms that may exclude each other, with the reason."""
        return tuple(_conflicts(self))

    @property
    def markdown(self) -> str:
        """The section of a dataset card, without its heading."""
        groups = [
            ("", [_introduced(material) for material in self.materials]),
            ("Sharing the edited text:", [*self.restrictions, *self.duties]),
            ("Models trained on it:", self.of_models),
            ("Take care:", self.conflicts),
        ]
        listed = ["\n\n".join(filter(None, (head, _listed(lines)))) for head, lines in groups if lines]
        return "\n\n".join([*listed, ADVICE]) + "\n"


def combined(source: str | None, priors: Sequence[str], *, source_licence: str | None = None) -> Combined:
    """The licences of text from a source, edited by priors.

    source: a Hub dataset or a folder, or None. priors: Hub models, folders, or "demo".
    source_licence: the source's licence, by its id on the Hub, where its card doesn't have it.
    """
    found = known_licence(source_licence) if source_licence else licence_of_dataset(source) if source else None
    return Combined(
        (
            Material("source", source or "", found),
            *(Material("prior", name, licence_of_model(name)) for name in dict.fromkeys(priors)),
        )
    )


def model_terms(priors: Sequence[str]) -> tuple[str, ...]:
    """What the licences of priors ask of a model trained on text that they edited, each with its citation."""
    materials = tuple(Material("prior", name, licence_of_model(name)) for name in dict.fromkeys(priors))
    of_models = Combined(materials).of_models
    return of_models + tuple(_introduced(material) for material in materials if not material.terms)


def licence_of_model(name: str) -> Licence | None:
    """The licence of a Hub model or of a folder with a model; None if it is unknown.

    Its own card has the first word. Without it, only ids that are well known are looked up.
    """
    if name == DEMO:
        return known_licence("apache-2.0")
    return _licence_of(name, "model", _table().models)


def licence_of_dataset(name: str) -> Licence | None:
    """The licence of a Hub dataset, or of a folder with a dataset; None if it is unknown. See `licence_of_model`."""
    return _licence_of(name, "dataset", _table().datasets)


def known_licence(id: str, name: str | None = None, url: str | None = None) -> Licence | None:
    """The licence with an id of the Hub, or with a `license_name` where that is "other"; None if that says nothing.

    One that is not in the table has no terms.
    """
    table = _table()
    key = id.strip().lower()
    if key == OTHER and name:
        key = name.strip().lower()
    if key in table.licences:
        return table.licences[key]
    if key in ("", UNKNOWN, OTHER):
        return None
    if key in table.hub_ids:
        return Licence(key, key)
    slug = re.sub(r"[^a-z0-9.]+", "-", key)[:60].strip("-")
    return Licence(OTHER, printable(name or id), url, slug or None) if slug else None


@dataclass(frozen=True)
class _Table:
    licences: Mapping[str, Licence]
    models: Mapping[str, str]
    datasets: Mapping[str, str]
    hub_ids: frozenset[str]


@cache
def _table() -> _Table:
    table = read_yaml(TABLE)
    licences = {}
    for key, entry in table["licences"].items():
        name = entry.get("license_name")
        terms = tuple(Term(**term) for term in entry["terms"])
        licences[key] = Licence(
            OTHER if name else key, entry["title"], entry["url"], name, entry.get("read", ""), terms
        )
    return _Table(licences, table["models"], table["datasets"], frozenset(table["hub_ids"]))


def _licence_of(name: str, repo_type: str, well_known: Mapping[str, str]) -> Licence | None:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _declared(_text(folder / "README.md"))
    key = next((key for pattern, key in well_known.items() if fnmatchcase(name.lower(), pattern.lower())), None)
    return known_licence(key) if key else None


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _declared(card: str | None) -> Licence | None:
    """The licence that the front matter of a card declares; None if there is none, or if it is broken."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    found = REGEX_YAML_BLOCK.search(card or "")
    try:
        front = load_yaml(found[2]) if found else None
    except yaml.YAMLError:
        return None
    if not isinstance(front, dict):
        return None
    ids, name, url = front.get("license"), front.get("license_name"), front.get("license_link")
    ids = ids if isinstance(ids, list) else [ids]
    if len(ids) != 1 or not isinstance(ids[0], str):
        return None
    is_url = isinstance(url, str) and re.fullmatch(r"https?://[^\s()<>\"]+", url)
    return known_licence(ids[0], name if isinstance(name, str) else None, url if is_url else None)


def _introduced(material: Material) -> str:
    """Which licence a material has."""
    what = f"{material.role.capitalize()} `{material.name}`" if material.name else material.role.capitalize()
    if material.licence is None:
        return f"{what}: its licence is unknown. Find it out before you share this."
    if not material.licence.terms:
        return f"{what}: {material.licence.link}. Its terms are unverified: read them before you share this."
    return f"{what}: {material.licence.link}."


def _sentence(licence: Licence, term: Term) -> str:
    return f"{term.says} ({licence.link}, {term.at}{'' if licence.read else ', unverified'})"


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _conflicts(combined: Combined) -> Iterator[str]:
    source = combined.source
    if source.has("no-derivatives"):
        yield (
            f"{_the(source)} may not be shared in edited form. Publish a patch, which holds none of its text; whether "
            "a patch is itself a derivative is not settled."
        )
    binding = [prior for prior in combined.priors if prior.asked and prior.licence != source.licence]
    if source.has("share-alike"):
        for prior in binding:
            yield (
                f"{_the(source)} must be shared under its own licence without further terms, and {_the(prior, 'the')} "
                "adds some: the two may be incompatible."
            )
    closed = {m.licence.title: None for m in combined.materials if m.licence and m.has("no-training")}
    if len(closed) > 1:
        yield (
            f"{' and '.join(closed)} each allow the text to improve models of their own family alone: no model may "
            "meet both."
        )


def _the(material: Material, article: str = "The") -> str:
    return f"{article} {material.role}" + (f" `{material.name}`" if material.name else "")
