"""The exception whose message is meant for the person at the keyboard."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class UserError(Exception):
    """Bad input: one sentence that says what, why and what to do."""


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one sentence on stderr and exit with `code`."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def one_sentence(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a `UserError` of `function` into one sentence and exit code 2."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            fail(str(error))

    return guarded
