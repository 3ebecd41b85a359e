"""Where the time of a step goes: compute, communication, overlap, idle.

What runs on the GPU is sorted into compute, communication and the rest, as
`events.activities` says.  A communication kernel also waits: its time
holds the time until the slowest rank arrives.
"""

import json
from pathlib import Path
from statistics import median

from workshop.job.metrics import MetricsWriter
from workshop.profiling.events import (
    Activity,
    activities,
    read,
    windows,
)
from workshop.profiling.intervals import (
    Interval,
    intersection,
    length,
    union,
)
from workshop.profiling.shrink import pack

TIMELINE_GAP_US = 20.0


def measure_window(gpu: list[Activity], window: Interval) -> dict:
    """Return the times of one step in ms, by unions of intervals.

    `overlap_fraction` is the part of the communication's time during which
    a compute kernel runs on another stream (None without communication);
    `exposed_communication_ms` is the rest of it; `idle_ms` is the time in
    which the GPU does nothing at all.
    """
    inside = [window]
    here = [a for a in gpu if a.end > window[0] and a.begin < window[1]]

    def covered(kept: list[Activity]) -> list[Interval]:
        return intersection(union((a.begin, a.end) for a in kept), inside)

    compute = [a for a in here if a.kind == "compute"]
    talk = [a for a in here if a.kind == "communication"]
    hidden = union(
        interval
        for stream in {a.stream for a in talk}
        for interval in intersection(
            covered([a for a in talk if a.stream == stream]),
            covered([a for a in compute if a.stream != stream]),
        )
    )
    all_talk, overlapped = length(covered(talk)), length(hidden)
    step = window[1] - window[0]
    return {
        "step_ms": step / 1e3,
        "compute_ms": length(covered(compute)) / 1e3,
        "communication_ms": all_talk / 1e3,
        "overlapped_ms": overlapped / 1e3,
        "exposed_communication_ms": (all_talk - overlapped) / 1e3,
        "overlap_fraction": overlapped / all_talk if all_talk else None,
        "idle_ms": (step - length(covered(here))) / 1e3,
    }


def summarise_trace(path: str | Path) -> dict:
    """Return where the time of the traced steps goes.

    Returns:
        the fields of `measure_window`, each the median over the steps;
        `steps`, one dictionary of them a step; and `timeline`, the streams
        of the step in the middle (see `timeline`).

    Raises:
        UserError: no such file, not a trace, or no GPU in it.
    """
    events = read(path)["traceEvents"]
    gpu = activities(events)
    spans = windows(events)
    steps = [
        {"step": name, **measure_window(gpu, span)} for name, span in spans
    ]
    middle = {}
    for field in steps[0]:
        values = [s[field] for s in steps if s[field] is not None]
        if field != "step":
            middle[field] = median(values) if values else None
    return {
        **middle,
        "steps": steps,
        "timeline": timeline(gpu, spans[len(spans) // 2][1]),
    }


def timeline(
    gpu: list[Activity], window: Interval, gap: float = TIMELINE_GAP_US
) -> list[dict]:
    """Return what each stream did in one step, ready to draw.

    Returns:
        one entry a stream and kind, `{"device", "stream", "kind", "spans"}`
        with spans as [begin, length] in ms from the step's start;
        activities less than `gap` µs apart are joined.
    """
    begin, end = window
    rows: dict[tuple, list[Interval]] = {}
    for a in gpu:
        if a.end > begin and a.begin < end:
            clipped = (max(a.begin, begin), min(a.end, end))
            rows.setdefault((*a.stream, a.kind), []).append(clipped)
    return [
        {
            "device": device,
            "stream": stream,
            "kind": kind,
            "spans": [
                [round((b - begin) / 1e3, 4), round((e - b) / 1e3, 4)]
                for b, e in union(spans, gap)
            ],
        }
        for (device, stream, kind), spans in sorted(rows.items())
    ]


def record(
    path: str | Path,
    artifacts: str | Path,
    writer: MetricsWriter,
    **labels: object,
) -> dict:
    """Summarise a trace, keep its artifacts, write its measures.

    `artifacts` gets `profile.json` (the summary) and `trace.json.gz` (one
    step).  Measures are the times of `measure_window`, with `labels`.

    Raises:
        UserError: no GPU in the trace, or even one step passes 300 kB.
    """
    summary = summarise_trace(path)
    events = read(path)["traceEvents"]
    spans = windows(events)
    step, _ = pack(events, *spans[len(spans) // 2], [], None)
    folder = Path(artifacts)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    (folder / "profile.json").write_text(text + "\n", encoding="utf-8")
    (folder / "trace.json.gz").write_bytes(step)
    for name, value in summary.items():
        if isinstance(value, float):
            unit = "ms" if name.endswith("_ms") else ""
            writer.measure(name, value, unit, **labels)
    return summary
