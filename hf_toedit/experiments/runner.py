"""`hf-toedit run RECIPE`: load, edit, push, train, evaluate, report.

Each stage runs once, and again if its inputs change.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

from rich.console import Console
from typer import Option

from ..errors import ConfigError, PriorError, SourceError, ToEditError, no_room
from ..files.secret import scrubbed
from ..files.yamls import read_fields
from ..hub.push import check_target
from .conversion import convert_keys
from .evaluation import task_manager
from .lock import Lock
from .plan import Plan
from .reading import chosen_arms, read_recipe
from .recipe import Recipe
from .results import read_json
from .smoke import check_arms, smoke_recipe, smoke_stage
from .stage import check_place, one_line_when_full, one_line_when_refused, perform
from .training import TrainJob, check_options, location, optional, sft_config
from .trust import check_trust

LOCK, SMOKE = "lock.yaml", "smoke"
RUNS = "toedit-runs"
LONGEST = 255  # bytes of a name on common file systems


def quiet() -> None:
    """Keep the progress bars of datasets and transformers out of log files."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What a run takes in addition to its recipe: the options of the command."""

    arm: Annotated[
        list[str] | None,
        Option(help="Run only this arm: source, toedit, random, drop, tce, or one of the recipe's own."),
    ] = None
    seed: Annotated[list[int] | None, Option(help="Training seeds. Default: those of the recipe.", min=0)] = None
    output: Annotated[Path | None, Option(help="The folder for the results. Default: toedit-runs/NAME.")] = None
    overrides: Annotated[list[str] | None, Option("--set", help="Override a field, as in train.max_steps=9.")] = None
    push: Annotated[str | None, Option(help="Push the edited rows to this Hub dataset, one config per arm.")] = None
    public: Annotated[bool, Option("--public", help="With --push: make them public.")] = False
    trust_recipe: Annotated[bool, Option("--trust-recipe", help="Let the recipe run code that comes with it.")] = False
    smoke: Annotated[bool, Option("--smoke", help="Try it with a tiny model and tiny data, on a CPU, offline.")] = False
    dry_run: Annotated[bool, Option("--dry-run", help="Check the recipe and print its stages.")] = False


def check(recipe: Recipe) -> None:
    """Raise ConfigError or PriorError if a recipe names things that do not exist or can't be combined."""
    for name, path in (("accelerate", recipe.accelerate), ("evaluate.include_path", recipe.evaluate.include_path)):
        if path and not Path(path).exists():
            raise ConfigError(f"{name}: there is no {path!r}, neither beside the recipe nor in the working folder")
    model, prior = Path(location(recipe.model.id or "")), recipe.prior
    if recipe.model.id and model.is_dir() and not (model / "config.json").is_file():
        raise PriorError(f"model {recipe.model.id!r} is not a folder with a model: it has no config.json")
    check_options(prior)
    if prior.backend == "vllm" and recipe.edit.num_proc > 1:
        raise ConfigError(
            f"edit.num_proc={recipe.edit.num_proc} can't be combined with vLLM, which starts its own processes"
        )
    asks_itself = [name for name, arm in recipe.arms.items() if arm.truncate == "self"]
    if recipe.accelerate and asks_itself:
        settings = read_fields(Path(recipe.accelerate), "num_processes: 4")
        zero = (settings.get("deepspeed_config") or {}).get("zero_stage")
        if settings.get("distributed_type") == "FSDP" or zero == 3:
            spread = f"under {recipe.accelerate} a model's weights are spread over ranks"
            raise ConfigError(f"arm {asks_itself[0]!r} asks the model in training, and {spread}: choose another config")


def check_training(recipe: Recipe, root: Path) -> None:
    """Raise ConfigError now for what TRL or lm_eval would refuse after hours of editing."""
    arguments = sft_config(TrainJob("", str(root), recipe.model, recipe.train, recipe.seeds[0]))
    if recipe.accelerate is None and arguments.n_gpu > 1:
        raise ConfigError(f"there are {arguments.n_gpu} GPUs: set CUDA_VISIBLE_DEVICES=0, or accelerate in the recipe")
    if recipe.evaluate.tasks:
        task_manager(recipe.evaluate)


def check_output(plan: Plan, name: str) -> None:
    """Raise SourceError if the output holds files that no run wrote, or results of another recipe, in the way.

    name: of this recipe.
    """
    root, other = plan.root, plan.lock.recipe
    for stage in plan.stages.values():
        check_place(root / stage.name)
    changed = {key for stage in plan.stages.values() for key in stage.changed_from(root / stage.name)}
    if other not in ("", name) and changed:
        raise SourceError(
            f"{str(root)!r} holds the results of the recipe {other!r}, and {name!r} would replace them; they differ in "
            f"{', '.join(sorted(changed))}: give another --output"
        )


def _check_length(root: Path) -> None:
    """Raise SourceError for a name too long for any file system, before checking whether the folder exists."""
    for part in root.parts:
        if len(os.fsencode(part)) > LONGEST:
            raise SourceError(f"--output: a folder's name can't be longer than {LONGEST} bytes; give a shorter one")


def _make(folder: Path) -> None:
    """Create the folder of a run. Raises SourceError if it can't be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if no_room(error):
            raise
        raise SourceError(f"can't make the folder {str(folder)!r}: {error.strerror}; give another --output") from error


def run_recipe(path: Path, options: RunOptions) -> Path:
    """Run a recipe into a folder and return the folder. Raises ToEditError, in one line, if something can't be done."""
    try:
        return _run_recipe(path, options)
    except ToEditError as error:
        if scrubbed(str(error)) == str(error):
            raise
        raise type(error)(scrubbed(str(error))) from None


def _run_recipe(path: Path, options: RunOptions) -> Path:
    console = Console()
    recipe = chosen_arms(read_recipe(path, options.overrides or ()), options.arm or ())
    check(recipe)
    root = options.output or Path(RUNS) / (f"{recipe.name}-{SMOKE}" if options.smoke else recipe.name)
    if options.seed or options.smoke:
        recipe = dataclasses.replace(recipe, seeds=options.seed or recipe.seeds[:1])
    if options.smoke:
        recipe = smoke_recipe(recipe, root / SMOKE)
    else:
        check_trust(recipe, trusted=options.trust_recipe)
    recipe = dataclasses.replace(recipe, train=convert_keys(optional("trl").SFTConfig, recipe.train, "train"))
    if recipe.lora is not None:
        lora = convert_keys(optional("peft").LoraConfig, recipe.lora, "lora")
        recipe = dataclasses.replace(recipe, lora=lora)
    _check_length(root)
    name = f"{recipe.name}-{SMOKE}" if options.smoke else recipe.name
    lock = Lock(root / LOCK, offline=options.dry_run)
    if not options.dry_run:
        with one_line_when_full("load", root):
            _make(root)
        if options.smoke:
            check_place(root / SMOKE)  # before anything is written
            check_output(Plan(recipe, root, Lock(root / LOCK, offline=True)), name)
            perform(smoke_stage(recipe, root / SMOKE), root)
        check_training(recipe, root)
    plan = Plan(recipe, root, lock, options.push, public=options.public)
    check_output(plan, name)
    if options.dry_run:
        for stage in plan.stages.values():
            state = "done" if stage.is_in(root / stage.name) else "to do"
            console.print(f"{state:6} {root / stage.name}", soft_wrap=True, highlight=False, markup=False)
        return root
    if not console.is_terminal:
        quiet()
    if options.push and not all(
        stage.is_in(root / name) for name, stage in plan.stages.items() if name.startswith("push-")
    ):
        check_target(options.push, private=not options.public)
    lock.recipe = name
    with one_line_when_full("load", root), one_line_when_refused("load"):
        lock.write()
    for stage in plan.stages.values():
        if changed := stage.changed_from(root / stage.name):
            line = f"again  {stage.name}: changed {', '.join(changed)}"
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        ran = perform(stage, root)
        if stage.name in plan.cards:
            with one_line_when_full(stage.name, root):
                plan.cards[stage.name]()
        console.print(f"{'ran' if ran else 'done':6} {stage.name}", soft_wrap=True, highlight=False, markup=False)
    console.print((root / "report" / "report.md").read_text(encoding="utf-8"), soft_wrap=True, markup=False)
    for stage in plan.pushes:
        pushed = read_json(root / stage.name / "push.json")
        line = f"Pushed to {pushed['url']}, config {pushed['subset']}"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if options.smoke:
        for seed in recipe.seeds:
            check_arms(root, seed)
    return root
