"""Chat templates that can neither allocate nor loop without bound.

A template comes with a model and may be from anywhere. Jinja's sandbox keeps it away from the process, but not from
its memory: ``{{ 'x' * 10**10 }}`` takes ten gigabytes, and nested ranges never end. Here:

* operands and all output together are bounded, so that what is linear in them is bounded, too;
* operations that multiply (``*``, ``**``, padding, formats, ``replace``) are refused before they allocate;
* each round of a loop and each call of a macro looks at the processor time that the rendering took.

The templates are those that transformers compiles, with its filters and functions.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Template, meta, nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from transformers.utils import chat_template_utils

MAX_CHARS = 2**24
"""Length of a text, also of all texts in a list together; each item of a list counts as one more."""
MAX_BITS = 2**16
"""Length of an integer."""
MAX_WIDTH = 1000
"""Width of a formatted field and of JSON's indentation."""
MAX_CPU_S = 10.0
"""Time of one rendering, of the thread that renders."""

MAX_OUTPUT = 4 * MAX_CHARS
"""Characters that one rendering writes, also into macros and variables."""

_UNTIL_S: ContextVar[float] = ContextVar("until_s", default=float("inf"))
_WRITTEN: ContextVar[int] = ContextVar("written", default=0)
_unbounded = chat_template_utils._compile_jinja_template


def install() -> None:
    """Bound every chat template that transformers renders in this process. Repeatable."""
    chat_template_utils._compile_jinja_template = bounded


@lru_cache
def bounded(source: str) -> Template:
    """The compiled template. Rendering beyond a bound raises SecurityError (a TemplateError)."""
    return _environment().from_string(source)


def variables(source: str) -> frozenset[str]:
    """Variables that a chat template uses; empty if it cannot be parsed."""
    try:
        return frozenset(meta.find_undeclared_variables(_environment().parse(source)))
    except TemplateSyntaxError:
        return frozenset()


@lru_cache
def _environment() -> ImmutableSandboxedEnvironment:
    theirs = _unbounded("").environment  # of no template: compiling computes constants, however large
    ours = _BoundedEnvironment(
        trim_blocks=theirs.trim_blocks,
        lstrip_blocks=theirs.lstrip_blocks,
        extensions=[type(extension) for extension in theirs.extensions.values()],
        finalize=_finalized,
    )
    ours.globals = {name: value for name, value in theirs.globals.items() if name != "lipsum"}
    ours.filters = {name: _filter(name, one) for name, one in theirs.filters.items()}
    return ours


class _BoundedTemplate(Template):
    def render(self, *args: Any, **kwargs: Any) -> str:
        until, written = _UNTIL_S.set(time.thread_time() + MAX_CPU_S), _WRITTEN.set(0)
        try:
            return super().render(*args, **kwargs)
        finally:
            _UNTIL_S.reset(until)
            _WRITTEN.reset(written)


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    template_class = _BoundedTemplate

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Guarding().visit(source), *args, **kwargs)

    def tick(self) -> bool:
        """Called in each round of a loop and in each macro."""
        if time.thread_time() > _UNTIL_S.get():
            raise SecurityError(f"it takes more than {MAX_CPU_S:g} s of processor time")
        return True

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:  # of all output, of macros and blocks
        return "".join(_within_bound(pieces))

    def joined(self, *parts: Any) -> str:
        """The operator ``~``."""
        _size(parts)
        return "".join(map(str, parts))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _BINOPS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps str.format
        text = getattr(method, "__self__", None)
        if isinstance(text, str):
            args = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
            _size((text, args, kwargs))
            _METHODS.get(method.__name__, _nothing)(text, *args, **kwargs)
        return super().call(context, obj, *args, **kwargs)


class _Guarding(NodeTransformer):
    """Adds the ticks, and has ``~`` checked."""

    def visit_For(self, loop: nodes.For) -> nodes.Node:
        self.generic_visit(loop)
        loop.body.insert(0, nodes.ExprStmt(_of_environment("tick")))
        if loop.test is not None:  # it sees items that the body does not
            loop.test = nodes.And(_of_environment("tick"), loop.test)
        return loop

    def visit_Macro(self, macro: nodes.Macro) -> nodes.Node:
        self.generic_visit(macro)
        macro.body.insert(0, nodes.ExprStmt(_of_environment("tick")))
        return macro

    def visit_Concat(self, concat: nodes.Concat) -> nodes.Node:
        self.generic_visit(concat)
        return _of_environment("joined", concat.nodes)


def _of_environment(method: str, arguments: list[nodes.Expr] | None = None) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments or [], [], None, None)


# --------------------------------------------------------------------------- sizes


def _size(operands: Any) -> int:
    """Characters and items in the operands. SecurityError as soon as they are too many."""
    todo, size = [operands], 0
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            size += len(one)
        elif isinstance(one, Mapping):
            size += len(one)
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set):
            size += len(one)
            if size <= MAX_CHARS:
                todo += one
        _allow(size)
    return size


def _allow(size: int) -> None:
    if size > MAX_CHARS:
        raise SecurityError(f"it makes a text or a list of more than {MAX_CHARS} characters or items")


def _within_bound(pieces: Iterable[str]) -> Iterator[str]:
    num_chars = 0
    for piece in pieces:
        num_chars += len(piece)
        _allow(num_chars)
        yield piece


def _finalized(value: Any) -> Any:
    """The value of an expression, just before it becomes text."""
    written = _WRITTEN.get() + _size(value)
    _WRITTEN.set(written)
    if written > MAX_OUTPUT:
        raise SecurityError(f"it writes more than {MAX_OUTPUT} characters")
    return value


# --------------------------------------------------------------------------- what multiplies


def _nothing(*_: Any, **__: Any) -> None: ...


def _sum(left: Any, right: Any) -> None:
    _size((left, right))


def _product(left: Any, right: Any) -> None:
    for many, number in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple) and isinstance(number, int):
            _allow(_size(many) * number)
    if isinstance(left, int) and isinstance(right, int):
        _allow_bits(left.bit_length() + right.bit_length())


def _power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _allow_bits(left.bit_length() * right)


def _allow_bits(num_bits: int) -> None:
    if num_bits > MAX_BITS:
        raise SecurityError(f"it makes a number of {num_bits} bits; the limit is {MAX_BITS}")


def _percent(left: Any, right: Any) -> None:
    if isinstance(left, str):
        _format(left, right)


def _format(form: str, *values: Any, **named: Any) -> None:
    """Each field may write all the values, as wide as its number says."""
    _size((form, values, named))
    widths = re.findall(r"\d+", form)
    if any(float(width) > MAX_WIDTH for width in widths) or "*" in form or re.search(r"{[^}]*{", form):
        raise SecurityError(f"it formats with a width above {MAX_WIDTH}, or with one that it computes")
    num_fields = form.count("%") + form.count("{")
    _allow(num_fields * (MAX_WIDTH + len(str((values, named)))))


def _padding(text: str, width: Any = 80, *_: Any, **__: Any) -> None:
    if isinstance(width, int):
        _allow(len(text) + width * (1 + text.count("\n") + text.count("\t")))


def _indent(text: str, width: Any = 4, *_: Any, **__: Any) -> None:
    _padding(text, len(width) if isinstance(width, str) else width)


def _replace(text: str, old: Any = "", new: Any = "", *_: Any, **__: Any) -> None:
    _allow(len(text) + text.count(str(old)) * len(str(new)))


def _join(separator: Any, items: Any = (), *_: Any, **__: Any) -> None:
    _size(items)
    _allow(len(str(separator)) * len(items))


def _chunks(_: Any, number: Any, *__: Any, **___: Any) -> None:
    _allow(number if isinstance(number, int) else 0)


def _json(_: Any, *options: Any, **named: Any) -> None:
    for value in (*options, *named.values()):
        if isinstance(value, int | str) and (value if isinstance(value, int) else len(value)) > MAX_WIDTH:
            raise SecurityError(f"it indents JSON by more than {MAX_WIDTH}")


_BINOPS: Mapping[str, Callable[[Any, Any], None]] = {
    "+": _sum,
    "*": _product,
    "**": _power,
    "%": _percent,
}
_METHODS: Mapping[str, Callable[..., None]] = {
    **dict.fromkeys(("ljust", "rjust", "center", "zfill", "expandtabs"), _padding),
    **dict.fromkeys(("format", "format_map"), _format),
    "replace": _replace,
    "join": _join,
}
_FILTERS: Mapping[str, Callable[..., None]] = {
    "center": _padding,
    "indent": _indent,
    "format": _format,
    "replace": _replace,
    "join": lambda items, separator="", *_, **__: _join(separator, items),
    "batch": _chunks,
    "slice": _chunks,
    "tojson": _json,
}
_CHEAP = frozenset({"length", "count", "first", "last", "default", "d"})
"""Filters whose results are not longer than their operands, whatever these are."""


def _filter(name: str, theirs: Callable[..., Any]) -> Callable[..., Any]:
    """The filter of this name, which checks its operands first."""
    if name in _CHEAP:
        return theirs
    check = _FILTERS.get(name, _nothing)
    num_passed = 0 if getattr(theirs, "jinja_pass_arg", None) is None else 1  # Jinja's own argument, in front

    @wraps(theirs)
    def checked(*arguments: Any, **named: Any) -> Any:
        passed, operands = arguments[:num_passed], arguments[num_passed:]
        operands = tuple(list(one) if isinstance(one, Iterator) else one for one in operands)
        _size((operands, named))
        subject = str(operands[0]) if check not in (_nothing, _FILTERS["join"]) else operands[0]
        check(subject, *operands[1:], **named)
        return theirs(*passed, *operands, **named)

    return checked
