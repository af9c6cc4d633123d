"""Model cards of recipes: of each model that a run trains, and of a recipe as such."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..arguments import as_selection
from ..editing.stats import TokenStats
from ..errors import SourceError, ToEditWarning, in_one_line, no_room
from ..files.secret import without_secrets
from ..hub.eval_results import write_eval_results
from ..hub.licences import Combined
from ..hub.links import link, prior_link
from ..hub.markdown import as_code
from ..hub.merging import CARD, merged
from ..hub.method import TAGS, what_it_does, what_it_selects
from ..hub.model_card import (
    model_card_section,
    prior_material,
    rendered,
    source_material,
)
from ..hub.source import Source
from ..hub.training_edits import TrainingEdit, count, restored
from ..priors.pretrained import DEMO
from ..report.files import STATS, write_whole
from ..rows.provenance import bare_name
from .contrasts import number
from .recipe import Arm, Data, Fields, Recipe
from .results import broken, markdown, read_json, read_metrics
from .training import EDITS, LOG, MODEL, without_eligible

METHODS = {"sft": "Supervised fine-tuning", "cpt": "Continued pretraining", "pt": "Pretraining"}
PREPARED = "data/"  # where the instructions of the bundled recipes put data that isn't on the Hub


@dataclasses.dataclass(frozen=True)
class Trained:
    """One model of a run. folder: of its train stage. edits: folders of the stages that edited its data, in order.

    revisions: of the model and the data on the Hub, by name.
    """

    recipe: Recipe
    arm: str
    seed: int
    folder: Path
    edits: Sequence[Path]
    revisions: Mapping[str, str | None]


def write_card(trained: Trained, evaluation: Path | None = None) -> None:
    """Write the card of a trained model and, once it is evaluated, `.eval_results`; text by others on the card stays.

    evaluation: the folder of the stage that evaluated it. If that can't be done, warn.
    """
    path = trained.folder / MODEL / CARD
    try:
        metrics = {} if evaluation is None else read_metrics(evaluation / "metrics.json")
        existing = path.read_text(encoding="utf-8") if path.exists() else f"# {_title(trained)}\n"
        write_whole(path, merged(existing, _section(trained, metrics), _metadata(trained)))
        evaluate = trained.recipe.evaluate
        if evaluate.limit is None and evaluate.include_path is None:  # whole test sets, of lm_eval's own tasks
            write_eval_results(path.parent, metrics, evaluate.num_fewshot)
    except (SourceError, UnicodeDecodeError, OSError) as error:
        if no_room(error):
            raise
        warnings.warn(f"can't write the card {str(path)!r}: {in_one_line(error)}", ToEditWarning, stacklevel=2)


def recipe_card(recipe: Recipe, results: Mapping[str, Any] | None = None, existing: str | None = None) -> str:
    """The card of a recipe, with all its arms. results: as in `report.json`; None if it was not run."""
    sources = [source for data in recipe.data if (source := _on_hub(data))]
    prior = recipe.prior
    is_local = _is_local(prior.id)
    materials = (*map(source_material, sources), prior_material(prior.id, None if is_local else prior.id))
    section = rendered(
        "recipe.md.j2",
        recipe=recipe.name,
        method=_method(recipe),
        seeds=recipe.seeds,
        model=_model(recipe, {}),
        data=[_told(data, {}) for data in recipe.data],
        prior=prior_link({"prior": prior.id}) if is_local else link(Source(prior.id, prior.revision)),
        arms=[(name, _what(recipe, name, arm)) for name, arm in recipe.arms.items()],
        settings=_settings(recipe),
        licences=Combined(materials).model_markdown,
        results=list(_results(recipe, results)),
    )
    return merged(existing or f"# {recipe.name}\n", section, {**_about(recipe, sources), "tags": list(TAGS)})


def _results(recipe: Recipe, results: Mapping[str, Any] | None) -> Iterator[str]:
    tasks = [*recipe.evaluate.tasks, *(f"perplexity on `{name}`" for name in recipe.evaluate.held_out)]
    if recipe.evaluate.samples is not None:
        tasks.append(f"the diversity of {recipe.evaluate.samples.num:,} texts that each model writes")
    if tasks:
        yield f"The recipe evaluates: {', '.join(tasks)}."
        yield ""
    if results is None:
        yield "None yet: it has not been run in full."
    else:
        yield from markdown(results["arms"])


def _title(trained: Trained) -> str:
    return f"{trained.recipe.name}, arm {trained.arm}, seed {trained.seed}"


def _section(trained: Trained, metrics: Mapping[str, float]) -> str:
    recipe = trained.recipe
    edits = _edits(trained)
    evaluate = recipe.evaluate
    note = f"The tasks ran on the first {evaluate.limit} rows of each." if evaluate.limit and evaluate.tasks else ""
    training = rendered(
        "recipe_model.md.j2",
        recipe=recipe.name,
        method=_method(recipe),
        arm=trained.arm,
        seed=trained.seed,
        model=_model(recipe, trained.revisions),
        data=[_told(data, trained.revisions) for data in recipe.data],
        edits=_what(recipe, trained.arm, recipe.arms[trained.arm], trained.seed),
        settings=_settings(recipe),
        metrics=[(name, number(value)) for name, value in metrics.items()],
        note=note,
    )
    if not edits:
        return training
    sources = [source for data in recipe.data if (source := _on_hub(data, trained.revisions))]
    return f"{training}\n{model_card_section(edits, sources, _base_model(recipe))}"


def _edits(trained: Trained) -> list[TrainingEdit]:
    """The edits of the data, and those in training."""
    in_training = restored(read_json(trained.folder / LOG).get(EDITS))
    return [*map(_edit, trained.edits), *(edit for of_one in in_training for edit in of_one)]


def _edit(folder: Path) -> TrainingEdit:
    path = folder / STATS
    stats = read_json(path)
    try:
        tokens = {field.name: stats[field.name] for field in dataclasses.fields(TokenStats)}
        tokens["histogram"] = tuple(tokens["histogram"])
        return TrainingEdit(stats["run"], count(stats["statuses"], TokenStats(**tokens)))
    except (LookupError, TypeError, AttributeError) as error:
        raise broken(path, f"it has no {error}") from error


def _metadata(trained: Trained) -> Fields:
    sources = [source for data in trained.recipe.data if (source := _on_hub(data, trained.revisions))]
    arm = trained.recipe.arms[trained.arm]
    is_edited = trained.edits or arm.truncate or arm.select
    return {**_about(trained.recipe, sources), "tags": list(TAGS) if is_edited else []}


def _about(recipe: Recipe, sources: Sequence[Source]) -> Fields:
    return {
        "base_model": _base_model(recipe),
        "datasets": list(dict.fromkeys(source.id for source in sources)),
        "library_name": "peft" if recipe.lora is not None else "transformers",
        "pipeline_tag": "text-generation",
    }


def _is_local(name: str) -> bool:
    return name == DEMO or Path(name).exists() or Source(name).is_local or name.startswith(PREPARED)


def _base_model(recipe: Recipe) -> str | None:
    return None if recipe.model.id is None or _is_local(recipe.model.id) else recipe.model.id


def _on_hub(data: Data, revisions: Mapping[str, str | None] | None = None) -> Source | None:
    if _is_local(data.source):
        return None
    return Source(data.source, (revisions or {}).get(data.source) or data.revision, data.subset)


def _method(recipe: Recipe) -> str:
    return METHODS[recipe.kind] + (" of LoRA adapters" if recipe.lora is not None else "")


def _model(recipe: Recipe, revisions: Mapping[str, str | None]) -> str:
    name = recipe.model.id
    if name is None:
        return f"a new `{(recipe.model.config or {}).get('model_type')}` with random weights"
    if name == DEMO:
        return prior_link({"prior": DEMO})
    if _is_local(name):
        return f"{as_code(bare_name(name))}, a local folder"
    return link(Source(name, revisions.get(name) or recipe.model.revision))


def _told(data: Data, revisions: Mapping[str, str | None]) -> str:
    """One source of a recipe's data, in words."""
    source = _on_hub(data, revisions)
    parts = [link(source, "datasets/") if source else f"{as_code(bare_name(data.source))}, a local file"]
    parts += [f"subset `{data.subset}`"] if data.subset else []
    parts.append(f"split `{data.split}`")
    parts += [f"rows where {as_code(name)} is {as_code(str(value))}" for name, value in data.where.items()]
    parts += [f"{data.limit:,} rows"] if data.limit else []
    parts += [f"{data.characters:,} characters"] if data.characters else []
    parts += [] if data.edit else ["not edited"]
    return ", ".join(parts)


def _what(recipe: Recipe, name: str, arm: Arm, seed: int | None = None) -> str:
    config = recipe.arm_config(name, arm, seed)
    if arm.truncate:
        asked = "the model in training" if arm.truncate == "self" else "the prior"
        return what_it_selects(without_eligible(config)).replace("the prior", asked)
    if arm.select is not None:
        kept = what_it_selects(as_selection(arm.select))
        return kept if config.strategy == "none" else f"{what_it_does(config)} {kept}"
    if config.strategy == "none":
        return "Nothing is edited."
    again = f" The output is edited again, for {arm.generations} rounds in all." if arm.generations > 1 else ""
    return what_it_does(config) + again


def _settings(recipe: Recipe) -> str:
    """The settings of the training as YAML, without secrets and without the paths of files here."""
    settings: Fields = {"train": recipe.train}
    if recipe.lora is not None:
        settings["lora"] = recipe.lora
    if recipe.model.config is not None:
        settings["model"] = {"tokenizer": recipe.model.tokenizer, "config": recipe.model.config}
    if recipe.edit.config:
        settings["edit"] = recipe.edit.config
    shown = yaml.safe_dump(_without_paths(without_secrets(settings)), sort_keys=False)
    return shown.strip()


def _without_paths(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_paths(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_without_paths(value) for value in tree]
    return Path(tree).name if isinstance(tree, str) and tree and Path(tree).exists() else tree
