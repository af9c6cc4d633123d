"""Chat templates, rendered within bounds.

A template comes from a stranger's repository. Jinja's sandbox keeps it from files and from Python, but not from
looping for days, from `'x' * 10**10` or from `10**10**10`. So each of its loops, calls, operators and outputs is
rewritten, before it is compiled, to go through a function below that counts work, in characters, and refuses
before a large result is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.filters
from jinja2 import nodes, pass_context, pass_environment
from jinja2.visitor import NodeTransformer

LEAST_WORK = 100_000_000  # characters, for any row
WORK_PER_CHARACTER = 10_000  # and this for each character of the row
STEP = 1_000  # characters: what a loop's turn, a call or an operator costs, in time
MOST_BITS = 10_000  # of an integer
WIDTH = re.compile(r"[0-9]{6}")  # of a field, in a format string
COMPUTED_WIDTH = re.compile(r"\*|\{[^}]*\{")
FORMATTING = frozenset({"format", "format_map"})
GROWING = frozenset(  # the result may be as large as the product of text and argument
    {"replace", "join", "translate", "center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "tojson"}
    | {"batch", "slice", "urlize", "xmlattr", "generate_lorem_ipsum"}
)
SELECTING = frozenset(  # filters that pick from a list and do not write it out
    {"length", "count", "first", "last", "list", "map", "select", "selectattr", "reject", "rejectattr", "reverse"}
    | {"items", "dictsort", "sort", "unique", "groupby", "default", "d", "attr", "random", "sum", "min", "max"}
)
_work: ContextVar[list[int]] = ContextVar("_work")


class TemplateOverrunError(Exception):
    """A template wants to do more work than a row may take."""


def render_bounded(source: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    """`render_jinja_template` of transformers, for one conversation.

    Raises TemplateOverrunError, and whatever Jinja and a template that does not fit its messages raise.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    token = _work.set([LEAST_WORK + WORK_PER_CHARACTER * (_size(messages) + _size(variables))])
    try:
        template: Any = _rewritten(source)
        rendered: Any = render_jinja_template(
            [[dict(message) for message in messages]], chat_template=template, **variables
        )
    finally:
        _work.reset(token)
    return str(rendered[0][0])  # and where the assistant stands, if a template marks that


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks the assistant's text: here a block like any other."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja has it

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


@lru_cache(maxsize=16)
def _rewritten(source: str) -> nodes.Template:
    environment = jinja2.Environment(  # as in transformers, which compiles and runs the result in its sandbox
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    tree: nodes.Template = _Rewriter().visit(environment.parse(source))
    for node in tree.find_all(nodes.Node):
        node.lineno = node.lineno or 1
    return tree


def _call(name: str, *arguments: Any) -> nodes.Call:
    return nodes.Call(nodes.ImportedName(f"{__name__}.{name}"), list(arguments), [], None, None)


class _Rewriter(NodeTransformer):
    """Puts the functions below into a template."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        literal = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.iter = _call("_counted", node.iter, nodes.Const(STEP + literal))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [one if isinstance(one, nodes.TemplateData) else _call("_checked", one) for one in node.nodes]
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Call:  # noqa: N802
        self.generic_visit(node)
        name = getattr(node.node, "attr", getattr(node.node, "name", ""))
        node.args = [node.node, nodes.Const(name), *node.args]
        node.node = nodes.ImportedName(f"{__name__}._called")
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        if node.name not in jinja2.filters.FILTERS:
            return node  # compiling it says what is wrong
        function = nodes.ImportedName(f"{__name__}._filtered")
        arguments = [nodes.Const(node.name), node.node, *node.args]
        return nodes.Call(function, arguments, node.kwargs, node.dyn_args, node.dyn_kwargs)

    def visit_FilterBlock(self, node: nodes.FilterBlock) -> list[nodes.Node]:  # noqa: N802
        return self._of_block(node.body, node.filter, lambda text: nodes.Output([text]))

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> Any:  # noqa: N802
        if node.filter is None:
            return self.generic_visit(node)
        return self._of_block(node.body, node.filter, lambda text: nodes.Assign(node.target, text))

    def _of_block(self, body: Any, last: nodes.Filter, use: Any) -> list[nodes.Node]:
        """A block that is filtered, as a variable and the filters of it."""
        first: Any = last
        while first.node is not None:
            first = first.node
        first.node = nodes.Name("_filtered_block", "load")
        block = nodes.AssignBlock(nodes.Name("_filtered_block", "store"), None, body)
        return [self.visit(one) for one in (block, use(last))]

    def _operator(self, node: Any) -> nodes.Expr:
        self.generic_visit(node)
        return _call("_operated", nodes.Const(node.operator), node.left, node.right)

    visit_Mul = visit_Pow = visit_Mod = visit_Add = _operator

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return nodes.Concat([_call("_checked", one) for one in node.nodes])

    def _literal(self, node: Any) -> nodes.Expr:
        self.generic_visit(node)
        is_target = getattr(node, "ctx", "load") != "load"
        return node if is_target or not (node.items) else _call("_checked", node)

    visit_List = visit_Dict = visit_Tuple = _literal


# what templates are made to call


def _spend(work: int) -> None:
    left = _work.get()
    left[0] -= work
    if left[0] < 0:
        raise TemplateOverrunError


def _size(value: Any) -> int:
    """The characters that a value has, written out. Lists in lists are walked; each item counts as well."""
    total, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set)):
            waiting += one
        elif isinstance(one, range):
            total += len(one)
        elif isinstance(one, int) and one.bit_length() > MOST_BITS:
            raise TemplateOverrunError
        total += 1
        if total > LEAST_WORK:
            raise TemplateOverrunError
    return total


def _checked(value: Any) -> Any:
    """A value that is written out or kept."""
    _spend(STEP + (len(value) if isinstance(value, str) else 100 * _size(value)))
    return value


def _counted(iterable: Any, work: int) -> Iterator[Any]:
    for one in iterable:
        _spend(work)
        yield one


def _check_growth(name: str, value: Any, arguments: Iterable[Any]) -> None:
    """Refuse a call whose result may be larger than the work that is left."""
    if name in GROWING:
        numbers = [abs(one) if isinstance(one, (int, float)) else _size(one) for one in arguments]
        _spend(int(max(1, *numbers, 0) * max(1, _size(value))))
    elif name in FORMATTING:
        if WIDTH.search(str(value)):
            raise TemplateOverrunError
        if COMPUTED_WIDTH.search(str(value)):
            _spend(sum(abs(one) for one in arguments if isinstance(one, int)))


@pass_environment
def _called(environment: Any, function: Any, name: Any, /, *args: Any, **kwargs: Any) -> Any:
    if not environment.is_safe_callable(function):
        raise jinja2.exceptions.SecurityError(f"{name} is not safely callable")
    inner = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
    _check_growth(getattr(inner, "__name__", name), getattr(inner, "__self__", ""), (*args, *kwargs.values()))
    result = function(*args, **kwargs)
    if isinstance(result, (str, int, list, tuple, dict)):
        return _checked(result)
    _spend(STEP)
    return result


@pass_context
def _filtered(context: Any, name: str, value: Any, /, *args: Any, **kwargs: Any) -> Any:
    inner = args[0] if name == "map" and args and isinstance(args[0], str) else name
    if inner in GROWING and isinstance(value, Iterator):
        value = list(value)
    _check_growth(inner, value, (*args, *kwargs.values()))
    if name not in SELECTING and isinstance(value, (list, tuple, dict)):
        _checked(value)
    result = context.environment.call_filter(name, value, list(args), kwargs, context)
    _spend(STEP + (len(result) if isinstance(result, (str, list)) else 0))
    return result


def _operated(operator: str, left: Any, right: Any) -> Any:
    if operator == "*":
        numbers = [one for one in (left, right) if isinstance(one, (int, float))]
        if len(numbers) == 1:  # a text or list, repeated
            repeated = right if numbers[0] is left else left
            _spend(int(max(0, numbers[0])) * _size(repeated))
        return _checked(left * right)
    if operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > MOST_BITS:
            raise TemplateOverrunError
        return left**right
    if operator == "%":
        if isinstance(left, str):
            _check_growth("format", left, right if isinstance(right, tuple) else ())
            _checked(right)
        return _checked(left % right)
    return _checked(left + right)
