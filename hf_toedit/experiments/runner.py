"""`hf-toedit run RECIPE`: load, edit, push, train, evaluate, report; each stage once, and again when its inputs change.

A stage is a folder below the output. It is written beside its place and moved there when it is whole, with a
`stage.json` that holds all its inputs, and the digests of the earlier stages that it reads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import yaml
from filelock import FileLock
from rich.console import Console
from typer import Option

from ..errors import ConfigError, PriorError, SourceError, ToEditError, no_room, one_clear_line
from ..files.secret import scrubbed, without_secrets
from ..files.yamls import read_fields, read_yaml
from ..priors import pretrained
from ..priors.pretrained import resolve_revision
from ..report.files import write_json, write_whole
from ..rows.provenance import versions
from ..transform import VERSION
from . import results, stages
from .data import ROWS, load
from .evaluation import task_manager
from .recipe import Arm, Data, Recipe, chosen_arms, convert, convert_keys, read_recipe
from .smoke import check_arms, smoke_recipe, write_smoke_files
from .training import TrainJob, check_options, location, optional, sft_config
from .trust import check_trust

STAGE, LOCK, SMOKE = "stage.json", "lock.yaml", "smoke"
RUNS = "toedit-runs"
LONGEST = 255  # bytes of a name, on the file systems in use
LIBRARIES = ("accelerate", "datasets", "lm_eval", "peft", "tokenizers", "torch", "transformers", "trl")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step. name: its folder. inputs: all that it depends on, as JSON (secrets are left out). run: writes its
    results into a folder.

    resumes: what an interrupted run left in the folder is kept for the next one.
    """

    name: str
    inputs: dict[str, Any]
    run: Callable[[Path], None]
    resumes: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", without_secrets(self.inputs))

    @property
    def digest(self) -> str:
        return hashlib.blake2b(json.dumps(self.inputs, sort_keys=True).encode(), digest_size=16).hexdigest()

    def is_in(self, folder: Path) -> bool:
        """Whether the folder was made from these inputs."""
        if not (folder / STAGE).is_file():
            return False
        digest = results.read_json(folder / STAGE).get("digest")
        if not isinstance(digest, str):
            raise results.broken(folder / STAGE, "it has no digest")
        return digest == self.digest


@dataclasses.dataclass(frozen=True)
class Locked:
    """What `lock.yaml` holds: commits by kind and id, and the versions of packages."""

    revisions: dict[str, str]
    versions: dict[str, str] = dataclasses.field(default_factory=dict)


class Lock:
    """`lock.yaml`: the commit of each dataset and model of the Hub that a run read. A later run reads the same."""

    def __init__(self, file: Path, *, offline: bool = False) -> None:
        self.file, self.offline = file, offline
        self.revisions = _locked(file) if file.is_file() else {}

    def resolve(self, what: str, name: str, revision: str | None) -> str | None:
        """The commit of a Hub id, or the digest of a local file or folder. Offline: None where it isn't known."""
        path = Path(location(name)).expanduser()
        if path.exists():
            return file_digest(path)
        key = f"{what} {name}" + (f"@{revision}" if revision else "")
        if key not in self.revisions and not self.offline:
            self.revisions[key] = _hub_commit(what, name, revision)
        return self.revisions.get(key)

    def write(self) -> None:
        write_whole(self.file, yaml.safe_dump({"revisions": self.revisions, "versions": versions(LIBRARIES)}))


def _locked(file: Path) -> dict[str, str]:
    """The revisions of a lock file. Raises SourceError for one that is broken."""
    fix = "put a whole one in its place, or remove it to lock the newest commits"
    try:
        kept = read_yaml(file)
    except ConfigError as error:
        raise SourceError(f"{error}; {fix}") from error
    try:
        return dict(convert(Locked, kept, "lock").revisions)
    except ConfigError as error:
        raise SourceError(f"{str(file)!r} is not a lock file; {fix}") from error


def _hub_commit(what: str, name: str, revision: str | None) -> str:
    if what != "dataset":
        return resolve_revision(name, revision, what)
    from huggingface_hub import HfApi

    missing = f"there is no file or folder {name!r}, and it was not found on the Hub"
    with pretrained.one_clear_line(missing, "set data.source", SourceError):
        return str(HfApi().dataset_info(name, revision=revision).sha)


def file_digest(path: Path) -> str:
    """A digest of a file, or of all files below a folder and their names."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(str(file.relative_to(path)).encode() + b"\0")
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


class Plan:
    """The stages of a recipe for its arms and seeds, in order. Making it runs none of them."""

    def __init__(self, recipe: Recipe, root: Path, lock: Lock, push: str | None = None) -> None:
        self.recipe, self.root, self.lock = recipe, root, lock
        self.stages: dict[str, Stage] = {}
        model, prior = recipe.model, recipe.prior
        self.model_revision = lock.resolve("model", model.id or model.tokenizer or "", model.revision)
        self.prior_revision = lock.resolve("prior", prior.id, prior.revision)
        self._add_load("load", recipe.data)
        for name, data in recipe.evaluate.held_out.items():
            self._add_load(f"load-{name}", [data])
        edits: dict[str, list[str]] = {}
        for seed in recipe.seeds:
            for name, arm in recipe.arms.items():
                found = self._add_edits(name, arm, seed)
                edits[name] = list(dict.fromkeys([*edits.get(name, []), *found]))
                if push and found:
                    self._add_push(push, name, seed, found[-1])
                self._add_train(name, arm, seed, found[-1] if found else "load")
                self._add_evaluate(name, seed)
        self._add_report(edits)

    def _add(self, name: str, inputs: dict[str, Any], run: Callable[[Path], None], after: Sequence[str] = ()) -> Stage:
        digests = [self.stages[earlier].digest for earlier in after]
        stage = Stage(name, {**inputs, "after": digests}, run, resumes=name.startswith("train-"))
        if self.stages.setdefault(name, stage).digest != stage.digest:
            raise ConfigError(f"two stages would share the folder {name!r}: rename one of the arms")
        return self.stages[name]

    def _add_load(self, name: str, data: Sequence[Data]) -> None:
        revisions = [self.lock.resolve("dataset", one.source, one.revision) for one in data]
        located = [
            one if Path(one.source).exists() else dataclasses.replace(one, revision=revision)
            for one, revision in zip(data, revisions, strict=True)
        ]
        inputs = {"data": [_without_folder(dataclasses.asdict(one), "source") for one in data], "revisions": revisions}
        self._add(name, inputs, partial(load, located))

    def _add_edits(self, name: str, arm: Arm, seed: int) -> list[str]:
        """One stage for each generation; stages of the same inputs are one."""
        first, found, rows = self.recipe.arm_config(name, arm, seed), list[str](), "load"
        for generation in range(arm.generations if first.strategy != "none" else 0):
            config = dataclasses.replace(first, generation=first.generation + generation)
            inputs = {
                "config": config.to_dict(),
                "shape": self.recipe.shape(),
                "stats": self.recipe.edit.stats,
                "prior": [_without_folder(dataclasses.asdict(self.recipe.prior), "id"), self.prior_revision],
                "version": VERSION,
            }
            per_seed = f"-seed{seed}" if self.recipe.edit.per_seed else ""
            wanted = f"edit-{name}{per_seed}" + (f"-{generation + 1}" if arm.generations > 1 else "")
            run = partial(stages.edit, self.root / rows, self._prior(), config, self.recipe.edit, self.recipe.shape())
            new = Stage(wanted, {**inputs, "after": [self.stages[rows].digest]}, run)
            same = (stage.name for stage in self.stages.values() if stage.digest == new.digest)
            rows = self._add(next(same, wanted), inputs, run, [rows]).name
            found.append(rows)
        return found

    def _prior(self) -> Any:
        prior = self.recipe.prior
        return prior if Path(location(prior.id)).exists() else dataclasses.replace(prior, revision=self.prior_revision)

    def _add_push(self, push: str, arm: str, seed: int, rows: str) -> None:
        subset = f"{arm}-seed{seed}" if self.recipe.edit.per_seed else arm
        run = partial(stages.push, self.root / rows, push, subset)
        self._add(f"push-{subset}", {"push": push, "subset": subset}, run, [rows])

    def _add_train(self, name: str, arm: Arm, seed: int, rows: str) -> None:
        recipe = self.recipe
        model = recipe.model
        if not Path(location(model.id or model.tokenizer or "")).exists():
            model = dataclasses.replace(model, revision=self.model_revision)
        config = {**recipe.arm_config(name, arm, seed).to_dict(), "strategy": "resample"}
        of_prior = {"prior": self._prior()} if arm.truncate == "prior" else {}
        truncated = {"truncate": arm.truncate, "config": config, **of_prior} if arm.truncate else {}
        job = TrainJob(str(self.root / rows / ROWS), "", model, recipe.train, seed, recipe.lora, **truncated)
        inputs = {**dataclasses.asdict(job), "model_revision": self.model_revision}
        inputs = {key: value for key, value in inputs.items() if key not in ("data", "folder")}
        inputs["model"] = _without_folder(inputs["model"], "id", "tokenizer")
        files = {key: value for key, value in recipe.train.items() if isinstance(value, str) and Path(value).is_file()}
        inputs["files"] = {key: file_digest(Path(value)) for key, value in files.items()}
        inputs["accelerate"] = recipe.accelerate and file_digest(Path(recipe.accelerate))
        if of_prior:
            inputs["prior"] = _without_folder(inputs["prior"], "id")
            inputs["prior_revision"] = self.prior_revision
        run = partial(stages.run_job, job, recipe.accelerate)
        self._add(f"train-{name}-seed{seed}", inputs, run, [rows])

    def _add_evaluate(self, arm: str, seed: int) -> None:
        settings, trained = self.recipe.evaluate, f"train-{arm}-seed{seed}"
        held_out = {name: f"load-{name}" for name in settings.held_out}
        folder = settings.include_path
        tasks = file_digest(Path(folder)) if folder and settings.tasks else None
        inputs: dict[str, Any] = {
            "tasks": settings.tasks,
            "num_fewshot": settings.num_fewshot,
            "limit": settings.limit,
        }
        shape = self.recipe.shape()
        paths = {name: self.root / stage for name, stage in held_out.items()}
        run = partial(stages.measure, self.root / trained, settings, paths, shape)
        inputs |= {"held_out": list(held_out), "shape": shape, "include": tasks}
        self._add(f"evaluate-{arm}-seed{seed}", inputs, run, [trained, *held_out.values()])

    def _add_report(self, edits: dict[str, list[str]]) -> None:
        evaluations = {
            arm: {seed: f"evaluate-{arm}-seed{seed}" for seed in self.recipe.seeds} for arm in self.recipe.arms
        }
        after = [name for seeds in evaluations.values() for name in seeds.values()]
        after += [name for names in edits.values() for name in names]
        controls = self.recipe.controls()
        run = partial(
            results.report,
            {arm: {seed: self.root / name for seed, name in seeds.items()} for arm, seeds in evaluations.items()},
            {arm: [self.root / name for name in names] for arm, names in edits.items()},
            controls,
        )
        inputs = {"arms": list(self.recipe.arms), "seeds": self.recipe.seeds, "controls": controls}
        self._add("report", inputs, run, after)


def _without_folder(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """With the bare names of local files: their digests count, not where they are."""
    local = {name: Path(fields[name]).name for name in names if fields[name] and Path(location(fields[name])).exists()}
    return {**fields, **local}


def perform(stage: Stage, root: Path) -> bool:
    """Run a stage unless its folder is there with the same inputs. Returns whether it ran.

    Of two runs with one output the second waits here. Raises SourceError when the disk is full, and for a folder that
    is no stage's; whatever else goes wrong, earlier stages stay and are not done again.
    """
    with FileLock(root / f".{stage.name}.lock"):
        return _perform(stage, root / stage.name, root / f".{stage.name}.partial")


def _perform(stage: Stage, folder: Path, work: Path) -> bool:
    if stage.is_in(folder):
        return False
    if folder.exists() and not (folder / STAGE).is_file():
        raise SourceError(f"{str(folder)!r} exists but was not created by a run: give another --output")
    with _one_line_when_full(stage.name, work):
        if work.exists() and not (stage.resumes and stage.is_in(work)):
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        write_json(work / STAGE, {"digest": stage.digest, "inputs": stage.inputs})
        stage.run(work)
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    return True


def _one_line_when_full(stage: str, folder: Path) -> one_clear_line:
    """Turn the ways in which libraries say that the disk is full into a SourceError that names folder and stage."""
    fix = f"free some space and run the same command again: it resumes at the stage {stage!r}"
    what = f"the disk is full: can't write {str(folder)!r}"
    return one_clear_line(SourceError, what, fix, catches=no_room, says=lambda error: "")


def quiet() -> None:
    """No progress bars of datasets and transformers in a log file."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What a run takes besides its recipe, as options of the command line."""

    arm: Annotated[list[str] | None, Option(help="source, toedit, random, drop, tce, or the recipe's own.")] = None
    seed: Annotated[list[int] | None, Option(help="Training seeds. Default: the recipe's.", min=0)] = None
    output: Annotated[Path | None, Option(help="The folder of results. Default: toedit-runs/NAME.")] = None
    overrides: Annotated[list[str] | None, Option("--set", help="Set a field, as in train.max_steps=9.")] = None
    push: Annotated[str | None, Option(help="Push the edited rows to this Hub dataset, a subset per arm.")] = None
    trust_recipe: Annotated[bool, Option("--trust-recipe", help="Let the recipe run code that comes with it.")] = False
    smoke: Annotated[bool, Option("--smoke", help="A tiny model on tiny data, on a CPU, offline.")] = False
    dry_run: Annotated[bool, Option("--dry-run", help="Check the recipe and print its stages.")] = False


def check(recipe: Recipe) -> None:
    """Raise ConfigError or PriorError for what a recipe names but does not exist, or can't be combined."""
    for name, path in (("accelerate", recipe.accelerate), ("evaluate.include_path", recipe.evaluate.include_path)):
        if path and not Path(path).exists():
            raise ConfigError(f"{name}: there is no {path!r}, neither beside the recipe nor in the working folder")
    model, prior = Path(location(recipe.model.id or "")), recipe.prior
    if recipe.model.id and model.is_dir() and not (model / "config.json").is_file():
        raise PriorError(f"model {recipe.model.id!r} is not a folder with a model: it has no config.json")
    check_options(prior)
    asks_itself = [name for name, arm in recipe.arms.items() if arm.truncate == "self"]
    if recipe.accelerate and asks_itself:
        settings = read_fields(Path(recipe.accelerate), "num_processes: 4")
        zero = (settings.get("deepspeed_config") or {}).get("zero_stage")
        if settings.get("distributed_type") == "FSDP" or zero == 3:
            spread = f"under {recipe.accelerate} a model's weights are spread over ranks"
            raise ConfigError(f"arm {asks_itself[0]!r} asks the model in training, and {spread}: choose another config")


def check_training(recipe: Recipe, root: Path) -> None:
    """Raise ConfigError for what TRL or lm_eval would refuse after hours of editing."""
    arguments = sft_config(TrainJob("", str(root), recipe.model, recipe.train, recipe.seeds[0]))
    if recipe.accelerate is None and arguments.n_gpu > 1:
        raise ConfigError(f"there are {arguments.n_gpu} GPUs: set CUDA_VISIBLE_DEVICES=0, or accelerate in the recipe")
    if recipe.evaluate.tasks:
        task_manager(recipe.evaluate)


def _check_length(root: Path) -> None:
    """Raise SourceError for a name that no file system takes, before it is asked whether there is such a folder."""
    for part in root.parts:
        if len(os.fsencode(part)) > LONGEST:
            raise SourceError(f"--output: a folder's name can't be longer than {LONGEST} bytes; give a shorter one")


def _make(folder: Path) -> None:
    """The folder of a run, which must be one that can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if no_room(error):
            raise
        raise SourceError(f"can't make the folder {str(folder)!r}: {error.strerror}; give another --output") from error


def run_recipe(path: Path, options: RunOptions) -> Path:
    """Run a recipe into a folder, and return the folder. Raises ToEditError with one line for what can't be."""
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
    lock = Lock(root / LOCK, offline=options.dry_run)
    if not options.dry_run:
        with _one_line_when_full("load", root):
            _make(root)
            if options.smoke:
                write_smoke_files(recipe, root / SMOKE)
            check_training(recipe, root)
    plan = Plan(recipe, root, lock, options.push)
    if options.dry_run:
        for stage in plan.stages.values():
            state = "done" if stage.is_in(root / stage.name) else "to do"
            console.print(f"{state:6} {root / stage.name}", soft_wrap=True, highlight=False, markup=False)
        return root
    if not console.is_terminal:
        quiet()
    with _one_line_when_full("load", root):
        lock.write()
    for stage in plan.stages.values():
        ran = perform(stage, root)
        console.print(f"{'ran' if ran else 'done':6} {stage.name}", soft_wrap=True, highlight=False, markup=False)
    console.print((root / "report" / "report.md").read_text(encoding="utf-8"), soft_wrap=True, markup=False)
    if options.smoke:
        for seed in recipe.seeds:
            check_arms(root, seed)
    return root
