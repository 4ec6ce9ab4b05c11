"""Sandboxed Jinja templates of judges and models, rendered within limits, with their errors in words.

A template comes with a model folder and may be anything. jinja's sandbox keeps it from running other code; here are
added an end to loops, a limit of sizes, and one class for all errors.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 2_000_000
"""Turns of loops and calls of macros in one rendering; a long dialogue takes thousands."""
MAX_SIZE = 1 << 24
"""Characters of a text, entries of a list, and bits of a number."""

_CALL_STEPS = 20
"""Cost of a macro call, in turns of an empty loop, whose time it takes."""

_WIDE = re.compile(r"%[^a-zA-Z%]*\d{8,}|\{[^{}]*:[^{}]*\d{8,}")

_steps: ContextVar[int] = ContextVar("turns of loops that a rendering has left")


class TemplateFailure(ValueError):
    """Raised for a template that cannot be rendered with its variables; quotes the template's own error."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox in which every template ends, and within a limit of memory."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters["tojson"] = _to_json
        self.filters = {name: _limited(each) for name, each in self.filters.items()}
        self.filters |= {"_counted": _counted, "_checked": _checked}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right` unless the result would be too large."""
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_size(left.bit_length() * max(right, 0))
        if operator == "*":
            _check_size(_size(left) * _size(right))
        if operator == "%":
            _check_width(left)
        return _checked(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or a method unless its result would be too large."""
        _check_size(*[value for value in (*args, *kwargs.values()) if isinstance(value, int)])
        method = getattr(function, "__wrapped__", function)
        if getattr(method, "__name__", "") in ("format", "format_map"):
            _check_width(getattr(method, "__self__", ""))
        return _checked(super().call(context, function, *args, **kwargs))

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Template:
        """Compile a template. Raises TemplateSyntaxError also where the nesting is too deep for Python."""
        try:
            return super().from_string(source, *args, **kwargs)
        except (RecursionError, MemoryError, SyntaxError) as error:
            raise TemplateSyntaxError(f"it is nested too deeply ({type(error).__name__})", 1) from None

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Bounds().visit(super()._parse(source, name, filename))
        return tree.set_environment(self)  # type: ignore[return-value]


class _Generation(Extension):
    """`{% generation %}`, by which a chat template marks an assistant's text; it changes no text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the body unchanged."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.If(nodes.Const(True), body, [], [], lineno=line)


def chat_environment() -> BoundedEnvironment:
    """Build the environment that chat templates are written for, as in `apply_chat_template`."""
    environment = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.globals["raise_exception"] = _raise_exception
    return environment


@lru_cache
def judge_template(text: str) -> Template:
    """Compile a judge's template.

    Raises:
        TemplateSyntaxError: when it is no template.
    """
    return BoundedEnvironment(keep_trailing_newline=True).from_string(text)


def render(template: Template, variables: Mapping[str, Any]) -> str:
    """Render a template with its variables.

    Raises:
        TemplateFailure: whatever goes wrong, and when it takes too many steps or writes too much.
    """
    token = _steps.set(MAX_STEPS)
    pieces, size = [], 0
    try:
        for piece in template.generate(**variables):
            pieces.append(piece)
            _check_size(size := size + len(piece))
        return "".join(pieces)
    except Exception as error:  # a template is a program, and fails like one
        raise TemplateFailure(in_words(error)) from None
    finally:
        _steps.reset(token)


def in_words(error: Exception) -> str:
    """Describe a template's error; an error of another library is named with its class."""
    where = f"line {error.lineno}: " if isinstance(error, TemplateSyntaxError) else ""
    kind = "" if isinstance(error, TemplateError | _BoundsError) else f"{type(error).__name__}: "
    return f"{where}{kind}{str(error) or type(error).__name__}"


# ---- bounds


class _BoundsError(Exception):
    pass


class _Bounds(NodeTransformer):
    """Makes every loop and macro of a template count its steps, and checks the size of results."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_counted")  # type: ignore[arg-type]  # jinja2 calls it a Node
        if node.recursive:  # `loop(...)` goes round the iterable above
            node.body.insert(0, _step(node.lineno))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        self.generic_visit(node)
        node.body.insert(0, _step(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(node, "_checked")

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.AssignBlock:
        self.generic_visit(node)
        node.filter = node.filter or nodes.Filter(None, "_checked", [], [], None, None, lineno=node.lineno)
        return node


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _step(line: int) -> nodes.ExprStmt:
    return nodes.ExprStmt(_filtered(nodes.Const((0,) * _CALL_STEPS, lineno=line), "_counted"), lineno=line)


@pass_context  # or a constant would be counted when the template is compiled
def _counted(_: Context, values: Any) -> Any:
    """Count the values of a loop; an iterable with a length stays one."""
    if hasattr(values, "__len__"):
        _take(1 + len(values))
        return values
    return _one_by_one(values) if isinstance(values, Iterable) else values


def _one_by_one(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _take(1)
        yield value


def _take(steps: int) -> None:
    left = _steps.get(MAX_STEPS) - steps
    _steps.set(left)
    if left < 0:
        raise _BoundsError(f"it takes more than {MAX_STEPS} turns of its loops and macros")


def _limited(function: Callable[..., Any]) -> Callable[..., Any]:
    """Limit the size of a filter's result."""

    @wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        _check_size(*[value for value in (*args[1:], *kwargs.values()) if isinstance(value, int)])
        return _checked(function(*args, **kwargs))

    return limited


def _size(value: Any) -> int:
    return (
        max(len(value), 1) if isinstance(value, str | bytes | list | tuple) else value if isinstance(value, int) else 1
    )


def _checked(value: Any) -> Any:
    if isinstance(value, str | bytes | list | tuple):
        _check_size(len(value))
    return value


def _check_width(layout: Any) -> None:
    """Refuse a format that fills up to more characters than a text may have."""
    if isinstance(layout, str) and _WIDE.search(layout):
        _check_size(MAX_SIZE + 1)


def _check_size(*sizes: int) -> None:
    if any(size > MAX_SIZE for size in sizes):
        raise _BoundsError(f"it makes something larger than {MAX_SIZE} characters or entries")


# ---- what chat templates expect


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write plain JSON: jinja's own filter escapes characters of HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
