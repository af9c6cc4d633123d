"""Texts that a trained model writes, and how diverse they are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..measure.compression import CompressionRatio
from ..measure.distinct import DistinctN
from ..measure.frequencies import WordFrequencies
from ..measure.ngrams import NGrams
from ..measure.one_pass import measure
from ..priors.pretrained import window_of
from ..report.files import write_whole
from .recipe import Samples
from .sampling import SamplingJob, sample_with_transformers

if TYPE_CHECKING:
    from datasets import Dataset

FILE = "samples.jsonl"
LONGEST_GRAM = 3


def write_and_measure(
    checkpoint: Path, settings: Samples, held_out: Mapping[str, Dataset], seed: int, folder: Path
) -> dict[str, float]:
    """Sample texts from a trained model into `samples.jsonl`. Returns their measurements, as `samples/NAME`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint))
    model = AutoModelForCausalLM.from_pretrained(str(checkpoint))
    texts = write_texts(model, tokenizer, settings, seed)
    write_whole(folder / FILE, "".join(json.dumps({"text": text}) + "\n" for text in texts))
    like = settings.like or next(iter(held_out), None)
    measured = measure_texts(texts, None if like is None else held_out[like])
    return {f"samples/{name}": value for name, value in measured.items()}


def write_texts(model: Any, tokenizer: Any, settings: Samples, seed: int) -> list[str]:
    """Texts sampled from softmax(logits), from their start on, none of which ends early."""
    end = tokenizer.eos_token_id
    start = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    unknown = range(len(tokenizer), model.get_output_embeddings().weight.shape[0])
    job = SamplingJob(
        [[start]] * settings.num,
        max_tokens=settings.new_tokens,
        min_tokens=settings.new_tokens,
        end=end,
        unwanted=sorted({*tokenizer.all_special_ids, *unknown} - {end}),
        seed=seed,
        batch_size=settings.num,
    )
    if 1 + settings.new_tokens > (window := window_of(model.config)):
        raise ConfigError(
            f"the model reads {window:,} tokens, too few for a start and evaluate.samples.new_tokens="
            f"{settings.new_tokens:,}: lower it"
        )
    texts: list[str] = tokenizer.batch_decode(sample_with_transformers(model, job))
    return texts


def measure_texts(texts: Sequence[str], like: Dataset | None) -> dict[str, float]:
    """How diverse texts are, by name, and how far their n-grams are from those of other rows."""
    distinct, words, compression, ngrams = DistinctN(LONGEST_GRAM), WordFrequencies(), CompressionRatio(), NGrams()
    found = measure(texts, distinct, words, compression, ngrams)
    figures = {f"distinct_{n}": value for n, value in found["distinct_n"]["distinct"].items()}
    figures |= {name: found["word_frequencies"][name] for name in ("entropy", "zipf_slope")}
    figures["compression_ratio"] = found["compression_ratio"]["compression_ratio"]
    if like is not None:
        theirs = NGrams()
        measure(like, theirs)
        figures |= theirs.shift(ngrams)
    for name, value in figures.items():
        if not math.isfinite(value):
            raise ConfigError(f"the model's samples have too few words for {name}: raise evaluate.samples.num")
    return figures
