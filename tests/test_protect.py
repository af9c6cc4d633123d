"""Protect rules: nothing inside of a protected stretch changes, something outside does, and no text takes long."""

from __future__ import annotations

import json
import re
import time
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Distribution, make_editor

from hf_toedit.editing.cells import Text
from hf_toedit.editing.protect import RULES, protected_spans

PIECES = {
    "code": [
        "`x = f(1)`",
        "``a ` b``",
        "```python\nx = [1]\n\ny = 2\n```",
        "```\r\nwith = 'CRLF'\r\n```",
        "````md\n```\ninner = 1\n```\nstill = 2\n````",
        "~~~\nraw text\n~~~",
        "    ```\n    in a list\n    ```",
        "> ```\n> in a quote\n> ```",
        ">>> print('hello there')",
        "... continues = True",
        "<code>a < b && c</code>",
        '<pre class="x">\nlines\n</pre>',
    ],
    "numbers": ["42", "3.14", "1,234.5", "-7", "6.02e-23", "50%", "2024/05/01", "12:30", "٣٤", "1.2.3.4"],
    "urls": ["https://example.org/a_b?c=d&e=f#g", "www.example.org/path", "ftp://h/x.tar.gz", "git+ssh://u@h/r"],
    "emails": ["a.b+c@sub.example.org", "someone@example.com"],
    "math": [
        "$x^2 + y_1$",
        "$$\na = b\n$$",
        "\\(a + b\\)",
        "\\[ \\frac{a}{b} \\]",
        "\\begin{align*} a &= b \\end{align*}",
    ],
    "json": ['{"a": [1, 2, {"b": null}], "c": "d"}', '[1.5, "x]", true]', '{"text": "a } b \\" c"}', "[[], [0]]"],
    "(?i)keep this": ["keep this", "KEEP This"],
}
BEFORE = "These words may well change, as many as there are of them,\n"
AFTER = "\nand so may these words, which come behind it and go on for a while."
ORDINARY = st.text("abcdefgh ,;\n", max_size=30)


@cache
def editor_of(rule: str):
    return make_editor("demo", Distribution("demo"), exclude_target=True, protect=(rule,))


def check_kept(rule: str, text: str, spans: list[tuple[int, int]]) -> int:
    """The number of edits, none of which touches a span."""
    edits = editor_of(rule).edit([Text(text)])[0].edits
    for edit in edits:
        assert all(edit.start + len(edit.old) <= start or end <= edit.start for start, end in spans)
    return len(edits)


@pytest.mark.parametrize("rule", PIECES)
def test_a_protected_piece_stays_and_the_words_around_it_change(rule):
    num_protected = 0
    for piece in PIECES[rule]:
        text = BEFORE + piece + AFTER
        start = text.index(piece)
        num_edits = check_kept(rule, text, [(start, start + len(piece))])
        assert num_edits >= 30
        num_protected += check_kept("(?!)", text, []) - num_edits
        assert "".join(text[a:b] for a, b in protected_spans(text, [rule])).strip() == piece.strip()
    assert num_protected > 0, "without the rule they would change"


@pytest.mark.parametrize("rule", PIECES)
def test_pieces_anywhere_in_a_text_stay(rule):
    pieces = PIECES[rule]

    @given(st.lists(st.tuples(ORDINARY, st.sampled_from(pieces)), min_size=1, max_size=5))
    def check(parts):
        text, spans = "", []
        for ordinary, piece in parts:
            text += ordinary + "\n"
            spans.append((len(text), len(text) + len(piece)))
            text += piece + "\n"
        check_kept(rule, text, spans)

    check()


def test_an_open_fence_protects_to_the_end():
    text = BEFORE + "```python\nx = 1\n\nmore words here that are code"
    assert check_kept("code", text, [(len(BEFORE), len(text))]) > 0


def test_rules_add_up():
    text = BEFORE + "$x$ and `y` and 42" + AFTER
    both = protected_spans(text, ["math", "code", "numbers"])
    assert sorted(text[start:end] for start, end in both) == ["$x$", "42", "`y`"]


def brute_force_json(text: str) -> list[tuple[int, int]]:
    """Try to read a value at each bracket from the left, and go on behind a success."""
    found, position = [], 0
    while opening := re.compile(r"[{\[]").search(text, position):
        try:
            value, position_after = json.JSONDecoder().raw_decode(text, opening.start())
        except json.JSONDecodeError:
            position = opening.start() + 1
            continue
        position = position_after
        if value:
            found.append((opening.start(), position))
    return found


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([*'[]{},:1x \n"', "-0.5e1", "01", "null", '"a"', '"b":', '{"k":', '"\\u00e9"']), max_size=25
    )
)
def test_json_is_found_as_by_trying_every_bracket(parts):
    text = "".join(parts)
    spans = sorted(protected_spans(text, ["json"]))
    assert all(json.loads(text[start:end]) for start, end in spans)
    if '"' not in parts:  # else the brute force also reads what begins inside of a string
        assert spans == brute_force_json(text)


UNITS = [
    "[",
    "{",
    "$",
    "`",
    "`a ",
    "a@a.a.a",
    "a.",
    "1.1.1.1.",
    "<code>",
    "<pre> ",
    "\\(",
    "\\[",
    "\\begin{a}",
    '{"a":',
]
UNITS += ["[1,", '["', '["[1]" x ', "[[1],", "[}", "$$a", "```\n", "> ", ">>> ", "http://", "www.", " ", "\\end{a}"]


@pytest.mark.parametrize("rule", RULES)
def test_hostile_texts_take_linear_time(rule):
    """What took time with the square of the length took minutes here."""
    texts = [(unit * 200_000)[:200_000] for unit in UNITS]
    texts.append("".join(f"\\begin{{n{i}}}" for i in range(15_000)))
    for text in texts:
        start = time.process_time()
        protected_spans(text, [rule])
        assert time.process_time() - start < 4, text[:20]
