"""Fine-tune with TRL and LoRA on completions with new edits in each epoch. The frozen base model is the prior.

    python examples/sft_lora.py

For real use, set MODEL to a Hub id such as "Qwen/Qwen2.5-0.5B", use your own rows, and leave out `use_cpu=True` and
the low threshold. Needs pip install 'hf-toedit[train]'.
"""

import inspect
import string
import tempfile
import textwrap

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from hf_toedit import ToEditCallback, TransformersPrior

MODEL = TransformersPrior("demo").path  # the folder of the small bundled model

documented = [string.capwords, textwrap.wrap, textwrap.dedent, str.split, str.partition, str.title, str.zfill, str.join]
rows = [
    {"prompt": f"What does {function.__name__} do?\n", "completion": inspect.getdoc(function)}
    for function in documented
]
tokenizer = AutoTokenizer.from_pretrained(MODEL)
tokenizer.pad_token = tokenizer.eos_token

trainer = SFTTrainer(
    model=MODEL,
    args=SFTConfig(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=3,
        per_device_train_batch_size=4,
        max_length=256,
        learning_rate=1e-3,
        activation_checkpointing=False,
        logging_steps=2,
        report_to="none",
        use_cpu=True,
    ),
    train_dataset=Dataset.from_list(rows),
    processing_class=tokenizer,
    peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    # "base": the model with its adapters off, so that no second model is in memory. Prompts, as context, don't change.
    callbacks=[ToEditCallback("base", threshold=0.8)],
)
trainer.train()

print(f"{'step':>4} {'loss':>6} {'eligible':>9} {'changed':>8} {'perplexity of the prior':>24}")
for log in trainer.state.log_history:
    if "toedit/changed_rate" in log:
        rates = f"{log['toedit/eligible_rate']:9.1%} {log['toedit/changed_rate']:8.2%}"
        print(f"{log['step']:4} {log['loss']:6.2f} {rates} {log['toedit/prior_perplexity']:24.2f}")
