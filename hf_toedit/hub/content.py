"""What is pushed, as files in a folder: rows or a patch, their record and statistics, and the card."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from ..arguments import as_splits
from ..editing.stats import DatasetStats, summarize
from ..errors import ConfigError, RowError, ToEditWarning, nearest
from ..files.sources import full_splits
from ..measure.identity import fits
from ..report.files import HISTOGRAM, STATS, write_json, write_report, write_whole
from ..report.measurements import MEASUREMENTS, STALE
from ..rows.provenance import without_paths
from .commands import Home
from .configs import configs_metadata, data_folder, kept_splits, own_file
from .dataset_card import dataset_card, source_metadata, terms_of
from .failures import hub_errors
from .licences import Combined
from .merging import CARD
from .patches import write_patch
from .record_file import RECORD, recorded_source, write_record
from .records import DatasetEdit, Edits, Record, edits_of
from .repository import DEFAULT, Repository
from .shards import SPLIT, Shards, shards_in, write_shards
from .source import Source, source_of
from .tables import Excerpt, excerpt_of

if TYPE_CHECKING:
    from datasets import DatasetDict

Mode = Literal["full", "patch"]


@dataclasses.dataclass(frozen=True)
class Content:
    """What is pushed: an edited dataset, as rows or as a patch of its source.

    edits: all edits in the rows. stats: of all splits. excerpt: what the card shows of the rows.
    licences: those of source and priors.
    measurements: what `hf-toedit measure` found in the rows.
    splits: the rows of each split; None for those that are in shards already.
    """

    edits: Sequence[DatasetEdit]
    stats: DatasetStats
    excerpt: Excerpt
    source: Source | None
    licences: Combined
    splits: DatasetDict | None = None
    is_patch: bool = False
    token: str | bool | None = None
    measurements: Record | None = None

    def with_measurements(self, record: Record | None) -> Content:
        """The same with measurements; without them, and with a warning, if they are about other rows."""
        if record is None or self.is_patch or self.splits is None:
            return self
        if not fits(record, self.splits):
            warnings.warn(STALE, ToEditWarning, stacklevel=3)
            return self
        return dataclasses.replace(self, measurements=record)

    def write_rows(self, folder: Path, config: str) -> Shards:
        """Write the rows of a config, or the patch."""
        assert self.splits is not None
        if not self.is_patch or self.source is None:
            return write_shards(self.splits, folder, data_folder(config))
        write_patch(self.splits, folder, self.edits, _pinned(self.source, self.token), token=self.token)
        return shards_in(folder, data_folder(DEFAULT))

    def write_card(
        self, folder: Path, repository: Repository, config: str, shards: Shards, card: str | None = None
    ) -> str:
        """Write the card, and the files beside it. Returns the text of the card.

        card: the text to start from if the repository has no card.
        """
        home = self._write_about(folder, repository, config)
        home = dataclasses.replace(home, kept=kept_splits(repository, config, shards))
        text = dataset_card(
            self.excerpt,
            self.edits,
            self.source,
            home,
            existing=card if repository.card is None else repository.card,
            metadata={**source_metadata(self.source, self.token), **configs_metadata(repository, config, shards)},
            terms=self.licences,
        )
        write_whole(folder / CARD, text)
        return text

    def _write_about(self, folder: Path, repository: Repository, config: str) -> Home:
        """Write the record, the statistics and the histogram of a config. Returns where the card finds them."""
        name = None if config == DEFAULT else config
        place = folder / (name or "")
        write_report(place, self.stats, without_paths(self.edits[-1].record))
        write_record(place / RECORD, [edit.record for edit in self.edits], self.source)
        record, stats_file, histogram = (own_file(config, file) for file in (RECORD, STATS, HISTOGRAM))
        if self.measurements is not None:
            write_json(place / MEASUREMENTS, self.measurements)
        return Home(
            repository.id,
            name,
            data_folder(config),
            record,
            stats_file,
            histogram if (folder / histogram).exists() else None,
            self.is_patch,
            measurements=self.measurements,
        )


def _statistics(splits: DatasetDict, edits: Sequence[DatasetEdit]) -> DatasetStats:
    """What `summarize` says about all splits."""
    known = [stats for edit in edits for stats in edit.stats.values()]
    if len(known) == 1:
        return known[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ToEditWarning)  # of rows from several edits, which the card tells apart
        return summarize(splits, edits[-1].stats_column)


def content_of(
    dataset: object, transform: Edits, source: str | Source | None, mode: str, token: str | bool | None
) -> Content:
    """The content of a push, from the arguments of `push_dataset`. Raises RowError or ConfigError."""
    splits = checked(dataset)
    if mode not in get_args(Mode):
        raise ConfigError(f"mode={mode!r} is unknown{nearest(str(mode), get_args(Mode))}")
    edits = edits_of(splits, transform)
    found = source if isinstance(source, Source) else _source_of(splits, edits, source)
    stats, excerpt = _statistics(splits, edits), excerpt_of(splits, edits)
    licences = terms_of(found, [edit.record for edit in edits], token)
    return Content(edits, stats, excerpt, found, licences, splits, mode == "patch", token)


def _source_of(splits: DatasetDict, edits: Sequence[DatasetEdit], given: str | None) -> Source | None:
    """The source that was given or recorded; else what `load_dataset` read, if the rows were edited after that."""
    if given is not None:
        return source_of(splits, given)
    if recorded := next(filter(None, (recorded_source(edit.record) for edit in edits)), None):
        return recorded
    files = [Path(file["filename"]).name for rows in splits.values() for file in rows.cache_files]
    return source_of(splits) if all(name.startswith("cache-") for name in files) else None


def checked(dataset: object) -> DatasetDict:
    """The splits with rows, without a format. Raises RowError unless they can be published together."""
    full = full_splits(as_splits(dataset, "push_dataset").with_format(None), "push", stacklevel=4)
    first, *others = full
    for name in full:
        if not SPLIT.fullmatch(name):
            raise RowError(f"{name!r} is not the name of a split on the Hub: use letters, digits, _ and .")
    for name in others:
        if full[name].features != full[first].features:
            raise RowError(
                f"splits {first!r} and {name!r} have different columns, and the Hub could not load them together: "
                "edit both, or push each with its own config_name="
            )
    return full


def _pinned(source: Source, token: str | bool | None) -> Source:
    """The source at the commit that its revision names now."""
    from huggingface_hub import HfApi

    if source.is_local:
        return source
    with hub_errors(source.id, "read the source"):
        return dataclasses.replace(
            source, revision=HfApi(token=token).dataset_info(source.id, revision=source.revision).sha
        )
