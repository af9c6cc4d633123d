"""What a recipe's `data` takes of its sources: which rows, how many, in which order, and which of them are edited."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, IterableDataset, load_dataset, load_from_disk

from hf_toedit import ConfigError, RowError, SourceError, ToEditConfig
from hf_toedit.experiments import stages
from hf_toedit.experiments.data import load as load_data
from hf_toedit.experiments.reading import read_recipe
from hf_toedit.experiments.recipe import BUFFER, Data, EditSettings, PriorChoice

pytestmark = pytest.mark.usefixtures("folder")


def write_rows(name, rows):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def loaded(*data):
    """The rows that the stage `load` writes; it leaves nothing else behind."""
    folder = Path(f"loaded{len(list(Path().glob('loaded*')))}")
    folder.mkdir()
    load_data([as_text(**one) for one in data], folder)
    assert [path.name for path in folder.iterdir()] == ["data"]
    return load_from_disk(str(folder / "data"))


def as_text(**fields):
    return Data(**{"columns": {"text": "{text}"}, **fields})


def numbers(rows):
    return [int(text) for text in rows["text"]]


def test_limit_and_characters_take_a_sample_that_a_seed_fixes():
    write_rows("rows.jsonl", [{"text": f"{i:04}"} for i in range(1000)])
    sample = numbers(loaded({"source": "rows.jsonl", "limit": 200}))
    assert len(set(sample)) == 200
    assert abs(np.mean(sample) - 499.5) < 4 * np.sqrt(
        (1000**2 - 1) / 12 / 200 * (800 / 999)
    )  # of a draw without return
    assert sample == numbers(loaded({"source": "rows.jsonl", "limit": 200}))
    assert sample[:100] == numbers(loaded({"source": "rows.jsonl", "characters": 397}))
    assert sample != numbers(loaded({"source": "rows.jsonl", "limit": 200, "sample_seed": 1}))
    assert numbers(loaded({"source": "rows.jsonl", "limit": 200, "sample_seed": None})) == [*range(200)]
    assert numbers(loaded({"source": "rows.jsonl", "characters": 397, "sample_seed": None})) == [*range(100)]
    assert numbers(loaded({"source": "rows.jsonl"})) == [*range(1000)]


def test_samples_of_two_parts_of_a_split_share_no_row():
    write_rows("rows.jsonl", [{"text": str(i)} for i in range(400)])
    train = numbers(loaded({"source": "rows.jsonl", "split": "train[:95%]", "limit": 300}))
    held_out = numbers(loaded({"source": "rows.jsonl", "split": "train[95%:]", "characters": 20}))
    assert max(train) < 380 <= min(held_out)


def test_only_rows_with_a_value_are_taken_before_they_are_counted():
    sets = ["ArXiv", "GitHub", "FreeLaw"]
    rows = [{"text": str(i), "meta": {"set": sets[i % 3]}, "year": i % 5} for i in range(90)]
    write_rows("rows.jsonl", rows)
    arxiv = {"source": "rows.jsonl", "where": {"meta[set]": "ArXiv"}}
    assert numbers(loaded(arxiv)) == [i for i in range(90) if i % 3 == 0]
    two = {"source": "rows.jsonl", "where": {"meta[set]": ["ArXiv", "GitHub"], "year": 2}}
    assert numbers(loaded(two)) == [i for i in range(90) if i % 3 < 2 and i % 5 == 2]
    sample = numbers(loaded({**arxiv, "limit": 20}))
    assert len(set(sample)) == 20
    assert {i % 3 for i in sample} == {0}
    for where in ({"meta[set]": "ArXive"}, {"year": "2"}, {"meta[nowhere]": 1}):
        with pytest.raises(RowError, match=r"has no row that matches data\.where"):
            loaded({"source": "rows.jsonl", "where": where})
    with pytest.raises(RowError, match="no column 'mata'"):
        loaded({"source": "rows.jsonl", "where": {"mata[set]": "ArXiv"}})


def test_a_stream_is_read_no_further_than_it_takes(monkeypatch):
    for file in range(4):
        write_rows(f"big/{file}.jsonl", [{"text": f"{file}{i:04}", "part": i % 2} for i in range(2000)])
    read = Counter()
    iterate = IterableDataset.__iter__

    def counted(stream):
        for row in iterate(stream):
            read["rows"] += 1
            yield row

    monkeypatch.setattr(IterableDataset, "__iter__", counted)
    stream = {"source": "big", "stream": True, "characters": 500, "where": {"part": 1}}
    sample = loaded(stream)["text"][:]
    assert len(set(sample)) == 100
    assert {int(text) % 2 for text in sample} == {1}
    assert read["rows"] <= 103
    assert sample == loaded(stream)["text"][:]
    assert sample != loaded({**stream, "sample_seed": 1})["text"][:]
    rows = load_dataset("json", data_files=[f"big/{file}.jsonl" for file in range(4)], split="train", streaming=True)
    expected = rows.filter(lambda row: row["part"] == 1).shuffle(seed=0, buffer_size=BUFFER).take(100)
    assert sample == [row["text"] for row in expected]
    head = loaded({"source": "big", "stream": True, "limit": 5, "sample_seed": None})["text"][:]
    assert head == [f"0{i:04}" for i in range(5)]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"stream": True}, ConfigError, "data.stream needs a limit, or characters"),
        ({"stream": True, "limit": 1, "split": "train[:5%]"}, ConfigError, "a stream can't be cut into parts"),
        ({"stream": True, "limit": 1}, SourceError, "'rows.jsonl' is a file, and stream is for Hub datasets"),
        ({"source": "parts", "stream": True, "limit": 1, "columns": {"text": "{body}"}}, RowError, "no column 'body'"),
        ({"source": "parts", "stream": True, "limit": 1, "split": "test"}, SourceError, "can't stream 'parts'"),
        (
            {"source": "parts", "stream": True, "limit": 1, "columns": {"text": "{text[0][0][x]}"}},
            RowError,
            "row 0 of 'parts' does not fit data.columns",
        ),
        (
            {"source": "parts", "stream": True, "limit": 1, "where": {"text": 3}},
            RowError,
            "has no row that matches data.where",
        ),
        ({"limit": 0}, ConfigError, "data.limit=0 must be at least 1"),
        ({"sample_seed": -1}, ConfigError, "data.sample_seed=-1 must be at least 0"),
        ({"where": {"text": {"a": 1}}}, ConfigError, "data.where: 'text' needs a value, or a list"),
        ({"where": {"text": []}}, ConfigError, "data.where: 'text' needs a value, or a list"),
    ],
)
def test_what_a_source_can_not_be_asked_for_is_one_line(fields, error, message):
    write_rows("rows.jsonl", [{"text": "secret words"}])
    write_rows("parts/rows.jsonl", [{"text": "secret words"}])
    with pytest.raises(error) as raised:
        loaded({"source": "rows.jsonl", **fields})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


# sources that pass through


def mixture(strategy, **options):
    """A mixture of which one source is edited; the rows before and after one generation, and the statistics."""
    edited = [{"text": f"Return the value of item {i} if it is in the list."} for i in range(20)]
    kept = [{"text": f"Raise ValueError if the number {i} is not present."} for i in range(10)]
    write_rows("edited.jsonl", edited)
    write_rows("kept.jsonl", kept)
    before = loaded({"source": "edited.jsonl"}, {"source": "kept.jsonl", "edit": False}, {"source": "edited.jsonl"})
    Path("rows").mkdir(exist_ok=True)
    before.save_to_disk("rows/data")
    config = ToEditConfig(threshold=0.3, exclude_target=True, strategy=strategy)
    folder = Path(f"edit-{strategy}{len(options)}")
    folder.mkdir()
    stages.edit(Path("rows"), PriorChoice("demo"), config, EditSettings(batch_size=7, **options), {}, None, folder)
    return before, load_from_disk(str(folder / "data")), json.loads((folder / "stats.json").read_text())


@pytest.mark.parametrize("strategy", ["resample", "drop", "random"])
def test_rows_of_a_source_with_edit_false_pass_through_at_their_places(strategy):
    before, after, stats = mixture(strategy)
    changed = [i for i in range(50) if after["text"][i] != before["text"][i]]
    assert changed
    assert not set(changed) & set(range(20, 30))
    assert [i for i, struct in enumerate(after["toedit"]) if struct is None] == [*range(20, 30)]
    assert stats["num_rows"] == 40
    alone = [row for row in after["toedit"] if row is not None]
    assert stats["num_tokens"] == sum(row["num_tokens"] for row in alone)
    assert stats["num_changed"] == sum(row["num_changed"] for row in alone)


def test_the_other_rows_are_edited_as_without_them(demo):
    from hf_toedit import ToEditTransform

    before, after, _ = mixture("random")
    own = Dataset.from_dict({"text": [*before["text"][:20], *before["text"][30:]]})
    transform = ToEditTransform(demo, ToEditConfig(threshold=0.3, exclude_target=True, strategy="random")).fit(own)
    assert own.map(transform, batched=True)["text"][:] == [*after["text"][:20], *after["text"][30:]]


def test_a_second_generation_leaves_them_alone_too():
    before, first, _ = mixture("resample")
    Path("again").mkdir()
    config = ToEditConfig(threshold=0.3, exclude_target=True, generation=1)
    stages.edit(Path("edit-resample0"), PriorChoice("demo"), config, EditSettings(), {}, None, Path("again"))
    second = load_from_disk("again/data")
    assert second["text"][20:30] == before["text"][20:30]
    assert second["text"][:20] != first["text"][:20]


def test_nothing_to_edit_is_one_line():
    Path("r.yaml").write_text(
        "{kind: pt, model: a/b, prior: demo, seeds: 0, train: {}, data: [{source: a.jsonl, edit: false}]}"
    )
    with pytest.raises(ConfigError, match="each source has edit: false"):
        read_recipe(Path("r.yaml"))
