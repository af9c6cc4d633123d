"""A dataset repository on the Hub before a push: its card, its files, and who may see it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import SourceError, any_of, one_clear_line
from ..files.outputs import scratch_folder
from .failures import hub_errors
from .merging import front_matter
from .uploads import check_name, persistently, read_card

if TYPE_CHECKING:
    from datasets import DatasetInfo

DEFAULT = "default"  # the config of a repository that has only one
SHARD = re.compile(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}\.parquet")


@dataclasses.dataclass(frozen=True)
class Repository:
    """A dataset repository before a push. Without card and files it is new.

    id: its id on the Hub. card: its README.md, if it has one. files: the size of each file, in bytes. commit: the one
    that was read. is_public: whether everybody may see it.
    """

    id: str
    card: str | None = None
    files: Mapping[str, int] = dataclasses.field(default_factory=dict)
    commit: str | None = None
    is_public: bool = False

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The front matter of the card. Raises SourceError if it isn't valid."""
        with self.readable("front matter"):
            return dict(yaml.safe_load(front_matter(self.card or "")) or {})

    @cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The entries of `configs` by name; without any, that of files which `datasets` finds by their names."""
        with self.readable("`configs`"):
            given = self.metadata.get("configs") or self._found_configs()
            return {entry.get("config_name", DEFAULT): entry for entry in given}

    def _found_configs(self) -> list[dict[str, Any]]:
        splits = dict.fromkeys(found[1] for path in sorted(self.files) if (found := SHARD.fullmatch(path)))
        files = [{"split": split, "path": f"data/{split}-*"} for split in splits]
        return [{"config_name": DEFAULT, "data_files": files}] if files else []

    def patterns(self, config: str) -> dict[str, list[str]]:
        """The patterns of a config's files, by split; none for a config without `data_files`."""
        from datasets.data_files import sanitize_patterns

        with self.readable("`configs`"):
            found = sanitize_patterns(self.configs.get(config, {}).get("data_files") or {})
        return {split: [*patterns] for split, patterns in found.items()}

    def info(self, config: str) -> DatasetInfo:
        """What `dataset_info` says about a config; all of it None if it says nothing."""
        from datasets import DatasetInfo
        from datasets.info import DatasetInfosDict
        from huggingface_hub import DatasetCardData

        with self.readable("`dataset_info`"):
            data = DatasetCardData(dataset_info=self.metadata.get("dataset_info"))
            return DatasetInfosDict.from_dataset_card_data(data).get(config) or DatasetInfo()

    def files_of(self, patterns: Iterable[str]) -> dict[str, int]:
        """The files that match one of the patterns, with their sizes."""
        whole = [pattern.removeprefix("**/") for pattern in patterns]
        return {path: size for path, size in self.files.items() if any(fnmatchcase(path, one) for one in whole)}

    def readable(self, what: str) -> one_clear_line:
        """Turn the errors that a broken card causes into a SourceError."""
        broken = any_of(ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError)
        line = f"the {what} of {self.id}'s README.md is not valid"
        return one_clear_line(SourceError, line, "correct it on the Hub first", catches=broken)


def look_at(repo_id: str, *, revision: str | None = None, token: str | bool | None = None) -> Repository:
    """A dataset repository as it is now. A branch that doesn't exist yet will start from `main`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(token=token)
    with hub_errors(repo_id):
        check_name(repo_id)
        try:
            info = persistently(partial(api.dataset_info, repo_id, revision=revision))
        except RevisionNotFoundError:
            info = persistently(partial(api.dataset_info, repo_id))
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return Repository(repo_id)
        tree = partial(api.list_repo_tree, info.id, repo_type="dataset", revision=info.sha, recursive=True)
        files = {entry.path: entry.size for entry in persistently(lambda: list(tree())) if isinstance(entry, RepoFile)}
    card = read_card(info.id, revision=info.sha, token=token)
    return Repository(info.id, card, files, info.sha, is_public=not info.private)


def read_file(repository: Repository, path: str, token: str | bool | None = None) -> str:
    """The text of a file. Raises SourceError if it can't be read."""
    from huggingface_hub import HfApi

    with hub_errors(repository.id, "read"), scratch_folder() as scratch:
        file = HfApi(token=token).hf_hub_download(
            repository.id, path, repo_type="dataset", revision=repository.commit, local_dir=scratch
        )
        return Path(file).read_text(encoding="utf-8")


def check_access(repository: Repository, *, private: bool, token: str | bool | None = None) -> None:
    """Raise SourceError for what would stop an upload, before its files are written."""
    from huggingface_hub import get_token

    if not isinstance(token, str) and get_token() is None:
        raise SourceError(
            f"can't push to {repository.id!r}: you are not logged in; run `hf auth login` or set HF_TOKEN"
        )
    if private and repository.is_public:
        raise SourceError(
            f"dataset {repository.id!r} is public already: pass private=False to publish there, or make it private in "
            "its settings on the Hub"
        )
