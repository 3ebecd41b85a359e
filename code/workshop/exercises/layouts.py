"""Checks for the exercises of chapter 03: each says what it found.

An answer of None is one that was not given yet. A link is a pair: α in
seconds and β in bytes a second.
"""

from collections.abc import Callable
from math import ceil

RIGHT = "Right."
MISSING = "Not answered yet: put your answer where None stands."

Link = tuple[float, float]


def check_micro_batches(
    answer: Callable[[int, int, float], int] | None,
) -> str:
    """Judge a function of the stages p, the chunks v and a share.

    It returns the fewest micro-batches with which at most that share of a
    step is bubble; with more than one chunk a rank (v > 1) they come in
    multiples of p.
    """
    if answer is None:
        return MISSING
    cases = ((2, 1, 0.07), (8, 1, 0.12), (8, 4, 0.12), (4, 2, 0.09))
    for p, v, share in cases:
        due = _fewest(p, v, share)
        m = answer(p, v, share)
        if m == due:
            continue
        if v > 1 and m % p:
            return (
                f"Not yet: with {v} chunks a rank, micro-batches come in "
                f"multiples of p = {p}, and {m} is none."
            )
        bubble = (p - 1) / (v * m + p - 1)
        return (
            f"Not yet: {p} stages of {v} chunk(s) idle {bubble:.3f} of a "
            f"step with {m} micro-batches; at most {share:g} takes {due}."
        )
    return RIGHT


def _fewest(p: int, v: int, share: float) -> int:
    """Return the fewest micro-batches for (p-1) / (v m + p-1) <= share."""
    least = ceil((p - 1) * (1 - share) / (share * v))
    return least if v == 1 else p * ceil(least / p)


def check_placement(
    answer: Callable[[int, int, int, Link, Link], str] | None,
) -> str:
    """Judge a function that says what goes inside a node: tp or dp.

    Two nodes have two GPUs each, and tp = dp = 2. The function gets the
    layers, the bytes of an activation, the bytes of all gradients of the
    model, the link inside a node and the link between nodes.
    """
    if answer is None:
        return MISSING
    nvlink, network = (20e-6, 300e9), (30e-6, 3e9)
    cases = (
        (24, 67_108_864, 2_600_000_000, nvlink, network),
        (24, 262_144, 2_600_000_000, nvlink, network),
        (96, 4_096, 1_000_000, nvlink, network),
    )
    for layers, activation, gradients, inside, between in cases:
        times = {
            "tp": _tensor(layers, activation, inside)
            + _data(gradients, between),
            "dp": _tensor(layers, activation, between)
            + _data(gradients, inside),
        }
        due = min(times, key=times.__getitem__)
        axis = answer(layers, activation, gradients, inside, between)
        if axis not in times:
            return f"Not yet: {axis!r} is neither 'tp' nor 'dp'."
        if axis != due:
            return (
                f"Not yet: with {layers} layers, activations of "
                f"{activation:,} bytes and gradients of {gradients:,}, "
                f"{axis} inside the node talks for {times[axis]:.4f} s a "
                f"step and {due} for {times[due]:.4f} s."
            )
    return RIGHT


def _tensor(layers: int, activation: int, link: Link) -> float:
    """Return the seconds of four all-reduces a layer between two ranks."""
    alpha, beta = link
    return 4 * layers * (alpha + activation / beta)


def _data(gradients: int, link: Link) -> float:
    """Return the seconds of averaging the half that a rank holds."""
    alpha, beta = link
    return alpha + gradients / 2 / beta


def check_cut(answer: Callable[[int, int, float], list[int]] | None) -> str:
    """Judge a function of the layers, the stages and the head's cost.

    The cost is in layers, and the last stage bears it; the function
    returns the layers of each stage. A cut is right when no other has a
    slowest stage that is faster.
    """
    if answer is None:
        return MISSING
    for layers, stages, head in ((24, 2, 2.0), (24, 4, 2.0), (10, 3, 0.4)):
        shares = list(answer(layers, stages, head))
        if len(shares) != stages or sum(shares) != layers or min(shares) < 1:
            return (
                f"Not yet: {shares} does not cut {layers} layers into "
                f"{stages} stages with a layer or more in each."
            )
        slowest = max(*shares[:-1], shares[-1] + head)
        best = _shortest(layers, stages, head)
        if slowest > best + 1e-9:
            return (
                f"Not yet: the slowest stage of {shares} costs {slowest:g} "
                f"layers with a head of {head:g}, and {best:g} is possible."
            )
    return RIGHT


def _shortest(layers: int, stages: int, head: float) -> float:
    """Return the cost of the slowest stage in the best cut."""
    return min(
        max(ceil((layers - last) / (stages - 1)), last + head)
        for last in range(1, layers - stages + 2)
    )
