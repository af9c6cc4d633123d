"""The shape of the package: layers, light import, honest names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT
from packaging.version import Version

import hf_toedit

PACKAGE = ROOT / "hf_toedit"
LAYERS = [
    {"contrasts", "docstrings", "errors", "types"},
    {"ask", "interrupts", "protect", "remedies", "sampling", "secret"}
    | {"stats", "textfiles", "tokenization", "windows", "yamls"},
    {"config"},
    {"law"},
    {"splice"},
    {"head"},
    {"pretrained", "split_model", "template", "vllm_model"},
    {"static_prior", "transformers_prior", "vllm_prior"},
    {"rendering"},
    {"editor"},
    {"record", "sources", "provenance"},
    {"arguments", "report"},
    {"transform"},
    {"batches", "trainers"},
    {"callback"},
    {"demo", "recipe"},
    {"training", "trust"},
    {"smoke"},
    {"stages"},
    {"runner"},
    {"cli"},
    {"__main__"},
]
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
HEAVY = {"torch", "transformers", "datasets", "vllm"}
SOURCES = sorted(PACKAGE.glob("*.py"))


def imports(tree, package):
    """Modules of this package that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith(package)):
            yield (node.module or "").removeprefix(package).lstrip(".")


@pytest.mark.parametrize("path", [path for path in SOURCES if path.stem != "__init__"], ids=lambda path: path.stem)
def test_a_file_imports_only_from_lower_layers(path):
    tree = ast.parse(path.read_text())
    for module in imports(tree, "hf_toedit"):
        if module:
            assert LEVEL[module] < LEVEL[path.stem], f"{path.stem} imports {module}"
    top = {name for node in tree.body for name in top_level_imports(node)}
    allowed = {"transformers"} if path.stem == "callback" else set()  # its class is one of transformers' callbacks
    assert not top & HEAVY - allowed


def top_level_imports(node):
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [(node.module or "").split(".")[0]]
    return []


def test_below_the_priors_there_is_no_torch():
    for path in SOURCES:
        if LEVEL.get(path.stem, 99) < LEVEL["head"]:
            assert not re.search(r"^\s*(import|from) (torch|transformers|datasets)", path.read_text(), re.MULTILINE)


def test_import_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import hf_toedit; seconds = time.perf_counter() - start; "
        f"print(seconds, sorted({HEAVY!r} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, loaded = out.split(maxsplit=1)
    assert loaded.strip() == "[]"
    assert float(seconds) < 0.3


def test_all_names_are_there_and_documented():
    assert sorted(hf_toedit.__all__) == sorted(hf_toedit._HOME)
    for name in hf_toedit.__all__:
        assert getattr(hf_toedit, name).__doc__, name
    assert set(hf_toedit.__all__) <= set(dir(hf_toedit))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        hf_toedit.Nothing  # noqa: B018


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or body[-1].end_lineno - body[0].lineno < 60, node.name


def test_paths_and_names_in_markdown_exist():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("model_cards/*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} -> {target}"
        for name in re.findall(r"`hf_toedit\.(\w+)", page.read_text()):
            assert hasattr(hf_toedit, name) or (PACKAGE / f"{name}.py").exists(), f"{page.name}: {name}"
        for path in re.findall(
            r"`((?:examples|benchmarks|tests|hf_toedit|docs|model_cards)/[\w./]+)`", page.read_text()
        ):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_wheel_fits():
    """The embedded prior is at most 10 MB."""
    assert sum(path.stat().st_size for path in (PACKAGE / "demo_prior").iterdir()) <= 10_000_000


def test_each_dependency_has_one_lower_bound_and_the_pinned_version_is_within():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    bounds: dict[str, set[str]] = {}
    for line in [
        *project["dependencies"],
        *(line for name, lines in extras.items() if name != "dev" for line in lines),
    ]:
        name, _, bound = line.partition(">=")
        bounds.setdefault(name, set()).add(bound)
    pins = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    for name, (bound, *others) in bounds.items():
        assert bound, f"{name} has no lower bound"
        assert not others, f"{name} has several"
        assert name == "vllm" or Version(bound) <= Version(pins[name])
