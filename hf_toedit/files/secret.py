"""Tokens and passwords in a recipe: they reach the libraries that need them, but no file, message or digest.

A secret is a string that shows as `***`. Pickled, be it for a `map` worker or into a file, as the trainer does with its
arguments, it holds only its place in the recipe; the value is looked up in the environment, which the processes started
by a run inherit.
"""

from __future__ import annotations

import os
import re
from typing import Any

from ..errors import ConfigError

MASK = "***"
SHORTEST = 6  # characters: shorter secrets are not searched for in texts, since they also occur inside words
VARIABLE = "HF_TOEDIT_SECRET_"  # followed by the place in the recipe, such as `train_hub_token`
NAMES = re.compile(
    r"((.*_)?(api_?key|secret(_key|_access_key)?|access_key|password|passwd|credentials?|authorization)"
    r"|((.*_)?(auth|access|hub|hf|api|bearer|refresh|session|secret|personal)_)?token)s?"
)
VALUES = re.compile(r"hf_[A-Za-z0-9]{30,}|\w+://[^/@\s]+:[^/@\s]+@")  # anywhere in a text
OF_DATA = ("columns", "where")  # mappings in a recipe whose keys are column names


class Secret(str):
    """A value that is never shown. place: where it is in the recipe, such as `train.hub_token`."""

    place: str

    def __new__(cls, value: str, place: str) -> Secret:
        made = super().__new__(cls, value)
        made.place = place
        os.environ[_variable(place)] = value
        return made

    def __repr__(self) -> str:
        return repr(MASK)

    def __reduce__(self) -> tuple[object, ...]:
        return recall, (self.place,)

    def __deepcopy__(self, memo: object) -> Secret:
        return self


def _variable(place: str) -> str:
    return VARIABLE + re.sub(r"\W", "_", place)


def recall(place: str) -> str:
    """The secret of a place, from this process's environment; the mask if it is not set."""
    value = os.environ.get(_variable(place))
    return MASK if value is None else Secret(value, place)


def is_secret_name(name: str) -> bool:
    """Whether an option of this name holds a token or a password."""
    return bool(NAMES.fullmatch(name.lower().replace("-", "_")))


def shown(value: str) -> str:
    """The value, or a mask if it is a secret or looks like one."""
    return MASK if isinstance(value, Secret) or VALUES.search(value) else value


def with_secrets(tree: Any, place: str = "", *, is_secret: bool = False) -> Any:
    """A tree of mappings and lists in which each value with a secret's name, or that looks like a token, is a Secret.

    A mask left by `without_secrets` becomes the secret of its place again. Raises ConfigError for a number.
    """
    prefix = f"{place}." if place else ""
    if isinstance(tree, dict):
        return {
            key: value if key in OF_DATA else with_secrets(value, prefix + str(key), is_secret=is_secret_name(str(key)))
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [with_secrets(value, f"{prefix}{i}", is_secret=is_secret) for i, value in enumerate(tree)]
    if is_secret and isinstance(tree, (int, float)) and not isinstance(tree, bool):
        raise ConfigError(f"{place} must be a string: put it in quotes")
    if isinstance(tree, str) and tree and (is_secret or VALUES.search(tree)):
        return recall(place) if tree == MASK else Secret(tree, place)
    return tree


def without_secrets(tree: Any, *, masked: bool = False) -> Any:
    """The tree without the entries that hold secrets. masked: replace each with a mask instead."""
    if isinstance(tree, dict):
        kept = {key: value for key, value in tree.items() if masked or not isinstance(value, Secret)}
        return {key: without_secrets(value, masked=masked) for key, value in kept.items()}
    if isinstance(tree, (list, tuple)):
        return [without_secrets(value, masked=masked) for value in tree]
    return MASK if isinstance(tree, Secret) else tree


def scrubbed(text: str) -> str:
    """A text, such as an error, with every secret of this process, and anything that looks like one, masked."""
    for name, value in os.environ.items():
        if name.startswith(VARIABLE) and len(value) >= SHORTEST:
            text = text.replace(value, MASK)
    return VALUES.sub(MASK, text)
