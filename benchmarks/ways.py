"""One way to find, for each token of some documents, how sure a prior is of it: a worker process of compare.py.

    python benchmarks/ways.py FOLDER WAY

FOLDER holds a model and `documents.npz`. The worker makes ready, then runs once for each line on its standard input
and answers with a line of JSON: seconds, and the most memory the process had held until then.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hf_toedit import ScoreRequest, ToEditConfig, TransformersPrior
from hf_toedit.editing.decision import change_bound

Run = Callable[[], object]
MAX_LENGTH = 2048


def read_documents(folder: Path) -> list[np.ndarray]:
    with np.load(folder / "documents.npz") as stored:
        return np.split(stored["ids"], np.cumsum(stored["lengths"])[:-1])


def requests_for(documents: list[np.ndarray], bound: float) -> list[ScoreRequest]:
    """Requests as the editor makes them: positions with u below the bound, each text up to the last of them."""
    generator = np.random.default_rng(1)
    requests = []
    for ids in documents:
        positions = np.flatnonzero(generator.random(len(ids) - 1) < bound) + 1
        if len(positions):
            requests.append(ScoreRequest(ids[: positions[-1] + 1], positions))
    return requests


def scoring(prior: Any, documents: list[np.ndarray], *, full: bool = False, **config_fields: Any) -> Run:
    config = ToEditConfig(**config_fields)
    requests = requests_for(documents, 1.0 if full else change_bound(config))
    return lambda: prior.score(requests, config.top_k)


# transformers


def on_transformers(folder: Path, documents: list[np.ndarray], way: str) -> Run:
    import torch

    prior = TransformersPrior(folder, dtype="bfloat16", max_length=MAX_LENGTH)
    if way == "ours":
        return scoring(prior, documents)
    if way == "ours-cold":
        return scoring(prior, documents, temperature=1.0)
    if way == "ours-full":
        return scoring(prior, documents, full=True)
    model = prior._model.model
    rows = [torch.from_numpy(ids)[None].to(model.device) for ids in documents]
    top_k = ToEditConfig().top_k

    def backbone(row: torch.Tensor) -> object:
        return model.base_model(input_ids=row, use_cache=False)[0]

    def forward(row: torch.Tensor) -> object:
        return model(input_ids=row, use_cache=False).logits

    def published(row: torch.Tensor) -> object:
        logprob = torch.log_softmax(model(input_ids=row, use_cache=False).logits[0].float(), -1)
        values, ids = logprob.topk(top_k, -1)
        target = logprob[:-1].gather(1, row[0, 1:, None])[:, 0]
        candidates = [dict(zip(*pair, strict=True)) for pair in zip(ids.tolist(), values.tolist(), strict=True)]
        return [math.exp(value) >= 0.99 for value in target.tolist()], candidates

    function = {"backbone": backbone, "forward": forward, "published": published}[way]

    @torch.inference_mode()
    def run() -> None:
        for row in rows:
            function(row)
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    return run


# vLLM


def on_vllm(folder: Path, documents: list[np.ndarray], way: str) -> Run:
    from vllm import LLM, SamplingParams, TokensPrompt
    from vllm.platforms import current_platform

    from hf_toedit import VLLMPrior

    options: dict[str, Any] = {"disable_log_stats": True, "enforce_eager": current_platform.is_cpu()}
    if way in ("vllm-lazy", "vllm-plain"):
        prior = VLLMPrior(folder, dtype="bfloat16", max_length=MAX_LENGTH - 1, lazy=way == "vllm-lazy", engine=options)
        return scoring(prior, documents)
    model = LLM(str(folder), dtype="bfloat16", max_model_len=MAX_LENGTH, enable_prefix_caching=False, **options)
    prompts = [TokensPrompt(prompt_token_ids=ids.tolist()) for ids in documents]
    top_k = ToEditConfig().top_k
    wanted = top_k if way == "vllm-published" else None
    parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=wanted, detokenize=False)

    def run() -> None:
        for output in model.generate(prompts, parameters, use_tqdm=False):
            if wanted is None:
                continue
            for token, logprobs in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True):
                if math.exp(logprobs[token].logprob) > 0.99:
                    sum(math.exp(candidate.logprob / 1.5) for candidate in logprobs.values())

    return run


def peak_bytes() -> int:
    """The most memory this process has held: on an accelerator that of the device, else resident memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def _own_stdout() -> Iterator[Any]:
    """The real standard output for the answers; whatever else prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    yield answers


def main(folder: Path, way: str) -> None:
    with _own_stdout() as answers:
        run = (on_vllm if way.startswith("vllm") else on_transformers)(folder, read_documents(folder), way)
        run()  # does not count
        answers.write("ready\n")
        for _ in sys.stdin:
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            answers.write(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
