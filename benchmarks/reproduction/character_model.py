"""Character models of Shakespeare: trained again and again on their own text (Seddik et al., Figure 5), and on human
and synthetic rows in several numbers (Kazdan et al., Figure 5).

    python -m benchmarks.reproduction.character_model    # 15 minutes on one core

A model trained on Shakespeare is the truth; what it writes stands for human text. HF_TOEDIT_SHARED names the folder
with `data/tinyshakespeare.txt`, by default `shared` beside the checkout. A run that was stopped resumes.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.reproduction.figure import Comparison, Figure, compare, main
from hf_toedit.collapse import LanguageModel, Mixture, Replace, Simulation, cardinality, train_runs
from hf_toedit.collapse.generations import rng_of
from hf_toedit.collapse.simulation import mean_interval
from hf_toedit.experiments.recipe import Model

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("HF_TOEDIT_SHARED", ROOT.parent / "shared"))
WORK = Path(tempfile.gettempdir()) / "character_model"
END, ROW, N, GENERATIONS, RUNS = "<end>", 64, 1000, 7, 4
NUM_CONTEXTS, NUM_HELD_OUT = 300, 300
TRUTH_ROWS, TRUTH_STEPS, STEPS = 20_000, 600, 120
NUM_REAL, NUM_SYNTHETIC = (100, 500, 2000), 500  # of the second figure
SHAPE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": ROW + 8,
}
TRAIN = {"per_device_train_batch_size": 32, "learning_rate": 3e-3, "warmup_steps": 20, "weight_decay": 0.1}
WORKFLOWS = {
    "fully synthetic": Replace(),
    "50% real": Mixture(0.5),
    "80% real": Mixture(0.2),
}
GROWTH = {"fully synthetic": 2.0, "50% real": 1.0, "80% real": 1.0}  # read off the figure, from the second model on


def character_tokenizer(text: str, folder: Path) -> str:
    """Write a tokenizer whose tokens are the characters of an ASCII text."""
    to_tokens = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    [(tokens, _)] = to_tokens.pre_tokenize_str("".join(sorted(set(text))))
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate([END, *tokens])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = to_tokens, decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder)
    return str(folder)


def windows(text: str, count: int, rng: np.random.Generator) -> Dataset:
    starts = rng.integers(len(text) - ROW, size=count)
    return Dataset.from_dict({"text": [text[start : start + ROW] for start in starts]})


def setting_of() -> LanguageModel:
    """The setting in which a model of Shakespeare is the truth."""
    text = (SHARED / "data/tinyshakespeare.txt").read_text(encoding="utf-8")
    rng = rng_of(0)
    rows = windows(text, TRUTH_ROWS, rng)
    setting = LanguageModel(
        human=rows,
        held_out=rows,
        model=Model(config=SHAPE, tokenizer=character_tokenizer(text, WORK / "tokenizer")),
        train={**TRAIN, "max_steps": TRUTH_STEPS},
        block_size=ROW + 1,
        max_new_tokens=ROW,
        min_new_tokens=ROW,
        batch_size=250,
    )
    truth = setting.fit(rows, setting.truth(1, 1, rng))
    human, held_out = setting.sample(truth, 5 * N, rng), setting.sample(truth, NUM_HELD_OUT, rng)
    lengths = rng.integers(1, ROW, size=NUM_CONTEXTS)
    written = setting.sample(truth, NUM_CONTEXTS, rng)["text"]
    contexts = [row[:length] for row, length in zip(written, lengths, strict=True)]
    train = {**TRAIN, "max_steps": STEPS}
    return dataclasses.replace(setting, human=human, held_out=held_out, train=train, contexts=contexts)


def derived(simulation: Simulation, values_R: np.ndarray, what: str, **of_the_paper: Any) -> Comparison:
    """A number per run, with its interval."""
    ours: Any = dataclasses.replace(simulation, values_RG={what: values_R[:, None]}, expected_G={})
    return compare(what, ours, what, 1, **of_the_paper)


def comparisons(name: str, simulation: Simulation) -> Iterator[Comparison]:
    l1_RG, loss_RG = simulation.values_RG["next_token_l1"], np.log(simulation.values_RG["perplexity"])
    what = f"{name}: growth of the L1 distance from generation 2 to {GENERATIONS}"
    yield derived(simulation, l1_RG[:, -1] / l1_RG[:, 1], what, paper=GROWTH[name], tolerance=0.2)
    for generation in (2, GENERATIONS):
        yield compare(f"{name}: L1 distance at generation {generation}", simulation, "next_token_l1", generation)
    what = f"{name}: rise of the validation loss by generation {GENERATIONS}, nats"
    yield derived(simulation, loss_RG[:, -1] - loss_RG[:, 0], what)


def figure_5() -> Figure:
    torch.set_num_threads(1)
    setting = setting_of()
    arguments: dict[str, Any] = {"n": N, "generations": GENERATIONS, "runs": RUNS, "out": WORK / "runs"}
    found: list[Comparison] = []
    for name, workflow in WORKFLOWS.items():
        found += comparisons(name, train_runs(setting, workflow, **arguments))
    return Figure(
        name="seddik_figure_5",
        paper="seddik",
        item="Figure 5",
        title="Next-token distributions of a character model trained on its own text",
        setup=(
            f"A model of Shakespeare's characters is the truth. It writes {N:,} rows of {ROW} characters, on which "
            "generation 1 is trained; the L1 distance from generation 1 is averaged over "
            f"{NUM_CONTEXTS} contexts that the truth wrote. {RUNS} runs."
        ),
        differs=(
            f"2 layers of width 64 and {ROW} characters of context, where the paper has 8 layers, width 256 and 128; "
            f"{STEPS} steps of 32 rows for each generation, not 2,000 of 256; {GENERATIONS} generations, not 10. The "
            "paper's growth, up to its last generation, is read off its figure, where the mixtures look flat; ours "
            "rise a little on average."
        ),
        comparisons=found,
    )


def value_of_synthetic_rows() -> Figure:
    torch.set_num_threads(1)
    setting = dataclasses.replace(setting_of(), contexts=())
    losses: dict[tuple[int, int], list[float]] = {}
    for seed in range(RUNS):
        table = cardinality(setting, num_real=NUM_REAL, num_synthetic=[0, NUM_SYNTHETIC], runs=1, seed=seed)
        for real, synthetic, perplexity in zip(table["num_real"], table["num_synthetic"], table["mean"], strict=True):
            losses.setdefault((real, synthetic), []).append(np.log(perplexity))
    found = []
    for real in NUM_REAL:
        alone_R, more_R = (np.array(losses[real, synthetic]) for synthetic in (0, NUM_SYNTHETIC))
        measured = {"validation loss": alone_R, f"change by {NUM_SYNTHETIC} synthetic rows": more_R - alone_R}
        for what, values_R in measured.items():
            found.append(Comparison(f"{real:,} real rows: {what}, nats", *map(float, mean_interval(values_R))))
    return Figure(
        name="kazdan_figure_5",
        paper="kazdan",
        item="Figure 5",
        title="What synthetic rows are worth beside few and many real rows",
        setup=(
            "Character models trained on some real rows, and on the same rows with synthetic ones, by a model trained "
            f"on {max(NUM_REAL):,} real rows. {RUNS} runs."
        ),
        differs=(
            "The paper fine-tunes Gemma-2 2B on HelpSteer2, where synthetic rows lower the loss beside 1,024 real rows "
            "or fewer and raise it beside 4,096 or more, in one epoch. Ours are 2-layer character models, all trained "
            f"from scratch for {STEPS} steps of 32 rows, on text that a model of Shakespeare wrote."
        ),
        comparisons=found,
    )


if __name__ == "__main__":
    main({"seddik_figure_5": figure_5, "kazdan_figure_5": value_of_synthetic_rows})
