"""A sandbox for chat templates (Jinja) with bounds of time, steps and memory: a template of a model folder is an untrusted program.

Extensions, filters and functions are those that chat templates of transformers expect (its documentation, "Writing a chat template").
"""

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any, Final, NoReturn, cast

from jinja2 import Template, TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_SECONDS: Final = 3.0
MAX_STEPS: Final = 1_000_000
"""Passes through loops and calls of macros in one rendering."""
MAX_UNITS: Final = 10_000_000
"""Characters and list items that one rendering may make, besides a multiple of what it is given."""
UNITS_PER_INPUT: Final = 200
UNITS_PER_ITEM: Final = 4
"""What an item of a list counts as, besides what is in it."""
MAX_TEXT: Final = 200_000
"""Characters of a rendered conversation, besides a multiple of what is said in it: they are encoded next."""
TEXT_PER_INPUT: Final = 20
MAX_SOURCE: Final = 2**16
"""Characters of a template; published ones have a quarter. Compiling takes a time that grows with their square, which nothing stops."""
MAX_WIDTH: Final = 10_000
"""The largest width or count that a filter or a method takes."""
MAX_INDENT: Final = 16
"""Characters before a line or between two items of JSON."""
MAX_DATE_FORMAT: Final = 1000
"""Characters of a format of `strftime_now`; what it writes may be 256 times as long, and the C library crashes on millions."""
MAX_BITS: Final = 100_000
"""Bits of a number."""
MAX_DEPTH: Final = 100
"""Lists and objects inside each other."""
CACHED_TEMPLATES: Final = 8
WIDTHS: Final = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "batch", "slice", "truncate", "round"})
"""Methods and filters with a width, a count or a number of digits."""
GROWING: Final = frozenset({"replace", "join", "format", "format_map", "translate", "expandtabs", "indent", "wordwrap", "batch", "xmlattr"})
"""Methods and filters whose result may be as large as a product of what they take."""
BOUNDED: Final = WIDTHS | GROWING
WRITING: Final = frozenset({"tojson", "string", "pprint", "urlize", "escape", "e", "forceescape"})
"""Filters that write any value as a text."""
WIDE_FIELD: Final = re.compile(r"[0-9]{5}|%[^%a-zA-Z]*\*|\{[^{}]*\{")
"""A width in a format string that is too large, or given by an argument."""
FORBIDDEN: Final = frozenset({"encode", "to_bytes", "from_bytes"})
"""Methods that no chat template needs, and that make bytes without a bound."""


class LimitError(TemplateError):
    """A template that needs too much time, too many steps or too much memory."""


class _Budget:
    """What one rendering may still use."""

    def __init__(self, size: int = 0, deadline: float = math.inf) -> None:
        self.deadline = min(time.monotonic() + MAX_SECONDS, deadline)
        self.steps = MAX_STEPS
        self.units = self.heaviest = MAX_UNITS + UNITS_PER_INPUT * size
        self._weights: dict[int, tuple[object, int]] = {}

    def step(self) -> None:
        """Count a pass through a loop."""
        self.steps -= 1
        if self.steps < 0 or time.monotonic() > self.deadline:
            raise LimitError(f"it takes more than {MAX_SECONDS:.0f} seconds or {MAX_STEPS} steps")

    def charge(self, units: int) -> None:
        """Count characters or items that are about to be made."""
        self.units -= units
        if self.units < 0:
            raise LimitError("it needs too much memory")

    def weigh(self, value: object) -> int:
        """Characters and items of a value as if nothing in it were shared. Raises LimitError for one that is too heavy.

        `[x, x]`, forty times, is forty lists, but to compare or to print them takes 2 ** 40 steps that nothing can stop.
        """
        if isinstance(value, str | bytes):
            return len(value)
        if not isinstance(value, list | tuple | dict):
            return 1
        known = self._weights.get(id(value))
        if known is not None:
            return known[1]
        self.step()
        items = [*value, *value.values()] if isinstance(value, dict) else value
        return self.know(value, len(items) + sum(map(self.weigh, items)))

    def know(self, value: object, weight: int) -> int:
        """Keep the weight of a list. Raises LimitError for one that is too heavy."""
        if weight > self.heaviest:
            raise LimitError("it makes a list of lists that is too large")
        self._weights[id(value)] = value, weight  # the value is kept, so that its id stays its own
        return weight


_BUDGET: ContextVar[_Budget | None] = ContextVar("budget", default=None)


def _budget() -> _Budget:
    return _BUDGET.get() or _Budget()  # without a rendering: while constants are folded


def render(source: str, variables: Mapping[str, object], *, size: int, moment: datetime | None, deadline: float = math.inf) -> str:
    """Render a chat template. `size`: characters of what is said in `variables`. `moment`: what `strftime_now` prints; None is now.

    `deadline`: when it must be done at the latest, by `time.monotonic`.

    Raises LimitError for one that is without end, and whatever the template raises.
    """
    budget, left = _Budget(size, deadline), MAX_TEXT + TEXT_PER_INPUT * size
    token = _BUDGET.set(budget)
    try:
        chunks = []
        for chunk in _compile(source).generate({**variables, "strftime_now": _date_function(moment or datetime.now())}):
            left -= len(chunk)
            if left < 0:
                raise LimitError("it writes far more than is said in the conversation")
            chunks.append(chunk)
        return "".join(chunks)
    finally:
        _BUDGET.reset(token)


@lru_cache(maxsize=CACHED_TEMPLATES)
def _compile(source: str) -> Template:
    if len(source) > MAX_SOURCE:
        raise LimitError(f"it has {len(source)} characters; at most {MAX_SOURCE} are read")
    template: Template = _environment().from_string(source)
    return template


@lru_cache(maxsize=1)
def _environment() -> "_Sandbox":
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_printed)
    environment.globals.pop("lipsum", None)
    environment.globals["namespace"] = _Namespace
    environment.globals["raise_exception"] = _raise_exception
    environment.filters["tojson"] = _to_json
    environment.filters = {name: _bounded(name, function) for name, function in environment.filters.items()}
    tests = {name: _bounded(f"is {name}", cast("Callable[..., Any]", function)) for name, function in environment.tests.items()}
    environment.tests = {**tests}
    return environment


class _Compiler(CodeGenerator):
    """The compiler of Jinja, with `a ~ b` as a call of `join_texts`; lists are weighed, slices charged, and comparisons counted."""

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        """Write a list that is weighed."""
        self.write("environment.weighed(")
        super().visit_List(node, frame)
        self.write(")")

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        """Write a tuple that is weighed, unless it names what is assigned."""
        self.write("environment.weighed(" if node.ctx == "load" else "")
        super().visit_Tuple(node, frame)
        self.write(")" if node.ctx == "load" else "")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        """Write an object that is weighed."""
        self.write("environment.weighed(")
        super().visit_Dict(node, frame)
        self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        """Write a slice that is charged."""
        is_slice = isinstance(node.arg, nodes.Slice)
        self.write("environment.charged(" if is_slice else "")
        super().visit_Getitem(node, frame)
        self.write(")" if is_slice else "")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802
        """Write a comparison that is counted."""
        self.write("(environment.count_step() and ")
        super().visit_Compare(node, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 (its name in Jinja)
        """Write the call."""
        self.write("environment.join_texts(")
        for value in node.nodes:
            self.visit(value, frame)
            self.write(", ")
        self.write(")")


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox of Jinja; what repeats or makes something large asks the budget first."""

    code_generator_class = _Compiler
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in (*tree.find_all(nodes.For), *tree.find_all(nodes.Macro), *tree.find_all(nodes.CallBlock)):
            assert isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock)
            node.body.insert(0, nodes.ExprStmt(nodes.EnvironmentAttribute("count_step()"), lineno=node.lineno))
            if isinstance(node, nodes.For) and node.test is not None:
                node.test = nodes.And(nodes.EnvironmentAttribute("count_step()"), node.test, lineno=node.lineno)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may read an attribute."""
        return attr not in FORBIDDEN and super().is_safe_attribute(obj, attr, value)

    def count_step(self) -> bool:
        """Count a pass through a loop or a macro; compiled templates call it. Always true."""
        _budget().step()
        return True

    def weighed(self, value: Any) -> Any:
        """The same value, if it is not too heavy; compiled templates call it."""
        _budget().weigh(value)
        return value

    def charged(self, part: Any) -> Any:
        """The same slice of a text or a list, whose copy is charged; compiled templates call it."""
        _budget().step()
        _budget().charge(_length(part))
        return part

    def join_texts(self, *values: object) -> str:
        """The texts of values in a row, `~`; compiled templates call it."""
        _budget().charge(sum(len(value) if isinstance(value, str) else _size(value) for value in values))
        return "".join(map(str, values))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`left operator right`, if the result may be made."""
        if operator == "+":
            _budget().charge(_length(left) + _length(right))
        elif operator == "%" and isinstance(left, str):
            _charge_call("format", (left, right))
        elif operator in ("*", "**"):
            _charge_product(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, list | tuple):
            left_weight, right_weight = (1 if isinstance(side, int) else _budget().weigh(side) for side in (left, right))
            times = next((side for side in (left, right) if isinstance(side, int)), 1)
            _budget().know(result, (left_weight + right_weight) * max(times, 1))
        return result

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function or method, if what it makes is bounded."""
        _budget().step()
        name = getattr(obj, "__name__", "")
        if name not in BOUNDED:
            result = super().call(context, obj, *args, **kwargs)
            _budget().charge(_length(result))
            return self.weighed(result)
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)  # the sandbox wraps `format`
        named = [value for key, value in kwargs.items() if not key.startswith("_")]  # Jinja adds its own
        _charge_call(name, (owner, *args, *named) if isinstance(owner, str) else (*args, *named))
        return super().call(context, obj, *args, **kwargs)


class _Namespace(Namespace):
    """The namespace of Jinja; what is in it is not printed, since it may hold itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Generation(Extension):
    """`{% generation %}`, which marks what a model says; it is rendered as if it were not there."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements inside."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _raise_exception(message: object) -> NoReturn:
    """`raise_exception` of chat templates."""
    raise TemplateError(str(message))


def _date_function(moment: datetime) -> Callable[[str], str]:
    """`strftime_now` of chat templates, which writes the moment in a format."""

    def strftime_now(format: str) -> str:  # noqa: A002 (as chat templates may call it)
        if len(format) > MAX_DATE_FORMAT:
            raise LimitError(f"strftime_now is called with a format of more than {MAX_DATE_FORMAT} characters")
        return moment.strftime(format)

    return strftime_now


def _to_json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 (as chat templates call it)
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """`tojson` of chat templates, which escapes no HTML."""
    between = [indent if isinstance(indent, str) else " " * min(indent or 0, MAX_INDENT + 1), *(separators or ())]
    if any(len(text) > MAX_INDENT for text in between):
        raise LimitError(f"tojson is called with an indent or a separator of more than {MAX_INDENT} characters")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _printed(value: object) -> object:
    """A value as it is printed, if it is not too large."""
    _budget().charge(len(value) if isinstance(value, str) else _size(value))
    return value


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that asks the budget first."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0
    grows, writes = name in BOUNDED, name in WRITING

    @wraps(function)
    def bounded(*args: object, **kwargs: object) -> Any:
        if grows:
            _charge_call(name, (*args[skipped:], *kwargs.values()))
        elif writes:
            _budget().charge(_size(args[skipped]))
        _budget().step()
        result = function(*args, **kwargs)
        _budget().charge(_length(result))
        _budget().weigh(result)
        return result

    return bounded


def _charge_call(name: str, values: Sequence[object]) -> None:
    """Charge what a filter or a method may make of its arguments. Raises LimitError for a number that is too large."""
    numbers = [abs(value) for value in values if isinstance(value, int | float)]
    if name in WIDTHS and any(number > MAX_WIDTH for number in numbers):
        raise LimitError(f"{name} is called with a number of more than {MAX_WIDTH}")
    sizes = [_size(value) for value in values]
    times: float = 1
    match name, values:
        case "replace", [str(text), str(old), *_]:
            times = text.count(old)
        case "format" | "format_map", [str(text), *_]:
            if WIDE_FIELD.search(text):
                raise LimitError("a format has a width of more than four digits")
            times = text.count("%") + text.count("{")
        case _, [first, *_] if name in GROWING:
            times = max(_length(value) for value in values) if name == "join" else _length(first)
    _budget().charge(int(sum(sizes) + times * max([*sizes[1:], *numbers, 1])))


def _charge_product(operator: str, left: object, right: object) -> None:
    """Charge a repeated text or list. Raises LimitError for a number that is too large."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_BITS:
            raise LimitError(f"it computes a number of more than {MAX_BITS} bits")
    elif operator == "*":
        for sequence, times in ((left, right), (right, left)):
            if isinstance(times, int):
                _budget().charge(_length(sequence) * max(times, 0))


def _length(value: object) -> int:
    """Characters of a text, or items of a list at their price; 0 of anything else."""
    if isinstance(value, str | bytes):
        return len(value)
    return UNITS_PER_ITEM * len(value) if isinstance(value, list | tuple | dict) else 0


def _size(value: object, depth: int = 0) -> int:
    """Characters and items of a value with all that is in it. Raises LimitError for one that is too deep or too large."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | tuple | dict):
        return 1
    if depth > MAX_DEPTH:
        raise LimitError(f"it makes lists of more than {MAX_DEPTH} levels")
    _budget().step()
    items = [*value, *value.values()] if isinstance(value, dict) else value
    return sum(_size(item, depth + 1) + 1 for item in items)
