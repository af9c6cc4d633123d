"""A prior on transformers: any causal language model that AutoModelForCausalLM loads.

The backbone runs once; head, log-sum-exp and top-k run in float32 and only on the requested positions.
Shape suffixes: B sequences, T tokens, D hidden, V vocabulary, E requested positions, K candidates.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from .errors import ConfigError, PriorError
from .types import FloatArray, IntArray, ScoreRequest, Scores

if TYPE_CHECKING:
    import torch

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo_prior"
MAX_LENGTH = 4096
HEAD_ROWS = 1024
TILE = 32
SCALES = ("logit_scale", "lm_head_multiplier")  # what configs call a factor on the logits
IMPORT_PID = os.getpid()


class TransformersPrior:
    """A causal language model from a folder or the Hub, loaded on first use, once per process.

    model: a folder, a Hub id, or "demo" (the small prior in this package). Safetensors only.
    revision: a Hub branch, tag or commit; resolved to a commit hash and kept. For a folder the attribute `revision`
        is a digest of its files.
    dtype: "auto" (the checkpoint's own on an accelerator, float32 on a CPU, where other batch shapes then give the
        same edits) or the name of a torch dtype.
    device: "auto" (an accelerator where there is one; under several processes, that of the rank) or a torch device.
    max_length: window in tokens; the default is the model's own, at most 4,096.
    stride: context, in tokens, that a token beyond the first window has at least; default half of the window.
    trust_remote_code: run Python code that comes with the model. Off unless you ask for it.

    Raises PriorError, with what to do, if files are missing or broken.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        max_length: int | None = None,
        stride: int | None = None,
        trust_remote_code: bool = False,
        batch_tokens: int = 8192,
    ) -> None:
        self.name = os.fspath(model)
        self.trust_remote_code = trust_remote_code
        self.dtype, self.device, self.batch_tokens = dtype, device, batch_tokens
        self._path = str(DEMO_FOLDER) if self.name == DEMO else self.name
        self.revision = resolve_revision(self._path, revision)
        self._max_length, self._stride = max_length, stride
        self._check_window()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is loaded: the pickle is small and the same in every process."""
        loaded = ("tokenizer", "_model", "_config")
        return {name: value for name, value in self.__dict__.items() if name not in loaded}

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return self._load(AutoConfig, "configuration").get_text_config()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from transformers import AutoTokenizer

        loaded = self._load(AutoTokenizer, "tokenizer")
        if not getattr(loaded, "is_fast", False):
            raise PriorError(
                f"{self.name}: its tokenizer is written in Python; hf_toedit needs one with a tokenizer.json"
            )
        backend: Tokenizer = loaded.backend_tokenizer
        return backend

    @property
    def max_length(self) -> int | None:
        if self._max_length is not None:
            return self._max_length
        return min(getattr(self._config, "max_position_embeddings", None) or MAX_LENGTH, MAX_LENGTH)

    @property
    def stride(self) -> int:
        return self._stride if self._stride is not None else (self.max_length or 0) // 2

    @cached_property
    def _model(self) -> _SplitModel:
        import torch
        from transformers import AutoModelForCausalLM

        if os.getpid() != IMPORT_PID:
            torch.set_num_threads(1)  # the parent's thread pool does not survive a fork
        with _one_clear_line(f"device={self.device!r} is not to be had", "give another one, or 'auto'"):
            device = torch.device(_pick_device() if self.device == "auto" else self.device)
            torch.empty(0, device=device)
        dtype: Any = self.dtype
        if dtype == "auto" and device.type == "cpu":
            dtype = torch.float32
        options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        model, info = self._load(AutoModelForCausalLM, "model", **options)
        self._check_model(model, sorted(info["missing_keys"]))
        return _SplitModel(model.to(device).eval().requires_grad_(False), self.name)

    def _load(self, auto_class: Any, part: str, **options: Any) -> Any:
        """`from_pretrained`, with every way in which files can be broken told in one line."""
        is_folder = Path(self._path).is_dir()
        options["revision"] = None if is_folder else self.revision
        options["trust_remote_code"] = self.trust_remote_code
        fix = "write model and tokenizer again with save_pretrained" if is_folder else "give another id, or a folder"
        with _one_clear_line(f"can't load the {part} of prior {self.name!r}", fix), _progress_bars(not is_folder):
            return auto_class.from_pretrained(self._path, **options)

    def _check_model(self, model: Any, missing: list[str]) -> None:
        """transformers puts random numbers where a checkpoint has no weights; the tokenizer may be another model's."""
        if missing:
            raise PriorError(
                f"prior {self.name!r} has no weights for {missing[0]!r} ({len(missing)} missing in all): "
                "give a whole checkpoint of a causal language model"
            )
        num_ids = model.get_input_embeddings().weight.shape[0]
        last_id = max(self.tokenizer.get_vocab(with_added_tokens=False).values(), default=0)
        if last_id >= num_ids:
            raise PriorError(
                f"prior {self.name!r}: its tokenizer has ids up to {last_id}, its model only {num_ids}: "
                "save the model together with its own tokenizer"
            )

    def _check_window(self) -> None:
        for name, value in (("max_length", self._max_length), ("stride", self._stride)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        if self._max_length and self._stride and self._stride >= self._max_length - 1:
            raise ConfigError(f"stride={self._stride} must be below max_length={self._max_length} - 1")

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """Scores of the requested positions; see `Prior.score`."""
        results: list[Scores | None] = [None] * len(requests)
        for batch in self._batches(requests):
            scored = self._model.score([requests[i] for i in batch], self._width(requests[batch[0]]), top_k)
            for i, scores in zip(batch, scored, strict=True):
                results[i] = scores
        return [scores for scores in results if scores is not None]

    def _batches(self, requests: Sequence[ScoreRequest]) -> Iterator[list[int]]:
        """Indices of requests that run together: of the same width, the widest first."""
        order = sorted(range(len(requests)), key=lambda i: -self._width(requests[i]))
        for width, group in itertools.groupby(order, key=lambda i: self._width(requests[i])):
            same = list(group)
            step = max(1, self.batch_tokens // width)
            yield from (same[start : start + step] for start in range(0, len(same), step))

    def _width(self, request: ScoreRequest) -> int:
        """The padded length of a request. The last token is only a target: the model does not read it.

        A width in whole tiles that depends on the request alone: on CPUs the same matrix kernels then see every row
        alike, and its numbers do not depend, to the last bit, on what else is in the batch.
        """
        tiles = -(-(len(request.input_ids) - 1) // TILE)
        return min(tiles * TILE, self.max_length or tiles * TILE)


class _one_clear_line:  # noqa: N801 - reads as a statement
    """Turn the errors that broken files cause into a PriorError of one line, with the cause attached and a fix."""

    def __init__(self, what: str, fix: str) -> None:
        self.what, self.fix = what, fix

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is None or error is None:
            return
        # tokenizers raises bare Exception, safetensors a direct subclass of it, transformers the rest.
        broken = (OSError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, ImportError)
        if (
            kind is Exception
            or kind.__module__.startswith(("safetensors", "huggingface_hub"))
            or issubclass(kind, (*broken, RuntimeError, AssertionError))
        ):
            cause = " ".join(str(error).split()) or kind.__name__
            cause = cause if len(cause) <= 200 else cause[:199] + "…"
            raise PriorError(f"{self.what}: {cause}; {self.fix}") from error


@contextlib.contextmanager
def _progress_bars(wanted: bool) -> Iterator[None]:
    """Show transformers' bars for a download, but not for reading files that are there."""
    from transformers.utils import logging

    hide = not wanted and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class _SplitModel:
    """A causal model as backbone and head. Where the two together do not give the model's own logits, it runs whole."""

    def __init__(self, model: Any, name: str) -> None:
        self.model = model
        self.backbone = model.base_model
        self.head = model.get_output_embeddings()
        config = model.config.get_text_config()
        self.softcap = getattr(config, "final_logit_softcapping", None)
        scales = [getattr(config, attribute, None) for attribute in SCALES]
        self.scale = math.prod(scale for scale in scales if scale is not None)
        self.scale /= getattr(config, "logits_scaling", None) or 1.0
        self.is_split = self._is_exact()
        if not self.is_split:
            warnings.warn(
                f"{name}: backbone and head do not add up to its logits; running the whole model (slower)", stacklevel=2
            )

    def _is_exact(self) -> bool:
        """Compare with the model's own logits on a few tokens."""
        import torch

        if self.head is None or self.backbone is self.model:
            return False
        ids_BT = torch.arange(8, device=self.model.device)[None] % self.head.weight.shape[0]
        with torch.inference_mode():
            own_TV = self.model(input_ids=ids_BT, use_cache=False).logits[0].float()
            ours_TV = self._logits(self._hidden(ids_BT)[0])
        tolerance = 1e-4 if self.head.weight.dtype == torch.float32 else 2e-2
        largest = own_TV.abs().nan_to_num().max().clamp(min=1.0).item()
        return torch.allclose(own_TV, ours_TV, rtol=0, atol=tolerance * largest, equal_nan=True)

    def score(self, requests: Sequence[ScoreRequest], width: int, top_k: int) -> list[Scores]:
        import torch

        ids_BT = np.zeros((len(requests), width), dtype=np.int64)
        for row, request in zip(ids_BT, requests, strict=True):
            row[: len(request.input_ids) - 1] = request.input_ids[:-1]
        counts = [len(request.positions) for request in requests]
        row_E = np.repeat(np.arange(len(requests)), counts)
        position_E = np.concatenate([request.positions for request in requests])
        target_E = np.concatenate([request.input_ids[request.positions] for request in requests])
        with torch.inference_mode():
            # Padding stands on the right, where no scored token can see it: no mask is needed.
            device = self.model.device
            inputs = torch.from_numpy(ids_BT).to(device)
            index = (torch.from_numpy(row_E).to(device), torch.from_numpy(position_E - 1).to(device))
            if self.is_split:
                rows_ED = self._hidden(inputs)[index]
            else:
                rows_ED = self.model(input_ids=inputs, use_cache=False).logits[index]
            scored = self._law(rows_ED, torch.from_numpy(target_E).to(device), top_k)
        cuts = np.cumsum(counts)[:-1]
        return [Scores(*parts) for parts in zip(*(np.split(array, cuts) for array in scored), strict=True)]

    def _hidden(self, ids_BT: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.backbone(input_ids=ids_BT, use_cache=False)[0]
        return hidden

    def _logits(self, hidden_ED: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import linear

        bias = getattr(self.head, "bias", None)
        logits_EV: torch.Tensor = linear(
            hidden_ED.float(), self.head.weight.float(), None if bias is None else bias.float()
        )
        logits_EV = logits_EV * self.scale
        return (logits_EV / self.softcap).tanh() * self.softcap if self.softcap else logits_EV

    def _law(
        self, rows_ED: torch.Tensor, target_E: torch.Tensor, top_k: int
    ) -> tuple[FloatArray, IntArray, FloatArray]:
        """Target log-probability and candidates, from one float32 log-sum-exp, some rows at a time."""
        import torch

        parts = []
        for start in range(0, max(1, len(rows_ED)), HEAD_ROWS):
            rows = rows_ED[start : start + HEAD_ROWS]
            missing = -len(rows) % TILE  # whole tiles, as in TransformersPrior._width
            tiles = torch.cat([rows, rows[:1].expand(missing, -1)]) if missing else rows
            logits_EV = self._logits(tiles)[: len(rows)] if self.is_split else rows.float()
            total_E = logits_EV.logsumexp(-1)
            target = logits_EV.gather(-1, target_E[start : start + HEAD_ROWS, None])[:, 0] - total_E
            values_EK, ids_EK = logits_EV.topk(min(top_k, logits_EV.shape[-1]), -1)
            parts.append((target, ids_EK, values_EK - total_E[:, None]))
        joined = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]
        return joined[0].double().numpy(), joined[1].numpy(), joined[2].double().numpy()


def resolve_revision(path: str, revision: str | None) -> str:
    """A folder's digest, or the commit hash of a Hub revision. Raises PriorError for what can't be a prior."""
    folder = Path(path)
    if folder.is_dir():
        return _folder_digest(folder)
    if folder.exists() or path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise PriorError(f"prior {path!r} is no folder with a model; give a folder, a Hub id or 'demo'")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        config = hf_hub_download(path, "config.json", revision=revision)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        line = str(error).strip().splitlines()[0]
        raise PriorError(f"prior {path!r} is neither a folder nor to be had from the Hub: {line}") from error
    return Path(config).parent.name  # the cache keeps snapshots by commit hash


def _folder_digest(folder: Path) -> str:
    names = sorted(
        path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja", ".model")
    )
    has_weights = any(name.endswith(".safetensors") for name in names)
    for there, what in (("config.json" in names, "config.json"), (has_weights, "weights (*.safetensors)")):
        if not there:
            raise PriorError(
                f"prior folder {str(folder)!r} has no {what}; a prior is a folder written by save_pretrained"
            )
    digest = hashlib.blake2b(digest_size=20)
    for name in names:
        digest.update(name.encode() + b"\0")
        with (folder / name).open("rb") as file:
            digest.update(
                hashlib.file_digest(file, "blake2b").digest() if hasattr(hashlib, "file_digest") else file.read()
            )
    return digest.hexdigest()


def _pick_device() -> str:
    """The accelerator of this process's rank, or the CPU."""
    import torch

    if not torch.accelerator.is_available():
        return "cpu"
    kind = torch.accelerator.current_accelerator()
    return f"{kind}:{_process_rank() % torch.accelerator.device_count()}"


def _process_rank() -> int:
    """The rank that a launcher gave this process, else its number among the workers of `map(num_proc=...)`."""
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    from multiprocess import current_process

    identity: tuple[int, ...] = current_process()._identity
    return identity[0] - 1 if identity else 0
