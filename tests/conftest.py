"""What tests share: tokenizers, priors and texts.

What claims rest on is made by the tests (made.py) or embedded in the package. Models, tokenizers and texts from
elsewhere are breadth: they lie in a folder beside the checkout, and tests that read it skip where it is absent.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_server
import huggingface_hub
import made
import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer

from hf_toedit import TransformersPrior
from hf_toedit.priors.pretrained import DEMO_FOLDER

ROOT = Path(__file__).parents[1]
RECIPE_FOLDER = ROOT / "hf_toedit/experiments/recipes"
SHARED = Path(os.environ.get("HF_TOEDIT_SHARED", ROOT.parent / "shared"))
REAL_TOKENIZERS = ["gpt2", "qwen2", "dolma2", "mistral-v3", "t5-small", "stories260K"]


def breadth(*values: Any) -> Any:
    """Parameters that only `make test-slow` runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


TOKENIZERS = [*made.FAMILIES, "demo", *map(breadth, REAL_TOKENIZERS)]


def shared_path(name: str) -> Path:
    """A file or folder of the shared material. Without that material the test is skipped; a gap in it is a failure."""
    path = SHARED / name
    if not SHARED.exists():
        pytest.skip(f"needs {name} of the shared material (set HF_TOEDIT_SHARED)")
    assert path.exists(), f"{SHARED} has no {name}"
    return path


def load_tokenizer(name: str) -> Tokenizer:
    """One of TOKENIZERS."""
    if name in made.FAMILIES:
        return made.FAMILIES[name]()
    if name == "demo":
        folder = DEMO_FOLDER
    else:
        folder = shared_path("models/stories260K" if name == "stories260K" else f"tokenizers/{name}")
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


NUM_IDS = load_tokenizer("demo").get_vocab_size()

settings.register_profile("quick", max_examples=40, deadline=None)
settings.register_profile("thorough", max_examples=150, deadline=None)  # make test-slow
settings.load_profile("quick")


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


@pytest.fixture(scope="session", params=["demo", breadth("stories260K")])
def pretrained_folder(request: pytest.FixtureRequest) -> Path:
    """A pretrained Llama: the embedded prior, byte-level; for breadth one with a tokenizer like SentencePiece's."""
    return DEMO_FOLDER if request.param == "demo" else shared_path("models/stories260K")


@pytest.fixture(scope="session")
def pretrained(pretrained_folder: Path) -> TransformersPrior:
    return TransformersPrior(pretrained_folder)


@pytest.fixture(scope="session")
def familiar_texts(pretrained_folder: Path) -> list[str]:
    """Five texts that `pretrained` is nearly certain of: half of their tokens are likelier than 1/2 or so."""
    if pretrained_folder == DEMO_FOLDER:
        return made.familiar_texts()
    text = shared_path("data/tinystories_sample_cs336.txt").read_text(encoding="utf-8")
    return [part.strip() for part in text.split("<|endoftext|>") if part.strip()]


@pytest.fixture(scope="session")
def demo() -> TransformersPrior:
    """The embedded prior: always there."""
    return TransformersPrior("demo")


@pytest.fixture(scope="session")
def human_texts() -> list[str]:
    """300 short human texts."""
    return list(made.human_texts()[:300])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; what `datasets` caches goes elsewhere."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    """An empty local Hub, which is the Hub of this process: for huggingface_hub, datasets and transformers."""
    with hub_server.serve() as hub:
        hub.adopt(monkeypatch, tmp_path / "home")
        yield hub
        huggingface_hub.utils.close_session()
