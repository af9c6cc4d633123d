"""The packages of the extra `collapse`, imported only where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import ConfigError


def extra(name: str) -> Any:
    """Import a module of the extra `collapse`. If it is missing, raise ConfigError, which says how to install it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"this needs the package {error.name}: pip install 'hf-toedit[collapse]'") from error
