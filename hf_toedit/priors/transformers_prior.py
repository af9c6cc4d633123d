"""A prior on transformers: any causal language model that AutoModelForCausalLM loads.

Shape suffixes: B sequences, T tokens, D hidden, V vocabulary, E requested positions, K candidates.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from ..display import as_call
from ..errors import ConfigError, PriorError
from ..types import FloatArray, IntArray, ScoreRequest, Scores
from .pretrained import Pretrained, check_count, dtype_name, one_clear_line, window_of
from .split_model import TILE, SplitModel

if TYPE_CHECKING:
    import torch

IMPORT_PID = os.getpid()
LEAVE_BASE_ALONE = (True, False, "gaussian", "orthogonal", "eva", "mica")  # of PEFT's init_lora_weights
UNASKABLE = ("POLY", "XLORA")  # PEFT types that need a task, or a pass of the whole model, to choose their weights


class TransformersPrior(Pretrained):
    """A causal language model from a folder or the Hub, loaded on first use, once per process.

    model: a folder, a Hub id, or "demo" (the small prior in this package). Safetensors only.
    revision: a Hub branch, tag or commit; resolved to a commit hash and kept. For a folder the attribute `revision`
        is a digest of its files.
    dtype: "auto" (the checkpoint's own on an accelerator; float32 on a CPU, where the edits then do not depend on the
        batch) or a torch dtype or its name (also "bf16", "fp16", "fp32").
    device: "auto" (an accelerator where there is one; under several processes, that of the rank) or a torch device.
    max_length: window in tokens; the default is the model's own, at most 4,096.
    stride: the least context, in tokens, of a token beyond the first window; default half of the window.
    trust_remote_code: run Python code that comes with the model. Off unless you ask for it.
    batch_tokens: tokens of a batch, padding counted; halved when memory runs out. It does not change the edits.
    model_init_kwargs: passed on to `from_pretrained`, such as `quantization_config` or `attn_implementation`. A
        quantised prior is a different prior, for caches too.

    Raises PriorError, with what to do, if files are missing or broken.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | int | torch.device = "auto",
        max_length: int | None = None,
        stride: int | None = None,
        trust_remote_code: bool = False,
        batch_tokens: int | None = None,
        model_init_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            model, revision=revision, max_length=max_length, stride=stride, trust_remote_code=trust_remote_code
        )
        check_count("batch_tokens", batch_tokens)
        if not isinstance(model_init_kwargs, (Mapping, NoneType)):
            raise ConfigError("model_init_kwargs= must be a dict, such as {'attn_implementation': 'eager'}")
        self.dtype, self.batch_tokens = dtype_name(dtype), batch_tokens
        self.device = f"cuda:{device}" if isinstance(device, int) else str(device)
        self.model_init_kwargs = dict(model_init_kwargs or {})

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "dtype": self.dtype, "model_init_kwargs": self.model_init_kwargs}

    @cached_property
    def _model(self) -> SplitModel:
        import torch
        from transformers import AutoModelForCausalLM

        _leave_parent_threads()
        fix = "give 'cpu', 'cuda', 'cuda:1', 'mps' or 'auto'"
        with one_clear_line(f"device={self.device!r} is not available", fix):
            device = torch.device(_pick_device() if self.device == "auto" else self.device)
            torch.empty(0, device=device)
        dtype: Any = self.dtype
        if dtype == "auto" and device.type == "cpu":
            dtype = torch.float32
        options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True, **self.model_init_kwargs}
        with _not_spread():
            model, info = self._load(AutoModelForCausalLM, "model", **options)
        self._check_model(model, sorted(info["missing_keys"]))
        if "device_map" not in options:
            model.to(device)
        if "attn_implementation" not in options and _takes_flash_attention(model):
            model.set_attn_implementation("flash_attention_2")
        return SplitModel(model.eval().requires_grad_(False), self.name, self.batch_tokens)

    def _check_model(self, model: Any, missing: list[str]) -> None:
        """transformers puts random numbers where a checkpoint has no weights; the tokenizer may be another model's."""
        if missing:
            raise PriorError(
                f"prior {self.name!r} has no weights for {missing[0]!r} ({len(missing)} missing in all): "
                "give a complete checkpoint of a causal language model"
            )
        self._check_ids(model.get_input_embeddings().weight.shape[0])

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """Scores of the requested positions; see `Prior.score`."""
        return _score(self._model, requests, top_k, self.max_length) if requests else []


class ModelPrior:
    """A causal model that is in memory, as it is when it is asked, as a prior. It is asked in evaluation mode, without
    gradients, and left as it was: training mode, gradients and the state of random generators untouched.

    model: a transformers model, or a PEFT model around one (not prompt learning, which has no backbone of its own).
    tokenizer: its tokenizer, of transformers or tokenizers.
    base: ask a PEFT model with its adapters switched off: the model that they were put on.
    autocast: gives the context in which the backbone runs in mixed precision; the head always runs in its own dtype.

    Raises ConfigError for a model that can't be asked, PriorError for such a tokenizer.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        base: bool = False,
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        is_peft = hasattr(model, "get_base_model")
        if base and not is_peft:
            raise ConfigError(
                f"{type(model).__name__} is no PeftModel, so its base can't be told apart: give a prior by name, "
                "or wrap it with peft.get_peft_model"
            )
        if is_peft:
            _check_adapters(model.peft_config.values(), base)
        backend = getattr(getattr(tokenizer, "tokenizer", tokenizer), "backend_tokenizer", tokenizer)
        if not isinstance(backend, Tokenizer):
            raise PriorError(f"{type(tokenizer).__name__} is not a tokenizer with a tokenizer.json: give one that is")
        self.model, self.tokenizer, self.base, self.autocast = model, backend, base, autocast
        self._causal = model.get_base_model() if is_peft else model
        if self._causal.get_output_embeddings() is None:
            raise ConfigError(f"{type(self._causal).__name__} gives no token probabilities: give a prior by name")
        self.max_length = window_of(self._causal.config.get_text_config())
        self.stride = self.max_length // 2

    def __repr__(self) -> str:
        return as_call(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_split"}

    @cached_property
    def _split(self) -> SplitModel:
        _leave_parent_threads()
        return SplitModel(self._causal, type(self._causal).__name__, autocast=self.autocast)

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """Scores of the requested positions; see `Prior.score`."""
        if not requests:
            return []
        with _at_rest(self.model), self.model.disable_adapter() if self.base else nullcontext():
            return _score(self._split, requests, top_k, self.max_length)


def _check_adapters(configs: Iterable[Any], base: bool) -> None:
    """Raise ConfigError for adapters that can't be asked or, for `base`, that change the model under them.

    By the sources of peft 0.21; tests/test_peft_bases.py tries every kind.
    """
    for config in configs:
        if config.is_prompt_learning:
            raise ConfigError("prompt learning leaves no model that could be asked: give a prior by name")
        if config.peft_type in UNASKABLE:
            raise ConfigError(f"{config.peft_type.value} needs more than tokens to be asked: give a prior by name")
        if not base:
            continue
        init = getattr(config, "init_lora_weights", True)
        if getattr(config, "bias", "none") != "none":
            raise ConfigError(
                "the base is not frozen where its biases are trained: set bias='none', or give a prior by name"
            )
        if init not in LEAVE_BASE_ALONE:
            raise ConfigError(
                f"init_lora_weights={init!r} has rewritten the base's weights: give a prior by name, or set it to True"
            )
        if getattr(config, "layer_replication", None):
            raise ConfigError("layer_replication has repeated the base's layers: give a prior by name, or leave it out")


@contextmanager
def _at_rest(model: Any) -> Iterator[None]:
    """Evaluation mode within; afterwards every module is in the mode, and every parameter as trainable, as before."""
    modes = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in trainable:  # disable_adapter makes all of the adapter trainable again
            parameter.requires_grad_(flag)


def _score(model: SplitModel, requests: Sequence[ScoreRequest], top_k: int, limit: int | None) -> list[Scores]:
    """Scores of at least one request, in order. limit: the widest batch."""
    order: list[int] = []
    head = _HeadQueue(model, top_k)
    for batch, rows_EX in _run_backbone(model, requests, limit):
        order += batch
        head.add(rows_EX, np.concatenate([requests[i].input_ids[requests[i].positions] for i in batch]))
    cuts = np.cumsum([len(requests[i].positions) for i in order])[:-1]
    scored = zip(*(np.split(array, cuts) for array in head.finish()), strict=True)
    found = {
        i: Scores(logprob_E, ids_EK, logprob_EK, model.logit_error)
        for i, (logprob_E, ids_EK, logprob_EK) in zip(order, scored, strict=True)
    }
    return [found[i] for i in range(len(requests))]


def _run_backbone(
    model: SplitModel, requests: Sequence[ScoreRequest], limit: int | None
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Batches, as indices of requests, with the rows that the head needs, the longest requests first."""
    import torch

    widths = [_width(request, limit) for request in requests]
    order = sorted(range(len(requests)), key=lambda i: -widths[i])
    start = 0
    while start < len(order):
        width = widths[order[start]]
        fitting = order[start : start + max(1, model.batch_tokens // width)]
        if model.is_on_cpu:  # see _width; elsewhere the widest decides, and few others waste little
            fitting = [i for i in fitting if widths[i] == width]
        try:
            with torch.no_grad():
                rows_EX = model.rows([requests[i] for i in fitting], width)
        except RuntimeError as error:
            model.batch_tokens = width * _halve(len(fitting), f"a window of {width} tokens", error)
            continue
        yield fitting, rows_EX
        start += len(fitting)


def _width(request: ScoreRequest, limit: int | None) -> int:
    """The padded length of a request. The last token is only a target: the model does not read it.

    A width in whole tiles that depends on the request alone: on CPUs the same matrix kernels then see every row
    alike, and its numbers do not depend, to the last bit, on what else is in the batch.
    """
    tiles = max(1, -(-(len(request.input_ids) - 1) // TILE))
    return min(tiles * TILE, limit or tiles * TILE)


class _HeadQueue:
    """Collects the rows of several batches and runs the head on many at once: its weights are read fewer times."""

    def __init__(self, model: SplitModel, top_k: int) -> None:
        self.model, self.top_k = model, top_k
        self.rows: list[torch.Tensor] = []
        self.targets: list[IntArray] = []
        self.laws: list[tuple[torch.Tensor, ...]] = []

    def add(self, rows_EX: torch.Tensor, target_E: IntArray) -> None:
        self.rows.append(rows_EX)
        self.targets.append(target_E)
        if sum(map(len, self.rows)) >= self.model.head_rows:
            self._run(self.model.head_rows)

    def finish(self) -> tuple[FloatArray, IntArray, FloatArray]:
        """Run what waits; all results in the order of the rows. Only now is an accelerator waited for."""
        import torch

        self._run(1)
        logprob_E, ids_EK, logprob_EK = (torch.cat(column).cpu() for column in zip(*self.laws, strict=True))
        return logprob_E.double().numpy(), ids_EK.numpy(), logprob_EK.double().numpy()

    def _run(self, at_least: int) -> None:
        """Run the head until fewer rows than `at_least` wait."""
        import torch

        rows_EX, target_E = torch.cat(self.rows), torch.from_numpy(np.concatenate(self.targets)).to(self.rows[0].device)
        while len(rows_EX) >= at_least or not self.laws:
            size = min(len(rows_EX), self.model.head_rows)
            try:
                with torch.no_grad():
                    self.laws.append(self.model.law(rows_EX[:size], target_E[:size], self.top_k))
            except RuntimeError as error:
                self.model.head_rows = _halve(size, "the logits of one token", error)
                continue
            rows_EX, target_E = rows_EX[size:], target_E[size:]
        self.rows, self.targets = [rows_EX], [target_E.cpu().numpy()]


def _halve(size: int, least: str, error: RuntimeError) -> int:
    """Half of a batch size that was too large for the memory; raises other errors, and if there is nothing to halve."""
    import torch

    # On a CPU torch has no class of its own for it.
    if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
        raise error
    if size < 2:
        raise PriorError(
            f"not enough memory for {least}: set a smaller max_length, a smaller dtype or another device"
        ) from error
    return size // 2


@contextmanager
def _not_spread() -> Iterator[None]:
    """Load all weights in this process. Beside a training under ZeRO-3, from_pretrained would give each rank a part."""
    from transformers.integrations import deepspeed

    config, deepspeed._hf_deepspeed_config_weak_ref = deepspeed._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config


def _leave_parent_threads() -> None:
    """Compute in one thread in a forked process: the parent's thread pool does not survive a fork."""
    if os.getpid() != IMPORT_PID:
        import torch

        torch.set_num_threads(1)


def _takes_flash_attention(model: Any) -> bool:
    """Whether FlashAttention is installed and serves this model: then sequences need no padding."""
    import torch
    from transformers.utils.import_utils import is_flash_attn_2_available

    is_half = model.dtype in (torch.bfloat16, torch.float16)
    return bool(model.device.type == "cuda" and is_half and is_flash_attn_2_available() and model._supports_flash_attn)


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
