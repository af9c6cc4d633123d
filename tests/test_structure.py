"""The shape of the package: layers, light import, honest names."""

from __future__ import annotations

import ast
import graphlib
import inspect
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT
from packaging.version import Version

import hf_toedit

PACKAGE = ROOT / "hf_toedit"
# The rooms of the package, lowest first: a room imports from lower ones alone. Files on top are rooms by themselves.
ROOMS = [
    "types errors display",
    "statuses",
    "editing",
    "priors files",
    "rows",
    "report",
    "arguments pipeline_step",
    "measure",
    "hub",
    "transform",
    "training selective_labels",
    "callback",
    "scale",
    "experiments",
    "collapse",
    "cli",
    "__main__",
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms.split()}
HEAVY = {"torch", "transformers", "datasets", "vllm"}
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES
}


def room_of(module):
    return module.partition(".")[0]


def imports_of(module):
    """Modules of this package that a module imports, anywhere in it."""
    parents = module.split(".") if MODULES[module].stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parents[: len(parents) + 1 - node.level]
            target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            modules = {".".join(filter(None, [target, alias.name])) for alias in node.names} & set(MODULES)
            yield from modules or ({target} - {""})


OURS = sorted(set(MODULES) - {"__init__"})


@pytest.mark.parametrize("module", OURS)
def test_arrows_between_rooms_go_one_way(module):
    for other in imports_of(module):
        assert other in MODULES, f"{module} imports {other}: name the module, not its room"
        assert room_of(other) == room_of(module) or LEVEL[room_of(other)] < LEVEL[room_of(module)], other


@pytest.mark.parametrize("module", OURS)
def test_modules_import_without_heavy_libraries(module):
    top = {name for node in ast.parse(MODULES[module].read_text()).body for name in top_level_imports(node)}
    allowed = {"transformers"} if module == "callback" else set()  # its class is one of transformers' callbacks
    assert not top & HEAVY - allowed


def test_no_room_has_a_cycle():
    order = graphlib.TopologicalSorter({module: set(imports_of(module)) for module in OURS})
    assert len(list(order.static_order())) >= len(OURS)


def test_every_room_says_what_it_is_for():
    rooms = {room_of(module) for module in OURS}
    assert rooms == set(LEVEL)
    for room in rooms:
        assert ast.get_docstring(ast.parse(MODULES[room].read_text())), room


@pytest.mark.parametrize("room", ["hub", "scale", "collapse"])
def test_the_largest_rooms_name_each_of_their_files(room):
    files = {module.removeprefix(f"{room}.") for module in OURS if module.startswith(f"{room}.")}
    named = set(re.findall(r"`(\w+)`", ast.get_docstring(ast.parse(MODULES[room].read_text()))))
    assert named - {"map"} == files


def top_level_imports(node):
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [(node.module or "").split(".")[0]]
    return []


@pytest.mark.parametrize("module", [module for module in OURS if LEVEL[room_of(module)] <= LEVEL["editing"]])
def test_below_the_priors_there_is_no_torch(module):
    pattern = r"^\s*(import|from) (torch|transformers|datasets)"
    assert not re.search(pattern, MODULES[module].read_text(), re.MULTILINE)


def test_optional_attributes_of_a_prior_are_read_in_one_place():
    """`PriorDetails` has each of them, with its type and what stands in for it; `Prior` says what it means."""
    details = next(node for node in ast.parse(MODULES["types"].read_text()).body if node_name(node) == "PriorDetails")
    optional = {node_name(node) for node in details.body} - {""}
    assert optional >= {"name", "revision", "chat_template"}
    meanings = inspect.getdoc(hf_toedit.Prior)
    assert all(f"\n{name}: " in meanings for name in optional)
    for module in set(OURS) - {"types"}:
        read = re.findall(r"(?:get|has)attr\((?:self\.)?prior, \"(\w+)\"", MODULES[module].read_text())
        assert not optional & set(read), module


def node_name(node):
    return getattr(node, "name", "")


def test_import_is_light():
    """It loads modules of the standard library alone; the package's own wait until a name is read."""
    code = "import sys; before = set(sys.modules); import hf_toedit; print(*set(sys.modules) - before)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [name for name in out.split() if name.split(".")[0] not in sys.stdlib_module_names] == ["hf_toedit"]


def test_all_names_are_there_and_documented():
    assert sorted(hf_toedit.__all__) == sorted(hf_toedit._HOME)
    for name in hf_toedit.__all__:
        assert getattr(hf_toedit, name).__doc__, name
    assert set(hf_toedit.__all__) <= set(dir(hf_toedit))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        hf_toedit.Nothing  # noqa: B018


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
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
            assert hasattr(hf_toedit, name) or name in {room_of(module) for module in OURS}, f"{page.name}: {name}"
        for path in re.findall(
            r"`((?:examples|benchmarks|tests|hf_toedit|docs|model_cards)/[\w./]+)`", page.read_text()
        ):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_wheel_fits():
    """The embedded prior is at most 10 MB."""
    assert sum(path.stat().st_size for path in (PACKAGE / "priors" / "demo").iterdir()) <= 10_000_000


def test_each_dependency_has_one_lower_bound_and_the_pinned_version_is_within():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    bounds: dict[str, set[str]] = {}
    for line in [
        *project["dependencies"],
        *(line for name, lines in extras.items() if name != "dev" for line in lines),
    ]:
        name, _, bound = line.partition(">=")
        bounds.setdefault(name.partition("[")[0], set()).add(bound)
    pins = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    for name, (bound, *others) in bounds.items():
        assert bound, f"{name} has no lower bound"
        assert not others, f"{name} has several"
        assert name == "vllm" or Version(bound) <= Version(pins[name])
