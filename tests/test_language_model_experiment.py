"""The experiment with language models: its text, and its figures, which are made from the committed result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import made
import numpy as np
import pytest
from conftest import load_tokenizer

sys.path.append(str(Path(__file__).parents[1]))
from benchmarks.reproduction import language_models as experiment
from benchmarks.reproduction.figure import RESULTS


def test_paragraphs_are_long_plain_and_on_one_line():
    long = "A “quoted” word—and\r\nanother one. " * 10
    book = f"# Title\n\nshort\n\n{long}\n\n{long} | a table\n\n{long} naïve\n\n"
    assert experiment.paragraphs(book) == [" ".join(('A "quoted" word-and another one. ' * 10).split())]


def test_passages_are_whole_words_of_few_tokens_in_order():
    tokenizer = load_tokenizer("made-gpt2")
    text = " ".join(made.human_texts()[:20])
    found = list(experiment.passages([text], tokenizer))
    assert len(found) > 5
    assert text.startswith(" ".join(found))
    assert max(len(tokenizer.encode(" " + passage).ids) for passage in found) <= experiment.ROW_TOKENS
    words = text.split(" ")
    assert [word for passage in found for word in passage.split(" ")] == words[: sum(p.count(" ") + 1 for p in found)]


@pytest.fixture(scope="module")
def found():
    return json.loads(experiment.RESULT.read_text(encoding="utf-8"))


def test_the_contrasts_are_those_of_the_metrics(found):
    contrasted = experiment.contrasted(found["metrics"])
    assert [(one["arm"], one["against"]) for one in contrasted] == experiment.CONTRASTS
    assert json.loads(json.dumps(contrasted)) == found["contrasts"]
    last = {
        label: np.log([metrics["perplexity"][-1] for metrics in seeds.values()])
        for label, seeds in found["metrics"].items()
    }
    assert contrasted[0]["mean"] == pytest.approx((last["toedit"] - last["accumulate"]).mean())


def test_workflows_of_a_seed_share_the_first_generation(found):
    assert all(len(seeds) >= 5 for seeds in found["metrics"].values())
    firsts = [{seed: at["perplexity"][0] for seed, at in seeds.items()} for seeds in found["metrics"].values()]
    assert all(first == firsts[0] for first in firsts)
    assert len(set(firsts[0].values())) == len(firsts[0])


@pytest.mark.parametrize("make", [experiment.workflows_figure, experiment.edited_share_figure])
def test_the_figures_are_made_from_the_result(make, found, tmp_path):
    figure = make(found)
    committed = json.loads((RESULTS / f"{figure.name}.json").read_text(encoding="utf-8"))
    again = json.loads(experiment.write(figure, tmp_path).read_text(encoding="utf-8"))
    assert again | {"seconds": found["seconds"]} == committed
