"""What the prompt says of a transform, a callback, a config, a prior and statistics."""

from __future__ import annotations

import dataclasses
import html
import io
import re

import pytest
from datasets import Dataset
from rich.console import Console

from hf_toedit import (
    StaticPrior,
    ToEditCallback,
    ToEditConfig,
    ToEditTransform,
    TransformersPrior,
    VLLMPrior,
    VLLMServerPrior,
    summarize,
)
from hf_toedit.report.tables import bins_table, stats_table

CONFIGS = [
    {},
    {"threshold": 0.95},
    {"top_p": 0.5, "protect": ("code", r"\d+"), "strategy": "random", "stable_only": True, "seed": 7},
]


@pytest.mark.parametrize("fields", CONFIGS, ids=str)
def test_a_config_says_what_differs_and_reads_back(fields):
    config = ToEditConfig(**fields)
    assert eval(repr(config)) == config
    assert set(re.findall(r"(\w+)=", repr(config))) == set(fields)


def test_a_transform_and_a_callback_say_the_call(demo):
    assert repr(ToEditTransform(demo)) == f"ToEditTransform({demo!r})"
    transform = ToEditTransform(demo, threshold=0.5, columns="text", chat_template="x" * 1000, stats="full")
    assert repr(transform) == (
        f"ToEditTransform({demo!r}, columns=['text'], stats='full', chat_template='{'x' * 60}…', threshold=0.5)"
    )
    corpus = Dataset.from_dict({"input_ids": [[1]]})
    callback = ToEditCallback("base", {"seed": 3}, redraw=False, corpus=corpus)
    assert repr(callback) == "ToEditCallback('base', redraw=False, corpus=<Dataset>, seed=3)"


def test_a_prior_says_what_it_is_without_loading_and_without_secrets(demo):
    prior = TransformersPrior("demo", dtype="bf16", max_length=128, model_init_kwargs={"token": "hf_secret"})
    assert repr(prior) == (
        f"TransformersPrior('demo', revision='{prior.revision[:8]}…', dtype='bfloat16', max_length=128, "
        "model_init_kwargs={'token': …})"
    )
    assert "_model" not in vars(prior)
    server = VLLMServerPrior("demo", "http://me:secret@localhost:8000/v1?key=secret", max_in_flight=4)
    assert repr(server) == (
        f"VLLMServerPrior('demo', 'http://localhost:8000', revision='{prior.revision[:8]}…', max_in_flight=4)"
    )
    assert repr(VLLMPrior("demo", lazy=False)) == f"VLLMPrior('demo', lazy=False, revision='{prior.revision[:8]}…')"
    static = StaticPrior(demo.tokenizer, lambda ids, t: {}, max_length=8)
    assert repr(static).startswith("StaticPrior(<Tokenizer>, <function>, max_length=8")


def words(text):
    return [word for line in text.splitlines() for word in line.split()]


@pytest.mark.parametrize("texts", [["The cat sat on the mat.", "", "The cat <b>."], []], ids=["some", "none"])
def test_statistics_print_the_table_of_the_command_line(texts, demo):
    stats = summarize(ToEditTransform(demo, threshold=0.3)({"text": texts})["toedit"])
    console = Console(file=io.StringIO(), width=200)
    console.print(stats_table(stats))
    if stats.tokens.num_visited:
        console.print(bins_table(stats))
    expected = [word for word in words(console.file.getvalue()) if set(word) != {"─"}]
    assert words(str(stats)) == words(repr(stats)) == expected
    table = re.sub(r"</t[dr]>", " ", stats._repr_html_())
    assert words(html.unescape(re.sub("<[^>]*>", "", table))) == expected


def test_a_fingerprint_is_no_markup(demo):
    stats = summarize(ToEditTransform(demo)({"text": ["a"]})["toedit"])
    hostile = dataclasses.replace(stats, fingerprints={"<script>\n": 1})
    assert "<script>" not in hostile._repr_html_()
