"""A dataset of which every row is skipped says so, once, with the reason and what to do."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
import warnings

import pytest
from conftest import ROOT, load_tokenizer
from datasets import Dataset
from typer.testing import CliRunner

from hf_toedit import RowError, StaticPrior, ToEditTransform, revert
from hf_toedit.cli.command import app
from hf_toedit.experiments.recipe import EditSettings, PriorChoice
from hf_toedit.experiments.stages import edit
from hf_toedit.statuses import Status, explain

WORDS = "the cat sat on the mat and the dog lay by the door until the rain came"


def transform_of(**options):
    prior = StaticPrior(load_tokenizer("demo"), lambda ids, t: {int(ids[t]): 0.999, 300: 0.001}, max_length=512)
    return ToEditTransform(prior, exclude_target=True, **options)


def chat(role, num_rows=4):
    return {"messages": [[{"role": "user", "content": "hi"}, {"role": role, "content": WORDS}]] * num_rows}


def said(call):
    """What the one warning of a call says."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert [one.category.__name__ for one in caught] == ["ToEditWarning"]
    message = str(caught[0].message)
    assert "\n" not in message
    assert "cat" not in message
    return message


BAD = {
    "roles misspelt": ({"roles": "asistant"}, chat("assistant"), "no_text", r"roles=.*'assistant'.*did you mean"),
    "unknown roles": ({}, chat("bot"), "no_text", r"set roles= .*\('bot', 'user'\)"),
    "a template": ({"chat_template": "{{ raise_exception('no') }}"}, chat("assistant"), "template", "chat template"),
    "not text": ({"columns": "n"}, {"n": [1, 2, 3]}, "not_text", "set columns="),
    "null": ({"columns": "text"}, {"text": [None, None]}, "null", "set columns="),
    "ids of another tokenizer": ({}, {"input_ids": [[999_999, 5], [999_999]]}, "unknown_token_id", "tokenizer"),
    "masks": ({}, {"input_ids": [[5, 6, 7]] * 2, "labels": [[5]] * 2}, "labels_length", "equally long"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_reason_and_the_remedy_are_said(name):
    options, batch, reason, remedy = BAD[name]
    message = said(lambda: transform_of(**options)(batch))
    num_rows = len(next(iter(batch.values())))
    assert f"every row so far was skipped: skipped:{reason} ({num_rows} rows): " in message
    assert re.search(remedy, message)


def test_it_is_said_once_whatever_the_walk():
    for walk in (
        lambda ds, transform: ds.map(transform, batched=True, batch_size=3),
        lambda ds, transform: ds.map(transform),
        lambda ds, transform: list(ds.to_iterable_dataset().map(transform, batched=True, batch_size=3)),
        lambda ds, transform: list(ds.to_iterable_dataset().map(transform)),
        lambda ds, transform: ds.with_transform(transform)[:],
        lambda ds, transform: [transform(row) for row in ds],
    ):
        transform = transform_of()
        said(lambda walk=walk, transform=transform: walk(Dataset.from_dict(chat("bot", 15)), transform))
        transform(chat("bot", 15))  # a second warning would be an error here


@pytest.mark.slow
def test_worker_processes_say_it():
    code = f"""if True:
        from datasets import Dataset
        from hf_toedit import ToEditTransform
        Dataset.from_dict({chat("bot", 8)!r}).map(ToEditTransform("demo"), batched=True, batch_size=2, num_proc=2)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if "ToEditWarning: every row so far was skipped" in line]
    assert len(told) == 2  # each process once, not each batch


def test_nothing_is_said_where_a_row_can_be_edited():
    good, bad = chat("assistant", 1)["messages"], chat("bot", 20)["messages"]
    transform = transform_of()
    transform({"messages": bad[:5] + good})
    transform({"messages": bad})  # known to fit by then
    transform = transform_of()
    for messages in [*bad[:9], *good, *bad]:  # fewer than ten at the beginning
        transform({"messages": messages})
    quiet = transform_of(columns="text")
    assert quiet({"text": []})["toedit"] == []
    assert "every row" in said(lambda: quiet({"text": [None, ""]}))


def test_the_state_is_no_part_of_the_pickle():
    transform = transform_of(columns="n")
    transform.prior = None
    before = pickle.dumps(transform)
    transform.prior = transform_of().prior
    said(lambda: transform({"n": [1, 2]}))
    transform.prior = None
    assert pickle.dumps(transform) == before


def test_gemmas_model_is_the_assistant():
    row = {name: values[0] for name, values in chat("model").items()}
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    for options in ({}, {"roles": "model"}, {"chat_template": template}):
        edited = transform_of(**options)(row)
        assert edited["toedit"]["status"] == "edited"
        assert edited["messages"][1]["role"] == "model"
        assert revert(edited) == row


def test_odd_roles_are_cut_and_quoted():
    message = said(lambda: transform_of()(chat("\x1b[31m" + "x" * 500)))
    assert "\x1b" not in message
    assert "x" * 30 not in message


def test_every_reason_has_a_remedy():
    skipped = [status for status in Status if status.is_skipped]
    others = {status.value for status in Status} - {status.value for status in skipped}
    assert others == {"edited", "unchanged", "no_labels"}
    for status in [*skipped, Status.NO_LABELS]:
        line = explain({status: 1}, "--{}")
        assert line.startswith(f"{status} (1 row): ")
        assert "{" not in line
        assert "=" not in line or "--" in line or "errors=" in line


def test_statuses_are_written_in_one_place():
    for path in (ROOT / "hf_toedit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and path.stem != "statuses":
                assert not re.match(r"skipped:\w", node.value), path


def test_the_command_line_says_it_in_its_own_words(folder):
    Dataset.from_dict(chat("bot")).to_json("rows.jsonl")
    arguments = ["edit", "rows.jsonl", "--prior", "demo", "--out", "out"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "warning: every row was skipped: skipped:no_text (4 rows): " in result.stderr
    assert "set --roles" in result.stderr
    assert "roles=" not in result.stderr


def test_recipes_say_it_in_theirs(folder):
    from hf_toedit import ToEditConfig

    Dataset.from_dict(chat("bot")).save_to_disk("rows/data")
    (folder / "out").mkdir()
    with pytest.raises(RowError, match=r"no row can be edited: skipped:no_text \(4 rows\): .* set edit\.roles"):
        edit(folder / "rows", PriorChoice("demo"), ToEditConfig(), EditSettings(), {}, None, folder / "out")
