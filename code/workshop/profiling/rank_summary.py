"""What a rank's profile says, in the numbers that a reader wants.

The trace may be a GPU's or, without one, of the CPU's threads; the fields
are the same.
"""

from dataclasses import dataclass
from pathlib import Path

from workshop.profiling.cpu_threads import cpu_activities, cpu_shares
from workshop.profiling.events import (
    STEP,
    Activity,
    activities,
    compute_streams,
    load,
    on_gpu,
    windows,
)
from workshop.profiling.groups import (
    COMMUNICATION,
    COPIES,
    OPTIMIZER,
    Share,
    group_times,
    kernel_group,
    top_kernels,
)
from workshop.profiling.intervals import Interval
from workshop.profiling.memory_timeline import memory_timeline
from workshop.profiling.ranges import (
    OPTIMIZER_STEP,
    Range,
    inside,
    ranges,
)
from workshop.profiling.shrink import pack
from workshop.profiling.trace import (
    TIMELINE_GAP_US,
    measure_window,
    timeline,
)

DRAWN = 2000
"""A drawn step joins what is closer than one part in so many of it."""


@dataclass(frozen=True)
class RankSummary:
    """One rank's numbers, and its step as a small trace.

    Attributes:
        numbers: JSON, see `summarise_rank`.
        trace: a gzipped Chrome trace of the step in the middle.
    """

    numbers: dict
    trace: bytes


def summarise_rank(path: str | Path, first: int = 0) -> RankSummary:
    """Summarise the Chrome trace of one rank's profiled steps.

    Args:
        first: the number of the step that the profiler calls 0.

    `numbers` is about the step in the middle, so that its times add up:
    `step` (its number), the fields of `trace.measure_window`, `begin_us`
    (on the machine's clock), `groups` (ms of each of
    `groups.GROUPS`; messages that are under way at once count once),
    `kernels` (the longest), `timeline` (see
    `trace.timeline`), `ranges` ([name, begin, length] in ms), `memory`
    (see `memory_timeline`), and `shortest_kept_us`, below which the trace
    leaves kernels out.  `steps` has the fields of `measure_window` for
    every step.

    Raises:
        UserError: no trace there, or a step too large to keep.
    """
    whole = load(path)
    events = whole["traceEvents"]
    gpu = on_gpu(events)
    done = activities(events) if gpu else cpu_activities(events)
    spans = windows(events)
    steps = [
        {"step": _number(name, first), **measure_window(done, span)}
        for name, span in spans
    ]
    window = spans[len(spans) // 2][1]
    middle = steps[len(steps) // 2]
    named = inside(
        ranges(events, compute_streams(events) if gpu else set()), window
    )
    shares = (
        gpu_shares(done, named, window) if gpu else cpu_shares(events, window)
    )
    memory = memory_timeline(events, window, gpu)
    trace, shortest = pack(
        events, f"{STEP}{middle['step']}", window, named, memory
    )
    gap = max(TIMELINE_GAP_US, (window[1] - window[0]) / DRAWN)
    numbers = {
        "on_gpu": gpu,
        **middle,
        "steps": steps,
        "begin_us": whole.get("baseTimeNanoseconds", 0) / 1e3 + window[0],
        "groups": {
            **group_times(shares),
            COMMUNICATION: middle["communication_ms"],
        },
        "kernels": top_kernels(shares),
        "timeline": timeline(done, window, gap),
        "ranges": [
            [
                span.name,
                round((span.begin - window[0]) / 1e3, 4),
                round((span.end - span.begin) / 1e3, 4),
            ]
            for span in named
        ],
        "memory": memory,
        "shortest_kept_us": shortest,
    }
    return RankSummary(numbers, trace)


def _number(name: str, first: int) -> int:
    """Return a step's number; a trace without names is one step."""
    return first + int(name.removeprefix(STEP)) if STEP in name else first


def gpu_shares(
    gpu: list[Activity], named: list[Range], window: Interval
) -> list[Share]:
    """Return the GPU's kernels and copies of a step, with their groups.

    What a communication stream does is communication; a kernel that is
    launched by the optimizer's step is the optimizer's.
    """
    optimizer = [
        (span.begin, span.end)
        for span in named
        if span.name.startswith(OPTIMIZER_STEP)
    ]
    shares = []
    for a in gpu:
        if not window[0] <= a.begin < window[1]:
            continue
        group = kernel_group(a.name)
        if a.kind == "communication":
            group = COMMUNICATION
        elif group != COPIES and any(
            begin <= a.begin < end for begin, end in optimizer
        ):
            group = OPTIMIZER
        shares.append(Share(a.name, group, a.end - a.begin))
    return shares
