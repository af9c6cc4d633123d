"""Calls as users write them, for mypy: each line marked `# error` must be one, and no other. See test_types.py."""

from datasets import Dataset, DatasetDict, IterableDataset
from transformers import TrainingArguments

from hf_toedit import (
    DatasetStats,
    LossSelection,
    SelectiveLabels,
    StaticPrior,
    ToEditCallback,
    ToEditConfig,
    ToEditTransform,
    TransformersPrior,
    load_edited,
    push_dataset,
    revert,
    show,
    summarize,
)
from hf_toedit.measure import (
    DistinctN,
    EditProfile,
    Measurement,
    NGrams,
    Perplexity,
    TokenProbability,
    mauve,
    measure,
    module_path,
    read_documents,
    self_bleu,
    words_of,
)

transform = ToEditTransform("demo", threshold=0.9, top_k=4, protect=["numbers"], strategy="drop", columns="text")
ToEditTransform("demo", treshold=0.9)  # error
ToEditTransform("demo", threshold="x")  # error
ToEditTransform("demo", strategy="resampel")  # error
ToEditTransform("demo", top_p=None, protect=("code",))
ToEditTransform("demo", {"threshold": 0.9}, stats="full")
ToEditTransform("demo", stats="sampeld")  # error
ToEditTransform(TransformersPrior("demo"), ToEditConfig(seed=3))
ToEditTransform(3)  # error
ToEditConfig(treshold=0.9)  # error
ToEditConfig(threshold="x")  # error

callback = ToEditCallback("base", threshold=0.9, redraw=False)
ToEditCallback("base", treshold=0.9)  # error
ToEditCallback("base", generation="x")  # error
callback.config.threshold.is_integer()
ToEditCallback(TransformersPrior("demo"), base="self", select={"share": 0.5})
ToEditCallback("self", select=LossSelection(high=0.99))
ToEditCallback("self", select=0.99)  # error
SelectiveLabels("demo", high=0.5, stats_column=None)
SelectiveLabels("demo", hihg=0.5)  # error
print(callback.config.treshold)  # error


def edit(rows: Dataset, splits: DatasetDict, arguments: TrainingArguments) -> DatasetStats:
    edited = rows.map(transform, batched=True)
    show(edited)
    show(splits, 3)
    show({"text": "a", "toedit": None})
    show(edited, num_row=3)  # error
    stats: DatasetStats = transform.save(edited, "folder")
    print(stats.change_rate)  # error
    transform.save(edited, "folder", earlier=ToEditTransform("demo"))
    transform.save(edited, "folder", earlier=3)  # error
    transform.report(splits, "report.html", against=rows, by="source")
    transform.report(edited, 3)  # error
    transform.write_model_card(edited, "model", base_model="org/model")
    transform.write_model_card(edited, base_modle="org/model")  # error
    pushed = push_dataset(edited, "me/texts", transform=transform, mode="patch")
    print(pushed.url, pushed.card.title(), pushed.files.items())
    push_dataset(edited, "me/texts", transform=[transform, {"fingerprint": None}], private=False)
    push_dataset(edited, "me/texts")  # error
    push_dataset(edited, "me/texts", transform=3)  # error
    push_dataset(edited, "me/texts", transform=transform, mode="pach")  # error
    push_dataset(edited, "me/texts", transform=transform, dryrun=True)  # error
    load_edited("me/texts", split="train", source="texts.jsonl")
    load_edited("me/texts", spilt="train")  # error
    row: dict[str, object] = revert({"text": "a", "toedit": None})
    assert row
    return summarize(splits)


StaticPrior("demo", lambda input_ids, t: {int(input_ids[t]): 0.995})  # error


def of_the_texts(rows: Dataset, stream: IterableDataset) -> dict[str, object]:
    counted, others = NGrams(n=2, num_buckets=100), NGrams()
    measure(rows, counted, Perplexity(), prior="demo", columns=["text"])["perplexity"]["median"].hex()
    measure(stream, TokenProbability(threshold=0.9), EditProfile(), prior=TransformersPrior("demo"))
    measure(["a text"], 3)  # error
    measure(rows, NGrams, prior="demo")  # error
    measure(rows, collumns="text")  # error
    measure(rows, columns=3)  # error
    NGrams(m=2)  # error
    DistinctN(n="x")  # error
    of_all: list[Measurement] = [counted.update(rows).merge(others), Perplexity()]
    counted.merge(Perplexity())  # error
    counted.shift(others)["js_divergence"].hex()
    [len(words_of(document.text or "")) for document in read_documents(rows, context="title", stats_column="edits")]
    [document.txet for document in read_documents(rows)]  # error
    self_bleu(rows, n=3, sample_size=10, columns="text")
    self_bleu(rows, 3)  # error
    mauve(rows, stream, model="demo", num_buckets=2, seed=1)
    mauve(rows, stream)  # error
    module_path("ngrams").exists()  # error
    return {measurement.name: measurement.result() for measurement in of_all}
