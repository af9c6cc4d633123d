"""Completions sampled from a causal language model, with transformers or vLLM.

B rows of a batch, T tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import ConfigError
from ..priors.pretrained import window_of


@dataclasses.dataclass(frozen=True)
class SamplingJob:
    """Sample one completion of each prompt from softmax(logits / temperature), whatever the model's own settings say.

    prompts: token ids. min_tokens, max_tokens: of a completion, including its end. end: the id that ends one.
    temperature: 0 for the likeliest token each time. unwanted: ids never to sample. batch_size: with transformers, rows
    at a time. engine: with vLLM, more options of `vllm.LLM`, such as {"tensor_parallel_size": 2}.
    """

    prompts: Sequence[Sequence[int]]
    max_tokens: int
    end: int
    min_tokens: int = 0
    temperature: float = 1.0
    unwanted: Sequence[int] = ()
    seed: int = 0
    batch_size: int = 64
    engine: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def check_window(model: Any, job: SamplingJob) -> None:
    """Raise ConfigError if the model can't read a prompt and write its completion."""
    window = window_of(model.config.get_text_config())
    longest = max(map(len, job.prompts))
    if longest + job.max_tokens > window:
        raise ConfigError(
            f"a prompt has {longest:,} tokens and max_new_tokens={job.max_tokens:,}, but the model reads {window:,}: "
            "leave out long prompts, or lower max_new_tokens"
        )


def sample_with_transformers(model: Any, job: SamplingJob) -> list[list[int]]:
    """The completions as token ids, in order, without their ends. Equal seeds and batch sizes give equal ones."""
    import torch

    found: list[list[int]] = []
    with torch.random.fork_rng(), _generating(model, job) as config:
        torch.manual_seed(job.seed)
        for start in range(0, len(job.prompts), job.batch_size):
            prompts = job.prompts[start : start + job.batch_size]
            length = max(map(len, prompts))
            ids_BT = torch.tensor([[*[job.end] * (length - len(ids)), *ids] for ids in prompts])
            mask_BT = torch.tensor([[*[0] * (length - len(ids)), *[1] * len(ids)] for ids in prompts])
            inputs = {"input_ids": ids_BT.to(model.device), "attention_mask": mask_BT.to(model.device)}
            written_BT = model.generate(**inputs, generation_config=config)
            found += [until(ids, job.end) for ids in written_BT[:, length:].tolist()]
    return found


@contextmanager
def _generating(model: Any, job: SamplingJob) -> Iterator[Any]:
    """The model in evaluation mode, and how to generate; its own generation_config is set aside."""
    from transformers import GenerationConfig

    mode, own = model.training, model.generation_config
    drawn = {"do_sample": True, "temperature": float(job.temperature), "top_k": 0, "top_p": 1.0}
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        **(drawn if job.temperature else {"do_sample": False}),
        max_new_tokens=job.max_tokens,
        min_new_tokens=job.min_tokens,
        suppress_tokens=list(job.unwanted) or None,
        eos_token_id=job.end,
        pad_token_id=job.end,
    )
    model.generation_config = config
    model.eval()
    try:
        yield config
    finally:
        model.generation_config = own
        model.train(mode)


def until(ids: list[int], end: int) -> list[int]:
    """The ids before the first end."""
    return ids[: ids.index(end)] if end in ids else ids
