"""Rows that are tokens already: edited in place; masks, padding, context and the -100 pattern stay."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
from conftest import TOKENIZERS, breadth
from hypothesis import given
from hypothesis import strategies as st
from strategies import PROSE, Distribution, make_transform, texts, tokenization_of, tokenizer_of

from hf_toedit import ToEditTransform, revert

pytestmark = pytest.mark.filterwarnings("ignore::hf_toedit.ToEditWarning")  # of rows that are skipped on purpose
SCOPES = ["labels", "completion_mask", "assistant_masks"]


@cache
def transform_of(name: str) -> ToEditTransform:
    return make_transform(name, Distribution(name), exclude_target=True)


def encode(name: str, text: str) -> list[int]:
    return list(tokenizer_of(name).encode(text, add_special_tokens=False).ids)


@cache
def special_ids(name: str) -> frozenset[int]:
    return frozenset(tokenizer_of(name).get_added_tokens_decoder())


def pad(row: dict, left: int, right: int) -> dict:
    """The row with padding on both sides."""
    values = {"labels": -100}
    return {name: [values.get(name, 0)] * left + row[name] + [values.get(name, 0)] * right for name in row}


@st.composite
def rows(draw, name):
    """A row with attention_mask and any of the columns that set a scope; some labels differ from the ids."""
    ids = encode(name, draw(texts) + " " + PROSE)
    row = {"input_ids": ids, "attention_mask": [1] * len(ids)}
    for column in draw(st.sets(st.sampled_from(SCOPES), max_size=2)):
        scope = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        row[column] = [int(keep) for keep in scope]
        if column == "labels":
            other = draw(st.sampled_from([0, 1]))
            row[column] = [
                i + other * (t % 3 == 0) if keep else -100 for t, (i, keep) in enumerate(zip(ids, scope, strict=True))
            ]
    return pad(row, draw(st.integers(0, 5)), draw(st.integers(0, 5)))


def may_change(name: str, row: dict, t: int) -> bool:
    """By the plain reading of the masks."""
    is_real = row["attention_mask"][t] == 1 and 1 in row["attention_mask"][:t]
    in_scope = all(row[mask][t] for mask in SCOPES[1:] if mask in row) and row.get("labels", [0] * (t + 1))[t] != -100
    return is_real and in_scope and row["input_ids"][t] not in special_ids(name)


def check_row(name: str, row: dict, edited: dict) -> None:
    tokenizer, old, new = tokenizer_of(name), row["input_ids"], edited["input_ids"]
    if tokenizer.token_to_id("<unk>") not in old:  # of an unknown token nobody can tell what it stood for
        assert edited["toedit"]["status"] in ("edited", "unchanged"), "a tokenizer's own ids are not refused"
    assert {column: len(edited[column]) for column in row} == {column: len(old) for column in row}
    for t in range(len(old)):
        if new[t] != old[t]:
            assert may_change(name, row, t)
            assert new[t] not in special_ids(name)
            assert "\ufffd" not in tokenizer.decode([old[t], new[t]], skip_special_tokens=False)
        if "labels" in row:
            assert edited["labels"][t] == (new[t] if row["labels"][t] == old[t] else row["labels"][t])
    for column in row:
        if column not in ("input_ids", "labels"):
            assert edited[column] == row[column]
    places = [edit["start"] for edit in edited["toedit"]["edits"] if edit["column"] == "input_ids"]
    assert places == [t for t in range(len(old)) if old[t] != new[t]]
    assert len(places) == edited["toedit"]["num_changed"]
    assert revert(edited) == row


@pytest.mark.parametrize("name", TOKENIZERS)
def test_only_tokens_in_scope_change_and_all_else_stays(name):
    @given(rows(name))
    def check(row):
        before = copy.deepcopy(row)
        edited = transform_of(name)(row)
        assert row == before, "the caller's row is not touched"
        check_row(name, row, edited)

    check()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_padding_does_not_matter(name):
    ids = encode(name, PROSE * 3)
    row = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * 9 + ids[9:]}
    bare = transform_of(name)(row)
    assert bare["toedit"]["num_changed"] > len(ids) / 2
    shapes = [(0, 7), (7, 0), (3, 30)]
    for left, right in shapes:
        edited = transform_of(name)(pad(row, left, right))
        check_row(name, pad(row, left, right), edited)
        for column in row:
            assert edited[column] == pad({column: bare[column]}, left, right)[column]
    width = len(ids) + 40
    batch = [pad(row, left, width - len(ids) - left) for left, _ in shapes]
    together = transform_of(name)({column: [one[column] for one in batch] for column in row})
    assert together["input_ids"] == [transform_of(name)(one)["input_ids"] for one in batch]


def test_arrays_and_tensors_are_rows_too():
    import torch

    ids = encode("demo", PROSE * 3)
    expected = transform_of("demo")({"input_ids": ids, "attention_mask": [1] * len(ids)})
    for kind in (np.array, torch.tensor, tuple):
        edited = transform_of("demo")({"input_ids": kind(ids), "attention_mask": kind([True] * len(ids))})
        assert list(edited["input_ids"]) == expected["input_ids"]
        assert edited["toedit"] == expected["toedit"]


def test_protect_rules_hold_for_ids():
    transform = make_transform("demo", Distribution("demo"), exclude_target=True, protect=("numbers", "code"))
    for text in ["Of 1,234.5 things 67 were `some code` here.", "é 2024 ünï 3.14 and so on and on."]:
        edited = transform({"input_ids": encode("demo", text)})
        assert edited["toedit"]["edits"]
        new = tokenizer_of("demo").decode(edited["input_ids"], skip_special_tokens=False)
        for kept in ("1,234.5", "67", "`some code`", "2024", "3.14"):
            assert (kept in new) >= (kept in text)


@pytest.mark.parametrize(
    "name",
    ["made-llama", "made-t5", "made-qwen", *map(breadth, ["mistral-v3", "stories260K", "t5-small", "qwen2"])],
)
def test_chats_and_packed_documents_are_not_refused(name):
    """Some tokenizers hide a space behind each special token, some only at the start of a text."""
    tokenizer = tokenizer_of(name)
    specials = [token.content for token in tokenizer.get_added_tokens_decoder().values()][-2:]
    special_id = tokenizer.token_to_id(specials[0])
    turns = ["Hi there.", "Yes, ok.", "What is it?", "A dog, I say."] * 4
    rendered = encode(name, "".join(f"{specials[0]}{turn}{specials[1]}" for turn in turns))
    spaced = encode(name, "".join(f"{specials[0]} {turn}{specials[1]}" for turn in turns))
    packed = [token_id for turn in turns for token_id in [special_id, *encode(name, turn)]]
    cut = packed[5:]
    for ids in (rendered, spaced, packed, cut):
        assert tokenization_of(name).reproduces(np.array(ids))
        assert transform_of(name)({"input_ids": ids})["toedit"]["status"] == "edited"


def test_ids_and_a_text_beside_them_are_both_edited():
    """Each as by itself: a text or a chat template's variables beside the ids are no masks."""
    ids, tools = encode("demo", PROSE), [{"name": "search"}]
    row = {"input_ids": ids, "text": PROSE, "tools": tools}
    alone = [transform_of("demo")({"input_ids": ids})["input_ids"], transform_of("demo")({"text": PROSE})["text"]]
    for columns in (["input_ids", "text"], ["text", "input_ids"]):
        transform = make_transform("demo", Distribution("demo"), exclude_target=True, columns=columns)
        edited = transform(row)
        assert [edited["input_ids"], edited["text"]] == alone
        assert alone[0] != ids
        assert revert(edited) == row
