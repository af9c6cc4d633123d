"""Streams larger than memory: what measurements keep does not grow with the rows, however many of them are new."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from hf_toedit.measure import Document, Perplexity, TokenProbability, distinct, frequencies, measure, words_of
from hf_toedit.measure.one_pass import default_measurements

STATUS = Path("/proc/self/status")


def rows(num_rows, words_per_row):
    """Rows of words of which none occurs twice."""
    number = itertools.count()
    return ({"text": " ".join(f"word{next(number)}" for _ in range(words_per_row))} for _ in range(num_rows))


def memory_after(*stages):
    """The memory in use after each stage, in bytes."""
    found = []
    words_of("")  # builds its pattern
    tracemalloc.start()
    for stage in stages:
        stage()
        found.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return found


def resident_megabytes():
    return int(re.search(r"VmRSS:\s+(\d+) kB", STATUS.read_text())[1]) / 1024


def test_memory_stays_flat(monkeypatch):
    """Beyond the limits, which are small here, three times as many rows take no more memory."""
    monkeypatch.setattr(frequencies, "MOST_WORDS", 500)
    monkeypatch.setattr(frequencies, "NUM_BUCKETS", 500)
    monkeypatch.setattr(distinct, "MOST_KEPT", 500)
    monkeypatch.setattr(distinct, "BUFFER", 50)
    measurements = default_measurements(with_prior=False)
    first, second = memory_after(
        lambda: measure(rows(200, 20), *measurements), lambda: measure(rows(600, 20), *measurements)
    )
    assert second - first < 50_000  # the 12,000 new words alone are 700 kB
    assert measurements[0].result()["num_rows"] == 800


def test_scores_are_not_kept():
    measurements = TokenProbability(), Perplexity()

    def add(num_rows):
        scores = np.random.default_rng(num_rows).exponential(3, size=(num_rows, 50))
        for score in scores:
            for measurement in measurements:
                measurement.add(Document("", logprob_E=-score))

    first, second = memory_after(lambda: add(500), lambda: add(2000))
    assert second - first < 20_000
    assert measurements[0].result()["num_tokens"] == 2500 * 50


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="reads /proc")
def test_a_long_stream_of_new_words():
    """With the limits as they are: once they are reached, after 4 MB, another 13 MB take no memory."""
    measurements = default_measurements(with_prior=False)
    measure(rows(4_000, 100), *measurements)
    before = resident_megabytes()
    measure(rows(12_000, 100), *measurements)
    assert resident_megabytes() - before < 40
    assert measurements[2].result()["is_exact"] is False
