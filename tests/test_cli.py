"""The command line, end to end on real files."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import datasets
import pytest
import yaml
from command_line import fail, run
from datasets import Dataset, DatasetDict, load_dataset
from hub_server import serve
from typer.testing import CliRunner

from hf_toedit import SourceError, ToEditConfig, ToEditTransform, TransformersPrior, summarize
from hf_toedit.cli.command import app
from hf_toedit.editing.config import field_help
from hf_toedit.experiments.docstrings import docstrings, standard_library
from hf_toedit.files.sources import load_source

TEXTS = [row["text"] for row in islice(docstrings(standard_library()), 30, 42)]
ROWS = [{"id": i, "text": text} for i, text in enumerate(TEXTS)] + [{"id": 12, "text": ""}, {"id": 13, "text": None}]
LINES = [line for text in TEXTS for line in text.splitlines()]
EDIT = ["--prior", "demo", "--threshold", "0.3"]
RANDOM = ["--prior", "demo", "--strategy", "random", "--rate", "0.3", "--distribution", "uniform"]  # asks no model
OUTPUTS = ["README.md", "data", "histogram.png", "stats.json", "toedit.json"]


pytestmark = pytest.mark.usefixtures("folder")


def write_jsonl(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_source(kind, folder):
    """The rows as a SOURCE of some kind."""
    path = folder / f"source{kind}"
    jsonl = "".join(json.dumps(row) + "\n" for row in ROWS)
    if kind == ".jsonl":
        write_jsonl(path)
    elif kind == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif kind == ".json.gz":
        path.write_bytes(gzip.compress(jsonl.encode(), mtime=0))
    elif kind == ".txt":
        path.write_text("\n".join(LINES), encoding="utf-8")
    elif kind == ".parquet":
        Dataset.from_list(ROWS).to_parquet(path)
    elif kind == ".csv":
        Dataset.from_list(ROWS).to_csv(path)
    elif kind == "-saved":
        Dataset.from_list(ROWS).save_to_disk(path)
    elif kind == "-saved-splits":
        splits = {"train": Dataset.from_list(ROWS[:8]), "test": Dataset.from_list(ROWS[8:])}
        DatasetDict(splits).save_to_disk(path)
    else:
        path.mkdir()
        write_jsonl(path / "train.jsonl")
    return path


KINDS = [".jsonl", ".json", ".json.gz", ".txt", ".parquet", ".csv", "-saved", "-saved-splits", "-folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_edit_changes_and_revert_gives_the_very_rows_back(kind, folder):
    source = write_source(kind, folder)
    files_before = sorted(str(path) for path in source.rglob("*"))
    printed = run("edit", source, *(EDIT if kind == ".jsonl" else RANDOM), "--out", "edited")
    assert sorted(os.listdir("edited")) == [".toedit", *OUTPUTS]
    assert f"Wrote edited; read it with {load_dataset.__name__}('edited')" in printed

    original, edited = load_source(str(source)), load_dataset("edited")
    assert list(edited) == list(original)
    structs = [struct for rows in edited.values() for struct in rows["toedit"]]
    assert len(structs) == (len(LINES) if kind == ".txt" else len(ROWS))
    assert sum(len(struct["edits"]) for struct in structs) > 10

    run("revert", "edited", "--out", "reverted")
    reverted = load_dataset("reverted")
    assert {split: rows[:] for split, rows in reverted.items()} == {split: rows[:] for split, rows in original.items()}
    assert {split: rows.features for split, rows in reverted.items()} == {
        split: rows.features for split, rows in original.items()
    }
    assert sorted(str(path) for path in source.rglob("*")) == files_before  # no cache file in the user's folder
    assert sorted(os.listdir()) == ["edited", "reverted", source.name]


def test_edit_equals_map_and_its_files_equal_summarize(folder, demo):
    source = write_jsonl(folder / "a.jsonl")
    printed = run("edit", source, *EDIT, "--stats", "full", "--seed", 3, "--protect", "numbers", "--out", "edited")
    transform = ToEditTransform(demo, threshold=0.3, seed=3, protect=["numbers"], stats="full")
    expected = load_source(str(source))["train"].map(transform, batched=True)
    edited = load_dataset("edited")["train"]
    assert edited[:] == expected[:]

    stats = summarize(expected["toedit"])
    written = json.loads((folder / "edited/stats.json").read_text())
    record = written.pop("run")
    assert written == stats.to_dict()
    assert record == json.loads((folder / "edited/toedit.json").read_text())
    assert record["config"] == transform.config.to_dict()
    assert (record["prior"], record["revision"]) == ("demo", demo.revision)
    assert (folder / "edited/histogram.png").read_bytes().startswith(b"\x89PNG")
    assert f"{stats.eligible_rate:.4f}" in printed
    assert f"{stats.perplexity:.2f}" in printed
    assert "95%" not in printed  # every position was visited: no sampling error
    assert "{+" in printed
    few = write_jsonl(folder / "few.jsonl", ROWS[:3])
    assert "95%" in run("edit", few, *EDIT, "--out", "sampled")


def test_score_visits_every_token_and_edits_nothing(folder, demo):
    source = write_jsonl(folder / "a.jsonl", ROWS[:6])
    run("edit", source, *RANDOM, "--out", "edited")
    for place in (source, "edited"):  # also where a `toedit` column is there already
        rows = load_source(str(place))["train"].select_columns("text")
        full = ToEditTransform(demo, threshold=0.4, strategy="none", stats="full")
        expected = summarize(rows.map(full, batched=True)["toedit"])
        printed = run("score", place, "--prior", "demo", "--threshold", 0.4, "--out", f"scores-{len(os.listdir())}")
        assert f"{expected.eligible_rate:.4f}" in printed
        for count in expected.tokens.histogram:
            assert f" {count:,} " in printed
    before = sorted(os.listdir())
    assert sorted(os.listdir(before[-1])) == ["histogram.png", "stats.json"]
    assert json.loads((folder / before[-1] / "stats.json").read_text())["num_changed"] == 0
    run("score", source, "--prior", "demo")
    assert sorted(os.listdir()) == before


def test_a_second_generation_keeps_both_records_and_both_revert(folder):
    source = write_jsonl(folder / "a.jsonl")
    run("edit", source, *RANDOM, "--out", "g0")
    assert "'toedit' already exists" in fail("edit", "g0", *RANDOM, "--generation", 1, "--out", "g1")
    run("edit", "g0", *RANDOM, "--generation", 1, "--stats-column", "second", "--out", "g1")
    assert load_dataset("g1")["train"]["text"][:] != load_dataset("g0")["train"]["text"][:]
    run("revert", "g1", "--stats-column", "second", "--out", "back0")
    assert load_dataset("back0")["train"][:] == load_dataset("g0")["train"][:]
    run("revert", "back0", "--out", "back")
    assert load_dataset("back")["train"][:] == load_source(str(source))["train"][:]


def test_token_ids_are_edited_and_shown_and_keep_their_type(folder, demo):
    kind = datasets.Features({"input_ids": datasets.List(datasets.Value("int32"))})
    ids = [demo.tokenizer.encode(text).ids for text in TEXTS]
    Dataset.from_dict({"input_ids": ids}, features=kind).to_parquet("ids.parquet")
    printed = run("edit", "ids.parquet", *RANDOM, "--out", "edited")
    first = next(struct["edits"][0] for struct in load_dataset("edited")["train"]["toedit"] if struct["edits"])
    assert f"[-{first['old']}-]{{+{first['new']}+}}" in printed
    assert load_dataset("edited")["train"].features["input_ids"] == kind["input_ids"]
    run("revert", "edited", "--out", "reverted")
    assert load_dataset("reverted")["train"]["input_ids"][:] == ids
    assert load_dataset("reverted")["train"].features == kind


def test_options_go_before_the_config_file_and_the_file_before_the_defaults(folder):
    source = write_jsonl(folder / "a.jsonl", ROWS[3:4])
    fields = {"threshold": 0.4, "seed": 5, "exclude_target": True, "protect": ["code"]}
    (folder / "config.yaml").write_text(yaml.safe_dump(fields))
    run("edit", source, "--prior", "demo", "--config", "config.yaml", "--seed", 7, "--no-exclude-target", "--out", "a")
    run(
        "edit",
        source,
        "--prior",
        "demo",
        "--config",
        "config.yaml",
        "--protect",
        "urls",
        "--protect",
        "x+",
        "--out",
        "b",
    )
    configs = [json.loads((folder / name / "toedit.json").read_text())["config"] for name in "ab"]
    given = [{"seed": 7, "exclude_target": False}, {"protect": ["urls", "x+"]}]
    assert configs == [ToEditConfig.from_dict({**fields, **options}).to_dict() for options in given]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"columns": 3}, "--columns must be a name or a list of names, not int"),
        ({"roles": {"a": 1}}, "--roles must be a name or a list of names, not dict"),
        ({"chat_template": "{{ messages }}"}, "has a chat template of its own, which a command can't set"),
    ],
)
def test_a_record_that_a_command_cannot_follow_is_refused(more, words, folder):
    write_jsonl(folder / "a.jsonl")
    (folder / "toedit.json").write_text(json.dumps({"config": {"threshold": 0.5}, **more}))
    assert words in fail("edit", "a.jsonl", "--prior", "demo", "--out", "out", "--config", "toedit.json")


def test_columns_splits_and_limit(folder):
    rows = [{"a": text, "b": text, "text": text} for text in TEXTS]
    (folder / "saved").mkdir()
    Dataset.from_list(rows).to_parquet("saved/train.parquet")
    Dataset.from_list(rows[:3]).to_parquet("saved/test.parquet")
    run("edit", "saved", *RANDOM, "--columns", "a,b", "--limit", 5, "--out", "both")
    edited = load_dataset("both")
    assert {split: len(part) for split, part in edited.items()} == {"train": 5, "test": 3}
    assert {edit["column"] for struct in edited["train"]["toedit"] for edit in struct["edits"]} == {"a", "b"}
    assert edited["train"]["text"][:] == TEXTS[:5]
    run("edit", "saved", *RANDOM, "--columns", "a", "--columns", "b", "--split", "train", "--out", "train")
    assert list(load_dataset("train")) == ["train"]
    run("revert", "both", "--out", "reverted")
    assert load_dataset("reverted")["train"][:] == Dataset.from_list(rows[:5])[:]
    assert 'Unknown split "dev"' in fail("edit", "saved", *EDIT, "--split", "dev", "--out", "dev")


def test_random_counts_the_whole_corpus_first(folder):
    source = write_jsonl(folder / "a.jsonl")
    line = ["edit", source, "--prior", "demo", "--strategy", "random", "--rate", "0.3"]
    run(*line, "--batch-size", 3, "--out", "parts")
    run(*line, "--out", "whole")
    parts, whole = (load_dataset(name)["train"] for name in ("parts", "whole"))
    assert parts[:] == whole[:]
    assert "edited" in [struct["status"] for struct in parts["toedit"]]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["resample", "random"])
def test_the_number_of_processes_does_not_matter(strategy, folder):
    source = write_jsonl(folder / "a.jsonl")
    line = ["edit", source, *EDIT, "--strategy", strategy]
    run(*line, "--out", "one")
    # A process of its own: this one has run torch, after which forks can hang.
    command = [sys.executable, "-m", "hf_toedit", *line, "--workers", "2", "--out", "two"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    one, two = (load_dataset(name)["train"] for name in ("one", "two"))
    assert one[:] == two[:]
    assert "edited" in [struct["status"] for struct in one["toedit"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edit", "missing.jsonl", *EDIT], "no file or folder 'missing.jsonl'"),
        (["edit", "a.jsonl", *EDIT, "--columns", "txet"], "did you mean 'text'?"),
        (["edit", "a.jsonl", "--prior", "demo", "--threshold", "2"], "--threshold 2.0 must be"),
        (["edit", "a.jsonl", "--prior", "demo", "--config", "unknown.yaml"], "'treshold'; did you mean 'threshold'?"),
        (["edit", "a.jsonl", "--prior", "demo", "--config", "broken.yaml"], "'broken.yaml' is not valid YAML: line 3"),
        (["edit", "a.jsonl", "--prior", "demo", "--config", "list.yaml"], "must hold `field: value` lines"),
        (["edit", "a.jsonl", "--prior", "demo", "--config", "none.yaml"], "can't read 'none.yaml': No such file"),
        (["edit", "missing.jsonl", "--prior", "./nowhere"], "prior './nowhere'"),  # before the dataset is looked at
        (["edit", "a.jsonl", *EDIT, "--max-length", "1"], "max_length"),
        (["score", "a.xyz", "--prior", "demo"], "unknown format"),
        (["revert", "a.jsonl"], "no column 'toedit'"),
        (["demo", "--limit", "3", "--top-k", "1"], "--top-k 1 must be"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing_behind(arguments, words, folder):
    write_jsonl(folder / "a.jsonl", ROWS[:2])
    (folder / "a.xyz").write_text("x")
    (folder / "unknown.yaml").write_text("treshold: 0.5\n")
    (folder / "broken.yaml").write_text("threshold: 0.5\nseed: [1\n")
    (folder / "list.yaml").write_text("- threshold\n")
    before = sorted(os.listdir())
    assert words in fail(*arguments, "--out", "parent/out")
    assert sorted(os.listdir()) == before


def test_an_output_that_exists_is_refused_before_any_work(folder):
    (folder / "out").mkdir()
    (folder / "out/mine").write_text("x")
    for arguments in (["edit", "missing.jsonl", *EDIT], ["revert", "missing"], ["demo"]):
        assert "'out' exists" in fail(*arguments, "--out", "out")
    assert os.listdir("out") == ["mine"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.jsonl", b""),
        ("empty.json.gz", gzip.compress(b"", mtime=0)),
        ("cut.jsonl", b'{"text": "a"}\n{"text": '),
        ("words.json", b"words"),
        ("words.json.gz", b"words"),
        ("cut.json.gz", gzip.compress(b'{"text": "a"}\n' * 1000, mtime=0)[:-12]),
        ("words.parquet", b"words"),
        ("latin.csv", b"text\n\xe9t\xe9\n"),
        ("latin.txt", b"\xe9t\xe9\n"),
        ("header.csv", b"text\n"),
        ("folder/notes.xyz", b"x"),
        ("saved/state.json", b"{}"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_source_error_of_one_line(name, content, folder):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    with pytest.raises(SourceError) as error:
        load_source(name.split("/")[0])
    assert len(str(error.value).splitlines()) == 1


def test_rows_that_were_all_skipped_are_told_loudly(folder):
    write_jsonl(folder / "a.jsonl", [{"n": 1}, {"n": 2}])
    result = CliRunner().invoke(app, ["score", "a.jsonl", "--prior", "demo", "--columns", "n"])
    assert "warning: every row was skipped: skipped:not_text (2 rows): " in result.stderr
    assert "set --columns" in result.stderr


def test_the_demo_can_be_repeated_and_shows_distinct_edits(folder):
    printed, again = (run("demo", "--limit", limit, "--threshold", 0.3) for limit in (60, 3))
    for name, text in (("toedit-demo", printed), ("toedit-demo-2", again)):
        assert sorted(os.listdir(name)) == OUTPUTS
        assert f"Wrote {name};" in text
    lines = [line for line in printed.splitlines() if "{+" in line or "-]" in line]
    assert len(lines) == len(set(lines)) == 20
    assert all(word in printed for word in ("visited:", "eligible:", "changed:", "0.9 to 1.0", "perplexity"))
    edited = load_dataset("toedit-demo")["train"]
    rows = list(islice(docstrings(standard_library()), 60))
    assert edited["name"][:] == [row["name"] for row in rows]
    run("revert", "toedit-demo", "--out", "reverted")
    assert load_dataset("reverted")["train"]["text"][:] == [row["text"] for row in rows]


def test_help_names_every_field_with_its_own_words():
    helps = field_help()
    for command in ("edit", "demo"):
        words = " ".join(run(command, "--help").split())
        for field in dataclasses.fields(ToEditConfig):
            assert f"--{field.name.replace('_', '-')} " in words
            assert helps[field.name].split(". ")[0].split(maxsplit=1)[1] in words
    assert len(helps) == len(dataclasses.fields(ToEditConfig))
    assert "hf-toedit 0." in run("--version")


def test_help_is_light():
    heavy = "{'torch', 'transformers', 'datasets', 'matplotlib', 'pyarrow'}"
    code = f"import sys, hf_toedit.cli.main, hf_toedit.cli.demo; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("installed", [True, False])
def test_a_histogram_is_drawn_where_matplotlib_is_installed(installed, folder, monkeypatch):
    if not installed:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_jsonl(folder / "a.jsonl", ROWS[:1])
    printed = run("edit", "a.jsonl", "--prior", "demo", "--out", "out")
    assert Path("out/histogram.png").exists() == installed
    assert ("histogram.png needs matplotlib: pip install 'hf-toedit[plot]'" in printed) == (not installed)


def test_a_terminal_without_unicode_gets_question_marks(folder):
    write_jsonl(folder / "a.jsonl", ROWS[:2])
    result = CliRunner(charset="ascii").invoke(app, ["score", "a.jsonl", "--prior", "demo"])
    assert result.exit_code == 0
    assert "???" in result.stdout


def test_a_prior_may_be_a_folder(folder, demo):
    from hf_toedit.priors.pretrained import DEMO_FOLDER

    source = write_jsonl(folder / "a.jsonl", ROWS[:1])
    run("edit", source, "--prior", DEMO_FOLDER, "--threshold", 0.3, "--stride", 100, "--out", "edited")
    record = json.loads((folder / "edited/toedit.json").read_text())
    assert record["revision"] == TransformersPrior(DEMO_FOLDER).revision == demo.revision


LOAD = """
import json, sys
from hf_toedit.files.sources import load_source
from hf_toedit import SourceError
try:
    load_source("org/none")
except SourceError as error:
    print(json.dumps([str(error), load_source("org/texts", split="train[:3]")["train"][:]]))
"""


def test_a_source_may_be_a_hub_id(folder, tmp_path):
    (tmp_path / "repo").mkdir()
    write_jsonl(tmp_path / "repo/train.jsonl")
    with serve({"datasets/org/texts": tmp_path / "repo"}) as hub:
        environment = hub.environment(tmp_path)
        line = [sys.executable, "-c", LOAD]
        done = subprocess.run(line, check=True, capture_output=True, text=True, env=environment)
    message, rows = json.loads(done.stdout)
    assert message.startswith("there is no file or folder 'org/none', and it was not found on the Hub: ")
    assert "\n" not in message
    assert rows == {name: [row[name] for row in ROWS[:3]] for name in ("id", "text")}


def test_a_subset_of_a_folder_is_read_and_one_that_can_not_be_is_one_line():
    Path("rows").mkdir()
    for name in ("a", "b"):
        Path(f"rows/{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")
    configs = [{"config_name": name, "data_files": f"{name}.jsonl", "default": name == "a"} for name in ("a", "b")]
    Path("rows/README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    assert load_source("rows", subset="b")["train"]["text"] == ["b"]
    assert load_source("rows")["train"]["text"] == ["a"]
    Dataset.from_dict({"text": ["c"]}).save_to_disk("saved")
    for source in ("rows/a.jsonl", "saved", "rows"):
        with pytest.raises(SourceError, match="nonsense"):
            load_source(source, subset="nonsense")


def test_the_record_of_a_run_is_a_config_file_that_repeats_it(folder):
    rows = [{"a": text, "b": text, "id": i} for i, text in enumerate(TEXTS[:3])]
    source = write_jsonl(folder / "a.jsonl", rows)
    options = [*EDIT, "--seed", 3, "--protect", "numbers", "--columns", "b", "--context", "a"]
    run("edit", source, *options, "--out", "first")
    run("edit", source, "--prior", "demo", "--config", "first/toedit.json", "--out", "again")
    assert load_dataset("again")["train"][:] == load_dataset("first")["train"][:]
    assert (folder / "again/toedit.json").read_text() == (folder / "first/toedit.json").read_text()
    run(
        "edit",
        source,
        "--prior",
        "demo",
        "--config",
        "first/toedit.json",
        "--seed",
        4,
        "--columns",
        "a",
        "--context",
        "b",
        "--out",
        "other",
    )
    record = json.loads((folder / "other/toedit.json").read_text())
    assert (record["columns"], record["context"]) == (["a"], ["b"])
    assert record["config"] == {**json.loads((folder / "first/toedit.json").read_text())["config"], "seed": 4}
    run("score", source, "--prior", "demo", "--config", "first/toedit.json")


def test_messages_name_options_as_they_are_typed(folder):
    write_jsonl(folder / "a.jsonl", [{"instruction": "a", "reply": "b"}])
    line = fail("edit", "a.jsonl", *EDIT, "--columns", "replies", "--out", "out")
    assert line.endswith("no column 'replies'; did you mean 'reply'? (columns: 'instruction', 'reply'): set --columns")
    line = fail("edit", "a.jsonl", *EDIT, "--context", "instruction", "--out", "out")
    assert line.endswith("set --columns, such as --columns 'output', --context 'input'")
    line = fail("edit", "a.jsonl", *EDIT, "--stride", 600, "--max-length", 512, "--out", "out")
    assert line == "error: --stride 600 must be below --max-length 512 - 1"
    assert fail("edit", "seed=1/a.jsonl", *EDIT, "--out", "out").startswith(
        "error: there is no file or folder 'seed=1/a.jsonl';"
    )
    (folder / "a.txt").write_bytes(b"\xe9")
    assert "or set --encoding-errors 'backslashreplace'" in fail("score", "a.txt", "--prior", "demo")
    run("score", "a.txt", "--prior", "demo", "--encoding-errors", "backslashreplace")


def test_files_patterns_and_standard_input_are_edited_as_one_source(folder):
    for name, rows in (("a", ROWS[:5]), ("b", ROWS[5:])):
        write_jsonl(folder / f"{name}.jsonl", rows)
    run("edit", "a.jsonl", "b.jsonl", *RANDOM, "--out", "files")
    run("edit", "*.jsonl", *RANDOM, "--out", "pattern")
    jsonl = "".join((folder / f"{name}.jsonl").read_text() for name in "ab")
    result = CliRunner().invoke(
        app, ["edit", "-", *RANDOM, "--split", "train[:9]", "--limit", "8", "--out", "stdin"], input=jsonl
    )
    assert result.exit_code == 0, result.stderr
    files, pattern, stdin = (load_dataset(name)["train"][:] for name in ("files", "pattern", "stdin"))
    assert files == pattern
    assert files["id"] == [row["id"] for row in ROWS]
    assert stdin == {name: values[:8] for name, values in files.items()}


def test_a_split_without_rows_is_left_out_with_a_note(folder):
    """datasets can't load such a split from files: the whole folder would be unreadable."""
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS).select([])).save_to_disk("splits")
    arguments = ["edit", "splits", *RANDOM, "--out", "edited"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "note: split 'test' has no rows and is left out" in result.stderr.splitlines()
    edited = load_dataset("edited")
    assert list(edited) == ["train"]
    transform = ToEditTransform("demo", strategy="random", rate=0.3, distribution="uniform")
    assert edited["train"][:] == Dataset.from_list(ROWS).map(transform, batched=True)[:]
    assert "split 'test' of 'splits' has no rows" in fail(*arguments[:-1], "other", "--split", "test")


def test_control_characters_of_names_do_not_reach_the_terminal(folder):
    source = write_jsonl(folder / "a.jsonl", ROWS[:2])
    printed = run("edit", source, *RANDOM, "--out", "red\x1b[31m\nline")
    assert "Wrote red·[31m↵line; read it with load_dataset('red\\x1b[31m\\nline')" in printed
    assert os.listdir("red\x1b[31m\nline/data") == ["train-00000-of-00001.parquet"]


def test_python_m_is_the_command_and_help_has_the_exit_codes(folder):
    done = subprocess.run([sys.executable, "-m", "hf_toedit", "--help"], capture_output=True, text=True, check=True)
    words = " ".join(done.stdout.split())
    assert "Usage: python -m hf_toedit [OPTIONS] COMMAND" in words
    assert all(code in words for code in ("2, an error", "130, interrupted", "143, terminated"))
