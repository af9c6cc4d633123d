"""Which files of a dataset repository hold which rows: the `configs` and `dataset_info` of its card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, SourceError
from ..files.sources import COMPRESSED, FORMATS
from ..rows.column import stats_columns
from .patch_files import PATCH
from .record_file import RECORD
from .repository import DEFAULT, Repository
from .shards import Shards

if TYPE_CHECKING:
    from datasets import Features

BESIDE = "toedit"  # the config of edited rows beside others
NAME = re.compile(r"[\w-][\w.-]*")


def data_folder(config: str) -> str:
    """The folder of a config's files, as `push_to_hub` names it."""
    return "data" if config == DEFAULT else config


def own_file(config: str, name: str) -> str:
    """The path of a file about one config, such as toedit.json."""
    return name if config == DEFAULT else f"{config}/{name}"


def check_config_name(name: str) -> None:
    """Raise ConfigError for what can't be the name of a config."""
    if not NAME.fullmatch(name) or name == "data":
        raise ConfigError(f"config_name={name!r} must consist of letters, digits, -, _ and ., and can't be 'data'")


def choose_config(repository: Repository, given: str | None, *, is_source: bool) -> str:
    """The config to push to: the one given, else `default`, or `toedit` where `default` holds rows of another kind.

    is_source: whether the rows were read from this repository.

    Raises ConfigError for a name that can't be one; SourceError if the config holds rows that nobody edited, which a
    push would overwrite, or if `datasets` could not load the rows beside what the repository holds.
    """
    if given is not None:
        check_config_name(given)
    if PATCH in repository.files:
        raise SourceError(f"{repository.id} holds a patch: push rows to another repository, or set mode='patch'")
    _check_formats(repository)
    other = _read_by_default(repository)
    is_taken = is_source or other is not None or _holds_other_rows(repository, DEFAULT)
    name = given or (BESIDE if is_taken else DEFAULT)
    if name == DEFAULT and other is not None:
        raise SourceError(
            f"load_dataset reads config {other!r} of {repository.id} by default, and there can't be two such configs: "
            "set config_name= to another name"
        )
    if _holds_other_rows(repository, name):
        raise SourceError(
            f"config {name!r} of {repository.id} holds rows without edits, which are not overwritten: "
            "set config_name= to another name"
        )
    return name


def _check_formats(repository: Repository) -> None:
    """`datasets` reads files of one format in a repository: those that `configs` names, or all if it names none."""
    patterns = [pattern for config in repository.configs for pattern in chain(*repository.patterns(config).values())]
    found = list(repository.files_of(patterns) if repository.configs else filter(_suffix, repository.files))
    if other := next((path for path in found if _suffix(path) != ".parquet"), None):
        raise SourceError(
            f"{repository.id} holds files that are not Parquet ({other}), and load_dataset reads only one format per "
            "repository: push to a new repository"
        )
    if found and not repository.configs:
        raise SourceError(
            f"the README.md of {repository.id} has no `configs` that list its data files ({found[0]}): add them there "
            "first, or push to a new repository"
        )


def _suffix(path: str) -> str:
    """The suffix of a data file, without that of its compression; empty for other files."""
    suffixes = [suffix for suffix in PurePosixPath(path).suffixes if suffix not in COMPRESSED]
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else ""


def _read_by_default(repository: Repository) -> str | None:
    """The config that `load_dataset` reads without a config's name, if it is not `default`."""
    configs = repository.configs
    marked = [name for name, entry in configs.items() if entry.get("default")] or [*configs] * (len(configs) == 1)
    return next((name for name in marked if name != DEFAULT), None)


def _holds_other_rows(repository: Repository, config: str) -> bool:
    """Whether a config exists whose rows are not known to be edited."""
    if config not in repository.configs or own_file(config, RECORD) in repository.files:
        return False
    return not stats_columns(repository.info(config).features or {})


def kept_splits(repository: Repository, config: str, shards: Shards) -> list[str]:
    """The splits of a config that a push leaves as they are.

    Raises SourceError if `datasets` could not load them beside the pushed ones, since their columns differ or are not
    known.
    """
    pushed = [info.name for info in shards.splits]
    kept = [split for split in repository.patterns(config) if split not in pushed]
    info = repository.info(config)
    for split in kept:
        if split not in (info.splits or {}) or info.features != _as_in_a_card(shards.features):
            raise SourceError(
                f"split {split!r} of config {config!r} in {repository.id} has other columns than the rows to push, "
                "so that neither could be loaded: push all splits together, or set config_name= to another name"
            )
    return kept


def _as_in_a_card(features: Features) -> Features | None:
    """The features as `dataset_info` can hold them."""
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    data = DatasetCardData()
    DatasetInfosDict({DEFAULT: DatasetInfo(features=features)}).to_dataset_card_data(data)
    return DatasetInfosDict.from_dataset_card_data(data)[DEFAULT].features


def configs_metadata(repository: Repository, config: str, shards: Shards) -> dict[str, Any]:
    """`configs` and `dataset_info` after a push; what the repository's card says about other configs stays."""
    from datasets import DatasetInfo, SplitDict
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    kept = kept_splits(repository, config, shards)
    patterns, before = repository.patterns(config), repository.info(config)
    splits = SplitDict()
    for part in [*((before.splits or {})[split] for split in kept), *shards.splits]:
        splits.add(part)
    kept_files = repository.files_of(pattern for split in kept for pattern in patterns[split])
    download_size = sum(kept_files.values()) + sum(shards.sizes.values())
    dataset_size = sum(part.num_bytes for part in splits.values())
    info = DatasetInfo(features=shards.features, splits=splits, download_size=download_size, dataset_size=dataset_size)
    data = DatasetCardData(dataset_info=repository.metadata.get("dataset_info"))
    with repository.readable("`dataset_info`"):
        DatasetInfosDict({config: info}).to_dataset_card_data(data)
    files = {split: patterns[split] for split in kept}
    files |= {info.name: [f"{data_folder(config)}/{info.name}-*"] for info in shards.splits}
    return {"configs": _with_config(repository.configs, config, files), "dataset_info": data["dataset_info"]}


def _with_config(
    configs: Mapping[str, Mapping[str, Any]], config: str, files: Mapping[str, list[str]]
) -> list[dict[str, Any]]:
    """The entries of `configs` with that of one config, new or replaced.

    What `load_dataset` read without a config's name before, it still does.
    """
    entries = {name: dict(entry) for name, entry in configs.items()}
    if len(entries) == 1 and not entries.keys() & {config, DEFAULT}:
        [only] = entries.values()
        only["default"] = True
    entry = {name: value for name, value in entries.get(config, {}).items() if name != "features"}
    data_files = [{"split": split, "path": paths[0] if len(paths) == 1 else paths} for split, paths in files.items()]
    entries[config] = {"config_name": config, **entry, "data_files": data_files}
    return list(entries.values())


def stale_shards(repository: Repository, config: str, shards: Shards) -> list[str]:
    """The files of the pushed splits from earlier pushes that the new shards do not replace."""
    splits = "|".join(re.escape(info.name) for info in shards.splits)
    own = re.compile(rf"{re.escape(data_folder(config))}/({splits})-\d{{5}}-of-\d{{5}}\.parquet")
    return sorted(path for path in repository.files if own.fullmatch(path) and path not in shards.sizes)
