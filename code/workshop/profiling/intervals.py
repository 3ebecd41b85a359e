"""Sets of moments: sorted, disjoint [begin, end) pairs of one timeline."""

from collections.abc import Iterable

Interval = tuple[float, float]


def union(intervals: Iterable[Interval], gap: float = 0.0) -> list[Interval]:
    """Return the moments that any interval covers.

    Args:
        gap: join neighbours that lie at most this far apart.
    """
    joined: list[Interval] = []
    for begin, end in sorted(intervals):
        if end <= begin:
            continue
        if joined and begin <= joined[-1][1] + gap:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def intersection(a: list[Interval], b: list[Interval]) -> list[Interval]:
    """Return the moments that both unions cover."""
    common = []
    i = j = 0
    while i < len(a) and j < len(b):
        begin, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if begin < end:
            common.append((begin, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return common


def length(intervals: list[Interval]) -> float:
    """Return how long a union lasts in all."""
    return sum(end - begin for begin, end in intervals)
