"""The packages of the extra `collapse`, imported only where they are used."""

from __future__ import annotations

from typing import Any

from ..errors import import_extra


def extra(name: str) -> Any:
    """Import a module of the extra `collapse`. If it is missing, raise ConfigError, which says how to install it."""
    return import_extra(name, "collapse")
