"""`hf-toedit collapse language-model`: causal language models, trained generation after generation on real text."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, get_origin, get_type_hints

import numpy as np
import typer
import yaml

from .. import __version__
from ..collapse.extra import extra
from ..collapse.language_model import LanguageModel
from ..collapse.language_model_runs import train_generations, train_runs
from ..collapse.simulation import Simulation
from ..collapse.workflows import ToEdit, Workflow, name_of
from ..editing.config import ToEditConfig
from ..errors import ConfigError, SourceError, ToEditWarning, any_of, one_clear_line
from ..experiments.recipe import Model
from ..experiments.runner import quiet
from .collapse import PICTURE, SETTINGS, TABLE, AsJson, WorkflowOptions, show, write_files
from .options import SourceNames, read_source

if TYPE_CHECKING:
    from datasets import Dataset

SMALL = MappingProxyType(  # a Llama of half a million parameters
    {
        "model_type": "llama",
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.08,
    }
)
SMALL_TRAIN = MappingProxyType({"learning_rate": 3e-3, "lr_scheduler_type": "cosine", "num_train_epochs": 5})
MODEL_HELP = (
    "A pretrained model to train each generation from: a folder, or an id on the Hub. Default: a new Llama of "
    "half a million parameters, with random weights and the demo prior's tokenizer."
)
TRAIN_HELP = (
    "A field of TrainingArguments, as in num_train_epochs=3. May be repeated. Default: as in transformers; for the "
    f"new Llama, {', '.join(f'{name}={value}' for name, value in SMALL_TRAIN.items())}."
)
OUT_HELP = (
    "The folder for the table, plot and settings, and a folder for each generation. If it holds the same run, that run "
    "resumes."
)
HELD_OUT_HELP = "How many rows at the end of the source to hold out, to measure perplexity on."

if TYPE_CHECKING:
    TextOptions = Any
else:  # the fields of the setting that are options
    hints = get_type_hints(LanguageModel, include_extras=True)
    TextOptions = dataclasses.make_dataclass(
        "TextOptions",
        [
            (field.name, hints[field.name], field.default)
            for field in dataclasses.fields(LanguageModel)
            if get_origin(hints[field.name]) is Annotated
        ],
        frozen=True,
    )


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """What to train, on what, how often, and where to write it."""

    source: SourceNames
    out: Annotated[Path, typer.Option(help=OUT_HELP, show_default=False)]
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None
    train: Annotated[list[str] | None, typer.Option(help=TRAIN_HELP)] = None
    held_out: Annotated[int, typer.Option(help=HELD_OUT_HELP, min=1)] = 100
    n: Annotated[int, typer.Option("--n", help="Rows that each model writes.")] = 500
    num_real: Annotated[int | None, typer.Option(help="Real rows to train on. Default: n.")] = None
    generations: Annotated[
        int, typer.Option(help="Models to train, one after the other; the first sees only real rows.")
    ] = 5
    runs: Annotated[int, typer.Option(help="Repetitions, with seeds SEED, SEED + 1, ...")] = 3
    seed: Annotated[int, typer.Option(help="Equal seeds give equal tables.", min=0)] = 0
    as_json: AsJson = False

    def rows(self) -> tuple[Dataset, Dataset]:
        """The rows to train on, and the held-out rows."""
        splits = read_source(self.source)
        if len(splits) != 1:
            raise ConfigError(f"{', '.join(self.source)}: has the splits {', '.join(splits)}; give a file of one split")
        [rows] = splits.values()
        if len(rows) <= self.held_out:
            raise ConfigError(f"held_out={self.held_out} leaves none of the {len(rows):,} rows to train on: lower it")
        first = len(rows) - self.held_out
        return rows.select(range(first)), rows.select(range(first, len(rows)))

    def model_to_train(self) -> Model:
        return Model(id=self.model) if self.model else Model(tokenizer="demo", config=dict(SMALL))

    def training_arguments(self) -> dict[str, Any]:
        """The fields that `--train NAME=VALUE` sets. Raises ConfigError for anything that doesn't look like this."""
        fields = {} if self.model else dict(SMALL_TRAIN)
        for given in self.train or ():
            name, equals, value = given.partition("=")
            if not equals:
                raise ConfigError(f"--train {given!r} must be a field and its value, as in num_train_epochs=3")
            try:
                fields[name] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise ConfigError(f"--train {given!r} has a value that is not YAML") from error
        return fields

    def sizes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("n", "generations", "num_real", "runs", "seed")}


def language_model(
    training: TrainingOptions,
    workflows: WorkflowOptions,
    text: TextOptions,
    edits: Annotated[ToEditConfig, "threshold", "top_k", "exclude_target"],
) -> None:
    """Causal language models on your text. Interrupted runs resume."""
    for package in ("scipy.stats", "pandas"):
        extra(package)
    quiet()
    chosen = workflows.all()
    if edits != ToEditConfig() and not any(isinstance(each, ToEdit) for each in chosen):
        raise ConfigError("edit settings are for another workflow: add --workflow toedit, or leave them out")
    check_output(training.out)
    human, held_out = training.rows()
    setting = LanguageModel(
        human, held_out, training.model_to_train(), training.training_arguments(), edits, **vars(text)
    )
    train_all(setting, chosen, training)
    simulations = [train_runs(setting, each, **training.sizes(), out=training.out) for each in chosen]
    warn_of_no_edits(simulations)
    settings = settings_of(setting, chosen, training)
    show(simulations, settings, as_json=training.as_json)  # first: the disk may be full
    with one_clear_line(SourceError, f"can't write to {str(training.out)!r}", catches=any_of(OSError)):
        write_files(training.out, simulations, settings)


def check_output(out: Path) -> None:
    """Raise SourceError if the results would replace files of somebody else's."""
    there = [name for name in (TABLE, SETTINGS, PICTURE) if (out / name).exists()]
    if there and not any(out.glob("seed-*")):
        raise SourceError(f"{str(out / there[0])!r} exists but was not written by a run: give another --out")


def train_all(setting: LanguageModel, workflows: list[Workflow], training: TrainingOptions) -> None:
    """Train the missing generations, with a progress bar."""
    from tqdm import tqdm

    sizes = training.sizes()
    seeds = range(sizes.pop("seed"), training.seed + sizes.pop("runs"))
    generations = range(1, sizes.pop("generations") + 1)
    jobs = list(product(seeds, workflows, generations))
    with warnings.catch_warnings(), tqdm(jobs, unit=" models") as bar:
        warnings.filterwarnings("ignore", "'pin_memory' argument is set as true but no accelerator")
        for seed, workflow, number in bar:
            bar.set_description(f"{name_of(type(workflow))}, seed {seed}, generation {number}")
            train_generations(setting, workflow, **sizes, generations=number, seed=seed, out=training.out)


def warn_of_no_edits(simulations: Sequence[Simulation]) -> None:
    """Without edits, models are trained on the real rows each time, and say nothing about ToEdit."""
    for each in simulations:
        if isinstance(each.workflow, ToEdit) and not np.nansum(each.values_RG.get("changed_rate", 1)):
            what = "toedit changed no token, so that all its models saw the real rows alone: lower --threshold"
            warnings.warn(what, ToEditWarning, stacklevel=2)


def settings_of(setting: LanguageModel, workflows: list[Workflow], training: TrainingOptions) -> Mapping[str, Any]:
    return {
        "hf_toedit": __version__,
        "source": list(training.source),
        "setting": {"name": "language-model", **setting.settings()},
        "workflows": [{"name": name_of(type(each)), **vars(each)} for each in workflows],
        "training": training.sizes(),
    }
