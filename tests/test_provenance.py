"""Rows say which edit made them; what is written beside them says what edit that was."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from itertools import islice

import pytest
import torch
from command_line import run
from conftest import load_tokenizer
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset

import hf_toedit
from hf_toedit import RowError, SourceError, StaticPrior, ToEditConfig, ToEditTransform, TransformersPrior, summarize
from hf_toedit.experiments.docstrings import docstrings, standard_library
from hf_toedit.priors.pretrained import DEMO_FOLDER

pytestmark = pytest.mark.usefixtures("folder")
SETTINGS = {"threshold": 0.4, "seed": 3}


@pytest.fixture(scope="module")
def rows():
    return [{"text": row["text"][:300]} for row in islice(docstrings(standard_library()), 40, 52)]


@pytest.fixture(scope="module")
def edited(rows, demo):
    return Dataset.from_list(rows).map(ToEditTransform(demo, **SETTINGS), batched=True)


def fingerprint_of(prior="demo", **options):
    return ToEditTransform(prior, **{**SETTINGS, **options}).fingerprint


def test_every_row_has_the_fingerprint_of_its_transform(rows, demo, edited):
    transform = ToEditTransform(demo, **SETTINGS)
    assert len(transform.fingerprint) == 16
    assert int(transform.fingerprint, 16)
    assert {struct["fingerprint"] for struct in edited["toedit"]} == {transform.fingerprint}
    assert transform(rows[0])["toedit"]["fingerprint"] == transform.fingerprint
    assert transform({"text": ["", None, rows[0]["text"]]})["toedit"][0]["fingerprint"] == transform.fingerprint
    assert summarize(edited).fingerprints == {transform.fingerprint: len(rows)}
    assert summarize(edited).to_dict()["fingerprints"] == {transform.fingerprint: len(rows)}


def test_it_is_the_same_in_every_process(demo):
    transform = ToEditTransform(demo, **SETTINGS)
    assert pickle.loads(pickle.dumps(transform)).fingerprint == transform.fingerprint
    before = pickle.dumps(ToEditTransform(TransformersPrior("demo"), **SETTINGS))
    code = f"import pickle; print(pickle.loads({before!r}).fingerprint)"
    path = {"PYTHONPATH": os.path.dirname(os.path.dirname(hf_toedit.__file__)), "PYTHONHASHSEED": "5"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **path})
    assert found.stdout.strip() == transform.fingerprint, found.stderr
    assert pickle.dumps(transform) == pickle.dumps(pickle.loads(pickle.dumps(transform)))


def test_it_does_not_depend_on_where_or_how_fast_the_prior_runs(folder, demo):
    same = fingerprint_of(demo)
    (folder / "copy").symlink_to(DEMO_FOLDER)
    for options in ({"device": "cpu"}, {"batch_tokens": 512}, {"model_init_kwargs": {"token": "hf_secret"}}):
        assert fingerprint_of(TransformersPrior("demo", **options)) == same
    assert fingerprint_of(TransformersPrior("copy")) == same
    assert fingerprint_of(demo, stats_column="other") == same


CHANGES = [
    {"threshold": 0.5},
    {"seed": 4},
    {"generation": 1},
    {"protect": ["numbers"]},
    {"columns": "text"},
    {"columns": "b", "context": "a"},
    {"roles": "user"},
    {"chat_template": ""},
    {"stats": "full"},
    *({"prior": options} for options in ({"dtype": "bfloat16"}, {"max_length": 64}, {"max_length": 64, "stride": 8})),
    {"prior": {"model_init_kwargs": {"attn_implementation": "eager"}}},
]


def test_it_tells_apart_whatever_changes_an_edit(demo):
    found = [fingerprint_of(demo)]
    for change in CHANGES:
        prior = TransformersPrior("demo", **change["prior"]) if "prior" in change else demo
        found.append(fingerprint_of(prior, **{name: value for name, value in change.items() if name != "prior"}))
    assert len({*found}) == len(CHANGES) + 1


def test_a_dtype_is_known_by_its_name():
    priors = [TransformersPrior("demo", model_init_kwargs={"torch_dtype": dtype}) for dtype in (torch.half, "float16")]
    assert len({fingerprint_of(prior) for prior in priors}) == 1


def test_the_corpus_of_the_random_strategy_is_part_of_it(rows, demo):
    transforms = [ToEditTransform(demo, strategy="random").fit(some) for some in (rows, rows[:6], rows)]
    first, second, third = (transform.fingerprint for transform in transforms)
    assert first == third != second
    assert transforms[0].fit(rows[:6]).fingerprint == second


def test_a_prior_without_a_revision_has_no_false_identity(rows):
    """Two scripted priors of one class edit otherwise: null, and not one fingerprint for both."""
    prior = StaticPrior(load_tokenizer("demo"), lambda ids, t: {int(ids[t]): 0.999, 300: 0.001})
    transform = ToEditTransform(prior)
    assert transform.fingerprint is transform.provenance()["revision"] is None
    edited = Dataset.from_list(rows).map(transform, batched=True)
    assert {struct["fingerprint"] for struct in edited["toedit"]} == {None}
    assert summarize(edited).fingerprints == {"unknown": len(rows)}
    transform.save(edited, "saved")
    prior.revision = "my-version-1"  # who can tell priors apart may say so
    named = ToEditTransform(prior).fingerprint
    assert len(named) == 16
    prior.revision = "my-version-2"
    assert ToEditTransform(prior).fingerprint != named


def test_a_mixture_of_edits_is_told(rows, edited, demo):
    other = ToEditTransform(demo, **{**SETTINGS, "seed": 4})
    mixed = concatenate_datasets([edited, Dataset.from_list(rows[:5]).map(other, batched=True)])
    with pytest.warns(hf_toedit.ToEditWarning, match="2 different edits") as caught:
        stats = summarize(mixed)
    assert len(caught) == 1
    assert stats.fingerprints == {fingerprint_of(demo): len(rows), other.fingerprint: 5}
    with pytest.raises(RowError, match="another transform edited these rows"), pytest.warns(hf_toedit.ToEditWarning):
        other.save(mixed, "mixed")
    with pytest.raises(RowError, match=other.fingerprint):
        other.save(edited, "mixed")
    assert os.listdir() == []


def test_save_writes_what_the_command_line_writes(folder, rows, demo):
    Dataset.from_list(rows).to_json("rows.jsonl")
    printed = run("edit", "rows.jsonl", "--prior", "demo", "--threshold", 0.4, "--seed", 3, "--out", "cli")
    transform = ToEditTransform(demo, **SETTINGS)
    edited = load_dataset("json", data_files="rows.jsonl").map(transform, batched=True)
    stats = transform.save(edited, "python")
    assert stats == summarize(edited)
    assert {*os.listdir("python"), ".toedit"} == {*os.listdir("cli")}
    for name in ("toedit.json", "stats.json", "histogram.png"):
        assert (folder / "python" / name).read_bytes() == (folder / "cli" / name).read_bytes()
    loaded = load_dataset("python")
    assert loaded["train"][:] == load_dataset("cli")["train"][:] == edited["train"][:]
    assert loaded["train"].features == edited["train"].features
    record = json.loads((folder / "python/toedit.json").read_text())
    assert record == transform.provenance()
    assert record["fingerprint"] == loaded["train"][0]["toedit"]["fingerprint"]
    assert ToEditConfig.from_dict(record["config"]) == transform.config
    assert record["fingerprint"] in printed


def test_the_record_names_the_priors_options():
    prior = TransformersPrior("demo", dtype="bfloat16", max_length=64, stride=8, model_init_kwargs={"token": "hf_x"})
    record = ToEditTransform(prior, chat_template="{{ messages }}", roles="user").provenance()
    assert (record["prior"], record["prior_class"], record["revision"]) == ("demo", "TransformersPrior", prior.revision)
    assert record["prior_options"]["dtype"] == "bfloat16"
    assert (record["max_length"], record["stride"]) == (64, 8)
    assert (record["chat_template"], record["roles"]) == ("{{ messages }}", ["user"])
    assert record["transform_version"] >= 1
    assert "hf_x" not in json.dumps(record, allow_nan=False)


def test_the_record_helps_to_find_the_prior_again_without_being_part_of_the_fingerprint(demo):
    transform = ToEditTransform(demo, **SETTINGS)
    record = transform.provenance()
    assert (record["prior_hub_id"], record["tokenizer"]["num_tokens"]) == (None, demo.tokenizer.get_vocab_size())
    others = [
        ToEditTransform(StaticPrior(load_tokenizer(name), lambda ids, t: {}), **SETTINGS) for name in ("demo", "gpt2")
    ]
    same, other = (transform.provenance()["tokenizer"]["digest"] for transform in others)
    assert record["tokenizer"]["digest"] == same != other
    prior = others[0].prior
    prior.revision = "1"
    before = ToEditTransform(prior).fingerprint
    prior.hub_id = "org/name"
    assert ToEditTransform(prior).fingerprint == before
    assert ToEditTransform(prior).provenance()["prior_hub_id"] == "org/name"


def test_save_takes_one_dataset_and_a_new_folder(rows, edited, demo):
    transform = ToEditTransform(demo, **SETTINGS)
    transform.save(edited, "one")
    assert load_dataset("one")["train"][:] == edited[:]
    transform.save(DatasetDict(a=edited, b=edited.select([0])), "two")
    assert load_dataset("two")["b"].num_rows == 1
    with pytest.raises(SourceError, match="exists"):
        transform.save(edited, "one")
    for wrong, line in ((edited.to_iterable_dataset(), "save needs all rows at once"), (edited[:3], "not dict")):
        with pytest.raises(RowError, match=line):
            transform.save(wrong, "three")
    with pytest.raises(RowError, match="no column 'toedit'"):
        transform.save(Dataset.from_list(rows), "three")
    with pytest.raises(RowError, match="stats_column=None"):
        ToEditTransform(demo, stats_column=None).save(edited, "three")
    assert sorted(os.listdir()) == ["one", "two"]


def test_a_split_without_rows_is_left_out_with_a_word(rows, edited, demo):
    """`map` adds no column to it, and `load_dataset` could not read it back."""
    transform = ToEditTransform(demo, **SETTINGS)
    ds = Dataset.from_list(rows)
    both = DatasetDict(empty=ds.select([]), train=ds).map(transform, batched=True)
    with pytest.warns(hf_toedit.ToEditWarning, match="splits without rows are left out: 'empty'"):
        assert transform.save(both, "saved") == summarize(both) == summarize(edited)
    loaded = load_dataset("saved")
    assert [*loaded] == ["train"]
    assert loaded["train"][:] == edited[:]
    with pytest.raises(RowError, match="there are no rows to save"):
        transform.save(both["empty"], "nothing")
    assert os.listdir() == ["saved"]


def test_the_digest_of_a_folder_does_not_hang_on_the_python_version(demo, monkeypatch):
    monkeypatch.delattr("hashlib.file_digest", raising=False)
    assert TransformersPrior("demo").revision == demo.revision
