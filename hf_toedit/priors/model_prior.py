"""A causal model that is already in memory, as a prior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, final

from tokenizers import Tokenizer

from ..display import as_call
from ..editing.once import computed_once
from ..errors import ConfigError, PriorError
from ..types import FloatArray, ScoreRequest, Scores
from .batching import hidden_in_batches, score_in_batches
from .devices import leave_parent_threads
from .pretrained import window_of
from .split_model import SplitModel

LEAVE_BASE_ALONE = (True, False, "gaussian", "orthogonal", "eva", "mica")  # of PEFT's init_lora_weights
UNASKABLE = ("POLY", "XLORA")  # PEFT types that need a task, or a pass of the whole model, to choose their weights


@final
class ModelPrior:
    """A causal model in memory as a prior: its scores are those of the weights that it has at that moment.

    It is run in evaluation mode, without gradients, and left as it was: training mode, gradients and the state of
    random generators do not change.

    model: a transformers model, or a PEFT model around one (not prompt learning, which has no backbone of its own).
    tokenizer: its tokenizer, of transformers or tokenizers.
    base: score with the adapters of a PEFT model switched off, and so with the model they were put on.
    autocast: returns the context in which the backbone runs in mixed precision; the head always keeps its own dtype.

    Raises ConfigError for a model that can't be a prior, PriorError for a tokenizer without a tokenizer.json.
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
                f"{type(model).__name__} is not a PeftModel, so its base can't be told apart: give a prior by name, "
                "or wrap the model with peft.get_peft_model"
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

    @computed_once
    def _split(self) -> SplitModel:
        leave_parent_threads()
        return SplitModel(self._causal, type(self._causal).__name__, autocast=self.autocast)

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """Scores of the requested positions; see `Prior.score`."""
        if not requests:
            return []
        with self._asked():
            return score_in_batches(self._split, requests, top_k, self.max_length)

    def hidden(self, requests: Sequence[ScoreRequest]) -> FloatArray:
        """The last hidden states that predict the requested positions, in order. Shape [E, D]."""
        with self._asked():
            return hidden_in_batches(self._split, requests, self.max_length)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        with _at_rest(self.model), self.model.disable_adapter() if self.base else nullcontext():
            yield


def _check_adapters(configs: Iterable[Any], base: bool) -> None:
    """Raise ConfigError for adapters that can't be a prior or, with `base`, that change the model under them.

    Read from the sources of peft 0.21; tests/test_peft_bases.py tries every kind.
    """
    for config in configs:
        if config.is_prompt_learning:
            raise ConfigError("prompt learning leaves no model that could be a prior: give a prior by name")
        if config.peft_type in UNASKABLE:
            raise ConfigError(f"{config.peft_type.value} needs more input than tokens: give a prior by name")
        if not base:
            continue
        init = getattr(config, "init_lora_weights", True)
        if getattr(config, "bias", "none") != "none":
            raise ConfigError(
                "the base is not frozen if its biases are trained: set bias='none', or give a prior by name"
            )
        if init not in LEAVE_BASE_ALONE:
            raise ConfigError(
                f"init_lora_weights={init!r} has rewritten the base's weights: give a prior by name, or set it to True"
            )
        if getattr(config, "layer_replication", None):
            raise ConfigError("layer_replication has repeated the base's layers: give a prior by name, or leave it out")


@contextmanager
def _at_rest(model: Any) -> Iterator[None]:
    """Evaluation mode within. Afterwards every module has its mode back, and every parameter its `requires_grad`."""
    modes = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in trainable:  # disable_adapter makes the whole adapter trainable again
            parameter.requires_grad_(flag)
