"""The settings of an edit: frozen, validated, and convertible to JSON and back."""

from __future__ import annotations

import dataclasses
import inspect
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args

from ..display import as_call
from ..errors import ConfigError, nearest
from .checks import checked_integer, checked_number
from .protect import check_rule

Strategy = Literal["resample", "drop", "resample_and_drop", "random", "none"]
Side = Literal["above", "below"]
Distribution = Literal["prior", "unigram", "uniform"]
Targets = Literal["edited", "original"]
CHOICES = {"strategy": Strategy, "eligible": Side, "targets": Targets}
COUNTER_BITS = 64
SHORTENING = ("drop", "resample_and_drop")
DRAWS_FROM: dict[str, Distribution] = {"resample": "prior", "resample_and_drop": "prior", "random": "unigram"}
# Fields that later versions added: a config leaves them out of its dict at their defaults, so that the fingerprints of
# earlier edits stay the same.
ADDED = ("rate", "distribution", "targets")


class ConfigFields(TypedDict, total=False):
    """The fields of ToEditConfig as keyword arguments, for code completion and type checkers."""

    threshold: float
    eligible: Side
    top_k: int
    top_p: float | None
    temperature: float
    exclude_target: bool
    strategy: Strategy
    drop_below: float
    drop_above: float
    seed: int
    generation: int
    protect: Sequence[str]
    stable_only: bool
    rate: float | None
    distribution: Distribution | None
    targets: Targets


@dataclasses.dataclass(frozen=True)
class ToEditConfig:
    """Settings for token-level editing (arXiv 2412.14689, Algorithm 1 and Section 5).

    {fields}

    Raises ConfigError if a value is out of range.
    """

    threshold: float = dataclasses.field(
        default=0.99,
        metadata={"help": "a token is eligible if its probability under the prior is at least this. In (0, 1]."},
    )
    eligible: Side = dataclasses.field(
        default="above",
        metadata={
            "help": "`above` (the paper's), or `below`: a token is eligible if its probability is at most the "
            "threshold. With `below`, every position is visited."
        },
    )
    top_k: int = dataclasses.field(
        default=8, metadata={"help": "number of candidates, including the target token. At least 2."}
    )
    top_p: float | None = dataclasses.field(
        default=None,
        metadata={
            "help": "keep the smallest candidate set, likeliest first, whose probability in the draw reaches `top_p`; "
            "the target token always stays. In (0, 1]."
        },
    )
    temperature: float = dataclasses.field(
        default=1.5,
        metadata={
            "help": "the draw is from softmax(logprob / temperature) over the candidates. In [0.001, 1000]. The paper "
            "gives no value; its code uses 1.5."
        },
    )
    exclude_target: bool = dataclasses.field(
        default=False,
        metadata={"help": "leave the target token out of the draw, so that every eligible token changes."},
    )
    strategy: Strategy = dataclasses.field(
        default="resample",
        metadata={
            "help": "`resample` (the paper's), `drop` (delete the tokens, eligible or not, whose probability is below "
            "`drop_below` or above `drop_above`), `resample_and_drop`, and the controls `random` (changes at random "
            "positions) and `none`."
        },
    )
    drop_below: float = dataclasses.field(
        default=0.001, metadata={"help": "`drop` deletes tokens with a lower probability. In [0, 1]; 0 deletes none."}
    )
    drop_above: float = dataclasses.field(
        default=1.0, metadata={"help": "`drop` deletes tokens with a higher probability. In (0, 1]; 1 deletes none."}
    )
    seed: int = dataclasses.field(default=0, metadata={"help": "seed of the draws, an integer in [0, 2^64)."})
    generation: int = dataclasses.field(
        default=0,
        metadata={"help": "round of editing, an integer in [0, 2^64). Raise it to edit an already edited text again."},
    )
    protect: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={"help": "names of protect rules (`code numbers urls emails math json`) or regular expressions."},
    )
    stable_only: bool = dataclasses.field(
        default=False,
        metadata={"help": "in text, reject edits after which the text no longer encodes to the chosen tokens."},
    )
    rate: float | None = dataclasses.field(
        default=None,
        metadata={
            "help": "with `random`, the share of the editable tokens to change, each independently. The prior is then "
            "asked only about these, and only if new tokens are drawn from it. Off: as many as `resample` "
            "would change. In [0, 1]."
        },
    )
    distribution: Distribution | None = dataclasses.field(
        default=None,
        metadata={
            "help": "what new tokens are drawn from: `prior` (its candidates), `unigram` (the corpus's token "
            "counts) or `uniform` (every token that may be chosen). The old token is left out, except when "
            "`resample` draws from the prior. With `random`, `prior` needs a `rate`. Off: `prior` for `resample`, "
            "`unigram` for `random`."
        },
    )
    targets: Targets = dataclasses.field(
        default="edited",
        metadata={
            "help": "what a model learns to predict: the `edited` tokens, or the `original` ones. With `original`, "
            "`input_ids` change and `labels` do not."
        },
    )

    def __post_init__(self) -> None:
        is_list = isinstance(self.protect, (list, tuple))
        if not is_list or not all(isinstance(rule, str) for rule in self.protect):
            raise ConfigError(f"protect={self.protect!r} must be a list of rules, such as ['numbers', 'urls']")
        object.__setattr__(self, "protect", tuple(self.protect))
        self._check_number("threshold", 0.0, 1.0, above=True)
        self._check_number("drop_below", 0.0, 1.0)
        self._check_number("drop_above", 0.0, 1.0, above=True)
        if self.drop_below > self.drop_above:
            raise ConfigError(
                f"drop_below={self.drop_below:g} above drop_above={self.drop_above:g} would delete every token: "
                "give the lower one to drop_below"
            )
        self._check_number("temperature", 0.001, 1000.0)
        if self.top_p is not None:
            self._check_number("top_p", 0.0, 1.0, above=True)
        self._check_integer("top_k", 2)
        self._check_integer("seed", 0)
        self._check_integer("generation", 0)
        for name in ("exclude_target", "stable_only"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={getattr(self, name)!r} must be true or false")
        for name, kind in CHOICES.items():
            self._check_choice(name, get_args(kind))
        self._check_controls()
        for rule in self.protect:
            check_rule(rule)

    def _check_controls(self) -> None:
        """Raise ConfigError for settings of a control that the strategy has no use for."""
        if self.rate is not None:
            self._check_number("rate", 0.0, 1.0)
        if self.rate is not None and self.strategy != "random":
            raise ConfigError(f"rate={self.rate!r} has no effect on strategy={self.strategy!r}: set strategy='random'")
        if self.distribution is not None:
            self._check_distribution()
        if self.targets == "original" and self.strategy in SHORTENING:
            raise ConfigError(
                f"targets='original' keeps a label for each token, and strategy={self.strategy!r} deletes tokens: "
                "set another strategy"
            )

    def _check_distribution(self) -> None:
        """Raise ConfigError if the strategy has no use for it. Its own becomes None, so that equal edits are equal."""
        self._check_choice("distribution", get_args(Distribution))
        if self.strategy not in ("resample", "random"):
            raise ConfigError(
                f"distribution={self.distribution!r} has no effect on strategy={self.strategy!r}: "
                "set strategy='resample' or 'random'"
            )
        if self.strategy == "random" and self.distribution == "prior" and self.rate is None:
            raise ConfigError(
                "strategy='random' with distribution='prior' needs the share of tokens to change: set rate=0.05"
            )
        if self.distribution == DRAWS_FROM[self.strategy]:
            object.__setattr__(self, "distribution", None)

    @property
    def draws_from(self) -> Distribution | None:
        """What new tokens are drawn from: `distribution`, or the strategy's own. None if it draws none."""
        return self.distribution or DRAWS_FROM.get(self.strategy)

    @property
    def needs_prior(self) -> bool:
        """Whether a decision depends on the prior's probabilities."""
        return self.rate is None or self.draws_from == "prior"

    @property
    def needs_corpus(self) -> bool:
        """Whether new tokens are drawn from the counts of a corpus."""
        return self.draws_from == "unigram"

    def _check_choice(self, name: str, known: Sequence[str]) -> None:
        value = getattr(self, name)
        if value not in known:
            raise ConfigError(f"{name}={value!r} is unknown{nearest(str(value), known)}")

    def _check_number(self, name: str, low: float, high: float, *, above: bool = False) -> None:
        object.__setattr__(self, name, checked_number(name, getattr(self, name), low, high, above=above))

    def _check_integer(self, name: str, low: int) -> None:
        object.__setattr__(self, name, checked_integer(name, getattr(self, name), low, COUNTER_BITS))

    def __repr__(self) -> str:
        return as_call(self)

    def changed_fields(self) -> dict[str, Any]:
        """The fields whose values differ from the defaults."""
        fields = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        return {name: value for name, (value, default) in fields.items() if value != default}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ToEditConfig:
        """Build a config from a mapping. An unknown field is an error that names the nearest known one."""
        if not isinstance(fields, Mapping):
            kind = type(fields).__name__
            raise ConfigError(f"a config is a mapping of fields, such as {{'threshold': 0.95}}, not {kind}")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise ConfigError(f"unknown config field {name!r}{nearest(str(name), known)}")
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON-ready values; `from_dict` is its inverse."""
        left_out = {*ADDED} - self.changed_fields().keys()
        fields = {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}
        return {**fields, "protect": list(self.protect)}

    @classmethod
    def from_json(cls, text: str) -> ToEditConfig:
        return cls.from_dict(json.loads(text))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)


def field_help() -> dict[str, str]:
    """What each field of ToEditConfig does."""
    return {field.name: field.metadata["help"] for field in dataclasses.fields(ToEditConfig)}


_entries = (
    textwrap.fill(f"{name}: {text}", 116, subsequent_indent="    ", break_on_hyphens=False)
    for name, text in field_help().items()
)
# Python 3.13 strips the indentation from docstrings; earlier versions keep it.
ToEditConfig.__doc__ = inspect.cleandoc(ToEditConfig.__doc__ or "").replace("{fields}", "\n".join(_entries))
