"""Edit what the assistant says. The prior reads the whole conversation; other roles and the template are unchanged.

    python examples/conversations.py

For real use, replace "demo" with a chat model such as "Qwen/Qwen2.5-0.5B-Instruct", whose own chat template is then
used, and replace the rows with your own: `messages` (OpenAI's keys) or `conversations` (ShareGPT's).
"""

import inspect
import string
import textwrap

from datasets import Dataset

from hf_toedit import ToEditTransform, show, summarize

documented = [string.capwords, textwrap.wrap, textwrap.dedent, str.split, str.partition, dict.fromkeys]
ds = Dataset.from_dict(
    {
        "messages": [
            [
                {"role": "system", "content": "You explain the functions of Python's standard library."},
                {"role": "user", "content": f"What does {function.__qualname__} do?"},
                {"role": "assistant", "content": inspect.getdoc(function)},
                {"role": "user", "content": "Thanks! Is 3.11 new enough for it?"},
                {"role": "assistant", "content": "Yes, that works with Python 3.11 and with all later versions of it."},
            ]
            for function in documented
        ]
    }
)

transform = ToEditTransform(
    "demo",
    roles=["assistant"],  # the default; ["user", "assistant"] edits both
    protect=["numbers", "code"],  # digits, and code in backticks or fences, never change
    threshold=0.8,  # lower than the paper's 0.99, so that even a few rows show changes
)
edited = ds.map(transform, batched=True)

show(edited[0])
print(summarize(edited))

for before, after in zip(ds["messages"], edited["messages"], strict=True):
    for old, new in zip(before, after, strict=True):
        assert old["role"] == "assistant" or old == new
