"""Checks for the exercises of chapter 01: each says what it found.

An answer of None is one that was not given yet.
"""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from math import isclose

from workshop.bench.links.all_reduce import Point
from workshop.bench.links.fit import Fit

RIGHT = "Right."
MISSING = "Not answered yet: put your answer where None stands."


def check_bus_bandwidth(answer: float | None) -> str:
    """Judge the GB/s of 1 GiB summed over 8 ranks in 5 ms."""
    point = Point(bytes=2**30, seconds=5e-3, repeats=1, world=8)
    if answer is None:
        return MISSING
    if isclose(answer, point.bus_bandwidth / 1e9, rel_tol=0.01):
        return RIGHT
    if isclose(answer, point.algorithm_bandwidth / 1e9, rel_tol=0.01):
        return "That is the algorithm bandwidth: what did each rank send?"
    return "Not yet: divide bytes by seconds, then count what a rank sends."


def check_half_length(
    answer: Callable[[float, float], float] | None,
) -> str:
    """Judge a function of α (s) and β (bytes/s) that returns bytes.

    A message of that length takes twice the time of an empty one.
    """
    if answer is None:
        return MISSING
    for alpha, beta in ((2e-5, 3e11), (6e-5, 3e9)):
        ratio = Fit(alpha, beta, 0, 0).seconds(answer(alpha, beta)) / alpha
        if not isclose(ratio, 2, rel_tol=1e-6):
            return (
                f"Not yet: with α = {alpha:g} s and β = {beta:g} bytes/s "
                f"such a message takes {ratio:.3g} α, not 2 α."
            )
    return RIGHT


def check_node_numbers(answer: Callable[[], None] | None) -> str:
    """Judge a command that prints 0 and 1, each from its own node."""
    if answer is None:
        return MISSING
    with redirect_stdout(io.StringIO()) as printed:
        answer()
    lines = printed.getvalue().split()
    if sorted(lines[-2:]) == ["0", "1"]:
        return RIGHT
    return f"Not yet: it printed {' '.join(lines) or 'nothing'}."
