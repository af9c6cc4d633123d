"""Check the arguments of ToEditTransform and ToEditCallback; the error for a wrong call shows the right one."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .editing.config import ToEditConfig
from .editing.selection import LossSelection
from .errors import ConfigError, RowError, nearest
from .files.sources import as_dict
from .priors.model_prior import ModelPrior
from .priors.server_prior import VLLMServerPrior
from .priors.transformers_prior import TransformersPrior
from .priors.vllm_prior import VLLMPrior
from .rows.arrow import is_table
from .types import Prior

if TYPE_CHECKING:
    from datasets import DatasetDict

LIVE = ("base", "self")  # priors of ToEditCallback
OF_THE_TRANSFORM = ("columns", "context", "roles", "stats", "stats_column", "tokenizer", "chat_template")
OF_THE_CALLBACK = ("redraw", "select", "base", "corpus")
RAY_CALL = "ds.map_batches(ToEditTransform, batch_format='pyarrow', ...)"
SYNONYMS = {
    **dict.fromkeys(("text_column", "text_columns", "text_field", "dataset_text_field", "column_names"), "columns"),
    **dict.fromkeys(("model", "model_id", "model_name", "model_name_or_path"), "prior"),
    **{"tokenizer_name": "tokenizer", "torch_dtype": "dtype", "num_workers": "num_proc"},
    **dict.fromkeys(("messages_column", "input_column", "prompt_column", "completion_column"), "columns"),
    **{"p": "threshold", "k": "top_k", "beta": "temperature"},
}


def as_prior(prior: object, door: str) -> Prior:
    """Resolve what a user passed as the prior: a Hub id, a folder, "demo", a (model, tokenizer) pair, or a Prior.

    door: ToEditTransform or ToEditCallback, for the message. Raises ConfigError for anything else.
    """
    if isinstance(prior, (str, os.PathLike)):
        if prior in LIVE and not Path(prior).exists():
            raise ConfigError(f"prior={prior!r} is the model in training: only ToEditCallback takes it")
        return TransformersPrior(prior)
    if isinstance(prior, (tuple, list)):
        if len(prior) != 2 or not _is_model(prior[0]):
            raise ConfigError(f"a prior in memory is a pair with the model first: {door}((model, tokenizer))")
        return ModelPrior(*prior)
    wrong = _why_no_prior(prior, door)
    if wrong:
        raise ConfigError(wrong)
    return cast(Prior, prior)


def _why_no_prior(prior: object, door: str) -> str:
    """Say what was passed instead of a prior and what the call should be; empty for a prior."""
    kind = type(prior).__name__
    if isinstance(prior, type):
        return f"prior is the class {prior.__name__}: pass an instance, {prior.__name__}(...)"
    if is_dataset(prior):
        return f"prior is a dataset ({kind}): pass it to map, ds.map(ToEditTransform(prior)), or to the trainer"
    if isinstance(prior, Mapping):
        return "prior is a row: pass map an instance, ds.map(ToEditTransform(prior)), not the class"
    if isinstance(prior, ToEditConfig):
        return f"prior is a ToEditConfig: the prior goes first, {door}(prior, config)"
    if _is_model(prior):
        return f"prior is a model ({kind}) without its tokenizer: {door}((model, tokenizer))"
    if hasattr(prior, "encode") and hasattr(prior, "decode"):
        return f"prior is a tokenizer ({kind}): give a model with it, {door}((model, tokenizer)), or a Hub id"
    if not callable(getattr(prior, "score", None)):
        what = "None" if prior is None else f"a value of type {kind}"
        return f"prior is {what}: give a Hub id, a folder, 'demo', a (model, tokenizer) pair or a Prior object"
    missing = [name for name in ("tokenizer", "max_length", "stride") if not hasattr(prior, name)]
    return f"the prior ({kind}) has no attribute {missing[0]!r}: see hf_toedit.Prior" if missing else ""


def _is_model(value: object) -> bool:
    return hasattr(value, "named_parameters")


def is_dataset(value: object) -> bool:
    """Whether the value is a Dataset from `datasets`, or a dict of them."""
    splits = list(value.values()) if isinstance(value, dict) else [value]
    return bool(splits) and all(hasattr(split, "column_names") and hasattr(split, "map") for split in splits)


def as_config(config: object, given: Mapping[str, object], door: str) -> ToEditConfig:
    """Build the config from a ToEditConfig, a dict of its fields, or None, plus the fields passed as keywords.

    door: ToEditTransform or ToEditCallback, for the message. Raises ConfigError.
    """
    if config is None or isinstance(config, ToEditConfig):
        config = (config or ToEditConfig()).to_dict()
    elif not isinstance(config, Mapping):
        kind, fix = type(config).__name__, f"pass everything else by name, {door}(prior, name=...)"
        raise ConfigError(f"config must be a ToEditConfig or a dict of its fields, not {kind}: {fix}")
    known = {field.name for field in fields(ToEditConfig)}
    for name in [*config, *given]:
        if name not in known:
            raise ConfigError(_unknown(str(name), door))
    return ToEditConfig.from_dict({**config, **given})


def as_selection(selection: object, given: Mapping[str, object] | None = None) -> LossSelection:
    """Build the selection from a LossSelection, a dict of its fields, or None, plus the fields passed as keywords.

    Raises ConfigError.
    """
    if isinstance(selection, LossSelection) or selection is None:
        selection = {} if selection is None else selection.to_dict()
    elif not isinstance(selection, Mapping):
        kind = type(selection).__name__
        raise ConfigError(f"select= must be a LossSelection or a dict of its fields, {{'high': 0.99}}, not {kind}")
    return LossSelection.from_dict({**selection, **(given or {})})


def check_base(selection: LossSelection | None, base: object) -> None:
    """Raise ConfigError if the selection lacks the base it compares the prior with, or has no use for one."""
    compares = selection is not None and selection.compares
    if compares and base is None:
        raise ConfigError("share= and min_excess= compare the prior with a base model: set base= as well")
    if base is not None and not compares:
        raise ConfigError("base= is only compared with the prior for share= or min_excess=: set one, or leave it out")


def _unknown(name: str, door: str) -> str:
    """Say where a keyword of this package or of `map` belongs, or suggest the one that was meant."""
    places = dict(_places(door))
    if name in places and name not in SYNONYMS:
        return f"{name}= belongs to {places[name].format(name) or door + ', by name'}"
    close = [SYNONYMS[name]] if name in SYNONYMS else difflib.get_close_matches(name, places, n=1)
    if not close:
        return f"unknown keyword {name!r}{nearest(name, (known for known, place in places.items() if not place))}"
    place = places[close[0]].format(close[0])
    return f"unknown keyword {name!r}; did you mean {close[0]!r}?" + (f" It belongs to {place}" if place else "")


def _places(door: str) -> Iterator[tuple[str, str]]:
    """Every keyword with the place it belongs to, empty for the door's own keywords. Later entries override."""
    from datasets import Dataset

    for name in list(inspect.signature(Dataset.map).parameters)[2:]:
        yield name, f"map: ds.map({door}(...), {{}}=...)"
    for prior in (VLLMServerPrior, VLLMPrior, TransformersPrior):
        for name in inspect.signature(prior).parameters:
            yield name, f"the prior: {prior.__name__}(model, {{}}=...)"
    doors = {"ToEditTransform": OF_THE_TRANSFORM, "ToEditCallback": OF_THE_CALLBACK}
    for other, names in doors.items():
        yield from ((name, f"{other}({{}}=...)" if other != door else "") for name in names)
    yield from ((field.name, "") for field in fields(ToEditConfig))
    yield from (("prior", ""), ("config", ""))


def as_names(option: str, names: object) -> list[str]:
    """The name or names passed to an option, as a list. Raises ConfigError for anything else."""
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, Sequence) or not all(isinstance(name, str) for name in listed):
        raise ConfigError(f"{option}= must be a name or a list of names, not {type(names).__name__}")
    return list(dict.fromkeys(listed))


def check_type(option: str, value: object, kind: type, what: str) -> None:
    """Raise ConfigError if the value has another type. None is accepted."""
    if value is not None and not isinstance(value, kind):
        raise ConfigError(f"{option}= must be {what}, not {type(value).__name__}")


def as_path(value: object, what: str) -> Path:
    """The path that was passed. Raises ConfigError for anything else. what: its name in the message."""
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError(f"{what} must be a path, not {type(value).__name__}")
    return Path(value)


def as_splits(dataset: object, door: str) -> DatasetDict:
    """A Dataset or a DatasetDict by its splits. Raises RowError for anything else. door: what takes it."""
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    if isinstance(dataset, (IterableDataset, IterableDatasetDict)):
        raise RowError(
            f"{door} needs all rows at once, not a stream: collect them first, "
            "Dataset.from_generator(lambda: iter(edited), features=edited.features)"
        )
    if not isinstance(dataset, (Dataset, DatasetDict)):
        raise RowError(f"{door} takes a Dataset or a DatasetDict, not {type(dataset).__name__}")
    return as_dict(dataset)


def check_rows(rows: object, more: Sequence[object], options: Mapping[str, object]) -> None:
    """Raise RowError unless a transform was called with nothing but rows, as a dict or as a pyarrow Table."""
    if is_dataset(rows):
        raise RowError("a transform takes rows, not a dataset: ds.map(transform, batched=True)")
    is_frame = any(hasattr(rows, name) for name in ("to_pandas", "iloc", "to_arrow"))
    if is_frame and not is_table(rows):
        kind = type(rows).__module__.partition(".")[0]
        fix = "ds.with_format(None).map(transform, batched=True)" if not _in_ray() else RAY_CALL
        raise RowError(f"a transform takes rows as dicts, not as a table of {kind}: {fix}")
    if options:
        name = next(iter(options))
        raise RowError(f"map's fn_kwargs= has no effect on a transform: ToEditTransform(prior, {name}=...)")
    if not is_frame and not isinstance(rows, Mapping):
        raise RowError(
            "a transform takes rows as dicts, not bare values: leave input_columns= out of map, and name the "
            "columns in ToEditTransform(prior, columns=...)"
        )
    if more:
        raise RowError("a transform takes nothing but rows: leave with_indices= and with_rank= out of map")
    if isinstance(rows, dict) and all(hasattr(values, "dtype") for values in rows.values()) and _in_ray():
        raise RowError(f"Ray's numpy batches lose types and nulls: {RAY_CALL}")


def _in_ray() -> bool:
    """Whether this process is one of Ray's actors."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
