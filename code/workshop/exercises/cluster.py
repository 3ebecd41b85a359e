"""Checks for the exercises of chapter 01: each says what it found.

An answer of None is one that was not given yet.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isclose

from workshop.bench.links.fit import Fit
from workshop.exercises.verdict import MISSING, RIGHT


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


def check_bucket_time(
    answer: Callable[[Sequence[int], float, float, float], float] | None,
) -> str:
    """Judge a function of sizes, limit (bytes), α (s) and β (bytes/s).

    It returns the seconds of an all-reduce of all tensors, joined in order
    into buckets: the next tensor opens a new one where the bucket would
    grow beyond the limit, and one that is larger alone is a bucket alone.
    """
    if answer is None:
        return MISSING
    one, link = [4, 4, 4, 4], (1.0, 2.0)
    cases = (
        (one, 1, "a limit below every tensor: each is a message alone"),
        (one, 16, "a limit that all tensors fill exactly: one message"),
        (one, 15, "four equal tensors and room for three"),
        ([9, 1, 1], 4, "a first tensor beyond the limit, then small ones"),
        ([3, 3, 1, 3], 6, "tensors that fill a bucket exactly, in order"),
        ([3, 4, 3], 6, "a bucket with room left that a tensor did not fit"),
        ([1, 9, 1], 4, "a tensor beyond the limit between small ones"),
    )
    for sizes, limit, what in cases:
        told = answer(list(sizes), limit, *link)
        messages = _buckets(sizes, limit)
        if not isclose(told, messages * link[0] + sum(sizes) / link[1]):
            return f"Not yet: it is wrong for {what}."
    return RIGHT


def _buckets(sizes: Sequence[int], limit: float) -> int:
    count, room = 0, 0.0
    for size in sizes:
        if count == 0 or size > room:
            count, room = count + 1, limit
        room -= size
    return count


NEAR = ("PIX", "PXB", "PHB", "NODE", "SYS")


def rank_of(link: str) -> int:
    """Return how good a link of `nvidia-smi topo -m` is, more is better."""
    return int(link[2:]) if link.startswith("NV") else -NEAR.index(link)


def check_pairs(
    answer: Callable[[list[list[str]]], list[tuple[int, int]]] | None,
) -> str:
    """Judge a function of a matrix of links that makes two pairs of GPUs.

    The slower of the two links is to be the fastest that can be had.
    """
    if answer is None:
        return MISSING
    cases = (
        ("NV4 PHB PHB PHB PHB NV4", "two bridges"),
        ("SYS NV4 SYS SYS NV4 SYS", "two bridges, numbered otherwise"),
        ("PIX SYS SYS SYS SYS PIX", "no NVLink and two processors"),
        ("SYS NODE PHB PXB PIX SYS", "no NVLink and every way over PCIe"),
        ("NV12 NV4 PHB PHB NV4 SYS", "a fast pair whose others are far"),
    )
    for text, what in (*cases, *_neighbours()):
        matrix = _matrix(text.split())
        pairs = answer(matrix)
        members = sorted(gpu for pair in pairs for gpu in pair)
        if members != [0, 1, 2, 3] or any(len(pair) != 2 for pair in pairs):
            return f"Not yet: with {what}, not every GPU is in one pair."
        slower = min(rank_of(matrix[a][b]) for a, b in pairs)
        best = max(
            min(rank_of(matrix[0][a]), rank_of(matrix[b][c]))
            for a, b, c in ((1, 2, 3), (2, 1, 3), (3, 1, 2))
        )
        if slower < best:
            return f"Not yet: with {what}, a pair meets over a slower link."
    return RIGHT


def _neighbours() -> list[tuple[str, str]]:
    """Return a case for every two links that follow in the order.

    The worse one joins the first way to pair, so that only an answer that
    knows which is better leaves it.
    """
    order = ("NV12", "NV4", "NV1", *NEAR)
    return [
        (f"{worse} {better} SYS SYS {better} {worse}", f"{better} or {worse}")
        for better, worse in pairwise(order)
    ]


def _matrix(above: list[str]) -> list[list[str]]:
    """Return the 4 × 4 matrix of the six links above its diagonal."""
    links = dict(zip(_ABOVE, above, strict=True))
    return [
        ["X" if i == j else links[min(i, j), max(i, j)] for j in range(4)]
        for i in range(4)
    ]


_ABOVE = [(i, j) for i in range(4) for j in range(i + 1, 4)]
