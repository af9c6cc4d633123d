"""Priors on vLLM: in this process, or on a server.

Shape suffixes: E requested positions, K candidates, V ids.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import numpy as np

from .errors import ConfigError, PriorError
from .pretrained import Pretrained, check_count, dtype_name, one_clear_line
from .types import ScoreRequest, Scores
from .vllm_model import TASK, pack_request, register, scoring_name, unpack_scores

DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType({})
TIMEOUT_SECONDS = 600
API_KEY = "VLLM_API_KEY"  # the variable from which vLLM's server reads its own


class VLLMPrior(Pretrained):
    """A causal language model on vLLM, in this process; loaded on first use.

    model: a folder, a Hub id, or "demo" (the small prior in this package), of an architecture that vLLM generates with.
    lazy: compute the head at the requested positions alone, with the plug-in of this package. False: by vLLM's own
        `prompt_logprobs`, at every position; several times slower, and its window is one token shorter.
    revision, max_length, stride, trust_remote_code: as of TransformersPrior.
    dtype: "auto" (the checkpoint's own) or a torch dtype or its name (also "bf16", "fp16", "fp32").
        The head's logits count in float32.
    engine: further options of `vllm.LLM`, such as {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.8}.

    vLLM does its own batching and takes the whole accelerator: give `map` large batches and no `num_proc`. Other
    batches may give other last bits, and so, at near-ties, other edits. Raises PriorError, with what to do, if vLLM
    or files are missing or broken.
    """

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
        super().__init__(
            model, revision=revision, max_length=max_length, stride=stride, trust_remote_code=trust_remote_code
        )
        if not isinstance(engine, Mapping):
            raise ConfigError("engine= must be a dict of options of vllm.LLM, such as {'tensor_parallel_size': 2}")
        self.lazy, self.dtype, self.engine = lazy, dtype_name(dtype), dict(engine)

    @property
    def max_length(self) -> int | None:
        longest = super().max_length
        if self.lazy or self._max_length is not None or longest is None:
            return longest
        return min(longest, (getattr(self._config, "max_position_embeddings", None) or longest + 1) - 1)

    @cached_property
    def _model(self) -> Any:
        with one_clear_line("VLLMPrior needs vLLM, which can't be imported", "pip install vllm"):
            from vllm import LLM
        self._check_ids(self._config.vocab_size)  # vLLM would read beyond its embeddings
        dtype = getattr(self._config, "dtype", None) or "auto"
        options: dict[str, Any] = {
            "revision": None if self.is_folder else self.revision,
            "trust_remote_code": self.trust_remote_code,
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
        names = [scoring_name(name) for name in self._load(AutoConfig, "configuration").architectures or []]
        known = ModelRegistry.get_supported_archs()
        if not any(name in known for name in names):
            raise PriorError(f"prior {self.name!r}: vLLM has no model of its own for it: set lazy=False")
        # The last token of a request is only a target: the model does not read it.
        longest = max(1, (self.max_length or 0) - 1)
        return {"runner": "pooling", "max_model_len": longest, "hf_overrides": {"architectures": names}}

    def _plain_options(self) -> dict[str, Any]:
        # vLLM reads the last token too, and wants room for one more. A head in half a precision would be off by 5 %.
        longest = (self.max_length or 0) + 1
        return {"max_model_len": longest, "max_logprobs": -1, "hf_overrides": {"head_dtype": "float32"}}

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """Scores of the requested positions; see `Prior.score`."""
        return _score_each(self, requests, top_k, self._score_lazily if self.lazy else self._score_plainly)

    def _score_lazily(self, requests: list[ScoreRequest], num_candidates: int) -> list[Scores]:
        model = self._model  # says what to do if there is no vLLM
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
        prompts = [TokensPrompt(prompt_token_ids=_prompt(request)) for request in requests]
        with self._clear_line():
            outputs = model.generate(prompts, params, use_tqdm=False)
        results = []
        for request, output in zip(requests, outputs, strict=True):
            laws = [
                {token_id: entry.logprob for token_id, entry in output.prompt_logprobs[t].items()}
                for t in request.positions
            ]
            results.append(_scores(request, laws, num_candidates))
        return results


class VLLMServerPrior(Pretrained):
    """A causal language model on a running vLLM server, by its OpenAI-compatible interface.

    model: the folder or Hub id that it serves: the tokenizer and the window are read from there. The server must call
        it by the same name (`--served-model-name`).
    url: of the server, such as "http://localhost:8000". If it asks for a key, VLLM_API_KEY holds it.
    revision, max_length, stride, trust_remote_code: as of TransformersPrior.
    max_in_flight: requests that the server gets at once. Failed ones are repeated.

    It computes every position, and its window is one token shorter than its `--max-model-len`. Start it with
    `--hf-overrides '{"head_dtype": "float32"}'`: logits of a half precision spread p by 5 %, whatever the threshold.
    Raises PriorError, with what to do, if the server can't be reached or is not what it should be.
    """

    LOADED: ClassVar[tuple[str, ...]] = (*Pretrained.LOADED, "_served")

    def __init__(
        self,
        model: str | os.PathLike[str],
        url: str,
        *,
        revision: str | None = None,
        max_length: int | None = None,
        stride: int | None = None,
        trust_remote_code: bool = False,
        max_in_flight: int = 32,
    ) -> None:
        if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ConfigError(f"url={url!r} is no address of a server: give one such as http://localhost:8000")
        check_count("max_in_flight", max_in_flight)
        super().__init__(
            model, revision=revision, max_length=max_length, stride=stride, trust_remote_code=trust_remote_code
        )
        self.url, self.max_in_flight = url.rstrip("/").removesuffix("/v1"), max_in_flight

    @property
    def max_length(self) -> int | None:
        longest = self._served[1] - 1  # one token more is generated
        if self._max_length is None:
            return min(longest, super().max_length or longest)
        if self._max_length > longest:
            raise PriorError(
                f"the server at {self.url} takes {longest} tokens, not max_length={self._max_length}: "
                f"set max_length={longest}, or start it with --max-model-len {self._max_length + 1}"
            )
        return self._max_length

    @cached_property
    def _served(self) -> tuple[str, int]:
        """What the server calls the model, and its `max_model_len`."""
        models = self._call("GET", "models").get("data")
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise PriorError(f"the server at {self.url} lists no models: give the url of a vLLM server")
        for model in models:
            if {model.get("id"), model.get("root")} & {self.name, self.path}:
                if not isinstance(model.get("max_model_len"), int):
                    raise PriorError(f"the server at {self.url} names no max_model_len: it must be vLLM's")
                self._check_ids(self._config.vocab_size)
                return model["id"], model["max_model_len"]
        names = ", ".join(repr(model.get("id")) for model in models) or "nothing"
        raise PriorError(
            f"the server at {self.url} serves {names}, not {self.name!r}: name what it serves as the prior, "
            f"or start it with --served-model-name {self.name}"
        )

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """Scores of the requested positions; see `Prior.score`."""
        return _score_each(self, requests, top_k, self._score)

    def _score(self, requests: list[ScoreRequest], num_candidates: int) -> list[Scores]:
        with ThreadPoolExecutor(self.max_in_flight) as executor:
            return list(executor.map(lambda request: self._score_one(request, num_candidates), requests))

    def _score_one(self, request: ScoreRequest, num_candidates: int) -> Scores:
        prompt = _prompt(request)
        body = {"model": self._served[0], "prompt": prompt, "max_tokens": 1, "prompt_logprobs": num_candidates}
        answer = self._call("POST", "completions", body)
        try:
            table = answer["choices"][0]["prompt_logprobs"]
            laws = [
                {int(token_id): entry["logprob"] for token_id, entry in table[t].items()} for t in request.positions
            ]
            return _scores(request, laws, num_candidates)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise PriorError(
                f"the server at {self.url} gave no prompt_logprobs for {len(prompt)} tokens: it must be a recent vLLM's"
            ) from error

    def _call(self, method: Any, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The server's answer. Repeats what fails by its load or the network; a Hub token is not sent."""
        from huggingface_hub.utils import http_backoff  # type: ignore[attr-defined]

        key = os.environ.get(API_KEY)
        options: dict[str, Any] = {"headers": {"Authorization": f"Bearer {key}"}} if key else {}
        if body is None:
            options["max_retries"] = 2  # a server that is not there should be told soon
        else:
            options["json"] = body
        with one_clear_line(f"no answer from the vLLM server at {self.url}", "start it, or give its url"):
            response = http_backoff(method, f"{self.url}/v1/{path}", timeout=TIMEOUT_SECONDS, **options)
        if response.status_code != 200:
            told = " ".join(response.text.split())[:200]
            fix = {
                401: f"set {API_KEY}",
                404: "give the url of a vLLM server, without a path",
            }.get(response.status_code, "see its messages; more than 20 candidates need --max-logprobs there")
            raise PriorError(f"the server at {self.url} refused ({response.status_code}: {told}): {fix}")
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise PriorError(f"the server at {self.url} answers no JSON: give the url of a vLLM server")
        return answer


def _score_each(
    prior: Pretrained,
    requests: Sequence[ScoreRequest],
    top_k: int,
    score: Callable[[list[ScoreRequest], int], list[Scores]],
) -> list[Scores]:
    """`score` of the requests that ask for something; nothing for the others."""
    num_candidates = min(top_k, prior._config.vocab_size)
    asking = [request for request in requests if len(request.positions)]
    longest = max((len(request.input_ids) for request in asking), default=0)
    if asking and prior.max_length is not None and longest > prior.max_length:
        raise PriorError(
            f"a request has {longest} tokens, prior {prior.name!r} takes {prior.max_length}: cut the text into windows"
        )
    found = iter(score(asking, num_candidates) if asking else [])
    shape = (0, num_candidates)
    nothing = Scores(np.empty(0), np.empty(shape, dtype=np.int64), np.empty(shape))
    return [next(found) if len(request.positions) else nothing for request in requests]


def _prompt(request: ScoreRequest) -> list[int]:
    """The tokens up to the last one that is asked for."""
    ids: list[int] = request.input_ids[: request.positions[-1] + 1].tolist()
    return ids


def _scores(request: ScoreRequest, laws: list[dict[int, float]], num_candidates: int) -> Scores:
    """Scores from vLLM's law of each position: the likeliest ids, and the target if it is not among them."""
    targets = request.input_ids[request.positions].tolist()
    logprob_E = np.array([law[target] for law, target in zip(laws, targets, strict=True)], dtype=float)
    likeliest = [sorted(law.items(), key=lambda item: -item[1])[:num_candidates] for law in laws]
    table_EK2 = np.array(likeliest, dtype=float)
    return Scores(logprob_E, table_EK2[..., 0].astype(np.int64), table_EK2[..., 1])
