"""A prior on a running vLLM server, through its OpenAI-compatible API."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, final
from urllib.parse import SplitResult, unquote, urlsplit

from tokenizers import Tokenizer

from ..display import as_call
from ..editing.once import computed_once
from ..errors import ConfigError, PriorError, in_one_line, printable
from ..types import ScoreRequest, Scores
from .pretrained import Checkpoint, check_count, check_window, one_clear_line
from .prompt_logprobs import check_lengths, fill_in, prompt_of, rounding_of, scores_of

API_KEY = "VLLM_API_KEY"  # the variable that vLLM's server reads its own key from
LISTING_SECONDS = 30.0
WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0, 8.0)  # before each retry
BUSY = (429, 500, 502, 503, 504)  # status codes after which a request is retried
Result = TypeVar("Result")


@final
class VLLMServerPrior:
    """A causal language model on a running vLLM server, through its OpenAI-compatible API.

    model: the folder or Hub id of the model it serves, from which the tokenizer and the window are read. The server
        must call it by the same name (`--served-model-name`).
    url: the server's address, such as "http://localhost:8000". If it asks for a key, set VLLM_API_KEY; `user:password@`
        in front of the host is sent too, never shown, and not part of the attribute `url`.
    revision, max_length, stride, trust_remote_code: as for TransformersPrior.
    max_in_flight: the most requests that the server gets at once.
    timeout_seconds: the longest that one request may take, including retries after failures of the network or under
        load.

    It computes every position, and its window is one token shorter than its `--max-model-len`. Start it with
    `--hf-overrides '{"head_dtype": "float32"}'`: with half-precision logits p is off by up to 5 %, whatever the
    threshold. Raises PriorError, with what to do, if the server can't be reached or serves another model.
    """

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
        address = _checked_address(url)
        check_count("max_in_flight", max_in_flight)
        if not 0 < timeout_seconds < math.inf:
            raise ConfigError(f"timeout_seconds={timeout_seconds} must be above 0 and finite")
        self.checkpoint = Checkpoint(model, revision=revision, trust_remote_code=trust_remote_code)
        check_window(max_length, stride)
        shown = address._replace(netloc=address.netloc.rpartition("@")[2], query="", fragment="").geturl()
        self.url = shown.rstrip("/").removesuffix("/v1")
        self.max_in_flight, self.timeout_seconds = max_in_flight, timeout_seconds
        self._max_length, self._stride = max_length, stride
        # With a login, which messages must not show. It is in the pickle, since worker processes need it; a url of a
        # class that pickles without its value stays of that class.
        self._full_url = url

    @property
    def _login(self) -> tuple[str, str] | None:
        """The user and the password of the server, if its url has any."""
        address = urlsplit(self._full_url)
        return None if address.username is None else (unquote(address.username), unquote(address.password or ""))

    def __repr__(self) -> str:
        return as_call(self, **self.checkpoint.as_arguments())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_served"}

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
        return {"trust_remote_code": self.checkpoint.trust_remote_code}

    @property
    def max_length(self) -> int:
        longest = self._served[1] - 1  # vLLM generates one more token
        if self._max_length is None:
            return min(longest, self.checkpoint.window)
        if self._max_length > longest:
            raise PriorError(
                f"the server at {self.url} takes {longest} tokens, not max_length={self._max_length}: "
                f"set max_length={longest}, or start it with --max-model-len {self._max_length + 1}"
            )
        return self._max_length

    @property
    def stride(self) -> int:
        return self._stride or self.max_length // 2

    @computed_once
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
                self.checkpoint.check_ids(self.checkpoint.config.vocab_size)
                return model["id"], longest
        names = printable(", ".join(repr(model.get("id")) for model in models)) or "nothing"
        raise PriorError(
            f"the server at {self.url} serves {names}, not {self.name!r}: name what it serves as the prior, "
            f"or start it with --served-model-name {self.name}"
        )

    def score(self, requests: Sequence[ScoreRequest], top_k: int) -> list[Scores]:
        """Scores of the requested positions; see `Prior.score`."""
        config = self.checkpoint.config
        num_candidates = min(top_k, config.vocab_size)
        asking = [request for request in requests if len(request.positions)]
        scores: list[Scores] = []
        if asking:
            check_lengths(asking, self.name, self.max_length)
            scores = self._score(asking, num_candidates)
        # The server is taken to run in the checkpoint's own dtype.
        return fill_in(scores, requests, num_candidates, rounding_of("auto", config))

    def _score(self, requests: list[ScoreRequest], num_candidates: int) -> list[Scores]:
        body = {"model": self._served[0], "max_tokens": 1, "prompt_logprobs": num_candidates}
        prompts = [prompt_of(request) for request in requests]
        answers = _run(self._call_each("POST", "completions", [{**body, "prompt": prompt} for prompt in prompts]))
        return [self._read(request, answer, num_candidates) for request, answer in zip(requests, answers, strict=True)]

    def _read(self, request: ScoreRequest, answer: dict[str, Any], num_candidates: int) -> Scores:
        """The scores in a server's answer."""
        try:
            table = answer["choices"][0]["prompt_logprobs"]
            logprobs_E = [
                {int(token_id): _number(entry["logprob"]) for token_id, entry in table[t].items()}
                for t in request.positions
            ]
            scores = scores_of(request, logprobs_E, num_candidates)
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise PriorError(
                f"the server at {self.url} returned no prompt_logprobs for {len(prompt_of(request))} tokens: "
                "it must be a recent vLLM server"
            ) from error
        if scores.candidate_ids_EK.max(initial=0) >= self.checkpoint.config.vocab_size:
            raise PriorError(
                f"the server at {self.url} returned tokens that {self.name!r} does not have: "
                "it serves another model under that name"
            )
        return scores

    # HTTP

    async def _call_each(self, method: str, path: str, bodies: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
        """The server's answers to several bodies, `max_in_flight` at a time. The first failure ends all the requests.

        No Hub token is sent.
        """
        import httpx2

        key = os.environ.get(API_KEY, "").strip()
        if not key.isascii() or not key.isprintable():
            raise PriorError(f"{API_KEY} has characters that a key can't have: set it again")
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
        """The response to one request. Raises PriorError if none comes within the time that it may take."""
        import httpx2

        seconds = self.timeout_seconds if body else min(self.timeout_seconds, LISTING_SECONDS)
        waits = WAITS_SECONDS if body else WAITS_SECONDS[:2]  # a missing server should be reported soon
        outcome = "nothing came"

        async def attempt() -> Any:
            nonlocal outcome
            for wait in (*waits, None):
                try:
                    response = await client.request(method, f"{self.url}/v1/{path}", json=body)
                    outcome = f"it answered {response.status_code}"
                    if response.status_code not in BUSY:
                        return response
                except httpx2.TransportError as error:
                    outcome = in_one_line(error)
                if wait is None:
                    return None
                await asyncio.sleep(wait)

        try:
            response = await asyncio.wait_for(attempt(), seconds)
        except TimeoutError:
            response = None
            outcome += f" within {seconds:g} seconds (timeout_seconds={self.timeout_seconds:g})"
        if response is None:
            raise PriorError(f"no answer from the vLLM server at {self.url}: {outcome}; start it, or give its url")
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


def _checked_address(url: str) -> SplitResult:
    """A server's address, split up. Raises ConfigError without what stands before `@`: it may be a password."""
    try:
        address = urlsplit(url)
        if address.scheme in ("http", "https") and address.hostname and address.port != 0:
            return address
    except (ValueError, AttributeError, TypeError):  # broken brackets or port; not a string
        pass
    shown = str(url).rpartition("@")[2]
    raise ConfigError(f"url={shown!r} is not the address of a server: give one such as http://localhost:8000")


def _run(calls: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine. It runs in a thread if an event loop is already running here, as in notebooks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(calls)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, calls).result()


def _number(value: Any) -> float:
    """A log-probability from JSON. Null, which stands for one that is not finite, is NaN.

    Raises TypeError for anything else that is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
        raise TypeError(type(value).__name__)
    return math.nan if value is None else float(value)
