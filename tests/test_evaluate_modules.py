"""Each measurement as a module of `evaluate`: there is one for each, it loads offline, and its figures are the same."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from datasets import Dataset

import hf_toedit.measure as measures
from hf_toedit import ConfigError, ToEditTransform
from hf_toedit.measure import module_names, module_path

evaluate = pytest.importorskip("evaluate", reason="needs the extra `measure`")
pytest.importorskip("mauve", reason="needs the extra `samples`")

SETTINGS = {
    "token_probability": {"prior": "demo", "threshold": 0.3},
    "perplexity": {"prior": "demo", "tails": (5, 50)},
    "ngrams": {"n": 3, "num_buckets": 50},
    "ngram_shift": {"n": 1, "num_buckets": 70},
    "distinct_n": {"n": 2},
    "word_frequencies": {"top": 5},
    "self_bleu": {"n": 2, "sample_size": 3, "seed": 7},
    "vendi_score": {"n": 2, "sample_size": 3, "seed": 7},
    "mauve": {"model": "demo", "num_buckets": 3, "seed": 7},
}
LOAD_AND_COMPUTE = """
import json, socket, sys

def refuse(*_, **__):
    raise SystemExit("a module of evaluate asked for the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse

import evaluate
import hf_toedit
from hf_toedit.measure import module_names, module_path

given = json.load(open(sys.argv[1]))
found = {}
for name in module_names():
    module = evaluate.load(module_path(name), **given["settings"].get(name, {}))
    found[name] = module.compute(**{column: given["columns"][column] for column in module.features})
print(json.dumps({"where": hf_toedit.__file__, "found": found}))
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """An empty folder to which evaluate copies modules, and where it writes columns."""
    forget_modules()
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("evaluate")
        patch.setattr(sys, "path", [str(folder / "modules"), *sys.path])  # before a cache that was read earlier
        patch.setattr("evaluate.config.HF_MODULES_CACHE", folder / "modules")
        patch.setattr("evaluate.config.HF_METRICS_CACHE", folder / "columns")
        yield
    forget_modules()


def forget_modules():
    """The package of all copies remembers the folder that it was first imported from."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def rows(human_texts):
    """Edited texts, one of which is skipped, and as many others."""
    ds = Dataset.from_dict({"text": [*human_texts[:12], ""]})
    edited = ds.map(ToEditTransform("demo", threshold=0.5, temperature=2, seed=1), batched=True)
    assert any(edited["toedit"][row]["edits"] for row in range(12))
    return edited, Dataset.from_dict({"text": human_texts[12:25]})


@pytest.fixture(scope="module")
def columns(rows):
    edited, others = rows
    return {"predictions": edited["text"], "references": others["text"], "toedit": edited["toedit"]}


@pytest.fixture(scope="module")
def expected(rows):
    """What `hf_toedit.measure` itself says, by name of the module."""
    edited, others = rows
    figures = {}
    for name in module_names():
        settings = dict(SETTINGS.get(name, {}))
        if name == "ngram_shift":
            before, after = (measures.NGrams(**settings).update(side) for side in (others, edited))
            figures[name] = before.shift(after)
        elif name == "mauve":
            figures[name] = measures.mauve(edited, others, **settings)
        elif name in ("self_bleu", "vendi_score"):
            figures[name] = getattr(measures, name)(edited, **settings)
        else:
            options = {"prior": settings.pop("prior")} if "prior" in settings else {}
            measurement = MEASUREMENTS[name](**settings)
            figures[name] = measures.measure(edited, measurement, **options)[name]
    return figures


def is_measurement(thing):
    return isinstance(thing, type) and issubclass(thing, measures.Measurement) and not inspect.isabstract(thing)


PUBLIC = [getattr(measures, name) for name in measures.__all__]
MEASUREMENTS = {thing.name: thing for thing in PUBLIC if is_measurement(thing)}
ON_SAMPLES = {name for name in measures.__all__ if measures._HOME[name] == "samples"}


def load(name, **settings):
    return evaluate.load(module_path(name), **settings)


def compute(name, columns, **settings):
    module = load(name)
    return module.compute(**{column: columns[column] for column in module.features}, **settings)


def test_each_measurement_has_a_module_and_each_module_a_measurement():
    assert len(MEASUREMENTS) >= 7
    assert len(ON_SAMPLES) == 3
    assert set(module_names()) == {*MEASUREMENTS, *ON_SAMPLES, "ngram_shift"}  # the last is a method, NGrams.shift


@pytest.mark.parametrize("name", module_names())
def test_figures_are_those_of_hf_toedit_measure(name, columns, expected):
    assert compute(name, columns, **SETTINGS.get(name, {})) == expected[name]
    assert json.dumps(expected[name])


@pytest.mark.parametrize("name", module_names())
def test_a_module_says_what_it_is(name):
    module = load(name)
    assert module.name == f"toedit_{name}"
    assert module.module_type == "measurement"
    assert evaluate.load(module_path(name), module_type="measurement").name == module.name
    assert len(module.description) > 80
    assert "    predictions: the texts to measure." in module.inputs_description
    assert "in memory" in module.inputs_description
    assert next(iter(module.features)) == "predictions"
    assert bool(module.citation) == bool(module.reference_urls)
    for setting in SETTINGS.get(name, {}):
        assert f"    {setting}: a setting, " in module.inputs_description


@pytest.mark.parametrize("name", ["ngrams", "ngram_shift", "self_bleu", "perplexity"])
def test_settings_at_load_and_batches_one_by_one_give_the_same(name, columns, expected):
    module = load(name, **SETTINGS[name], keep_in_memory=name == "ngrams")
    for start in range(0, 13, 5):
        module.add_batch(**{column: columns[column][start : start + 5] for column in module.features})
    assert module.compute() == expected[name]
    for row in range(13):
        module.add(**{column.removesuffix("s"): columns[column][row] for column in module.features})
    assert module.compute() == expected[name]


def test_a_setting_of_compute_goes_before_one_of_load(columns):
    texts = columns["predictions"]
    ngrams = load("ngrams", n=1)
    assert ngrams.compute(predictions=texts, n=2) == measures.NGrams(n=2).update(texts).result()
    assert ngrams.compute(predictions=texts) == measures.NGrams(n=1).update(texts).result()


def test_modules_combine(columns, expected):
    """One call feeds those with one input and those with two or three."""
    names = ["distinct_n", "word_frequencies", "ngram_shift", "perplexity", "edit_profile"]
    together = evaluate.combine([load(name, **SETTINGS.get(name, {})) for name in names])
    found = together.compute(**columns)
    assert found["js_divergence"] == expected["ngram_shift"]["js_divergence"] > 0
    assert found["median"] == expected["perplexity"]["median"]
    assert found["zipf_slope"] == expected["word_frequencies"]["zipf_slope"]
    assert found["positions"] == expected["edit_profile"]["positions"]
    assert found["toedit_distinct_n_num_rows"] == 13
    for start in range(0, 13, 5):
        together.add_batch(**{name: column[start : start + 5] for name, column in columns.items()})
    assert together.compute() == found


def test_little_is_measured_too(columns):
    for name in ("ngrams", "compression_ratio", "self_bleu"):
        for texts in ([], ["", None], ["one text"]):
            found = load(name).compute(predictions=texts)
            assert found["num_rows"] == len(texts)
            assert found["num_measured"] == len([text for text in texts if text])


def test_an_edit_without_a_fingerprint_and_another_column(columns, demo):
    """A prior without a revision leaves no fingerprint."""
    ds = Dataset.from_dict({"body": columns["references"][:12]})
    pair = (demo._model.model, demo.tokenizer)
    edited = ds.map(
        ToEditTransform(pair, threshold=0.5, temperature=2, columns="body"), batched=True, new_fingerprint="x"
    )
    assert edited[0]["toedit"]["fingerprint"] is None
    expected = measures.EditProfile().update(edited, columns="body").result()
    assert compute("edit_profile", {"predictions": edited["body"], "toedit": edited["toedit"]}) == expected
    assert sum(expected["positions"]) > 0


def test_an_edit_that_gave_the_rows_ids_has_the_same_profile_but_for_the_places(columns):
    """The texts say nothing of where in the ids an edit is."""
    ds = Dataset.from_dict({"text": columns["references"][:12]})
    control = ToEditTransform("demo", strategy="random", rate=0.3, distribution="uniform", targets="original")
    edited = ds.map(control, batched=True)
    given = {"predictions": edited["text"][:], "toedit": edited["toedit"][:]}
    assert given["toedit"][0]["added"]
    expected = measures.EditProfile().update(edited).result()
    num_placed = sum(expected["positions"])
    assert num_placed == expected["num_changed"] > 0
    expected |= {"positions": [0] * 10, "num_unplaced": num_placed}
    assert json.dumps(compute("edit_profile", given)) == json.dumps(expected)
    module = load("edit_profile")
    for text, struct in zip(*given.values(), strict=True):
        module.add(predictions=text, toedit=struct)
    assert json.dumps(module.compute()) == json.dumps(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: module_path("perplexit"), "there is no module for 'perplexit'; did you mean 'perplexity'?"),
        (lambda: load("ngrams", m=3), "unknown setting 'm'; known: n, num_buckets"),
        (lambda: load("compression_ratio").compute(predictions=["a"], n=3), "unknown setting 'n': it has none"),
        (
            lambda: load("perplexity").compute(predictions=["a"]),
            "toedit_perplexity needs prior=: give it",
        ),
        (lambda: load("mauve").compute(predictions=["a"], references=["a"]), "toedit_mauve needs model=: give it"),
        (
            lambda: load("ngram_shift").compute(predictions=["a"]),
            "toedit_ngram_shift needs predictions= and references=: references= is missing",
        ),
    ],
)
def test_a_wrong_call_is_one_clear_line(call, message):
    with pytest.raises(ConfigError) as caught:
        call()
    assert str(caught.value).startswith(message)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder in which a wheel of this tree is installed."""
    pytest.importorskip("hatchling", reason="needs the extra `dev`")
    dist, folder = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(dist)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = dist.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*install, str(wheel)], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("offline", [{}, {"HF_EVALUATE_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}])
def test_all_modules_of_an_installed_wheel_work_without_a_network(offline, installed, columns, expected, tmp_path):
    given = tmp_path / "given.json"
    given.write_text(json.dumps({"settings": SETTINGS, "columns": {name: list(columns[name]) for name in columns}}))
    environment = {**os.environ, **offline, "PYTHONPATH": str(installed), "HF_HOME": str(tmp_path / "home")}
    line = [sys.executable, "-W", "error", "-c", LOAD_AND_COMPUTE, str(given)]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["where"].startswith(str(installed))
    assert said["found"] == json.loads(json.dumps(expected))
