"""Make a trace small enough to keep: one step, only what the GPUs did."""

import gzip
import json
from pathlib import Path

from workshop.errors import UserError
from workshop.training.trace_events import GPU, STEP, read, windows

LIMIT_BYTES = 300_000
NAME_LENGTH = 100
KEPT = ("device", "stream", "grid", "bytes")


def shrink(path: str | Path, out: str | Path) -> Path:
    """Write the step in the middle of the trace `path` to `out`, gzipped.

    The result is a trace of its own: viewers show it, and
    `summarise_trace` gives that step's numbers.  Times start at 0.

    Raises:
        UserError: no GPU in the trace, or even one step passes 300 kB.
    """
    events = read(path)["traceEvents"]
    spans = windows(events)
    name, (begin, end) = spans[len(spans) // 2]
    kept = [
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
        and event.get("cat") in GPU
        and event["ts"] + event["dur"] > begin
        and event["ts"] < end
    ]
    lanes = {(event["pid"], event["tid"]) for event in kept}
    named = [
        {key: event[key] for key in ("ph", "name", "pid", "tid", "args")}
        for event in events
        if event.get("ph") == "M"
        and "args" in event
        and (event.get("pid"), event.get("tid")) in lanes
    ]
    step = {
        "ph": "X",
        "cat": "gpu_user_annotation",
        "name": name if name.startswith(STEP) else f"{STEP}0",
        "pid": kept[0]["pid"] if kept else 0,
        "tid": 0,
        "ts": 0.0,
        "dur": round(end - begin, 3),
    }
    text = json.dumps({"traceEvents": [*named, step, *kept]})
    # no time of writing in the header: the same trace, the same bytes
    packed = gzip.compress(text.encode(), compresslevel=9, mtime=0)
    if len(packed) > LIMIT_BYTES:
        raise UserError(
            f"one step of {path} takes {len(packed)} bytes, over the limit "
            f"of {LIMIT_BYTES} for a record: profile a shorter step"
        )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(packed)
    return out
