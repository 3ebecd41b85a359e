"""Arithmetic over records, for the numbers and claims of the prose.

`run("lab1/x").tokens_per_s` is the median over repeats; `.min`, `.max` and
`.spread` (the range over the median) describe the repeats;
`run("lab1/x")["all_reduce_busbw{bytes=1048576}"]` names a measure with
labels; `run("lab1/x").meta.world_size` is a value of the meta event.
`predicted("tp2", "tokens_per_s", micro_batch=16)` is what the model says of
a layout (`workshop.records.predict.expected`).
`by_place("lab1/x", "ddp", "ratio")` reads the step that a comparison kept
of a contestant, beside that of `alone` (`workshop.profiling.by_place`).

An expression comes from a page and is evaluated by whoever builds it: its
length, its depth and every number on the way are bounded.
"""

import ast
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from workshop.errors import UserError
from workshop.records.experiments import near
from workshop.records.files import short
from workshop.records.load import Run, load
from workshop.records.place import by_place
from workshop.records.predict.expected import predicted

Number = int | float | bool
Loader = Callable[[str], Run]

_BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_UNARY = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_FUNCTIONS = {
    "abs": abs,
    "max": max,
    "median": lambda *values: median(values),
    "min": min,
    "round": lambda value, digits=None: _rounded(value, digits),
    "sum": lambda *values: sum(values),
}
_PARTS = ("median", "min", "max", "spread")
LONGEST = 2000
"""Characters of an expression."""
DEEPEST = 50
"""Parts inside parts."""
_LARGEST_COUNT = 100_000
"""Of a prediction, which walks through its micro-batches one by one."""


@dataclass(frozen=True)
class Metric:
    """One entry of a run's summary."""

    key: str
    entry: dict

    def part(self, name: str) -> float:
        """Return the median, min, max or spread over the repeats."""
        if name not in _PARTS:
            raise UserError(
                f"a metric has no {name!r}: use {', '.join(_PARTS)}."
            )
        if name == "spread":
            width = self.entry["max"] - self.entry["min"]
            return width / self.entry["median"]
        return self.entry[name]


@dataclass(frozen=True)
class _Meta:
    run: Run

    def part(self, name: str) -> Number:
        meta = self.run.meta
        if name not in meta:
            raise UserError(
                f"the meta event of {self.run.name} has no {name!r}"
                f"{near(name, meta)}."
            )
        return meta[name]


def evaluate(text: str, loader: Loader = load) -> Number | str:
    """Return the value of an expression: finite, or a record's text.

    Raises `UserError` with one sentence when the expression is not one,
    has no finite value, or names a run or a metric that the records do not
    hold.
    """
    try:
        return _number(_evaluate(_parse(text), loader, text))
    except UserError:
        raise
    except (ArithmeticError, TypeError, ValueError) as error:
        raise UserError(f"{short(text)} has no value: {error}.") from None


def unit(text: str, loader: Loader = load) -> str:
    """Return the unit when an expression is one metric, else nothing."""
    node = _parse(text)
    if isinstance(node, ast.Attribute) and node.attr in _PARTS[:-1]:
        node = node.value
    if not isinstance(node, ast.Attribute | ast.Subscript):
        return ""
    value = _evaluate(node, loader, text)
    return value.entry["unit"] if isinstance(value, Metric) else ""


def _parse(text: str) -> ast.expr:
    if len(text) > LONGEST:
        raise UserError(
            f"{short(text)} has {len(text)} characters: an expression has "
            f"at most {LONGEST}, so divide it."
        )
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        why = error.msg
    except (ValueError, RecursionError, MemoryError):
        why = "it is nested too deeply or no text"
    else:
        level, depth = [node], 0
        while level:
            depth += 1
            level = [c for n in level for c in ast.iter_child_nodes(n)]
        if depth <= DEEPEST:
            return node
        why = f"it has {depth} parts inside parts, and {DEEPEST} are allowed"
    raise UserError(f"{short(text)} is not an expression: {why}.")


def _evaluate(node: ast.expr, loader: Loader, text: str):
    def value(inner: ast.expr) -> Number | str:
        return _number(_evaluate(inner, loader, text))

    def number(inner: ast.expr) -> Number:
        return _finite(value(inner))

    match node:
        case ast.Constant(value=int() | float() | bool() as constant):
            return _finite(constant)
        case ast.BinOp(op=op) if type(op) in _BINARY:
            left, right = number(node.left), number(node.right)
            if isinstance(op, ast.Pow):
                math.pow(left, right)  # raises what would be too large
            return _finite(_BINARY[type(op)](left, right))
        case ast.UnaryOp(op=op) if type(op) in _UNARY:
            return _UNARY[type(op)](number(node.operand))
        case ast.BoolOp(op=ast.And()):
            return all(value(item) for item in node.values)
        case ast.BoolOp(op=ast.Or()):
            return any(value(item) for item in node.values)
        case ast.Compare():
            sides = [value(s) for s in (node.left, *node.comparators)]
            for op in node.ops:
                if type(op) not in _COMPARE:
                    raise _refused(node, text)
            pairs = zip(node.ops, sides, sides[1:], strict=False)
            return all(_COMPARE[type(op)](a, b) for op, a, b in pairs)
        case ast.Call() if _called(node) == "run":
            return loader(_run_name(node, text))
        case ast.Call() if _called(node) == "predicted":
            words = {k.arg: _option(k.value, text) for k in node.keywords}
            names = [_literal(item, text) for item in node.args]
            if len(names) != 2 or None in words:
                raise _refused(node, text)
            return predicted(loader, *names, **words)
        case ast.Call(keywords=[]) if _called(node) == "by_place":
            return by_place(loader, *(_literal(a, text) for a in node.args))
        case ast.Call(keywords=[]) if _called(node) in _FUNCTIONS:
            function = _FUNCTIONS[_called(node)]
            return _finite(function(*map(number, node.args)))
        case ast.Attribute(value=inner, attr=attribute):
            owner = _evaluate(inner, loader, text)
            if isinstance(owner, Metric | _Meta):
                return owner.part(attribute)
            if isinstance(owner, Run):
                if attribute == "meta":
                    return _Meta(owner)
                return metric(owner, attribute)
        case ast.Subscript(value=inner, slice=ast.Constant(value=str(key))):
            owner = _evaluate(inner, loader, text)
            if isinstance(owner, Run):
                return metric(owner, key)
    raise _refused(node, text)


def metric(run: Run, key: str) -> Metric:
    """Return one metric of a run, or name those that are like it."""
    if key not in run.summary:
        raise UserError(
            f"{run.name} has no metric {key!r}{near(key, run.summary)}: "
            f"`workshop runs show {run.name}` lists them."
        )
    return Metric(key, run.summary[key])


def _number(value: object) -> Number | str:
    if isinstance(value, Metric):
        return _finite(value.part("median"))
    if isinstance(value, Run | _Meta):
        raise UserError(
            'run("...") is a whole run: name one of its metrics, '
            'such as run("...").tokens_per_s.'
        )
    return value if isinstance(value, str) else _finite(value)


def _finite(value: object) -> Number:
    """Return a number that is one and finite, else raise TypeError."""
    if not isinstance(value, int | float):
        raise TypeError(f"{short(value)} is no real number")
    if not math.isfinite(value):  # OverflowError beyond a float's range
        raise TypeError(f"{value} is not finite")
    return value


def _literal(node: ast.expr, text: str) -> str | Number:
    match node:
        case ast.Constant(value=str() | int() | float() | bool() as value):
            return value
    raise _refused(node, text)


def _rounded(value: Number, digits: int | None) -> Number:
    """Round; of an int, digits far below 0 would be powers of ten."""
    if digits is not None and abs(digits) > DEEPEST:
        raise ValueError(f"{short(digits)} digits to round to")
    return round(value, digits)


def formatted(value: Number | str, style: str) -> str:
    """Return a value in a format, whose width no page needs beyond 99.

    Raises `UserError` when the format is none, or not of this value.
    """
    try:
        if re.search(r"\d{3}", style):
            raise ValueError("its width is more than 99")
        return format(value, style)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{value!r} cannot be shown as {short(style)}: {error}"
        ) from None


def _option(node: ast.expr, text: str) -> str | Number:
    """Return an argument of a prediction, of a size that one can walk."""
    value = _literal(node, text)
    if not isinstance(value, str) and not abs(value) <= _LARGEST_COUNT:
        raise ValueError(f"{short(value)} is beyond {_LARGEST_COUNT}")
    return value


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _run_name(node: ast.Call, text: str) -> str:
    match node:
        case ast.Call(args=[ast.Constant(value=str(name))], keywords=[]):
            return name
    raise UserError(f'{text!r}: run takes one name, as in run("lab1/x").')


def _refused(node: ast.AST, text: str) -> UserError:
    part = short(ast.unparse(node))
    return UserError(
        f"{part} in {short(text)} is not allowed: use run(...), "
        "predicted(...), by_place(...), numbers, arithmetic, comparisons and "
        f"{', '.join(_FUNCTIONS)}."
    )
