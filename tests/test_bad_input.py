"""Bad input: a bad row is skipped, says why and stays as it was; a bad setting is one line with the fix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import TOKENIZERS, breadth
from datasets import Dataset
from strategies import PROSE, Distribution, make_editor, make_transform, one_line, tokenizer_of
from test_text import check_nothing_lost

from hf_toedit import (
    ConfigError,
    PriorError,
    RowError,
    ToEditConfig,
    ToEditTransform,
    revert,
)
from hf_toedit.editing.cells import Text

pytestmark = pytest.mark.filterwarnings("ignore::hf_toedit.ToEditWarning")  # of rows that are skipped on purpose
NAN = math.nan


def certain(input_ids, t):
    return {int(input_ids[t]): 0.995, 300: 0.003, 301: 0.002}


@pytest.fixture(scope="module")
def transform():
    return make_transform("demo", certain, exclude_target=True)


# columns


@pytest.mark.parametrize("through_map", [True, False])
@pytest.mark.parametrize(
    ("columns", "row", "says"),
    [
        ("txt", {"text": "a", "label": 1}, ["'txt'", "did you mean 'text'", "'label'", "columns="]),
        (["text", "body"], {"text": "a", "label": 1}, ["'body'", "'text', 'label'", "columns="]),
        (None, {"prompt": "a", "label": 1}, ["no text column", "'prompt', 'label'", "columns="]),
    ],
)
def test_a_missing_column_is_named_with_the_nearest_and_all_there_are(columns, row, says, through_map):
    transform = ToEditTransform("demo", columns=columns)
    with pytest.raises(RowError) as error:
        Dataset.from_list([row]).map(transform) if through_map else transform(row)
    assert all(words in one_line(error) for words in says)


# texts

BAD_TEXTS = [
    (None, "null"),
    ("", "empty"),
    (3, "not_text"),
    (2.5, "not_text"),
    (NAN, "not_text"),
    (True, "not_text"),
    (b"bytes", "not_text"),
    ({"role": "user"}, "not_text"),
    (np.int64(3), "not_text"),
    ("lone \ud800 surrogate", "lone_surrogates"),
    ("\udcff", "lone_surrogates"),
]


@pytest.mark.parametrize(("value", "reason"), BAD_TEXTS, ids=lambda value: repr(value))
def test_a_value_that_is_no_text_stays_and_says_why(transform, value, reason):
    row = {"id": 7, "text": value}
    alone = transform(row)
    assert alone["toedit"]["status"] == f"skipped:{reason}"
    assert alone["toedit"]["edits"] == []
    assert alone["id"] == 7
    assert alone["text"] is value
    assert revert(alone) == row
    batch = transform({"id": [1, 2, 3], "text": [PROSE, value, PROSE]})
    assert batch["text"][1] is value
    assert [struct["status"] for struct in batch["toedit"]] == ["edited", f"skipped:{reason}", "edited"]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([None, "", None], None),
        ([1, 2, None], "not_text"),
        ([["a list"], [], None], "not_text"),
        ([{"role": "user"}, {"role": "user"}, None], "not_text"),
        ([b"bytes", b"", None], "not_text"),
        ([1.5, 2.5, None], "not_text"),
        ([None, None, None], "null"),
    ],
)
def test_bad_columns_pass_through_map(transform, values, reason, batched):
    ds = Dataset.from_dict({"text": values, "id": [1, 2, 3]})
    rows = ds.map(transform, batched=batched).to_list()
    assert [revert(row) for row in rows] == ds.to_list()
    statuses = [row["toedit"]["status"] for row in rows]
    assert all(status.startswith("skipped:") for status in statuses)
    assert statuses[2] == "skipped:null"
    assert reason is None or statuses[0] == f"skipped:{reason}"


def test_an_empty_batch_and_an_empty_dataset_stay_empty(transform):
    assert transform({"text": []}) == {"text": [], "toedit": []}
    assert len(Dataset.from_dict({"text": []}).map(transform, batched=True)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "demo"])
def test_a_row_of_ten_million_characters_loses_nothing(name):
    text = (PROSE * 100_000)[:10_000_000]
    result = make_editor(name, certain, temperature=0.7).edit([Text(text)])[0]
    assert len(result.edits) > 200
    check_nothing_lost(name, text, result)


# token ids

BAD_IDS = [
    (None, "null"),
    ([], "empty"),
    ("some text", "not_token_ids"),
    ("", "not_token_ids"),
    (5, "not_token_ids"),
    (["1", "2"], "not_token_ids"),
    ([1.0, 2.0], "not_token_ids"),
    ([1, None, 2], "not_token_ids"),
    ([True, False], "not_token_ids"),
    ([2**70, 1], "not_token_ids"),
    ([5, 512], "unknown_token_id"),
    ([5, -1], "unknown_token_id"),
    ([5, 2**40], "unknown_token_id"),
]


@pytest.mark.parametrize(("value", "reason"), BAD_IDS, ids=lambda value: repr(value))
def test_a_value_that_is_no_list_of_known_ids_stays_and_says_why(transform, value, reason):
    row = {"input_ids": value, "id": 7}
    alone = transform(row)
    assert alone["toedit"]["status"] == f"skipped:{reason}"
    assert alone["input_ids"] is value
    assert revert(alone) == row
    good = tokenizer_of("demo").encode(PROSE).ids
    batch = transform({"input_ids": [good, value, good], "labels": [good, value, good]})
    assert batch["input_ids"][1] is batch["labels"][1] is value
    assert [struct["status"] for struct in batch["toedit"]] == ["edited", f"skipped:{reason}", "edited"]


def test_ragged_ids_in_a_batch(transform):
    good = tokenizer_of("demo").encode(PROSE).ids
    ragged = [[good, good[:3]], [good], []]
    batch = transform({"input_ids": [good, *ragged]})
    assert batch["input_ids"][1:] == ragged
    statuses = [struct["status"] for struct in batch["toedit"]]
    assert statuses == ["edited", "skipped:not_token_ids", "skipped:not_token_ids", "skipped:empty"]


@pytest.mark.parametrize("batched", [True, False])
def test_bad_ids_pass_through_map(transform, batched):
    good = tokenizer_of("demo").encode(PROSE).ids
    for values, reason in [([["a", "b"], ["c"]], "not_token_ids"), ([[1.5], [2.5]], "not_token_ids")]:
        ds = Dataset.from_dict({"input_ids": values})
        rows = ds.map(transform, batched=batched).to_list()
        assert [revert(row) for row in rows] == ds.to_list()
        assert {row["toedit"]["status"] for row in rows} == {f"skipped:{reason}"}
    ds = Dataset.from_dict({"input_ids": [good, None, [], [9999], [1, None]], "labels": [good, None, [], [9999], None]})
    rows = ds.map(transform, batched=batched).to_list()
    assert [revert(row) for row in rows] == ds.to_list()
    reasons = ["edited", *(f"skipped:{why}" for why in ("null", "empty", "unknown_token_id", "not_token_ids"))]
    assert [row["toedit"]["status"] for row in rows] == reasons


@pytest.mark.parametrize("column", ["attention_mask", "labels", "completion_mask", "assistant_masks"])
@pytest.mark.parametrize("mask", [[1, 1], [], "11", 1, [0.5] * 100, [None, 1]])
def test_a_mask_of_another_length_or_type_skips_the_row(transform, column, mask):
    good = tokenizer_of("demo").encode(PROSE).ids
    row = {"input_ids": good, column: mask}
    edited = transform(row)
    assert edited["toedit"]["status"] == f"skipped:{column}_length"
    assert revert(edited) == row


@pytest.mark.parametrize(
    ("name", "other", "least"),
    [
        ("made-qwen", "made-llama", 1.0),
        ("made-llama", "made-qwen", 1.0),
        breadth("qwen2", "gpt2", 1.0),
        breadth("qwen2", "dolma2", 0.8),
        breadth("stories260K", "demo", 1.0),
    ],
)
def test_ids_of_another_tokenizer_are_refused(name, other, least, human_texts):
    """Even where both tokenizers know all the ids. A row of a few words can pass: it can be read either way."""
    transform = make_transform(name, Distribution(name), exclude_target=True)
    texts = [" ".join(human_texts[i : i + 5]) for i in range(0, 150, 5)]
    own, foreign = ([tokenizer_of(tokenizer).encode(text).ids for text in texts] for tokenizer in (name, other))
    assert {struct["status"] for struct in transform({"input_ids": own})["toedit"]} == {"edited"}
    edited = transform({"input_ids": foreign})
    refused = [i for i, struct in enumerate(edited["toedit"]) if struct["status"].startswith("skipped:")]
    assert all(edited["input_ids"][i] == foreign[i] for i in refused)
    assert {edited["toedit"][i]["status"] for i in refused} == {"skipped:tokenizer_mismatch"}
    assert len(refused) >= least * len(foreign)


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name != "demo"])
def test_a_tokenizer_that_differs_is_refused_before_any_row(name):
    with pytest.raises(PriorError, match="not the one that made input_ids") as error:
        ToEditTransform("demo", tokenizer=tokenizer_of(name))
    assert "same tokenizer" in one_line(error)
    assert ToEditTransform("demo", tokenizer=tokenizer_of("demo")).prior


# numbers that are none


def test_a_prior_that_gives_nan_skips_these_rows_only():
    def distribution(input_ids, t):
        return {**certain(input_ids, t), int(input_ids[t]): NAN if len(input_ids) > 20 and t == 15 else 0.995}

    transform = make_transform("demo", distribution, exclude_target=True)
    texts = ["A short one.", PROSE, "Another one."]
    edited = transform({"text": texts})
    assert [struct["status"] for struct in edited["toedit"]] == ["edited", "skipped:nonfinite", "edited"]
    assert edited["text"][1] == PROSE
    ids = tokenizer_of("demo").encode(PROSE).ids
    row = transform({"input_ids": ids, "labels": ids})
    assert row["toedit"]["status"] == "skipped:nonfinite"
    assert row["input_ids"] == row["labels"] == ids


@pytest.mark.parametrize(("odd", "status"), [(NAN, "skipped:nonfinite"), (0.0, "edited")])
def test_a_candidate_without_a_number_skips_the_row_and_one_of_zero_does_not(odd, status):
    transform = make_transform("demo", lambda ids, t: {int(ids[t]): 0.995, 300: odd}, exclude_target=True)
    row = transform({"text": PROSE})
    assert row["toedit"]["status"] == status
    assert revert(row) == {"text": PROSE}


def test_a_target_of_probability_zero_is_only_unlikely():
    transform = make_transform("demo", lambda ids, t: {int(ids[t]): 0.0, 300: 1.0})
    assert transform({"text": PROSE})["toedit"]["status"] == "unchanged"


# settings


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"threshold": 1.5}, r"threshold=1.5 must be a number in (0, 1]"),
        ({"treshold": 0.9}, "unknown keyword 'treshold'; did you mean 'threshold'?"),
        ({"exclude": True}, "unknown keyword 'exclude'; did you mean 'exclude_target'?"),
        ({"stats": "ful"}, "did you mean 'full'?"),
        ({"protect": ["codes"]}, "did you mean 'code'?"),
        ({"protect": "code"}, "must be a list of rules"),
        ({"protect": ["(unclosed"]}, "not a valid regular expression"),
    ],
)
def test_a_setting_that_is_wrong_is_one_line_with_the_right_one(fields, says):
    with pytest.raises(ConfigError) as error:
        ToEditTransform("demo", **fields)
    assert says in one_line(error)
    if "stats" not in fields:
        with pytest.raises(ValueError, match=r"."):
            ToEditConfig.from_dict(fields)


@pytest.mark.parametrize("strategy", ["drop", "resample_and_drop"])
def test_dropping_from_token_rows_is_refused(strategy):
    ids = tokenizer_of("demo").encode(PROSE).ids
    with pytest.raises(ConfigError, match="use it on text columns") as error:
        make_transform("demo", certain, strategy=strategy)({"input_ids": ids})
    one_line(error)
