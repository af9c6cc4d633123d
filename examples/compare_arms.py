"""Compare the method with the control arms that a fair experiment needs, before any model is trained.

    python examples/compare_arms.py

`random` makes as many changes as `resample`, but anywhere, and with tokens from the corpus' unigram distribution. Any
difference between them is due to the choice of tokens, not to the amount of noise. `hf-toedit run small --smoke` goes
further: it trains a model on the rows of each arm and evaluates it. For real use, replace "demo" and the rows.
"""

import inspect

from datasets import Dataset

from hf_toedit import ToEditTransform, summarize

texts = sorted({text for value in vars(str).values() if (text := inspect.getdoc(value))})
ds = Dataset.from_dict({"text": texts})

arms = {
    "none": {"strategy": "none"},
    "resample": {"strategy": "resample", "exclude_target": True},
    "random": {"strategy": "random", "exclude_target": True},
    "drop": {"strategy": "drop", "drop_below": 0.001},
}
score = ToEditTransform("demo", strategy="none", stats="full")  # asks for each token's probability, edits nothing
perplexity, num_changed = {}, {}

print(f"{'arm':10} {'changed':>8} {'of all tokens':>14} {'perplexity':>11}   (under the prior)")
for arm, settings in arms.items():
    transform = ToEditTransform("demo", **settings)
    if settings["strategy"] == "random":
        transform.fit(ds)  # counts the corpus' tokens
    edited = ds.map(transform, batched=True)
    done = summarize(edited)
    num_changed[arm] = done.tokens.num_changed
    perplexity[arm] = summarize(edited.remove_columns("toedit").map(score, batched=True)).perplexity
    print(f"{arm:10} {num_changed[arm]:8,} {done.changed_rate:14.2%} {perplexity[arm]:11.2f}")
