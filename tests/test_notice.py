"""NOTICE and the model card name the licences of what the demo prior was trained on."""

from __future__ import annotations

import re
from importlib import metadata

import pytest
from conftest import ROOT

NOTICE = ROOT / "NOTICE"
PINNED = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
INSTALLED_THEN = [
    *["torch", "transformers", "tokenizers", "safetensors", "datasets", "pyarrow", "huggingface_hub", "numpy"],
    *["matplotlib", "typer", "rich", "pyyaml", "scipy", "pytest", "pytest-xdist", "hypothesis", "ruff", "mypy"],
    "types-PyYAML",
]


def listed() -> dict[str, str]:
    """The licence that NOTICE gives for each package."""
    text = re.sub(r"\n    ", " ", NOTICE.read_text(encoding="utf-8"))
    lines = [line.split(": ", 1) for line in re.findall(r"^  (?!\()(\S.*: .+)$", text, re.MULTILINE)]
    return {name.lower(): licence for licence, names in lines for name in names.split(", ")}


@pytest.mark.parametrize("name", INSTALLED_THEN)
def test_the_licence_of_a_package_is_the_one_its_metadata_names(name):
    fields = metadata.metadata(name)
    if fields["Version"].split("+")[0] != PINNED[name]:
        pytest.skip(f"{name} is installed in another version than the pinned one")
    classifiers = [line.split(" :: ")[-1] for line in fields.get_all("Classifier") or [] if "License ::" in line]
    named = fields.get("License-Expression") or ", ".join(classifiers) or fields.get("License")
    assert listed()[name.lower()] == named


def test_card_and_notice_name_the_standard_library_and_the_books():
    card = (ROOT / "model_cards/demo.md").read_text(encoding="utf-8")
    for page in (card, NOTICE.read_text(encoding="utf-8")):
        assert "PSF-2.0" in page
        assert "public domain" in page
    assert "(../NOTICE)" in card


def test_the_wheel_brings_the_notice():
    build = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {path.name for glob in build["project"]["license-files"] for path in ROOT.glob(glob)} == {
        "LICENSE",
        "NOTICE",
    }
