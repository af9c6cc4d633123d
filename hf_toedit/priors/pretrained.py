"""A checkpoint in a folder or on the Hub: its configuration, tokenizer, window and revision."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, final

from tokenizers import Tokenizer

from .. import errors
from ..display import as_call
from ..editing.once import computed_once
from ..errors import ConfigError, PriorError, ToEditError, in_one_line, is_panic, nearest

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo"
MAX_LENGTH = 4096
DIGEST_CHUNK = 2**20
HASHED = (".json", ".safetensors", ".jinja", ".model")
READ = (*HASHED, ".txt")
MOST_BYTES = 2**29  # in a file without weights, since it is read into memory
READ_ONCE = ("config", "_wrapped_tokenizer")  # what a Checkpoint's pickle leaves out
DTYPES = ("auto", "float64", "float32", "bfloat16", "float16")
SHORT_DTYPES = {
    **{"double": "float64", "fp64": "float64", "float": "float32", "fp32": "float32", "f32": "float32"},
    **{"bf16": "bfloat16", "half": "float16", "fp16": "float16", "f16": "float16"},
}


@final
class Checkpoint:
    """A pretrained model's folder or Hub id: what a prior holds, and reads on first use.

    model: a folder, a Hub id, or "demo" (the small prior in this package).
    revision: a Hub branch, tag or commit, or None.

    name: the model as it was given. path: the folder or Hub id it stands for.
    revision: as an attribute, a digest of the folder's files, or the commit hash on the Hub.

    The pickle holds nothing that was read, so that it is small and the same in every process. Raises ConfigError for
    arguments of the wrong type, and PriorError, with what to do, for files that are missing or broken.
    """

    def __init__(
        self, model: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False
    ) -> None:
        if not isinstance(model, (str, os.PathLike)):
            raise ConfigError(
                f"model= must be a Hub id or a folder, not {type(model).__name__}: pass a model in memory together "
                "with its tokenizer, ToEditTransform((model, tokenizer))"
            )
        if revision is not None and not isinstance(revision, str):
            raise ConfigError(f"revision= must be a branch, tag or commit, not {type(revision).__name__}")
        self.name = os.fspath(model)
        self.trust_remote_code = trust_remote_code
        self.revision = resolve_revision(self.path, revision)

    def __repr__(self) -> str:
        return as_call(self, **self.as_arguments())

    def as_arguments(self) -> dict[str, Any]:
        """Its own arguments, for the repr of a prior that holds it."""
        return {
            "model": self.name,
            "revision": f"{self.revision[:8]}…",
            "trust_remote_code": self.trust_remote_code,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in READ_ONCE}

    @property
    def path(self) -> str:
        return str(DEMO_FOLDER) if self.name == DEMO else self.name  # the demo is elsewhere on another machine

    @computed_once
    def config(self) -> Any:
        """The configuration of its language model, of transformers."""
        from transformers import AutoConfig

        config = self.load(AutoConfig, "configuration").get_text_config()
        size: Any = getattr(config, "vocab_size", 1)
        if not isinstance(size, int) or size < 1:
            raise PriorError(
                f"prior {self.name!r}: its config.json has vocab_size={size!r}: give a complete checkpoint"
            )
        return config

    @computed_once
    def _wrapped_tokenizer(self) -> Any:
        """The tokenizer of transformers around `tokenizer`."""
        from transformers import AutoTokenizer

        loaded = self.load(AutoTokenizer, "tokenizer")
        if not getattr(loaded, "is_fast", False):
            raise PriorError(
                f"{self.name}: its tokenizer is written in Python; hf_toedit needs one with a tokenizer.json"
            )
        return loaded

    @property
    def tokenizer(self) -> Tokenizer:
        backend: Tokenizer = self._wrapped_tokenizer.backend_tokenizer
        return backend

    @property
    def chat_template(self) -> str | None:
        """The default chat template that comes with the tokenizer, or None."""
        template = self._wrapped_tokenizer.chat_template
        chosen = template.get("default") if isinstance(template, dict) else template
        if not isinstance(chosen, (str, NoneType)):
            kind = type(chosen).__name__
            raise PriorError(f"prior {self.name!r}: its chat template is of type {kind}, not text: set chat_template=")
        return chosen

    @property
    def special_tokens(self) -> dict[str, str]:
        """What chat templates call `bos_token`, `eos_token` and the like."""
        return dict(self._wrapped_tokenizer.special_tokens_map)

    @property
    def window(self) -> int:
        """The tokens its model reads at once, at most MAX_LENGTH; see `window_of`."""
        return window_of(self.config)

    @property
    def is_folder(self) -> bool:
        return Path(self.path).is_dir()

    @property
    def hub_id(self) -> str | None:
        """Its id on the Hub; None for a folder."""
        return None if self.is_folder else self.path

    def load(self, auto_class: Any, part: str, **options: Any) -> Any:
        """`auto_class.from_pretrained`. Whatever is wrong with the files is a PriorError of one line.

        part: what is loaded, for the message.
        """
        options["revision"] = None if self.is_folder else self.revision
        options["trust_remote_code"] = self.trust_remote_code
        fix = (
            "write model and tokenizer again with save_pretrained" if self.is_folder else "give another id, or a folder"
        )
        with one_clear_line(f"can't load the {part} of prior {self.name!r}", fix), _progress_bars(not self.is_folder):
            return auto_class.from_pretrained(self.path, **options)

    def check_ids(self, num_ids: int) -> None:
        """Raise PriorError if the tokenizer has ids that a model with this many does not know."""
        last_id = max(self.tokenizer.get_vocab(with_added_tokens=False).values(), default=0)
        if last_id >= num_ids:
            raise PriorError(
                f"prior {self.name!r}: its tokenizer has ids up to {last_id}, but its model has only {num_ids}: "
                "save the model together with its own tokenizer"
            )


def check_window(max_length: int | None, stride: int | None) -> None:
    """Raise ConfigError for a window or a stride that can't be used. None, for the default, passes."""
    check_count("max_length", max_length)
    check_count("stride", stride)
    if max_length and stride and stride >= max_length - 1:
        raise ConfigError(f"stride={stride} must be below max_length={max_length} - 1")


def check_count(name: str, value: Any) -> None:
    """Raise ConfigError for anything but an integer of at least 1. None passes."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ConfigError(f"{name}={value!r} must be an integer of at least 1")


def dtype_name(dtype: Any) -> str:
    """The name of a torch dtype that is given as itself, by name or by a short name; "auto" stays.

    Raises ConfigError for anything else.
    """
    given = str(dtype).removeprefix("torch.")
    name = SHORT_DTYPES.get(given, given)
    if name not in DTYPES:
        raise ConfigError(f"dtype={given!r} is unknown{nearest(given, DTYPES)}")
    return name


def window_of(config: Any) -> int:
    """The window, in tokens, in the configuration of a language model; MAX_LENGTH if it is longer or not given.

    Raises PriorError for a value that can't be a window.
    """
    longest: Any = getattr(config, "max_position_embeddings", None)
    if longest is None:
        return MAX_LENGTH
    if isinstance(longest, bool) or not isinstance(longest, int) or longest < 1:
        raise PriorError(
            f"the prior's config.json has max_position_embeddings={longest!r}, which can't be a window: "
            "correct it, or set max_length"
        )
    return min(longest, MAX_LENGTH)


class one_clear_line(errors.one_clear_line):  # noqa: N801 - reads as a statement
    """Turn the errors that broken files cause into an error of one line, with the cause attached and a fix."""

    def __init__(self, what: str, fix: str, told_as: type[ToEditError] = PriorError) -> None:
        super().__init__(told_as, what, fix, catches=_is_of_broken_files)


def _is_of_broken_files(error: BaseException) -> bool:
    # tokenizers raises bare Exception; safetensors, vLLM and the Hub's HTTP library direct subclasses of it;
    # transformers the rest.
    broken = (OSError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, ImportError)
    return (
        type(error) is Exception
        or is_panic(error)
        or type(error).__module__.startswith(("safetensors", "huggingface_hub", "httpx", "vllm"))
        or isinstance(error, (*broken, RuntimeError, AssertionError))
    )


@contextlib.contextmanager
def _progress_bars(wanted: bool) -> Iterator[None]:
    """Show transformers' progress bars for a download, but not for reading local files."""
    from transformers.utils import logging

    hide = not wanted and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def resolve_revision(path: str, revision: str | None, what: str = "prior") -> str:
    """A folder's digest, or the commit hash of a Hub revision. Raises PriorError for what can't be a prior.

    what: what the path is called in messages.
    """
    folder = Path(path)
    with one_clear_line(f"this can't be the name of a {what}", "give a folder, a Hub id or 'demo'"):
        is_folder, is_there = folder.is_dir(), folder.exists()
    if is_folder:
        with one_clear_line(f"can't read {what} folder {path!r}", "write it again with save_pretrained"):
            return _folder_digest(folder)
    if is_there or path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise PriorError(f"{what} {path!r} is not a folder with a model; give a folder, a Hub id or 'demo'")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        config = hf_hub_download(path, "config.json", revision=revision)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        missing = f"{what} {path!r} is neither a folder nor available on the Hub"
        raise PriorError(f"{missing}: {in_one_line(error)}") from error
    return Path(config).parent.name  # the cache keeps snapshots by commit hash


def _folder_digest(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if path.suffix in READ)
    has_weights = any(name.endswith(".safetensors") for name in names)
    for there, what in (("config.json" in names, "config.json"), (has_weights, "weights (*.safetensors)")):
        if not there:
            raise PriorError(
                f"prior folder {str(folder)!r} has no {what}; a prior is a folder written by save_pretrained"
            )
    for name in names:
        _check_file(folder / name)
    digest = hashlib.blake2b(digest_size=20)
    for name in names:
        if name.endswith(HASHED):
            digest.update(name.encode() + b"\0")
            content = hashlib.blake2b()
            with (folder / name).open("rb") as file:
                while chunk := file.read(DIGEST_CHUNK):
                    content.update(chunk)
            digest.update(content.digest())
    return digest.hexdigest()


def _check_file(path: Path) -> None:
    """Raise PriorError for a directory, a dangling link, a pipe or a device, which might be read without end."""
    if not path.is_file():
        raise PriorError(f"{str(path)!r} is not a file: write the prior's folder again with save_pretrained")
    size = path.stat().st_size
    if size > MOST_BYTES and path.suffix != ".safetensors":
        raise PriorError(f"{str(path)!r} has {size:,} bytes, too many for {path.name}: use another prior")
