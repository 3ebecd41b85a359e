"""Allocated memory over a step, from the profiler's memory events.

`profile_memory=True` writes an event for every block that torch's allocator
gives or takes back.  On the GPU the host allocates ahead of the kernels,
and the allocator reuses memory in the order of the stream; so here an
allocation happens when the next kernel that the host launched after it
begins.  On the CPU the profiler counts from its own start, not from zero.
"""

from bisect import bisect_left
from itertools import accumulate

from workshop.profiling.events import GPU
from workshop.profiling.intervals import Interval
from workshop.profiling.ranges import launches

GIB = 2**30
CPU, CUDA = 0, 1
POINTS = 300
"""At most twice as many are kept: the least and the most of each part."""


def memory_timeline(
    events: list[dict], window: Interval, on_gpu: bool
) -> dict | None:
    """Return the allocated memory during one step, ready to draw.

    Returns:
        `points`: [ms from the step's start, GiB allocated from then on];
        `peak_gib`: the most in the step; `from_zero`: False where the
        count begins with the profile.  None when nothing was allocated.
    """
    changes = _changes(events, CUDA if on_gpu else CPU)
    if on_gpu:
        changes = _on_device(events, changes)
    before = [size for at, size in changes if at < window[0]]
    during = [c for c in changes if window[0] <= c[0] < window[1]]
    if not before and not during:
        return None
    start = before[-1] if before else during[0][1]
    points = [(window[0], start), *during]
    return {
        "points": [
            [round((at - window[0]) / 1e3, 3), round(size / GIB, 5)]
            for at, size in _thinned(points, window)
        ],
        "peak_gib": max(size for _, size in points) / GIB,
        "from_zero": on_gpu,
    }


def _changes(events: list[dict], device: int) -> list[tuple[float, int]]:
    """Return (host time in µs, bytes allocated) after each change."""
    by_device: dict[int, list[tuple[float, int]]] = {}
    for event in events:
        args = event.get("args", {})
        if event.get("name") == "[memory]" and args["Device Type"] == device:
            each = by_device.setdefault(args["Device Id"], [])
            each.append((event["ts"], args["Total Allocated"]))
    most = max(by_device.values(), key=len, default=[])
    return sorted(most, key=lambda change: change[0])


def _on_device(
    events: list[dict], changes: list[tuple[float, int]]
) -> list[tuple[float, int]]:
    """Move changes from the host's time to that of the next kernel.

    Changes after the last launch keep the place of the last kernel.
    """
    launched = launches(events)
    kernels = sorted(
        (launched[event["args"]["correlation"]], event["ts"])
        for event in events
        if event.get("cat") in GPU
        and event.get("args", {}).get("correlation") in launched
    )
    if not kernels:
        return changes
    at = [launch for launch, _ in kernels]
    # Kernels of several streams begin out of order; memory does not.
    begun = list(accumulate((begin for _, begin in kernels), max))
    return [
        (begun[min(bisect_left(at, when), len(at) - 1)], size)
        for when, size in changes
    ]


def _thinned(
    points: list[tuple[float, int]], window: Interval
) -> list[tuple[float, int]]:
    """Keep the least and the most of each of `POINTS` parts of the step."""
    if len(points) <= 2 * POINTS:
        return points
    parts: dict[int, list[tuple[float, int]]] = {}
    for point in points:
        share = (point[0] - window[0]) / (window[1] - window[0])
        parts.setdefault(int(share * POINTS), []).append(point)
    kept = []
    for part in parts.values():
        low = min(part, key=lambda point: point[1])
        high = max(part, key=lambda point: point[1])
        kept += sorted({low, high})
    return kept
