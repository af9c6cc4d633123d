"""Continue pre-training on packed text with TRL, once unedited and once with edited batches, and compare the losses on
held-out text.

    python examples/continued_pretraining.py

For real use, set MODEL to the model to train and PRIOR to a stronger model with the same tokenizer (if its tokenizer
differs, edit the dataset beforehand: ds.map(ToEditTransform(PRIOR), batched=True)), use your own text, and leave out
`use_cpu=True`. Six steps with one seed don't tell which arm is better: `hf-toedit run` trains each arm with several
seeds and tests the differences. Needs pip install 'hf-toedit[train]'.
"""

import inspect
import string
import tempfile
import textwrap
import unittest

from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from hf_toedit import ToEditCallback, TransformersPrior

MODEL = TransformersPrior("demo").path  # the folder of the small bundled model
PRIOR = "demo"

modules = [string, textwrap, unittest, unittest.TestCase]
texts = sorted({text for module in modules for value in vars(module).values() if (text := inspect.getdoc(value))})
splits = Dataset.from_dict({"text": texts}).train_test_split(test_size=0.2, seed=0)
tokenizer = AutoTokenizer.from_pretrained(MODEL)
tokenizer.pad_token = tokenizer.eos_token

loss, changed_rate = {}, {}
for arm, callbacks in {"source": [], "edited": [ToEditCallback(PRIOR, threshold=0.9)]}.items():
    trainer = SFTTrainer(
        model=MODEL,
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(),
            max_steps=6,
            per_device_train_batch_size=4,
            max_length=128,
            packing=True,  # each piece of a packed row is edited as a separate text
            learning_rate=1e-4,
            activation_checkpointing=False,
            logging_steps=3,
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["test"],  # never edited
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.train()
    loss[arm] = trainer.evaluate()["eval_loss"]
    logged = [log["toedit/changed_rate"] for log in trainer.state.log_history if "toedit/changed_rate" in log]
    changed_rate[arm] = sum(logged) / len(logged) if logged else 0.0

print(f"{'arm':8} {'changed tokens':>14} {'held-out loss':>14}")
for arm in loss:
    print(f"{arm:8} {changed_rate[arm]:14.2%} {loss[arm]:14.4f}")
