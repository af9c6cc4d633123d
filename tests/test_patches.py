"""A patch makes the edited dataset of its source, exactly, and holds no text of it."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset, load_dataset
from strategies import PROSE, Distribution, make_transform

from hf_toedit import ToEditTransform, load_edited
from hf_toedit.hub.patches import write_patch
from hf_toedit.hub.records import Source, edits_of

pytestmark = pytest.mark.usefixtures("folder")


def transform_of(**options: Any) -> ToEditTransform:
    return make_transform("demo", Distribution("demo"), exclude_target=True, chat_template="", **options)


def test_round_trip(folder):
    texts = [f"{i}. {PROSE}" for i in range(6)]
    Dataset.from_dict({"text": texts, "id": range(6)}).to_parquet("source.parquet")
    source = load_dataset("parquet", data_files="source.parquet")
    transform = transform_of()
    edited = source.map(transform, batched=True)
    (folder / "patch").mkdir()
    write_patch(edited, folder / "patch", edits_of(edited, transform), Source("source.parquet"))
    loaded = load_edited("patch", source="source.parquet")
    assert loaded["train"].to_list() == edited["train"].to_list()
