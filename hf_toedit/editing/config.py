"""What one edit is: its settings (frozen, validated, JSON-round-tripping)."""

from __future__ import annotations

import dataclasses
import json
import numbers
from collections.abc import Mapping
from typing import Any, Literal, get_args

from ..display import as_call
from ..errors import ConfigError, nearest
from .protect import check_rule

Strategy = Literal["resample", "drop", "resample_and_drop", "random", "none"]
Side = Literal["above", "below"]
MAX_COUNTER = 2**64


@dataclasses.dataclass(frozen=True)
class ToEditConfig:
    """Settings of token-level editing (arXiv 2412.14689, Algorithm 1 and Section 5).

    threshold: a token is eligible iff its probability under the prior is at least this. In (0, 1].
    eligible: `above` (the paper's), or `below`: a token is eligible iff its probability is at most the threshold. With
        `below` every position is visited.
    top_k: number of candidates, the target token among them. At least 2.
    top_p: keep the smallest candidate set, likeliest first, whose probability in the draw reaches `top_p`; the target
        token always stays. In (0, 1].
    temperature: the draw is from softmax(logprob / temperature) over the candidates. In [0.001, 1000]. The
        paper names none; its code uses 1.5.
    exclude_target: leave the target token out of the draw, so that every eligible token changes.
    strategy: `resample` (the paper's), `drop` (delete the tokens, eligible or not, whose probability is below
        `drop_below` or above `drop_above`), `resample_and_drop`, and the controls `random` (as many changes as
        `resample`, at random positions, to tokens drawn from the corpus's unigram distribution) and `none`.
    drop_below: `drop` deletes tokens of lower probability. In [0, 1]; 0 deletes none.
    drop_above: `drop` deletes tokens of higher probability. In (0, 1]; 1 deletes none.
    seed: an integer in [0, 2^64) that keys the draws.
    generation: an integer in [0, 2^64) that keys the draws, too. Raise it to edit an edited text again.
    protect: names of protect rules (`code numbers urls emails math json`) or regular expressions.
    stable_only: in texts, reject edits after which the text no longer encodes to the chosen tokens.

    Raises ConfigError for a value out of range.
    """

    threshold: float = 0.99
    eligible: Side = "above"
    top_k: int = 8
    top_p: float | None = None
    temperature: float = 1.5
    exclude_target: bool = False
    strategy: Strategy = "resample"
    drop_below: float = 0.001
    drop_above: float = 1.0
    seed: int = 0
    generation: int = 0
    protect: tuple[str, ...] = ()
    stable_only: bool = False

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
        for name, known in (("strategy", get_args(Strategy)), ("eligible", get_args(Side))):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ConfigError(f"{name}={value!r} is unknown{nearest(str(value), known)}")
        for rule in self.protect:
            check_rule(rule)

    def _check_number(self, name: str, low: float, high: float, *, above: bool = False) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or (above and value == low):
            bracket = "(" if above else "["
            percent = f"; did you mean {value / 100:g}?" if is_number and high == 1 < value <= 100 else ""
            raise ConfigError(f"{name}={value!r} must be a number in {bracket}{low:g}, {high:g}]{percent}")
        object.__setattr__(self, name, float(value))

    def _check_integer(self, name: str, low: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not low <= int(value) < MAX_COUNTER:
            raise ConfigError(f"{name}={value!r} must be an integer of at least {low} (and below 2^64)")
        object.__setattr__(self, name, int(value))

    def __repr__(self) -> str:
        return as_call(self)

    def changed_fields(self) -> dict[str, Any]:
        """The fields whose values are not the defaults."""
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
        return {**dataclasses.asdict(self), "protect": list(self.protect)}

    @classmethod
    def from_json(cls, text: str) -> ToEditConfig:
        return cls.from_dict(json.loads(text))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)
