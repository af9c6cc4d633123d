"""Which edits the demo shows."""

from __future__ import annotations

import pytest
from datasets import Dataset

from hf_toedit import ToEditTransform, revert
from hf_toedit.cli.demo import changed_word, telling_rows

PROSE = "The list is returned to the caller of the method, and "


def edited(*rows):
    """Rows of (text, edits), an edit being (old, new): the texts before, and the dataset after."""
    after = []
    for text, changes in rows:
        edits, new_text = [], text
        for old, new in changes:
            start = text.index(old)
            edits.append({"column": "text", "start": start, "old": old, "new": new, "kind": "text"})
            new_text = new_text.replace(old, new, 1)
        after.append({"text": new_text, "toedit": {"edits": edits, "digest": None}})
    return [text for text, _ in rows], Dataset.from_list(after)


def first_changes(texts, dataset, num_rows):
    return [
        (edit["old"], edit["new"])
        for row in telling_rows(dataset, texts, num_rows)
        for edit in row["toedit"]["edits"][:1]
    ]


@pytest.mark.parametrize(
    ("text", "start", "old", "new", "change"),
    [
        ("it is returned.", 12, "ed", "s", ("returned", "returns")),
        ("the end of it", 7, " of", " to", ("of", "to")),
        ("the end of it", 7, " of", "ing", ("end of", "ending")),
        ("the end of it", 0, "the", "an", ("the", "an")),
        ("the end\nof it", 8, "of", "", ("of", "")),
        ("snake_case(1)", 6, "ca", "be", ("case", "bese")),
    ],
)
def test_the_changed_word_reaches_to_the_next_character_that_is_no_letter(text, start, old, new, change):
    assert changed_word(text, {"start": start, "old": old, "new": new}) == change


def test_an_edit_from_word_to_word_amid_prose_is_shown_first():
    changes = [
        ("turned", "turnab"),  # no word in use
        ("The", "That"),  # a word, but not in use
        (" to", " of"),
    ]
    texts, dataset = edited((PROSE * 3 + "is to be", changes))
    assert first_changes(texts, dataset, 1) == [(" to", " of")]
    [row] = telling_rows(dataset, texts, 1)
    assert [edit["old"] for edit in row["toedit"]["edits"]] == [" to", "turned", "The"]
    assert revert(row)["text"] == texts[0]
    code = "x = f(to) -> {1: 'of'}; y[0] == 3; " * 3
    texts, dataset = edited((code, [("to", "of")]), (PROSE * 3, [(" is", " of")]))
    assert first_changes(texts, dataset, 1) == [(" is", " of")]


def test_no_change_is_shown_twice_and_other_edits_fill_up():
    texts, dataset = edited(
        (PROSE * 3, [("turned", "turnab")]),
        (PROSE * 3, [(" to", " of")]),
        (PROSE * 3, []),
        (PROSE * 3, [(" to", " of")]),
        (PROSE * 3, [(" of", " to")]),
    )
    telling, other = [(" to", " of"), (" of", " to")], ("turned", "turnab")
    assert first_changes(texts, dataset, 20) == [*telling, other]
    assert first_changes(texts, dataset, 2) == telling
    assert first_changes(texts, dataset, 0) == []


def test_what_is_shown_comes_from_the_whole_dataset():
    words = [f"{a}{b}" for a in "bcdfghkl" for b in ("an", "en", "in", "on")]
    use = " ".join(words * 3) + " "
    texts, dataset = edited(*((use + "the last word", [(word, "the")]) for word in words))
    shown = first_changes(texts, dataset, 4)
    assert [words.index(old) for old, _ in shown] == [0, 8, 16, 24]


def test_drop_and_rows_without_edits_are_shown_as_they_are(demo):
    rows = [{"text": PROSE}, {"text": ""}]
    dataset = Dataset.from_list(rows).map(
        ToEditTransform(demo, strategy="drop", drop_below=0.5, stats="full"), batched=True
    )
    [row] = telling_rows(dataset, [PROSE, ""], 20)
    assert row["text"] == dataset[0]["text"] != PROSE
