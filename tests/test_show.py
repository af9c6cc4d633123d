"""`show` marks every edit of a row, in a terminal, a notebook and a file alike, and moves nothing else."""

from __future__ import annotations

import html
import io
import re
import sys
import types

import pytest
from datasets import Dataset, DatasetDict
from rich.console import Console

from hf_toedit import ConfigError, RowError, StaticPrior, ToEditTransform, revert, show
from hf_toedit.report import edits as edits_module
from hf_toedit.report.edits import CONTEXT, Diff

TEXTS = [
    "Raise a ValueError if the file does not exist or cannot be opened for reading. " * 4,
    "Return the <b>name</b> & the \x1b[31m path\nof the file, or None where there is none.",
    "",
]
CHAT = {
    "messages": [
        {"role": "user", "content": TEXTS[0]},
        {"role": "assistant", "content": TEXTS[0]},
        {"role": "assistant", "content": TEXTS[1]},
    ]
}


@pytest.fixture(scope="module")
def transform(demo):
    return ToEditTransform(demo, threshold=0.5, temperature=5)


@pytest.fixture(scope="module")
def edited(transform):
    return Dataset.from_dict({"text": TEXTS}).map(transform, batched=True)


def lines_of(row, tokenizer=None):
    return Diff([("", row)], tokenizer=tokenizer).lines


def sides(pieces):
    """What a line says stood there before the edits, and what stands there now."""
    before = "".join(text for kind, text in pieces if kind != "new" and text != "…")
    return before, "".join(text for kind, text in pieces if kind != "old" and text != "…")


@pytest.mark.parametrize("kind", ["text", "messages"])
def test_every_edit_is_shown_where_it_lies(kind, transform, edited):
    rows = [row for row in edited if row["toedit"]["edits"]] if kind == "text" else [transform(CHAT)]
    assert rows
    for row in rows:
        edits, original = row["toedit"]["edits"], revert(row)
        text_of = {
            "text": lambda row, label: row["text"],
            "messages": lambda row, label: row["messages"][int(label[len("messages[") :].split("]")[0])]["content"],
        }[kind]
        lines = lines_of(row)
        for label, pieces in lines:
            before, after = sides(pieces)
            assert before in text_of(original, label)
            assert after in text_of(row, label)
        changes = [(kind, text) for _, pieces in lines for kind, text in pieces if kind != "same"]
        assert changes == [(kind, edit[kind]) for edit in edits for kind in ("old", "new") if edit[kind]]


def test_edits_far_apart_are_lines_of_their_own_and_near_ones_share_one():
    def row(*starts):
        before = "a" * 500
        after = "".join("b" if i in starts else "a" for i in range(500))
        edits = [{"column": "text", "start": i, "old": "a", "new": "b", "kind": "text"} for i in starts]
        assert revert({"text": after, "toedit": {"edits": edits}}) == {"text": before}
        return {"text": after, "toedit": {"edits": edits}}

    assert len(lines_of(row(100, 100 + 2 * CONTEXT + 1))) == 1
    assert len(lines_of(row(100, 100 + 2 * CONTEXT + 2))) == 2
    [(_, pieces)] = lines_of(row(100))
    assert pieces == [*[("same", "…"), ("same", "a" * CONTEXT)], ("old", "a"), ("new", "b"), *pieces[1::-1]]


def test_ids_are_numbers_or_the_text_of_their_tokenizer(demo, transform):
    ids = demo.tokenizer.encode(TEXTS[1]).ids
    row = transform({"input_ids": ids})
    edits = row["toedit"]["edits"]
    assert edits
    old = [text for _, pieces in lines_of(row) for kind, text in pieces if kind == "old"]
    assert old == [edit["old"] for edit in edits]
    for tokenizer in (demo.tokenizer, types.SimpleNamespace(backend_tokenizer=demo.tokenizer)):
        lines = [pieces for _, pieces in lines_of(row, tokenizer)]
        old = [text for pieces in lines for kind, text in pieces if kind == "old"]
        assert old == [demo.tokenizer.decode([int(edit["old"])]) for edit in edits]
        for pieces in lines:
            assert sides(pieces)[0] in demo.tokenizer.decode(ids, skip_special_tokens=False)
    with pytest.raises(ConfigError, match="not str"):
        show(row, tokenizer="demo")


def test_html_escapes_everything_and_marks_the_edits(edited):
    row = edited[1]
    assert row["toedit"]["edits"]
    page = Diff([("<script>", row)])._repr_html_()
    assert set(re.findall(r"<(\w+)", page)) == {"p", "small", "del", "ins"}
    old = [html.unescape(text) for text in re.findall(r"<del[^>]*>(.*?)</del>", page)]
    assert old == [edit["old"] for edit in row["toedit"]["edits"]]
    assert page.isprintable()
    assert html.unescape(re.sub(r"<ins.*?</ins>|<[^>]*>", "", page)).endswith(
        revert(row)["text"].replace("\n", "↵").replace("\x1b", "·")
    )


@pytest.mark.parametrize("coloured", [False, True])
def test_a_terminal_has_colours_and_a_file_has_marks(coloured, edited, monkeypatch):
    out = io.StringIO()
    console = Console(file=out, force_terminal=coloured, color_system="standard" if coloured else None, width=20)
    monkeypatch.setattr(edits_module, "Console", lambda: console)
    show(edited[1])
    text = out.getvalue()
    assert text.count("\n") == 1
    assert ("\x1b[9;31m" in text) == ("\x1b[1;32m" in text) == coloured
    assert ("[-" in text) == ("{+" in text) == (not coloured)
    assert "\x1b[31m path" not in text


def test_a_notebook_gets_html(edited, monkeypatch):
    displayed = []
    module = types.SimpleNamespace(display=displayed.append)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=module))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(edits_module, "Console", lambda: Console(force_jupyter=True))
    show(edited[1])
    [diff] = displayed
    assert "<ins" in diff._repr_html_()


WAYS = {
    "a dataset": lambda ds: ds,
    "a batch": lambda ds: ds[:],
    "a stream": lambda ds: ds.to_iterable_dataset(),
    "rows": lambda ds: list(ds),
    "a formatted dataset": lambda ds: ds.with_format("numpy"),
    "splits": lambda ds: DatasetDict(a=ds, b=ds.select([])),
}


@pytest.mark.parametrize("way", WAYS)
def test_some_rows_of_a_dataset_with_their_numbers(way, edited, capsys):
    show(WAYS[way](edited))
    prefix = "a " if way == "splits" else ""
    shown = capsys.readouterr().out
    rows = [(i, row) for i, row in enumerate(edited) if row["toedit"]["edits"]]
    assert shown == str(Diff([(f"{prefix}{i}", row) for i, row in rows])) + "\n"
    show(WAYS[way](edited), 1)
    assert capsys.readouterr().out.startswith(f"{prefix}0 text  ")


def test_a_row_without_an_edit_says_why(edited, capsys, demo):
    show(edited[2])
    assert capsys.readouterr().out == "skipped:empty: there is no text: set columns= to the column with the text\n"
    show({"text": "a", "toedit": None})
    assert capsys.readouterr().out == "not edited\n"
    show(edited.select([2]))
    assert capsys.readouterr().out == "no row was edited\n"
    certain = StaticPrior(demo.tokenizer, lambda ids, t: {int(ids[t]): 1.0})
    show(ToEditTransform(certain)({"text": "It is so."}))
    assert capsys.readouterr().out == "unchanged: the row was read, and no token changed\n"


def test_what_it_cannot_show_is_one_line(edited):
    row = edited[0]
    for data, message in (
        (edited.remove_columns("toedit"), "no column 'toedit' (columns: 'text')"),
        ({"text": "a"}, "no column 'toedit' (columns: 'text')"),
        ([{"text": "a"}], "no column 'toedit' (columns: 'text')"),
        (["a"], "show takes rows as dicts, not str"),
        ("a", "show takes an edited row, rows or a dataset, not str"),
        (None, "not NoneType"),
        (edited.to_pandas(), "not DataFrame"),
        ({**row, "text": row["text"] + "!"}, "changed after editing"),
        ({**row, "toedit": "{'edits': []}"}, "'toedit' holds text, as after saving as CSV"),
        (edited.rename_column("text", "body"), "no column 'text', which was edited: rename it back"),
    ):
        with pytest.raises(RowError) as caught:
            show(data)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_rows_in_other_formats_show_the_same(edited, capsys):
    show(edited[0])
    expected = capsys.readouterr().out
    rows = edited.with_format("numpy")
    for row in (rows[0], edited.to_pandas().to_dict("records")[0]):
        show(row)
        assert capsys.readouterr().out == expected
    show(rows[:2])
    assert "{+" in capsys.readouterr().out
    show({"text": "a", "toedit": float("nan")})
    assert capsys.readouterr().out == "not edited\n"


@pytest.mark.parametrize("num_rows", [0, -1])
def test_at_least_one_row_is_shown(edited, num_rows):
    with pytest.raises(ConfigError, match="must be at least 1"):
        show(edited, num_rows)
