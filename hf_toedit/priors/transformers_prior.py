"""A prior on transformers: any causal language model that AutoModelForCausalLM loads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import NoneType
from typing import TYPE_CHECKING, Any, final

from tokenizers import Tokenizer

from ..display import as_call
from ..editing.once import computed_once
from ..errors import ConfigError, PriorError
from ..types import FloatArray, ScoreRequest, Scores
from .batching import hidden_in_batches, score_in_batches
from .devices import leave_parent_threads, pick_device
from .pretrained import Checkpoint, check_count, check_window, dtype_name, one_clear_line
from .split_model import SplitModel

if TYPE_CHECKING:
    import torch


@final
class TransformersPrior:
    """A causal language model from a folder or the Hub, loaded on first use, once per process.

    model: a folder, a Hub id, or "demo" (the small prior in this package). Safetensors only.
    revision: a Hub branch, tag or commit; resolved to a commit hash and kept. For a folder the attribute `revision`
        is a digest of its files.
    dtype: "auto" (on an accelerator the checkpoint's own; on a CPU float32, with which the edits do not depend on the
        batch), or a torch dtype or its name (also "bf16", "fp16", "fp32").
    device: "auto" (an accelerator if there is one; with several processes, that of the rank), or a torch device.
    max_length: the window in tokens; default the model's own, at most 4,096.
    stride: the least context, in tokens, of a token beyond the first window; default half the window.
    trust_remote_code: run the Python code that comes with the model. Off by default.
    batch_tokens: tokens in a batch, including padding; halved when memory runs out. It does not change the edits.
    model_init_kwargs: passed to `from_pretrained`, such as `quantization_config` or `attn_implementation`. A quantized
        prior is a different prior, for caches too.

    Raises ConfigError for arguments that can't be used, and PriorError, with what to do, for files that are missing or
    broken.
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
        self.checkpoint = Checkpoint(model, revision=revision, trust_remote_code=trust_remote_code)
        check_window(max_length, stride)
        check_count("batch_tokens", batch_tokens)
        if not isinstance(model_init_kwargs, (Mapping, NoneType)):
            raise ConfigError("model_init_kwargs= must be a dict, such as {'attn_implementation': 'eager'}")
        self._max_length, self._stride = max_length, stride
        self.dtype, self.batch_tokens = dtype_name(dtype), batch_tokens
        self.device = f"cuda:{device}" if isinstance(device, int) else str(device)
        self.model_init_kwargs = dict(model_init_kwargs or {})

    def __repr__(self) -> str:
        return as_call(self, **self.checkpoint.as_arguments())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_model"}

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def path(self) -> str:
        return self.checkpoint.path

    @property
    def revision(self) -> str:
        return self.checkpoint.revision

    @property
    def hub_id(self) -> str | None:
        return self.checkpoint.hub_id

    @property
    def tokenizer(self) -> Tokenizer:
        return self.checkpoint.tokenizer

    @property
    def chat_template(self) -> str | None:
        return self.checkpoint.chat_template

    @property
    def special_tokens(self) -> dict[str, str]:
        return self.checkpoint.special_tokens

    @property
    def options(self) -> dict[str, Any]:
        return {
            "trust_remote_code": self.checkpoint.trust_remote_code,
            "dtype": self.dtype,
            "model_init_kwargs": self.model_init_kwargs,
        }

    @property
    def max_length(self) -> int:
        return self._max_length or self.checkpoint.window

    @property
    def stride(self) -> int:
        return self._stride or self.max_length // 2

    @computed_once
    def _model(self) -> SplitModel:
        import torch
        from transformers import AutoModelForCausalLM

        leave_parent_threads()
        fix = "give 'cpu', 'cuda', 'cuda:1', 'mps' or 'auto'"
        with one_clear_line(f"device={self.device!r} is not available", fix):
            device = torch.device(pick_device() if self.device == "auto" else self.device)
            torch.empty(0, device=device)
        dtype: Any = self.dtype
        if dtype == "auto" and device.type == "cpu":
            dtype = torch.float32
        options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True, **self.model_init_kwargs}
        with _not_spread():
            model, info = self.checkpoint.load(AutoModelForCausalLM, "model", **options)
        self._check_model(model, sorted(info["missing_keys"]))
        if "device_map" not in options:
            model.to(device)
        if "attn_implementation" not in options and _takes_flash_attention(model):
            model.set_attn_implementation("flash_attention_2")
        return SplitModel(model.eval().requires_grad_(False), self.name, self.batch_tokens)

    def _check_model(self, model: Any, missing: list[str]) -> None:
        """Raise PriorError for an incomplete checkpoint or another model's tokenizer.

        transformers fills in random numbers where a checkpoint has no weights. missing: the names of these.
        """
        if missing:
            raise PriorError(
                f"prior {self.name!r} has no weights for {missing[0]!r} ({len(missing)} missing in all): "
                "give a complete checkpoint of a causal language model"
            )
        self.checkpoint.check_ids(model.get_input_embeddings().weight.shape[0])

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """Scores of the requested positions; see `Prior.score`."""
        return score_in_batches(self._model, requests, top_k, self.max_length) if requests else []

    def hidden(self, requests: Sequence[ScoreRequest]) -> FloatArray:
        """The last hidden states that predict the requested positions, in order. Shape [E, D]."""
        return hidden_in_batches(self._model, requests, self.max_length)


@contextmanager
def _not_spread() -> Iterator[None]:
    """Load all weights in this process. During training under ZeRO-3, from_pretrained would give each rank a part."""
    from transformers.integrations import deepspeed

    config, deepspeed._hf_deepspeed_config_weak_ref = deepspeed._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config


def _takes_flash_attention(model: Any) -> bool:
    """Whether FlashAttention is installed and works with this model: then sequences need no padding."""
    import torch
    from transformers.utils.import_utils import is_flash_attn_2_available

    is_half = model.dtype in (torch.bfloat16, torch.float16)
    return bool(model.device.type == "cuda" and is_half and is_flash_attn_2_available() and model._supports_flash_attn)
