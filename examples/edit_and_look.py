"""Edit a dataset with the paper's settings, look at what changed, undo it, and save the result with its record.

    python examples/edit_and_look.py

For real use, replace "demo" with a prior such as "Qwen/Qwen2.5-0.5B", and the rows with your own dataset:
load_dataset("json", data_files="texts.jsonl", split="train").
"""

import inspect
import string
import tempfile
import textwrap
import unittest

from datasets import Dataset, load_dataset

from hf_toedit import ToEditTransform, revert, show, summarize

# Docstrings are English text that every machine with Python has.
modules = [string, textwrap, unittest, unittest.TestCase]
texts = sorted({text for module in modules for value in vars(module).values() if (text := inspect.getdoc(value))})
ds = Dataset.from_dict({"text": texts})

transform = ToEditTransform("demo")  # threshold=0.99, top_k=8, temperature=1.5
edited = ds.map(transform, batched=True)

print(summarize(edited))
show(edited)  # some of the edited rows; show(row) shows one

# Each row records its edits, so that they can be undone.
assert edited.map(revert)["text"] == texts

# Write data, statistics, a histogram and the full record of the edit to a folder that load_dataset can read.
folder = tempfile.mkdtemp()
transform.save(edited, folder)
print(load_dataset(folder, split="train"))
