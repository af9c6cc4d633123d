"""Small language models on human text, six generations of four workflows: what collapses, and what editing does.

    python -m benchmarks.reproduction.language_models train BOOKS.jsonl.gz OUT --seeds 0 --seeds 1   # hours; resumes
    python -m benchmarks.reproduction.language_models collect OUT    # -> benchmarks/reproduction/language_models.json
    python -m benchmarks.reproduction.language_models figures        # -> benchmarks/reproduction/results/

BOOKS: public-domain books, a JSON object with `text` on each line. A whole book is either for training or held out.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.reproduction.figure import Figure, compare, write
from hf_toedit import ToEditConfig
from hf_toedit.collapse import (
    Accumulate,
    AccumulateSubsample,
    LanguageModel,
    Replace,
    Simulation,
    ToEdit,
    train_generations,
)
from hf_toedit.collapse.language_model_runs import SECONDS
from hf_toedit.collapse.workflows import label_of
from hf_toedit.experiments.contrasts import contrasts, detectable, holm
from hf_toedit.experiments.recipe import Model
from hf_toedit.experiments.results import read_json
from hf_toedit.experiments.runner import quiet
from hf_toedit.report.files import write_json
from hf_toedit.types import FloatArray

RESULT = Path(__file__).with_name("language_models.json")  # what the figures are made from
GENERATIONS, NUM_ROWS = 6, 300
ROW_TOKENS, VOCABULARY = 64, 256
HELD_OUT_BOOKS, HELD_OUT_OF_EACH, TRAIN_OF_EACH = 16, 25, 400
WORKFLOWS = {label_of(workflow): workflow for workflow in (Replace(), Accumulate(), AccumulateSubsample(), ToEdit())}
MODEL = {
    "model_type": "llama",
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
}
TRAIN = {
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 20,
    "weight_decay": 0.1,
    "num_train_epochs": 6,
    "per_device_train_batch_size": 2,
    "use_cpu": True,
}
THRESHOLD = 0.3  # one token in thirty is that likely under the models of generation 1; none reaches 0.99
PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": "-", "\r": None})
FIRST = "generation 1"
# Chosen before the run: an arm at the last generation, minus another one there or minus generation 1.
CONTRASTS = [
    ("toedit", "accumulate"),
    ("toedit", "replace"),
    ("toedit", FIRST),
    ("accumulate", "accumulate-subsample"),
    ("accumulate-subsample", "replace"),
    ("replace", FIRST),
]
app = typer.Typer(add_completion=False, help=__doc__)


def paragraphs(book: str) -> list[str]:
    """The long paragraphs of a book in plain characters, each on one line; no headings, lists or tables."""
    lines = (" ".join(part.split()) for part in book.translate(PLAIN).split("\n\n"))
    return [line for line in lines if len(line) > 200 and line.isascii() and not re.search(r"[#*_|\[\]]", line)]


def passages(texts: Sequence[str], tokenizer: Any) -> Iterator[str]:
    """The texts in pieces of whole words with at most ROW_TOKENS tokens; what is left of a text is not used."""
    for text in texts:
        encoded = tokenizer.encode(text)
        starts = [i for i, token in enumerate(encoded.tokens) if token.startswith("Ġ")]
        begin = 0
        while len(encoded.ids) - begin > ROW_TOKENS:
            end = max((start for start in starts if begin < start <= begin + ROW_TOKENS), default=begin + ROW_TOKENS)
            yield text[encoded.offsets[begin][0] : encoded.offsets[end - 1][1]].strip()
            begin = end


def prepare(books: Path, folder: Path) -> None:
    """Write the tokenizer, trained on the training books, and `train.json` and `held_out.json`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(0)
    with gzip.open(books, "rt", encoding="utf-8") as lines:
        texts = [paragraphs(json.loads(line)["text"]) for line in lines]
    rng.shuffle(texts)
    held_out, train = texts[:HELD_OUT_BOOKS], texts[HELD_OUT_BOOKS:]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = [character for character in pre_tokenizers.ByteLevel.alphabet() if character.isascii()]
    end = "<|endoftext|>"
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text for book in train for text in rng.sample(book, min(60, len(book)))], trainer)
    for name, part, number in (("train", train, TRAIN_OF_EACH), ("held_out", held_out, HELD_OUT_OF_EACH)):
        rows = [list(passages(rng.sample(book, min(number, len(book))), tokenizer)) for book in part]
        chosen = [text for book in rows for text in rng.sample(book, min(number, len(book)))]
        (folder / f"{name}.json").write_text(json.dumps(chosen), encoding="utf-8")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end).save_pretrained(
        folder / "tokenizer"
    )


def setting(folder: Path, num_rows: int = NUM_ROWS) -> LanguageModel:
    from datasets import Dataset

    human, held_out = (
        Dataset.from_dict({"text": json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))})
        for name in ("train", "held_out")
    )
    return LanguageModel(
        human,
        held_out,
        Model(config=MODEL, tokenizer=str(folder / "tokenizer")),
        train=TRAIN,
        edits=ToEditConfig(threshold=THRESHOLD),
        min_new_tokens=ROW_TOKENS,
        max_new_tokens=ROW_TOKENS,
        batch_size=256,
    )


@app.command()
def train(
    books: Path,
    out: Path,
    seeds: Annotated[list[int], typer.Option(help="One model of generation 1, and each workflow, for each.")],
    workflows: Annotated[list[str] | None, typer.Option(help="Default: all.")] = None,
    generations: int = GENERATIONS,
) -> None:
    """Train. Several processes can share OUT if each has other seeds, once one of them has written the text."""
    quiet()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)  # so that the tokenizer's path, and with it the settings, do not depend on where OUT is
    if not Path("tokenizer").exists():
        prepare(books, Path())
    for seed in seeds:
        for label in workflows or WORKFLOWS:
            found = train_generations(
                setting(Path()), WORKFLOWS[label], n=NUM_ROWS, generations=generations, seed=seed, out="runs"
            )
            print(seed, label, [round(float(value), 2) for value in found["perplexity"]], flush=True)


Values = dict[str, dict[str, dict[str, list[float | None]]]]  # workflow -> seed -> metric -> by generation


@app.command()
def collect(runs: Path, pilot: Path | None = None, pilot_generations: int = 4, result: Path = RESULT) -> None:
    """Write the metrics of the seeds that are complete, and the contrasts, as JSON. RUNS: OUT/runs.

    pilot: such a folder of earlier runs with other seeds, for what numbers of seeds could show.
    """
    values, seconds = read_runs(runs, [*WORKFLOWS], GENERATIONS)
    setup = {"rows": NUM_ROWS, "row_tokens": ROW_TOKENS, "model": MODEL, "train": TRAIN, "threshold": THRESHOLD}
    found = {"setup": setup, "seconds": round(seconds), "contrasts": contrasted(values)}
    if pilot is not None:
        labels = [label for label in WORKFLOWS if list(pilot.glob(f"seed-*/{label}"))]
        found["pilot"] = power(read_runs(pilot, labels, pilot_generations)[0])
    write_json(result, {**found, "metrics": values})
    for one in found["contrasts"]:
        print({name: one[name] for name in ("arm", "against", "mean", "low", "high", "detectable", "p_holm")})


def read_runs(folder: Path, labels: Sequence[str], generations: int) -> tuple[Values, float]:
    """The metrics of the seeds that have all generations of these workflows, and the seconds that they took."""
    values: Values = {label: {} for label in labels}
    seconds = 0.0
    for seed in sorted(folder.glob("seed-*")):
        places = {label: [seed / "generation-1"] for label in labels}
        for label, place in places.items():
            place += [seed / label / f"generation-{number}" for number in range(2, generations + 1)]
        if not all(place.exists() for row in places.values() for place in row):
            continue
        for label, row in places.items():
            metrics = [read_json(place / "metrics.json") for place in row]
            names = {name: None for at in metrics for name in at if name != SECONDS}
            values[label][seed.name.removeprefix("seed-")] = {name: [at.get(name) for at in metrics] for name in names}
            seconds += sum(at[SECONDS] for at in metrics[1:]) + metrics[0][SECONDS] / len(labels)
    return values, seconds


def contrasted(values: Values) -> list[dict[str, Any]]:
    """CONTRASTS in cross-entropy, in nats a token, at the last generation, paired by seed; p_holm over all of them."""

    def cross_entropy(label: str) -> dict[str, dict[str, float]]:
        place = ("replace", 0) if label == FIRST else (label, -1)
        return {
            seed: {"cross_entropy": math.log(metrics["perplexity"][place[1]] or math.nan)}
            for seed, metrics in values[place[0]].items()
        }

    found = []
    for arm, against in CONTRASTS:
        if {arm, against} <= {*values, FIRST}:
            [one] = contrasts({"source": cross_entropy(against), arm: cross_entropy(arm)}, {})
            found.append({**one, "against": against})
    for one, p in zip(found, holm([one["p"] for one in found]), strict=True):
        one["p_holm"] = p
    return found


def power(values: Values) -> list[dict[str, Any]]:
    """The true differences that five to eight seeds would show with 80% power, given the spread of a pilot."""
    return [
        {
            **{name: one[name] for name in ("arm", "against", "mean", "sd")},
            "detectable": {str(seeds): detectable(one["sd"], seeds) for seeds in (5, 6, 7, 8)},
        }
        for one in contrasted(values)
        if one["sd"]
    ]


def stacked(found: Mapping[str, Any]) -> dict[str, Simulation]:
    """The runs of each workflow, for their intervals."""
    simulations = {}
    for label, seeds in found["metrics"].items():
        names = {name for metrics in seeds.values() for name in metrics}
        values_RG = {name: np.array([metrics[name] for metrics in seeds.values()], dtype=float) for name in names}
        values_RG["cross_entropy"] = np.log(values_RG["perplexity"])
        simulations[label] = Simulation(None, WORKFLOWS[label], NUM_ROWS, NUM_ROWS, 0, values_RG, {})  # type: ignore[arg-type]
    return simulations


def changes(simulation: Simulation, values_RG: FloatArray) -> Simulation:
    """A simulation with a measure `value`."""
    return replace(simulation, values_RG={"value": values_RG}, expected_G={})


def setup_of(found: Mapping[str, Any]) -> str:
    num_seeds = len(found["metrics"]["replace"])
    return (
        f"Llama models with one layer, trained from random weights on {NUM_ROWS} passages of {ROW_TOKENS} tokens from "
        f"public-domain books for {TRAIN['num_train_epochs']} epochs, so that accumulating also means more steps. "
        f"{GENERATIONS} generations and {num_seeds} seeds; the workflows of a seed share generation 1. Perplexity is "
        f"that of passages from {HELD_OUT_BOOKS} other books. ToEdit edits tokens of at least probability {THRESHOLD}."
    )


def workflows_figure(found: Mapping[str, Any]) -> Figure:
    """Gerstgrasser et al., Table 2: how much cross-entropy rises by the fourth generation, and our perplexities."""
    simulations = stacked(found)
    comparisons = []
    for label, paper in (("replace", 2.39 - 1.82), ("accumulate", 1.74 - 1.82)):
        entropy_RG = simulations[label].values_RG["cross_entropy"]
        risen = changes(simulations[label], entropy_RG - entropy_RG[:, :1])
        comparisons.append(compare(f"rise of cross-entropy by generation 4, {label}", risen, "value", 4, paper=paper))
    for generation in (1, 2, 4, 6):
        for label, simulation in simulations.items():
            if generation > 1 or label == "replace":
                what = f"perplexity of human text at generation {generation}" + f", {label}" * (generation > 1)
                comparisons.append(compare(what, simulation, "perplexity", generation))
    for one in found["contrasts"]:
        differences_RG = np.array(one["values"])[:, None]
        what = f"cross-entropy at generation {GENERATIONS}, {one['arm']} minus {one['against']}"
        comparisons.append(compare(what, changes(simulations["replace"], differences_RG), "value", 1))
    return Figure(
        name="gerstgrasser_language_models",
        paper="gerstgrasser",
        item="Table 2",
        title="Language models trained on their own text",
        setup=setup_of(found),
        differs="The paper's numbers are for GPT-2 with 9 million parameters on 470 million tokens of TinyStories, "
        "which a model wrote: the direction can be compared, not the amount.",
        comparisons=comparisons,
    )


def edited_share_figure(found: Mapping[str, Any]) -> Figure:
    """ToEdit, Table 15: the share of eligible tokens, from one generation of edits to the next."""
    simulation = stacked(found)["toedit"]
    eligible_RG = simulation.values_RG["eligible_rate"]
    comparisons = [
        compare(f"{name} at edit {edit}", simulation, measure, edit + 1)
        for measure, name in (("eligible_rate", "eligible share"), ("changed_rate", "changed share"))
        for edit in range(1, GENERATIONS)
    ]
    for last, paper in ((3, (517_433 / 584_103) ** (1 / 2)), (GENERATIONS - 1, None)):
        ratio = changes(simulation, (eligible_RG[:, [last]] / eligible_RG[:, [1]]) ** (1 / (last - 1)))
        what = f"eligible share, ratio per edit from edit 1 to {last}"
        comparisons.append(compare(what, ratio, "value", 1, paper=paper))
    return Figure(
        name="toedit_table_15_language_models",
        paper="toedit",
        item="Table 15",
        title="Share of eligible tokens, edit after edit",
        setup=setup_of(found) + " The prior of each edit is the model that was trained on the text of the edit before.",
        differs="The paper's threshold is 0.99, which no token reaches under models as small as ours, so that nothing "
        "would be edited; about half of the tokens that reach ours change. The ratios can be compared, not the shares.",
        comparisons=comparisons,
    )


@app.command()
def figures(result: Path = RESULT) -> None:
    """Write the figures of the reproduction page."""
    found = json.loads(result.read_text(encoding="utf-8"))
    for figure in (workflows_figure(found), edited_share_figure(found)):
        print(write(replace(figure, seconds=found["seconds"])))


if __name__ == "__main__":
    app()
