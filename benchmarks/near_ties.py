"""Near-ties: how many of the decisions that another dtype makes differently they hold, and how many are in vain.

    python benchmarks/near_ties.py measure     # writes results/near-ties-<machine>-cpu.json
    python benchmarks/near_ties.py table results/near-ties-x86_64-cpu.json

Every position is scored in float32 and in half precision, and decided from both with the same uniform numbers, of many
seeds. Recall: of the positions that the two decide differently, the share that are near-ties of the run in half
precision. Precision: of these near-ties, the share that float32 does decide differently.
"""

from __future__ import annotations

import json
import platform
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from hf_toedit import ScoreRequest, Scores, ToEditConfig, TransformersPrior
from hf_toedit.editing.decision import UNCHANGED, change_bound, decide
from hf_toedit.editing.tokenization import Tokenization
from hf_toedit.editing.windows import join_scores
from hf_toedit.experiments.docstrings import docstrings, standard_library
from hf_toedit.priors.pretrained import DEMO_FOLDER

HERE = Path(__file__).parent
STORIES = HERE.parents[1] / "shared/models/stories260K"
STORIES_TEXT = HERE.parents[1] / "shared/data/tinystories_sample_cs336.txt"
HALF = ("bfloat16", "float16")
LONGEST = 512
CONFIGS = {
    "threshold 0.99": ToEditConfig(),
    "threshold 0.9": ToEditConfig(threshold=0.9),
    "threshold 0.5": ToEditConfig(threshold=0.5),
    "without target": ToEditConfig(threshold=0.9, exclude_target=True),
    "without target, temperature 0.1": ToEditConfig(threshold=0.9, exclude_target=True, temperature=0.1),
    "temperature 0.3": ToEditConfig(threshold=0.5, temperature=0.3),
    "top-p 0.95, temperature 3": ToEditConfig(threshold=0.9, top_p=0.95, temperature=3.0),
    "drop": ToEditConfig(strategy="drop", drop_below=0.002),
}

app = typer.Typer(add_completion=False, help=__doc__)


def text_requests(prior: TransformersPrior, texts: list[str]) -> list[ScoreRequest]:
    """All positions of texts, each cut to one window."""
    rows = [np.array(prior.tokenizer.encode(text).ids[:LONGEST]) for text in texts]
    return [ScoreRequest(ids, np.arange(1, len(ids))) for ids in rows if len(ids) > 1]


def sure_requests(prior: TransformersPrior, num_rows: int = 24, length: int = 64) -> list[ScoreRequest]:
    """Random tokens, each followed by what the prior finds likeliest there: what a random model is sure of."""
    generator, found = np.random.default_rng(0), []
    for _ in range(num_rows):
        ids = generator.integers(1, prior.tokenizer.get_vocab_size(), length)
        [scores] = prior.score([ScoreRequest(ids, np.arange(1, length))], 1)
        for t, token_id in enumerate(scores.candidate_ids_EK[:, 0].tolist(), start=1):
            found.append(ScoreRequest(np.append(ids[:t], token_id), np.array([t])))
    return found


def save_random(folder: str) -> None:
    """A random Llama with a wide head, sharp enough to be sure of tokens, and the demo tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32_000, tie_word_embeddings=True, **sizes))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.06)
        if name == "model.norm.weight":
            parameter.data *= 7
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO_FOLDER).save_pretrained(folder)


def score(model: str, dtypes: tuple[str, ...], top_k: int) -> tuple[np.ndarray, np.ndarray, dict[str, Scores]]:
    """Targets [E], allowed candidates [V] and the scores of a model's positions in each dtype."""
    priors = {dtype: TransformersPrior(model, dtype=dtype) for dtype in dtypes}
    first = priors["float32"]
    if model == "demo":
        texts = [row["text"] for row in docstrings(standard_library() / "json")]
        requests = text_requests(first, texts)
    elif model == str(STORIES):
        requests = text_requests(first, STORIES_TEXT.read_text(encoding="utf-8").split("<|endoftext|>"))
    else:
        requests = sure_requests(first)
    target_E = np.concatenate([request.input_ids[request.positions] for request in requests])
    scores = {dtype: join_scores(prior.score(requests, top_k)) for dtype, prior in priors.items()}
    num_ids = first._config.vocab_size
    is_candidate_V = np.ones(num_ids + 1, dtype=bool)
    if num_ids == first.tokenizer.get_vocab_size():  # the random model has no tokenizer of its own
        is_candidate_V = Tokenization(first.tokenizer).is_candidate_V
    return target_E, is_candidate_V, scores


def compare(
    target_E: np.ndarray, candidate_V: np.ndarray, scores: dict[str, Scores], config: ToEditConfig, seeds: int
) -> dict[str, dict[str, int]]:
    """Counts of each dtype: visited, changed, decided differently from float32, near-ties, and both of these."""
    found = {dtype: dict.fromkeys(("visited", "changed", "different", "near", "both"), 0) for dtype in scores}
    for seed in range(seeds):
        u_E = np.random.default_rng(seed).random(len(target_E))
        visited_E = u_E < change_bound(config)
        results = {}
        for dtype, one in scores.items():
            allowed_EK = candidate_V[np.minimum(one.candidate_ids_EK, len(candidate_V) - 1)]
            results[dtype] = decide(one, target_E, u_E, visited_E, allowed_EK, config)
        for dtype, (new_E, near_E) in results.items():
            different_E = new_E != results["float32"][0]
            of_seed = (visited_E, new_E != UNCHANGED, different_E, near_E, different_E & near_E)
            for name, values_E in zip(found[dtype], of_seed, strict=True):
                found[dtype][name] += int(values_E.sum())
    return found


@app.command()
def measure(seeds: Annotated[int, typer.Option(help="Uniform numbers of each position.")] = 20) -> None:
    """Measure, and write the figures to a file."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        save_random(folder)
        models = {"demo": "demo", "random, wide head": folder}
        if STORIES.exists():
            models["stories260K"] = str(STORIES)
        for name, model in models.items():
            target_E, candidate_V, scores = score(model, ("float32", *HALF), 8)
            for setting, config in CONFIGS.items():
                for dtype, counts in compare(target_E, candidate_V, scores, config, seeds).items():
                    rows.append({"model": name, "setting": setting, "dtype": dtype, **counts})
    found = {"device": f"{platform.machine()} CPU", "seeds": seeds, "rows": rows}
    output = HERE / "results" / f"near-ties-{platform.machine()}-cpu.json"
    output.write_text(json.dumps(found, indent=1) + "\n")
    typer.echo(table_of(found))


@app.command()
def table(file: Path) -> None:
    """Print the table of a file of figures."""
    typer.echo(table_of(json.loads(file.read_text(encoding="utf-8"))))


def table_of(found: dict[str, Any]) -> str:
    """By dtype and model over all settings, and by dtype and setting over all models."""
    lines = [
        f"| {found['device']}, against float32 | visited | changed | different | near-ties | recall | precision |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for dtype in (*HALF, "float32"):
        rows = [row for row in found["rows"] if row["dtype"] == dtype]
        lines.append(_line(dtype, rows))
        for key in ("model", "setting"):
            for value in dict.fromkeys(row[key] for row in rows):
                lines.append(_line(f"{dtype}, {value}", [row for row in rows if row[key] == value]))
    return "\n".join(lines)


def _line(name: str, rows: list[dict[str, Any]]) -> str:
    counts = {key: sum(row[key] for row in rows) for key in ("visited", "changed", "different", "near", "both")}
    shares = [f"{counts['both'] / counts[key]:.3f}" if counts[key] else "" for key in ("different", "near")]
    cells = [name, *(f"{counts[key]:,}" for key in ("visited", "changed", "different", "near")), *shares]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    app()
