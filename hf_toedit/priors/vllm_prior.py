"""Priors on vLLM: in this process, or on a server.

Shape suffixes: E requested positions, K candidates, V ids.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import numpy as np

from ..errors import ConfigError, PriorError, in_one_line, printable
from ..types import ScoreRequest, Scores
from .head import logit_error
from .pretrained import Pretrained, check_count, dtype_name, one_clear_line
from .vllm_model import TASK, pack_request, register, scoring_name, unpack_scores

DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType({})
API_KEY = "VLLM_API_KEY"  # the variable from which vLLM's server reads its own
LISTING_SECONDS = 30.0
WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0, 8.0)  # before an attempt is repeated
BUSY = (429, 500, 502, 503, 504)
Result = TypeVar("Result")


class VLLMPrior(Pretrained):
    """A causal language model on vLLM, in this process; loaded on first use.

    model: a folder, a Hub id, or "demo" (the small prior in this package), of an architecture that vLLM generates with.
    lazy: compute the head at the requested positions alone, with the plug-in of this package. False: by vLLM's own
        `prompt_logprobs`, at every position; several times slower, and its window is one token shorter.
    revision, max_length, stride, trust_remote_code: as of TransformersPrior.
    dtype: "auto" (the checkpoint's own) or a torch dtype or its name (also "bf16", "fp16", "fp32"). The logits that
        matter are computed in float32.
    engine: further options of `vllm.LLM`, such as {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.8}.

    vLLM does its own batching and takes the whole accelerator: give `map` large batches and no `num_proc`. The last
    bits of a probability may depend on the batch, and so, at near-ties, may the edit. Raises PriorError, with what to
    do, if vLLM or files are missing or broken.
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
        super().__init__(
            model, revision=revision, max_length=max_length, stride=stride, trust_remote_code=trust_remote_code
        )
        if not isinstance(engine, Mapping):
            raise ConfigError("engine= must be a dict of options of vllm.LLM, such as {'tensor_parallel_size': 2}")
        self.lazy, self.dtype, self.engine = lazy, dtype_name(dtype), dict(engine)

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "lazy": self.lazy, "dtype": self.dtype, "engine": self.engine}

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
    """A causal language model on a running vLLM server, through its OpenAI-compatible API.

    model: the folder or Hub id that it serves: the tokenizer and the window are read from there. The server must call
        it by the same name (`--served-model-name`).
    url: of the server, such as "http://localhost:8000". If it asks for a key, set VLLM_API_KEY; `user:password@` in
        front of the host is sent too, never shown, and not part of the attribute `url`.
    revision, max_length, stride, trust_remote_code: as of TransformersPrior.
    max_in_flight: how many requests the server gets at once.
    timeout_seconds: the longest that one request may take, retries included: requests that fail because of load or the
        network are retried.

    It computes every position, and its window is one token shorter than its `--max-model-len`. Start it with
    `--hf-overrides '{"head_dtype": "float32"}'`: with half-precision logits p is off by up to 5 %, whatever the
    threshold. Raises PriorError, with what to do, if the server can't be reached or does not fit.
    """

    LOADED: ClassVar[tuple[str, ...]] = (*Pretrained.LOADED, "_served")
    scores_fix = (
        "start the server with --logprobs-mode raw_logprobs (not processed_* or *_logits) and a --max-logprobs of at "
        "least top_k"
    )

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
        timeout_seconds: float = 300.0,
    ) -> None:
        parts = _split_url(url)
        check_count("max_in_flight", max_in_flight)
        if not 0 < timeout_seconds < math.inf:
            raise ConfigError(f"timeout_seconds={timeout_seconds} must be above 0 and finite")
        super().__init__(
            model, revision=revision, max_length=max_length, stride=stride, trust_remote_code=trust_remote_code
        )
        address = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
        self.url, self.max_in_flight = address.rstrip("/").removesuffix("/v1"), max_in_flight
        self.timeout_seconds = timeout_seconds
        # Not in the url, which messages name. The pickle has it: worker processes need it.
        self._login = (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None

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
        [answer] = _run(self._call_each("GET", "models", [None]))
        models = answer.get("data")
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise PriorError(f"the server at {self.url} lists no models: give the url of a vLLM server")
        for model in models:
            if any(model.get(key) in (self.name, self.path) for key in ("id", "root")):
                longest = model.get("max_model_len")
                if type(longest) is not int or longest < 2 or not isinstance(model.get("id"), str):
                    raise PriorError(f"the server at {self.url} reports no max_model_len: it must be a vLLM server")
                self._check_ids(self._config.vocab_size)
                return model["id"], longest
        names = printable(", ".join(repr(model.get("id")) for model in models)) or "nothing"
        raise PriorError(
            f"the server at {self.url} serves {names}, not {self.name!r}: name what it serves as the prior, "
            f"or start it with --served-model-name {self.name}"
        )

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """Scores of the requested positions; see `Prior.score`."""
        return _score_each(self, requests, top_k, self._score)

    def _score(self, requests: list[ScoreRequest], num_candidates: int) -> list[Scores]:
        body = {"model": self._served[0], "max_tokens": 1, "prompt_logprobs": num_candidates}
        prompts = [_prompt(request) for request in requests]
        answers = _run(self._call_each("POST", "completions", [{**body, "prompt": prompt} for prompt in prompts]))
        return [self._read(*pair, num_candidates) for pair in zip(requests, answers, strict=True)]

    def _read(self, request: ScoreRequest, answer: dict[str, Any], num_candidates: int) -> Scores:
        """The scores in a server's answer."""
        try:
            table = answer["choices"][0]["prompt_logprobs"]
            laws = [
                {int(token_id): _number(entry["logprob"]) for token_id, entry in table[t].items()}
                for t in request.positions
            ]
            scores = _scores(request, laws, num_candidates)
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise PriorError(
                f"the server at {self.url} returned no prompt_logprobs for {len(_prompt(request))} tokens: "
                "it must be a recent vLLM server"
            ) from error
        if scores.candidate_ids_EK.max(initial=0) >= self._config.vocab_size:
            told = f"the server at {self.url} returned tokens that {self.name!r} does not have"
            raise PriorError(f"{told}: it serves another model under that name")
        return scores

    # HTTP

    async def _call_each(self, method: str, path: str, bodies: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
        """The server's answers, `max_in_flight` at a time; the first failure ends them all. No Hub token is sent."""
        import httpx2

        key = os.environ.get(API_KEY, "").strip()
        if not key.isascii() or not key.isprintable():
            raise PriorError(f"{API_KEY} has characters that no key can have: set it again")
        gate = asyncio.Semaphore(self.max_in_flight)
        options: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "auth": self._login,
            "timeout": self.timeout_seconds,
            "limits": httpx2.Limits(max_connections=self.max_in_flight),
            "follow_redirects": True,
        }
        with one_clear_line(f"no answer from the vLLM server at {self.url}", "start it, or give its url"):
            async with httpx2.AsyncClient(**options) as client:

                async def call(body: dict[str, Any] | None) -> dict[str, Any]:
                    async with gate:
                        return self._content(await self._send(client, method, path, body), key)

                return await asyncio.gather(*map(call, bodies))

    async def _send(self, client: Any, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """The response to one request, within the time that it may take."""
        import httpx2

        seconds = self.timeout_seconds if body else min(self.timeout_seconds, LISTING_SECONDS)
        waits = WAITS_SECONDS if body else WAITS_SECONDS[:2]  # a server that is not there should be told soon
        told = "nothing came"

        async def attempt() -> Any:
            nonlocal told
            for wait in (*waits, None):
                try:
                    response = await client.request(method, f"{self.url}/v1/{path}", json=body)
                    told = f"it answered {response.status_code}"
                    if response.status_code not in BUSY:
                        return response
                except httpx2.TransportError as error:
                    told = in_one_line(error)
                if wait is None:
                    return None
                await asyncio.sleep(wait)

        try:
            response = await asyncio.wait_for(attempt(), seconds)
        except TimeoutError:
            response, told = None, f"{told} within {seconds:g} seconds (timeout_seconds={self.timeout_seconds:g})"
        if response is None:
            raise PriorError(f"no answer from the vLLM server at {self.url}: {told}; start it, or give its url")
        return response

    def _content(self, response: Any, key: str) -> dict[str, Any]:
        """The JSON object in a response."""
        if response.status_code != 200:
            text = response.text[:10_000]
            for secret in filter(None, (key, *(self._login or ()))):
                text = text.replace(secret, "***")
            fix = {
                401: f"set {API_KEY}",
                404: "give the url of a vLLM server, without a path",
            }.get(response.status_code, "see its messages; more than 20 candidates need --max-logprobs there")
            raise PriorError(f"the server at {self.url} refused ({response.status_code}: {printable(text)}): {fix}")
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise PriorError(f"the server at {self.url} did not return JSON: give the url of a vLLM server")
        return answer


def _split_url(url: str) -> SplitResult:
    """The parts of a server's address. What stands in front of `@` is not shown: it may be a password."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except (ValueError, AttributeError, TypeError):  # broken brackets or port; not a string
        pass
    shown = str(url).rpartition("@")[2]
    raise ConfigError(f"url={shown!r} is not the address of a server: give one such as http://localhost:8000")


def _run(calls: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine: run here, or in a thread where an event loop is running already, as in notebooks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(calls)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, calls).result()


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
    scores = [next(found) if len(request.positions) else nothing for request in requests]
    return [dataclasses.replace(one, logit_error=_logit_error(prior)) for one in scores]


def _logit_error(prior: Pretrained) -> float:
    """By the dtype that a prior was given, else by the checkpoint's own, which a server is taken to run in."""
    import torch

    dtype = getattr(prior, "dtype", "auto")
    if dtype == "auto":
        dtype = getattr(prior._config, "dtype", None)
    known = getattr(torch, str(dtype).removeprefix("torch."), None)
    return logit_error(known if isinstance(known, torch.dtype) else torch.bfloat16)


def _prompt(request: ScoreRequest) -> list[int]:
    """The tokens up to the last one that is asked for."""
    ids: list[int] = request.input_ids[: request.positions[-1] + 1].tolist()
    return ids


def _number(value: Any) -> float:
    """A log-probability from JSON. Null, which stands for one that is not finite, is NaN; true and text are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
        raise TypeError(type(value).__name__)
    return math.nan if value is None else float(value)


def _scores(request: ScoreRequest, laws: list[dict[int, float]], num_candidates: int) -> Scores:
    """Scores from vLLM's law of each position: the likeliest ids, and the target if it is not among them.

    As many candidates as every position has. NaN comes first, so that it is seen.
    """
    targets = request.input_ids[request.positions].tolist()
    logprob_E = np.array([law[target] for law, target in zip(laws, targets, strict=True)], dtype=float)
    size = min(num_candidates, *map(len, laws))
    likeliest = [sorted(law.items(), key=lambda item: (item[1] == item[1], -item[1]))[:size] for law in laws]
    table_EK2 = np.array(likeliest, dtype=float)
    return Scores(logprob_E, table_EK2[..., 0].astype(np.int64), table_EK2[..., 1])
