"""Evaluate and print what a role or a table cell asks of the records."""

import ast
from dataclasses import dataclass

from workshop.errors import UserError
from workshop.records import expression
from workshop.records.load import Run
from workshop_book.used import Runs

UNSPACED = ("×", "°", "'")


@dataclass(frozen=True)
class Value:
    """A number as the reader sees it, and where it comes from."""

    text: str
    origin: str
    runs: tuple[Run, ...]


def split(text: str, least: int, most: int, shape: str) -> list[str]:
    """Split `a | b | c` into its parts, or say which shape is meant."""
    parts = [part.strip() for part in text.split("|")]
    if not least <= len(parts) <= most or not parts[0]:
        raise UserError(f"{text!r} is not of the form {shape}")
    return parts


def shown(value: object, unit: str, style: str) -> str:
    """Return a number with its format and unit, as typeset."""
    number = expression.formatted(value, style)
    number = number.replace("-", "\N{MINUS SIGN}", number.startswith("-"))
    if not unit:
        return number
    space = "" if unit in UNSPACED else "\N{NO-BREAK SPACE}"
    return f"{number}{space}{unit}"


def number(runs: Runs, text: str, unit: str = "", style: str = "") -> Value:
    """Evaluate an expression and format it (default: four digits)."""
    with runs.noting() as read:
        value = expression.evaluate(text, runs.load)
        if isinstance(value, bool | str):
            raise UserError(f"{text!r} is {value!r} and not a number")
        unit = unit or expression.unit(text, runs.load)
        return Value(
            shown(value, unit, style or ".4g"),
            origin(text, spread(text, runs), read),
            tuple(read),
        )


def spread(text: str, runs: Runs) -> str:
    """Return `lowest to highest` when an expression is one metric."""
    try:
        low, high = (
            expression.evaluate(f"({text}).{end}", runs.load)
            for end in ("min", "max")
        )
    except UserError:
        return ""
    return f"{low:.5g} to {high:.5g} over the repeats"


def origin(text: str, repeats: str, runs: list[Run]) -> str:
    """Return the tooltip: expression, spread, and each run's job."""
    lines = [text] + ([repeats] if repeats else [])
    lines += [f"{run.name}: {run.provenance()}" for run in runs]
    return "\n".join(lines)


def steps(text: str, runs: Runs) -> str:
    """Return every part of an expression with its value, inside out."""
    parts: dict[str, str] = {}
    for node in ast.walk(ast.parse(text.strip(), mode="eval").body):
        if isinstance(node, ast.Constant | ast.Name) or not isinstance(
            node, ast.expr
        ):
            continue
        part = ast.unparse(node)
        try:
            value = expression.evaluate(part, runs.load)
        except UserError:
            continue
        parts[part] = (
            f"{value:.6g}" if isinstance(value, float) else str(value)
        )
    return ", ".join(f"{part} = {value}" for part, value in parts.items())
