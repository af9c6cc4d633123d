"""A prior on vLLM, in this process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, final

from tokenizers import Tokenizer

from ..display import as_call
from ..editing.once import computed_once
from ..errors import ConfigError, PriorError
from ..types import ScoreRequest, Scores
from .devices import is_worker
from .pretrained import Checkpoint, check_window, dtype_name, one_clear_line
from .prompt_logprobs import check_lengths, fill_in, prompt_of, rounding_of, scores_of
from .vllm_model import TASK, pack_request, register, scoring_name, unpack_scores

DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType({})


@final
class VLLMPrior:
    """A causal language model on vLLM, in this process; loaded on first use.

    model: a folder, a Hub id, or "demo" (the small prior in this package), of an architecture that vLLM can generate
        with.
    lazy: compute the head at the requested positions alone, with the plug-in in this package. False: use vLLM's own
        `prompt_logprobs`, which computes every position; this is several times slower, and the window is one token
        shorter.
    revision, max_length, stride, trust_remote_code: as for TransformersPrior.
    dtype: "auto" (the checkpoint's own), or a torch dtype or its name (also "bf16", "fp16", "fp32"). The logits that
        matter are computed in float32.
    engine: further options of `vllm.LLM`, such as {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.8}.

    vLLM does its own batching and takes the whole accelerator: give `map` large batches and no `num_proc`. In a worker
    process the engine runs inside it, and ends with it, unless VLLM_ENABLE_V1_MULTIPROCESSING is set. The last
    bits of a probability may depend on the batch, and so, at near-ties, may the edit. Raises ConfigError for arguments
    that can't be used, and PriorError, with what to do, if vLLM is missing or files are missing or broken.
    """

    scores_fix = "leave logprobs_mode out of engine={...}"

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        lazy: bool = True,
        revision: str | None = None,
        dtype: Any = "auto",
        max_length: int | None = None,
        stride: int | None = None,
        trust_remote_code: bool = False,
        engine: Mapping[str, Any] = DEFAULTS,
    ) -> None:
        self.checkpoint = Checkpoint(model, revision=revision, trust_remote_code=trust_remote_code)
        check_window(max_length, stride)
        if not isinstance(engine, Mapping):
            raise ConfigError("engine= must be a dict of options of vllm.LLM, such as {'tensor_parallel_size': 2}")
        self._max_length, self._stride = max_length, stride
        self.lazy, self.dtype, self.engine = lazy, dtype_name(dtype), dict(engine)

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
            "lazy": self.lazy,
            "dtype": self.dtype,
            "engine": self.engine,
        }

    @property
    def max_length(self) -> int:
        if self._max_length is not None:
            return self._max_length
        if self.lazy:
            return self.checkpoint.window
        num_positions = getattr(self.checkpoint.config, "max_position_embeddings", None)
        return min(self.checkpoint.window, num_positions - 1) if num_positions else self.checkpoint.window

    @property
    def stride(self) -> int:
        return self._stride or self.max_length // 2

    @computed_once
    def _model(self) -> Any:
        if is_worker():  # killed, it would leave an engine in a process of its own behind, with the GPU's memory
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        with one_clear_line("VLLMPrior needs vLLM, which can't be imported", "pip install vllm"):
            from vllm import LLM
        self.checkpoint.check_ids(self.checkpoint.config.vocab_size)  # vLLM would read beyond its embeddings
        dtype = getattr(self.checkpoint.config, "dtype", None) or "auto"
        options: dict[str, Any] = {
            "revision": None if self.checkpoint.is_folder else self.revision,
            "trust_remote_code": self.checkpoint.trust_remote_code,
            "dtype": str(dtype).removeprefix("torch.") if self.dtype == "auto" else self.dtype,
            "enable_prefix_caching": False,  # a cached prefix has no hidden states to score
            **(self._lazy_options() if self.lazy else self._plain_options()),
        }
        with self._clear_line():
            overrides = {**options["hf_overrides"], **self.engine.get("hf_overrides", {})}
            return LLM(self.path, **{**options, **self.engine, "hf_overrides": overrides})

    def _clear_line(self) -> one_clear_line:
        fix = "see vLLM's messages above; options of vllm.LLM go in engine={...}"
        return one_clear_line(f"vLLM can't run prior {self.name!r}", fix)

    def _lazy_options(self) -> dict[str, Any]:
        from transformers import AutoConfig
        from vllm import ModelRegistry

        register()
        architectures = self.checkpoint.load(AutoConfig, "configuration").architectures or []
        names = [scoring_name(name) for name in architectures]
        known = ModelRegistry.get_supported_archs()
        if not any(name in known for name in names):
            raise PriorError(f"prior {self.name!r}: vLLM has no model of its own for it: set lazy=False")
        # The last token of a request is only a target: the model does not read it.
        longest = max(1, self.max_length - 1)
        return {"runner": "pooling", "max_model_len": longest, "hf_overrides": {"architectures": names}}

    def _plain_options(self) -> dict[str, Any]:
        # vLLM reads the last token too, and needs room to generate one. A half-precision head would be off by 5 %.
        return {"max_model_len": self.max_length + 1, "max_logprobs": -1, "hf_overrides": {"head_dtype": "float32"}}

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """Scores of the requested positions; see `Prior.score`."""
        config = self.checkpoint.config
        num_candidates = min(top_k, config.vocab_size)
        asking = [request for request in requests if len(request.positions)]
        scores: list[Scores] = []
        if asking:
            check_lengths(asking, self.name, self.max_length)
            score = self._score_lazily if self.lazy else self._score_plainly
            scores = score(asking, num_candidates)
        return fill_in(scores, requests, num_candidates, rounding_of(self.dtype, config))

    def _score_lazily(self, requests: list[ScoreRequest], num_candidates: int) -> list[Scores]:
        model = self._model  # raises PriorError if there is no vLLM
        from vllm import PoolingParams, TokensPrompt

        prompts = [TokensPrompt(prompt_token_ids=r.input_ids[: r.positions[-1]].tolist()) for r in requests]
        params = [PoolingParams(task=TASK, extra_kwargs=pack_request(r, num_candidates)) for r in requests]
        with self._clear_line():
            outputs = model.encode(prompts, params, pooling_task=TASK, use_tqdm=False)
        return [unpack_scores(output.outputs.data) for output in outputs]

    def _score_plainly(self, requests: list[ScoreRequest], num_candidates: int) -> list[Scores]:
        model = self._model
        from vllm import SamplingParams, TokensPrompt

        params = SamplingParams(max_tokens=1, prompt_logprobs=num_candidates, detokenize=False)
        prompts = [TokensPrompt(prompt_token_ids=prompt_of(request)) for request in requests]
        with self._clear_line():
            outputs = model.generate(prompts, params, use_tqdm=False)
        scores = []
        for request, output in zip(requests, outputs, strict=True):
            logprobs_E = [
                {token_id: entry.logprob for token_id, entry in output.prompt_logprobs[t].items()}
                for t in request.positions
            ]
            scores.append(scores_of(request, logprobs_E, num_candidates))
        return scores
