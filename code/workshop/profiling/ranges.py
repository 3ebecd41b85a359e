"""What a step is made of by name: micro-batches and the optimizer.

The pipeline's executor names the forward of micro-batch 3 `F3` and its
backward `B3` (of the second chunk on a rank: `F3.1`), and torch names an
optimizer's step; the trace holds these ranges as the host went through
them.  A GPU runs what was launched inside a range later, and autograd
launches from a thread of its own, so that a range's time on the GPU is
that of the kernels whose launch lies inside.
"""

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from workshop.profiling.events import GPU, Stream, stream_of
from workshop.profiling.intervals import Interval

MICROBATCH = re.compile(
    r"(?P<kind>[FB])(?P<microbatch>\d+)(\.(?P<chunk>\d+))?"
)
OPTIMIZER_STEP = "Optimizer.step#"
LAUNCHES = {"cuda_runtime", "cuda_driver"}


@dataclass(frozen=True)
class Range:
    """A named part of the step on the device; times in µs of its clock."""

    name: str
    begin: float
    end: float

    @property
    def kind(self) -> str | None:
        """F, B, or None for what belongs to no micro-batch."""
        match = MICROBATCH.fullmatch(self.name)
        return match["kind"] if match else None


def launches(events: list[dict]) -> dict[int, float]:
    """Return when the host launched each correlation id, in µs."""
    return {
        event["args"]["correlation"]: event["ts"]
        for event in events
        if event.get("cat") in LAUNCHES
        and "correlation" in event.get("args", {})
    }


def ranges(events: list[dict], streams: set[Stream]) -> list[Range]:
    """Return the named ranges, in order of time, as the device ran them.

    Args:
        streams: the GPUs' compute streams, whose kernels count; empty for
            a trace without GPU, where the host's own times are the ranges'.

    A range that launched nothing there is left out.  A trace that holds no
    launches (see `shrink.pack`) has the ranges ready.
    """
    category, launched = "user_annotation", {}
    if streams:
        launched = launches(events)
        if not launched:
            category = "gpu_user_annotation"
    named = [
        Range(event["name"], event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("cat") == category and _is_named(event["name"])
    ]
    if launched:
        named = _on_device(named, events, launched, streams)
    return sorted(named, key=lambda span: (span.begin, span.end))


def _is_named(name: str) -> bool:
    return name.startswith(OPTIMIZER_STEP) or bool(MICROBATCH.fullmatch(name))


def _on_device(
    named: list[Range],
    events: list[dict],
    launched: dict[int, float],
    streams: set[Stream],
) -> list[Range]:
    """Move ranges from the host's time to that of their kernels."""
    kernels = sorted(
        (launched[event["args"]["correlation"]], event["ts"], event["dur"])
        for event in events
        if event.get("cat") in GPU
        and stream_of(event) in streams
        and event.get("args", {}).get("correlation") in launched
    )
    at = [launch for launch, _, _ in kernels]
    moved = []
    for span in named:
        inside = kernels[
            bisect_left(at, span.begin) : bisect_right(at, span.end)
        ]
        if inside:
            begin = min(ts for _, ts, _ in inside)
            end = max(ts + dur for _, ts, dur in inside)
            moved.append(Range(span.name, begin, end))
    return moved


def inside(ranges: list[Range], window: Interval) -> list[Range]:
    """Return the ranges that begin in a window, cut at its end."""
    return [
        Range(r.name, r.begin, min(r.end, window[1]))
        for r in ranges
        if window[0] <= r.begin < window[1]
    ]
