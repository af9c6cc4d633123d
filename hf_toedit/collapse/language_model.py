"""Causal language models, trained on text that earlier ones wrote or edited (Gerstgrasser et al., arXiv 2404.01413;
Kazdan et al., arXiv 2410.16713; Seddik et al., arXiv 2404.05090, Figure 5; ToEdit, arXiv 2412.14689).

B rows of a batch, T tokens, C contexts, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import typer
from numpy.random import Generator

from ..editing.config import ToEditConfig
from ..editing.once import computed_once
from ..errors import ConfigError, ToEditError, any_of, nearest, one_clear_line
from ..experiments.evaluation import perplexity
from ..experiments.recipe import Fields, Model
from ..experiments.sampling import SamplingJob, check_window, sample_with_transformers
from ..experiments.training import location, new_model, optional
from ..files.outputs import scratch_folder
from ..priors.pretrained import one_clear_line as one_line_if_broken
from ..transform import ToEditTransform
from ..types import FloatArray
from .mixing import DatasetMixing
from .setting import Setting, check_enough
from .supervised import DEFAULTS as SUPERVISED
from .supervised import (
    PROMPT,
    TEXT,
    answered,
    check_texts,
    chosen,
    columns_of,
    completion_trainer,
    is_supervised,
    prompt_ids,
)
from .vllm_sampling import check_vllm, sample_with_vllm

Sampler = Literal["transformers", "vllm"]

Texts = Any  # a datasets.Dataset with a column `text`, or with `prompt` and `completion`
STATS = "toedit"
MOST_SEED = 2**32
MOST_TRIES = 20  # at a row that is not empty
OF_THE_RUN = ("output_dir", "seed", "data_seed", "save_strategy")  # fields of TrainingArguments that a setting sets
QUIET = {"report_to": "none", "disable_tqdm": True, "logging_strategy": "no"}
IGNORED = -100  # as a label
MODEL_FIX = "give 'demo', a folder that save_pretrained wrote, or an id on the Hub"


@dataclass(frozen=True)
class TextSource:
    """Where rows come from: a trained language model of transformers or, if `model` is None, people.

    seed: of the run. It initialises each of the run's models and orders its training rows.
    """

    seed: int
    model: Any = None


@dataclass(frozen=True)
class LanguageModel(DatasetMixing, Setting[TextSource, Texts]):
    """Text. Each generation is trained from the same start: on texts with transformers' `Trainer`, in packed blocks of
    tokens, and on prompts and completions with TRL's `SFTTrainer`, which counts the loss of the completions alone.

    Measures: perplexity, of the held-out rows; with contexts also next_token_l1, the mean over the contexts of the L1
    distance, in [0, 2], between the next-token distributions of this generation and of generation 1.

    human: rows of human text, a Dataset with a column `text`, or with `prompt` and `completion`; a run trains on some
        of them, chosen by its seed. Models answer the prompts of these rows, the same ones in each generation.
    held_out: human rows to evaluate on.
    model: a recipe's Model: a new one with a config and a tokenizer, or a pretrained one by its id.
    train: fields of TrainingArguments (SFTConfig with prompts), such as num_train_epochs and learning_rate.
    edits: how `ToEdit` edits. The threshold chooses the tokens; the last generation's model is the prior.
    contexts: texts after which next-token distributions are compared.
    engine: more options of `vllm.LLM`, such as {"gpu_memory_utilization": 0.5}. vLLM samples in a process of its own,
        which ends before the next model is trained.

    A synthetic row ends with the end-of-text token, or after `max_new_tokens`. Such rows come out about as long as the
    human ones if those end naturally; for rows of a fixed length, set `min_new_tokens` to `max_new_tokens`.
    `train_generations` counts the tokens.
    """

    one_run_at_a_time: ClassVar[bool] = True

    human: Texts
    held_out: Texts
    model: Model
    train: Fields = field(default_factory=dict)
    edits: ToEditConfig = field(default_factory=ToEditConfig)
    contexts: Sequence[str] = ()
    engine: Fields = field(default_factory=dict)
    block_size: Annotated[int, typer.Option(help="Tokens in a training block.")] = 128
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens that a model writes for a row.")] = 128
    min_new_tokens: Annotated[int, typer.Option(help="Fewest tokens that a model writes for a row.")] = 1
    prefix_tokens: Annotated[
        int, typer.Option(help="Begin each synthetic row with this many tokens of a random human row.")
    ] = 0
    temperature: Annotated[float, typer.Option(help="Sample from softmax(logits / temperature).")] = 1.0
    batch_size: Annotated[int, typer.Option(help="Rows that transformers samples at a time.")] = 64
    sampler: Annotated[Sampler, typer.Option(help="Sample with transformers or vLLM.")] = "transformers"

    def __post_init__(self) -> None:
        for name in ("block_size", "max_new_tokens", "min_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be 1 or more")
        if self.prefix_tokens < 0:
            raise ConfigError(f"prefix_tokens={self.prefix_tokens} must be 0 or more")
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"min_new_tokens={self.min_new_tokens} is more than max_new_tokens={self.max_new_tokens}: lower it"
            )
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature={self.temperature} must be a number above 0")
        check_texts("human", self.human)
        check_texts("held_out", self.held_out, self.columns)
        if self.prefix_tokens and self.is_supervised:
            raise ConfigError(f"prefix_tokens={self.prefix_tokens}: rows begin with their prompts; leave it out")
        if self.sampler not in get_args(Sampler):
            raise ConfigError(f"sampler={self.sampler!r} is unknown{nearest(str(self.sampler), get_args(Sampler))}")
        if self.sampler == "vllm":
            check_vllm()
        self._check_fields()
        self._arguments("unused", 0)

    @property
    def is_supervised(self) -> bool:
        """Whether the rows are prompts and completions."""
        return is_supervised(self.human)

    @property
    def columns(self) -> list[str]:
        return columns_of(self.human)

    def _check_fields(self) -> None:
        known = [entry.name for entry in dataclasses.fields(self._arguments_class())]
        for name, value in self.train.items():
            if name not in known:
                raise ConfigError(f"unknown field train.{name}{nearest(name, known)}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"train.{name}={value} must be a finite number")
            if name in OF_THE_RUN:
                raise ConfigError(f"train.{name} is set by the run: leave it out")

    def _arguments_class(self) -> Any:
        from transformers import TrainingArguments

        return optional("trl").SFTConfig if self.is_supervised else TrainingArguments

    def _arguments(self, folder: str, seed: int) -> Any:
        """The TrainingArguments. Raises ConfigError for values that transformers refuses."""
        import torch

        what, fix = "train", "change it in the setting's train="
        with one_clear_line(ConfigError, what, fix, catches=any_of(TypeError, ValueError, ImportError)):
            of_the_run = {"output_dir": folder, "seed": seed, "data_seed": seed, "save_strategy": "no"}
            defaults = SUPERVISED if self.is_supervised else {}
            defaults = {"dataloader_pin_memory": torch.cuda.is_available(), **defaults}  # CPUs only warn about it
            return self._arguments_class()(**{**QUIET, **defaults, **self.train, **of_the_run})

    @computed_once
    def tokenizer(self) -> Any:
        """The models' tokenizer, of transformers."""
        from transformers import AutoTokenizer

        name = self.model.tokenizer or self.model.id or ""
        with one_line_if_broken(f"can't load the tokenizer {name!r}", MODEL_FIX, ConfigError):
            tokenizer = AutoTokenizer.from_pretrained(location(name), revision=self.model.revision)
        if tokenizer.eos_token is None:
            raise ConfigError(f"the tokenizer {name!r} has no eos_token to end texts with: add a tokenizer_config.json")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @property
    def start_id(self) -> int:
        """The token before each text: BOS, or the end of the text before."""
        tokenizer = self.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts, without special tokens around them."""
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, JSON-ready; datasets as a digest of their texts."""
        fields = {name.name: getattr(self, name.name) for name in dataclasses.fields(self)}
        digests = {name: _digest(fields[name], self.columns) for name in ("human", "held_out")}
        record = {"model": dataclasses.asdict(self.model), "edits": self.edits.to_dict()}
        return {**fields, "contexts": list(self.contexts), **digests, **record}

    def truth(self, runs: int, num_real: int, rng: Generator) -> TextSource:
        if runs != 1:
            raise ConfigError(f"language models are trained one run at a time, not {runs}: use train_generations")
        return TextSource(int(rng.integers(MOST_SEED)))

    def sample(self, model: TextSource, n: int, rng: Generator) -> Texts:
        if self.is_supervised:
            return self._answers(model, n, rng)
        if model.model is None:
            return self.subsample([self.human], n, rng)
        from datasets import Dataset

        texts: list[str] = []
        for _ in range(MOST_TRIES):
            texts += [text for text in self._written(model.model, n - len(texts), rng) if text]
            if len(texts) == n:
                return Dataset.from_dict({TEXT: texts})
        raise ToEditError(f"the model wrote only {len(texts):,} texts that aren't empty: raise min_new_tokens")

    def _answers(self, source: TextSource, n: int, rng: Generator) -> Texts:
        """Human rows, or their prompts with the model's completions."""
        if source.model is None:
            check_enough(n, len(self.human))
        rows = chosen(self.human, n, source.seed).select_columns(self.columns)
        if source.model is None:
            return rows
        prompts = self.starts(rows[PROMPT])
        return answered(
            rows, self.tokenizer, prompts, self._completions(source.model, prompts, int(rng.integers(MOST_SEED)))
        )

    def _written(self, model: Any, n: int, rng: Generator) -> list[str]:
        """n texts by the model, some of which may be empty."""
        seed, texts = int(rng.integers(MOST_SEED)), [""] * n
        if self.prefix_tokens:
            texts = self.human[rng.integers(len(self.human), size=n)][TEXT]
        prompts = [ids[: 1 + self.prefix_tokens] for ids in self.starts(texts)]
        whole = zip(prompts, self._completions(model, prompts, seed), strict=True)
        written: list[str] = self.tokenizer.batch_decode([ids + more for ids, more in whole], skip_special_tokens=True)
        return written

    def starts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts for a model to continue."""
        if self.is_supervised:
            return prompt_ids(self.tokenizer, texts)
        return [[self.start_id, *ids] for ids in self.encode(texts)]

    def _completions(self, model: Any, prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        end = self.tokenizer.eos_token_id
        unwanted = {*self.tokenizer.all_special_ids} - {end}
        job = SamplingJob(
            prompts,
            max_tokens=self.max_new_tokens,
            min_tokens=self.min_new_tokens,
            end=end,
            temperature=self.temperature,
            unwanted=sorted(unwanted | {*range(len(self.tokenizer), model.get_output_embeddings().weight.shape[0])}),
            seed=seed,
            batch_size=self.batch_size,
            engine=self.engine,
        )
        check_window(model, job)
        return sample_with_vllm(model, job) if self.sampler == "vllm" else sample_with_transformers(model, job)

    def fit(self, rows: Texts, truth: TextSource) -> TextSource:
        import torch
        from transformers import set_seed
        from transformers.trainer_callback import PrinterCallback

        with scratch_folder() as work, torch.random.fork_rng():
            set_seed(truth.seed)
            with one_line_if_broken(
                f"can't make the model {self.model.id or 'of model.config'!r}", MODEL_FIX, ConfigError
            ):
                model = new_model(self.model, self.tokenizer)
            arguments = self._arguments(str(work), truth.seed)
            trainer = self.trainer(model, arguments, rows, work)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return TextSource(truth.seed, model.eval())

    def trainer(self, model: Any, arguments: Any, rows: Texts, work: Path) -> Any:
        """The Trainer of a generation. work: a folder for the rows as it reads them."""
        from transformers import Trainer

        if self.is_supervised:
            return completion_trainer(model, self.tokenizer, arguments, rows, work)
        options = {"batched": True, "remove_columns": rows.column_names, "load_from_cache_file": False}
        blocks = rows.map(self._packed, cache_file_name=str(work / "blocks.arrow"), **options)
        return Trainer(model=model, args=arguments, train_dataset=blocks)

    def _packed(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[list[int]]]:
        """Blocks of the rows' tokens, each row between its start and its end. Only the last block may hold padding."""
        start, end = self.start_id, self.tokenizer.eos_token_id
        before = [] if start == end else [start]
        stream = [start] if start == end else []
        for ids in self.encode(rows[TEXT]):
            stream += [*before, *ids, end]
        missing = -len(stream) % self.block_size
        labels = [*stream, *[IGNORED] * missing]
        stream += [end] * missing
        cuts = range(0, len(stream), self.block_size)
        return {
            "input_ids": [stream[i : i + self.block_size] for i in cuts],
            "labels": [labels[i : i + self.block_size] for i in cuts],
        }

    def distance(self, model: TextSource, truth: TextSource, first: TextSource) -> dict[str, FloatArray]:
        prior = (model.model, self.tokenizer)
        measured = {"perplexity": np.array([perplexity(prior, self.held_out.select_columns(self.columns), {})])}
        if self.contexts:
            one_CV, other_CV = self.next_token_probabilities(model), self.next_token_probabilities(first)
            measured["next_token_l1"] = np.abs(one_CV - other_CV).sum(axis=1).mean(keepdims=True)
        return measured

    def next_token_probabilities(self, source: TextSource) -> FloatArray:
        """The model's distribution of the token after each context, of shape [C, V]."""
        import torch

        found = []
        for start in range(0, len(self.contexts), self.batch_size):
            ids = self.starts(self.contexts[start : start + self.batch_size])
            batch = self.tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")
            last_B = batch["attention_mask"].sum(dim=1) - 1
            with torch.inference_mode():
                logits_BTV = source.model(**batch.to(source.model.device)).logits
            logits_BV = logits_BTV[torch.arange(len(ids)), last_B.to(logits_BTV.device)].double()
            found.append(logits_BV.softmax(dim=-1).cpu().numpy())
        return np.concatenate(found)

    def pool(self, parts: Sequence[Texts]) -> Texts:
        return super().pool([rows.select_columns(self.columns) for rows in parts])

    def edit(self, rows: Texts, model: TextSource, share: float | None, start: int | None, rng: Generator) -> Texts:
        """The rows, edited by `ToEditTransform` with the model as the prior. Its evidence is in the column `toedit`."""
        if share is not None:
            raise ConfigError(f"share={share}: in language models the threshold chooses the tokens; leave share out")
        config = dataclasses.replace(self.edits, seed=int(rng.integers(MOST_SEED)))
        transform = ToEditTransform((model.model, self.tokenizer), config)
        options = {"batched": True, "keep_in_memory": True, "load_from_cache_file": False}
        return rows.select_columns(self.columns).map(transform, **options)

    def save(self, source: TextSource, folder: Path) -> None:
        """Write a model and its tokenizer, for `from_pretrained`."""
        source.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def load(self, folder: Path, truth: TextSource) -> TextSource:
        import torch
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return TextSource(truth.seed, model.eval())


def _digest(rows: Texts, columns: Sequence[str]) -> str:
    """A digest of the texts, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for batch in rows.select_columns(columns).iter(1000):
        for texts in zip(*(batch[column] for column in columns), strict=True):
            for text in texts:
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
