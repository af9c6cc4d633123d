"""What a SOURCE may be and what is said of one that can't be read; output folders, whole or not there."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_dataset
from strategies import one_line

from hf_toedit import SourceError, ToEditTransform
from hf_toedit.files.outputs import new_folder
from hf_toedit.files.sources import load_source, save_dataset
from hf_toedit.files.textfiles import ESCAPE

pytestmark = pytest.mark.usefixtures("folder")
SECRET = "ein Geheimnis"
SURROGATE = (
    '{"text": "' + SECRET + ' \\ud800 \\ud83d\\ude00 \\\\ud800"}\n'
)  # one without its half, one whole, one a text
CORRECTED = SECRET + " \\ud800 \U0001f600 \\ud800"


def write(name, content):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def rows(*texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def texts(*sources, **options):
    return load_source(sources[0] if len(sources) == 1 else sources, **options)["train"]["text"][:]


def refused(*sources, **options):
    with pytest.raises(SourceError) as error:
        load_source(sources[0] if len(sources) == 1 else list(sources), **options)
    assert SECRET not in one_line(error)
    return str(error.value)


# what may be read


def test_several_files_are_one_split_in_the_order_given():
    for name in "abc":
        write(f"data/{name}.jsonl", rows(name, name + name))
    assert texts("data/c.jsonl", "data/a.jsonl") == ["c", "cc", "a", "aa"]
    assert texts("data/*.jsonl") == ["a", "aa", "b", "bb", "c", "cc"]  # as the shell would, sorted
    assert texts("**/b.jsonl", "data/a.jsonl") == ["b", "bb", "a", "aa"]
    assert texts("data/[ab].jsonl", split="train[1:3]") == ["aa", "b"]
    assert texts("data/*.jsonl", limit=1) == ["a"]
    write("odd[1].jsonl", rows("x"))
    assert texts("odd[1].jsonl") == ["x"]  # a file that is there is no pattern


@pytest.mark.parametrize("name", ["a.tsv", "folder/a.tsv", "a.tsv.gz"])
def test_tabs_separate_and_only_an_empty_cell_is_null(name):
    content = "id\ttext\n1\tNA, or so\n2\t\n3\tNA\n"
    write(name, gzip.compress(content.encode(), mtime=0) if name.endswith(".gz") else content)
    loaded = load_source(name.split("/")[0])["train"]
    assert loaded[:] == {"id": [1, 2, 3], "text": ["NA, or so", None, "NA"]}


def test_a_folder_of_csv_keeps_the_word_null_too():
    write("folder/a.csv", "text\nNA\nnull\nb\n")
    assert texts("folder") == ["NA", "null", "b"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (rows("a", "b"), ["a", "b"]),
        ('[{"text": "a"}, {"text": "b"}]', ["a", "b"]),
        ("  \n" + rows("a"), ["a"]),
        ("one line\nand another\n", ["one line", "and another"]),
    ],
)
def test_standard_input_is_json_or_text(content, expected, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert texts("-") == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert texts("-", split="train", limit=1) == expected[:1]


def test_an_empty_split_has_the_columns_of_the_others():
    write("folder/train.jsonl", rows("a"))
    write("folder/test.jsonl", "")
    loaded = load_source("folder")
    assert {split: part[:] for split, part in loaded.items()} == {"train": {"text": ["a"]}, "test": {"text": []}}
    assert loaded["train"].features == loaded["test"].features
    assert refused("folder", split="test") == "'folder/test.jsonl' is empty".replace(
        "folder", str(Path("folder").resolve())
    )


# what can't be read, and where


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "a.jsonl",
            rows("a", "b").encode() + b'{"text": "' + SECRET.encode() + b'\xe9"}\n',
            "line 3 is not UTF-8 (byte 24)",
        ),
        ("a.jsonl.gz", gzip.compress(b'{"text": "\xff"}\n', mtime=0), "line 1 is not UTF-8 (byte 11)"),
        ("a.txt", b"one\n\ntwo \x80\n", "line 3 is not UTF-8 (byte 5)"),
        ("a.csv", b"text\na\n" + SECRET.encode() + b" \xe9t\n", "line 3 is not UTF-8 (byte 15)"),
        ("a.tsv", b"text\n\xe9t\n", "line 2 is not UTF-8 (byte 1)"),
        ("a.txt", "one".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("a.jsonl", rows("a") + SURROGATE, "line 2 has a lone surrogate (byte 25)"),
        ("a.json", "[\n" + SURROGATE.strip() + "\n]\n", "line 2 has a lone surrogate (byte 25)"),
        ("a.jsonl", rows("a", "b") + '{"text": "' + SECRET + "\n", "line 3 is not valid JSON: "),
        ("a.jsonl", rows("a") + "\n" + rows("b") + "{'text': '" + SECRET + "'}\n", "line 4 is not valid JSON: "),
        ("a.json", '[{"text": "a"},\n {"text": "b"\n', "line 3 is not valid JSON: "),
        ("a.jsonl", rows("a") + '"' + SECRET + '"\n', "line 2 is not a JSON object, such as {...}"),
        ("a.csv", "text,id\na,1\n" + SECRET + ",2,3\n", "is not valid CSV: Expected 2 fields in line 3, saw 3"),
    ],
)
def test_a_file_that_can_not_be_read_is_named_with_the_line(name, content, says):
    write("good" + Path(name).suffix, "text\na\n" if "sv" in name else rows("a"))
    write(name, content)
    for sources in ([name], [f"good{Path(name).suffix}", name]):
        if not name.endswith(".gz") or len(sources) == 1:
            assert refused(*sources).startswith(f"{name!r} {says}")
    write(f"folder/{name}", content)
    assert f"{name}' {says}" in refused("folder")


def test_the_fix_for_bad_bytes_is_named():
    write("a.txt", b"\xe9")
    fix = "save the file as UTF-8, or set encoding_errors='backslashreplace' to read it as the text \\xe9"
    assert refused("a.txt") == f"'a.txt' line 1 is not UTF-8 (byte 1): {fix}"


def test_bad_bytes_and_lone_surrogates_are_written_out_on_request_and_the_rest_stays():
    write("a.jsonl", rows("a", "é \\ \n").encode() + b'{"text": "\xe9t\xe9"}\n' + SURROGATE.encode())
    assert texts("a.jsonl", encoding_errors="backslashreplace") == ["a", "é \\ \n", "\\xe9t\\xe9", CORRECTED]
    write("a.txt", b"\xe9t\xe9\nna\xc3\xafve\n")
    assert texts("a.txt", encoding_errors="backslashreplace") == ["\\xe9t\\xe9", "naïve"]
    write("folder/a.csv", b"text,id\n\xe9,1\n")
    assert texts("folder", encoding_errors="backslashreplace") == ["\\xe9"]
    edited = load_source("a.jsonl", encoding_errors="backslashreplace")["train"].map(
        ToEditTransform("demo"), batched=True
    )
    assert not any(
        status.startswith("skipped") for status in edited.select_columns("toedit").to_pandas()["toedit"].str["status"]
    )


def test_the_pattern_of_lone_surrogates_agrees_with_python():
    escapes = [r"\ud800", r"\udc00", r"\ud83d\ude00", r"\\", r"\n", r"\u00e9", r"\uDBFF", r"\uDFFF", "x"]
    for first in escapes:
        for second in escapes:
            for third in escapes:
                source = first + second + third
                found = any(match.group(1) for match in ESCAPE.finditer(source.encode()))
                assert found == any("\ud800" <= c <= "\udfff" for c in json.loads(f'"{source}"')), source


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (["mixed"], "a.jsonl' and "),
        (
            ["mixed/a.jsonl", "mixed/b.csv"],
            "'mixed/a.jsonl' and 'mixed/b.csv' have different formats: give files of one",
        ),
        (
            ["mixed/[ab].*"],
            "'mixed/a.jsonl' and 'mixed/b.csv' have different formats: give files of one, such as 'mixed/*.jsonl'",
        ),
        (["none"], "the folder 'none' has no data files; known: .jsonl, .json, "),
        (["nothing/*.jsonl"], "no file matches 'nothing/*.jsonl'"),
        (["mixed/a.jsonl", "mixed"], "'mixed' is not a file: several sources must all be files"),
        (["mixed/a.jsonl", "gone.jsonl"], "'gone.jsonl' is not a file: several sources must all be files"),
        (["mixed/c.xyz"], "'mixed/c.xyz' has an unknown format; known: .jsonl, "),
    ],
)
def test_sources_that_do_not_go_together_are_told_why(sources, says):
    write("mixed/a.jsonl", rows("a"))
    write("mixed/b.csv", "text\nb\n")
    write("mixed/c.xyz", "c")
    Path("none").mkdir()
    assert says in refused(*sources)


# output folders


def out(path):
    """Make an output folder; its files' rows, read again."""
    with new_folder(Path(path)) as folder:
        save_dataset(DatasetDict(train=Dataset.from_dict({"text": ["a"]})), folder)
    assert not list(Path(path).parent.glob(".toedit.*"))
    return load_dataset("parquet", data_files=[str(Path(path).resolve() / "data/*.parquet")], split="train")[:]


@pytest.mark.parametrize(
    "name", ["new/.", "new/", "a/b/../c", "x" * 255, "é" * 127, "a b", "a{0}b%s", "'\"$x", "-", "a\nb\t"]
)
def test_an_output_may_have_any_name(name):
    assert out(name) == {"text": ["a"]}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * 256, "File name too long"),
        ("parent/" + "é" * 128 + "/x", "File name too long"),
        ("file/out", "Not a directory"),
        (".", "is the current folder: name a new one"),
        ("gone/..", "is the current folder: name a new one"),
        ("../work", "is the current folder: name a new one"),
        ("file", "exists: remove it or name another folder"),
    ],
)
def test_an_output_that_can_not_be_is_refused_before_the_work(name, says):
    write("file", "x")
    with pytest.raises(SourceError) as error, new_folder(Path(name)):
        pytest.fail("the work began")
    assert says in str(error.value).splitlines()[-1]
    assert os.listdir() == ["file"]


def test_a_folder_without_the_right_to_write_is_one_line(folder):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder.chmod(0o500)
    try:
        with pytest.raises(SourceError, match="Permission denied") as error, new_folder(Path("out")):
            pytest.fail("the work began")
    finally:
        folder.chmod(0o700)
    one_line(error)


def test_a_full_disk_is_one_line_and_leaves_nothing(folder):
    write("a.txt", "A line of text that is scored.\n" * 600)
    line = [sys.executable, "-m", "hf_toedit", "score", "a.txt", "--prior", "demo"]

    def limit():  # a file can't grow, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    done = subprocess.run([*line, "--out", "deep/out"], capture_output=True, text=True, preexec_fn=limit, timeout=300)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "error: can't write the output 'deep/out': File too large"
    assert sorted(os.listdir()) == ["a.txt"]


@pytest.mark.usefixtures("folder")
def test_files_that_changed_are_read_again_whatever_the_card_says():
    Path("rows").mkdir()
    Path("rows/README.md").write_text("---\nconfigs: [{config_name: default, data_files: a.jsonl}]\n---\n")
    for text in ["first", "other"]:
        Path("rows/a.jsonl").write_text(json.dumps({"text": text}))
        assert load_source("rows")["train"]["text"] == [text]
        assert load_source("rows", subset="default")["train"]["text"] == [text]
