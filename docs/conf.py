"""The documentation site. `make docs` builds it into build/docs; a warning is an error."""

from __future__ import annotations

import inspect
import re
from typing import Any

from hf_toedit import __version__

project = "hf_toedit"
author = "The hf-toedit authors"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
nitpicky = True
smartquotes_action = "D"  # dashes, not quotes

html_theme = "furo"
html_title = f"hf_toedit {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
maximum_signature_line_length = 72
add_module_names = False

ENTRY = re.compile(r"((?:[a-z]\w*, )*[a-z]\w*): (\S.*)")  # `name: meaning`, or `one, other: meaning`


def to_rst(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring of this project into reStructuredText.

    Ours are plain text: code in single backticks, examples indented, and lists of `name: meaning` whose continuation
    lines are indented.
    """
    parameters = inspect.signature(thing).parameters if what in ("class", "function", "method") else {}
    text: list[str] = []
    in_list = in_code = False
    for line in lines:
        entry, indented = ENTRY.fullmatch(line), line.startswith("    ")
        if entry or (line and not indented):
            if bool(entry) != in_list:
                text.append("")
            in_list, in_code = bool(entry), False
        elif indented and not in_list and not in_code:
            text += [".. code-block:: python", ""]
            in_code = True
        if not in_code:
            line = re.sub(r"`([^`]+)`|([*|])", lambda m: f"``{m[1]}``" if m[1] else "\\" + m[2], line)
        if entry:
            kind = "param" if entry[1].split(", ")[0] in parameters else "var"
            text += [f":{kind} {one}: {line.partition(': ')[2]}" for one in entry[1].split(", ")]
        else:
            text.append(line)
    lines[:] = text


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", to_rst)
