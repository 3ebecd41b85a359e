"""Make a trace small enough to keep: one step, only what was computed."""

import gzip
import json

from workshop.errors import UserError
from workshop.profiling.events import GPU, STEP, on_gpu
from workshop.profiling.intervals import Interval
from workshop.profiling.ranges import Range

LIMIT_BYTES = 300_000
NAME_LENGTH = 100
KEPT = ("device", "stream", "grid", "bytes")
HOST = {"cpu_op", "user_annotation"}
SHORTEST_US = (0.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


def pack(
    events: list[dict],
    name: str,
    window: Interval,
    named: list[Range],
    memory: dict | None,
) -> tuple[bytes, float]:
    """Return one step as a gzipped trace of at most 300 kB.

    It is a trace of its own, whose times start at 0: viewers show it, and
    its numbers are that step's.

    Args:
        name: the step's, as `windows` gives it with its `window`.
        named: ranges that get a lane of their own.
        memory: of `memory_timeline`, for a counter; None: no counter.

    Returns:
        the bytes, and below how many µs kernels are left out (0: none is).
        A step with too many kernels first loses the details of each.

    Raises:
        UserError: it does not fit even without its shortest kernels.
    """
    gpu = on_gpu(events)
    marks, work = _one_step(events, name, window, GPU if gpu else HOST)
    if gpu:
        marks += [_mark(r.name, (r.begin, r.end), window) for r in named]
    marks += _counter(memory)
    packed, shortest = _packed(marks + work), 0.0
    for least in SHORTEST_US:
        if len(packed) <= LIMIT_BYTES:
            return packed, shortest
        shortest = least
        work = [_bare(e) for e in work if e["dur"] >= shortest]
        packed = _packed(marks + work)
    if len(packed) <= LIMIT_BYTES:
        return packed, shortest
    raise UserError(
        f"one step of the profile takes {len(packed)} bytes even without "
        f"what ends in {shortest:g} µs, over the limit of {LIMIT_BYTES} for "
        "a record: profile a shorter step"
    )


def _one_step(
    events: list[dict], name: str, window: Interval, categories: set[str]
) -> tuple[list[dict], list[dict]]:
    """Return the marks of a step (names, its own span) and its work."""
    begin, end = window
    work = [
        {
            "ph": "X",
            "cat": event["cat"],
            "name": event["name"][:NAME_LENGTH],
            "pid": event.get("pid", 0),
            "tid": event.get("tid", 0),
            "ts": round(event["ts"] - begin, 3),
            "dur": event["dur"],
            "args": {
                key: value
                for key, value in event.get("args", {}).items()
                if key in KEPT
            },
        }
        for event in events
        if event.get("ph") == "X"
        and event.get("cat") in categories
        and not event["name"].startswith(STEP)
        and event["ts"] + event["dur"] > begin
        and event["ts"] < end
    ]
    lanes = {(event["pid"], event["tid"]) for event in work}
    named = [
        {key: event[key] for key in ("ph", "name", "pid", "tid", "args")}
        for event in events
        if event.get("ph") == "M"
        and "args" in event
        and (event.get("pid"), event.get("tid")) in lanes
    ]
    step = name if name.startswith(STEP) else f"{STEP}0"
    mark = _mark(step, window, window)
    mark["pid"] = work[0]["pid"] if work else 0
    if categories is HOST:
        mark["cat"] = "user_annotation"
    return [*named, mark], work


def _mark(name: str, span: Interval, window: Interval) -> dict:
    return {
        "ph": "X",
        "cat": "gpu_user_annotation",
        "name": name,
        "pid": 0,
        "tid": 0,
        "ts": round(span[0] - window[0], 3),
        "dur": round(span[1] - span[0], 3),
    }


def _counter(memory: dict | None) -> list[dict]:
    """Return the memory over time as a viewer draws it."""
    return [
        {
            "ph": "C",
            "name": "allocated (GiB)",
            "pid": 0,
            "ts": round(at * 1e3, 3),
            "args": {"GiB": gib},
        }
        for at, gib in (memory["points"] if memory else [])
    ]


def _bare(event: dict) -> dict:
    """Return an event without what only a viewer's details show."""
    lane = ("device", "stream")
    return {
        **event,
        "ts": round(event["ts"], 1),
        "dur": round(event["dur"], 1),
        "args": {k: v for k, v in event["args"].items() if k in lane},
    }


def _packed(events: list[dict]) -> bytes:
    text = json.dumps({"traceEvents": events})
    # no time of writing in the header: the same trace, the same bytes
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)
