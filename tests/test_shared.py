"""The shared material: tests may skip where it is absent, and fail where it is there but lacks what they need."""

from __future__ import annotations

import conftest
import pytest


def test_a_test_skips_only_without_any_shared_material(tmp_path, monkeypatch):
    monkeypatch.setattr(conftest, "SHARED", tmp_path / "absent")
    with pytest.raises(pytest.skip.Exception, match=r"needs data/x.jsonl .* HF_TOEDIT_SHARED"):
        conftest.shared_path("data/x.jsonl")
    monkeypatch.setattr(conftest, "SHARED", tmp_path)
    with pytest.raises(AssertionError, match=r"has no data/x\.jsonl"):
        conftest.shared_path("data/x.jsonl")
    (tmp_path / "x.jsonl").touch()
    assert conftest.shared_path("x.jsonl") == tmp_path / "x.jsonl"


@pytest.mark.parametrize("family", conftest.made.FAMILIES)
def test_made_tokenizers_are_the_same_every_time(family):
    assert conftest.load_tokenizer(family).to_str() == conftest.load_tokenizer(family).to_str()
