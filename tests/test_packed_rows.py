"""Rows that were packed before: no document is context of the next, whichever way its place is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from strategies import one_line
from tiny_training import (
    MANY,
    dataset_of,
    edit_offline,
    equal,
    make_sft_trainer,
    make_trainer,
    some_rows,
    train,
)
from trl import pack_dataset

from hf_toedit import RowError, ToEditCallback, ToEditTransform, revert, summarize
from hf_toedit.training.batches import cut

pytestmark = pytest.mark.usefixtures("fast_collection")


def packed(strategy: str = "bfd", length: int = 256) -> dict[str, Any]:
    """What TRL packs of rows with labels."""
    rows = some_rows(mask="labels")
    columns: dict[str, Any] = pack_dataset(dataset_of(rows), length, strategy).with_format(None).to_dict()
    assert max(map(len, columns["seq_lengths"])) > 1
    return columns


def apart(rows: dict[str, Any]) -> dict[str, list[Any]]:
    """The documents as rows of their own."""
    documents: dict[str, list[Any]] = {"input_ids": [], "labels": []}
    for name in documents:
        for values, lengths in zip(rows[name], rows["seq_lengths"], strict=True):
            documents[name] += [part.tolist() for part in np.split(values, np.cumsum(lengths)[:-1])]
    return documents


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split"])
def test_a_packed_row_is_edited_as_its_documents_are(strategy, demo):
    rows = packed(strategy, 64 if strategy == "bfd_split" else 256)
    edited, alone = edit_offline(demo, rows), edit_offline(demo, apart(rows))
    assert apart(edited) == alone
    assert edited["seq_lengths"] == rows["seq_lengths"]
    assert edited != edit_offline(demo, {name: rows[name] for name in ("input_ids", "labels")})


def test_its_statistics_are_those_of_its_documents_and_it_can_be_reverted(demo):
    rows = packed()
    transform = ToEditTransform(demo, columns="input_ids", **MANY)
    edited, alone = transform(rows), transform(apart(rows))
    for name in ("num_tokens", "num_visited", "num_visited_eligible", "num_changed"):
        assert sum(row[name] for row in edited["toedit"]) == sum(row[name] for row in alone["toedit"]) > 0
    for i, ids in enumerate(rows["input_ids"]):
        assert revert({name: values[i] for name, values in edited.items()})["input_ids"] == ids


def test_a_document_that_each_packed_row_holds_is_one_draw_in_the_interval(demo):
    """The same documents, packed or apart: equally many of them are drawn independently."""
    rows = packed()
    common, lengths = rows["input_ids"][0][:40], rows["seq_lengths"]
    rows = {
        "input_ids": [[*ids, *common] for ids in rows["input_ids"]],
        "labels": [[*labels, *common] for labels in rows["labels"]],
        "seq_lengths": [[*row, len(common)] for row in lengths],
    }
    transform = ToEditTransform(demo, columns="input_ids", threshold=0.5)
    together, alone = summarize(transform(rows)["toedit"]), summarize(transform(apart(rows))["toedit"])
    assert together.eligible_rate == alone.eligible_rate
    assert together.num_independent == pytest.approx(alone.num_independent)


def test_padding_behind_the_documents_is_left_alone(demo):
    rows = packed()
    plain = ToEditTransform(demo, columns="input_ids", **MANY)(rows)
    wide = {
        **{name: [[*row, 0, 0, 0] for row in rows[name]] for name in ("input_ids", "labels")},
        "attention_mask": [[1] * len(row) + [0] * 3 for row in rows["input_ids"]],
        "seq_lengths": rows["seq_lengths"],
    }
    edited = ToEditTransform(demo, columns="input_ids", **MANY)(wide)
    assert [row[:-3] for row in edited["input_ids"]] == plain["input_ids"]


def test_lengths_that_do_not_add_up_are_a_status(demo):
    padding = {"input_ids": [[300, 301]], "attention_mask": [[0, 0]], "seq_lengths": [[]]}
    assert ToEditTransform(demo, columns="input_ids")(padding)["input_ids"] == padding["input_ids"]
    rows = packed()
    for broken in ([1, 2], [], None):
        given = {**rows, "seq_lengths": [broken, *rows["seq_lengths"][1:]]}
        result = ToEditTransform(demo, columns="input_ids", **MANY)(given)
        statuses = [row["status"] for row in result["toedit"]]
        assert statuses[0] == ("edited" if broken is None else "skipped:seq_lengths_length")
        assert set(statuses[1:]) == {"edited"}


# in training


def test_training_on_rows_packed_before_equals_training_on_them_edited(demo, tmp_path):
    rows = packed()

    def run(given: Any, callbacks: Any = ()) -> Any:
        options = {"padding_free": True, "per_device_train_batch_size": 1, "max_steps": 2}
        trainer = make_sft_trainer(tmp_path, given, callbacks, **options)
        return train(trainer)

    assert equal(run(rows, [ToEditCallback(demo, **MANY)]), run(edit_offline(demo, rows)))


def test_batches_that_lost_the_lengths_are_refused(demo, tmp_path):
    """Without padding_free TRL's collator drops them; a collator of one's own may do so, too."""
    rows = packed()
    lost = lambda features: {  # noqa: E731
        "input_ids": torch.tensor([features[0]["input_ids"]]),
        "labels": torch.tensor([features[0]["labels"]]),
    }
    options = {"per_device_train_batch_size": 1, "max_steps": 1}
    for trainer in (
        make_sft_trainer(tmp_path, rows, [ToEditCallback(demo, **MANY)], **options),
        make_trainer(tmp_path, rows, [ToEditCallback(demo, **MANY)], collator=lost, **options),
    ):
        with pytest.raises(RowError, match="set padding_free=True in SFTConfig") as error:
            trainer.train()
        one_line(error)


def test_a_batch_may_bring_the_lengths_themselves():
    ids, mask = torch.arange(12).reshape(2, 6), torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
    lengths = [[2, 3], [4, 1]]

    def found(**batch: Any) -> list[tuple[int, list[int]]]:
        return [(b, row.input_ids_T[row.attention_T].tolist()) for b, _, row in cut(batch)]

    expected = [(0, [1, 2]), (0, [3, 4, 5]), (1, [6, 7, 8, 9])]
    for given in (lengths, torch.tensor(lengths), torch.tensor([[2, 3, 0], [4, 1, 0]])):
        assert found(input_ids=ids, attention_mask=mask, seq_lengths=given) == expected
    flat = torch.arange(9)[None]
    assert found(input_ids=flat, seq_lengths=[[2, 3], [4]]) == [(0, [0, 1]), (0, [2, 3, 4]), (0, [5, 6, 7, 8])]
    with pytest.raises(RowError, match="seq_lengths of a training batch are those of 1 rows: it has 2") as error:
        found(input_ids=ids, seq_lengths=[[6]])
    one_line(error)
