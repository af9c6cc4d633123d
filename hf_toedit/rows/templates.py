"""Chat templates, rendered within bounds.

A template comes from a stranger's repository. Jinja's sandbox keeps it away from files and from Python, but does not
stop it from looping for days, nor from computing `'x' * 10**10` or `10**10**10`. So before a template is compiled, each
of its loops, calls, operators and outputs is rewritten to go through a function below that counts work, in characters,
and refuses before a large result is made.
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

LEAST_WORK = 100_000_000  # characters that any row may cost,
WORK_PER_CHARACTER = 10_000  # and this many more for each of its own
STEP = 1_000  # characters: what an iteration, a call or an operator costs, in time
MOST_BITS = 10_000  # in an integer
WIDTH = re.compile(r"[0-9]{6}")  # of a field in a format string
COMPUTED_WIDTH = re.compile(r"\*|\{[^}]*\{")
FORMATTING = frozenset({"format", "format_map"})
GROWING = frozenset(  # their result may be as large as the product of text and argument
    {"replace", "join", "translate", "center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "tojson"}
    | {"batch", "slice", "urlize", "xmlattr", "generate_lorem_ipsum"}
)
SELECTING = frozenset(  # filters that pick from a list without writing it out
    {"length", "count", "first", "last", "list", "map", "select", "selectattr", "reject", "rejectattr", "reverse"}
    | {"items", "dictsort", "sort", "unique", "groupby", "default", "d", "attr", "random", "sum", "min", "max"}
)
_work: ContextVar[list[int]] = ContextVar("_work")


class TemplateOverrunError(Exception):
    """A template does more work than a row may cost."""


def render_bounded(source: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    """`render_jinja_template` of transformers, for one conversation.

    Raises TemplateOverrunError, and whatever Jinja raises or a template that does not fit its messages.
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
    return str(rendered[0][0])  # [1] says where the assistant's text is, if the template marks it


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks the assistant's text: here a block like any other."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

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
    """Puts calls of the functions below into a template."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        literal = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.iter = _call("_counted", node.iter, nodes.Const(STEP + literal))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [
            output if isinstance(output, nodes.TemplateData) else _call("_checked", output) for output in node.nodes
        ]
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
            return node  # Jinja's error for it comes when it is compiled
        function = nodes.ImportedName(f"{__name__}._filtered")
        arguments = [nodes.Const(node.name), node.node, *node.args]
        return nodes.Call(function, arguments, node.kwargs, node.dyn_args, node.dyn_kwargs)

    def visit_FilterBlock(self, node: nodes.FilterBlock) -> list[nodes.Node]:  # noqa: N802
        return self._filtered_block(node.body, node.filter, lambda text: nodes.Output([text]))

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> Any:  # noqa: N802
        if node.filter is None:
            return self.generic_visit(node)
        return self._filtered_block(node.body, node.filter, lambda text: nodes.Assign(node.target, text))

    def _filtered_block(self, body: Any, last: nodes.Filter, use: Any) -> list[nodes.Node]:
        """A block with filters, rewritten as a variable and its filters, so that `visit_Filter` sees these.

        last: the outermost filter. use: the node that takes the result.
        """
        first: Any = last
        while first.node is not None:
            first = first.node
        first.node = nodes.Name("_filtered_block", "load")
        block = nodes.AssignBlock(nodes.Name("_filtered_block", "store"), None, body)
        return [self.visit(node) for node in (block, use(last))]

    def _operator(self, node: Any) -> nodes.Expr:
        self.generic_visit(node)
        return _call("_operated", nodes.Const(node.operator), node.left, node.right)

    visit_Mul = visit_Pow = visit_Mod = visit_Add = _operator

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return nodes.Concat([_call("_checked", operand) for operand in node.nodes])

    def _literal(self, node: Any) -> nodes.Expr:
        self.generic_visit(node)
        is_target = getattr(node, "ctx", "load") != "load"
        return node if is_target or not node.items else _call("_checked", node)

    visit_List = visit_Dict = visit_Tuple = _literal


# what rewritten templates call


def _spend(work: int) -> None:
    left = _work.get()
    left[0] -= work
    if left[0] < 0:
        raise TemplateOverrunError


def _size(value: Any) -> int:
    """The characters of a value when it is written out, nested lists included. Each item counts as one more."""
    total, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set)):
            waiting += item
        elif isinstance(item, range):
            total += len(item)
        elif isinstance(item, int) and item.bit_length() > MOST_BITS:
            raise TemplateOverrunError
        total += 1
        if total > LEAST_WORK:
            raise TemplateOverrunError
    return total


def _checked(value: Any) -> Any:
    """A value that is written out or kept: its size is work."""
    _spend(STEP + (len(value) if isinstance(value, str) else 100 * _size(value)))
    return value


def _counted(iterable: Any, work: int) -> Iterator[Any]:
    for item in iterable:
        _spend(work)
        yield item


def _check_growth(name: str, value: Any, arguments: Iterable[Any]) -> None:
    """Refuse a call whose result may be larger than the work that is left."""
    if name in GROWING:
        numbers = [abs(given) if isinstance(given, (int, float)) else _size(given) for given in arguments]
        _spend(int(max(1, *numbers, 0) * max(1, _size(value))))
    elif name in FORMATTING:
        if WIDTH.search(str(value)):
            raise TemplateOverrunError
        if COMPUTED_WIDTH.search(str(value)):
            _spend(sum(abs(width) for width in arguments if isinstance(width, int)))


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
        numbers = [operand for operand in (left, right) if isinstance(operand, (int, float))]
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
