"""Rendering of chat templates that nobody has read: Jinja without its dangers.

Owns what a template may call, how long it may run and how much it may produce. Knows nothing of
tokens. A template is a program from a downloaded file; three things keep it harmless:

- jinja2's immutable sandbox, narrowed to the filters, functions and string methods that published
  chat templates use, so that no single call can take long or reach into Python;
- one meter per rendering, charged for every value that is made or printed, every loop step and
  every call, which also looks at the clock;
- a rewriting of the parsed template that leads what jinja2 does not let an environment see
  (literals, slices, `~`, loops, plain text) past that meter.
"""

from __future__ import annotations

import functools
import json
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateSyntaxError, nodes, pass_context
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from metasd_local.errors import TemplateError
from metasd_local.templates.meter import (
    MAX_SECONDS,
    MAX_VALUE,
    STEP_WORK,
    Meter,
    printed,
    refuse,
    size_of,
)
from metasd_local.text import printable

MAX_SOURCE_CHARACTERS = 2**17
MAX_OUTPUT_CHARACTERS = 2**22
_MAX_RANGE = 100_000
_MAX_INDENT = 64

# Names separated by blanks: what published chat templates use, and no call that can run away.
_FILTERS = (
    "abs capitalize count d default dictsort e escape first float int items last length list "
    "lower map max min reject rejectattr reverse safe select selectattr sort title trim unique "
    "upper"
)
_TESTS = (
    "boolean callable defined divisibleby eq equalto even false float integer iterable lower "
    "mapping ne none number odd sequence string true undefined upper"
)
_STRING_METHODS = (
    "capitalize count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric "
    "isspace isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex "
    "rpartition rsplit rstrip split splitlines startswith strip title upper"
)
_OTHER_METHODS: Mapping[type, frozenset[str]] = {
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}

# No template can write these names, because they are no identifiers.
_MEASURE = "#measure"
_CONCATENATE = "#concatenate"
_EACH = "#each"


class Sandbox:
    """One compiled template; renders in one thread at a time.

    `now` feeds the template's `strftime_now`, `clock` (seconds) the time limit: by default the
    processor time of the calling thread, so that a busy machine fails no template.
    """

    def __init__(
        self,
        source: str,
        now: Callable[[], datetime] = datetime.now,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise TemplateError(
                f"The model's chat template has {len(source)} characters; at most "
                f"{MAX_SOURCE_CHARACTERS} are accepted. Use another file of the model."
            )
        self._meter = Meter(clock)
        self._environment = _Environment(self._meter, now)
        try:
            tree = self._environment.parse(source)
            self.literals = _tested_texts(tree)
            tree = _Rewriter().visit(tree)
            tree.set_environment(self._environment)
            self._template = self._environment.from_string(tree)
        except Exception as error:  # a hostile source fails in lexer, parser or compiler
            raise _template_error(error) from error

    literals: frozenset[str]
    """Constant texts the template searches for or calls functions with, white space left out."""

    def render(self, variables: Mapping[str, object]) -> str:
        """Return the template's output.

        Raises TemplateError if the template refuses, fails, or exceeds a limit.
        """
        chunks: list[str] = []
        num_characters = 0
        try:
            self._meter.start()
            for chunk in self._template.generate(**variables):
                chunks.append(chunk)
                num_characters += len(chunk)
                if num_characters > MAX_OUTPUT_CHARACTERS:
                    refuse(f"its output exceeds {MAX_OUTPUT_CHARACTERS} characters")
        except Exception as error:  # whatever a template does, the user sees one kind of error
            raise _template_error(error) from error
        return "".join(chunks)


class _RaisedByTemplate(Exception):
    """The template called raise_exception."""


def _template_error(error: Exception) -> TemplateError:
    """Say what went wrong, where, and what to do."""
    text = printable(" ".join(str(error).split()))[:300].rstrip(".") or type(error).__name__
    if isinstance(error, _RaisedByTemplate):
        return TemplateError(
            f"The model's chat template refuses this conversation: {text}. "
            "Change or leave out the message it complains about."
        )
    lines = [
        line
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == "<template>"
    ]
    if isinstance(error, TemplateSyntaxError):
        lines = [error.lineno]
    where = f" in line {lines[-1]}" if lines else ""
    return TemplateError(
        f"The model's chat template failed{where}: {text}. A template must render within "
        f"{MAX_SECONDS:g} s, without access to anything but the conversation. Use another file of "
        "the model, or a model without a template."
    )


class _Environment(ImmutableSandboxedEnvironment):
    """jinja2's immutable sandbox with fewer doors, all of them metered."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self, meter: Meter, now: Callable[[], datetime]) -> None:
        # Nothing may be computed while compiling (`optimized`): the meter does not run then.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[LoopControlExtension, _GenerationTag],
        )
        self._meter = meter
        self.finalize = self._print
        self.globals = {
            "namespace": Namespace,
            "raise_exception": _raise_exception,
            "range": _bounded_range,
            "strftime_now": functools.partial(_format_time, now),
        }
        self.filters = {name: self._metered(FILTERS[name]) for name in _FILTERS.split()}
        self.tests = {name: TESTS[name] for name in _TESTS.split()}
        self.filters |= {
            "indent": self._metered(_indent),
            "join": self._metered(self._join),
            "replace": self._metered(self._replace),
            "string": self._metered(printed),
            "tojson": self._metered(_to_json),
            _MEASURE: meter.measure,
            _CONCATENATE: self._metered(lambda items: "".join(map(printed, items))),
            _EACH: self._each,
        }

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Admit the few methods of plain data that cannot do harm, and jinja2's own objects."""
        if isinstance(obj, str):
            return attr in _STRING_METHODS.split()
        for kind, methods in _OTHER_METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return type(obj).__module__.startswith("jinja2.") and super().is_safe_attribute(
            obj, attr, value
        )

    def wrap_str_format(self, value: Any) -> None:
        """Give no way around `is_safe_attribute`, which does not admit `str.format`."""

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls."""
        self._meter.charge(STEP_WORK)
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str) and function.__name__ == "join":
            function = functools.partial(self._join, separator=owner)
        elif isinstance(owner, str) and function.__name__ == "replace":
            function = functools.partial(self._replace, owner)
        return self._meter.measure(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute what cannot explode; addition is measured afterwards, it doubles at most."""
        if operator == "%" and isinstance(left, str):
            refuse("it formats text with %")
        if operator == "*":
            self._meter.charge(_product_size(left, right))
        if operator == "**" and not (abs(left) <= 2**16 and 0 <= right <= 16):
            refuse("it computes a power that is too large")
        return self._meter.measure(super().call_binop(context, operator, left, right))

    @pass_context  # and so that no constant is printed while compiling
    def _print(self, _context: Context, value: object) -> str:
        text = printed(value)
        self._meter.charge(STEP_WORK + len(text))
        return text

    def _metered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # jinja2 marks on the function what it wants to be passed
        def metered(*args: Any, **kwargs: Any) -> Any:
            self._meter.charge(STEP_WORK)
            return self._meter.measure(function(*args, **kwargs))

        return metered

    def _each(self, items: Iterable[object]) -> Iterator[object]:
        for item in items:
            self._meter.charge(STEP_WORK)
            yield item

    def _join(self, items: Iterable[object], separator: object = "") -> str:
        texts = [printed(item) for item in self._each(items)]
        between = printed(separator)
        self._meter.charge(sum(map(len, texts)) + len(between) * len(texts))
        return between.join(texts)

    def _replace(self, text: object, old: object, new: object, count: int = -1) -> str:
        text, old, new = printed(text), printed(old), printed(new)
        self._meter.charge(len(text) + (text.count(old) + 1) * len(new))
        return text.replace(old, new, count)


class _GenerationTag(Extension):
    """`{% generation %}`, which marks an answer for training, renders its body and no more.

    Source: transformers, utils/chat_template_utils.py.
    """

    tags = {"generation"}  # noqa: RUF012 - jinja2's own way to name them

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Return the nodes between the tag and its end."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Rewriter(NodeTransformer):
    """Lead past the meter what jinja2 compiles to plain Python."""

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802
        """Print plain text like any other value: the buffers of macros hold it too."""
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        """Measure a list."""
        return _filtered(self.generic_visit(node), _MEASURE)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        """Measure a dictionary."""
        return _filtered(self.generic_visit(node), _MEASURE)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        """Measure a tuple, unless it names the targets of an assignment."""
        self.generic_visit(node)
        return _filtered(node, _MEASURE) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """Measure a slice."""
        self.generic_visit(node)
        return _filtered(node, _MEASURE) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        """Charge for a comparison: it may walk through all of a container."""
        return _filtered(self.generic_visit(node), _MEASURE)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """Concatenate under the meter."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _CONCATENATE)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """Charge for every step."""
        if node.recursive:
            refuse("it uses a recursive loop")
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _EACH)
        return node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _tested_texts(tree: nodes.Template) -> frozenset[str]:
    """Return the constants that a template looks for with `in` or hands to functions."""
    texts: set[str] = set()
    for node in tree.find_all((nodes.Compare, nodes.Call, nodes.Filter)):
        candidates: Sequence[nodes.Node]
        if isinstance(node, nodes.Compare):
            is_search = any(operand.op in ("in", "notin") for operand in node.ops)
            candidates = [node.expr, *(operand.expr for operand in node.ops)] if is_search else []
        else:
            assert isinstance(node, nodes.Call | nodes.Filter)
            candidates = node.args
        for candidate in candidates:
            if isinstance(candidate, nodes.Const) and isinstance(candidate.value, str):
                texts.add(candidate.value)
    return frozenset(text for text in texts if text.strip())


def _product_size(left: object, right: object) -> int:
    """Return the characters of a product, refusing repetitions that are too long."""
    for text, times in ((left, right), (right, left)):
        if isinstance(text, str | list | tuple) and isinstance(times, int):
            size = (len(text) if isinstance(text, str) else size_of(text)) * max(times, 0)
            if size > MAX_VALUE:
                refuse("it repeats a value too often")
            return size
    return 0


def _bounded_range(*bounds: int) -> range:
    numbers = range(*bounds)
    # len() of a range fails beyond the machine's word
    if numbers and abs(numbers[-1] - numbers[0]) // abs(numbers.step) >= _MAX_RANGE:
        refuse(f"it counts over more than {_MAX_RANGE} numbers")
    return numbers


def _indent(text: object, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
    if (width if isinstance(width, int) else len(width)) > _MAX_INDENT:
        refuse(f"it indents by more than {_MAX_INDENT} characters")
    return FILTERS["indent"](printed(text), width, first, blank)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON without HTML escapes.

    Source: transformers, utils/chat_template_utils.py.
    """
    if indent is not None and indent > _MAX_INDENT:
        refuse(f"it indents by more than {_MAX_INDENT} characters")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _format_time(now: Callable[[], datetime], pattern: str) -> str:
    # Some C libraries read digits as a field's width.
    if len(pattern) > 100 or re.search(r"%[^A-Za-z%]", pattern):
        refuse("it asks for an unknown date format")
    return now().strftime(pattern)


def _raise_exception(message: object) -> NoReturn:
    raise _RaisedByTemplate(message)
