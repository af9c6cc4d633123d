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
from .head import logprobs_from_logits

if TYPE_CHECKING:
    import torch

PREFIX = "ToEdit"
GENERATIVE = ("ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel")
TASK = "token_classify"  # vLLM's name for pooling that returns a row per token
HEAD_ROWS = 256  # rows that go through the head together
HEAD_ROWS_CPU = 64  # more would not fit into a CPU's cache
REFINED_ERROR = 2.0**-5  # of the largest logit: the error of half precision, with a margin


def register() -> None:
    """Give every generative architecture of vLLM a second name, under which it scores.

    The classes are made when they are used (see `__getattr__`).
    """
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
    """Scores from what a Scorer returns for a request: [E, 1 + 2 K] float32, which holds ids up to 2**24 exactly."""
    columns = packed.double().numpy()
    num_candidates = columns.shape[1] // 2
    ids_EK = columns[:, 1 + num_candidates :].astype(np.int64)
    return Scores(columns[:, 0], ids_EK, columns[:, 1 : 1 + num_candidates])


def _unpack(params: Any) -> tuple[IntArray, IntArray, int]:
    """Positions, targets and top_k of PoolingParams. vLLM's trial run has none: one position then."""
    packed = params.extra_kwargs
    if packed is None:
        return np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64), 1
    return np.frombuffer(packed["positions"], np.int64), np.frombuffer(packed["targets"], np.int64), packed["top_k"]


class Scorer:
    """A vLLM pooler that returns, for each request, a float32 tensor [E, 1 + 2 K].

    Its columns are the log-probability of the target, those of the candidates, and the candidates' ids. The head runs
    on the requested positions of all requests of a step together. The class is not a torch.nn.Module, so that it can
    hold the model that holds it.

    refines: whether exact logits may replace the model's; exact_logits: the function that computes them, or None.
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

        requests = [_unpack(params) for params in pooling_metadata.pooling_params]
        cursor = pooling_metadata.get_pooling_cursor()
        num_new, num_seen = cursor.num_scheduled_tokens_cpu.numpy(), cursor.seq_lens_cpu.numpy()
        rows, targets = [], []  # of each request: rows of hidden_states, and the ids that they predict
        for i, (positions_E, targets_E, _) in enumerate(requests):
            # A step may compute only a part of a request: its hidden states num_before to num_seen - 1, which follow
            # those of the requests before it. Hidden state t - 1 predicts position t. An example: of a request for the
            # positions 3, 5 and 9, states 0 to 3 came in an earlier step and 4 to 6 come now; then the first of these
            # predicts position 5.
            num_before = num_seen[i] - num_new[i]
            inside = slice(*np.searchsorted(positions_E, [num_before + 1, num_seen[i] + 1]))
            rows.append(positions_E[inside] - 1 - num_before + num_new[:i].sum())
            targets.append(targets_E[inside])
        device = hidden_states.device
        row_E, target_E = (torch.from_numpy(np.concatenate(arrays)).to(device) for arrays in (rows, targets))
        scores = self._score(hidden_states[row_E], target_E, max(top_k for _, _, top_k in requests))
        if scores is None:
            return [None] * len(requests)
        pieces = torch.split(scores, [len(request_rows) for request_rows in rows])
        is_first, is_last = (num_seen == num_new).tolist(), cursor.get_finished_mask()
        states = pooling_metadata.pooling_states
        return [_join(*arguments) for arguments in zip(states, pieces, is_first, is_last, strict=True)]

    def _score(self, hidden_ED: torch.Tensor, target_E: torch.Tensor, top_k: int) -> torch.Tensor | None:
        """Packed scores of some rows, on the CPU. Under tensor parallelism, None on all ranks but the first."""
        import torch

        if not len(hidden_ED):
            return hidden_ED.cpu()
        step = HEAD_ROWS_CPU if hidden_ED.device.type == "cpu" else HEAD_ROWS
        chunks = zip(torch.split(hidden_ED, step), torch.split(target_E, step), strict=True)
        packed = [self._pack_scores(*chunk, top_k) for chunk in chunks]
        given = [scores for scores in packed if scores is not None]
        return torch.cat(given).cpu() if given else None

    def _pack_scores(self, hidden_ED: torch.Tensor, target_E: torch.Tensor, top_k: int) -> torch.Tensor | None:
        """Log-probabilities of the target and of the candidates, and the candidates' ids: [E, 1 + 2 K] float32."""
        import torch

        logits_EV = self.model.compute_logits(hidden_ED)
        if logits_EV is None:
            return None
        exact = None
        if self.exact_logits and logits_EV.dtype != torch.float32:
            exact = functools.partial(self._compare, logits_EV, self.exact_logits)
        logprob_E, ids_EK, logprob_EK = logprobs_from_logits(logits_EV, target_E, top_k, exact)
        if exact and not self.refines:
            for processor in self.processors:
                processor.head_dtype = torch.float32
            return self._pack_scores(hidden_ED, target_E, top_k)
        return torch.cat([logprob_E[:, None], logprob_EK, ids_EK.float()], dim=1)

    def _compare(
        self, logits_EV: torch.Tensor, exact_logits: Callable[[torch.Tensor], torch.Tensor], ids_EC: torch.Tensor
    ) -> torch.Tensor:
        """The exact logits [E, C].

        Turns `refines` off if they differ from the model's by more than rounding: then it does more to its logits.
        """
        rough_EC, exact_EC = logits_EV.gather(1, ids_EC).float(), exact_logits(ids_EC)
        self.refines = bool((exact_EC - rough_EC).abs().max() <= REFINED_ERROR * rough_EC.abs().max())
        return exact_EC

    def _see_head(self, processor: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Choose the precision of the head that is about to run.

        On GPUs it runs in float32, vLLM's default for poolers, which costs nothing there. Elsewhere vLLM would copy the
        weights at each call, which it can't do if they are quantized: there it runs in the model's dtype, and if the
        weights can be read, the logits that matter are computed from them in float32.
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
    """What a LogitsProcessor computes, but in float32 and only for some ids of each row. Shape [E, C]."""
    logits_EC: torch.Tensor = (weight_VD[ids_EC].float() @ hidden_ED.float()[:, :, None])[:, :, 0]
    if bias_V is not None:
        logits_EC = logits_EC + bias_V[ids_EC].float()
    if processor.soft_cap is not None:
        logits_EC = (logits_EC / processor.soft_cap).tanh() * processor.soft_cap
    logits_EC *= processor.scale
    return logits_EC


def _join(state: Any, piece: torch.Tensor, is_first: bool, is_last: bool) -> torch.Tensor | None:
    """The scores of a request once it is complete; its tokens may be computed in several steps."""
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
