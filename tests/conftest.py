"""Real models, tokenizers and texts, from a folder beside the checkout; tests that need it skip where it is absent."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from hf_toedit import TransformersPrior
from hf_toedit.priors.pretrained import DEMO_FOLDER

ROOT = Path(__file__).parents[1]
RECIPE_FOLDER = ROOT / "hf_toedit/experiments/recipes"
SHARED = Path(os.environ.get("HF_TOEDIT_SHARED", ROOT.parent / "shared"))
TOKENIZERS = ["gpt2", "qwen2", "dolma2", "mistral-v3", "t5-small", "stories260K", "demo"]


def shared_path(name: str) -> Path:
    """A file or folder of the shared material, or a skip that says so."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name} of the shared material (set HF_TOEDIT_SHARED)")
    return path


def load_tokenizer(name: str) -> Tokenizer:
    """One of TOKENIZERS."""
    if name == "demo":
        folder = DEMO_FOLDER
    else:
        folder = shared_path("models/stories260K" if name == "stories260K" else f"tokenizers/{name}")
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def read_texts(name: str, field: str) -> list[str]:
    """One field of every row of a JSONL file of `shared/data`."""
    with shared_path(f"data/{name}").open(encoding="utf-8") as lines:
        return [json.loads(line)[field] for line in lines]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads cost tiny models more than they bring."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def fast_collection() -> Iterator[None]:
    """Trainers call the garbage collector each time; what is there by now need not be looked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def stories_folder() -> Path:
    return shared_path("models/stories260K")


@pytest.fixture(scope="session")
def stories(stories_folder: Path) -> TransformersPrior:
    """A real pretrained Llama of 260,000 parameters."""
    return TransformersPrior(stories_folder)


@pytest.fixture(scope="session")
def demo() -> TransformersPrior:
    """The embedded prior: always there."""
    return TransformersPrior("demo")


@pytest.fixture(scope="session")
def human_texts() -> list[str]:
    """300 short human texts (FLAN v2 chain-of-thought answers)."""
    return read_texts("flan_cot_creak.jsonl", "cot")[:300]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; what `datasets` caches goes elsewhere."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work
