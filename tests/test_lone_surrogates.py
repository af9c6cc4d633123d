"""Half a character (a lone surrogate) in a row: the row stays as it is and says so, on every way that can carry it."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset, IterableDataset
from strategies import PROSE, Distribution, make_transform

from hf_toedit import ToEditTransform, revert, summarize

HALF = f"{PROSE} \ud800 {PROSE}"
CHATML = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
SAYS = "skipped:lone_surrogates"


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# a row with half a character and one of the same columns without
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": ({"text": HALF}, {"text": PROSE}),
    "answer": ({"question": "Why?", "answer": HALF}, {"question": "Why?", "answer": PROSE}),
    "question": ({"question": HALF, "answer": PROSE}, {"question": "Why?", "answer": PROSE}),
    "context": (
        {"instruction": "Say.", "context": HALF, "response": PROSE},
        {"instruction": "Say.", "context": "So.", "response": PROSE},
    ),
    "message": ({"messages": chat("Why?", HALF)}, {"messages": chat("Why?", PROSE)}),
    "message before": ({"messages": chat(HALF, PROSE)}, {"messages": chat("Why?", PROSE)}),
}


def transform(template: str = "") -> ToEditTransform:
    return make_transform("demo", Distribution("demo"), exclude_target=True, chat_template=template)


@pytest.mark.parametrize("template", ["", CHATML])
@pytest.mark.parametrize("name", ROWS)
def test_such_a_row_is_skipped_and_its_neighbours_are_edited(name, template):
    rows = list(ROWS[name])
    alone = [transform(template)(row) for row in rows]
    assert [row["toedit"]["status"] for row in alone] == [SAYS, "edited"]
    assert [revert(row) for row in alone] == rows
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    batch = transform(template)(columns)
    assert batch["toedit"] == [row["toedit"] for row in alone]
    assert revert(batch) == columns
    stream = IterableDataset.from_generator(lambda: iter(rows))
    for batched in (False, True):
        assert list(stream.map(transform(template), batched=batched)) == alone
        again = stream.map(transform(template), batched=batched).map(revert, batched=batched, remove_columns="toedit")
        assert list(again) == rows
    assert summarize(row["toedit"] for row in alone).statuses == {SAYS: 1, "edited": 1}


def test_half_a_character_in_a_column_that_is_not_read_is_no_reason():
    row = {"text": PROSE, "note": HALF}
    edited = transform()(row)
    assert edited["toedit"]["status"] == "edited"
    assert revert(edited) == row


def test_fit_passes_over_such_rows():
    counts = [ToEditTransform("demo").fit(rows).unigram_counts_V for rows in ([{"text": PROSE}], list_of_both())]
    assert (counts[0] == counts[1]).all()


def list_of_both() -> list[dict[str, str]]:
    return [{"text": HALF}, {"text": PROSE}]


def test_arrow_can_not_carry_half_a_character():
    """So no Dataset holds such a row, whatever is done with it here."""
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        Dataset.from_list([{"text": HALF}])
