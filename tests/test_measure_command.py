"""`hf-toedit measure`, its file, and where that is shown."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from command_line import fail, run
from datasets import Dataset, DatasetDict
from made import human_texts
from small_disks import mounted
from typer.testing import CliRunner

from hf_toedit import ToEditTransform, ToEditWarning
from hf_toedit.cli.command import app
from hf_toedit.measure import EditProfile, NGrams, measure
from hf_toedit.measure.identity import are_same_rows
from hf_toedit.measure.one_pass import default_measurements
from hf_toedit.report.measurements import LABELS, about

pytestmark = pytest.mark.usefixtures("folder")

TEXTS = list(human_texts()[:60])
ROWS = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]


def write(name, rows):
    Dataset.from_list(rows).to_parquet(name)
    return name


@pytest.fixture(scope="module")
def edited(demo):
    transform = ToEditTransform(demo, threshold=0.5, exclude_target=True)
    return transform, DatasetDict(train=Dataset.from_list(ROWS).map(transform, batched=True))


def json_of(*arguments):
    return json.loads(run("measure", *arguments, "--json"))


def plain(value):
    """NaN is null in JSON, and a list of nulls alone is one, too."""
    return json.loads(json.dumps(value).replace("NaN", "null").replace("Infinity", "null"))


def test_figures_equal_those_of_measure_on_the_same_rows(edited, demo):
    transform, dataset = edited
    transform.save(dataset, "edited")
    found = json_of(write("a.parquet", ROWS), "edited", "--prior", "demo")
    for side, rows in (("a", Dataset.from_list(ROWS)), ("b", dataset)):
        measurements = [*default_measurements(with_prior=True), *([EditProfile()] if side == "b" else [])]
        expected = plain(measure(rows, *measurements, prior=demo))
        assert found[side]["results"] == expected
        figures = {name: figure["value"] for name, figure in found[side]["figures"].items()}
        assert figures["distinct_2"] == expected["distinct_n"]["distinct"]["2"]
        assert figures["entropy"] == expected["word_frequencies"]["entropy"]
        assert figures["zipf_slope"] == expected["word_frequencies"]["zipf_slope"]
        assert figures["top_share"] == expected["ngrams"]["top_share"]
        assert figures["compression_ratio"] == expected["compression_ratio"]["compression_ratio"]
        assert figures["eligible_rate"] == expected["token_probability"]["eligible_rate"]
        assert figures["share_below_0.6"] == expected["token_probability"]["share_below_0.6"]
        assert figures["token_perplexity"] == pytest.approx(expected["token_probability"]["perplexity"], rel=1e-12)
        assert figures["geometric_mean_perplexity"] == pytest.approx(
            expected["perplexity"]["geometric_mean"], rel=1e-12
        )
        assert figures["median_perplexity"] == pytest.approx(expected["perplexity"]["median"], rel=0.01)
    assert figures["changed_rate"] == expected["edit_profile"]["changed_rate"]
    shift = NGrams().update(Dataset.from_list(ROWS)).shift(NGrams().update(dataset))
    assert {name: found["shift"][name] for name in shift} == shift
    assert found["prior"]["revision"] == demo.revision


def test_an_edit_and_its_source_are_the_same_rows_and_others_are_not(edited, demo):
    _, dataset = edited
    source = DatasetDict(train=Dataset.from_list(ROWS))
    again = source.map(ToEditTransform(demo, threshold=0.5, seed=1, stats_column="second"), batched=True)

    def are_same(a, b, stats_column="toedit"):
        return are_same_rows(a, b, ["text"], stats_column)

    assert are_same(source, dataset)
    assert are_same(dataset, source)
    assert are_same(dataset, dataset)
    assert are_same(again, source, "second")
    assert not are_same(again, source)  # an edit that is not recorded there
    assert not are_same(source, DatasetDict(train=dataset["train"].shuffle(seed=0)))
    assert not are_same(source, DatasetDict(train=dataset["train"].select(range(59))))
    changed = dataset.map(lambda row: {"text": row["text"] + "!"})
    assert not are_same(source, changed)
    assert not are_same(changed, changed)  # its rows before the edit are not known


def test_pairs_have_narrower_intervals(edited):
    transform, dataset = edited
    for name, rows in (("edited", dataset["train"]), ("shuffled", dataset["train"].shuffle(seed=0))):
        transform.save(DatasetDict(train=rows), name)
    source = write("a.parquet", ROWS)
    found = [json_of(source, name) for name in ("edited", "shuffled")]
    assert [each["paired"] for each in found] == [True, False]
    paired, separate = (each["differences"] for each in found)
    for name in paired:
        assert paired[name]["value"] == pytest.approx(separate[name]["value"])
        assert np.ptp(paired[name]["interval"]) < np.ptp(separate[name]["interval"]), name


def test_one_dataset_has_figures_and_neither_differences_nor_verdicts():
    found = json_of(write("a.parquet", ROWS), "--limit", 30)
    assert found["a"]["num_rows"] == 30
    assert found["b"] is None
    assert not {"differences", "verdicts", "paired", "shift"} & found.keys()
    assert "There is no prior, so perplexity and its tail were not measured" in " ".join(about(found))
    assert {*found["a"]["figures"]} <= {*LABELS}
    for figure in found["a"]["figures"].values():
        low, high = figure["interval"]
        assert low < figure["value"] < high


def test_conversations_and_ids_are_measured(demo):
    turns = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}] for text in TEXTS[:30]]
    of_text = json_of(write("a.parquet", ROWS[:30]))
    assert (
        json_of(write("c.parquet", [{"messages": chat} for chat in turns]))["a"]["figures"] == of_text["a"]["figures"]
    )
    users = json_of("c.parquet", "--roles", "user")["a"]["results"]
    assert users["word_frequencies"]["num_words"] == 30
    ids = [{"input_ids": demo.tokenizer.encode(text).ids} for text in TEXTS[:30]]
    with_ids = json_of(write("i.parquet", ids), "--prior", "demo")["a"]
    assert (
        with_ids["results"]["word_frequencies"]["num_words"] == of_text["a"]["results"]["word_frequencies"]["num_words"]
    )
    assert "set --prior" in fail("measure", "i.parquet")
    assert "can't be compared" in fail("measure", "a.parquet", "c.parquet")


def test_bad_input_is_one_line():
    source = write("a.parquet", ROWS[:5])
    DatasetDict(train=Dataset.from_list(ROWS[:5]), test=Dataset.from_list(ROWS[:5])).save_to_disk("splits")
    assert "set --split to one that both have" in fail("measure", source, "splits")
    run("measure", source, "splits", "--split", "train")
    assert "B: no text column" in fail("measure", source, write("n.parquet", [{"n": 1}]))
    assert "A: no row can be measured: skipped:empty (2 rows)" in fail(
        "measure", write("e.parquet", [{"text": ""}] * 2)
    )
    assert "--revision has no effect without a prior" in fail("measure", source, "--revision", "main")
    assert "stdin can be read once" in fail("measure", "-", "-")
    assert "no file or folder" in fail("measure", source, "missing.jsonl")
    Path("mine.json").write_text("{}")
    assert "not a record of measurements" in fail("measure", source, "--out", "mine.json")
    assert "no folder" in fail("measure", source, "--out", "missing/m.json")
    assert "name a file" in fail("measure", source, "--out", "splits")
    assert Path("mine.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["/dev/full", "/dev/null", "pipe"])
def test_a_device_or_a_pipe_is_no_file_to_write(name):
    os.mkfifo("pipe")
    assert "a device or a pipe: name a file" in fail("measure", write("a.parquet", ROWS), "--out", name)


def test_texts_beside_edited_ids_are_not_taken_for_the_edit(demo):
    transform = ToEditTransform(demo, strategy="random", rate=0.5, distribution="uniform", targets="original")
    edited = DatasetDict(train=Dataset.from_list(ROWS[:9]).map(transform, batched=True))
    transform.save(edited, "edited")
    source = write("a.parquet", ROWS[:9])
    assert fail("measure", source, "edited", "--prior", "demo").endswith("can't be compared: measure each by itself")
    for arguments, noted in (
        ((source, "edited", "--columns", "text"), ["B was edited with targets='original', in input_ids"]),
        ((source, source), []),
        (("edited", "--prior", "demo"), []),
    ):
        result = CliRunner().invoke(app, ["measure", *arguments])
        assert result.exit_code == 0, result.output
        notes = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
        assert [note[len("note: ") :].partition(":")[0] for note in notes] == noted


def test_a_full_disk_is_one_line_and_an_earlier_record_stays(tmp_path):
    source = write("a.parquet", ROWS[:5])
    disk = tmp_path / "disk"
    with mounted(disk, "size=40k"):
        run("measure", source, "--out", disk / "m.json")
        before = (disk / "m.json").read_bytes()
        (disk / "filler").write_bytes(b"x" * (40_960 - 4096 * math.ceil(len(before) / 4096)))
        assert "No space left on device" in fail("measure", source, "--out", disk / "m.json")
        assert (disk / "m.json").read_bytes() == before
        assert sorted(os.listdir(disk)) == ["filler", "m.json"]


def test_the_page_and_the_card_show_what_was_measured_in_these_rows(edited, hub):
    transform, dataset = edited
    transform.save(dataset, "edited")
    source = write("a.parquet", ROWS)
    run("measure", source, "edited", "--out", "edited/measurements.json")
    record = json.loads(Path("edited/measurements.json").read_text())
    texts = [verdict["text"] for verdict in record["verdicts"]]
    run("report", "edited")
    page = Path("report.html").read_text()
    card = run("push", "edited", "me/rows", "--dry-run")
    assert "\n### Measurements\n" in card
    for text in texts:
        assert text.replace("&", "&amp;").replace("'", "&#39;") in page
        assert re.sub(r"[`\[\]:~]", lambda found: f"&#{ord(found[0])};", text) in card
    assert "measurements.json  " in card
    run("push", "edited", "me/rows")

    transform.save(DatasetDict(train=dataset["train"].select(range(50))), "other")
    os.rename("edited/measurements.json", "other/measurements.json")
    for arguments in (["report", "other"], ["push", "other", "me/rows"]):
        with warnings.catch_warnings():
            warnings.simplefilter("always", ToEditWarning)
            result = CliRunner().invoke(app, arguments)
        assert "measurements.json is about other rows than these" in result.stderr
        assert "### Measurements" not in result.output
    assert "about other rows" in Path("report.html").read_text()
    assert texts[0] not in Path("report.html").read_text()
    assert re.search(r"measurements\.json +deleted", result.stdout)  # what the first push left


@pytest.mark.parametrize("content", ["{}", "[", '{"kind": "hf-toedit measure", "format": 1}', "null"])
def test_a_file_that_is_not_a_record_is_one_line(edited, content):
    transform, dataset = edited
    transform.save(dataset, "edited")
    Path("edited/measurements.json").write_text(content)
    assert "not a record of measurements" in fail("report", "edited")
