"""Chat templates: within bounds whatever they do, and rendered as transformers renders them."""

# ruff: noqa: E501 - a template is one line

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pytest
from conftest import SHARED
from strategies import one_line
from transformers.utils.chat_template_utils import render_jinja_template

from hf_toedit import ConfigError
from hf_toedit.rows.formats import Unit
from hf_toedit.rows.rendering import Renderer
from hf_toedit.rows.templates import render_bounded

CHAT = Unit((), ("messages",), is_chat=True)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?\n"},
    {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\nFour: 100 %, {sure}."},
    {"role": "user", "content": "And 3?"},
    {"role": "assistant", "content": " Three. ", "tool_calls": [{"name": "add", "arguments": {"a": [1, 2.5, None]}}]},
]
BODY = "{% for m in messages %}<{{ m['role'] }}>{{ m.content }}\n{% endfor %}"


def render(template, row=None):
    return Renderer(["assistant"], template, {}).render({"messages": MESSAGES, **(row or {})}, CHAT)


ENDLESS = {
    "rec2": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a product": "{{ 'x' * 10**10 }}",
    "a product's length": "{{ ('x' * 10**10)|length }}",
    "a power": "{{ (10**(10**10))|string|length }}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "doubling by ~": "{% set ns=namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x|length }}",
    "doubling by +": "{% set ns=namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
    "squaring": "{% set ns=namespace(x=10) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "fmt": "{{ '%9999999999d' % 1 }}",
    "fmt*": "{{ '%*d' % (10**9, 1) }}",
    "fmt2": "{{ '{:>9999999999}'.format(1) }}",
    "fmt3": "{{ '%9999999999d'|format(1) }}",
    "fmt4": "{{ '{:>{w}}'.format(1, w=10**9) }}",
    "center": "{{ 'x'|center(10**10) }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "zfill": "{{ 'x'.zfill(10**10) }}",
    "indent": "{{ ('\n' * 10**5)|indent(10**6) }}",
    "replace": "{{ ('x' * 10**6).replace('x', 'y' * 10**6) }}",
    "replacef": "{{ ('x' * 10**6)|replace('x', 'y' * 10**6) }}",
    "join": "{{ range(99999)|join('y' * 10**6) }}",
    "joinm": "{{ ('y' * 10**6).join(('x'*10**6)|list) }}",
    "tojson": "{{ messages|tojson(indent=10**9) }}",
    "map": "{{ ['x']|map('center', 10**10)|list }}",
    "lipsum": "{{ lipsum(n=10**9) }}",
    "lists": "{% set ns=namespace(a=['x']) %}{% for i in range(80) %}{% set ns.a=[ns.a, ns.a] %}{% endfor %}{{ ns.a }}",
    "dicts": "{% set ns=namespace(a=['x']) %}{% for i in range(80) %}{% set ns.a=dict(x=ns.a, y=ns.a) %}{% endfor %}{{ ns.a|string }}",
    "block": "{% filter center(10**10) %}x{% endfilter %}",
    "set": "{% set x | center(10**10) %}x{% endset %}{{ x }}",
    "aslist": "{% for x in 'x'*10**9 %}{% endfor %}",
    "much text in loops": "{% for i in range(99999) %}{% for j in range(99999) %}"
    + "y" * 1000
    + "{% endfor %}{% endfor %}",
    "a caller in a loop": (
        "{% macro g() %}{% for i in range(99999) %}{{ caller() }}{% endfor %}{% endmacro %}{% call g() %}"
        + "z" * 100_000
        + "{% endcall %}"
    ),
    "a long macro": "{% macro g() %}"
    + "z" * 10**6
    + "{% endmacro %}{% for i in range(99999) %}{% set x=g() %}{% endfor %}",
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_without_end_is_one_line(template):
    """Before it takes hours, or the memory that it asks for."""
    with pytest.raises(ConfigError, match="without end: set another chat_template=") as error:
        render(template + BODY)
    one_line(error)


@pytest.mark.parametrize(
    "template",
    [
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for x in [1,2] recursive %}{{ loop([1,2]) }}{% endfor %}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    ],
    ids=["recursion", "range", "recursive loop", "brackets"],
)
def test_a_template_that_recurses_skips_the_row(template):
    assert render(template + BODY).status == "skipped:template"


def test_a_template_that_python_can_not_compile_is_one_line():
    with pytest.raises(ConfigError, match="can't be compiled") as error:
        render("{% for a in [1] %}" * 30 + "x" + "{% endfor %}" * 30)
    one_line(error)


def test_a_row_whose_options_ask_for_too_much_is_skipped_alone():
    template = "{{ 'x' * n }}" + BODY
    assert render(template, {"chat_template_kwargs": {"n": 10**10}}).status == "skipped:template"
    assert render(template, {"chat_template_kwargs": {"n": 2}}).text.startswith("xx<system>")


def test_long_conversations_have_room():
    messages = [{"role": role, "content": "word " * 200} for role in ("user", "assistant")] * 500
    row = Renderer(["assistant"], BODY, {}).render({"messages": messages}, CHAT)
    assert len(row.places) == 500


RICH = {
    "plain": BODY,
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}",
    "loop variables": "{% for m in messages %}{{ loop.index0 }}/{{ loop.length }}{{ loop.last }}"
    "{{ loop.previtem.role if loop.previtem is defined }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "break": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "else": "{% for m in messages if m.role == 'nobody' %}{{ m }}{% else %}none{% endfor %}",
    "recursive": "{% for n in [[1, [2]], 3] recursive %}{% if n is iterable %}{{ loop(n) }}{% else %}{{ n }}"
    "{% endif %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.s = ns.s ~ m.role ~ ns.n %}{% endfor %}{{ ns.s }}",
    "macros": "{% macro show(m, sep=': ') %}{{ m.role + sep + m.content|trim }}{{ caller() if caller }}{% endmacro %}"
    "{% for m in messages %}{% call show(m, sep='=') %}!{% endcall %}{{ show(m) }}{% endfor %}",
    "filters": "{{ messages|map(attribute='role')|join(', ') }}{{ messages|selectattr('role', 'equalto', 'user')|list"
    "|length }}{{ messages[-1].tool_calls|tojson(indent=2) }}{{ messages|length }}{{ 'a b'|title|indent(4, true) }}"
    "{{ nothing|default('none') }}{{ {'b': 1, 'a': 2}|dictsort }}{{ [3, 1]|sort|first }}{{ 'a%sb'|format(3) }}",
    "blocks": "{% filter upper %}x{{ messages[0].role }}{% endfilter %}{% set t | trim | upper %} y {% endset %}{{ t }}"
    "{% set u %}{{ messages[1].content }}{% endset %}{{ u|length }}",
    "strings": "{{ '%s-%05d' % ('a', 3) }}{{ '{:>5}|{a}'.format(1, a=2) }}{{ 'ab' * 3 }}{{ messages[2].content.split("
    "'</think>')[-1].lstrip('\\n') }}{{ 'x'.join(['1', '2']) }}{{ 'aXb'.replace('X', '--') }}{{ messages[0]['role'][1:3] }}",
    "numbers": "{{ 7 % 3 }}{{ 2 ** 10 }}{{ 3 * 4 + 1 }}{{ 7 // 2 }}{{ 1.5 * 2 }}{{ -3 * 2 }}{{ [1] + [2] }}{{ (1, 2) }}",
    "conditions": "{% if messages[0].role == 'system' and not tools %}{% set m = messages[0].content %}{% endif %}{{ m }}"
    "{{ 'yes' if add_generation_prompt else 'no' }}{{ tools is none }}{{ x is defined }}",
    "assignment": "{% set a, b = 1, 'two' %}{% for k, v in {'x': 1}.items() %}{{ a }}{{ b }}{{ k }}{{ v }}{% endfor %}"
    "{% with c = 3 %}{{ c }}{% endwith %}",
    "spaces": "{%- for m in messages %}\n    {{- m.role }}\n  {% if true %}\n  x\n  {% endif %}\n{%- endfor %}\n",
    "options": "{{ dict(a=1, **{'b': 2}) }}{{ namespace(**{'c': 3}).c }}{{ range(*[1, 4])|list }}",
}


@pytest.mark.parametrize("template", RICH.values(), ids=RICH)
def test_a_template_is_rendered_as_transformers_does(template):
    [[expected], _] = render_jinja_template([MESSAGES], chat_template=template)
    assert render_bounded(template, MESSAGES, {}) == expected


@pytest.mark.slow
def test_real_templates_are_rendered_as_transformers_does():
    """Those that TRL brings, and those of the shared material where it is at hand."""
    folders = [Path(pytest.importorskip("trl").__file__).parent / "chat_templates", SHARED]
    found = [path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("**/*.jinja")]
    configs = [json.loads(path.read_text(encoding="utf-8")) for path in SHARED.glob("**/tokenizer_config.json")]
    found += [config["chat_template"] for config in configs if isinstance(config.get("chat_template"), str)]
    plain = [{"role": message["role"], "content": message["content"]} for message in MESSAGES[1:]]
    variables = {"bos_token": "<s>", "eos_token": "</s>", "tools": None}
    num_rendered = 0
    for template in found:
        if "strftime_now" in template:  # a day of its own: see test_conversations.py
            continue
        try:
            [[expected], _] = render_jinja_template([plain], chat_template=template, **variables)
        except jinja2.TemplateError:  # it wants contents in parts
            continue
        assert render_bounded(template, plain, variables) == expected
        num_rendered += 1
    assert num_rendered > 20


@pytest.mark.parametrize("template", ["{{ 'x'|nonesuch }}", "{% for %}", "{% generation %}"])
def test_what_is_no_template_is_one_line(template):
    with pytest.raises(ConfigError, match="the chat template is no") as error:
        render(template)
    one_line(error)
