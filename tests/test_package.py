"""What is built: the wheel's files, and its description on the package index."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
import yaml
from conftest import ROOT

import hf_toedit

pytest.importorskip("hatchling", reason="needs the extra `dev`")
pytest.importorskip("hatch_fancy_pypi_readme", reason="needs the extra `dev`")

README = (ROOT / "README.md").read_text(encoding="utf-8")
LARGEST_WHEEL = 15_000_000  # bytes
TARGETS = r"\]\(\s*([^)\s]+)|(?:href|src|srcset)=[\"']([^\"']+)"


def hatchling(*words):
    line = [sys.executable, "-m", "hatchling", *words]
    return subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    hatchling("build", "-t", "wheel", "-d", str(folder))
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    """Prior, recipes and all: every file below hf_toedit, and no tests, examples or caches."""
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "hf_toedit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == there
    assert names >= {"hf_toedit/py.typed", "hf_toedit/experiments/recipes/small/recipe.yaml"}
    assert any(name.endswith(".safetensors") for name in names)
    assert wheel.stat().st_size < LARGEST_WHEEL


def test_the_wheel_starts_the_program_and_the_plug_in(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    targets = re.findall(r"^[\w-]+ = ([\w.]+):(\w+)$", archive.read(name).decode(), re.MULTILINE)
    assert len(targets) == 2
    for module, attribute in targets:
        assert f"{module.replace('.', '/')}.py" in archive.namelist() or (
            f"{module.replace('.', '/')}/__init__.py" in archive.namelist()
        )
        code = f"import {module}; assert callable({module}.{attribute})"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_links_on_the_package_index_lead_somewhere():
    """Links to files of the project and to headings are plain text there; all else is as in the README."""
    description = json.loads(hatchling("metadata"))["readme"]["text"]
    targets = [first or second for first, second in re.findall(TARGETS, description)]
    assert targets
    assert all(target.startswith("https://") for target in targets), targets
    plain = re.sub(r"!?\[([^\[\]]+)\]\([^()]+\)", r"\1", README)
    assert re.sub(r"!?\[([^\[\]]+)\]\([^()]+\)", r"\1", description).strip() == plain.strip()
    blocks = re.findall(r"^```.*?^```", README, re.MULTILINE | re.DOTALL)
    assert blocks
    assert all(block in description for block in blocks)


def test_the_workflow_runs_verbs_of_the_makefile_on_the_versions_that_the_package_names():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    steps = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    verbs = re.findall(r"^([\w-]+): .*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"make check", "make test", "make release"} <= set(steps)
    assert all(re.fullmatch(r"make ([\w-]+)", step)[1] in verbs for step in steps)
    named = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
    versions = [line.removeprefix("Programming Language :: Python :: ") for line in named if ":: Python :: 3." in line]
    assert jobs["test"]["strategy"]["matrix"]["python-version"] == versions


def test_every_place_names_the_same_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == hf_toedit.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", changes, re.MULTILINE)[0] == hf_toedit.__version__
