"""The settings: what is refused, what survives JSON, and that every one of them matters."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_toedit import ConfigError, ToEditConfig, TransformersPrior
from hf_toedit.editing.cells import Text
from hf_toedit.editing.editor import Editor
from hf_toedit.editing.tokenization import Tokenization

CONFIGS = (
    st.builds(
        ToEditConfig,
        threshold=st.floats(0, 1, exclude_min=True),
        eligible=st.sampled_from(["above", "below"]),
        top_k=st.integers(2, 2**64 - 1),
        top_p=st.none() | st.floats(0, 1, exclude_min=True),
        temperature=st.floats(0.001, 1000),
        exclude_target=st.booleans(),
        strategy=st.sampled_from(["resample", "drop", "resample_and_drop", "random", "none"]),
        drop_below=st.floats(0, 0.5),
        drop_above=st.floats(0.5, 1),
        seed=st.integers(0, 2**64 - 1),
        generation=st.integers(0, 2**64 - 1),
        protect=st.lists(st.sampled_from(["code", "numbers", "urls", "emails", "math", "json", "[a-c]+", r"\bé\d"])),
        stable_only=st.booleans(),
    )
    | st.builds(
        ToEditConfig,
        strategy=st.just("random"),
        rate=st.none() | st.floats(0, 1),
        distribution=st.sampled_from([None, "unigram", "uniform"]),
        targets=st.sampled_from(["edited", "original"]),
    )
    | st.builds(
        ToEditConfig,
        strategy=st.sampled_from(["resample", "random"]),
        distribution=st.sampled_from(["unigram", "uniform"]),
    )
)
NAN, INFINITY = float("nan"), float("inf")
WRONG = [
    *[("threshold", value, "(0, 1]") for value in (0, -0.1, 1.01, NAN, INFINITY, "0.9", None, True)],
    *[("top_k", value, "at least 2") for value in (1, 0, -8, 8.0, "8", True, 2**64)],
    *[("top_p", value, "(0, 1]") for value in (0, -1, 1.5, NAN, "0.9", False)],
    *[("temperature", value, "[0.001, 1000]") for value in (0, -1.5, NAN, INFINITY, "1", None)],
    *[("exclude_target", value, "true or false") for value in (0, 1, "false", None)],
    *[("strategy", value, "known: ") for value in ("", 7)],
    *[("drop_below", value, "[0, 1]") for value in (-0.001, 1.1, NAN, "0", None)],
    *[("drop_above", value, "(0, 1]") for value in (0, -0.1, 1.1, NAN, "1", None)],
    ("drop_above", 0.0005, "above drop_above=0.0005 would delete every token: give the lower one to drop_below"),
    *[("eligible", value, "known: above, below") for value in ("", 7, None, True)],
    *[("seed", value, "at least 0 (and below 2^64)") for value in (-1, 1.0, 2**64, "0", True, None)],
    *[("generation", value, "at least 0 (and below 2^64)") for value in (-1, 0.5, 2**64, None)],
    *[("protect", value, "protect=") for value in ("urls", ["url"], ["numbers", "(unclosed"])],
    *[("stable_only", value, "true or false") for value in (1, "yes", None)],
    *[("rate", value, "[0, 1]") for value in (-0.1, 1.1, NAN, "0.1", True)],
    ("rate", 5, "did you mean 0.05?"),
    ("rate", 0.05, "has no effect on strategy='resample': set strategy='random'"),
    *[("distribution", value, "known: prior, uniform, unigram") for value in ("", 1)],
    *[("targets", value, "known: edited, original") for value in ("", None, True)],
]
BASE = ToEditConfig(threshold=0.5)
FLIPS = [
    ("threshold", 0.4, BASE),
    ("eligible", "below", BASE),
    ("top_k", 2, BASE),
    ("top_p", 0.9, BASE),
    ("temperature", 1.0, BASE),
    ("exclude_target", True, BASE),
    ("strategy", "none", BASE),
    ("strategy", "drop", BASE),
    ("strategy", "resample_and_drop", BASE),
    ("strategy", "random", BASE),
    ("drop_below", 0.01, ToEditConfig(strategy="drop")),
    ("drop_above", 0.9, ToEditConfig(strategy="drop")),
    ("seed", 1, BASE),
    ("generation", 1, BASE),
    ("protect", ("[e-o]",), BASE),
    ("stable_only", True, dataclasses.replace(BASE, exclude_target=True)),
    ("rate", 0.5, ToEditConfig(strategy="random")),
    ("distribution", "uniform", ToEditConfig(strategy="random", rate=0.5)),
    ("distribution", "prior", ToEditConfig(strategy="random", rate=0.5)),
    ("distribution", "unigram", BASE),
    ("distribution", "uniform", BASE),
]
OF_ROWS = {"targets"}  # what they change, texts do not show: see test_controls.py


@settings(deadline=None)
@given(CONFIGS)
def test_a_config_survives_json_and_its_dict(config):
    assert ToEditConfig.from_json(config.to_json()) == config
    assert ToEditConfig.from_dict(config.to_dict()) == config
    assert json.loads(config.to_json()) == config.to_dict()
    assert hash(config) == hash(ToEditConfig.from_json(config.to_json()))


def test_a_config_of_integers_equals_that_of_floats():
    assert ToEditConfig(threshold=1, temperature=2).to_json() == ToEditConfig(threshold=1.0, temperature=2.0).to_json()


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ToEditConfig)])
def test_a_config_is_frozen(name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(ToEditConfig(), name, getattr(BASE, name))


@pytest.mark.parametrize(("name", "value", "says"), WRONG)
def test_a_value_out_of_range_is_refused_with_its_name_and_range(name, value, says):
    with pytest.raises(ConfigError) as error:
        ToEditConfig(**{name: value})
    assert name in str(error.value)
    assert says in str(error.value)


def test_every_field_has_a_wrong_value_and_a_flip():
    names = {field.name for field in dataclasses.fields(ToEditConfig)}
    assert {name for name, _, _ in WRONG} == names
    assert {name for name, _, _ in FLIPS} == names - OF_ROWS


@pytest.mark.parametrize("distribution", ["prior", "unigram", "uniform"])
@pytest.mark.parametrize("strategy", ["drop", "resample_and_drop", "none"])
def test_a_strategy_that_draws_no_control_refuses_a_distribution(strategy, distribution):
    line = f"distribution='{distribution}' has no effect on strategy='{strategy}': set strategy='resample' or 'random'"
    with pytest.raises(ConfigError, match=f"^{line}$"):
        ToEditConfig(strategy=strategy, distribution=distribution)


def test_the_priors_tokens_at_random_positions_need_a_rate():
    with pytest.raises(ConfigError, match=r"needs the share of tokens to change: set rate=0\.05$"):
        ToEditConfig(strategy="random", distribution="prior")


@pytest.mark.parametrize(
    ("fields", "own", "needs_prior"),
    [
        ({"strategy": "resample"}, "prior", True),
        ({"strategy": "random"}, "unigram", True),
        ({"strategy": "random", "rate": 0.1}, "unigram", False),
    ],
)
def test_the_distribution_of_the_strategy_itself_is_the_same_edit_as_none(fields, own, needs_prior):
    config = ToEditConfig(**fields)
    assert config == ToEditConfig(**fields, distribution=own)
    assert "distribution" not in config.to_dict()
    assert (config.draws_from, config.needs_prior, config.needs_corpus) == (own, needs_prior, own == "unigram")
    for other in {"prior", "unigram", "uniform"} - {own} - ({"prior"} if "rate" not in fields else set()):
        changed = ToEditConfig(**fields, distribution=other)
        assert changed.to_dict() == {**config.to_dict(), "distribution": other}
        assert changed.needs_prior == (needs_prior or other == "prior")
        assert changed.needs_corpus == (other == "unigram")


@pytest.mark.parametrize("strategy", ["drop", "resample_and_drop"])
def test_deleted_tokens_leave_no_place_for_the_original_labels(strategy):
    with pytest.raises(ConfigError, match=f"strategy='{strategy}' deletes tokens: set another strategy"):
        ToEditConfig(strategy=strategy, targets="original")


def test_a_later_field_at_its_default_leaves_the_record_of_an_edit_as_it_was():
    earlier = {field.name for field in dataclasses.fields(ToEditConfig)} - {"rate", "distribution", "targets"}
    assert ToEditConfig().to_dict().keys() == earlier
    assert ToEditConfig(strategy="random", rate=0.5).to_dict().keys() == earlier | {"rate"}
    assert ToEditConfig(targets="original").to_dict().keys() == earlier | {"targets"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"treshold": 0.9}, "'threshold'"),
        ({"topk": 4}, "'top_k'"),
        ({"strategie": "drop"}, "'strategy'"),
        ({"strategy": "resampel"}, "'resample'"),
        ({"protect": ["url"]}, "'urls'"),
        ({"eligible": "belwo"}, "'below'"),
        ({"xyzzy": 1}, "known: distribution, drop_above, drop_below, eligible, exclude_target, "),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(fields, says):
    with pytest.raises(ConfigError) as error:
        ToEditConfig.from_dict(fields)
    assert says in str(error.value)


@pytest.fixture(scope="module")
def outcome():
    """What a prior and a config make of the first paragraphs of the Apache licence: every checkout has them."""
    texts = (ROOT / "LICENSE").read_text(encoding="utf-8").strip()[:4000].split("\n\n")
    found: dict[tuple[TransformersPrior, ToEditConfig], list[str]] = {}

    def edit(prior: TransformersPrior, config: ToEditConfig) -> list[str]:
        if (prior, config) not in found:
            tables = Tokenization(prior.tokenizer)
            counts_V = np.bincount(np.concatenate([tables.encode_ids(text) for text in texts]))
            edited = [
                result.value
                for result in Editor(prior, config, "sampled", unigram_counts_V=counts_V).edit(
                    [Text(text) for text in texts]
                )
            ]
            assert (edited == texts) == (config.strategy == "none")
            found[prior, config] = edited
        return found[prior, config]

    return edit


@pytest.mark.parametrize(("name", "value", "base"), FLIPS, ids=[f"{name}={value}" for name, value, _ in FLIPS])
def test_every_knob_matters(name, value, base, outcome, pretrained):
    assert outcome(pretrained, dataclasses.replace(base, **{name: value})) != outcome(pretrained, base)
