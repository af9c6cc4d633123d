"""Write the cards in model_cards/: of each bundled recipe, and of the demo prior.

    python scripts/model_cards.py    # `make cards-refresh`; tests/test_model_cards.py fails if a card is outdated

What stands outside the section that this script writes stays as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from safetensors import safe_open

from hf_toedit.experiments.cards import recipe_card
from hf_toedit.experiments.reading import bundled_recipes, read_recipe
from hf_toedit.hub.markdown import as_code, table
from hf_toedit.hub.merging import merged
from hf_toedit.priors.pretrained import DEMO_FOLDER, resolve_revision

CARDS = Path(__file__).parents[1] / "model_cards"


def cards() -> Iterator[tuple[Path, str]]:
    """The file and the text of each card. Licences are those of the table, whatever the Hub says that day."""
    with mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):
        for path in bundled_recipes().values():
            recipe, results = read_recipe(path), path.with_name("results.json")
            file = CARDS / f"{recipe.name}.md"
            yield file, recipe_card(recipe, json.loads(results.read_text()) if results.exists() else None, _text(file))
        demo = CARDS / "demo.md"
        yield demo, demo_card(_text(demo))


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.exists() else None


def demo_card(existing: str | None) -> str:
    """The card of the demo prior, with the facts that its files tell."""
    config = json.loads((DEMO_FOLDER / "config.json").read_text(encoding="utf-8"))
    weights = DEMO_FOLDER / "model.safetensors"
    with safe_open(weights, "pt") as tensors:
        num_parameters = sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    shape = "{num_hidden_layers} layers, hidden size {hidden_size}, {num_attention_heads} heads".format(**config)
    tied = ", tied embeddings" if config["tie_word_embeddings"] else ""
    facts = {
        "shape": f"{shape}{tied}; {num_parameters:,} parameters, {config['dtype']}",
        "tokenizer": f"byte-level BPE with {config['vocab_size']} pieces, one token per digit; every text is restored "
        "exactly",
        "context": f"{config['max_position_embeddings']} tokens",
        "size": f"{weights.stat().st_size / 1e6:.1f} MB",
        "revision": f"{as_code(resolve_revision(str(DEMO_FOLDER), None))}, a digest of its files",
    }
    metadata = {
        "language": ["en"],
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["hf-toedit"],
    }
    return merged(existing, table(["", ""], facts.items()), metadata)


def main() -> None:
    for file, card in cards():
        if _text(file) != card:
            file.write_text(card, encoding="utf-8")
            print(f"refreshed {file.relative_to(CARDS.parent)}")


if __name__ == "__main__":
    main()
