"""An output on its way to the Hub while its units are edited: a pull request, merged once all of it is there."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ..editing.stats import DatasetStats
from ..errors import ToEditError, ToEditWarning
from ..hub.configs import choose_config, data_folder, stale_shards
from ..hub.content import Content
from ..hub.dataset_card import terms_of
from ..hub.failures import hub_errors
from ..hub.merging import CARD, without_section
from ..hub.push import Pushed, load_call
from ..hub.repository import look_at
from ..hub.shards import Shards
from ..hub.source import Source
from ..hub.uploads import persistently, upload
from .edited import EditedShards
from .finish import edits_in
from .job import Job
from .unit import edited_features

EVERY_SECONDS = 600.0  # between two commits: the Hub counts them


class Publisher:
    """Uploads the finished shards of a job to a pull request of a dataset on the Hub.

    Readers see none of it before `publish` merges it. A killed call leaves the pull request open; the next one finds it
    by its title, which names the plan, and sends what is missing.

    private: whether a new repository is private.
    """

    def __init__(self, job: Job, repo_id: str, *, private: bool) -> None:
        self.job, self.repo_id, self.private = job, repo_id, private
        self.title = f"Rows edited with hf_toedit (plan {job.digest})"
        self.revision: str | None = None  # of the pull request, once it is open
        self.sent: set[str] = set()  # names of shards
        source = job.plan.about["source"]
        given = None if source is None else Source(**source)
        self.source = None if given is None or given.is_local else given  # as in `push_folder`
        before = look_at(repo_id)
        is_source = self.source is not None and self.source.id.casefold() == before.id.casefold()
        self.config = choose_config(before, None, is_source=is_source)

    @contextmanager
    def running(self, every: float = EVERY_SECONDS) -> Iterator[None]:
        """Send what is finished from time to time while the block runs. A failure is a warning, and tried again."""
        done = threading.Event()

        def work() -> None:
            while not done.wait(every):
                try:
                    self.send()
                except ToEditError as error:
                    line = f"{error}; the edit goes on, and the upload is tried again"
                    warnings.warn(line, ToEditWarning, stacklevel=2)

        thread = threading.Thread(target=work, name="publisher", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def send(self) -> list[str]:
        """Upload the shards that are finished and not yet there, in one commit for 90 of them. Returns their names."""
        if self.revision is None:
            self._look()
        manifests = (self.job.manifest(number) for number in range(len(self.job.plan.units)))
        names = [manifest.shard for manifest in manifests if manifest is not None and manifest.shard not in self.sent]
        if names:
            with self._staged(names) as folder:
                self._upload(folder)
            self.sent.update(names)
        return names

    def publish(self, edited: EditedShards, stats: DatasetStats) -> Pushed:
        """Upload the rest with the card, and merge the pull request. The output is finished.

        Raises SourceError if the Hub refuses.
        """
        self._look()
        before = look_at(self.repo_id)
        edits = edits_in(edited)
        licences = terms_of(self.source, [edit.record for edit in edits])
        content = Content(edits, stats, edited.excerpt(edits), self.source, licences)
        shards = self._shards(edited)
        stale, written = stale_shards(before, self.config, shards), self.job.storage.read(CARD)
        with self._staged([self.job.plan.shard_name(number) for number in range(len(self.job.plan.units))]) as folder:
            text = content.write_card(folder, before, self.config, shards, without_section(written.decode()))
            is_there = self.revision is None and shards.sizes.items() <= before.files.items()
            url = self._upload(folder, stale, to_main=is_there)
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
        if self.revision is not None:
            self._merge(int(self.revision.rpartition("/")[2]))
        has_changed = before.commit is None or not url.endswith(before.commit)
        load = load_call(before.id, self.config, None, is_patch=False)
        return Pushed(url, has_changed, load, before.id, self.config, files, stale, text)

    def _look(self) -> None:
        """Find the pull request of an earlier call, and what it has."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        api, folder = HfApi(), data_folder(self.config)
        with hub_errors(self.repo_id):
            create = partial(api.create_repo, self.repo_id, repo_type="dataset", private=self.private, exist_ok=True)
            persistently(create)
            pulls = partial(api.get_repo_discussions, self.repo_id, repo_type="dataset", discussion_status="open")
            found = [pull for pull in persistently(lambda: list(pulls())) if pull.title == self.title]
            if found:
                self.revision = found[0].git_reference
                tree = partial(
                    api.list_repo_tree, self.repo_id, repo_type="dataset", revision=self.revision, recursive=True
                )
                files = {file.path for file in persistently(lambda: list(tree())) if isinstance(file, RepoFile)}
                self.sent = {path.removeprefix(f"{folder}/") for path in files if path.startswith(f"{folder}/")}

    def _upload(self, folder: Path, stale: Sequence[str] = (), *, to_main: bool = False) -> str:
        is_new = self.revision is None and not to_main
        url = upload(
            folder,
            self.repo_id,
            private=self.private,
            revision=None if is_new else self.revision,
            create_pr=is_new,
            delete=stale,
            message=self.title,
        )
        if is_new:
            self.revision = f"refs/pr/{url.rpartition('/')[2]}"
        return url

    def _merge(self, number: int) -> None:
        from huggingface_hub import HfApi

        with hub_errors(self.repo_id, f"merge pull request {number} of"):
            persistently(partial(HfApi().merge_pull_request, self.repo_id, number, repo_type="dataset"))
        self.revision = None

    @contextmanager
    def _staged(self, names: Sequence[str]) -> Iterator[Path]:
        """A folder with these shards where the repository has them: hard links, which take no room."""
        storage = self.job.storage
        with storage.scratch() as scratch:
            place = scratch / data_folder(self.config)
            place.mkdir(parents=True)
            for name in names:
                os.link(self.job.folder / storage.shards / name, place / name)
            yield scratch

    def _shards(self, edited: EditedShards) -> Shards:
        """The shards as `configs` and `dataset_info` of the card list them."""
        import pyarrow.parquet as pq
        from datasets import SplitInfo

        plan, folder = self.job.plan, self.job.folder / self.job.storage.shards
        sizes, num_bytes = {}, dict.fromkeys(edited.sizes, 0)
        for number, unit in enumerate(plan.units):
            name = plan.shard_name(number)
            sizes[f"{data_folder(self.config)}/{name}"] = (folder / name).stat().st_size
            footer = pq.read_metadata(folder / name)
            num_bytes[unit.split] += sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
        splits = [SplitInfo(split, num_bytes[split], num_rows) for split, num_rows in edited.sizes.items()]
        return Shards(edited_features(plan), splits, sizes)
