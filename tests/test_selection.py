"""Selective losses: the tokens that stay are those of the definition, offline and live."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import warnings
from functools import partial
from unittest import mock

import made
import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import DEMO_FOLDER, breadth, load_tokenizer
from datasets import Dataset, DatasetDict
from datasets.fingerprint import Hasher
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from strategies import one_line, tokenization_of, tokenizer_of
from tiny_training import (
    demo_model,
    equal,
    left_padded,
    make_sft_trainer,
    make_trainer,
    some_rows,
    some_texts,
    tiny_model,
    tokenizer_with_padding,
    train,
    with_shift_labels,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorWithFlattening, TrainerCallback

from hf_toedit import (
    ConfigError,
    LossSelection,
    PriorError,
    RowError,
    SelectiveLabels,
    StaticPrior,
    ToEditCallback,
    ToEditWarning,
    TransformersPrior,
    summarize_selection,
)
from hf_toedit.priors.model_prior import ModelPrior

NEAR = 1e-4  # nats: closer to an edge than this, float32 and float64 may disagree
BAND = {"low": 0.05, "high": 0.6}
SELECTIONS = [BAND, {"high": 0.5}, {"share": 0.3}, {"min_excess": 0.1}, {"high": 0.9, "share": 0.6, "min_excess": -1.0}]

pytestmark = pytest.mark.usefixtures("fast_collection")


# against the definition


def kept_by_definition(selection, logprobs, base):
    """The places of the tokens that stay, read literally; and of those too close to an edge to tell."""
    kept, near = set(range(len(logprobs))), set()
    if "low" in selection:
        kept &= {place for place, x in enumerate(logprobs) if x >= math.log(selection["low"])}
        near |= {place for place, x in enumerate(logprobs) if abs(x - math.log(selection["low"])) < NEAR}
    if "high" in selection:
        kept &= {place for place, x in enumerate(logprobs) if x < math.log(selection["high"])}
        near |= {place for place, x in enumerate(logprobs) if abs(x - math.log(selection["high"])) < NEAR}
    excess = [one - other for one, other in zip(logprobs, base, strict=True)]
    if "min_excess" in selection:
        kept &= {place for place, x in enumerate(excess) if x >= selection["min_excess"]}
        near |= {place for place, x in enumerate(excess) if abs(x - selection["min_excess"]) < NEAR}
    if "share" in selection:
        excess = [round(x, 4) for x in excess]
        ranked = sorted(range(len(excess)), key=lambda place: (-excess[place], place))
        number = -(-round(100 * selection["share"]) * len(ranked) // 100)
        kept &= {*ranked[:number]}
        edges = [excess[place] for place in (ranked[number - 1 : number] + ranked[number : number + 1])]
        if len(edges) == 2 and edges[0] - edges[1] < 2 * NEAR:
            near |= {place for place, x in enumerate(excess) if min(abs(x - edge) for edge in edges) < 2 * NEAR}
    return kept, near


def logprobs_in_float64(model, ids):
    """log P(x_t | x_<t) for t = 1, 2, ...: the full softmax over all logits."""
    with torch.no_grad():
        logits_TV = model.double()(torch.tensor([ids])).logits[0]
    return logits_TV.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].tolist()


@pytest.fixture(scope="module")
def two_models(pretrained_folder):
    """A prior, a base of other weights, and both in float64."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(pretrained_folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter += 0.1 * parameter.std() * torch.randn_like(parameter)
    models = [AutoModelForCausalLM.from_pretrained(pretrained_folder, dtype=torch.float32).eval(), base.eval()]
    exact = [pickle.loads(pickle.dumps(model)).double() for model in models]
    tokenizer = AutoTokenizer.from_pretrained(pretrained_folder)
    return TransformersPrior(pretrained_folder), (models[1], tokenizer), exact, tokenizer


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_labels_equal_brute_force_in_float64(selection, two_models, familiar_texts):
    prior, base, exact, tokenizer = two_models
    compares = LossSelection(**selection).compares
    labels_of = SelectiveLabels(prior, selection, base=base if compares else None, tokenizer=tokenizer)
    rows = [tokenizer(text[:250])["input_ids"] for text in familiar_texts]
    out = labels_of({"input_ids": rows})
    num_near = num_left = 0
    for ids, labels, struct in zip(rows, out["labels"], out["selection"], strict=True):
        logprobs = [logprobs_in_float64(model, ids) for model in exact]
        kept, near = kept_by_definition(selection, *logprobs)
        found = {t - 1 for t in range(1, len(ids)) if labels[t] != -100}
        assert found - near == kept - near
        assert labels[0] == ids[0]
        assert all(label in (-100, token) for label, token in zip(labels, ids, strict=True))
        assert (struct["num_scored"], struct["num_kept"]) == (len(ids) - 1, len(found))
        num_near, num_left = num_near + len(near), num_left + len(ids) - 1 - len(found)
    assert num_near < 0.05 * sum(map(len, rows))
    assert num_left > 10


probabilities = st.sampled_from([1e-6, 0.01, 0.05, 0.3, 0.5, 0.7, 0.99, 1.0])
documents = st.lists(st.tuples(probabilities, probabilities, st.booleans()), min_size=1, max_size=12)
selections = st.sampled_from(
    [
        *[{"low": 0.05}, {"high": 0.5}, {"low": 0.05, "high": 0.99}, {"share": 0.07}, {"share": 0.5}, {"share": 1.0}],
        *[{"min_excess": 0.0}, {"share": 0.7, "low": 0.3}, {"min_excess": 1.5, "share": 0.9, "high": 0.99}],
    ]
)


@pytest.mark.parametrize("name", ["demo", *map(breadth, [*made.FAMILIES, "gpt2", "t5-small"])])
@given(st.lists(documents, min_size=1, max_size=4), selections, st.integers(0, 3), st.booleans())
def test_any_row_equals_the_definition(name, packed, selection, padding, is_masked):
    """Packed documents, labels that are -100 already, padding; many equal scores, and scores on the edges."""
    length = sum(map(len, packed))
    ids = [300 + t % 50 for t in range(length)]
    scripted = {}  # of each document: what the two models say
    for start, document in zip(np.cumsum([0, *map(len, packed)]).tolist(), packed, strict=False):
        for t in range(len(document)):
            scripted[tuple(ids[start : start + t + 1])] = document[t]

    def says(which):
        return StaticPrior(
            tokenizer_of(name), lambda seen, t: {int(seen[t]): scripted[tuple(seen[: t + 1].tolist())][which]}
        )

    flat = [token for document in packed for token in document]
    in_loss = [not is_masked or token[2] for token in flat]
    row = {
        "input_ids": [*ids, *[0] * padding],
        "attention_mask": [1] * length + [0] * padding,
        "labels": [i if keep else -100 for i, keep in zip(ids, in_loss, strict=True)] + [-100] * padding,
        "seq_lengths": [len(document) for document in packed],
    }
    compares = LossSelection(**selection).compares
    tokenization = mock.patch("hf_toedit.editing.selection.Tokenization", return_value=tokenization_of(name))
    with warnings.catch_warnings(), tokenization:
        warnings.simplefilter("ignore", ToEditWarning)
        labels_of = SelectiveLabels(
            says(0), selection, base=says(1) if compares else None, tokenizer=tokenizer_of(name)
        )
        out = labels_of(row)
    expected, start = list(row["labels"]), 0
    num_scored = num_kept = 0
    for document in packed:
        places = [t for t in range(1, len(document)) if in_loss[start + t]]
        scores = [[math.log(document[t][which]) for t in places] for which in (0, 1)]
        kept, _ = kept_by_definition(selection, *scores)
        for place, t in enumerate(places):
            if place not in kept:
                expected[start + t] = -100
        num_scored, num_kept, start = num_scored + len(places), num_kept + len(kept), start + len(document)
    assert out["labels"] == expected
    status = "unchanged" if num_kept else "no_labels"
    found = out["selection"]
    assert (found["status"], found["num_scored"], found["num_kept"]) == (status, num_scored, num_kept)
    assert found["num_tokens"] == length


# offline


@pytest.fixture(scope="module")
def two_priors(demo):
    """A reference and a base that disagree."""
    return {"prior": demo, "base": (tiny_model().eval(), tokenizer_with_padding())}


def labels_of(select, **options):
    return SelectiveLabels(options.pop("prior", "demo"), select, tokenizer=tokenizer_with_padding(), **options)


FORMS = {
    "batched": lambda ds, it: ds.map(it, batched=True),
    "one by one": lambda ds, it: ds.map(it),
    "small batches": lambda ds, it: ds.map(it, batched=True, batch_size=2),
    "backwards": lambda ds, it: ds.select(range(len(ds))[::-1]).map(it, batched=True).select(range(len(ds))[::-1]),
    "streamed": lambda ds, it: ds.to_iterable_dataset().map(it, batched=True),
    "streamed one by one": lambda ds, it: ds.to_iterable_dataset().map(it),
    "splits": lambda ds, it: DatasetDict(train=ds).map(it, batched=True)["train"],
    "numpy": lambda ds, it: ds.with_format("numpy").map(it, batched=True).with_format(None),
    "dicts": lambda ds, it: [it(row) for row in ds],
    "table": lambda ds, it: it(ds.data.table).to_pylist(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.filterwarnings("ignore:.*no token left:hf_toedit.ToEditWarning")
def test_every_form_writes_the_same_labels(form, two_priors):
    rows = some_rows()
    rows["input_ids"] += [[0], [0, 5]]
    rows["name"] = [*map(str, range(14))]
    expected = labels_of({"share": 0.3}, **two_priors)({"input_ids": rows["input_ids"]})
    out = list(form(Dataset.from_dict(rows), labels_of({"share": 0.3}, **two_priors)))
    assert [row["labels"] for row in out] == expected["labels"]
    assert [row["selection"] for row in out] == expected["selection"]
    assert [(row["name"], row["input_ids"]) for row in out] == list(zip(rows["name"], rows["input_ids"], strict=True))
    assert expected["selection"][-2]["status"] == "no_labels"


def test_columns_have_types_and_several_processes_agree():
    rows = Dataset.from_dict({"input_ids": [None, *some_rows(5)["input_ids"]]})
    out = rows.map(labels_of({"high": 0.5}), batched=True, batch_size=1)
    assert out[0]["labels"] is None
    assert pa.types.is_list(out.data.schema.field("labels").type)
    again = rows.map(labels_of({"high": 0.5}), batched=True, num_proc=2)
    assert again.to_dict() == out.to_dict()
    assert again.features == out.features


@pytest.mark.slow
def test_the_fingerprint_is_the_same_in_every_process():
    it = SelectiveLabels("demo", high=0.5)
    code = (
        "from datasets.fingerprint import Hasher; from hf_toedit import SelectiveLabels; "
        "it = SelectiveLabels('demo', high=0.5); print(Hasher.hash(it), it.fingerprint)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [Hasher.hash(it), it.fingerprint]


def test_the_fingerprint_is_that_of_the_selection():
    it = SelectiveLabels("demo", high=0.5)
    before, fingerprint = Hasher.hash(it), it.fingerprint
    it({"input_ids": [5, 6, 7]})
    assert Hasher.hash(it) == before
    assert fingerprint == SelectiveLabels("demo", {"high": 0.5}).fingerprint
    others = [{"high": 0.4}, {"low": 0.1, "high": 0.5}]
    assert fingerprint not in [SelectiveLabels("demo", fields).fingerprint for fields in others]
    assert SelectiveLabels("demo", share=0.5, base="demo").fingerprint is not None
    assert SelectiveLabels("demo", share=0.5, base=(tiny_model(), tokenizer_with_padding())).fingerprint is None


def test_a_pickle_holds_no_model_and_selects_the_same():
    used = SelectiveLabels("demo", high=0.5)
    first = used(some_rows(3))
    copy = pickle.loads(pickle.dumps(used))
    assert len(pickle.dumps(used)) < 2000
    assert copy(some_rows(3)) == first
    assert repr(used).endswith(", high=0.5)")


@pytest.mark.parametrize("mask", ["labels", "completion_mask", "assistant_masks", "attention_mask"])
def test_what_is_out_of_the_loss_stays_out_and_is_not_counted(mask):
    rows = some_rows(mask=mask)
    everything = labels_of({"high": 1.0, "low": 1e-9})(rows)  # keeps all that can be scored
    out = labels_of({"share": 0.5}, base=(tiny_model(), tokenizer_with_padding()))(rows)
    for ids, told, all_labels, labels, struct in zip(
        rows["input_ids"], rows[mask], everything["labels"], out["labels"], out["selection"], strict=True
    ):
        wanted = [
            i if (value != -100 if mask == "labels" else value) else -100 for i, value in zip(ids, told, strict=True)
        ]
        assert all_labels == wanted
        assert all(label in (-100, want) for label, want in zip(labels, wanted, strict=True))
        first = next(t for t, value in enumerate(told) if value) if mask == "attention_mask" else 0
        scored = sum(label != -100 for t, label in enumerate(wanted) if t > first)
        assert (struct["num_scored"], struct["num_kept"]) == (scored, -(-scored // 2))


def test_rows_that_can_not_be_scored_keep_their_labels_and_are_counted(demo):
    good = some_rows(6)["input_ids"]
    prior = StaticPrior(demo.tokenizer, lambda ids, t: {int(ids[t]): {7: math.nan, 300: 0.9}.get(int(ids[0]), 0.96)})
    bad = {
        "skipped:null": None,
        "skipped:empty": [],
        "skipped:unknown_token_id": [1, 2, 10**6],
        "skipped:attention_mask_length": [1, 2, 3],
        "skipped:nonfinite": [7, 8, 9],
        "no_labels": [300, 301, 302],
    }
    rows = {"input_ids": [*bad.values(), *good], "attention_mask": [None, None, None, [1], *[None] * 8]}
    out = SelectiveLabels(prior, low=0.95, tokenizer=demo.tokenizer)({**rows, "labels": [*rows["input_ids"]]})
    assert [struct["status"] for struct in out["selection"]][: len(bad)] == [*bad]
    assert out["labels"][:5] == [*bad.values()][:5]
    assert out["labels"][5] == [300, -100, -100]
    stats = summarize_selection(out)
    assert stats.statuses == {**dict.fromkeys(bad, 1), "unchanged": 6}
    assert stats.num_rows == 12
    assert stats.num_kept == sum(len(ids) - 1 for ids in good) == stats.num_scored - 2
    assert stats.no_labels_rate == 1 / 12
    assert "no_labels" in repr(stats)
    assert "no token of the row is left in the loss" in stats._repr_html_()


@pytest.mark.parametrize("batched", [True, False])
def test_rows_left_without_a_token_are_warned_of_once(batched, demo):
    prior = StaticPrior(demo.tokenizer, lambda ids, t: {int(ids[t]): 0.999})
    labels = SelectiveLabels(prior, high=0.99, tokenizer=demo.tokenizer, stats_column=None)
    rows = some_rows(30)["input_ids"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for part in [rows[:12], rows[12:]] if batched else rows:
            labels({"input_ids": part})
    [message] = [str(one.message) for one in caught]
    number = 12 if batched else 10
    assert message.startswith(f"{number} of the {number} rows so far have no token left in the loss: keep more tokens")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SelectiveLabels(prior, low=0.99, tokenizer=demo.tokenizer)({"input_ids": rows})


def test_the_summary_adds_up():
    rows = Dataset.from_dict(some_rows())
    out = rows.map(labels_of({"high": 0.5}), batched=True)
    stats = summarize_selection(out)
    labels, ids = (np.concatenate(out.with_format(None)[name]) for name in ("labels", "input_ids"))
    assert stats.num_tokens == len(ids)
    assert stats.num_scored == len(ids) - len(out)
    assert stats.num_kept == (labels != -100).sum() - len(out)
    assert stats.kept_rate == stats.num_kept / stats.num_scored
    assert stats.no_labels_rate == 0
    halves = [summarize_selection(out.select(part)) for part in (range(5), range(5, 12))]
    assert sum(half.num_kept for half in halves) == stats.num_kept
    assert summarize_selection(out.to_iterable_dataset()) == summarize_selection(DatasetDict(a=out)) == stats
    assert math.isnan(summarize_selection([]).kept_rate)
    with pytest.raises(RowError, match=r"no column 'selection'.*: map SelectiveLabels over the dataset first"):
        summarize_selection(rows)


def test_a_token_whose_excess_is_the_least_one_stays():
    keeps = LossSelection(min_excess=0.5).keeps(np.array([-1.0, -1.0, -1.0]), np.array([-1.5, -1.25, -2.0]))
    assert keeps.tolist() == [True, False, True]


def test_rounding_does_not_decide_which_of_two_tokens_stays():
    keeps = LossSelection(share=0.5).keeps(np.array([-1.0, -1.0]), np.array([-1.5, -1.5 - 1e-6]))
    assert keeps.tolist() == [True, False]


def test_padding_on_the_left_stays_and_the_tokens_after_it_are_judged(demo):
    prior = StaticPrior(demo.tokenizer, lambda ids, t: {int(ids[t]): {301: 0.9}.get(int(ids[t]), 0.1)})
    row = {"input_ids": [0, 0, 300, 301, 302], "attention_mask": [0, 0, 1, 1, 1], "labels": [-100, -100, 300, 301, 302]}
    out = SelectiveLabels(prior, high=0.5, tokenizer=demo.tokenizer)(row)
    assert out["labels"] == [-100, -100, 300, -100, 302]


def test_a_row_that_the_base_cannot_score_keeps_its_labels(demo):
    bad, good = (StaticPrior(demo.tokenizer, lambda ids, t, p=p: {int(ids[t]): p}) for p in (math.nan, 0.5))
    out = SelectiveLabels(good, min_excess=0.0, base=bad, tokenizer=demo.tokenizer)({"input_ids": [300, 301, 302]})
    assert (out["labels"], out["selection"]["status"]) == ([300, 301, 302], "skipped:nonfinite")


def test_a_share_is_taken_as_it_is_written():
    """0.7 * 10 is above 7 in floats, and 0.07 * 100 above 7."""
    for share, number, expected in [(0.7, 10, 7), (0.07, 100, 7), (0.29, 100, 29), (1.0, 3, 3), (0.001, 5, 1)]:
        scores = np.zeros(number)
        kept = LossSelection(share=share).keeps(scores, scores)
        assert kept.tolist() == [True] * expected + [False] * (number - expected)


def test_equal_selections_are_equal_and_say_what_they_are():
    one = LossSelection(low=0, high=0.5)
    assert one == LossSelection(high=0.5) == LossSelection.from_dict(one.to_dict())
    assert repr(one) == "LossSelection(high=0.5)"
    assert [LossSelection(**fields).compares for fields in SELECTIONS] == [False, False, True, True, True]


def other_tokenizer(demo):
    prior = StaticPrior(load_tokenizer("demo"), lambda ids, t: {})
    prior.tokenizer.add_special_tokens(["<extra>"])
    return prior


ROW = {"input_ids": [1, 2, 3]}
WRONG = {
    "no condition": (lambda demo: LossSelection(low=0.0), ConfigError, "this keeps every token: set high="),
    "percent": (lambda demo: LossSelection(share=60), ConfigError, "share=60 must be a number .* did you mean 0.6"),
    "nan": (lambda demo: LossSelection(min_excess=math.nan), ConfigError, "min_excess=nan must be a number"),
    "no room": (lambda demo: LossSelection(low=0.5, high=0.5), ConfigError, "low=0.5 must be below high=0.5"),
    "name": (lambda demo: SelectiveLabels("demo", hihg=0.5), ConfigError, "did you mean 'high'"),
    "no base": (lambda demo: SelectiveLabels("demo", share=0.5), ConfigError, "set base= as well"),
    "no use of it": (lambda demo: SelectiveLabels("demo", high=0.5, base="demo"), ConfigError, "set one, or leave"),
    "live": (lambda demo: SelectiveLabels("self", high=0.5), ConfigError, "only ToEditCallback takes it"),
    "format": (lambda demo: SelectiveLabels(demo, high=0.5)({"name": "a"}), RowError, "no text column"),
    "pair": (
        lambda demo: SelectiveLabels(demo, high=0.5)({"input": "a", "output": "b"}),
        RowError,
        "as SFTTrainer does",
    ),
    "answers": (
        lambda demo: SelectiveLabels(demo, high=0.5)({"prompt": "a", "chosen": "b", "rejected": "c"}),
        RowError,
        "answers have no labels: to train on those chosen, ds.remove_columns",
    ),
    "classes": (
        lambda demo: SelectiveLabels(demo, high=0.5)({"text": "a", "labels": 1}),
        RowError,
        "would overwrite it",
    ),
    "column": (lambda demo: SelectiveLabels(demo, high=0.5)({**ROW, "selection": 1}), RowError, "stats_column="),
    "labels": (lambda demo: labels_of({"high": 0.5})({**ROW, "labels": [1, 3, 2]}), RowError, "neither its input_ids"),
    "tokenizer": (
        lambda demo: SelectiveLabels(demo, high=0.5, tokenizer=other_tokenizer(demo).tokenizer),
        PriorError,
        "<extra>",
    ),
    "two tokenizers": (
        lambda demo: SelectiveLabels(demo, share=0.5, base=other_tokenizer(demo))(ROW),
        PriorError,
        "<extra>",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), WRONG.values(), ids=WRONG)
def test_wrong_calls_are_one_line(call, kind, message, demo):
    with pytest.raises(kind, match=message) as error:
        call(demo)
    one_line(error)


# live


class Batches(TrainerCallback):
    """Keeps the batches as they are trained on. Attach it after the callback."""

    def __init__(self, trainer, callback):
        self.seen = []
        callback.attach(trainer)
        original = trainer.get_batch_samples

        def keep(*args):
            batches, num_items = original(*args)
            self.seen += [(batch, num_items) for batch in batches]
            return batches, num_items

        trainer.get_batch_samples = keep


LIVE = {
    "itself": ({"prior": "self"}, {"high": 0.5}),
    "a reference against itself": ({"prior": "demo", "base": "self"}, {"share": 0.3}),
    "itself against its base": ({"prior": "self", "base": "base"}, {"min_excess": 0.01, "low": 0.001}),
}


@pytest.mark.parametrize(("priors", "select"), LIVE.values(), ids=LIVE)
def test_live_labels_are_those_of_offline_at_the_same_weights(priors, select, tmp_path):
    torch.manual_seed(1)
    model = get_peft_model(demo_model(), LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    tokenizer = tokenizer_with_padding()
    frozen = {
        "self": ModelPrior(pickle.loads(pickle.dumps(model)), tokenizer),
        "base": (demo_model(), tokenizer),
        "demo": "demo",
    }
    rows = some_rows(mask="labels")
    offline = labels_of(select, **{name: frozen[prior] for name, prior in priors.items()})(rows)
    expected = {tuple(ids): labels for ids, labels in zip(rows["input_ids"], offline["labels"], strict=True)}
    trainer = make_trainer(tmp_path, rows, model=model, learning_rate=0.0, max_steps=3)
    batches = Batches(trainer, ToEditCallback(**priors, select=select))
    trainer.train()
    num_rows = num_kept = 0
    for batch, num_items in batches.seen:
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            length = int(mask.sum())
            assert labels.tolist() == expected[tuple(ids[:length].tolist())] + [-100] * (len(ids) - length)
            num_rows += 1
        assert num_items == (batch["labels"][:, 1:] != -100).sum()
        num_kept += int(num_items)
    assert num_rows == 12
    stats = summarize_selection(offline)
    assert stats.num_kept == num_kept
    assert 0.05 < stats.kept_rate < 0.95
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    kept = sum(entry["toedit/kept_rate"] * entry["toedit/visited"] for entry in logs)
    assert kept == pytest.approx(num_kept)


MODES = {
    "plain": (make_trainer, {}),
    "left padded": (make_trainer, {"collator": left_padded}),
    "shift labels": (make_trainer, {"collator": with_shift_labels}),
    "flattened": (make_trainer, {"collator": DataCollatorWithFlattening()}),
    "accumulation": (make_trainer, {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2}),
    "label smoothing": (make_trainer, {"label_smoothing_factor": 0.1}),
    "streamed": (make_trainer, {"is_stream": True}),
    "SFT": (make_sft_trainer, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}),
    "SFT, padding-free": (make_sft_trainer, {"padding_free": True}),
    "SFT, DFT": (make_sft_trainer, {"loss_type": "dft"}),
    "SFT, packed": (make_sft_trainer, {"packing": True, "max_length": 256, "per_device_train_batch_size": 1}),
}
BREADTH = ("left padded", "flattened", "streamed", "label smoothing", "shift labels", "SFT", "SFT, DFT")


@pytest.mark.parametrize("mode", [breadth(mode) if mode in BREADTH else mode for mode in MODES])
def test_training_equals_training_on_offline_labels(mode, two_priors, tmp_path):
    """Bit for bit, also in how the loss is averaged."""
    make, options = MODES[mode]
    rows, select = some_rows(), {"share": 0.4}
    offline = labels_of(select, **two_priors, stats_column=None)(rows)
    make = partial(make, tmp_path, **options)
    live = train(make(rows, [ToEditCallback(**two_priors, select=select)]))
    assert equal(live, train(make(offline)))
    assert not equal(live, train(make(rows)))


TEMPLATE = (
    "{% for m in messages %}<|endoftext|>{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant: {% endif %}"
)
TEXTS = some_texts(8)
OF_TEXT = {
    "text": [{"text": text} for text in TEXTS],
    "pair": [{"prompt": text[:33], "completion": text[33:]} for text in TEXTS],
    "messages": [
        {"messages": [{"role": "user", "content": text[:30]}, {"role": "assistant", "content": text[30:]}]}
        for text in TEXTS
    ],
}


@pytest.mark.parametrize("rows", OF_TEXT.values(), ids=OF_TEXT)
def test_rows_of_text_are_tokenized_as_in_training(rows, two_priors, tmp_path, monkeypatch):
    """Training on the labels equals training on the rows with the callback; no label is lost to the roles."""
    monkeypatch.setattr(tokenizer_with_padding(), "chat_template", TEMPLATE)
    make, select = partial(make_sft_trainer, tmp_path, max_steps=2), {"share": 0.4}
    labels = labels_of(select, **two_priors, chat_template=TEMPLATE)
    selected = Dataset.from_list(rows).map(labels, batched=True)
    plain = make(Dataset.from_list(rows))
    assert selected["input_ids"][:] == plain.train_dataset["input_ids"][:]
    stats, trained = summarize_selection(selected), np.concatenate(plain.train_dataset["labels"][:]) != -100
    has_first = "prompt" not in rows[0]
    assert stats.num_scored == trained.sum() - (len(rows) if has_first else 0)
    assert 0.4 <= stats.kept_rate < 0.42
    offline = train(make(selected))
    assert equal(offline, train(make(Dataset.from_list(rows), [ToEditCallback(**two_priors, select=select)])))
    assert not equal(offline, train(plain))


def test_another_column_can_be_named():
    rows = {"prompt": ["What is it?"], "completion": ["A function."], "text": ["A method of a class."]}
    named, default = (labels_of({"high": 0.9}, columns=columns)(rows) for columns in ("text", None))
    decode = tokenizer_with_padding().decode
    assert decode(named["input_ids"][0], skip_special_tokens=True) == rows["text"][0]
    assert decode(default["input_ids"][0], skip_special_tokens=True) == "What is it?A function."


def test_a_row_without_text_is_counted():
    rows = {"text": ["Some text.", None, 3, "\ud800", ""]}
    out = labels_of({"low": 1e-9})(rows)
    statuses = ["unchanged", "skipped:null", "skipped:not_text", "skipped:lone_surrogates", "unchanged"]
    assert [struct["status"] for struct in out["selection"]] == statuses
    assert out["labels"] == out["input_ids"]
    assert out["labels"][1:] == [None, None, None, [0, 0]]


@pytest.mark.parametrize("base", [str(DEMO_FOLDER), None])
def test_a_resumed_run_trains_the_same_weights(base, two_priors, tmp_path):
    """base: of a folder, or in memory."""
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2}

    def make():
        callback = ToEditCallback("self", base=base or two_priors["base"], select={"share": 0.4})
        return callback, make_trainer(tmp_path, some_rows(), [callback], **options)

    _, whole = make()
    weights = train(whole)
    callback, resumed = make()
    assert equal(train(resumed, resume_from_checkpoint=str(tmp_path / "checkpoint-2")), weights)
    [edit] = callback.history.edits(resumed)
    assert edit.steps == (1, 4)
    assert edit.stats.num_rows == 8
    assert edit.record["base"]["prior"] == (base or "ModelPrior")
    assert base is None or base not in (tmp_path / "checkpoint-2/trainer_state.json").read_text()


def test_the_record_and_the_card_say_what_was_selected(two_priors, tmp_path):
    trainer = make_trainer(tmp_path, some_rows(), [ToEditCallback("demo", base="self", select={"share": 0.4})])
    trainer.train()
    trainer.save_model()
    card = (tmp_path / "README.md").read_text()
    assert "Of each row, only the 0.4 of tokens with the largest log p(prior) - log p(base) stay in the loss" in card
    assert "| base | the model in training, as it was at each step |" in card
    assert "select:\n  share: 0.4\n" in card
    assert "threshold" not in card
    assert "| - left without a token in the loss | 0 |" in card
