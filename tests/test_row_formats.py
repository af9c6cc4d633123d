"""What rows are, by the names of their columns: what the prior reads of them, and what may change."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
from conftest import shared_path
from datasets import Dataset
from strategies import PROSE, Distribution, make_transform, one_line, tokenizer_of
from typer.testing import CliRunner

from hf_toedit import RowError, ToEditTransform, ToEditWarning, oasst_threads, revert, summarize
from hf_toedit.cli.command import app
from hf_toedit.rows.formats import SHAPES

LONG = PROSE * 2


class Recorder(Distribution):
    """A distribution that remembers the texts it was asked about."""

    def __init__(self) -> None:
        super().__init__("demo")
        self.asked: set[str] = set()

    def __call__(self, input_ids: Any, t: int) -> dict[int, float]:
        self.asked.add(tokenizer_of("demo").decode(list(input_ids)))
        return super().__call__(input_ids, t)


def edit(row: dict[str, Any], **options: Any) -> tuple[dict[str, Any], set[str]]:
    """The edited row, which comes back whole, and the texts that the prior was given."""
    recorder = Recorder()
    options = {"exclude_target": True, "chat_template": "", **options}
    edited = make_transform("demo", recorder, **options)(row)
    assert revert(edited) == row
    assert edited["toedit"]["status"] == "edited"
    return edited, recorder.asked


def same(one: set[str], whole: str) -> bool:
    """Whether one text was read, and it is the beginning of `whole` (a text is read up to its last position)."""
    [text] = one
    return whole.startswith(text) and len(text) > 0.8 * len(whole)


PAIRS = {
    ("instruction", "context", "response"): "response",
    ("instruction", "input", "response"): "response",
    ("instruction", "context", "output"): "output",
    ("system", "instruction", "input", "output"): "output",
    ("system_prompt", "question", "response"): "response",
    ("question", "context", "answer"): "answer",
    ("question", "response"): "response",
    ("question", "solution"): "solution",
    ("query", "response"): "response",
    ("prompt", "response"): "response",
    ("system", "prompt", "response"): "response",
    ("inputs", "targets"): "targets",
    ("input", "output"): "output",
    ("instruction", "output"): "output",
    ("instruction", "response"): "response",
    ("question", "answer"): "answer",
    ("problem", "solution"): "solution",
}


@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_the_answer_is_edited_and_all_in_front_of_it_is_read(names):
    """Whatever the order of the columns, and whatever else is there."""
    row = {"source": "somewhere", **{name: f"The {name}." for name in reversed(names)}, PAIRS[names]: LONG, "id": 1}
    edited, asked = edit(row)
    assert {name for name in row if edited[name] != row[name]} == {PAIRS[names]}
    assert same(asked, "\n".join([*(f"The {name}." for name in names[:-1]), LONG]))
    given, _ = edit(row, columns=PAIRS[names], context=names[:-1])
    assert given == edited


@pytest.mark.parametrize("empty", ["", None])
@pytest.mark.parametrize("names", [names for names in PAIRS if len(names) > 2], ids="+".join)
def test_context_that_is_empty_is_left_out(names, empty):
    """So such rows are edited as before they had the column."""
    optional = next(name for name in names if name in ("system", "system_prompt", "context", "input"))
    row = {name: f"The {name}." for name in names[:-1]} | {PAIRS[names]: LONG}
    without = {name: value for name, value in row.items() if name != optional}
    edited, _ = edit({**row, optional: empty})
    assert edited == {**edit(without)[0], optional: empty}
    ds = Dataset.from_list([{**row, optional: empty}, {**row, optional: LONG}])
    both = ds.map(make_transform("demo", Distribution("demo"), exclude_target=True), batched=True)
    assert both[0] == edited
    assert both[0][PAIRS[names]] != both[1][PAIRS[names]]
    assert both.map(revert).to_list() == ds.to_list()


def test_the_context_of_dolly_is_read():
    """With it, the prior counts its tokens."""
    rows = [
        {
            "instruction": f"What is said of {i}?",
            "context": context,
            "response": f"It is {i}. {PROSE}",
            "category": "qa",
        }
        for i, context in enumerate([LONG, "", LONG * 2])
    ]
    ds = Dataset.from_list(rows)
    transform = ToEditTransform("demo", stats="full")
    whole, bare = (
        summarize(one.map(transform, batched=True)["toedit"]).tokens.num_tokens
        for one in (ds, ds.remove_columns("context"))
    )
    size = len(tokenizer_of("demo").encode(LONG).ids)
    assert abs(whole - bare - 3 * size) < 10


def test_shapes_of_before_win_over_new_ones():
    row = {"question": "Why?", "answer": LONG, "response": LONG, "solution": LONG, "text": LONG}
    with pytest.warns(ToEditWarning, match="'answer' is edited, but not 'text'"):
        edited, _ = edit(row)
    assert {name for name in row if edited[name] != row[name]} == {"answer"}
    edited, _ = edit({"input": "Why?", "cot": LONG, "target": LONG, "output": LONG})
    assert edited["output"] == LONG != edited["target"]


def test_every_shape_is_in_the_docstring():
    doc = " ".join((ToEditTransform.__doc__ or "").split())
    for shape in SHAPES:
        required = [f"`{name}`" for name in shape.names if name not in shape.optional]
        assert " + ".join(required) in doc
        assert all(f"`{name}`" in doc for name in shape.optional)


# preferences

PREFERENCE = {"prompt": "Say it. ", "chosen": LONG, "rejected": f"No. {LONG}"}
SHARED = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": LONG},
    {"role": "user", "content": "So?"},
]


def reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def refusal(row: dict[str, Any], through_map: bool = False) -> str:
    transform = make_transform("demo", Distribution("demo"), exclude_target=True)
    with pytest.raises(RowError) as error:
        Dataset.from_list([row]).map(transform, batched=True) if through_map else transform(row)
    assert "fox" not in str(error.value)
    return one_line(error)


@pytest.mark.parametrize(
    ("row", "context"),
    [
        (PREFERENCE, ["prompt"]),
        (
            {"system": "Be brief.", "question": "Why?", "chosen": LONG, "rejected": f"No. {LONG}"},
            ["system", "question"],
        ),
        ({"prompt": SHARED, "chosen": reply(LONG), "rejected": reply(f"No. {LONG}")}, ["prompt"]),
    ],
)
def test_preferences_are_one_line_with_a_call_that_reads_each_answer_behind_the_prompt(row, context):
    assert f"set columns=['chosen', 'rejected'], context={context}" in refusal(row, through_map=True)
    both, asked = edit(row, columns=["chosen", "rejected"], context=context)
    assert {name for name in row if both[name] != row[name]} == {"chosen", "rejected"}
    assert len(asked) == 2
    alone = {}
    for name in ("chosen", "rejected"):
        edited, read = edit({key: row[key] for key in (*context, name)}, columns=name, context=context)
        assert read <= asked
        alone[name] = edited[name]
    assert alone == {name: both[name] for name in alone}


def test_fit_counts_the_tokens_of_both_answers():
    ds = Dataset.from_list([PREFERENCE])
    options = {"strategy": "random", "context": "prompt"}
    both, chosen, rejected = (
        make_counts(ds, columns=columns, **options) for columns in (["chosen", "rejected"], "chosen", "rejected")
    )
    assert (both == chosen + rejected).all()
    assert both.sum() > 50


def make_counts(ds: Dataset, **options: Any) -> Any:
    return ToEditTransform("demo", **options).fit(ds).unigram_counts_V


def test_the_answers_are_read_right_behind_their_prompt_as_in_trl():
    _, asked = edit(PREFERENCE, columns=["chosen", "rejected"], context="prompt")
    for text in asked:
        answer = PREFERENCE["rejected" if "No." in text else "chosen"]
        assert same({text}, PREFERENCE["prompt"] + answer)


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": f"Human: Why? Assistant: {LONG}", "rejected": f"Human: Why? Assistant: No. {LONG}"},
        {"chosen": SHARED + reply(LONG), "rejected": SHARED + reply(f"No. {LONG}")},
    ],
)
def test_preferences_without_a_prompt_are_split_first(row):
    trl = pytest.importorskip("trl")
    line = refusal(row)
    assert "ds.map(trl.extract_prompt)" in line
    assert "columns=['chosen', 'rejected'], context=['prompt']" in line
    split = Dataset.from_list([row]).map(trl.extract_prompt)
    transform = make_transform(
        "demo",
        Distribution("demo"),
        exclude_target=True,
        columns=["chosen", "rejected"],
        context=["prompt"],
        chat_template="",
    )
    edited = split.map(transform, batched=True)
    assert edited[0]["prompt"] == split[0]["prompt"]
    assert all(edited[0][name] != split[0][name] for name in ("chosen", "rejected"))
    assert edited.map(revert).to_list() == split.to_list()


# trees

LEAF = {"text": LONG, "role": "assistant", "replies": []}
TREE = {"message_id": "a", "parent_id": None, "text": "Why?", "role": "prompter", "replies": [LEAF]}


@pytest.mark.parametrize("row", [TREE, {"message_tree_id": "a", "tree_state": "ready", "prompt": TREE}])
def test_trees_are_one_line_with_the_call_that_makes_conversations_of_them(row):
    line = refusal(row)
    assert "Dataset.from_list([{'messages': thread} for tree in ds for thread in oasst_threads(tree)])" in line
    ds = Dataset.from_list([{"messages": thread} for tree in [row] for thread in oasst_threads(tree)])
    edited = ds.map(make_transform("demo", Distribution("demo"), exclude_target=True, chat_template=""))
    assert edited[0]["messages"][0] == {"role": "user", "content": "Why?"}
    assert edited[0]["messages"][1]["content"] != LONG


def test_real_trees_are_not_edited_at_their_root_alone():
    with shared_path("data/oasst_en_100_message.jsonl").open(encoding="utf-8") as lines:
        assert "oasst_threads(tree)" in refusal(json.loads(next(lines)))


def test_a_table_of_messages_is_one_line_and_edited_where_it_is_asked_for():
    row = {"message_id": "b", "parent_id": "a", "text": LONG, "role": "assistant"}
    line = refusal(row, through_map=True)
    assert "oasst_threads(tree)" in line
    assert "columns='text'" in line
    assert edit(row, columns="text")[0]["text"] != LONG


# text beside input_ids

IDS = tokenizer_of("demo").encode(LONG).ids


@pytest.mark.parametrize(
    ("row", "options", "names"),
    [
        ({"text": LONG, "input_ids": IDS}, {}, "['text']"),
        ({"text": LONG, "input_ids": IDS}, {"columns": "text"}, "['input_ids']"),
        ({"text": LONG, "input_ids": IDS}, {"columns": ["text", "input_ids"]}, "['text']"),
        ({"question": "Why?", "answer": LONG, "input_ids": IDS, "labels": IDS}, {}, "['answer']"),
        ({"messages": reply(LONG), "input_ids": IDS}, {}, "['messages']"),
    ],
)
def test_a_text_beside_its_ids_is_warned_of_once(row, options, names):
    transform = make_transform("demo", Distribution("demo"), exclude_target=True, chat_template="", **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds = Dataset.from_list([row] * 4).map(transform, batched=True, batch_size=1)
        transform(row)
    assert ds[0]["toedit"]["status"] == "edited"
    [warning] = caught
    assert f"ds.remove_columns({names})" in str(warning.message)
    assert "fox" not in str(warning.message)


ALPACA = {"instruction": "Say it.", "input": "", "output": LONG, "text": f"Say it. {LONG}"}
ANSWERS = {"chosen": reply(LONG), "rejected": reply("No.")}


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (ALPACA, "'output' is edited, but not 'text': if that is what training reads, set columns=['text']"),
        ({"input": "Why?", "cot": LONG, "target": LONG, "text": LONG}, "'cot' and 'target' are edited, but not 'text'"),
        (
            {"messages": reply(LONG), **ANSWERS},
            "'messages' is edited, but not 'chosen' and 'rejected': if that is what training reads, set "
            "columns=['chosen', 'rejected']",
        ),
    ],
)
def test_a_column_that_training_reads_instead_is_warned_of_once(row, line):
    """TRL's SFT reads the `text` of Alpaca, its DPO the pair of answers of UltraFeedback."""
    transform = make_transform("demo", Distribution("demo"), exclude_target=True, chat_template="")
    with pytest.warns(ToEditWarning) as caught:
        edited = [transform(row) for _ in range(3)]
    assert edited[0]["toedit"]["status"] == "edited"
    [warning] = caught
    assert line in str(warning.message)
    assert "fox" not in str(warning.message)


@pytest.mark.filterwarnings("default::hf_toedit.ToEditWarning")
@pytest.mark.parametrize(
    ("row", "fix"),
    [
        (ALPACA, "set --columns text, else remove it"),
        ({"text": LONG, "input_ids": IDS}, "such as with ds.remove_columns(['text'])"),
    ],
)
def test_the_command_line_warns_too(row, fix, folder):
    Dataset.from_list([row]).to_json("rows.jsonl")
    result = CliRunner().invoke(app, ["edit", "rows.jsonl", "--prior", "demo", "--out", "edited"])
    assert result.exit_code == 0
    [line] = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert line.endswith(fix)


@pytest.mark.parametrize(
    ("row", "options"),
    [
        (ALPACA, {"columns": "output"}),
        ({"messages": reply(LONG), "text": LONG}, {"chat_template": ""}),
        ({"prompt": "Why?", "completion": LONG, "text": LONG}, {}),
        ({"text": LONG, "input_ids": IDS}, {"strategy": "none"}),
        ({"note": LONG, "input_ids": IDS}, {}),
        ({"note": LONG, "text": LONG, "input_ids": IDS}, {"columns": "note"}),
        ({"text": LONG}, {}),
    ],
)
def test_what_does_not_go_stale_is_not_warned_of(row, options):
    make_transform("demo", Distribution("demo"), **options)(row)
