"""What the README and the docs show works as it stands there, and what they say is what the code says."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import runpy
import sys
import tomllib
from typing import get_args

import pytest
import typer
from conftest import RECIPE_FOLDER, ROOT

import hf_toedit
import hf_toedit.collapse
import hf_toedit.measure
from hf_toedit import LossSelection, ToEditConfig
from hf_toedit.cli import app
from hf_toedit.editing.config import Strategy
from hf_toedit.editing.protect import RULES
from hf_toedit.rows.column import struct_type
from hf_toedit.rows.formats import SHAPES
from hf_toedit.statuses import Status

sys.path += [str(ROOT / "docs"), str(ROOT)]
from blocks import (
    COMMANDS_PAGE,
    LICENCES_PAGE,
    PAGES,
    REPRODUCTION_PAGE,
    blocks,
    commands_page,
    licences_page,
    refreshed,
    reproduction_page,
)

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
README = TEXTS["README.md"]
SLOW = {"docs/guide/install.md"}  # it runs the demo
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FUTURE = "ignore:.*is deprecated and will be removed in v6:FutureWarning"  # TRL's own defaults, read by transformers


def has_code(page):
    return any(block.is_run and (block.language == "python" or block.commands) for block in blocks(page))


@pytest.mark.filterwarnings(FUTURE)
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name, page in TEXTS.items() if has_code(page)],
)
def test_a_page_runs_and_prints_what_it_shows(name):
    assert refreshed(TEXTS[name]) == TEXTS[name], "make docs-refresh writes what is printed now"


def test_help_on_the_page_is_the_real_one():
    assert commands_page() == COMMANDS_PAGE.read_text(encoding="utf-8"), "make docs-refresh writes it"


def test_the_table_of_licences_is_the_real_one():
    assert licences_page() == LICENCES_PAGE.read_text(encoding="utf-8"), "make docs-refresh writes it"


def test_the_reproduction_has_what_its_files_have():
    assert reproduction_page() == REPRODUCTION_PAGE.read_text(encoding="utf-8"), "make docs-refresh writes it"


def test_the_first_example_of_the_readme_edits_something():
    printed = next(block.code for block in blocks(README) if block.note == "output")
    before, after = (text.strip() for text in printed.removeprefix("before:").split("after:"))
    assert before
    assert before != after


# blocks that are not run here


def calls(code):
    """The calls of this package's names in a block, as (name, positional arguments, keywords)."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in hf_toedit.__all__:
            yield node.func.id, len(node.args), [keyword.arg for keyword in node.keywords]


@pytest.mark.parametrize("page", TEXTS.values(), ids=TEXTS)
def test_blocks_that_are_not_run_name_what_exists(page):
    root = typer.main.get_command(app)
    for block in blocks(page):
        assert block.note in ("", "output") or re.match(r"(file|not run): \S", block.note), block.note
        for name, num_arguments, keywords in calls(block.code) if block.language == "python" else ():
            parameters = inspect.signature(getattr(hf_toedit, name)).parameters
            takes_fields = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
            fields = {*ToEditConfig.__dataclass_fields__, *LossSelection.__dataclass_fields__} if takes_fields else {}
            assert {*keywords} <= {*parameters, *fields}, (name, keywords)
            assert num_arguments <= len(parameters), name
        for arguments in block.commands:
            command, options = root, arguments
            while hasattr(command, "commands"):
                name, *options = options
                command = command.commands[name]
            command.make_context(name, options)


def test_verbs_extras_and_scripts_exist():
    verbs = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for page in TEXTS.values():
        code = "".join(block.code for block in blocks(page) if block.language == "sh")
        assert {*re.findall(r"^make (\S+)", code, re.MULTILINE), *re.findall(r"`make (\S+?)`", page)} <= {*verbs}
        assert {*re.findall(r"\.\[(\w+)\]", page)} <= {*PYPROJECT["optional-dependencies"]}
    first = next(block.code for block in blocks(README) if block.language == "sh")
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]


# tables


def tables(page, header):
    """The rows of the tables whose header begins with `header`: of each row the cells."""
    found = re.findall(rf"^\| {re.escape(header)} \|.*\n\|[-|: ]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()] for body in found]


def keys(rows):
    """What stands in backticks in the first cells."""
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row[0])]


def test_settings():
    [fields], [strategies] = (tables(TEXTS["docs/reference/settings.md"], header) for header in ("field", "strategy"))
    said = {repr(None): "none", repr(()): "none", repr(False): "false"}
    defaults = {field.name: field.default for field in dataclasses.fields(ToEditConfig)}
    shown = {row[0].strip("`"): row[1].strip("`") for row in fields}
    assert shown == {name: said.get(repr(default), str(default)) for name, default in defaults.items()}
    assert keys(strategies) == [*get_args(Strategy)]


def test_protect_rules():
    [rules] = tables(TEXTS["docs/guide/text.md"], "rule")
    assert sorted(keys(rules)) == sorted(RULES)


def test_the_fields_of_the_toedit_column():
    of_rows, of_edits = tables(TEXTS["docs/reference/column.md"], "field")
    struct = struct_type(adds=True)
    assert keys(of_rows) == [field.name for field in struct]
    assert keys(of_edits) == [field.name for field in struct.field("edits").type.value_type]
    cells = next(row[1] for row in of_rows if row[0] == "`cells`")
    assert all(f"`{field.name}`" in cells for field in struct.field("cells").type.value_type)


def test_statuses():
    [statuses] = tables(TEXTS["docs/guide/troubleshooting.md"], "status")
    assert keys(statuses) == [*Status]


def test_logged_names():
    page = TEXTS["docs/guide/training.md"]
    [logged] = tables(page, "name")
    [printed] = (block.code for block in blocks(page) if block.note == "output")
    assert keys(logged) == printed.split()


def test_row_formats():
    [formats] = tables(TEXTS["docs/guide/conversations.md"], "context")
    shown = [[re.findall(r"`(\w+)`", cell) for cell in row] for row in formats]
    required = [[name for name in shape.context if name not in shape.optional] for shape in SHAPES]
    assert [(context[:1], edited) for context, edited in shown] == [
        (context, list(shape.columns)) for context, shape in zip(required, SHAPES, strict=True)
    ]


@pytest.mark.parametrize(
    "package", [hf_toedit, hf_toedit.collapse, hf_toedit.measure], ids=lambda package: package.__name__
)
def test_every_public_name_has_its_place_in_the_reference(package):
    reference = "".join(page for name, page in TEXTS.items() if name.startswith("docs/reference/api/"))
    documented = re.findall(rf"^\.\. auto\w+:: {re.escape(package.__name__)}\.(\w+)$", reference, re.MULTILINE)
    assert sorted(documented) == sorted(package.__all__)


# figures


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks/results").glob("*.json")), ids=lambda file: file.stem)
def test_pages_have_the_figures_that_were_measured(file, monkeypatch):
    names = (
        "rows",
        "near-ties",
        "page",
        "patch-size",
        "gpu",
        "measure",
        "unit-bytes",
        "units",
        "scale-simulation",
        "collapse",
    )
    script = next((name for name in names if file.stem.startswith(name)), "compare").replace("-", "_")
    page = {"patch_size": "guide/patches", **dict.fromkeys(("unit_bytes", "scale_simulation"), "concepts/arithmetic")}
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    table_of = runpy.run_path(str(ROOT / "benchmarks" / f"{script}.py"))["table_of"]
    shown = table_of(json.loads(file.read_text(encoding="utf-8"))).strip()
    if script == "near_ties":  # of each dtype the row of all settings
        shown = "\n".join(row for row in shown.splitlines() if "," not in row.split("|")[1] or row.startswith("| x86"))
    assert shown in TEXTS[f"docs/{page.get(script, 'speed')}.md"]


def test_results_have_the_figures_of_the_recipe():
    [of_the_recipe] = tables((RECIPE_FOLDER / "small/README.md").read_text(encoding="utf-8"), "arm | changed tokens")
    assert tables(TEXTS["docs/results.md"], "arm | changed tokens") == [of_the_recipe]
