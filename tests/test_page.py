"""The page that shows an edit: its figures are true, what it lists is what happened, and no text runs on it."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from command_line import fail, run
from datasets import ClassLabel, Dataset, DatasetDict, Features, Json, List
from hypothesis import given
from hypothesis import strategies as st
from made import human_texts

from hf_toedit import RowError, SourceError, ToEditTransform, ToEditWarning, revert, summarize
from hf_toedit.display import spelled
from hf_toedit.report import listing
from hf_toedit.report.comparison import compare
from hf_toedit.report.counts import Counts
from hf_toedit.report.page import About, page_of
from hf_toedit.report.queries import queries
from hf_toedit.rows.column import digest_of, struct_column

SOURCES = ["books", "web", "code"]


@pytest.fixture(scope="module")
def transform(demo):
    return ToEditTransform(demo, threshold=0.5, temperature=3, seed=1)


@pytest.fixture(scope="module")
def source():
    texts = [*human_texts()[:20], "", None]
    return Dataset.from_dict({"text": texts, "source": [SOURCES[i % 3] for i in range(len(texts))]})


@pytest.fixture(scope="module")
def edited(transform, source):
    return source.map(transform, batched=True)


def page(splits, about=None, **options):
    splits = {"train": splits} if isinstance(splits, Dataset) else splits
    return page_of(splits, Counts(splits, **options), about or About())


def data_of(html):
    """What the page gives to its script."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def rows_with(originals, edits_of, **more):
    """Rows as an edit leaves them. originals: by column. edits_of: of each row the edits."""
    rows = [dict(zip(originals, values, strict=True)) for values in zip(*originals.values(), strict=True)]
    structs = []
    for row, edits in zip(rows, edits_of, strict=True):
        counts = dict.fromkeys(("num_tokens", "num_editable", "num_scorable", "num_visited"), 10)
        counts |= {"num_visited_eligible": 5, "num_changed": len(edits), "num_near_ties": 0, "logprob_sum": -3.0}
        status = "edited" if edits else "unchanged"
        record = {"status": status, "fingerprint": "f" * 16, **counts, "histogram": [0] * 9 + [10], "drifted": False}
        structs.append({**record, "cells": [], "digest": digest_of(row, edits), "edits": edits})
    table = Dataset.from_dict({**more, "toedit": structs}).data.table
    return Dataset(table.set_column(table.num_columns - 1, "toedit", pa.array(struct_column(structs))))


def an_edit(start, old, new, column="text", kind="text"):
    return {"column": column, "start": start, "old": old, "new": new, "kind": kind}


# figures


def test_figures_are_those_of_a_count_by_hand(edited):
    counts = Counts({"train": edited.select(range(15)), "test": edited.select(range(15, 22))})
    assert counts.stats == summarize(edited)
    assert counts.by == "source"
    for name, group in counts.by_source.items():
        expected = summarize(edited.filter(lambda row, name=name: row["source"] == name))
        assert (group.stats().num_rows, group.stats().statuses) == (expected.num_rows, expected.statuses)
        for rate in ("changed_rate", "eligible_rate", "perplexity"):
            assert getattr(group.stats(), rate) == pytest.approx(getattr(expected, rate))
    assert {split: group.stats().num_rows for split, group in counts.by_split.items()} == {"train": 15, "test": 7}
    edits = [(row, edit) for row in edited for edit in row["toedit"]["edits"]]
    assert edits
    parts = Counter(10 * edit["start"] // len(revert(row)["text"]) for row, edit in edits)
    assert counts.parts == [parts[i] for i in range(10)]
    assert counts.replacements == Counter((edit["old"], edit["new"], False) for _, edit in edits)
    assert counts.columns == {"text": len(edits)}
    lengths = Counter(row["toedit"]["num_tokens"].bit_length() for row in edited)
    assert {length: group.stats().num_rows for length, group in counts.by_length.items()} == lengths


def test_a_place_is_a_part_of_its_own_text_or_list_of_ids():
    chat = [[{"role": "user", "content": "u" * 100}, {"role": "assistant", "content": "0123456789" * 2 + "ab"}]]
    edits = [
        an_edit(2, "2", "xyz", "messages[1].content", "message"),
        an_edit(20, "ab", "", "messages[1].content", "message"),
    ]
    after = [[chat[0][0], {"role": "assistant", "content": "01xyz3456789" + "0123456789"}]]
    rows = rows_with({"messages": chat}, [edits], messages=after)
    assert Counts({"train": rows}).parts == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    ids = rows_with(
        {"input_ids": [[5, 6, 7, 8]]}, [[an_edit(2, "7", "9", "input_ids", "ids")]], input_ids=[[5, 6, 9, 8]]
    )
    assert Counts({"train": ids}).parts == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_messages_in_json_are_listed_counted_and_compared(demo):
    answers = [{"role": "assistant", "content": text} for text in human_texts()[:4]]
    rows = {"messages": [[{"role": "user", "content": "Why?", "n": 1}, answer] for answer in answers]}
    source = Dataset.from_dict(rows, features=Features({"messages": List(Json())}))
    edited = source.map(ToEditTransform(demo, threshold=0.3, exclude_target=True, chat_template=""), batched=True)
    num_edits = sum(len(struct["edits"]) for struct in edited["toedit"])
    assert sum(Counts({"train": edited}).parts) == num_edits > 0
    listed = data_of(page(edited))["rows"]
    assert sum(line.count(1) for row in listed for line in (part[1::2] for part in row[-1])) == num_edits
    assert compare({"train": edited}, {"train": source}).is_equal


def test_a_column_with_many_values_is_no_source_unless_it_is_asked_for(edited):
    many = edited.remove_columns("source").add_column("source", [str(i) for i in range(len(edited))])
    repeated = Dataset.from_dict({**many[:], "source": many["source"][:]}, features=many.features)
    rows = Dataset.from_list(
        [{**row, "source": f"{i}-{k}"} for k in range(3) for i, row in enumerate(repeated)], features=many.features
    )
    assert Counts({"train": rows}).by is None
    assert len(Counts({"train": rows}, by="source").by_source) == len(rows)
    labelled = edited.remove_columns("source").add_column("kind", [i % 2 for i in range(len(edited))])
    labelled = labelled.cast_column("kind", ClassLabel(names=["x", "y"]))
    assert Counts({"train": labelled}).by is None
    assert set(Counts({"train": labelled}, by="kind").by_source) == {"x", "y"}
    with pytest.raises(RowError, match="did you mean 'source'"):
        Counts({"train": edited}, by="sauce")


def test_rows_that_were_not_part_of_the_edit_are_counted_apart(edited):
    rows = Dataset.from_list([*edited, {"text": "x", "source": "web", "toedit": None}], features=edited.features)
    counts = Counts({"train": rows})
    assert (counts.num_not_edited, counts.stats) == (1, summarize(edited))
    assert "not edited, and not counted" in page(rows)


def test_the_numbers_on_the_page(edited):
    html = page(edited, About(name="rows.jsonl"))
    stats = summarize(edited)
    assert f"{stats.changed_rate:.2%}" in html
    assert f"{stats.perplexity:.2f}" in html
    assert f"All {len(edited)} rows." in html
    for name, value, _ in stats.lines():
        assert re.search(rf'<th scope="row">{re.escape(name)}</th><td class="number">{re.escape(value)}<', html), name
    assert "set columns= to the column with the text" in html
    assert "<title>Edits in rows.jsonl</title>" in html
    assert "FROM validation\n" in page({"validation": edited})


# rows


def test_what_is_listed_is_what_happened(edited):
    data = data_of(page(edited))
    assert [row[1] for row in data["rows"]] == list(range(len(edited)))
    for _, number, status, source, num_edits, is_cut, _, lines in data["rows"]:
        row, edits = edited[number], edited[number]["toedit"]["edits"]
        assert data["statuses"][status] == row["toedit"]["status"]
        assert data["sources"][source] == row["source"]
        assert (num_edits, is_cut) == (len(edits), 0)
        if not edits:
            continue
        listed = [(kind, text) for _, *line in lines for kind, text in zip(line[::2], line[1::2], strict=True)]
        changes = [(kind, edit[name]) for edit in edits for kind, name in ((1, "old"), (2, "new")) if edit[name]]
        assert [(kind, text) for kind, text in listed if kind] == [(kind, spelled(text)) for kind, text in changes]
        before = "".join(text for kind, text in listed if kind != 2)
        assert before.strip("…").replace("……", "") in spelled(revert(row)["text"]) or "…" in before


def test_a_replacement_names_the_rows_that_have_it(edited):
    data = data_of(page(edited))
    assert data["replacements"]
    for place, (old, new) in enumerate(data["replacements"]):
        listed = {row[1] for row in data["rows"] if place in row[6]}
        pairs = [{(spelled(e["old"]), spelled(e["new"])) for e in row["toedit"]["edits"]} for row in edited]
        assert listed == {i for i, found in enumerate(pairs) if (old, new) in found}


def test_ids_are_shown_as_text_where_the_tokenizer_is_known(demo):
    ids = demo.tokenizer.encode("Return the name of the file").ids
    new = demo.tokenizer.token_to_id("x")
    edits = [[an_edit(1, str(ids[1]), str(new), "input_ids", "ids")]]
    rows = rows_with({"input_ids": [ids]}, edits, input_ids=[[ids[0], new, *ids[2:]]])
    plain, known = (data_of(page(rows, About(tokenizer=tokenizer))) for tokenizer in (None, demo.tokenizer))
    assert plain["replacements"] == [[str(ids[1]), str(new)]]
    assert known["replacements"] == [[demo.tokenizer.decode([ids[1]]), "x"]]
    assert "x" in known["rows"][0][7][0]


def test_the_sample_is_even_and_the_page_says_so(edited, monkeypatch):
    monkeypatch.setattr(listing, "MOST_EDITED", 10)
    monkeypatch.setattr(listing, "MOST_OTHERS", 1)
    rows = edited.select([i % 20 for i in range(400)] + [20, 20])
    splits = {"train": rows.select(range(300)), "test": rows.select(range(300, 402))}
    html = page(splits)
    listed = [300 * row[0] + row[1] for row in data_of(html)["rows"] if rows[300 * row[0] + row[1]]["toedit"]["edits"]]
    total = sum(bool(struct["edits"]) for struct in rows["toedit"])
    assert len(listed) == 10
    all_edited = [i for i, struct in enumerate(rows["toedit"]) if struct["edits"]]
    assert listed == [all_edited[k * total // 10] for k in range(10)]
    assert f"10 of {total} edited" in html
    assert "1 of 2 skipped:empty" in html


def test_a_page_of_long_rows_stays_small_and_shows_no_edit_in_part():
    text = "日本語のテキスト" * 5000
    edits = [an_edit(i, text[i], "x" * 50) for i in range(0, 30_000, 20)]
    after = "".join("x" * 50 if i % 20 == 0 and i < 30_000 else c for i, c in enumerate(text))
    rows = rows_with({"text": [text] * 8}, [edits] * 8, text=[after] * 8)
    html = page(rows)
    assert len(html.encode()) < 200_000
    for row in data_of(html)["rows"]:
        assert row[4:6] == [len(edits), 1]
        [line] = row[7]
        kinds = line[1::2]
        assert kinds.count(1) == kinds.count(2) > 3
        assert line[-1] == "…"
        assert sum(len(part.encode()) for part in line[2::2]) < 4100


def test_a_page_of_many_long_rows_has_a_largest_size(monkeypatch):
    monkeypatch.setattr(listing, "MOST_EDITED", 400)
    monkeypatch.setattr(listing, "MOST_BYTES", 400_000)
    text = "<" * 3000
    edits = [an_edit(i, "<", ">") for i in range(0, 3000, 50)]
    after = "".join(">" if i % 50 == 0 else "<" for i in range(3000))
    rows = rows_with({"text": [text]}, [edits], text=[after]).select([0] * 500)
    html = page(rows)
    assert len(data_of(html)["rows"]) == 400
    assert len(html.encode()) < 500_000


def test_a_row_that_changed_after_editing_says_so_and_the_rest_is_shown(edited):
    other = edited.map(lambda row, i: {"text": "other"} if i == 3 else {}, with_indices=True)
    html = page(other)
    row = data_of(html)["rows"][3]
    assert row[7][0][1:] == [listing.CHANGED, "can't revert: text changed after editing"]
    assert "1 of these rows changed after editing" in html


def test_of_several_edits_the_page_shows_one_and_names_the_others(edited, source, demo):
    again = ToEditTransform(demo, threshold=0.5, temperature=3, generation=1, stats_column="toedit_1")
    twice = edited.select(range(5)).map(again, batched=True)
    first, second = (page(twice, stats_column=name) for name in ("toedit", "toedit_1"))
    assert "the others are in <code>toedit_1</code>" in first
    assert "the others are in <code>toedit</code>" in second
    assert "more than once" not in page(edited)
    assert data_of(second)["num_changed"] == 0
    assert compare({"train": twice}, {"train": source.select(range(5))}, "toedit").is_equal
    assert compare({"train": twice}, {"train": edited.select(range(5))}, "toedit_1").is_equal


# hostile text


class Elements(HTMLParser):
    """The elements of a page, with attributes and what is in them."""

    def __init__(self, html):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.texts.append(text)


HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "<!--<script>",
    "{{ 7 * 7 }}{% raw %}",
    "\x00\x1b[31m\u202eevil\u2066\u2028\u2029\ufeff",
    "' onfocus=window.hacked=3 autofocus x='",
    "javascript:window.hacked=4",
    "</style><style>*{display:none}</style>",
]


def hostile_rows():
    originals = [f"a {text} b" for text in HOSTILE]
    edits = [[an_edit(2, text, text[::-1] + text)] for text in HOSTILE]
    after = [f"a {text[::-1] + text} b" for text in HOSTILE]
    return rows_with({"text": originals}, edits, text=after, source=HOSTILE)


def hostile_page():
    record = {"prior": HOSTILE[0], "config": {"protect": [HOSTILE[1]]}, "chat_template": HOSTILE[4]}
    return page({HOSTILE[0]: hostile_rows()}, About("".join(HOSTILE) + "\ud800", [record], notes=[HOSTILE[7]]))


def test_hostile_text_makes_no_element_and_no_attribute():
    plain = {tag for tag, _ in Elements(page(rows_with({"text": ["ab"]}, [[an_edit(0, "a", "c")]], text=["cb"]))).found}
    elements = Elements(hostile_page()).found
    assert {tag for tag, _ in elements} <= {*plain, "p", "h3", "ul", "li"}
    assert [tag for tag, _ in elements].count("script") == 2
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on") or name == "style"]
    assert not [attributes for _, attributes in elements if "src" in attributes]
    links = {attributes["href"] for _, attributes in elements if "href" in attributes}
    assert links == {"#rows", "https://arxiv.org/abs/2412.14689"}


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(edited):
    html = page(edited)
    policy = next(a["content"] for _, a in Elements(html).found if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for name in ("style", "script"):
        text = re.search(rf"<{name}>(.*?)</{name}>", html, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert len(rules) == 5


@given(st.text(st.characters(exclude_categories=())))
def test_what_cannot_be_seen_is_spelled_out(text):
    shown = spelled(text)
    shown.encode()  # also of lone surrogates
    assert all(c.isprintable() or c in "\u200c\u200d" or unicodedata.category(c) == "Zs" for c in shown)
    if text.isprintable() and not text.isspace():
        assert shown == text
    assert bool(shown) == bool(text)


def test_spelling():
    assert spelled("a\tb\n\u202e\x00\ud800") == "a⇥b↵⟨U+202E⟩⟨U+0000⟩⟨U+D800⟩"
    assert (spelled(" "), spelled(" a b\u00a0"), spelled("\u00a0\u3000")) == ("␣", " a b\u00a0", "⟨U+00A0⟩⟨U+3000⟩")
    assert spelled("a\u200db") == "a⟨U+200D⟩b"
    assert spelled("👩\u200d👧 می\u200cخواهم") == "👩\u200d👧 می\u200cخواهم"


# against the source


def test_reverting_gives_the_source_row_by_row(edited, source):
    comparison = compare({"train": edited}, {"validation": source})
    assert comparison.is_equal
    assert (comparison.num_rows, comparison.columns, comparison.left_out) == (len(source), ["text", "source"], [])
    extra = source.add_column("score", [float("nan")] * len(source))
    nan = compare({"train": edited.add_column("score", [float("nan")] * len(source))}, {"train": extra})
    assert nan.is_equal
    assert compare({"train": edited}, {"train": extra}).left_out == ["score"]


def test_rows_that_differ_from_the_source_are_named(edited, source):
    first = next(i for i, struct in enumerate(edited["toedit"]) if struct["edits"])
    other = source.map(lambda row, i: {"source": "x"} if i in (5, 7) else {}, with_indices=True)
    spoiled = edited.map(lambda row, i: {"text": "x"} if i == first else {}, with_indices=True)
    comparison = compare({"train": spoiled}, {"train": other})
    assert (comparison.num_rows - comparison.num_equal, comparison.is_equal) == (3, False)
    assert comparison.differences[0] == ("train", first, "can't revert: text changed after editing")
    assert comparison.differences[1:] == [("train", i, "differs in source") for i in (5, 7)]
    html = page(spoiled, About(comparison=comparison))
    assert f"<code>train {first}</code>: can&#39;t revert" in html


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"a": slice(0, 5), "b": slice(5, 9)}, "no split 'train'; it has a, b"),
        ({"train": slice(0, 5)}, "22 rows and the source 5"),
    ],
)
def test_a_source_that_cannot_be_the_one_is_one_line(edited, source, splits, message):
    others = {name: source.select(range(part.start, part.stop)) for name, part in splits.items()}
    with pytest.raises(SourceError, match=message):
        compare({"train": edited}, others)
    with pytest.raises(SourceError, match="none of the columns"):
        compare({"train": edited}, {"train": Dataset.from_dict({"z": [0] * len(edited)})})


# from Python and from the command line


def test_a_transform_reports_on_its_own_rows_only(tmp_path, transform, edited, source, demo):
    path = tmp_path / "report.html"
    assert transform.report(edited, path, against=source) == summarize(edited)
    html = path.read_text()
    assert "reverting the edits gives the source, in all of 22 rows" in html
    assert f'<th scope="row">threshold</th><td>{transform.config.threshold}</td>' in html
    other = ToEditTransform(demo, threshold=0.4)
    with pytest.raises(RowError, match="report them with the one that did"):
        other.report(edited, tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()
    with pytest.warns(ToEditWarning, match="does not give the source in 22 of 22 rows"):
        transform.report(DatasetDict(train=edited), path, against=source.map(lambda row: {"source": "x"}))
    with pytest.raises(RowError, match="against= takes a Dataset"):
        transform.report(edited, path, against="source.jsonl")
    with pytest.raises(RowError, match="report takes a Dataset"):
        transform.report(edited[:], path)
    with pytest.raises(RowError, match="no rows"):
        transform.report(edited.select([]), path)


def test_only_a_report_is_replaced(tmp_path, transform, edited):
    (tmp_path / "notes.html").write_text("<p>mine")
    with pytest.raises(SourceError, match="is not a report: remove it or name another file"):
        transform.report(edited, tmp_path / "notes.html")
    with pytest.raises(SourceError, match="it is a folder"):
        transform.report(edited, tmp_path)
    assert (tmp_path / "notes.html").read_text() == "<p>mine"
    for _ in range(2):
        transform.report(edited, tmp_path / "new/report.html")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_a_full_disk_leaves_the_earlier_report_and_nothing_else(tmp_path, transform, edited, monkeypatch):
    path = tmp_path / "report.html"
    transform.report(edited, path)
    before = path.read_bytes()

    def fill(self, text, encoding):
        self.write_bytes(text.encode()[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(SourceError, match=r"can't write the report .*: No space left on device$"):
        transform.report(edited.select(range(3)), path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_bytes() == before


@pytest.fixture
def folders(folder, transform, edited, source):
    """An edited folder, and its source as a file."""
    transform.save(edited, "edited")
    source.to_json("source.jsonl")
    return folder


@pytest.mark.usefixtures("folders")
def test_the_command(demo, edited):
    assert "in all of 22 rows" in run("report", "edited", "--against", "source.jsonl", "--out", "a.html")
    html = Path("a.html").read_text()
    assert demo.revision in html
    assert data_of(html) == data_of(page(edited))
    assert "Wrote report.html" in run("report", "edited")
    lines = Path("source.jsonl").read_text().splitlines()
    Path("source.jsonl").write_text("\n".join([lines[0].replace(" ", "_"), *lines[1:]]) + "\n")
    told = fail("report", "edited", "--against", "source.jsonl", "--out", "b.html")
    assert "in 1 of 22 rows; first train 0: differs in text; 'b.html' has more" in told
    assert "<code>train 0</code>: differs in text" in Path("b.html").read_text()
    assert "no column 'toedit'" in fail("report", "source.jsonl", "--out", "c.html")
    assert "set --by" in fail("report", "edited", "--by", "sauce", "--out", "c.html")


@pytest.mark.usefixtures("folders")
def test_a_record_of_another_edit_is_not_shown():
    file = Path("edited/toedit.json")
    record = json.loads(file.read_text())
    other = {**record, "fingerprint": "0" * 16}
    file.write_text(json.dumps(other))
    run("report", "edited", "--out", "a.html")
    html = Path("a.html").read_text()
    assert f"does not say how rows with this fingerprint were edited: {record['fingerprint']}." in html
    assert "How it was edited" not in html
    file.write_text(json.dumps({**other, "earlier_edits": [record]}))
    run("report", "edited", "--out", "a.html")
    html = Path("a.html").read_text()
    assert "does not say how" not in html
    assert html.count("How it was edited") == 1
    assert f'<th scope="row">fingerprint</th><td>{record["fingerprint"]}</td>' in html
    file.write_text("[]")
    assert "is not the record of an edit: correct or remove it" in fail("report", "edited", "--out", "b.html")


@pytest.mark.usefixtures("folders")
def test_a_dataset_on_the_hub_with_its_record(hub, edited):
    hub.add("dataset", "me/edited", Path("edited"), private=True)
    run("report", "me/edited", "--out", "a.html")
    html = Path("a.html").read_text()
    assert data_of(html)["rows"] == data_of(page(edited))["rows"]
    assert "<title>Edits in me/edited</title>" in html
    assert html.count("How it was edited") == 1


@pytest.mark.usefixtures("folders")
def test_the_page_as_a_private_space(hub):
    printed = run("report", "edited", "--push-space", "me/edits")
    assert f"{hub.endpoint}/spaces/me/edits" in printed
    repo, files = hub.repo("space", "me/edits"), hub.files("space", "me/edits")
    assert repo.private
    assert files["index.html"] == Path("report.html").read_bytes()
    assert b"sdk: static" in files["README.md"]
    hub.add("space", "me/game", {"README.md": b"---\nsdk: gradio\n---\n"}, private=True)
    assert "is not a report: name another one" in fail("report", "edited", "--push-space", "me/game")
    run("report", "edited", "--push-space", "me/edits")


def test_score_prints_json_and_nothing_else_to_stdout(folder, source):
    source.to_json("source.jsonl")
    printed = json.loads(run("score", "source.jsonl", "--prior", "demo", "--json", "--out", "scores"))
    assert printed == json.loads((folder / "scores/stats.json").read_text())
    assert printed["num_visited"] > 0


def test_queries_say_what_the_counts_say(tmp_path, edited):
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb")
    edited.to_parquet(tmp_path / "rows.parquet")
    found = {title: duckdb.sql(query) for title, query in queries(f"'{tmp_path}/rows.parquet'").items()}
    counts = Counts({"train": edited})
    assert dict(found["Rows by status"].fetchall()) == counts.stats.statuses
    assert found["Rates"].fetchall() == [(counts.stats.changed_rate, counts.stats.eligible_rate)]
    replaced = {
        (old, new, False): number for old, new, number in found["Every replacement, most frequent first"].fetchall()
    }
    assert replaced == counts.replacements
    changes = [row[0] for row in found["The rows with the most changes"].fetchall()]
    assert changes == sorted((struct["num_changed"] for struct in edited["toedit"]), reverse=True)
