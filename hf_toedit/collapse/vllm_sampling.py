"""Sampling with vLLM, in a process of its own: when it ends, the accelerator's memory is free for training again.

`python -m hf_toedit.collapse.vllm_sampling FOLDER` samples what FOLDER/job.json asks for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ConfigError, PriorError
from ..experiments.sampling import SamplingJob, until
from ..files.outputs import scratch_folder
from ..scale.interrupts import end_with_parent

JOB, COMPLETIONS, MODEL = "job.json", "completions.json", "model"
NEVER = -100.0  # added to a logit
SEEDS = 2**32


def check_vllm() -> None:
    """Raise ConfigError if vLLM is not installed."""
    if find_spec("vllm") is None:
        raise ConfigError("sampler='vllm' needs vLLM, which is not installed: pip install vllm, or leave sampler out")


def sample_with_vllm(model: Any, job: SamplingJob) -> list[list[int]]:
    """The completions as token ids, in order, without their ends. Meanwhile the model leaves the accelerator."""
    with scratch_folder() as work:
        return _sample(model, job, work)


def _sample(model: Any, job: SamplingJob, work: Path) -> list[list[int]]:
    import torch

    device = model.device
    model.save_pretrained(work / MODEL)
    (work / JOB).write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
    model.to("cpu")
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()
    try:
        run_apart(work)
    finally:
        model.to(device)
    completions: list[list[int]] = json.loads((work / COMPLETIONS).read_text(encoding="utf-8"))
    return completions


def run_apart(work: Path) -> None:
    """Sample in a process of its own, which never outlives this one."""
    check_vllm()
    defaults = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "hf_toedit.collapse.vllm_sampling", str(work)]
    code = subprocess.run(command, env={**defaults, **os.environ}, check=False).returncode
    if code:
        fix = "see its messages above; options of vllm.LLM go in engine={...}"
        raise PriorError(f"vLLM ended with code {code} while it sampled: {fix}")


def complete(folder: Path) -> list[list[int]]:
    """Sample what the folder's job asks for, in this process."""
    from vllm import LLM, SamplingParams, TokensPrompt

    job = SamplingJob(**json.loads((folder / JOB).read_text(encoding="utf-8")))
    longest = max(map(len, job.prompts)) + job.max_tokens
    plain = {"skip_tokenizer_init": True, "generation_config": "vllm", "max_model_len": longest}
    model = LLM(str(folder / MODEL), **{**plain, **job.engine})
    shared = SamplingParams(
        temperature=job.temperature,
        max_tokens=job.max_tokens,
        min_tokens=job.min_tokens,
        stop_token_ids=[job.end],
        logit_bias=dict.fromkeys(job.unwanted, NEVER),
        detokenize=False,
    )
    params = []
    for number in range(len(job.prompts)):
        params.append(shared.clone())
        params[-1].seed = (job.seed + number) % SEEDS
    prompts = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in job.prompts]
    outputs = model.generate(prompts, params, use_tqdm=False)
    return [until(list(output.outputs[0].token_ids), job.end) for output in outputs]


if __name__ == "__main__":
    end_with_parent()
    place = Path(sys.argv[1])
    (place / COMPLETIONS).write_text(json.dumps(complete(place)), encoding="utf-8")
