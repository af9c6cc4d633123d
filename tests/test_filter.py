"""`hf-toedit filter` against brute force, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import fail, run
from datasets import Dataset, DatasetDict, load_dataset
from made import human_texts
from small_disks import mounted
from transformers import AutoModelForCausalLM

from hf_toedit import ToEditTransform
from hf_toedit.errors import ConfigError
from hf_toedit.measure.quantiles import QuantileRange, lies_between, perplexities

pytestmark = pytest.mark.usefixtures("folder")

TEXTS = list(human_texts()[:40])
EDGES = ["", None]  # rows without a perplexity
ROWS = [{"id": i, "text": text, "more": {"n": [i]}} for i, text in enumerate([*TEXTS[:20], *EDGES, *TEXTS[20:]])]
PRIOR = ("--prior", "demo", "--perplexity-quantile")


@pytest.fixture(scope="module")
def known(demo):
    """The perplexity of each row of ROWS by id, in float64, from the prior's own logits; rows with one alone."""
    model = AutoModelForCausalLM.from_pretrained(demo.path, dtype=torch.float64)
    found = {}
    for row in ROWS:
        ids_T = torch.tensor(demo.tokenizer.encode(row["text"] or "").ids)
        if len(ids_T) > 1:
            with torch.no_grad():
                logprob_TV = model(ids_T[None]).logits[0].log_softmax(-1)
            found[row["id"]] = float(torch.exp(-logprob_TV[:-1].gather(1, ids_T[1:, None]).mean()))
    assert len(found) == len(TEXTS)
    return found


def expected(known, low, high):
    """The ids that brute force keeps."""
    ends = np.quantile(list(known.values()), [low, high])
    return [id for id, perplexity in known.items() if ends[0] <= perplexity <= ends[1]], ends


@pytest.mark.parametrize("ends", [(0.1, 0.9), (0, 0.5), (0.33, 1)])
def test_kept_rows_are_those_of_brute_force(ends, known, demo):
    Dataset.from_list(ROWS).to_parquet("rows.parquet")
    quantile = "{}:{}".format(*ends)
    printed = run("filter", "rows.parquet", *PRIOR, quantile, "--out", "k", "--json")
    kept, perplexity = expected(known, *ends)
    rows = load_dataset("k")["train"]
    assert rows[:] == Dataset.from_list([ROWS[id] for id in kept])[:]
    assert rows.features == Dataset.from_list(ROWS).features
    record = json.loads(printed)
    assert record == json.loads(Path("k/filter.json").read_text())
    assert record["perplexity"] == pytest.approx(perplexity, rel=1e-4)
    assert record["perplexity_quantile"] == list(ends)
    numbers = {"num_rows": 42, "num_kept": len(kept), "num_dropped": 42 - len(kept), "num_unscorable": 2}
    assert record["splits"] == {"train": numbers}
    assert record["skipped"] == {"skipped:empty": 1, "skipped:null": 1}
    assert (record["run"]["prior"], record["run"]["revision"]) == ("demo", demo.revision)


def test_all_splits_share_the_quantiles_and_an_empty_one_is_left_out(known):
    lowest = min(known, key=known.get)
    splits = {"train": ROWS, "test": [ROWS[lowest]] * 2}
    DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()}).save_to_disk("splits")
    options = [*PRIOR, "0.5:"]
    record = json.loads(run("filter", "splits", *options, "--out", "k", "--json"))
    perplexity = np.quantile([*known.values(), known[lowest], known[lowest]], 0.5)
    assert record["perplexity"][0] == pytest.approx(perplexity, rel=1e-4)
    assert record["num_rows"] == 44
    assert [*load_dataset("k")] == ["train"]
    run("filter", "splits", "--split", "test", *options, "--out", "ties")  # both tie with the median
    assert load_dataset("ties").num_rows == {"train": 2}


def test_rows_without_a_perplexity_can_be_kept(known):
    Dataset.from_list(ROWS).to_json("rows.jsonl")
    run("filter", "rows.jsonl", *PRIOR, ":0.5", "--keep-unscorable", "--out", "k")
    ids = load_dataset("k")["train"]["id"][:]
    assert ids == sorted([*expected(known, 0, 0.5)[0], 20, 21])
    card = Path("k/README.md").read_text()
    assert f"{len(ids)} of the 42 rows" in card
    assert "--keep-unscorable" in card
    assert "the quantiles 0 and 0.5 of the 40 rows that have a perplexity" in card
    assert "such as empty ones, were kept." in card
    assert re.search(rf"\| kept +\| +{len(ids)} \|", card)


def test_the_command_on_the_card_repeats_it():
    Dataset.from_list(ROWS).to_json("rows.jsonl")
    run("filter", "rows.jsonl", *PRIOR, "0.2:0.8", "--columns", "text", "--out", "k")
    card = Path("k/README.md").read_text()
    command = card.partition("```sh\nhf-toedit ")[2].partition("```")[0].replace("\\\n", " ").split()
    run(*command)
    assert load_dataset("again")["train"][:] == load_dataset("k")["train"][:]


def test_filtered_edits_can_be_reverted(demo):
    transform = ToEditTransform(demo, threshold=0.3)
    transform.save(DatasetDict(train=Dataset.from_list(ROWS).map(transform, batched=True)), "edited")
    run("filter", "edited", *PRIOR, "0.2:0.8", "--out", "k")
    run("revert", "k", "--out", "back")
    back = load_dataset("back")["train"]
    assert back[:] == Dataset.from_list([ROWS[id] for id in back["id"]])[:]
    record = json.loads(Path("k/toedit.json").read_text())
    assert {struct["fingerprint"] for struct in load_dataset("k")["train"]["toedit"]} == {record["fingerprint"]}


BAD = [
    ("0.9:0.1", "set --perplexity-quantile '0.1:0.9'"),
    ("5:95", "set --perplexity-quantile '0.05:0.95'"),
    ("0.5", "low:high"),
    ("a:b", "low:high"),
    ("nan:1", "low:high"),
    ("-0.1:0.5", "in [0, 1]"),
    ("0:1000", "in [0, 1]"),
    ("0.5:0.5", "must differ"),
    ("0.4:0.6", "wider"),
]


@pytest.mark.parametrize(("quantile", "says"), BAD)
def test_a_bad_range_is_one_line_with_the_fix(quantile, says):
    Dataset.from_list([ROWS[0], ROWS[1]]).to_json("rows.jsonl")
    assert says in fail("filter", "rows.jsonl", "--prior", "demo", f"--perplexity-quantile={quantile}", "--out", "k")
    assert os.listdir() == ["rows.jsonl"]


def test_rows_that_all_lack_a_perplexity_are_an_error():
    options = [*PRIOR, "0:0.5", "--out", "k"]
    Dataset.from_list([{"text": ""}, {"text": ""}]).to_json("rows.jsonl")
    assert "skipped:empty (2 rows)" in fail("filter", "rows.jsonl", *options)
    Dataset.from_list([{"input_ids": [300]}]).to_json("one.jsonl")
    assert "at most one token" in fail("filter", "one.jsonl", *options)
    assert sorted(os.listdir()) == ["one.jsonl", "rows.jsonl"]


def test_an_output_that_exists_is_refused():
    Dataset.from_list(ROWS).to_json("rows.jsonl")
    os.mkdir("k")
    Path("k/mine").touch()
    assert "exists" in fail("filter", "rows.jsonl", *PRIOR, "0:0.5", "--out", "k")
    assert os.listdir("k") == ["mine"]


def test_a_full_disk_is_one_line(tmp_path):
    Dataset.from_list([{**row, "pad": os.urandom(60_000).hex()} for row in ROWS]).to_parquet("rows.parquet")
    disk = tmp_path / "disk"
    with mounted(disk, "size=1m"):
        options = [*PRIOR, "0:1", "--out", disk / "k"]
        assert "No space left" in fail("filter", "rows.parquet", *options)
        assert os.listdir(disk) == []


def test_perplexities_are_exact_and_stay_finite():
    found_N = perplexities(np.array([-2.0, 0.0, -1e6]), np.array([2, 0, 1]))
    assert found_N[0] == np.exp(1.0)
    assert np.isnan(found_N[1])
    assert np.isfinite(found_N[2])
    assert lies_between(np.array([1.0, 2.0, 3.0, np.nan]), 1.0, 2.0).tolist() == [True, True, False, False]
    with pytest.raises(ConfigError):
        QuantileRange.parse("")
