"""Conversations and pairs: the context is read and stays, the answers are edited in place, and all of it comes back."""

from __future__ import annotations

import copy
import datetime
import json
import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import made
import numpy as np
import pytest
import torch
import trl
from command_line import run
from conftest import breadth, shared_path
from datasets import Dataset, load_dataset
from datasets.fingerprint import Hasher
from hypothesis import given
from hypothesis import strategies as st
from strategies import FRAGMENTS, PROSE, Distribution, make_transform, one_line, tokenizer_of
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from hf_toedit import (
    ConfigError,
    RowError,
    ToEditTransform,
    TransformersPrior,
    oasst_threads,
    revert,
    summarize,
)
from hf_toedit.priors.pretrained import DEMO_FOLDER
from hf_toedit.rows.paths import find_path, get_at, place_name
from hf_toedit.rows.rendering import DATE_CODES
from hf_toedit.types import ScoreRequest

pytestmark = pytest.mark.filterwarnings("ignore::hf_toedit.ToEditWarning")  # of rows that are skipped on purpose
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% elif message.role == 'assistant' %} {{ message.content.strip() + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
PARTS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% elif message.content %}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
)
THINKING = (  # as in Qwen3: what was thought in earlier turns is left out
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n{% endfor %}"
)
TOOLS = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% if thinks is defined and not thinks %}Do not think.\n{% endif %}"
    + CHATML
)
TOKENIZERS = ["made-qwen", "made-llama", "demo", *map(breadth, ["gpt2", "qwen2", "mistral-v3", "stories260K"])]
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL, "parts": PARTS, "none": ""}
CHAT = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "What is the assistant doing?"},
    {"role": "assistant", "content": " It answers questions, one after the other.\n"},
    {"role": "user", "content": "assistant\nReally?"},
    {"role": "assistant", "content": "Yes, all the time."},
]


def special_tokens(name: str) -> dict[str, str]:
    added = [token.content for token in tokenizer_of(name).get_added_tokens_decoder().values()]
    return {"bos_token": "<s>" if "<s>" in added else added[0], "eos_token": "</s>" if "</s>" in added else added[0]}


def turns(*contents: str) -> list[dict[str, str]]:
    """A conversation that begins with the user."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


class Recorder:
    """A distribution that changes everything it may, and remembers what it was asked."""

    def __init__(self, name: str) -> None:
        self.distribution, self.asked = Distribution(name), []

    def __call__(self, input_ids: Any, t: int) -> dict[int, float]:
        self.asked.append((input_ids.tolist(), t))
        return self.distribution(input_ids, t)


def static(name: str, distribution: Any = None, template: str | None = None, **options: Any) -> ToEditTransform:
    """A transform that changes all it may, on a scripted distribution."""
    options = {"exclude_target": True, "chat_template": template, **options}
    transform = make_transform(name, distribution or Distribution(name), **options)
    transform.prior.special_tokens = special_tokens(name)
    return transform


@cache
def special_ids(name: str) -> frozenset[int]:
    return frozenset(tokenizer_of(name).get_added_tokens_decoder())


@cache
def cached_static(name: str, template: str, **options: Any) -> ToEditTransform:
    return static(name, None, TEMPLATES[template], **options)


@cache
def hf_tokenizer(name: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer_of(name), **special_tokens(name))


def hf_ids(name: str, template: str, messages: list[dict[str, Any]]) -> list[int]:
    """What transformers itself makes of a conversation."""
    return hf_tokenizer(name).apply_chat_template(messages, chat_template=template, tokenize=True, return_dict=False)


# what the prior reads


@pytest.mark.parametrize("template", ["chatml", "llama3", "mistral", "parts"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_prior_reads_what_transformers_would_train_on(name, template):
    messages = CHAT[1:] if template == "mistral" else CHAT
    recorder = Recorder(name)
    row = static(name, recorder, TEMPLATES[template])({"messages": messages})
    assert row["toedit"]["status"] == "edited"
    ids = hf_ids(name, TEMPLATES[template], messages)
    for asked, _ in recorder.asked:
        assert asked == ids[: len(asked)]
    assert row["toedit"]["num_visited"] == len(recorder.asked)


def test_keys_without_a_value_are_not_there_for_the_template():
    """As in transformers: Arrow gives every message every key."""
    call = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    messages = [
        {"role": "user", "content": "Do it.", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "It is done.", "tool_calls": None},
        {"role": "assistant", "content": PROSE, "tool_calls": None},
    ]
    template = CHATML.replace(
        "<|im_end|>", "{% if 'tool_calls' in message %}{{ message.tool_calls }}{% endif %}<|im_end|>"
    )
    recorder = Recorder("made-qwen")
    edited = static("made-qwen", recorder, template)({"messages": messages})
    ids = hf_ids("made-qwen", template, messages)
    assert all(asked == ids[: len(asked)] for asked, _ in recorder.asked)
    assert {edit["column"] for edit in edited["toedit"]["edits"]} == {"messages[3].content"}
    assert revert(edited) == {"messages": messages}


def test_without_a_template_contents_are_joined_by_a_blank_line():
    recorder = Recorder("demo")
    static("demo", recorder, None)({"messages": CHAT})
    text = "\n\n".join(message["content"] for message in CHAT)
    ids = tokenizer_of("demo").encode(text).ids
    assert all(asked == ids[: len(asked)] for asked, _ in recorder.asked)
    assert len(recorder.asked[-1][0]) > len(ids) - 3


@pytest.mark.parametrize(
    ("row", "text", "edited", "options"),
    [
        ({"prompt": "What is it?", "completion": " A dog, I say."}, "What is it? A dog, I say.", " A dog, I say.", {}),
        (
            {"instruction": "Name it.", "input": "", "output": "A dog, I say."},
            "Name it.\nA dog, I say.",
            "A dog, I say.",
            {},
        ),
        (
            {"instruction": "Name it.", "input": "Fur.", "output": "A dog."},
            "Name it.\nFur.\nA dog.",
            "A dog.",
            {},
        ),
        ({"instruction": "Name it.", "input": None, "output": "A dog."}, "Name it.\nA dog.", "A dog.", {}),
        ({"instruction": "Name it.", "output": "A dog."}, "Name it.\nA dog.", "A dog.", {}),
        ({"problem": "1 + 1?", "solution": "It is two."}, "1 + 1?\nIt is two.", "It is two.", {}),
        ({"instruction": "Go.", "response": "I went."}, "Go.\nI went.", "I went.", {}),
        ({"question": "Who?", "answer": "I did it.", "text": "x"}, "Who?\nI did it.", "I did it.", {}),
        (
            {"input": "Who?", "target": "Me", "cot": "It was me."},
            "Who?\nIt was me.\nMe",
            "It was me.\nMe",
            {},
        ),
        (
            {"a": "One.", "b": "Two.", "c": "It is three."},
            "Two.\nOne.\nIt is three.",
            "It is three.",
            {"columns": "c", "context": ["b", "a"]},
        ),
    ],
)
def test_a_prompt_is_context(demo, row, text, edited, options):
    """The scores are those of the concatenation; only the tokens of the answer are visited."""
    result = ToEditTransform(demo, stats="full", strategy="none", **options)(row)
    encoding = demo.tokenizer.encode(text, add_special_tokens=False)
    first = len(text) - len(edited)
    gap = text.find("\n", first)  # between cot and target
    positions = [
        t for t, (start, end) in enumerate(encoding.offsets) if start >= first and t > 0 and not start <= gap < end
    ]
    whole = demo.tokenizer.encode(text).ids  # begins with the begin-of-text token
    shift = len(whole) - len(encoding.ids)
    [scores] = demo.score([ScoreRequest(np.array(whole), np.array(positions) + shift)], top_k=8)
    assert result["toedit"]["num_visited"] == len(positions)
    assert result["toedit"]["num_tokens"] == len(encoding.ids)
    assert result["toedit"]["logprob_sum"] == pytest.approx(float(scores.logprob_E.sum()), abs=1e-4)
    alone = ToEditTransform(demo, stats="full", strategy="none", columns=list(row)[-1])(row)
    assert alone["toedit"]["num_tokens"] < result["toedit"]["num_tokens"]


def test_columns_alone_keep_their_meaning(demo, human_texts):
    row = {"prompt": human_texts[0], "completion": human_texts[1]}
    alone = ToEditTransform(demo, threshold=0.3, columns="completion")(row)
    assert alone["completion"] == ToEditTransform(demo, threshold=0.3)({"text": human_texts[1]})["text"]
    assert alone["prompt"] == row["prompt"]


# what changes

contents = st.one_of(
    st.sampled_from(["", " ", "\n\n", "assistant", "user\n", "<|im_end|>", "[/INST]", "<s>", "</s>", "slot0slot0x"]),
    st.lists(
        st.one_of(st.sampled_from(FRAGMENTS), st.sampled_from([*PROSE.split(), " ", "\n", "{{", "}}", "{% "])),
        max_size=8,
    ).map("".join),
    st.text(st.characters(codec="utf-8"), max_size=6),
    st.sampled_from([PROSE, f" {PROSE}", f"{PROSE}\n", f"\n{PROSE} 👩‍👩‍👧"]),
)
parts_of_content = st.lists(
    st.one_of(
        contents.map(lambda text: {"type": "text", "text": text}),
        st.just({"type": "image", "url": "file.png"}),
    ),
    max_size=3,
)


@st.composite
def conversations(draw: Any, shape: str) -> dict[str, Any]:
    """A row with a conversation: user and assistant in turn, with keys that are no business of ours."""
    size = draw(st.integers(1, 5))
    roles = [("user", "assistant")[i % 2] for i in range(size)]
    if shape == "sharegpt":
        names = {"user": "human", "assistant": "gpt"}
        return {
            "conversations": [{"from": names[role], "value": draw(contents), "weight": 0} for role in roles],
            "id": 3,
        }
    kinds = st.one_of(contents, st.none(), parts_of_content) if shape == "parts" else contents
    extra = st.sampled_from([{}, {"name": "x"}, {"tool_calls": None}])
    return {"messages": [{"role": role, "content": draw(kinds), **draw(extra)} for role in roles], "id": 3}


def may_change(path: tuple[Any, ...], row: dict[str, Any], roles: set[str]) -> bool:
    """By the plain reading: text of a message of a chosen role."""
    message = row[path[0]][path[1]]
    role = {"human": "user", "gpt": "assistant"}.get(message.get("from"), message.get("role"))
    return path[2] in ("content", "value") and role in roles


def leaves(value: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """Every scalar of a nested value by its path."""
    if isinstance(value, dict):
        return {p: v for key, inner in value.items() for p, v in leaves(inner, (*path, key)).items()}
    if isinstance(value, list):
        return {p: v for i, inner in enumerate(value) for p, v in leaves(inner, (*path, i)).items()}
    return {path: value}


def check_row(row: dict[str, Any], edited: dict[str, Any], roles: set[str]) -> None:
    """Nothing but the texts of the roles changed, the record says exactly what, and the row comes back."""
    struct = edited["toedit"]
    before, after = leaves(row), leaves({name: edited[name] for name in row})
    assert list(before) == list(after)
    for path, value in before.items():
        if after[path] != value or type(after[path]) is not type(value):
            assert may_change(path, row, roles), path
    changed = {place_name(path) for path in before if before[path] != after[path]}
    assert changed <= {edit["column"] for edit in struct["edits"]}
    for edit in struct["edits"]:
        value = get_at(row, find_path(edit["column"], row))
        assert value[edit["start"] : edit["start"] + len(edit["old"])] == edit["old"]
    assert struct["num_changed"] == len(struct["edits"])
    assert (struct["status"] == "edited") == bool(struct["edits"])
    assert revert(edited) == row


def text_of(row: dict[str, Any], template: str, name: str = "demo") -> str:
    """The rendering by transformers itself."""
    names = {"human": "user", "gpt": "assistant"}
    messages = row.get("messages") or [
        {"role": names[message["from"]], "content": message["value"]} for message in row["conversations"]
    ]
    return hf_tokenizer(name).apply_chat_template(messages, chat_template=template, tokenize=False)


@pytest.mark.parametrize("shape", ["openai", "sharegpt", "parts"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_only_the_chosen_roles_change(name, shape):
    templates = ["parts", "none"] if shape == "parts" else ["chatml", "llama3", "mistral", "none"]

    @given(conversations(shape), st.sampled_from(templates), st.sampled_from([("assistant",), ("user", "assistant")]))
    def check(row, template, roles):
        before = copy.deepcopy(row)
        edited = cached_static(name, template, roles=roles)(row)
        assert row == before, "the caller's row is not touched"
        check_row(row, edited, set(roles))
        assert edited["toedit"]["status"] != "skipped:template"
        if template != "none" and edited["toedit"]["edits"]:
            added = special_ids(name)
            old, new = (
                [i for i in tokenizer_of(name).encode(text_of(one, TEMPLATES[template], name)).ids if i in added]
                for one in (row, edited)
            )
            assert new == old, "no special token is lost or made"

    check()


@pytest.mark.parametrize("roles", ["assistant", ("user",), ("gpt", "human"), ["system"]])
def test_roles_are_chosen(roles):
    wanted = {"gpt": "assistant", "human": "user"}
    wanted = {wanted.get(role, role) for role in ([roles] if isinstance(roles, str) else roles)}
    edited = static("demo", None, CHATML, roles=roles)({"messages": CHAT})
    check_row({"messages": CHAT}, edited, wanted)
    assert {CHAT[find_path(edit["column"], edited)[1]]["role"] for edit in edited["toedit"]["edits"]} == wanted


@pytest.mark.parametrize("template", ["chatml", "llama3", "mistral", "none"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_scaffold_stays(name, template):
    """The template's rendering of the edited row differs from the original's inside the answers alone."""
    messages = turns(PROSE, f" {PROSE}", "Why? assistant", f"{PROSE}\n\n{PROSE}")
    edited = cached_static(name, template)({"messages": messages})
    assert edited["toedit"]["num_changed"] > 20
    new = [message["content"] for message in edited["messages"]]
    if template != "none":
        with_holes = [dict(message, content=f"@{i}@") for i, message in enumerate(messages)]
        frame = text_of({"messages": with_holes}, TEMPLATES[template], name)
        for i, content in enumerate(new):
            is_trimmed = template != "mistral" or i % 2
            frame = frame.replace(f"@{i}@", content.strip() if is_trimmed else content)
        assert text_of(edited, TEMPLATES[template], name) == frame
    assert [new[0], new[2]] == [messages[0]["content"], messages[2]["content"]]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_in_a_content_stay(name):
    specials = [token.content for token in tokenizer_of(name).get_added_tokens_decoder().values()][:5]
    answer = "".join(f"{special} {PROSE}" for special in specials) + PROSE
    edited = static(name, None, CHATML)({"messages": turns("Say it.", answer)})
    new = edited["messages"][1]["content"]
    assert edited["toedit"]["num_changed"] > 10
    assert [new.count(special) for special in specials] == [answer.count(special) for special in specials]


def test_a_template_that_rewrites_contents_is_skipped_not_guessed():
    thinking = static("demo", None, THINKING)
    plain = {"messages": turns("Hi.", PROSE)}
    assert thinking(plain)["toedit"]["status"] == "edited"
    row = {"messages": turns("Hi.", f"<think>\n{PROSE}</think>\n\n")}
    assert thinking(row) == {**row, "toedit": thinking(row)["toedit"]}
    assert thinking(row)["toedit"]["status"] == "skipped:template"
    for expression in ("message.content | upper", "message.content | replace('e', '3')", "message.content[:9]", "''"):
        template = "{% for message in messages %}" + f"{{{{ {expression} }}}};" + "{% endfor %}"
        assert static("demo", None, template)(plain)["toedit"]["status"] == "skipped:template"
    twice = "{% for message in messages %}{{ message.content }}{{ message.content }}{% endfor %}"
    assert static("demo", None, twice)(plain)["toedit"]["status"] == "skipped:template"
    tail = "{% for message in messages %}{{ message.content }}{% endfor %}{{ '!' if 'dog' in messages[-1].content }}"
    assert static("demo", None, tail)(plain)["toedit"]["status"] == "skipped:template"
    head = "{{ 'D' if 'dog' in messages[-1].content else 'C' }}{% for message in messages %};{{ message.content }}"
    head += "{% endfor %}"
    assert static("demo", None, head)(plain)["toedit"]["status"] == "skipped:template"
    refused = static("demo", None, MISTRAL)({"messages": CHAT})
    assert refused["toedit"]["status"] == "skipped:template"


def template_of_trl(name: str) -> str:
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.mark.parametrize("template", [THINKING, template_of_trl("qwen3"), template_of_trl("qwen3_5_think")])
def test_an_answer_behind_a_thought_is_edited_where_the_template_lays_the_thought_out_anew(template):
    thought = f"<think>\n{PROSE}\n</think>\n\n"
    messages = turns("Hi.", f"{thought}{PROSE}", "And?", f"{thought}\n{PROSE}{PROSE}")
    recorder = Recorder("demo")
    edited = static("demo", recorder, template)({"messages": messages})
    assert len({edit["column"] for edit in edited["toedit"]["edits"]}) == 2
    for message, new in zip(messages, edited["messages"], strict=True):
        assert new["content"].startswith(thought if message["role"] == "assistant" else message["content"])
    check_row({"messages": messages}, edited, {"assistant"})
    text = hf_tokenizer("demo").apply_chat_template(messages, chat_template=template, tokenize=False)
    ids = tokenizer_of("demo").encode(text, add_special_tokens=False).ids
    assert all(asked == ids[: len(asked)] for asked, _ in recorder.asked)
    kept = static("demo", None, CHATML)({"messages": messages})["messages"][1]["content"]
    assert not kept.startswith(thought), "where the thought stands as it is, it is edited like the rest"


def test_a_template_that_is_no_jinja_is_one_line():
    with pytest.raises(ConfigError) as error:
        static("demo", None, "{% for %}")({"messages": CHAT})
    assert "chat template" in one_line(error)
    assert "line 1" in one_line(error)


def test_a_trimmed_edit_is_drift():
    """A new token that begins with a space, at the start of an answer that the template trims."""
    tokenizer = tokenizer_of("demo")
    space_id = tokenizer.encode("a the").ids[-1]
    assert tokenizer.decode([space_id]).startswith(" ")

    def distribution(input_ids, t):
        return {int(input_ids[t]): 0.995, space_id: 0.005}

    row = {"messages": turns("Hi.", "One")}
    edited = static("demo", distribution, CHATML, top_k=2)(row)
    assert edited["messages"][1]["content"].startswith(" ")
    assert edited["toedit"]["drifted"]
    check_row(row, edited, {"assistant"})
    stable = static("demo", distribution, CHATML, top_k=2, stable_only=True)(row)
    assert stable["toedit"]["status"] == "unchanged"
    assert not stable["toedit"]["drifted"]
    check_row(row, stable, {"assistant"})


STATUSES = [
    ({"messages": None}, "null"),
    ({"messages": []}, "empty"),
    ({"messages": "text"}, "not_messages"),
    ({"messages": [1, 2]}, "not_messages"),
    ({"messages": [{"content": "x"}]}, "not_messages"),
    ({"messages": [{"role": "assistant", "content": 3}]}, "not_messages"),
    ({"messages": [{"role": "assistant", "content": [{"type": "text", "text": {"value": PROSE}}]}]}, "not_messages"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}, CHAT[4]]}, "not_messages"),
    (
        {"prompt": "x", "completion": [{"role": "assistant", "content": [{"type": "text", "text": ["x"]}]}]},
        "not_messages",
    ),
    ({"messages": [{"role": "user", "content": "x"}]}, "no_text"),
    ({"messages": [{"role": "assistant", "content": None}]}, "no_text"),
    ({"messages": [{"role": "assistant", "content": " \n"}]}, "no_text"),
    ({"messages": [{"role": "assistant", "content": "lone \ud800"}]}, "lone_surrogates"),
    ({"prompt": "x", "completion": None}, "null"),
    ({"prompt": "x", "completion": ""}, "empty"),
    ({"prompt": "x", "completion": 3}, "not_text"),
    ({"prompt": 3, "completion": "x"}, "not_text"),
    ({"prompt": [{"role": "user", "content": "x"}], "completion": "x"}, "not_messages"),
    ({"prompt": [{"role": "user", "content": "x"}], "completion": None}, "null"),
    ({"prompt": [{"role": "user", "content": "x"}], "completion": []}, "empty"),
    ({"prompt": None, "completion": "lone \ud800"}, "lone_surrogates"),
]


@pytest.mark.parametrize(("row", "reason"), STATUSES, ids=lambda value: repr(value))
def test_what_is_no_conversation_stays_and_says_why(row, reason):
    row = {**row, "id": 7}
    edited = cached_static("demo", "chatml")(row)
    assert edited["toedit"]["status"] == f"skipped:{reason}"
    assert all(edited[name] is row[name] for name in row)
    assert revert(edited) == row
    good = {"messages": turns("x", PROSE), "prompt": "x", "completion": PROSE}
    batch = {name: [good.get(name, 1), value, good.get(name, 1)] for name, value in row.items()}
    statuses = [struct["status"] for struct in cached_static("demo", "chatml")(batch)["toedit"]]
    assert statuses == ["edited", f"skipped:{reason}", "edited"]


def test_a_row_without_messages_is_a_row_and_a_batch_of_them_a_batch():
    transform = cached_static("demo", "chatml")
    assert transform({"messages": []})["toedit"]["status"] == "skipped:empty"
    statuses = [struct["status"] for struct in transform({"messages": [None, [], None]})["toedit"]]
    assert statuses == ["skipped:null", "skipped:empty", "skipped:null"]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": CHAT[:2], "completion": []}, None),
        ({"prompt": [], "completion": []}, None),
        ({"messages": []}, None),
        ({"messages": []}, "messages"),
        ({"chosen": [], "rejected": CHAT}, ("chosen", "rejected")),
        ({"chosen": CHAT, "rejected": []}, ("chosen", "rejected")),
        ({"chosen": [], "rejected": []}, ("chosen", "rejected")),
    ],
)
def test_a_row_with_an_empty_conversation_is_a_row(row, columns):
    transform = cached_static("demo", "chatml", columns=columns)
    edited = transform(row)
    assert isinstance(edited["toedit"], dict)
    assert edited["toedit"]["status"] == ("edited" if CHAT in row.values() else edited["toedit"]["status"])
    assert revert(edited) == row
    full = dict.fromkeys(row, CHAT)
    ds = Dataset.from_list([full, row])
    expected = ds.map(transform, batched=True).to_list()
    assert expected[1]["toedit"] == edited["toedit"]
    assert list(ds.to_iterable_dataset().map(transform)) == expected
    assert list(ds.to_iterable_dataset().map(transform, batched=True)) == expected
    assert [transform(one) for one in ds.to_list()] == expected
    assert ds.with_transform(transform)[:][next(iter(row))] == [one[next(iter(row))] for one in expected]


def test_no_rows_at_all_are_no_error():
    transform = cached_static("demo", "chatml")
    for columns in ({"text": [PROSE]}, {"question": ["x"], "answer": ["y"]}, {"messages": [CHAT]}):
        ds = Dataset.from_dict(columns)
        assert len(ds.select([]).map(transform, batched=True)) == 0
        assert list(ds.to_iterable_dataset().skip(1).map(transform, batched=True)) == []
        none = ds.with_transform(transform)[0:0]
        assert all(none[name] == [] for name in columns)


def test_an_answer_that_the_tokenizer_does_not_keep_is_lossy_whatever_the_prompt():
    """The tokenizer has no tokens for Chinese, but it has for the prompt."""
    row = {"question": PROSE, "answer": "中文"}
    assert cached_static("made-t5", "none")(row)["toedit"]["status"] == "skipped:lossy"
    swapped = {"question": "中文", "answer": PROSE}
    assert cached_static("made-t5", "none")(swapped)["toedit"]["status"] == "edited"


def test_prompt_and_completion_of_messages(demo):
    row = {"prompt": CHAT[:4], "completion": CHAT[4:], "id": 1}
    transform = cached_static("demo", "chatml")
    edited = transform(row)
    check_row(row, edited, {"assistant"})
    assert {find_path(edit["column"], row)[:2] for edit in edited["toedit"]["edits"]} == {("completion", 0)}
    whole = transform({"messages": CHAT})["messages"]
    assert edited["completion"] == whole[4:]  # the same text, so the same draws


def test_deletions_stay_inside_the_answer(human_texts):
    distribution = Distribution("demo", low=0.5)
    row = {"question": human_texts[0], "answer": human_texts[1] + PROSE, "id": 1}
    edited = make_transform("demo", distribution, strategy="drop")(row)
    assert edited["toedit"]["num_changed"] > 5
    assert len(edited["answer"]) < len(row["answer"])
    assert edited["question"] == row["question"]
    assert revert(edited) == row
    messages = {"messages": turns(human_texts[0], human_texts[1], human_texts[2], PROSE)}
    dropped = static("demo", distribution, CHATML, strategy="drop", exclude_target=False)(messages)
    assert dropped["toedit"]["num_changed"] > 5
    check_row(messages, dropped, {"assistant"})


def test_protect_rules_look_at_each_answer_by_itself():
    fence = "Complete this:\n```python\nx = 1"  # never closed
    row = {"messages": turns(fence, f"{PROSE} In 1984 it was `done now`.")}
    edited = static("demo", None, CHATML, protect=("code", "numbers"))(row)
    assert edited["toedit"]["num_changed"] > 10
    new = edited["messages"][1]["content"]
    assert "1984" in new
    assert "`done now`" in new
    bare = static("demo", None, CHATML)(row)["messages"][1]["content"]
    assert "1984" not in bare or "`done now`" not in bare


# real rows


def jsonl(name: str) -> list[dict[str, Any]]:
    with shared_path(f"data/{name}").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def self_instruct() -> list[dict[str, Any]]:
    return [
        {"instruction": row["instruction"], **instance}
        for row in jsonl("self_instruct_seed_tasks.jsonl")
        for instance in row["instances"]
    ]


def threads() -> list[dict[str, Any]]:
    rows = [thread for tree in jsonl("oasst_en_100_message.jsonl") for thread in oasst_threads(tree)]
    return [{"messages": thread} for thread in rows[:30]]


def share_gpt() -> list[dict[str, Any]]:
    names = {"user": "human", "assistant": "gpt"}
    return [
        {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in row["messages"]]}
        for row in threads()
    ]


def made_pairs() -> list[dict[str, Any]]:
    texts = made.human_texts()
    return [{"question": texts[i], "answer": texts[i + 1], "id": i} for i in range(0, 80, 2)]


def made_chats() -> list[dict[str, Any]]:
    texts = made.human_texts()
    return [{"messages": turns(*texts[i : i + 4]), "id": i} for i in range(100, 160, 4)]


SOURCES = {
    "made pairs": (made_pairs, {"answer"}),
    "made chats": (made_chats, {"messages"}),
    "flan_cot_creak": (lambda: jsonl("flan_cot_creak.jsonl")[:40], {"cot", "target"}),
    "flan_cot_aqua": (lambda: jsonl("flan_cot_aqua.jsonl")[:40], {"cot", "target"}),
    "t0_p3_mix": (lambda: jsonl("t0_p3_mix.jsonl")[:40], {"completion"}),
    "self_instruct": (lambda: self_instruct()[:40], {"output"}),
    "gsm8k_train": (lambda: jsonl("gsm8k_train.jsonl")[:40], {"answer"}),
    "oasst": (threads, {"messages"}),
    "sharegpt": (share_gpt, {"conversations"}),
}


@pytest.mark.parametrize("source", [name if name.startswith("made") else breadth(name) for name in SOURCES])
def test_real_rows_lazy_and_full(source, demo):
    read, columns = SOURCES[source]
    rows = read()
    options = {"chat_template": LLAMA3, "threshold": 0.5, "seed": 1}
    lazy, full = (
        Dataset.from_list(rows).map(ToEditTransform(demo, stats=stats, **options), batched=True).to_list()
        for stats in ("sampled", "full")
    )
    for row, edited, whole in zip(Dataset.from_list(rows).to_list(), lazy, full, strict=True):
        assert {name: edited[name] for name in row} == {name: whole[name] for name in row}
        assert edited["toedit"]["edits"] == whole["toedit"]["edits"]
        assert revert(edited) == row
        assert {find_path(edit["column"], row)[0] for edit in edited["toedit"]["edits"]} <= columns
        if columns & {"messages", "conversations"}:
            check_row(row, edited, {"assistant"})
        else:
            assert all(edited[name] == row[name] for name in set(row) - columns)
    stats = summarize(row["toedit"] for row in lazy)
    assert stats.statuses["edited"] > 5
    assert not {status for status in stats.statuses if status.startswith("skipped")} - {"skipped:empty"}
    assert stats.tokens.num_visited < summarize(row["toedit"] for row in full).tokens.num_visited


def made_trees() -> list[dict[str, Any]]:
    """Random trees of up to four turns, with none to three replies to each."""
    texts, draw = iter(made.human_texts()), random.Random(0)

    def node(depth: int) -> dict[str, Any]:
        replies = [node(depth + 1) for _ in range(draw.randint(0, 3) if depth < 4 else 0)]
        return {"text": next(texts), "role": ("prompter", "assistant")[depth % 2], "replies": replies}

    return [node(0) for _ in range(5)]


@pytest.mark.parametrize(
    "read", [made_trees, lambda: jsonl("oasst_en_100_message.jsonl")], ids=["made", "Open Assistant"]
)
def test_a_tree_has_a_thread_for_each_leaf(read):
    def brute(node: dict[str, Any]) -> list[list[str]]:
        below = [path for reply in node["replies"] for path in brute(reply)]
        return [[node["text"], *path] for path in below] or [[node["text"]]]

    for tree in read():
        found = oasst_threads(tree)
        assert [[message["content"] for message in thread] for thread in found] == brute(tree)
        assert all(thread[0]["role"] == "user" for thread in found)
        assert {message["role"] for thread in found for message in thread} <= {"user", "assistant"}
        assert oasst_threads({"message_tree_id": "x", "prompt": tree}) == found


def test_no_tree_is_one_line():
    with pytest.raises(RowError, match="not an Open Assistant tree"):
        oasst_threads({"text": "x", "role": "prompter", "replies": [{"body": "y"}]})
    flat = {"message_id": "b", "parent_id": "a", "text": "x", "role": "assistant"}
    for row in (flat, {**flat, "replies": None}, {"prompt": flat}):
        with pytest.raises(RowError, match="not an Open Assistant tree"):
            oasst_threads(row)
    for row in ({**flat, "replies": []}, {**flat, "parent_id": None}):
        assert oasst_threads(row) == [[{"role": "assistant", "content": "x"}]]


# one row in, one row out


@pytest.fixture(scope="module")
def chats() -> list[dict[str, Any]]:
    texts = [f"{PROSE}{i} {PROSE[::-1]}" for i in range(12)]
    rows = [{"id": i, "messages": turns("Say it.", text, "Again?", text[:40])} for i, text in enumerate(texts)]
    return [*rows, {"id": 90, "messages": None}, {"id": 91, "messages": []}, {"id": 92, "messages": turns("Hi.")}]


def as_shape(shape: str, row: dict[str, Any]) -> dict[str, Any]:
    """The same conversation in another shape of rows."""
    messages = row["messages"]
    if shape == "sharegpt":
        names = {"user": "human", "assistant": "gpt"}
        renamed = messages and [{"from": names[m["role"]], "value": m["content"]} for m in messages]
        return {"id": row["id"], "conversations": renamed}
    if shape == "parts":
        parted = messages and [
            {**m, "content": [{"type": "image", "text": None}, {"type": "text", "text": m["content"]}]}
            for m in messages
        ]
        return {"id": row["id"], "messages": parted}
    if shape == "prompt and completion":
        return {"id": row["id"], "prompt": messages and messages[:-1], "completion": messages and messages[-1:]}
    if shape == "pair":
        answer = "\n".join(m["content"] for m in messages[1:]) if messages else None if messages is None else ""
        return {"id": row["id"], "question": "Why?", "answer": answer}
    return row


@pytest.mark.parametrize("shape", ["openai", "sharegpt", "parts", "prompt and completion", "pair"])
def test_every_way_of_walking_gives_the_same_rows(chats, shape):
    transform = cached_static("demo", "parts")
    ds = Dataset.from_list([as_shape(shape, row) for row in chats])
    column = next(name for name in ("messages", "conversations", "completion", "answer") if name in ds.features)
    large = {"question": datasets.Value("large_string")} if shape == "pair" else {}
    ds = ds.cast(datasets.Features({**ds.features, **large}))
    batched = ds.map(transform, batched=True)
    assert {name: batched.features[name] for name in ds.features} == ds.features
    edited = batched.to_list()
    assert sum(row["toedit"]["status"] == "edited" for row in edited) == 12
    assert [revert(row) for row in edited] == ds.to_list()
    assert ds.map(transform).to_list() == edited
    assert ds.map(transform, batched=True, batch_size=2).to_list() == edited
    assert [transform(row) for row in ds.to_list()] == edited  # a plain dict is a row ...
    for is_batched in (True, False):
        assert list(ds.to_iterable_dataset().map(transform, batched=is_batched, batch_size=4)) == edited
    lazy = ds.with_transform(transform)
    assert lazy[3] == edited[3]
    assert lazy[2:7][column] == [row[column] for row in edited[2:7]]
    if shape == "parts":  # datasets can't write nested arrays of which one is empty, whoever hands them back
        ds = ds.select(range(12))
        edited = edited[:12]
    assert ds.with_format("numpy").map(transform, batched=True).with_format(None).to_list() == edited
    batch = transform(ds.to_dict())  # ... or a batch
    assert batch[column] == [row[column] for row in edited]


def test_types_stay_where_nothing_is_edited(chats):
    ds = Dataset.from_list([*chats[:3], chats[-1]])
    for batched in (True, False):
        quiet = ds.map(ToEditTransform("demo", threshold=1.0, chat_template=CHATML), batched=batched)
        assert {name: quiet.features[name] for name in ds.features} == ds.features
        assert quiet.remove_columns("toedit").to_list() == ds.to_list()
        assert set(quiet.features["toedit"]["edits"].feature) == {"column", "start", "old", "new", "kind"}


def test_the_fingerprint_holds_roles_context_and_template_but_nothing_loaded(chats, demo):
    hashes = []
    for options in ({}, {"roles": "user"}, {"chat_template": LLAMA3}, {"columns": "b", "context": "a"}):
        transform = ToEditTransform(demo, **{"chat_template": CHATML, **options})
        before = Hasher.hash(transform)
        transform({"a": "x", "b": "y", **chats[0]})
        assert Hasher.hash(transform) == before
        hashes.append(before)
    assert len(set(hashes)) == len(hashes)


def test_tuples_come_back_as_tuples():
    row = {"messages": tuple(CHAT), "id": 1}
    edited = cached_static("demo", "chatml")(row)
    assert edited["toedit"]["status"] == "edited"
    assert isinstance(edited["messages"], tuple)
    assert revert(edited) == row


def test_revert_refuses_a_conversation_that_changed():
    edited = cached_static("demo", "chatml")({"messages": CHAT})
    for messages in (CHAT[:2], [*CHAT[:4], {"role": "assistant", "content": None}], CHAT[::-1], None):
        with pytest.raises(RowError, match="changed after editing"):
            revert({**edited, "messages": messages})
    assert revert({**edited, "messages": CHAT}) == {"messages": CHAT}, "what is the original again stays"


def test_several_columns_of_conversations():
    row = {"chosen": CHAT, "rejected": turns("Hi.", PROSE), "note": PROSE}
    edited = cached_static("demo", "chatml", columns=("chosen", "rejected", "note"))(row)
    assert {find_path(edit["column"], row)[0] for edit in edited["toedit"]["edits"]} == set(row)
    assert revert(edited) == row


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"context": "prompt"}, "columns="),
        ({"context": "a", "columns": "a"}, "must be other columns"),
        ({"context": "a", "columns": "input_ids"}, "text columns"),
        ({"roles": []}, "'assistant'"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(options, says):
    with pytest.raises(ConfigError) as error:
        ToEditTransform("demo", **options)
    assert says in one_line(error)


def test_a_missing_context_column_is_named():
    with pytest.raises(RowError) as error:
        ToEditTransform("demo", columns="output", context="promt")({"output": "x", "prompt": "y"})
    assert "did you mean 'prompt'? (columns: 'output', 'prompt'): set context=" in one_line(error)


def test_fit_counts_the_tokens_that_may_be_edited(chats):
    """Brute force: by the offsets of the tokenizer, in transformers' own rendering."""
    transform = cached_static("demo", "chatml", strategy="none")
    counts = transform.fit(Dataset.from_list(chats)).unigram_counts_V
    expected = np.zeros_like(counts)
    for row in chats[:12]:
        text = text_of(row, CHATML)
        encoding = tokenizer_of("demo").encode(text, add_special_tokens=False)
        for message in row["messages"][1::2]:
            answer = message["content"].strip()
            spans = [
                (start, start + len(answer)) for start in range(len(text)) if text.startswith(answer + "<|", start)
            ]
            [(first, last)] = spans
            for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                expected[token_id] += first <= start and end <= last
    assert (counts == expected).all()
    assert counts.sum() > 100


def test_the_random_arm_edits_answers_alone(chats, demo):
    ds = Dataset.from_list(chats)
    transform = ToEditTransform(demo, strategy="random", threshold=0.2, chat_template=CHATML).fit(ds)
    rows = ds.map(transform, batched=True).to_list()
    for row, edited in zip(ds.to_list(), rows, strict=True):
        if row["messages"]:
            check_row(row, edited, {"assistant"})
    assert sum(row["toedit"]["num_changed"] for row in rows) > 0


# the prior's own template


def test_a_prior_brings_its_template_and_special_tokens(tmp_path, demo):
    folder = shutil.copytree(DEMO_FOLDER, tmp_path / "prior")
    assert demo.chat_template is None
    (folder / "chat_template.jinja").write_text(LLAMA3 + "{{ eos_token }}")
    prior = TransformersPrior(folder)
    assert prior.chat_template == LLAMA3 + "{{ eos_token }}"
    assert prior.special_tokens["eos_token"] == "<|endoftext|>"
    assert prior.revision != demo.revision
    own = ToEditTransform(prior, threshold=0.3, stats="full")
    given_one = ToEditTransform(demo, threshold=0.3, stats="full", chat_template=LLAMA3 + "{{ eos_token }}")
    rows = [{"messages": turns("Say it.", PROSE, "Again.", PROSE * 2)}, {"messages": CHAT}]
    for row in rows:
        given = given_one(row)
        given["toedit"]["fingerprint"] = own.fingerprint  # of another prior, if one that says the same
        assert own(row) == given
        joined = ToEditTransform(prior, threshold=0.3, stats="full", chat_template="")(row)
        assert joined["toedit"]["num_tokens"] < own(row)["toedit"]["num_tokens"]


def test_the_date_does_not_move_the_draws(demo, monkeypatch):
    """Templates of Llama 3 print the date unless they are given one."""
    template = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y %f') %}{% endif %}"
    template += "Date: {{ date_string }}\n" + CHATML
    recorder = Recorder("demo")
    static("demo", recorder, template)({"messages": turns("Hi.", PROSE)})
    text = tokenizer_of("demo").decode(recorder.asked[-1][0], skip_special_tokens=False)
    assert "Date: 26 Jul 2024\n" in text


class OtherDay(datetime.datetime):
    """A clock that stands."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime.datetime:
        return datetime.datetime(2025, 12, 3, 14, 15, 16)


class FixedDay(OtherDay):
    @classmethod
    def now(cls, tz: Any = None) -> datetime.datetime:
        return datetime.datetime(2024, 7, 26)


DATES = (
    "{{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%d %b %Y').split()[1] }} {{ strftime_now(format='%B %d, %Y') }}"
)
GENERATION = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% generation %}{{ strftime_now('%A') }}, "
    "{{ message.content }}{% endgeneration %}<|im_end|>\n{% endfor %}"
)


@pytest.mark.parametrize(
    "template",
    [
        f"{DATES}\n{CHATML}",
        f"\n{DATES}{CHATML}",
        f"  {{% if strftime_now is defined %}}  {DATES}\n  {{% endif %}}\n{CHATML}",
        GENERATION,
        *map(template_of_trl, ("llama3_2", "gptoss", "gptoss_training", "muse_glimmer")),
    ],
)
def test_a_template_reads_the_same_date_on_every_day(template, monkeypatch):
    """All else is as transformers renders it on that day."""
    messages = turns("Hi.", PROSE)
    monkeypatch.setattr(chat_template_utils, "datetime", FixedDay)
    expected = static("demo", None, template)({"messages": messages})
    ids = hf_ids("demo", template, messages)
    monkeypatch.setattr(chat_template_utils, "datetime", OtherDay)
    recorder = Recorder("demo")
    assert static("demo", recorder, template)({"messages": messages})["messages"] == expected["messages"]
    assert expected["toedit"]["num_changed"] > 5
    assert all(asked == ids[: len(asked)] for asked, _ in recorder.asked)


def test_the_codes_of_the_date_are_those_of_strftime():
    for code, value in DATE_CODES.items():
        assert FixedDay.now().strftime(code) == value, code


# what else a row gives its template


def tool_calls() -> dict[str, Any]:
    function = {"name": "f", "arguments": {"xs": [1, 2, 3], "n": 5}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    return {"messages": [*turns("Hi."), call, {"role": "assistant", "content": PROSE}]}


def test_arrays_and_tensors_reach_the_template_as_lists():
    template = CHATML.replace("<|im_end|>", "{% if message.tool_calls %}{{ message.tool_calls }}{% endif %}<|im_end|>")
    transform = static("demo", None, template)
    row = tool_calls()
    expected = transform(row)
    assert expected["toedit"]["status"] == "edited"
    for to_array in (np.array, torch.tensor):
        arrays = copy.deepcopy(row)
        arguments = arrays["messages"][1]["tool_calls"][0]["function"]["arguments"]
        arguments.update(xs=to_array(arguments["xs"]), n=to_array(5))
        edited = transform(arrays)
        assert edited["messages"][2] == expected["messages"][2]
        assert edited["toedit"] == expected["toedit"]
    ds = Dataset.from_list([row])
    plain, tensors = (one.map(transform).with_format(None).to_list() for one in (ds, ds.with_format("torch")))
    assert tensors == plain


SCHEMA = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "required": ["n"]}}}


@pytest.mark.parametrize(
    ("tools", "options"),
    [
        ([SCHEMA], {"thinks": False}),
        (json.dumps([SCHEMA]), {"thinks": True}),
        ([SCHEMA], "absent"),
        ([], None),
        ("", {"thinks": False}),
        (None, "absent"),
        ("absent", {"thinks": False}),
    ],
)
def test_tools_and_template_variables_of_a_row_reach_the_template(tools, options):
    """As TRL passes them, which the prior then reads; by every walk."""
    columns = {"tools": tools, "chat_template_kwargs": options}
    row = {"messages": turns("Hi.", PROSE), **{name: one for name, one in columns.items() if one != "absent"}}
    recorder = Recorder("demo")
    transform = static("demo", recorder, TOOLS)
    edited = transform(row)
    check_row(row, edited, {"assistant"})
    given_tools = [SCHEMA] if tools and tools != "absent" else None
    given_options = options if isinstance(options, dict) else {}
    text = hf_tokenizer("demo").apply_chat_template(
        row["messages"], tools=given_tools, chat_template=TOOLS, tokenize=False, **given_options
    )
    assert ("parameters" in text, "Do not think" in text) == (given_tools is not None, options == {"thinks": False})
    ids = tokenizer_of("demo").encode(text, add_special_tokens=False).ids
    assert all(asked == ids[: len(asked)] for asked, _ in recorder.asked)
    ds = Dataset.from_list([row, row])
    stream = ds.to_iterable_dataset()
    walks = [ds.map(transform), ds.map(transform, batched=True), stream.map(transform)]
    walks += [stream.map(transform, batched=True), map(transform, ds.to_list())]
    for walk in walks:
        assert [{"messages": one["messages"], "toedit": one["toedit"]} for one in walk] == [
            {"messages": edited["messages"], "toedit": edited["toedit"]}
        ] * 2
    assert (transform.fit(ds).unigram_counts_V == transform.fit([row, row]).unigram_counts_V).all()


@pytest.mark.parametrize("columns", [{"tools": "no JSON"}, {"tools": ["hammer"]}, {"chat_template_kwargs": "x"}])
def test_tools_that_a_template_can_not_be_given_are_a_reason(columns):
    row = {"messages": turns("Hi.", PROSE), **columns}
    edited = static("demo", None, TOOLS)(row)
    assert edited["toedit"]["status"] == "skipped:template"
    assert revert(edited) == row


# the command line


def test_the_command_line_edits_and_reverts_conversations(folder):
    rows = [{"id": i, "messages": [*CHAT, *turns(PROSE, PROSE * 2)]} for i in range(8)]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [{"q": PROSE, "a": f"{PROSE}{i}"} for i in range(8)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    edit = ["--prior", "demo", "--strategy", "random", "--rate", "0.3", "--distribution", "uniform"]
    for arguments in (
        ["edit", "chats.jsonl", *edit, "--out", "chats"],
        ["edit", "chats.jsonl", *edit, "--roles", "user,system", "--out", "users"],
        ["edit", "pairs.jsonl", *edit, "--columns", "a", "--context", "q", "--out", "pairs"],
        ["edit", "pairs.jsonl", *edit, "--columns", "a", "--out", "alone"],
        ["revert", "chats", "--out", "chats_again"],
        ["revert", "pairs", "--out", "pairs_again"],
    ):
        run(*arguments)
    chats, users, paired, alone = (load_dataset(name)["train"] for name in ("chats", "users", "pairs", "alone"))
    for ds, roles in ((chats, {"assistant"}), (users, {"user", "system"})):
        found = {find_path(edit["column"], ["messages"]) for struct in ds["toedit"] for edit in struct["edits"]}
        assert {rows[0]["messages"][path[1]]["role"] for path in found} == roles
    assert paired["q"][:] == [PROSE] * 8
    assert paired["toedit"][0]["num_tokens"] > alone["toedit"][0]["num_tokens"]
    assert load_dataset("chats_again")["train"].to_list() == rows
    assert load_dataset("pairs_again")["train"].to_list() == pairs
    record = json.loads((folder / "users" / "toedit.json").read_text())
    assert record["roles"] == ["user", "system"]
    assert json.loads((folder / "pairs" / "toedit.json").read_text())["context"] == ["q"]


names = st.text("abc[]0.1_", min_size=1, max_size=6)


@given(st.one_of(st.tuples(names), st.tuples(names, st.integers(0, 99), st.sampled_from(["content", "value"]))))
def test_a_place_has_one_name(path):
    assert find_path(place_name(path), [path[0]]) == path
    assert find_path(place_name((*path, 3, "text")), [path[0]]) == (*path, 3, "text") or len(path) == 1
