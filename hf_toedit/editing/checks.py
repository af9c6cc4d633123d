"""Checks of numbers that users set."""

from __future__ import annotations

import numbers
import sys
from typing import Any

from ..errors import ConfigError

MAX = sys.float_info.max


def checked_number(name: str, value: Any, low: float = -MAX, high: float = MAX, *, above: bool = False) -> float:
    """The value as a float. Raises ConfigError unless it is a number in [low, high]; above: in (low, high]."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or (above and value == low):
        bounds = f" in {'(' if above else '['}{low:g}, {high:g}]" if high < MAX else ""
        percent = f"; did you mean {value / 100:g}?" if is_number and high == 1 < value <= 100 else ""
        raise ConfigError(f"{name}={value!r} must be a number{bounds}{percent}")
    return float(value)


def checked_integer(name: str, value: Any, least: int, bits: int | None = None) -> int:
    """The value as an int. Raises ConfigError unless it is an integer of at least this, and below 2^bits."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or int(value) < least or (bits and int(value) >= 2**bits):
        below = f" (and below 2^{bits})" if bits else ""
        raise ConfigError(f"{name}={value!r} must be an integer of at least {least}{below}")
    return int(value)
