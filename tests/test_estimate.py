"""Estimates from samples: exact if the sample is the whole, and with intervals that cover the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import fail, run
from conftest import load_tokenizer
from jobs import surely

from hf_toedit import StaticPrior, ToEditTransform, summarize
from hf_toedit.scale import estimate as module
from hf_toedit.scale.estimate import _ratio, _share, estimate_edit
from hf_toedit.scale.planning import plan_source
from hf_toedit.scale.reading import Reader
from hf_toedit.scale.storage import LocalFolder

TEXTS = [f"row {i} of the cat sat on the mat. " * (1 + i % 7) for i in range(300)]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return tmp_path / "rows.jsonl"


@pytest.fixture
def transform():
    return ToEditTransform(StaticPrior(load_tokenizer("demo"), surely, max_length=512), exclude_target=True)


def estimate_of(source, transform, seconds, unit_bytes=4000):
    storage = LocalFolder(Path(source).parent / "work")
    planned = plan_source([str(source)], storage, unit_bytes=unit_bytes)
    reader = Reader(storage, planned.as_features(), planned.files, unit_bytes, "strict")
    return planned, estimate_edit(planned, reader.read, transform, seconds)


@pytest.mark.parametrize("unit_bytes", [10**6, 10_000])  # one unit, several: all rows of each are taken
def test_a_sample_of_all_rows_is_exact(source, transform, unit_bytes, monkeypatch):
    monkeypatch.setattr(module, "ENOUGH", 50)
    _, found = estimate_of(source, transform, 1000, unit_bytes)
    stats = summarize(transform({"text": TEXTS}))
    assert found.sampled_rows == len(TEXTS)
    assert found.num_rows.value == pytest.approx(len(TEXTS))
    assert found.num_tokens.value == pytest.approx(stats.tokens.num_tokens)
    assert found.num_tokens.high - found.num_tokens.low < 1e-3
    assert found.eligible_rate.value == pytest.approx(stats.eligible_rate)
    assert found.changed_rate.value == pytest.approx(stats.changed_rate)
    assert found.worker_hours.value == pytest.approx(found.num_tokens.value / found.tokens_per_second.value / 3600)


def test_an_early_end_leaves_an_interval_around_the_truth(source, transform, monkeypatch):
    monkeypatch.setattr(module, "FIRST_ROWS", 60)
    planned, found = estimate_of(source, transform, 1e-9, 8000)
    assert len(planned.units) > 3
    assert 40 < found.sampled_rows < 130
    truth = summarize(transform({"text": TEXTS})).tokens.num_tokens
    assert found.num_tokens.low <= truth <= found.num_tokens.high


def test_intervals_of_ratios_cover_the_truth_in_19_of_20_samples():
    """Clusters of very unequal size, sampled from a population whose ratio is known."""
    draws = np.random.default_rng(0)
    x = draws.integers(1, 100, 2000).astype(float)
    y = x * 0.3 + draws.normal(0, np.sqrt(x))
    truth, size = y.sum() / x.sum(), 40
    covered = 0
    for _ in range(1000):
        chosen = draws.choice(len(x), size, replace=False)
        rate = _ratio(y[chosen], x[chosen], 1 - size / len(x))
        covered += rate.low <= truth <= rate.high
    assert 910 <= covered <= 980


def test_a_rate_of_zero_has_an_upper_end():
    rate = _share(np.zeros(10), np.full(10, 100.0), 1.0, 1000)
    assert rate.value == rate.low == 0
    assert 0.002 < rate.high < 0.005  # 3 in 1,000


def test_the_command_prints_a_table_or_json(source):
    options = ("estimate", source, "--prior", "demo", "--seconds", "1", "--limit", "20", "--workers", "4")
    table = run(*options, "--price-per-hour", "2.5")
    assert "worker-hours" in table
    assert "price" in table
    assert " , at 2.50 an hour" not in table
    found = json.loads(run(*options, "--json", "--tokens-per-second", "1000", "--price-per-hour", "2.5"))
    assert found["num_rows"]["value"] == 20
    assert found["worker_hours"]["value"] == pytest.approx(found["num_tokens"]["value"] / 3.6e6)
    assert found["price"] == pytest.approx(found["worker_hours"]["value"] * 2.5)


def test_two_prices_are_one_too_many(source):
    line = fail("estimate", source, "--prior", "demo", "--flavor", "h200", "--price-per-hour", "2")
    assert "leave one out" in line
