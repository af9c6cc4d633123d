"""A trainer's model cards: each has the section on edits once, whatever wrote it, and keeps its owner's text.

TRL rewrites the card of `output_dir` at each checkpoint, transformers' Trainer when it pushes, and PEFT updates the
one in every folder it saves an adapter to. A comment in our section holds a digest of the text outside it as the
trainer wrote it. If that text has another digest later, even in another process, somebody has edited it by hand.
"""

from __future__ import annotations

import hashlib
import pkgutil
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError, ToEditError, ToEditWarning, in_one_line
from ..hub.links import is_hub_id
from ..hub.merging import CARD, marker, merged, without_section
from ..hub.method import TAGS
from ..hub.model_card import model_card_section
from ..hub.source import Source, source_of
from ..hub.training_edits import TrainingEdit
from ..report.files import write_whole
from .history import edits_in_training

if TYPE_CHECKING:
    from huggingface_hub.repocard import RepoCard

START, END = marker("start"), marker("end")
BY_TRAINER = "generated_from_trainer"  # the tag on cards of TRL's and transformers' trainers
ADAPTER_OF = "base_model:adapter:"  # how PEFT's tag with the name of the base model begins
WRITTEN = "<!-- digest of the text that the trainer wrote: {} -->"
DIGEST = re.compile(WRITTEN.format(r"(\w+)"))


def keep_section(trainer: Any) -> None:
    """Put the section on edits back after each of a trainer's writers of cards."""
    trainer.create_model_card = partial(_create_model_card, trainer, trainer.create_model_card)
    trainer.save_model = partial(_save_model, trainer, trainer.save_model)


def write_section(trainer: Any, folder: Path) -> None:
    """Put the section on edits on the card of a folder, which is made if there is none."""
    if folder.is_dir():
        _written_by(lambda: None, trainer, folder / CARD)


def _create_model_card(trainer: Any, original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    _written_by(partial(original, *args, **kwargs), trainer, Path(trainer.args.output_dir) / CARD, is_rewritten=True)


def _save_model(trainer: Any, original: Callable[..., None], output_dir: Any = None, *args: Any, **kwargs: Any) -> None:
    path = Path(trainer.args.output_dir if output_dir is None else output_dir) / CARD
    _written_by(partial(original, output_dir, *args, **kwargs), trainer, path)


def _written_by(write: Callable[[], None], trainer: Any, path: Path, *, is_rewritten: bool = False) -> None:
    """Let a writer write a card, then give it our section and metadata, and its owner's text if the writer dropped it.

    If that can't be done, warn, and leave what the owner had. is_rewritten: the writer rewrites all of the text.
    """
    before = _read(path)
    write()
    if not trainer.is_world_process_zero() or not path.parent.is_dir():
        return
    try:
        if told := edits_in_training(trainer):
            old, new = _text(before), _text(_read(path))
            write_whole(path, _card(trainer, told, old, new, is_rewritten=is_rewritten))
    except (ToEditError, OSError) as error:
        if isinstance(before, bytes):
            path.write_bytes(before)
        message = f"can't update the section on edits in {str(path)!r}: {in_one_line(error)}"
        warnings.warn(f"{message}; training continues", ToEditWarning, stacklevel=4)


def _read(path: Path) -> bytes | OSError | None:
    """The card, None if there is none, or why it can't be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return error


def _text(content: bytes | OSError | None) -> str | None:
    if isinstance(content, OSError):
        raise content
    try:
        return None if content is None else content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError("it is not UTF-8") from error


def _card(trainer: Any, edits: Sequence[TrainingEdit], old: str | None, new: str | None, *, is_rewritten: bool) -> str:
    """The card after a writer turned the text `old` into `new`. is_rewritten: it rewrote all of the text."""
    before, after = _parsed(old), _parsed(new)
    is_by_hand = _is_by_hand(before)
    is_restored = is_by_hand and is_rewritten
    card, other = (before, after) if is_restored else (after, before)
    base_model, sources = _base_model(trainer), _sources(trainer)
    section = model_card_section(edits, sources, base_model)
    if not is_by_hand:
        section = f"{WRITTEN.format(_digest(card.text))}\n\n{section}"
    text = (old if is_restored else new) or ""
    if _drop_what_is_not_on_the_hub(card):
        text = card.content
    _drop_what_is_not_on_the_hub(other)
    metadata = {"base_model": base_model, **vars(other.data)}
    ours = {"tags": TAGS, "datasets": [source.id for source in sources]}
    for key, values in ours.items():
        metadata[key] = list(dict.fromkeys([*_listed(other.data.get(key)), *values]))
    return merged(text, section, metadata)


def _drop_what_is_not_on_the_hub(card: RepoCard) -> bool:
    """Take out local paths, and what Trainer calls a dataset made from files. Returns whether there were any."""
    from datasets import packaged_modules

    builders = {module.name for module in pkgutil.iter_modules(packaged_modules.__path__)}
    kept: dict[str, Callable[[str], bool]] = {
        "base_model": is_hub_id,
        "tags": lambda tag: is_hub_id(tag.removeprefix(ADAPTER_OF)) or not tag.startswith(ADAPTER_OF),
        "datasets": lambda name: name not in builders,
    }
    is_changed = False
    for key, is_kept in kept.items():
        named = _listed(card.data.get(key))
        good = [name for name in named if isinstance(name, str) and is_kept(name)]
        if good != named:
            vars(card.data)[key], is_changed = good or None, True
    return is_changed


def _base_model(trainer: Any) -> str | None:
    """The Hub id of the model that was trained, or that the adapter is for. None for a folder or random weights."""
    name = getattr(getattr(trainer.model, "config", None), "_name_or_path", None)
    return str(name) if is_hub_id(name) else None


def _sources(trainer: Any) -> list[Source]:
    """The Hub dataset of the training rows, if it is still known."""
    from datasets import Dataset, DatasetDict

    if not isinstance(trainer.train_dataset, Dataset):
        return []
    source = source_of(DatasetDict(train=trainer.train_dataset))
    return [] if source is None else [source]


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _parsed(card: str | None) -> RepoCard:
    from huggingface_hub.repocard import RepoCard
    from yaml import YAMLError

    try:
        text = card or ""
        return RepoCard(text if text.lstrip().startswith("---") else f"---\n\n---\n{text}")
    except (ValueError, TypeError, YAMLError) as error:
        raise SourceError(f"its metadata is not valid: {in_one_line(error)}") from error


def _is_by_hand(card: RepoCard) -> bool:
    """Whether somebody has written on a card, other than the trainer and us."""
    markers = card.text.count(START), card.text.count(END)
    if markers == (0, 0):
        return bool(card.text.strip()) and BY_TRAINER not in _listed(card.data.get("tags"))
    found = DIGEST.search(card.text)
    return markers != (1, 1) or found is None or found[1] != _digest(card.text)


def _digest(text: str) -> str:
    """A digest of a card's text without our section."""
    return hashlib.blake2b(without_section(text).strip().encode(), digest_size=8).hexdigest()
