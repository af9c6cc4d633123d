"""ToEditCallback under each trainer of transformers and TRL: right where it edits, else refused by name."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from conftest import NUM_IDS
from datasets import Dataset
from strategies import one_line
from tiny_training import (
    MANY,
    arguments,
    demo_model,
    edit_offline,
    equal,
    lora_on_demo,
    make_sft_trainer,
    make_trainer,
    pad_batch,
    some_rows,
    some_texts,
    tokenizer_with_padding,
    train,
)
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForSequenceClassification,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTTrainer,
)

from hf_toedit import ConfigError, RowError, ToEditCallback
from hf_toedit.priors.pretrained import DEMO_FOLDER
from hf_toedit.training.batches import cut
from hf_toedit.training.trainers import ON_COMPLETIONS, ON_LABELS, ON_PAIRS, check_trainer, library_class

pytestmark = pytest.mark.usefixtures("fast_collection")
ON_DEMO = {"learning_rate": 1e-3, "max_steps": 2}
SILENT = {"TRL_EXPERIMENTAL_SILENCE": "1"}  # else trl.experimental warns on import


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SILENT.items():
        monkeypatch.setenv(name, value)


def triples(number: int = 12) -> dict[str, list[Any]]:
    """A prompt and three completions of it, of many lengths."""
    texts = some_texts(number)
    rests = [text[30:] for text in texts]
    return {
        "prompt": [text[:30] for text in texts],
        "chosen": rests,
        "rejected": rests[::-1],
        "reference": [*rests[5:], *rests[:5]],
    }


def make_plain(folder: Path, callbacks: Any = (), **options: Any) -> Any:
    return make_trainer(folder, some_rows(), callbacks, **{**ON_DEMO, "model": demo_model(), **options})


def make_sft(folder: Path, callbacks: Any = (), **options: Any) -> Any:
    return make_sft_trainer(folder, some_rows(), callbacks, **{**ON_DEMO, "model": demo_model(), **options})


def make_dpo(folder: Path, callbacks: Any = (), *, kind: Any = DPOTrainer, columns: int = 3, **options: Any) -> Any:
    rows = dict(list(triples().items())[:columns])
    config = {DPOTrainer: DPOConfig}.get(kind) or importlib.import_module(kind.__module__).TPOConfig
    return make(folder, kind, config, rows, callbacks, **options)


def make_tpo(folder: Path, callbacks: Any = (), **options: Any) -> Any:
    from trl.experimental.tpo import TPOTrainer

    return make_dpo(folder, callbacks, kind=TPOTrainer, columns=4, **options)


def make_kto(folder: Path, callbacks: Any = (), **options: Any) -> Any:
    rows = triples()
    labelled = {"prompt": rows["prompt"], "completion": rows["chosen"], "label": [i % 2 == 0 for i in range(12)]}
    return make(folder, KTOTrainer, KTOConfig, labelled, callbacks, **options)


def make_reward(folder: Path, callbacks: Any = (), **options: Any) -> Any:
    rows = dict(list(triples().items())[:3])
    torch.manual_seed(0)  # of the new head
    model = LlamaForSequenceClassification(
        LlamaConfig.from_pretrained(DEMO_FOLDER, num_labels=1, pad_token_id=0)
    ).float()
    model.model.load_state_dict(demo_model().model.state_dict())
    return make(folder, RewardTrainer, RewardConfig, rows, callbacks, model=model, **options)


def make(folder: Path, kind: Any, config: Any, rows: Any, callbacks: Any, *, model: Any = None, **options: Any) -> Any:
    """A trainer of TRL on the demo model."""
    defaults: dict[str, Any] = {**ON_DEMO, "bf16": False, "activation_checkpointing": False}
    if model is None:
        defaults["model_init_kwargs"] = {"dtype": "float32"}
    return kind(
        model=str(DEMO_FOLDER) if model is None else model,
        args=arguments(folder, config, **{**defaults, **options}),
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer_with_padding(),
        callbacks=list(callbacks),
    )


def edited_columns(prior: Any, dataset: Dataset, columns: list[str]) -> Dataset:
    """Prepared rows with completions edited offline, each behind its prompt."""
    for name in columns:
        rows = {
            "input_ids": [a + b for a, b in zip(dataset["prompt_ids"], dataset[name], strict=True)],
            "completion_mask": [
                [0] * len(a) + [1] * len(b) for a, b in zip(dataset["prompt_ids"], dataset[name], strict=True)
            ],
        }
        new = edit_offline(prior, rows)["input_ids"]
        assert new != rows["input_ids"]
        tails = [ids[len(prompt) :] for ids, prompt in zip(new, dataset["prompt_ids"], strict=True)]
        dataset = dataset.remove_columns(name).add_column(name, tails)
    return dataset


def edited_for_kto(prior: Any, dataset: Dataset) -> Dataset:
    """As KTOTrainer prepares edited rows: completions take turns within the batches of 4."""
    dataset = edited_columns(prior, dataset, ["completion_ids"])
    completions = list(dataset["completion_ids"])
    turned = [completions[i - 1] if i % 4 else completions[i + 3] for i in range(len(completions))]
    return dataset.remove_columns("KL_completion_ids").add_column("KL_completion_ids", turned)


def edited_for_reward(prior: Any, dataset: Dataset) -> Dataset:
    """What a pair has in common has no label."""
    pairs = list(zip(dataset["chosen_ids"], dataset["rejected_ids"], strict=True))
    shared = [next(t for t, (a, b) in enumerate(zip(*pair, strict=False)) if a != b) for pair in pairs]
    assert min(shared) > 3
    for column, name in enumerate(("chosen_ids", "rejected_ids")):
        ids = [pair[column] for pair in pairs]
        labels = [[-100] * start + row[start:] for start, row in zip(shared, ids, strict=True)]
        new = edit_offline(prior, {"input_ids": ids, "labels": labels})["input_ids"]
        assert new != ids
        dataset = dataset.remove_columns(name).add_column(name, new)
    return dataset


def edited_ids(prior: Any, dataset: Dataset) -> Dataset:
    return Dataset.from_dict(edit_offline(prior, dataset.with_format(None).to_dict()))


Make = Callable[..., Any]
KINDS: dict[str, tuple[Make, Callable[[Any, Dataset], Dataset]]] = {
    "Trainer": (make_plain, edited_ids),
    "SFTTrainer": (make_sft, edited_ids),
    "DPOTrainer": (make_dpo, partial(edited_columns, columns=["chosen_ids", "rejected_ids"])),
    "KTOTrainer": (make_kto, edited_for_kto),
    "RewardTrainer": (make_reward, edited_for_reward),
    "TPOTrainer": (make_tpo, partial(edited_columns, columns=["chosen_ids", "rejected_ids", "reference_ids"])),
}


EXPERIMENTAL = pytest.param("TPOTrainer", marks=pytest.mark.slow)


def first_metrics(trainer: Any) -> dict[str, float]:
    """What the first step logged, without our own numbers."""
    return {name: value for name, value in trainer.state.log_history[0].items() if not name.startswith("toedit")}


def watch(trainer: Any) -> list[dict[str, Any]]:
    """The batches that will be trained on."""
    seen: list[dict[str, Any]] = []
    step = trainer.training_step
    trainer.training_step = lambda model, inputs, *rest: (seen.append(dict(inputs)), step(model, inputs, *rest))[1]
    return seen


@pytest.mark.parametrize("kind", [*[kind for kind in KINDS if kind != "TPOTrainer"], EXPERIMENTAL])
def test_training_equals_training_on_edited_rows(kind, tmp_path, demo):
    """Each tensor of each batch, all that the first step logs, and the weights of the last: bit for bit."""
    make, edit = KINDS[kind]
    offline = make(tmp_path)
    offline.train_dataset = edit(demo, offline.train_dataset)
    edited = make(tmp_path, [ToEditCallback(demo, **MANY)])
    expected, found = watch(offline), watch(edited)
    assert equal(train(edited), train(offline))
    assert first_metrics(edited) == first_metrics(offline)
    for one, other in zip(expected, found, strict=True):
        tensors = [{name: value for name, value in batch.items() if torch.is_tensor(value)} for batch in (one, other)]
        assert {"KL_input_ids"} <= tensors[0].keys() or kind != "KTOTrainer"
        assert equal(*tensors)
    assert edited.state.log_history[0]["toedit/changed_rate"] > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_at_threshold_one_nothing_differs(kind, tmp_path, demo):
    make, _ = KINDS[kind]
    plain, watched = make(tmp_path), make(tmp_path, [ToEditCallback(demo, **{**MANY, "threshold": 1.0})])
    assert equal(train(plain), train(watched))
    assert first_metrics(plain) == first_metrics(watched)
    assert watched.state.log_history[0]["toedit/visited"] > 0
    assert watched.state.log_history[0]["toedit/changed_rate"] == 0


def test_the_references_are_those_of_the_edited_tokens(tmp_path, demo):
    """Before the first step the model is its own reference: log 2 for DPO, 1/2 for KTO, and rewards of zero."""
    for make, loss in ((make_dpo, math.log(2)), (make_kto, 0.5)):
        for prior in (demo, "self"):
            trainer = make(tmp_path, [ToEditCallback(prior, **MANY)], max_steps=1)
            trainer.train()
            logged = trainer.state.log_history[0]
            assert logged["loss"] == pytest.approx(loss, abs=1e-6)
            assert logged["rewards/chosen"] == logged["rewards/rejected"] == 0
            assert logged["toedit/changed_rate"] > 0.05


@pytest.mark.slow
def test_the_adapter_of_a_dpo_model_is_off_in_its_prior(tmp_path, demo):
    def run(prior: Any) -> Any:
        trainer = make_dpo(tmp_path, [ToEditCallback(prior, **MANY)], model=lora_on_demo())
        weights = train(trainer)
        assert first_metrics(trainer)["loss"] == pytest.approx(math.log(2), abs=1e-6)
        return weights

    assert equal(run("base"), run(demo))


@pytest.mark.parametrize("make", [make_dpo, make_kto])
def test_references_computed_before_are_refused(make, tmp_path, demo):
    trainer = make(tmp_path, [ToEditCallback(demo, **MANY)], precompute_ref_log_probs=True)
    with pytest.raises(ConfigError, match=r"precompute_ref_log_probs=True .* set it to False") as error:
        trainer.train()
    one_line(error)
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("name", ["ref_chosen_logps", "ref_KL_logps", "old_per_token_logps", "teacher_log_probs"])
def test_a_batch_with_log_probabilities_of_its_tokens_is_refused(name):
    batch = {"input_ids": torch.arange(4)[None], name: torch.zeros(1)}
    with pytest.raises(RowError, match=f"'{name}' of a training batch .* take it out of the dataset") as error:
        cut(batch)
    one_line(error)


# KTO


def test_kl_completions_that_are_cut_elsewhere_take_the_edits_that_are_known(tmp_path, demo):
    """max_length leaves other parts of the same completion behind prompts of other lengths."""
    trainer = make_kto(tmp_path, [ToEditCallback(demo, **MANY)], max_length=60, max_steps=1)
    seen = watch(trainer)
    trainer.train()
    [batch] = seen
    rows, turned = (
        [
            ids[mask == 1].tolist()
            for ids, mask in zip(batch[f"{kl}input_ids"], batch[f"{kl}completion_mask"], strict=True)
        ]
        for kl in ("", "KL_")
    )
    lengths = [(len(one), len(rows[b - 1])) for b, one in enumerate(turned)]
    assert len({a - b for a, b in lengths}) > 1, "cut at other places"
    for b, one in enumerate(turned):
        length = min(len(one), len(rows[b - 1]))
        assert one[:length] == rows[b - 1][:length]


def test_kl_completions_of_other_rows_are_refused(tmp_path, demo):
    trainer = make_kto(tmp_path, [ToEditCallback(demo, **MANY)], max_steps=1)
    strange = [ids[::-1] for ids in trainer.train_dataset["KL_completion_ids"]]
    trainer.train_dataset = trainer.train_dataset.remove_columns("KL_completion_ids").add_column(
        "KL_completion_ids", strange
    )
    with pytest.raises(RowError, match=r"KL_input_ids .* edit the dataset instead") as error:
        trainer.train()
    one_line(error)


# pairs


def test_what_a_pair_has_in_common_stays_and_the_rest_is_edited(tmp_path, demo):
    trainer = make_reward(tmp_path, [ToEditCallback(demo, **MANY)], max_steps=1)
    before: list[Any] = []
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: (before.append(collate(rows)), before[-1])[1]
    after = watch(trainer)
    trainer.train()
    old, new = before[0]["input_ids"], after[0]["input_ids"]
    chosen, rejected = old.chunk(2)
    shared = (chosen == rejected).int().cumprod(1).bool().repeat(2, 1)
    assert (old == new)[shared].all()
    assert ((old != new) & ~shared).any(1).all(), "each of the chosen and of the rejected"


def test_a_reward_model_is_no_prior(tmp_path):
    for prior in ("self", "base"):
        with pytest.raises(ConfigError, match="give a prior by name") as error:
            make_reward(tmp_path, [ToEditCallback(prior)]).train()
        one_line(error)


# which trainers


def trl_trainers() -> dict[str, type]:
    """Every trainer class of TRL whose module can be imported here."""
    found: dict[str, type] = {}
    for module in pkgutil.walk_packages(trl.__path__, "trl."):
        if module.name.endswith("_trainer") and module.name.startswith(("trl.trainer.", "trl.experimental.")):
            try:
                names = vars(importlib.import_module(module.name))
            except ImportError:
                continue
            found |= {
                name: one
                for name, one in names.items()
                if isinstance(one, type) and issubclass(one, Trainer) and one.__module__ == module.name
            }
    return found


def test_every_trainer_of_trl_is_edited_as_tested_above_or_refused_by_name():
    trainers = trl_trainers()
    assert {"GRPOTrainer", "RLOOTrainer", "GKDTrainer", "ORPOTrainer", "CPOTrainer"} <= trainers.keys()
    edited = {*ON_LABELS, *ON_COMPLETIONS, *ON_PAIRS}
    assert edited - {"Seq2SeqTrainer"} == KINDS.keys()
    for name in trainers.keys() - edited:
        with pytest.raises(ConfigError, match=f"does not support {name} ") as error:
            check_trainer(trainers[name].__new__(trainers[name]), selects=False)
        one_line(error)


def test_a_trainer_that_generates_is_refused_before_it_does(tmp_path, demo, capfd):
    asked = []

    def reward(**columns: Any) -> list[float]:
        asked.append(columns)
        return [0.0] * len(columns["prompts"])

    options = {
        "bf16": False,
        "activation_checkpointing": False,
        "num_generations": 4,
        "max_completion_length": 4,
    }
    trainer = GRPOTrainer(
        model=str(DEMO_FOLDER),
        reward_funcs=reward,
        args=arguments(tmp_path, GRPOConfig, model_init_kwargs={"dtype": "float32"}, **options),
        train_dataset=Dataset.from_dict({"prompt": ["a secret prompt"] * 8}),
        processing_class=tokenizer_with_padding(),
        callbacks=[ToEditCallback(demo, **MANY)],
    )
    with pytest.raises(
        ConfigError, match=r"does not support GRPOTrainer .* edit the dataset with ToEditTransform"
    ) as error:
        trainer.train()
    one_line(error)
    assert not asked
    assert "secret" not in str(error.value) + "".join(capfd.readouterr())


class Mine(SFTTrainer):
    """A user's own."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


class MyDPO(DPOTrainer):
    pass


def test_a_trainer_of_ones_own_is_what_it_was_derived_from(tmp_path, demo):
    rows = some_rows()

    def run(kind: Any, given: Any, callbacks: Any = ()) -> Any:
        trainer = make_sft_trainer(tmp_path, given, callbacks)
        trainer.__class__ = kind
        return train(trainer)

    assert equal(run(Mine, rows, [ToEditCallback(demo, **MANY)]), run(SFTTrainer, edit_offline(demo, rows)))
    assert library_class(MyDPO.__new__(MyDPO)) == "DPOTrainer"


def test_no_labels_to_truncate_or_to_keep(tmp_path, demo):
    for make in (make_dpo, make_kto, make_reward):
        with pytest.raises(ConfigError, match="select= takes labels out of the loss") as error:
            make(tmp_path, [ToEditCallback(demo, select={"high": 0.99})]).train()
        one_line(error)
        with pytest.raises(ConfigError, match=r"targets='original' leaves labels as they are, but a .* none") as error:
            make(tmp_path, [ToEditCallback(demo, targets="original")]).train()
        one_line(error)


def test_random_needs_rows_to_count(tmp_path, demo):
    with pytest.raises(ConfigError, match="the rows have no input_ids: pass rows that have them as corpus=") as error:
        make_dpo(tmp_path, [ToEditCallback(demo, strategy="random")]).train()
    one_line(error)
    corpus = Dataset.from_dict(some_rows())
    trainer = make_dpo(tmp_path, [ToEditCallback(demo, strategy="random", corpus=corpus, **MANY)], max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["toedit/changed_rate"] > 0.05


# models whose labels are not the next tokens


def test_an_encoder_decoder_is_refused(tmp_path, demo):
    config = T5Config(
        vocab_size=NUM_IDS, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    for kind, settings in ((Seq2SeqTrainer, Seq2SeqTrainingArguments), (Trainer, None)):
        trainer = kind(
            model=T5ForConditionalGeneration(config),
            args=arguments(tmp_path, *([settings] if settings else []), remove_unused_columns=False),
            train_dataset=Dataset.from_dict(some_rows()),
            data_collator=pad_batch,
            processing_class=tokenizer_with_padding(),
            callbacks=[ToEditCallback(demo, **MANY)],
        )
        with pytest.raises(ConfigError, match="T5ForConditionalGeneration is an encoder-decoder") as error:
            trainer.train()
        one_line(error)


@pytest.fixture
def masking() -> Any:
    tokenizer = type(tokenizer_with_padding()).from_pretrained(DEMO_FOLDER)
    tokenizer.pad_token = tokenizer.mask_token = tokenizer.eos_token
    return DataCollatorForLanguageModeling(tokenizer, mlm=True)


def test_masked_tokens_are_refused(tmp_path, demo, masking):
    config = BertConfig(
        vocab_size=NUM_IDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    wrapped = lambda rows: masking(rows)  # noqa: E731 - a collator that does not say what it does
    for collator, kind, message in ((masking, ConfigError, "mlm=False"), (wrapped, RowError, "must be its input_ids")):
        callbacks = [ToEditCallback(demo, **MANY)]
        trainer = make_trainer(tmp_path, some_rows(), callbacks, model=BertForMaskedLM(config), collator=collator)
        with pytest.raises(kind, match=message) as error:
            trainer.train()
        one_line(error)
        assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"labels": torch.tensor([0, 1, 2, 3])}, "labels of a training batch must be its input_ids"),
        ({"labels": torch.arange(16).reshape(4, 4).roll(-1, 1)}, "labels of a training batch must be its input_ids"),
        ({"shift_labels": torch.arange(16).reshape(4, 4)}, "shift_labels of a training batch must be"),
        ({"pixel_values": torch.zeros(1)}, "'pixel_values'.* reads token ids alone"),
        ({"decoder_input_ids": torch.zeros(1)}, "'decoder_input_ids'"),
    ],
)
def test_batches_that_learn_something_else_are_refused(batch, message):
    with pytest.raises(RowError, match=message) as error:
        cut({"input_ids": torch.arange(16).reshape(4, 4), **batch})
    one_line(error)


def test_batches_that_are_no_batches_show_no_rows():
    with pytest.raises(RowError, match="a training batch is a list") as error:
        cut([{"prompt": "secret"}])
    assert "secret" not in one_line(error)
