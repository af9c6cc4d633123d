"""The stages of a recipe, in order, with everything each one depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ..editing.config import SHORTENING, ToEditConfig
from ..errors import ConfigError
from ..hub.configs import check_config_name
from ..transform import VERSION
from . import results, stages
from .cards import Trained, write_card
from .data import ROWS, load
from .lock import Lock, file_digest
from .pieces import cut
from .recipe import Arm, Data, Fields, Model, PriorChoice, Recipe
from .stage import Stage
from .training import TrainJob, location


class Plan:
    """The stages of a recipe for its arms and seeds, in order. Creating a plan runs none of them."""

    def __init__(
        self, recipe: Recipe, root: Path, lock: Lock, push: str | None = None, *, public: bool = False
    ) -> None:
        self.recipe, self.root, self.lock = recipe, root, lock
        self.stages: dict[str, Stage] = {}
        self.cards: dict[str, Callable[[], None]] = {}  # what writes a model's card after a stage
        self.pushes: list[Stage] = []
        model, prior = recipe.model, recipe.prior
        self.model_revision = lock.resolve("model", model.id or model.tokenizer or "", model.revision)
        self.prior_revision = lock.resolve("prior", prior.id, prior.revision)
        self._add_load("load", recipe.data)
        self._add_cut("cut", "load")
        for name, data in recipe.evaluate.held_out.items():
            self._add_load(f"load-{name}", [data])
        edits: dict[str, list[str]] = {}
        for seed in recipe.seeds:
            for name, arm in recipe.arms.items():
                edited = self._add_edits(name, arm, seed)
                edits[name] = list(dict.fromkeys([*edits.get(name, []), *edited]))
                if push and edited:
                    self._add_push(push, name, seed, edited, public=public)
                self._add_train(name, arm, seed, self._trained_on(name, arm, seed, edited))
                self._add_evaluate(name, seed)
                self._add_cards(name, seed, edited)
        self._add_report(edits)

    def _add(self, name: str, inputs: Fields, run: Callable[[Path], None], after: Sequence[str] = ()) -> Stage:
        digests = [self.stages[earlier].digest for earlier in after]
        stage = Stage(name, {**inputs, "after": digests}, run, resumes=name.startswith(("edit-", "train-")))
        if self.stages.setdefault(name, stage).digest != stage.digest:
            raise ConfigError(f"two stages would share the folder {name!r}: rename one of the arms")
        return self.stages[name]

    def _add_load(self, name: str, data: Sequence[Data]) -> None:
        revisions = [self.lock.resolve("dataset", source.source, source.revision) for source in data]
        located = [
            source if Path(source.source).exists() else dataclasses.replace(source, revision=revision)
            for source, revision in zip(data, revisions, strict=True)
        ]
        fields = [_without_folder(dataclasses.asdict(source), "source") for source in data]
        inputs = {"data": fields, "revisions": revisions}
        self._add(name, inputs, partial(load, located))

    def _add_edits(self, name: str, arm: Arm, seed: int) -> list[str]:
        """Add one stage per generation; stages with the same inputs are shared. Returns their names."""
        first, names = self.recipe.arm_config(name, arm, seed), list[str]()
        rows, model = ("cut", self._model()) if self._edits_pieces(first) else ("load", None)
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
            shape = self.recipe.shape()
            run = partial(stages.edit, self.root / rows, self._prior(), config, self.recipe.edit, shape, model)
            new = Stage(wanted, {**inputs, "after": [self.stages[rows].digest]}, run)
            same = (stage.name for stage in self.stages.values() if stage.digest == new.digest)
            rows = self._add(next(same, wanted), inputs, run, [rows]).name
            names.append(rows)
        return names

    def _edits_pieces(self, config: ToEditConfig) -> bool:
        """Whether an arm edits the pieces that all arms share, rather than texts: a row of ids can't lose tokens."""
        return self.recipe.piece_tokens is not None and config.strategy not in SHORTENING

    def _trained_on(self, name: str, arm: Arm, seed: int, edited: Sequence[str]) -> str:
        """The stage with the rows that an arm trains on. In pieces, if all arms do, and with its own labels."""
        if self.recipe.piece_tokens is None:
            return edited[-1] if edited else "load"
        rows = edited[-1] if edited else "cut"
        if not self._edits_pieces(self.recipe.arm_config(name, arm, seed)):
            rows = self._add_cut(f"cut-{rows.removeprefix('edit-')}", rows)
        return rows if arm.select is None else self._add_selection(name, arm, seed, rows)

    def _add_selection(self, name: str, arm: Arm, seed: int, rows: str) -> str:
        """Add the stage that takes tokens out of the loss. Returns its name."""
        per_seed = f"-seed{seed}" if self.recipe.edit.per_seed and rows != "cut" else ""
        prior = [_without_folder(dataclasses.asdict(self.recipe.prior), "id"), self.prior_revision]
        base = arm.base and self.lock.resolve("prior", arm.base.id, arm.base.revision)
        inputs = {"select": arm.select, "prior": prior, "base": [arm.base and dataclasses.asdict(arm.base), base]}
        run = partial(stages.select, self.root / rows, self._prior(), arm, self.recipe.edit.batch_size, self._model())
        return self._add(f"select-{name}{per_seed}", inputs, run, [rows]).name

    def _add_cut(self, name: str, rows: str) -> str:
        """Add the stage that cuts texts into pieces. Returns its name."""
        if self.recipe.piece_tokens is not None:
            model = self._model()
            about = _without_folder(dataclasses.asdict(model), "id", "tokenizer")
            tokenizer = {key: about[key] for key in ("id", "tokenizer", "revision")}
            inputs = {"piece_tokens": self.recipe.piece_tokens, "tokenizer": tokenizer}
            inputs["model_revision"] = self.model_revision
            self._add(name, inputs, partial(cut, self.root / rows, model, self.recipe.piece_tokens), [rows])
        return name

    def _model(self) -> Model:
        model = self.recipe.model
        is_here = Path(location(model.id or model.tokenizer or "")).exists()
        return model if is_here else dataclasses.replace(model, revision=self.model_revision)

    def _prior(self) -> PriorChoice:
        prior = self.recipe.prior
        return prior if Path(location(prior.id)).exists() else dataclasses.replace(prior, revision=self.prior_revision)

    def _add_push(self, push: str, arm: str, seed: int, edited: Sequence[str], *, public: bool) -> None:
        subset = f"{arm}-seed{seed}" if self.recipe.edit.per_seed else arm
        check_config_name(subset)
        source = self._hub_source()
        run = partial(stages.push, [self.root / rows for rows in edited], push, subset, source, public)
        inputs = {"push": push, "subset": subset, "source": source, "public": public}
        self.pushes.append(self._add(f"push-{subset}", inputs, run, edited))

    def _hub_source(self) -> str | None:
        """The Hub id and commit of the recipe's data; None for files, and for a mixture of several datasets."""
        [first, *others] = self.recipe.data
        if others or Path(first.source).exists():
            return None
        revision = self.lock.resolve("dataset", first.source, first.revision)
        return f"{first.source}@{revision}" if revision else first.source

    def _add_train(self, name: str, arm: Arm, seed: int, rows: str) -> None:
        recipe, model = self.recipe, self._model()
        config = {**recipe.arm_config(name, arm, seed).to_dict(), "strategy": "resample"}
        prior = self._prior() if arm.truncate == "prior" else None
        job = TrainJob(
            str(self.root / rows / ROWS),
            "",
            model,
            recipe.train,
            seed,
            recipe.lora,
            truncate=arm.truncate,
            prior=prior,
            config=config if arm.truncate else {},
        )
        inputs = {**dataclasses.asdict(job), "model_revision": self.model_revision}
        inputs = {key: value for key, value in inputs.items() if key not in ("data", "folder")}
        inputs["model"] = _without_folder(inputs["model"], "id", "tokenizer")
        files = {key: value for key, value in recipe.train.items() if isinstance(value, str) and Path(value).is_file()}
        inputs["files"] = {key: file_digest(Path(value)) for key, value in files.items()}
        inputs["accelerate"] = recipe.accelerate and file_digest(Path(recipe.accelerate))
        if prior:
            inputs["prior"] = _without_folder(inputs["prior"], "id")
            inputs["prior_revision"] = self.prior_revision
        run = partial(stages.run_job, job, recipe.accelerate)
        self._add(f"train-{name}-seed{seed}", inputs, run, [rows])

    def _add_evaluate(self, arm: str, seed: int) -> None:
        settings, trained = self.recipe.evaluate, f"train-{arm}-seed{seed}"
        held_out = {name: f"load-{name}" for name in settings.held_out}
        folder = settings.include_path
        tasks = file_digest(Path(folder)) if folder and settings.tasks else None
        inputs: Fields = {
            "tasks": settings.tasks,
            "num_fewshot": settings.num_fewshot,
            "limit": settings.limit,
        }
        shape = self.recipe.shape()
        paths = {name: self.root / stage for name, stage in held_out.items()}
        run = partial(stages.measure, self.root / trained, settings, paths, shape, seed)
        inputs |= {"held_out": list(held_out), "shape": shape, "include": tasks}
        if settings.samples is not None:
            inputs |= {"samples": dataclasses.asdict(settings.samples), "seed": seed}
        self._add(f"evaluate-{arm}-seed{seed}", inputs, run, [trained, *held_out.values()])

    def _add_cards(self, arm: str, seed: int, edits: Sequence[str]) -> None:
        """The model's card after the training, and with results after the evaluation; no stages, so that they can't
        invalidate one."""
        train, evaluate = f"train-{arm}-seed{seed}", f"evaluate-{arm}-seed{seed}"
        keys = {data.source: data.source + (f"@{data.revision}" if data.revision else "") for data in self.recipe.data}
        revisions = {source: self.lock.revisions.get(f"dataset {key}") for source, key in keys.items()}
        if self.recipe.model.id:
            revisions[self.recipe.model.id] = self.model_revision
        trained = Trained(self.recipe, arm, seed, self.root / train, [self.root / name for name in edits], revisions)
        self.cards[train] = partial(write_card, trained)
        self.cards[evaluate] = partial(write_card, trained, self.root / evaluate)

    def _add_report(self, edits: dict[str, list[str]]) -> None:
        evaluations = {
            arm: {seed: f"evaluate-{arm}-seed{seed}" for seed in self.recipe.seeds} for arm in self.recipe.arms
        }
        after = [name for seeds in evaluations.values() for name in seeds.values()]
        after += [name for names in edits.values() for name in names]
        controls, planned = self.recipe.controls(), self.recipe.contrasts
        run = partial(
            results.report,
            {arm: {seed: self.root / name for seed, name in seeds.items()} for arm, seeds in evaluations.items()},
            {arm: [self.root / name for name in names] for arm, names in edits.items()},
            controls,
            planned=planned,
        )
        inputs = {"arms": list(self.recipe.arms), "seeds": self.recipe.seeds, "controls": controls}
        if planned is not None:
            inputs["contrasts"] = dataclasses.asdict(planned)
        self._add("report", inputs, run, after)


def _without_folder(fields: Fields, *names: str) -> Fields:
    """The fields with local paths cut to bare names: only the digests of files count, not where they are."""
    local = {name: Path(fields[name]).name for name in names if fields[name] and Path(location(fields[name])).exists()}
    return {**fields, **local}
