"""Edit with a prior that vLLM runs in this process, computing the head only where a token can change.

    python examples/on_vllm.py                    # on a GPU, after pip install 'hf-toedit[vllm]'

For real use, replace "demo" with the prior you want, and the rows with your own. vLLM does its own batching: give `map`
large batches and no num_proc. To ask a running server, use VLLMServerPrior(model, "http://localhost:8000") instead.
"""

import inspect
import string
import textwrap
import unittest

from datasets import Dataset

from hf_toedit import ToEditTransform, VLLMPrior, show, summarize


def main() -> None:
    modules = [string, textwrap, unittest, unittest.TestCase]
    texts = sorted({text for module in modules for value in vars(module).values() if (text := inspect.getdoc(value))})
    ds = Dataset.from_dict({"text": texts})

    # engine: options of vllm.LLM, such as tensor_parallel_size=2. These suit a small model, which needs little memory.
    prior = VLLMPrior("demo", engine={"enforce_eager": True, "kv_cache_memory_bytes": 2**26})
    edited = ds.map(ToEditTransform(prior), batched=True, batch_size=10_000)

    print(summarize(edited))
    show(edited)


if __name__ == "__main__":  # vLLM starts processes that import this file
    main()
