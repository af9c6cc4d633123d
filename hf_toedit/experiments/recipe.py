"""The fields of a recipe: data, prior, arms, training, evaluation."""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Mapping
from typing import Any, Literal

from ..arguments import as_selection, check_base
from ..editing.config import ToEditConfig
from ..errors import ConfigError, nearest
from .contrasts import Planned

Row = Mapping[str, Any]
Fields = dict[str, Any]  # YAML or JSON: options of a library, or the fields of a class below
Kind = Literal["sft", "cpt", "pt"]
CONVERSATIONS = ("messages", "conversations")
LONGEST_NAME = 200  # bytes, of the 255 that file systems allow
BUFFER = 10_000  # rows of a stream that are shuffled together
OF_THE_RUN = {"seed": "seeds", "output_dir": "--output"}


@dataclasses.dataclass(frozen=True)
class Data:
    """Rows of one SOURCE (as on the command line), in the columns that training reads.

    columns: new column -> its contents, with `{}` around columns of the source: `"Question: {input}\\n"`, or
        `"{messages[0][content]}"`. A bare `"{name}"` keeps the value as it is, even a list. Default: the column `text`;
        for held-out rows, the columns of the training data.
    where: keep only rows in which a field has this value, or one of a list: `{"meta[pile_set_name]": ArXiv}`.
    limit: take this many of these rows. characters: take rows until they hold this many characters.
    sample_seed: `limit` and `characters` first shuffle the split with this seed; null takes its first rows.
    edit: false passes the rows through every arm unedited; `random` doesn't count their tokens either.
    stream: read no more of a Hub dataset, or of a folder of data files, than needed. It is shuffled file by file
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
        fields = [part for value in self.columns.values() for part in string.Formatter().parse(value)]
        names = [name for _, name, _, _ in fields if name]
        return list(dict.fromkeys(re.split(r"[.\[]", name)[0] for name in (*names, *self.where)))

    def matches(self, row: Row) -> bool:
        """Whether a row of the source matches `where`."""
        try:
            values_of = {name: string.Formatter().get_field(name, (), row)[0] for name in self.where}
        except (LookupError, TypeError, AttributeError):
            return False
        return all(values_of[name] in _listed(values) for name, values in self.where.items())


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


@dataclasses.dataclass(frozen=True)
class Model:
    """The model to train: a pretrained one (`id`), or a new one with random weights (`config` and `tokenizer`)."""

    id: str | None = None
    revision: str | None = None
    tokenizer: str | None = None
    config: Fields | None = None

    def __post_init__(self) -> None:
        if (self.id is None) == (self.config is None) or (self.config is not None and self.tokenizer is None):
            raise ConfigError("model needs either an id, or a config and a tokenizer (for random weights)")
        if self.config is not None and "model_type" not in self.config:
            raise ConfigError("model.config needs a model_type, such as llama")


@dataclasses.dataclass(frozen=True)
class PriorChoice:
    """The prior. options: passed to TransformersPrior or, with `backend: vllm`, to VLLMPrior."""

    id: str
    revision: str | None = None
    backend: Literal["transformers", "vllm"] = "transformers"
    options: Fields = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EditSettings:
    """How rows are edited. config: fields of ToEditConfig. The rest is as in ToEditTransform and `map`.

    per_seed: draw new edits for each training seed, so that intervals over seeds also include this randomness.
    """

    columns: list[str] | None = None
    context: list[str] | None = None
    roles: list[str] | None = None
    chat_template: str | None = None
    config: Fields = dataclasses.field(default_factory=dict)
    stats: Literal["sampled", "full"] = "sampled"
    batch_size: int = 1000
    num_proc: int = 1
    per_seed: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_proc"):
            if getattr(self, name) < 1:
                raise ConfigError(f"edit.{name}={getattr(self, name)} must be at least 1")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to treat the data. fields: those of ToEditConfig. generations: how many times the data is edited.

    truncate: take eligible tokens out of the loss (truncated cross-entropy), as judged by the model itself (`self`, as
    in arXiv 2509.08972) or by the prior (`prior`).
    select: fields of LossSelection: keep only some tokens in the loss, judged by the prior before the training; `base`
        is what it is compared with, for `share` and `min_excess`. It needs `piece_tokens`.
    control: the arm that the report compares this one with, in addition to `source`. Default, for an arm that
    resamples: the arm with strategy random and otherwise the same settings, which changes as many tokens.
    """

    fields: Fields
    generations: int = 1
    truncate: Literal["self", "prior"] | None = None
    select: Fields | None = None
    base: PriorChoice | None = None
    control: str | None = None

    def __post_init__(self) -> None:
        if self.generations < 1:
            raise ConfigError(f"generations={self.generations} must be at least 1; strategy: none edits nothing")
        if self.select is not None and self.truncate is not None:
            raise ConfigError("an arm can have select or truncate, not both: select={high: 0.99} truncates")


@dataclasses.dataclass(frozen=True)
class Samples:
    """Texts that the trained model writes, to be measured. num: how many. new_tokens: the length of each.

    All have this length, because measures of diversity depend on how much text there is.
    like: the held-out rows whose n-grams theirs are compared with. Default: the first of `held_out`.
    """

    num: int = 200
    new_tokens: int = 128
    like: str | None = None

    def __post_init__(self) -> None:
        for name in ("num", "new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluate.samples.{name}={getattr(self, name)} must be at least 1")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """held_out: rows to measure perplexity on. samples: texts by the model, to be measured. The rest goes to lm_eval
    (include_path: a folder of YAML tasks)."""

    tasks: list[str] = dataclasses.field(default_factory=list)
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int | str = 8
    include_path: str | None = None
    held_out: dict[str, Data] = dataclasses.field(default_factory=dict)
    samples: Samples | None = None

    def __post_init__(self) -> None:
        like = self.samples and self.samples.like
        if like and like not in self.held_out:
            raise ConfigError(f"evaluate.samples.like={like!r} must be one of held_out{nearest(like, self.held_out)}")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """kind: sft (prompt and completion, or conversations), cpt or pt (text). train: fields of TRL's SFTConfig.

    lora: fields of PEFT's LoraConfig; without it all weights are trained. accelerate: an accelerate config file, for
    training under `accelerate launch`.
    piece_tokens: cut the training text into rows of `input_ids` of this length before the edit, so that all arms train
        on the same rows in the same order, apart from the edits. Arms that delete tokens are cut after it.
    contrasts: the comparisons that the experiment is for, named before it is run. Default: each arm with `source` and
        with its control, on all metrics.
    """

    name: str
    kind: Kind
    model: Model
    prior: PriorChoice
    data: list[Data]
    arms: dict[str, Arm]
    seeds: list[int]
    train: Fields
    edit: EditSettings = dataclasses.field(default_factory=EditSettings)
    evaluate: Evaluate = dataclasses.field(default_factory=Evaluate)
    lora: Fields | None = None
    accelerate: str | None = None
    piece_tokens: int | None = None
    contrasts: Planned | None = None

    def __post_init__(self) -> None:
        data = [dataclasses.replace(source, columns=source.columns or {"text": "{text}"}) for source in self.data]
        if not data or not self.seeds or not self.arms:
            raise ConfigError("the recipe needs at least one of each: data, arms, seeds")
        if len({*self.seeds}) < len(self.seeds):
            raise ConfigError(f"seeds={self.seeds} names a seed twice")
        if not any(source.edit for source in data):
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
        if self.lora is not None and self.model.config is not None:
            raise ConfigError("lora adapts a pretrained model, and model.config makes a new one: set model.id instead")
        for name, instead in OF_THE_RUN.items():
            if name in self.train:
                raise ConfigError(f"train.{name} comes from the run: leave it out, and use {instead}")
        held_out = {
            name: dataclasses.replace(source, columns=source.columns or data[0].columns)
            for name, source in self.evaluate.held_out.items()
        }
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "evaluate", dataclasses.replace(self.evaluate, held_out=held_out))
        shapes = ({"prompt", "completion"}, *({name} for name in CONVERSATIONS)) if self.kind == "sft" else ({"text"},)
        if not all(any(shape <= set(source.columns) for shape in shapes) for source in data):
            wanted = "prompt and completion, or messages" if self.kind == "sft" else "text"
            raise ConfigError(
                f"kind={self.kind!r} trains on {wanted}: set data.columns, such as {{text: '{{content}}'}}"
            )
        for name, arm in self.arms.items():
            self.arm_config(name, arm)
            self._check_selection(name, arm)
            if arm.select is not None and self.piece_tokens is None:
                raise ConfigError(f"arm {name!r}: select writes the labels of tokens, so the recipe needs piece_tokens")
        if self.piece_tokens is not None:
            self._check_pieces(self.piece_tokens)

    @staticmethod
    def _check_selection(name: str, arm: Arm) -> None:
        try:
            check_base(None if arm.select is None else as_selection(arm.select), arm.base)
        except ConfigError as error:
            raise ConfigError(f"arm {name!r}: {error}") from error

    def _check_pieces(self, num_tokens: int) -> None:
        if num_tokens < 2:
            raise ConfigError(f"piece_tokens={num_tokens} must be at least 2")
        if self.kind == "sft" or set(self.data[0].columns) != {"text"}:
            raise ConfigError("piece_tokens cuts texts: use it with kind pt or cpt, and no data.columns but text")
        if self.train.get("packing") or self.shape():
            raise ConfigError("with piece_tokens, leave out train.packing and edit's columns, context and roles")
        max_length = self.train.get("max_length", 1024)  # TRL's default
        if max_length is not None and max_length < num_tokens:
            raise ConfigError(f"train.max_length={max_length} would cut off the pieces: set it to {num_tokens} or null")

    def arm_config(self, name: str, arm: Arm, seed: int | None = None) -> ToEditConfig:
        """The ToEditConfig of an arm, with the training seed if edits are drawn per seed."""
        seeded = {"seed": seed} if self.edit.per_seed and seed is not None else {}
        try:
            return ToEditConfig.from_dict({**self.edit.config, **arm.fields, **seeded})
        except ConfigError as error:
            raise ConfigError(f"arm {name!r}: {error}") from error

    def controls(self) -> dict[str, str]:
        """The control arm that the report compares each arm with, for arms that have one."""
        configs = {name: self.arm_config(name, arm) for name, arm in self.arms.items()}
        controls = {}
        for name, arm in self.arms.items():
            twin = dataclasses.replace(configs[name], strategy="random")
            like = (
                other
                for other, it in self.arms.items()
                if configs[other] == twin and (it.generations, it.truncate) == (arm.generations, arm.truncate)
            )
            control = arm.control or (next(like, None) if configs[name].strategy == "resample" else None)
            if control in self.arms:
                controls[name] = control
        return controls

    def shape(self) -> Fields:
        """The keywords of ToEditTransform that say what is edited, if the recipe sets them."""
        given = {name: getattr(self.edit, name) for name in ("columns", "context", "roles", "chat_template")}
        return {name: value for name, value in given.items() if value is not None}
