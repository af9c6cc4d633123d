"""Train the bundled prior `"demo"`: a small Llama on docstrings, text that any machine with Python has.

    python scripts/train_demo_prior.py train --out demo_prior --corpus FOLDER
    python scripts/train_demo_prior.py evaluate demo_prior

Text: docstrings of the standard library and of the installed packages, and, with `--corpus`, the `text`
field of every JSONL(.gz) file in a folder. One top-level module of the standard library in ten (chosen by
a hash of its name) is held out, together with every docstring that occurs in it or shares a long line with
it; `evaluate` prints the model card's figures on these. With `--start`, training starts from the layers of
another prior of the same shape.

The learning rate follows processor time, so that a busy machine does not distort it; a checkpoint is written
after each tenth of the run.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import math
import random
import sysconfig
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_toedit import ToEditTransform, summarize
from hf_toedit.experiments.docstrings import docstrings, standard_library

END = "<|endoftext|>"
HELD_OUT_SHARE = 10
app = typer.Typer(add_completion=False)


def is_held_out(module: str) -> bool:
    digest = hashlib.sha256(module.split(".")[0].encode()).digest()
    return digest[0] % HELD_OUT_SHARE == 0


def read_corpus(folder: Path) -> list[str]:
    texts = []
    for path in sorted(folder.glob("*.jsonl*")):
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in lines]
    return texts


def pieces(text: str, size: int) -> list[str]:
    """Cut a book into pieces of `size` characters, so that no document outweighs the others."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> NDArray[np.uint16]:
    """All documents one after the other, each preceded by the begin-of-text token. Shape [tokens]."""
    rows = [np.array(row.ids, dtype=np.uint16) for row in tokenizer.encode_batch(texts)]
    return np.concatenate(rows)


def new_model(vocab_size: int, context: int, end_id: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=end_id,
        eos_token_id=end_id,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def take_over(model: LlamaForCausalLM, tokenizer: Tokenizer, start: Path) -> None:
    """Start from the layers of another prior. A token's embedding is the mean of those of its pieces there."""
    state = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict()
    old, embedding = Tokenizer.from_file(str(start / "tokenizer.json")), state["model.embed_tokens.weight"]
    rows = [embedding[old.token_to_id(END)]]
    for index in range(1, tokenizer.get_vocab_size()):
        ids = [token.id for token in old.model.tokenize(tokenizer.id_to_token(index))]
        rows.append(embedding[ids].mean(0))
    state["model.embed_tokens.weight"] = state["lm_head.weight"] = torch.stack(rows)
    model.load_state_dict(state)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(out)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        model_max_length=model.config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(out)


def learning_rate(step: int, progress: float, warmup: int = 100) -> float:
    """Fraction of the peak rate: linear warm-up, constant until two fifths of the run, then linear to zero."""
    return min(1.0, (step + 1) / warmup, max(0.0, 1 - progress) / 0.6)


def fit(
    model: LlamaForCausalLM,
    stream: NDArray[np.uint16],
    *,
    minutes: float,
    wall_minutes: float,
    batch_tokens: int,
    peak: float,
) -> Iterator[float]:
    """Train with Muon on the matrices and AdamW on embeddings and norms; half the context for two thirds of the time.

    Yields the finished share of the run after every hundred steps and at the end.
    """
    context = model.config.max_position_embeddings
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=peak, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    generator = np.random.default_rng(0)
    started, cpu_started, losses = time.monotonic(), time.process_time(), []
    for step in itertools.count():
        cpu_seconds, seconds = time.process_time() - cpu_started, time.monotonic() - started
        progress = max(cpu_seconds / (60 * minutes), seconds / (60 * wall_minutes))
        if progress >= 1:
            break
        length = context if progress >= 2 / 3 else context // 2
        starts = generator.integers(0, len(stream) - length, size=batch_tokens // length)
        ids = torch.from_numpy(np.stack([stream[s : s + length] for s in starts]).astype(np.int64))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * learning_rate(step, progress)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            rate = (step + 1) * batch_tokens / cpu_seconds
            print(
                f"step {step + 1}: {progress:.3f} done, loss {np.mean(losses[-100:]):.4f} nats/token, "
                f"{rate:.0f} tokens per CPU second",
                flush=True,
            )
            yield progress
    yield 1.0


def held_out_texts() -> list[str]:
    """Docstrings of the standard library's held-out modules."""
    return [row["text"] for row in docstrings(standard_library()) if is_held_out(row["module"])]


def long_lines(text: str) -> set[str]:
    """Lines of 40 characters or more: a text that shares one with a held-out text might be a copy of it."""
    return {line.strip() for line in text.splitlines() if len(line.strip()) >= 40}


def copyleft_modules() -> set[str]:
    """Top-level names of the installed packages whose metadata names the GPL or a licence derived from it."""
    names = set()
    for package in metadata.distributions():
        fields = package.metadata.get_all("Classifier", []) + package.metadata.get_all("License-Expression", [])
        if any("GPL" in field for field in [*fields, package.metadata.get("License", "")[:80]]):
            names |= {file.parts[0].removesuffix(".py") for file in package.files or [] if file.suffix == ".py"}
    return names


def training_texts(package_chars: int) -> tuple[list[str], list[str]]:
    """Docstrings of the standard library and of the installed packages, without held-out texts or near copies of them.

    A package contributes at most about `package_chars` characters, so that no package outweighs the others. Copyleft
    packages are left out, even if another package bundles a copy of one.
    """
    rows = list(docstrings(standard_library()))
    held_out = [row["text"] for row in rows if is_held_out(row["module"])]
    unseen = {*held_out, *(line for text in held_out for line in long_lines(text))}
    own = [row["text"] for row in rows if unseen.isdisjoint({row["text"], *long_lines(row["text"])})]
    copyleft = copyleft_modules()
    packages: dict[str, None] = {}
    for folder in sorted(path for path in Path(sysconfig.get_paths()["purelib"]).iterdir() if path.is_dir()):
        size = 0
        for row in docstrings(folder):
            is_free = copyleft.isdisjoint([folder.name, *row["module"].split(".")])
            if is_free and unseen.isdisjoint({row["text"], *long_lines(row["text"])}):
                packages[row["text"]] = None
                size += len(row["text"])
            if size > package_chars:
                break
    print(f"left out for their licence: {', '.join(sorted(copyleft)) or 'none'}", flush=True)
    print(f"standard library: {sum(map(len, own)):,} characters, packages: {sum(map(len, packages)):,}", flush=True)
    return own, list(packages)


@app.command()
def evaluate(prior: Annotated[str, typer.Argument(help="A folder, or demo.")] = "demo") -> None:
    """Print the model card's figures: every token of the held-out docstrings, each row on its own."""
    texts = held_out_texts()
    transform = ToEditTransform(prior, strategy="none", stats="full")
    stats = summarize(transform({"text": texts})["toedit"])
    num_bytes = sum(len(text.encode()) for text in texts)
    bits = -stats.tokens.logprob_sum / math.log(2) / num_bytes
    print(
        f"{len(texts)} docstrings, {num_bytes:,} bytes, {stats.tokens.num_visited:,} tokens: "
        f"eligible rate {stats.eligible_rate:.4f}, perplexity {stats.perplexity:.3f}, {bits:.4f} bits per byte"
    )
    print("tokens by probability, in tenths:", list(stats.tokens.histogram))


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder to write the prior to.")] = Path("demo_prior"),
    corpus: Annotated[Path | None, typer.Option(help="Folder of JSONL(.gz) files with a `text` field.")] = None,
    corpus_share: Annotated[float, typer.Option(help="Share of the training text from the corpus.")] = 0.05,
    minutes: Annotated[float, typer.Option(help="Processor time to train for; the learning rate follows it.")] = 75,
    wall_minutes: Annotated[float, typer.Option(help="Stop after this time on the clock at the latest.")] = 120,
    package_chars: Annotated[int, typer.Option(help="At most this many characters from each package.")] = 500_000,
    start: Annotated[Path | None, typer.Option(help="A demo prior with other pieces to start from.")] = None,
    batch_tokens: int = 2048,
    context: int = 512,
    vocab_size: int = 2048,
    peak: Annotated[float, typer.Option(help="Peak learning rate.")] = 8e-3,
    seed: int = 0,
) -> None:
    """Train a tokenizer and a model, and write both to a folder."""
    torch.manual_seed(seed)
    own, packages = training_texts(package_chars)
    texts = 5 * own + packages  # the standard library is the demo's domain, and it is small
    if corpus:
        books = [piece for text in read_corpus(corpus) for piece in pieces(text, 2000)]
        random.Random(seed).shuffle(books)
        budget = corpus_share / (1 - corpus_share) * sum(map(len, texts))
        texts += books[: int(budget / 2000)]
    random.Random(seed).shuffle(texts)
    tokenizer = train_tokenizer(texts[: len(texts) // 4], vocab_size)
    stream = encode(tokenizer, texts)
    model = new_model(vocab_size, context, tokenizer.token_to_id(END))
    print(
        f"{model.num_parameters():,} parameters, {len(stream):,} tokens of {sum(map(len, texts)):,} characters",
        flush=True,
    )
    if start:
        take_over(model, tokenizer, start)
    saved = 0.0
    for progress in fit(
        model, stream, minutes=minutes, wall_minutes=wall_minutes, batch_tokens=batch_tokens, peak=peak
    ):
        if progress >= min(1.0, saved + 0.1):
            save(model, tokenizer, out)
            saved = progress


if __name__ == "__main__":
    app()
