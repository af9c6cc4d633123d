"""Recipes: an experiment as a YAML file: data, prior, arms, training, and what is measured."""

from __future__ import annotations

import dataclasses
import re
import string
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ..editing.config import ToEditConfig
from ..errors import ConfigError, nearest
from ..files.secret import with_secrets
from ..files.yamls import load_yaml, read_fields, yaml_problem

Kind = Literal["sft", "cpt", "pt"]
BUILT_IN: dict[str, dict[str, Any]] = {
    "source": {"strategy": "none"},
    "toedit": {"strategy": "resample"},
    "random": {"strategy": "random"},
    "drop": {"strategy": "drop"},
    "tce": {"strategy": "none", "truncate": "self"},
}
ARM_KEYS = ("generations", "truncate", "control")  # besides fields of ToEditConfig
BUNDLED = Path(__file__).parent / "recipes"
NO_RECIPES = ("accelerate", "tasks")  # folders in there that recipes refer to
CONVERSATIONS = ("messages", "conversations")
LONGEST_NAME = 200  # bytes, of 255 that file systems take
BUFFER = 10_000  # rows of a stream that are shuffled together
OF_THE_RUN = {"seed": "seeds", "output_dir": "--output"}


@dataclasses.dataclass(frozen=True)
class Data:
    """Rows of one SOURCE (as on the command line), in the columns that training reads.

    columns: new column -> what it holds, with `{}` around columns of the source: `"Question: {input}\\n"`, also
        `"{messages[0][content]}"`. A lone `"{name}"` keeps the value as it is, a list too. Default: the column `text`;
        of held-out rows, those of the training data.
    where: only rows in which these fields have this value, or one of these: `{"meta[pile_set_name]": ArXiv}`.
    limit: so many of these rows. characters: as many as it takes to hold so many characters.
    sample_seed: `limit` and `characters` take rows of the split shuffled with this seed; null takes its first rows.
    edit: false lets the rows pass through every arm unedited; `random` doesn't count their tokens either.
    stream: read no more of a Hub dataset, or of a folder of data files, than is asked for. It is shuffled file by file
        and through a buffer of BUFFER rows.
    """

    source: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    where: dict[str, Any] = dataclasses.field(default_factory=dict)
    limit: int | None = None
    characters: int | None = None
    sample_seed: int | None = 0
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    edit: bool = True
    stream: bool = False

    def __post_init__(self) -> None:
        try:
            self.fields()
        except ValueError as error:
            raise ConfigError(f"data.columns={self.columns!r}: {error}; write {{{{ for a brace") from error
        for name, low in (("limit", 1), ("characters", 1), ("sample_seed", 0)):
            value = getattr(self, name)
            if value is not None and not low <= value < 2**63:
                raise ConfigError(f"data.{name}={value} must be at least {low}")
        for name, values in self.where.items():
            if not _listed(values) or any(isinstance(value, (dict, list)) for value in _listed(values)):
                raise ConfigError(f"data.where: {name!r} needs a value, or a list of values, to match")
        if self.stream and not self.is_cut:
            raise ConfigError(
                "data.stream needs a limit, or characters: without either the whole dataset would be downloaded"
            )
        if self.stream and "[" in self.split:
            raise ConfigError(f"data.split={self.split!r}: a stream can't be cut into parts; name the whole split")

    @property
    def is_cut(self) -> bool:
        return self.limit is not None or self.characters is not None

    def fields(self) -> list[str]:
        """The source's columns that `columns` and `where` need."""
        parts = [part for value in self.columns.values() for part in string.Formatter().parse(value)]
        names = [name for _, name, _, _ in parts if name]
        return list(dict.fromkeys(re.split(r"[.\[]", name)[0] for name in (*names, *self.where)))

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the source is one that `where` asks for."""
        try:
            found = {name: string.Formatter().get_field(name, (), row)[0] for name in self.where}
        except (LookupError, TypeError, AttributeError):
            return False
        return all(found[name] in _listed(values) for name, values in self.where.items())


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@dataclasses.dataclass(frozen=True)
class Model:
    """The model to train: a pretrained one (`id`), or a new one with random weights (`config` and `tokenizer`)."""

    id: str | None = None
    revision: str | None = None
    tokenizer: str | None = None
    config: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.id is None) == (self.config is None) or (self.config is not None and self.tokenizer is None):
            raise ConfigError("model needs either an id, or a config and a tokenizer (for random weights)")
        if self.config is not None and "model_type" not in self.config:
            raise ConfigError("model.config needs a model_type, such as llama")


@dataclasses.dataclass(frozen=True)
class PriorChoice:
    """The prior: `options` go to TransformersPrior, or, with `backend: vllm`, to VLLMPrior."""

    id: str
    revision: str | None = None
    backend: Literal["transformers", "vllm"] = "transformers"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Edit:
    """How rows are edited. config: fields of ToEditConfig. The rest as in ToEditTransform and `map`.

    per_seed: draw new edits for each training seed, so that intervals over seeds include this randomness too.
    """

    columns: list[str] | None = None
    context: list[str] | None = None
    roles: list[str] | None = None
    chat_template: str | None = None
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    stats: Literal["sampled", "full"] = "sampled"
    batch_size: int = 1000
    num_proc: int = 1
    per_seed: bool = False


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to treat the data. fields: of ToEditConfig. generations: how often the data is edited.

    truncate: take eligible tokens out of the loss (truncated cross-entropy), those of the model itself (`self`, as in
    arXiv 2509.08972) or of the prior (`prior`).
    control: the arm that the report compares this one with, besides `source`. Default: of an arm that resamples, the
    one with strategy random and the same settings otherwise, which changes as many tokens.
    """

    fields: dict[str, Any]
    generations: int = 1
    truncate: Literal["self", "prior"] | None = None
    control: str | None = None

    def __post_init__(self) -> None:
        if self.generations < 1:
            raise ConfigError(f"generations={self.generations} must be at least 1; strategy: none edits nothing")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """held_out: rows to take the perplexity of. The rest is lm_eval's (include_path: a folder of tasks as YAML)."""

    tasks: list[str] = dataclasses.field(default_factory=list)
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int | str = 8
    include_path: str | None = None
    held_out: dict[str, Data] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """kind: sft (prompt and completion, or conversations), cpt or pt (text). train: fields of TRL's SFTConfig.

    lora: fields of PEFT's LoraConfig; without it all weights are trained. accelerate: a config file of accelerate, to
    train under `accelerate launch`.
    """

    name: str
    kind: Kind
    model: Model
    prior: PriorChoice
    data: list[Data]
    arms: dict[str, Arm]
    seeds: list[int]
    train: dict[str, Any]
    edit: Edit = dataclasses.field(default_factory=Edit)
    evaluate: Evaluate = dataclasses.field(default_factory=Evaluate)
    lora: dict[str, Any] | None = None
    accelerate: str | None = None

    def __post_init__(self) -> None:
        data = [dataclasses.replace(one, columns=one.columns or {"text": "{text}"}) for one in self.data]
        if not data or not self.seeds or not self.arms:
            raise ConfigError("the recipe needs at least one of each: data, arms, seeds")
        if not any(one.edit for one in data):
            raise ConfigError(
                "data: each source has edit: false, so nothing is left to edit; use an arm of strategy none"
            )
        for folder in (self.name, *self.arms, *self.evaluate.held_out):
            if not re.fullmatch(r"\w[\w.-]*", folder) or len(folder.encode()) > LONGEST_NAME:
                shown = repr(folder) if len(folder) <= LONGEST_NAME else f"of {len(folder)} characters"
                rule = f"letters, digits and . - _, at most {LONGEST_NAME} bytes"
                raise ConfigError(f"the name {shown} must be {rule}: it names a folder")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise ConfigError(f"seeds={self.seeds} must be integers in [0, 2^32)")
        for name, instead in OF_THE_RUN.items():
            if name in self.train:
                raise ConfigError(f"train.{name} comes from the run: leave it out, and use {instead}")
        held_out = {
            name: dataclasses.replace(one, columns=one.columns or data[0].columns)
            for name, one in self.evaluate.held_out.items()
        }
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "evaluate", dataclasses.replace(self.evaluate, held_out=held_out))
        shapes = ({"prompt", "completion"}, *({name} for name in CONVERSATIONS)) if self.kind == "sft" else ({"text"},)
        if not all(any(shape <= set(one.columns) for shape in shapes) for one in data):
            wanted = "prompt and completion, or messages" if self.kind == "sft" else "text"
            raise ConfigError(
                f"kind={self.kind!r} trains on {wanted}: set data.columns, such as {{text: '{{content}}'}}"
            )
        for name, arm in self.arms.items():
            self.arm_config(name, arm)

    def arm_config(self, name: str, arm: Arm, seed: int | None = None) -> ToEditConfig:
        """The ToEditConfig of an arm, for a training seed if edits are drawn per seed."""
        own = {"seed": seed} if self.edit.per_seed and seed is not None else {}
        try:
            return ToEditConfig.from_dict({**self.edit.config, **arm.fields, **own})
        except ConfigError as error:
            raise ConfigError(f"arm {name!r}: {error}") from error

    def controls(self) -> dict[str, str]:
        """Of each arm that has one, the control that the report compares it with."""
        configs = {name: self.arm_config(name, arm) for name, arm in self.arms.items()}
        found = {}
        for name, arm in self.arms.items():
            twin = dataclasses.replace(configs[name], strategy="random")
            like = (
                other
                for other, own in self.arms.items()
                if configs[other] == twin and (own.generations, own.truncate) == (arm.generations, arm.truncate)
            )
            control = arm.control or (next(like, None) if configs[name].strategy == "resample" else None)
            if control in self.arms:
                found[name] = control
        return found

    def shape(self) -> dict[str, Any]:
        """Keywords of ToEditTransform that say what is edited; where none is given it goes by the columns."""
        own = {name: getattr(self.edit, name) for name in ("columns", "context", "roles", "chat_template")}
        return {name: value for name, value in own.items() if value is not None}


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe, with `name.of.field=value` overrides.

    path: a YAML file, a folder with a `recipe.yaml`, or, where there is neither, the name of a bundled recipe.

    Paths in it are relative to its file where such a file exists, else to the working folder. Raises ConfigError.
    """
    file = _recipe_file(path)
    tree = read_fields(file, "kind: sft")
    folder = file.resolve().parent.name
    tree.setdefault("name", folder if file.stem == "recipe" else f"{folder}-{file.stem}")
    for override in overrides:
        _override(tree, override)
    tree = with_secrets(tree)
    tree["arms"] = read_arms(tree.get("arms", list(BUILT_IN)))
    recipe: Recipe = convert(Recipe, tree, "")
    for name, arm in recipe.arms.items():
        if arm.control and (arm.control not in recipe.arms or arm.control == name):
            others = [other for other in recipe.arms if other != name]
            raise ConfigError(
                f"arm {name!r}: control={arm.control!r} must be another arm{nearest(arm.control, others)}"
            )
    return _beside(recipe, file.parent)


def bundled_recipes() -> dict[str, Path]:
    """The files of the recipes that come with the package, by name: `small`, `olmo-1b/cpt-math`."""
    files = [file for file in sorted(BUNDLED.glob("*/*.yaml")) if file.parent.name not in NO_RECIPES]
    return {file.parent.name if file.stem == "recipe" else f"{file.parent.name}/{file.stem}": file for file in files}


def _recipe_file(path: Path) -> Path:
    """The file that a path means, or else the name of a bundled recipe."""
    if path.is_file():
        return path
    if (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    bundled = {} if path.exists() else bundled_recipes()
    name = path.as_posix().removesuffix(".yaml")
    if name in bundled:
        return bundled[name]
    found = sorted(map(str, path.glob("*.yaml"))) or [other for other in bundled if other.startswith(f"{name}/")]
    if found:
        raise ConfigError(f"{str(path)!r} holds {len(found)} recipes, name one: {', '.join(found)}")
    known = nearest(name, bundled) if bundled else ""
    raise ConfigError(f"there is no recipe {str(path)!r}{known}; give a YAML file, or a folder with a recipe.yaml")


def read_arms(given: Any) -> dict[str, Any]:
    """Arms as a mapping of name to settings, from names, mappings, or a list of both; the built-in ones filled in."""
    entries: list[tuple[str, Any]] = []
    for item in given if isinstance(given, list) else [given]:
        entries += (
            [(item, {})] if isinstance(item, str) else list(item.items()) if isinstance(item, dict) else [("", 0)]
        )
    arms: dict[str, Any] = {}
    for name, own in entries:
        if not name or not isinstance(own or {}, dict):
            raise ConfigError(f"arms={given!r} must be a list of names, or a mapping of names to config fields")
        settings = {**BUILT_IN.get(name, {}), **(own or {})}
        arm = {key: settings.pop(key) for key in ARM_KEYS if key in settings}
        known = [field.name for field in dataclasses.fields(ToEditConfig)]
        for key in settings:
            if key not in known:
                close = nearest(str(key), [*known, *ARM_KEYS])
                raise ConfigError(f"arm {name!r}: unknown key {key!r}{close}")
        arms[name] = {**arm, "fields": settings}
    return arms


def chosen_arms(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe with these arms alone: its own, or the built-in ones."""
    arms = dict(recipe.arms)
    for name in names:
        if name not in arms and name not in BUILT_IN:
            raise ConfigError(f"no arm {name!r}{nearest(name, {*arms, *BUILT_IN})}")
        arms.setdefault(name, convert(Arm, read_arms(name)[name], f"arms.{name}"))
    return dataclasses.replace(recipe, arms={name: arms[name] for name in names or arms})


def _override(tree: Any, override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals:  # what is no name may be a token
        shown = f" {override!r}" if re.fullmatch(r"[a-z_.]+", override) else ""
        raise ConfigError(f"--set{shown} must read name=value, such as train.max_steps=100")
    *parents, last = path.split(".")
    for name in parents:
        try:
            tree = tree[int(name)] if isinstance(tree, list) else tree.setdefault(name, {})
        except (LookupError, ValueError, AttributeError) as error:
            raise ConfigError(f"--set {path!r}: the recipe has no {name!r} there") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"--set {path!r}: the recipe has no {last!r} there")
    try:
        tree[last] = load_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {path!r}: the value is not valid YAML: {yaml_problem(error)}") from error


def convert(kind: Any, value: Any, where: str) -> Any:
    """A YAML value as a type: a dataclass (unknown keys are errors), a list, a mapping, a choice, a number, a string.

    A lone value may stand for a list of one, and a string for a dataclass with the string as its first field.
    Raises ConfigError with the place.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _convert_fields(kind, value, where)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is list:
        values = value if isinstance(value, list) else [value]
        return [convert(arguments[0], item, f"{where}.{i}") for i, item in enumerate(values)]
    if origin is dict and isinstance(value, dict):
        return {str(name): convert(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}={value!r} is unknown{nearest(str(value), map(str, arguments))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    is_of_kind = not isinstance(kind, type) or (
        isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    )
    if origin is dict or not is_of_kind:
        name = {
            "dict": "a mapping",
            "int": "an integer",
            "float": "a number",
            "str": "a string",
            "bool": "true or false",
        }
        what = name.get((origin or kind).__name__, f"of type {kind}")
        raise ConfigError(f"{where}={value!r} must be {what}")
    return value


def _convert_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if type(value) in kinds:  # "all-linear" of a list or a string is no list of one
        return value
    first: ConfigError | None = None
    for kind in (kind for kind in kinds if kind is not type(None)):
        try:
            return convert(kind, value, where)
        except ConfigError as error:
            first = first or error
    raise first or ConfigError(f"{where}={value!r} must be empty")


def _convert_fields(kind: Any, value: Any, where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if isinstance(value, str):
        value = {next(iter(fields)): value}
    if not isinstance(value, dict):
        raise ConfigError(f"{where or 'the recipe'}={value!r} must be a mapping with some of {', '.join(fields)}")
    checked = convert_keys(kind, value, where)
    for name, field in fields.items():
        is_needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if is_needed and name not in checked:
            raise ConfigError(f"the recipe has no {where + '.' if where else ''}{name}: add it")
    return kind(**checked)


def convert_keys(kind: Any, value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping with its values converted to the types of a dataclass' fields; an unknown key is an error."""
    hints = get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind) if field.init]
    prefix = f"{where}." if where else ""
    for name in value:
        if name not in known:
            close = nearest(str(name), known) or f"; see the fields of {kind.__name__}"
            raise ConfigError(f"unknown key {prefix + str(name)!r}{close}")
    return {name: convert(hints[name], item, prefix + name) for name, item in value.items()}


def _beside(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with paths that exist beside its file made relative to the working folder."""

    def path(value: str | None) -> str | None:
        return str(folder / value) if value and (folder / value).exists() else value

    def data(one: Data) -> Data:
        return dataclasses.replace(one, source=path(one.source) or "")

    held_out = {name: data(one) for name, one in recipe.evaluate.held_out.items()}
    model = dataclasses.replace(recipe.model, id=path(recipe.model.id), tokenizer=path(recipe.model.tokenizer))
    return dataclasses.replace(
        recipe,
        model=model,
        prior=dataclasses.replace(recipe.prior, id=path(recipe.prior.id) or ""),
        data=[data(one) for one in recipe.data],
        accelerate=path(recipe.accelerate),
        evaluate=dataclasses.replace(
            recipe.evaluate, include_path=path(recipe.evaluate.include_path), held_out=held_out
        ),
    )
