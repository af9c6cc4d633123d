"""How large a patch is, compared with the edited dataset that it stands for.

    python benchmarks/patch_size.py     # writes results/patch-size.json; takes about half an hour

The rows are docstrings of everything that is installed: human text, different on each machine. A scripted prior edits
them, because only the number of edits matters here: one token in eight is eligible, as in the paper. Both the edited
dataset and the patch are Parquet with zstd.
"""

from __future__ import annotations

import json
import random
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer
from datasets import Dataset, DatasetDict, disable_progress_bars
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from hf_toedit import ScoreRequest, Scores, ToEditTransform, revert, summarize
from hf_toedit.experiments.docstrings import docstrings, standard_library
from hf_toedit.hub.patches import write_patch
from hf_toedit.hub.records import edits_of
from hf_toedit.hub.source import Source

RESULTS = Path(__file__).parent / "results/patch-size.json"
ELIGIBLE = 1 / 8
CASES: dict[str, tuple[int, dict[str, Any]]] = {  # docstrings in a row, and settings
    "long rows": (4, {}),
    "short rows": (1, {}),
    "short rows, every eligible token changed": (1, {"exclude_target": True}),
}


class ScriptedPrior:
    """One token in eight is eligible. The alternatives are frequent tokens, each half as likely as the one before."""

    max_length, stride, revision = None, 256, "scripted"

    def __init__(self, texts: Sequence[str]) -> None:
        self.tokenizer = Tokenizer(models.BPE())
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=16_000, initial_alphabet=alphabet, show_progress=False)
        self.tokenizer.train_from_iterator(texts, trainer)
        ids = [i for encoding in self.tokenizer.encode_batch(texts) for i in encoding.ids]
        self.frequent = np.argsort(-np.bincount(ids))[:997]

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        return [self._score(request, top_k) for request in requests]

    def _score(self, request: ScoreRequest, top_k: int) -> Scores:
        target_E = request.input_ids[request.positions]
        draws = np.random.default_rng(request.input_ids)
        is_eligible_E = draws.random(len(target_E)) < ELIGIBLE
        p_E = np.where(is_eligible_E, 0.99, 0.6) + np.where(is_eligible_E, 0.01, 0.35) * draws.random(len(target_E))
        others_EK = self.frequent[(draws.integers(997, size=len(target_E))[:, None] + 61 * np.arange(top_k)) % 997]
        is_target_EK = others_EK == target_E[:, None]
        others_EK[:, :-1] = np.where(is_target_EK, others_EK[:, -1:], others_EK)[:, :-1]
        share_K = 0.5 ** np.arange(1, top_k)
        p_EK = np.hstack([p_E[:, None], np.outer(1 - p_E, share_K / share_K.sum())])
        logprob_EK = np.log(p_EK).astype(np.float32)  # as models give them
        return Scores(logprob_EK[:, 0], np.hstack([target_E[:, None], others_EK[:, :-1]]), logprob_EK)


def installed_texts() -> list[str]:
    """Every distinct docstring, in a random order."""
    roots = [standard_library(), Path(sysconfig.get_paths()["purelib"])]
    texts = list(dict.fromkeys(row["text"] for root in roots for row in docstrings(root)))
    random.Random(1).shuffle(texts)
    return texts


def rows_of(texts: Sequence[str], num_rows: int, num_in_row: int) -> Iterator[dict[str, Any]]:
    """Rows of one text, or of several drawn at random."""
    draws = random.Random(0)
    for i in range(num_rows):
        parts = [texts[i % len(texts)]] if num_in_row == 1 else draws.sample(texts, num_in_row)
        yield {"id": i, "text": "\n\n".join(parts)}


def measure(edited: Dataset, transform: ToEditTransform) -> dict[str, Any]:
    """Write the edited dataset and its patch, and say how large both are. `write_patch` checks what the patch gives."""
    with tempfile.TemporaryDirectory() as scratch:
        source, full, patch = (Path(scratch) / name for name in ("source.parquet", "full.parquet", "patch"))
        patch.mkdir()
        edited.map(revert, batched=True).to_parquet(source)
        pq.write_table(edited.with_format("arrow")[:], full, compression="zstd")
        splits = DatasetDict(train=edited)
        write_patch(splits, patch, edits_of(splits, transform), Source(str(source)))
        patch_bytes = sum(path.stat().st_size for path in patch.rglob("*") if path.is_file())
        full_bytes = full.stat().st_size
    tokens = summarize(edited).tokens
    return {
        "rows": len(edited),
        "characters_per_row": round(sum(map(len, edited["text"])) / len(edited)),
        "changed_rate": round(tokens.num_changed / tokens.num_tokens, 4),
        "full_bytes": full_bytes,
        "patch_bytes": patch_bytes,
        "ratio": round(patch_bytes / full_bytes, 4),
        "patch_bytes_per_row": round(patch_bytes / len(edited), 1),
    }


def table_of(found: dict[str, Any]) -> str:
    """The sizes in Markdown."""
    lines = ["| rows | edited dataset | patch | |", "|---|---|---|---|"]
    for name, case in found.items():
        _, comma, how = name.partition(", ")
        rows = f"{case['characters_per_row']:,} characters on average{comma}{how}"
        full, patch = (f"{case[size] / 1e6:.1f} MB" for size in ("full_bytes", "patch_bytes"))
        lines.append(f"| {rows} | {full} | {patch} | {case['ratio']:.1%} |")
    return "\n".join(lines)


def main(num_rows: Annotated[int, typer.Option(min=1, help="Rows of each dataset.")] = 100_000) -> None:
    disable_progress_bars()
    texts = installed_texts()
    prior = ScriptedPrior(texts[:10_000])
    results = {}
    for name, (num_in_row, options) in CASES.items():
        transform = ToEditTransform(prior, **options)
        edited = Dataset.from_list(list(rows_of(texts, num_rows, num_in_row))).map(transform, batched=True)
        results[name] = measure(edited, transform)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table_of(results))


if __name__ == "__main__":
    typer.run(main)
