"""The plug-in for vLLM: generative models that score chosen positions in the worker instead of generating.

vLLM calls `register` in each of its processes (entry point group `vllm.general_plugins`). A model runs as
`ToEdit<Architecture>` with `runner="pooling"`; its pooler computes the head at the requested positions alone.
Shape suffixes: T tokens of a step, D hidden, V vocabulary, E requested positions, C refined ids, K candidates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..types import IntArray, ScoreRequest, Scores
from .head import law_of_logits

if TYPE_CHECKING:
    import torch

PREFIX = "ToEdit"
GENERATIVE = ("ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel")
TASK = "token_classify"  # vLLM's name for pooling that returns a row per token
HEAD_ROWS = 256  # rows that go through the head together
HEAD_ROWS_CPU = 64  # there, more would not fit into the cache
REFINED_ERROR = 2.0**-5  # of the largest logit: what half precision can be off by, with room


def register() -> None:
    """Give every generative architecture of vLLM a second name, under which it scores. Classes are made on use."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    for name in list(ModelRegistry.get_supported_archs()):
        if name.endswith(GENERATIVE) and not name.startswith(PREFIX):
            ModelRegistry.register_model(scoring_name(name), f"{__name__}:{scoring_name(name)}")
            if name in MODELS_CONFIG_MAP:
                MODELS_CONFIG_MAP[scoring_name(name)] = MODELS_CONFIG_MAP[name]


def __getattr__(name: str) -> Any:
    """The class that `register` named."""
    if not name.startswith(PREFIX):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return scoring_class(name.removeprefix(PREFIX))


@functools.cache
def scoring_class(architecture: str) -> type[Any]:
    """vLLM's model of an architecture, with a pooler that scores."""
    from vllm import ModelRegistry

    base: Any = ModelRegistry.models[architecture].load_model_cls()

    def init(self: Any, *, vllm_config: Any, prefix: str = "", **options: Any) -> None:
        base.__init__(self, vllm_config=vllm_config, prefix=prefix, **options)
        self.pooler = Scorer(self)

    members = {"__init__": init, "__module__": __name__, "is_pooling_model": True}
    return type(scoring_name(architecture), (base,), members)


def scoring_name(architecture: str) -> str:
    """The name under which `register` registers an architecture."""
    return PREFIX + architecture


def pack_request(request: ScoreRequest, top_k: int) -> dict[str, Any]:
    """What a ScoreRequest asks for, as `extra_kwargs` of PoolingParams; the tokens go as the prompt."""
    targets_E = request.input_ids[request.positions]
    return {"positions": request.positions.tobytes(), "targets": targets_E.tobytes(), "top_k": top_k}


def unpack_scores(packed: torch.Tensor) -> Scores:
    """Scores from what a Scorer returns for a request."""
    table = packed.double().numpy()
    num_candidates = table.shape[1] // 2
    ids_EK = table[:, 1 + num_candidates :].astype(np.int64)
    return Scores(table[:, 0], ids_EK, table[:, 1 : 1 + num_candidates])


def _unpack(params: Any) -> tuple[IntArray, IntArray, int]:
    """Positions, targets and top_k of PoolingParams. vLLM's trial run has none: one position then."""
    asked = params.extra_kwargs
    if asked is None:
        return np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64), 1
    return np.frombuffer(asked["positions"], np.int64), np.frombuffer(asked["targets"], np.int64), asked["top_k"]


class Scorer:
    """A vLLM pooler that returns per request [E, 1 + 2 K] float32: log-probability of the target, of candidates, ids.

    It is no torch.nn.Module, so that it may hold the model that holds it. The head runs on the requested positions of
    all requests of a step together.
    """

    def __init__(self, model: Any) -> None:
        from vllm.model_executor.layers.logits_processor import LogitsProcessor

        self.model = model
        self.refines = True
        self.exact_logits: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.processors = [module for module in model.modules() if isinstance(module, LogitsProcessor)]
        for processor in self.processors:
            processor.register_forward_pre_hook(self._see_head, with_kwargs=True)

    def get_supported_tasks(self) -> set[str]:
        return {TASK}

    def get_pooling_updates(self, task: str) -> Any:
        from vllm.model_executor.layers.pooler import PoolingParamsUpdate

        return PoolingParamsUpdate()

    def __call__(self, hidden_states: torch.Tensor, pooling_metadata: Any) -> list[torch.Tensor | None]:
        """Scores of the requests that end in this step; None for those that go on."""
        import torch

        asked = [_unpack(params) for params in pooling_metadata.pooling_params]
        cursor = pooling_metadata.get_pooling_cursor()
        num_new, num_seen = cursor.num_scheduled_tokens_cpu.numpy(), cursor.seq_lens_cpu.numpy()
        rows, targets = [], []
        for i, (positions_E, targets_E, _) in enumerate(asked):
            # Position t is read off the hidden state of t - 1. This step has those of num_before to num_seen - 1.
            num_before = num_seen[i] - num_new[i]
            inside = slice(*np.searchsorted(positions_E, [num_before + 1, num_seen[i] + 1]))
            rows.append(positions_E[inside] - 1 - num_before + num_new[:i].sum())
            targets.append(targets_E[inside])
        device = hidden_states.device
        row_E, target_E = (torch.from_numpy(np.concatenate(parts)).to(device) for parts in (rows, targets))
        scores = self._score(hidden_states[row_E], target_E, max(top_k for _, _, top_k in asked))
        if scores is None:
            return [None] * len(asked)
        pieces = torch.split(scores, [len(part) for part in rows])
        is_first, is_last = (num_seen == num_new).tolist(), cursor.get_finished_mask()
        states = pooling_metadata.pooling_states
        return [_join(*of_one) for of_one in zip(states, pieces, is_first, is_last, strict=True)]

    def _score(self, hidden_ED: torch.Tensor, target_E: torch.Tensor, top_k: int) -> torch.Tensor | None:
        """Packed scores of some rows, on the CPU. None on all ranks of tensor parallelism but the first."""
        import torch

        if not len(hidden_ED):
            return hidden_ED.cpu()
        step = HEAD_ROWS_CPU if hidden_ED.device.type == "cpu" else HEAD_ROWS
        chunks = zip(torch.split(hidden_ED, step), torch.split(target_E, step), strict=True)
        parts = [self._law(*chunk, top_k) for chunk in chunks]
        whole = [part for part in parts if part is not None]
        return torch.cat(whole).cpu() if whole else None

    def _law(self, hidden_ED: torch.Tensor, target_E: torch.Tensor, top_k: int) -> torch.Tensor | None:
        import torch

        logits_EV = self.model.compute_logits(hidden_ED)
        if logits_EV is None:
            return None
        exact = None
        if self.exact_logits and logits_EV.dtype != torch.float32:
            exact = functools.partial(self._compare, logits_EV, self.exact_logits)
        logprob_E, ids_EK, logprob_EK = law_of_logits(logits_EV, target_E, top_k, exact)
        if exact and not self.refines:
            for processor in self.processors:
                processor.head_dtype = torch.float32
            return self._law(hidden_ED, target_E, top_k)
        return torch.cat([logprob_E[:, None], logprob_EK, ids_EK.float()], dim=1)

    def _compare(
        self, logits_EV: torch.Tensor, exact_logits: Callable[[torch.Tensor], torch.Tensor], ids_EC: torch.Tensor
    ) -> torch.Tensor:
        """The exact logits. If the model does more to its logits than they know of, `refines` is off afterwards."""
        rough_EC, exact_EC = logits_EV.gather(1, ids_EC).float(), exact_logits(ids_EC)
        self.refines = bool((exact_EC - rough_EC).abs().max() <= REFINED_ERROR * rough_EC.abs().max())
        return exact_EC

    def _see_head(self, processor: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Choose the precision of the head that is about to run.

        In float32, vLLM's default for poolers, it costs nothing on GPUs; elsewhere vLLM would copy the weights at each
        call, and it can't if they are quantized. There it runs in the model's dtype, and weights that can be read
        give the logits that matter in float32.
        """
        from vllm.platforms import current_platform

        head, hidden_ED = args[:2]
        bias_V = args[2] if len(args) > 2 else options.get("embedding_bias")
        is_plain = type(head.quant_method).__name__.startswith("Unquantized")
        if not is_plain or (self.refines and head.tp_size == 1 and not current_platform.is_cuda_alike()):
            processor.head_dtype = None
        self.exact_logits = None
        if self.refines and is_plain and head.tp_size == 1:
            self.exact_logits = functools.partial(logits_of_ids, processor, head.weight, hidden_ED, bias_V)


def logits_of_ids(
    processor: Any, weight_VD: torch.Tensor, hidden_ED: torch.Tensor, bias_V: torch.Tensor | None, ids_EC: torch.Tensor
) -> torch.Tensor:
    """What a LogitsProcessor computes, in float32 and for some ids of each row alone."""
    logits_EC: torch.Tensor = (weight_VD[ids_EC].float() @ hidden_ED.float()[:, :, None])[:, :, 0]
    if bias_V is not None:
        logits_EC = logits_EC + bias_V[ids_EC].float()
    if processor.soft_cap is not None:
        logits_EC = (logits_EC / processor.soft_cap).tanh() * processor.soft_cap
    logits_EC *= processor.scale
    return logits_EC


def _join(state: Any, piece: torch.Tensor, is_first: bool, is_last: bool) -> torch.Tensor | None:
    """The scores of a request whose tokens may come in several steps, once it is complete."""
    import torch

    if is_first:
        state.clean()  # a request that vLLM interrupted starts over
    if len(piece):
        state.hidden_states_cache.append(piece)
    if not is_last:
        return None
    scores = torch.cat(state.hidden_states_cache)
    state.clean()
    return scores
