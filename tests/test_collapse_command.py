"""`hf-toedit collapse SETTING`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from importlib.util import find_spec

import pandas
import pytest
import typer
from command_line import fail, run
from small_disks import mounted
from typer.testing import CliRunner

from hf_toedit.cli.collapse import WORKFLOWS, RowWorkflowOptions, collapse
from hf_toedit.cli.command import app
from hf_toedit.collapse import (
    AccumulateSubsample,
    Gaussian,
    LanguageModel,
    Mixture,
    Replace,
    ToEdit,
    budget,
    plot,
    simulate,
    table_of,
)
from hf_toedit.collapse.workflows import label_of

pytestmark = pytest.mark.usefixtures("folder")
SMALL = ["--n", 10, "--generations", 4, "--runs", 6]
SEVERAL_CHUNKS = ["--n", 10, "--generations", 4, "--runs", 250]


def test_the_table_is_that_of_simulate(folder):
    printed = run("collapse", "gaussian", "--dimensions", 2, *SMALL, "--seed", 3, "--workflow", "replace", "--out", "a")
    simulation = simulate(Gaussian(2), Replace(), n=10, generations=4, runs=6, seed=3)
    written = pandas.read_csv("a/table.csv")
    assert [*written["workflow"].unique()] == ["replace"]
    pandas.testing.assert_frame_equal(written.drop(columns="workflow"), simulation.table())
    shown = [line.split() for line in printed.splitlines() if line.startswith("  replace")]
    for words, measure in zip(shown, simulation.values_RG, strict=True):
        mean_G, low_G, high_G = simulation.interval(measure)
        cells = [f"{mean_G[0]:.4g}", f"{mean_G[-1]:.4g}", f"[{low_G[-1]:.4g},", f"{high_G[-1]:.4g}]"]
        assert words[1:5] == cells
    assert sorted(path.name for path in (folder / "a").iterdir()) == ["collapse.png", "settings.json", "table.csv"]


def test_equal_seeds_give_equal_tables_whatever_the_number_of_workers(folder):
    for name, options in {"a": [], "b": ["--workers", 2], "c": ["--seed", 1]}.items():
        run("collapse", "gaussian", *SEVERAL_CHUNKS, "--workflow", "replace", *options, "--out", name)
    one, two, other = ((folder / name / "table.csv").read_bytes() for name in "abc")
    assert one == two != other


def test_the_recorded_command_gives_the_same_table(folder):
    workflows = ["--workflow", "toedit", "--share", 0.3, "--overlapping", "--decay", 0.9, "--workflow", "recent-models"]
    run("collapse", "gaussian", *SMALL, "--num-real", 20, "--window", 2, *workflows, "--out", "a")
    command = json.loads((folder / "a/settings.json").read_text())["command"]
    run(*shlex.split(command)[1:], "--out", "b")
    assert (folder / "a/table.csv").read_bytes() == (folder / "b/table.csv").read_bytes()


def test_by_default_three_workflows_and_no_files(folder):
    found = json.loads(run("collapse", "gaussian", *SMALL, "--json"))
    rows = found["last_generation"]
    assert {row["workflow"] for row in rows} == {"replace", "accumulate", "accumulate-subsample"}
    assert {row["generation"] for row in rows} == {4}
    assert not [*folder.iterdir()]


def test_json_is_valid_where_there_is_no_interval():
    rows = json.loads(run("collapse", "gaussian", "--runs", 1, "--generations", 2, "--json"))["last_generation"]
    assert {row["low"] for row in rows} == {None}


BAD = {
    "gaussian": [
        (["--n", 0], "--n 0 must be 1 or more"),
        (["--runs", 0], "--runs 0 must be 1 or more"),
        (["--generations", -1], "--generations -1 must be 1 or more"),
        (["--num-real", 0], "--num-real 0 must be 1 or more"),
        (["--workers", 0], "--workers 0 must be 1 or more"),
        (["--dimensions", 0], "--dimensions 0 must be 1 or more"),
        (["--workflow", "acumulate"], "--workflow 'acumulate' is unknown; did you mean 'accumulate'?"),
        (["--workflow", "toedit", "--share", 2], "--share 2.0 must be between 0 and 1"),
        (["--workflow", "toedit", "--share", "nan"], "--share nan must be between 0 and 1"),
        (["--workflow", "toedit"], "this setting needs to know how many rows to edit: set --share, such as 0.125"),
        (["--workflow", "toedit", "--share", 0.1, "--decay", -1], "--decay -1.0 must be between 0 and 1"),
        (["--workflow", "recent-models", "--window", 0], "--window 0 must be 1 or more"),
        (["--window", 2], "--window is for another workflow: add --workflow recent-models, or leave it out"),
        (["--overlapping"], "--overlapping is for another workflow: add --workflow toedit, or leave it out"),
        (
            ["--workflow", "mixture", "--synthetic-share", 0.1, "--num-real", 5, "--n", 10],
            "can't take 9 of 5 rows without replacement: lower n, or add real rows",
        ),
    ],
    "kernel-density": [
        (["--bandwidth", "-1"], "--bandwidth '-1' must be a number above 0, 'scott' or 'silverman'"),
    ],
    "regression": [
        (["--num-real", 50], "--n 100 must equal --num-real 50: linear regression labels the same rows again"),
        (["--noise-variance", -1], "--noise-variance -1.0 must be a number above 0"),
    ],
    "categorical": [
        (["--workflow", "toedit", "--share", 0.1], "counted outcomes have no order: set --overlapping"),
        (["--outcomes", 0], "--outcomes 0 must be 1 or more"),
        (["--support", 11], "--support 11 must be between 1 and --outcomes 10"),
    ],
    "next-token": [(["--vocabulary", 1], "--vocabulary 1 must be 2 or more")],
}


@pytest.mark.parametrize(
    ("setting", "options", "says"),
    [pytest.param(name, *case, id=case[1][:40]) for name, cases in BAD.items() for case in cases],
)
def test_bad_parameters_are_one_line_each(setting, options, says, folder):
    assert fail("collapse", setting, "--runs", 2, *options, "--out", "a") == f"error: {says}"
    assert not [*folder.iterdir()]


@pytest.mark.parametrize("setting", BAD)
def test_every_setting_writes_its_table(setting):
    run("collapse", setting, *SMALL, "--out", "a")
    table = pandas.read_csv("a/table.csv")
    assert len(table) == 3 * 4 * table["measure"].nunique()
    assert not table["mean"].isna().any()
    assert table["expected"].notna().any()


def test_every_option_has_a_help_text():
    for name, command in typer.main.get_command(collapse).commands.items():
        assert [option.name for option in command.params if not option.help] == [], name


@pytest.mark.parametrize("workflow", WORKFLOWS.values())
def test_every_field_of_a_workflow_is_an_option(workflow):
    options = {field.name for field in dataclasses.fields(RowWorkflowOptions)}
    assert {field.name for field in dataclasses.fields(workflow)} <= options


def test_a_budget_as_text_and_as_json():
    words = ["collapse", "budget", "--real", 1000, "--vocabulary", 50, "--tolerance", 0.1, "--runs", 20]
    found = budget(1000, 50, 0.1, runs=20)
    assert run(*words) == f"{found}\n"
    assert json.loads(run(*words, "--json"))["synthetic"] == found.synthetic
    anything = json.loads(run("collapse", "budget", "--real", 10, "--vocabulary", 2, "--tolerance", 1.9, "--json"))
    assert anything["synthetic"] is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--real", 0, "--vocabulary", 5, "--tolerance", 0.1], "--real 0 must be 1 or more"),
        (["--real", 9, "--vocabulary", 1, "--tolerance", 0.1], "--vocabulary 1 must be 2 or more"),
        (
            ["--real", 9, "--vocabulary", 5, "--tolerance", 3],
            "--tolerance 3.0 must be between 0 and 2, the largest L1 distance there is",
        ),
    ],
)
def test_bad_budgets_are_one_line_each(options, says):
    assert fail("collapse", "budget", *options) == f"error: {says}"


def test_an_output_that_exists_is_refused_before_anything_is_simulated(folder, monkeypatch):
    (folder / "a").mkdir()
    (folder / "a/mine.txt").write_text("mine")
    monkeypatch.setattr("hf_toedit.cli.collapse.simulate", None)
    assert "exists: remove it or name another folder" in fail("collapse", "gaussian", "--out", "a")
    assert [path.name for path in (folder / "a").iterdir()] == ["mine.txt"]


def test_without_the_extra_the_error_names_it(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("hf_toedit.errors.import_module", missing)
    line = "error: this needs the package scipy.stats: pip install 'hf-toedit[collapse]'"
    assert fail("collapse", "gaussian", *SMALL) == line


@pytest.mark.filterwarnings("always::hf_toedit.errors.ToEditWarning")
def test_without_matplotlib_there_is_a_table_and_a_note(folder, monkeypatch):
    monkeypatch.setattr(
        "hf_toedit.cli.collapse.find_spec", lambda name: None if name == "matplotlib" else find_spec(name)
    )
    result = CliRunner().invoke(app, ["collapse", "gaussian", *map(str, SMALL), "--out", "a"])
    assert result.exit_code == 0
    line = "warning: there is no collapse.png: it needs matplotlib, pip install 'hf-toedit[collapse]'"
    assert line in result.stderr.splitlines()
    assert sorted(path.name for path in (folder / "a").iterdir()) == ["settings.json", "table.csv"]


TINY = ["--n", 4, "--held-out", 2, "--generations", 2, "--runs", 1, "--train", "max_steps=1", "--max-new-tokens", 4]


@pytest.fixture
def texts(folder):
    (folder / "texts.txt").write_text("".join(f"The function number {i} returns a list of items.\n" for i in range(12)))
    return "texts.txt"


def test_language_models_are_trained_and_a_run_that_was_stopped_resumes(texts, folder, monkeypatch):
    """Stopped at its last generation, it does that one alone, and the table is that of a run in one go."""
    words = ["collapse", "language-model", texts, *TINY, "--workflow", "replace", "--workflow", "toedit"]
    run(*words, "--threshold", 0.001, "--exclude-target", "--out", "whole")
    table = pandas.read_csv("whole/table.csv")
    assert {*table["measure"]} >= {"perplexity", "num_rows", "changed_rate"}
    assert not table[table["measure"] == "perplexity"]["mean"].isna().any()
    for path in (folder / "whole").iterdir():
        if path.is_file():
            path.unlink()
    [last] = (folder / "whole/seed-0").glob("*edit*/generation-2")
    shutil.rmtree(last)
    trained = []
    fit = LanguageModel.fit
    monkeypatch.setattr(LanguageModel, "fit", lambda *arguments: trained.append(1) or fit(*arguments))
    run(*words, "--threshold", 0.001, "--exclude-target", "--out", "whole")
    assert len(trained) == 1
    pandas.testing.assert_frame_equal(pandas.read_csv("whole/table.csv"), table)


@pytest.mark.filterwarnings("always::hf_toedit.errors.ToEditWarning")
def test_edits_that_change_nothing_are_noted(texts, folder):
    """An untrained model is sure of no token. The rows are the real ones, edited anew or not."""
    words = ["collapse", "language-model", texts, *TINY, "--workflow", "toedit", "--anew", "--out", "a"]
    result = CliRunner().invoke(app, [*map(str, words)])
    line = "warning: toedit changed no token, so that all its models saw the real rows alone: lower --threshold"
    assert line in result.stderr.splitlines()
    table = pandas.read_csv("a/table.csv")
    assert table[table["measure"] == "perplexity"]["mean"].nunique() == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--held-out", 12], "--held-out 12 leaves none of the 12 rows to train on: lower it"),
        (["--train", "max_steps"], "--train 'max_steps' must be a field and its value, as in num_train_epochs=3"),
        (["--train", "max_step=1"], "unknown field train.max_step; did you mean 'max_steps'?"),
        (["--threshold", 0.9], "edit settings are for another workflow: add --workflow toedit, or leave them out"),
        (["--n", 0], "--n 0 must be 1 or more"),
        (["--runs", 0], "--runs 0 must be 1 or more"),
        (["--block-size", 0], "--block-size 0 must be 1 or more"),
        (["--n", 11], "--num-real 11 (by default n) is more than the 10 rows of human text: lower it, or n"),
    ],
)
def test_bad_parameters_of_language_models_are_one_line_each(options, says, texts):
    assert fail("collapse", "language-model", texts, *TINY, *options, "--out", "a") == f"error: {says}"


def test_a_label_has_what_differs_from_the_defaults():
    assert label_of(AccumulateSubsample()) == "accumulate-subsample"
    assert label_of(Mixture(0.5)) == "mixture synthetic_share=0.5"
    assert label_of(ToEdit(0.1, overlapping=True)) == "toedit share=0.1 overlapping=True"


def test_a_plot_shows_means_bands_and_closed_forms():
    """A line and a band for each workflow, with the numbers of the table; a dashed line where theory is known."""
    simulations = [simulate(Gaussian(), each, n=10, generations=5, runs=20) for each in (Replace(), Mixture(0.5))]
    panels = plot(simulations).axes
    measures = [*simulations[0].values_RG]
    assert [axes.get_ylabel() for axes in panels] == [measure.replace("_", " ") for measure in measures]
    table = table_of(simulations)
    for axes, measure in zip(panels, measures, strict=True):
        drawn = {line.get_label(): line.get_ydata() for line in axes.lines if not line.get_label().startswith("_")}
        assert [*drawn] == ["replace", "mixture synthetic_share=0.5"]
        for label, values in drawn.items():
            rows = table[(table["workflow"] == label) & (table["measure"] == measure)]
            assert [*values] == [*rows["mean"]]
        assert len(axes.collections) == 2
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert len(dashed) == sum(measure in simulation.expected_G for simulation in simulations)


def test_a_full_disk_loses_no_results(folder):
    with mounted(folder / "disk", "size=100k"):
        result = CliRunner().invoke(
            app, ["collapse", "gaussian", *map(str, SMALL), "--generations", "500", "--out", "disk/a"]
        )
        assert result.exit_code == 2
        assert "can't write the output 'disk/a': No space left on device" in result.stderr
        assert "trace_ratio" in result.stdout
        assert not [*(folder / "disk").iterdir()]


def test_a_table_that_is_somebody_elses_is_kept(texts, folder):
    (folder / "a").mkdir()
    (folder / "a/table.csv").write_text("mine")
    line = "error: 'a/table.csv' exists but was not written by a run: give another --out"
    assert fail("collapse", "language-model", texts, *TINY, "--out", "a") == line
    assert (folder / "a/table.csv").read_text() == "mine"


def test_a_results_folder_that_cannot_be_written_is_one_line(texts, folder):
    (folder / "a/seed-0").mkdir(parents=True)
    (folder / "a/table.csv").mkdir()
    last = fail("collapse", "language-model", texts, *TINY, "--workflow", "replace", "--out", "a")
    assert "error: can't write to 'a': [Errno 21] Is a directory" in last


def test_too_many_rows_for_the_memory_are_one_line():
    says = "error: the memory is full: Unable to allocate"
    assert fail("collapse", "gaussian", "--n", 10**14, "--runs", 2).startswith(says)


def test_too_many_counted_rows_are_one_line():
    says = "error: can't take rows without replacement of 2,000,000,000, only of fewer than 1,000,000,000: lower --n"
    options = ["--n", 10**9, "--runs", 2, "--workflow", "accumulate-subsample"]
    assert fail("collapse", "categorical", *options).startswith(says.removesuffix("--n"))
