"""Docstrings as a dataset: real human-written text that every machine with Python already has."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def standard_library() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def docstrings(root: Path) -> Iterator[dict[str, str]]:
    """Yield `{"module", "name", "text"}` for every distinct docstring below `root`, in a fixed order.

    Source files are parsed, never imported. Installed packages inside the standard library's folder
    (`site-packages`) are not part of it and are left out.
    """
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if "site-packages" in relative.parts or "dist-packages" in relative.parts:
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        for name, text in _documented(path):
            if text not in seen:
                seen.add(text)
                yield {"module": module, "name": name, "text": text}


def _documented(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's sources
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return  # some test files of the standard library are broken on purpose
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED):
            text = ast.get_docstring(node)
            if text and _is_valid_unicode(text):
                yield getattr(node, "name", "<module>"), text


def _is_valid_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
