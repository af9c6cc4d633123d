"""Reports and output folders, part by part."""

from __future__ import annotations

import io
import os

import datasets
import numpy as np
import pytest
from datasets import Dataset, DatasetDict, load_dataset
from rich.console import Console

from hf_toedit import SourceError, summarize
from hf_toedit.files.outputs import new_folder
from hf_toedit.files.sources import load_source, save_dataset
from hf_toedit.report.edits import marked, show_edits
from hf_toedit.report.files import write_histogram
from hf_toedit.report.tables import stats_table

pytestmark = pytest.mark.usefixtures("folder")


def edit_of(start, old, new, column="text"):
    return {"column": column, "start": start, "old": old, "new": new}


def test_edits_read_without_colour_and_are_coloured_where_there_is_one():
    text = "one two three"
    edits = [edit_of(4, "two", "2"), edit_of(8, "three", "")]
    assert marked(text, edits, colour=False).plain == "one [-two-]{+2+} [-three-]"
    styles = {str(span.style) for span in marked(text, edits, colour=True).spans}
    assert styles == {"strike red", "bold green"}
    long = "x" * 100 + "ab" + "y" * 100
    assert marked(long, [edit_of(100, "a", "c")], colour=False).plain == f"…{'x' * 40}[-a-]{{+c+}}b{'y' * 39}…"
    assert marked([5, 6, 7], [edit_of(1, "6", "9", "input_ids")], colour=False).plain == " 5 [-6-]{+9+} 7 "
    row = {"text": "\x1b[31m 2\n", "toedit": {"edits": [edit_of(6, "two", "2")]}}
    out = io.StringIO()
    show_edits(Console(file=out, width=20), [("a", row)])
    assert out.getvalue() == "a  ·[31m [-two-]{+2+}↵\n"
    out = io.StringIO()
    show_edits(Console(file=out, force_terminal=True, color_system="standard"), [("a", row)])
    assert "\x1b[9;31mtwo" in out.getvalue()
    assert "\x1b[1;32m2" in out.getvalue()


def test_a_report_of_nothing_visited_can_be_made(folder):
    stats = summarize([])
    write_histogram(folder / "empty.png", stats, "$ \\broken{math}")
    Console(file=io.StringIO()).print(stats_table(stats))
    assert np.isnan(stats.eligible_interval).all()


def test_new_folder_appears_whole_or_not_at_all(folder):
    (folder / "empty").mkdir()
    for name in ("a/b/c", "empty"):
        with new_folder(folder / name) as work:
            (work / "file").write_text("x")
            (work / ".work/file").write_text("x")
        assert os.listdir(name) == ["file"]
        assert os.stat(name).st_mode == os.stat(folder).st_mode
    with pytest.raises(KeyboardInterrupt), new_folder(folder / "d/e"):
        raise KeyboardInterrupt
    assert sorted(os.listdir()) == ["a", "empty"]
    with pytest.raises(SourceError, match="can't write"), new_folder(folder / "a/b/c/file/out"):
        pass


def test_the_layout_is_found_whatever_lies_beside_it(folder):
    features = datasets.Features({"text": datasets.Value("string"), "kind": datasets.ClassLabel(names=["x", "y"])})
    rows = Dataset.from_dict({"text": ["a", None], "kind": [0, 1]}, features=features)
    save_dataset(DatasetDict(train=rows, test_sft=rows), folder)
    for name in ("stats.json", "histogram.png", "README.md", "notes.txt", "other.jsonl"):
        (folder / name).write_text("{}")
    loaded = load_dataset(str(folder))
    assert {split: part[:] for split, part in loaded.items()} == {"train": rows[:], "test_sft": rows[:]}
    assert loaded["train"].features == features


def test_a_csv_keeps_the_words_that_other_readers_take_for_null(folder):
    (folder / "words.csv").write_text('text,n\nNA,1\nNone,2\n"a\nb",3\n,4\n')
    assert load_source("words.csv")["train"]["text"][:] == ["NA", "None", "a\nb", None]
