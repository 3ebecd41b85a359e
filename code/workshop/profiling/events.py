"""What the GPUs did, read from a torch.profiler trace.

The trace is the Chrome JSON of `export_chrome_trace`, plain or gzipped.
Times are in µs of the trace's clock.
"""

import gzip
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from workshop.errors import UserError
from workshop.profiling.intervals import Interval

GPU = {"kernel", "gpu_memcpy", "gpu_memset"}
# NCCL's kernels, and those of torch's symmetric memory.
_TALKING = re.compile(r"^nccl|symmetric_memory::|_shot_all_reduce|^multimem")
STEP = "ProfilerStep#"

Stream = tuple[int, int]


@dataclass(frozen=True)
class Activity:
    """One thing that a GPU did; times in µs of the trace's clock.

    `kind` is "compute", "communication" or "other".
    """

    name: str
    shape: str
    kind: str
    stream: Stream
    begin: float
    end: float


def read(path: str | Path) -> dict:
    """Return the JSON of a GPU's trace.

    Raises:
        UserError: the file is missing, no trace, or holds no GPU.
    """
    trace = load(path)
    if not on_gpu(trace["traceEvents"]):
        raise UserError(
            f"the trace {path} holds nothing that ran on a GPU: profile on "
            "a GPU with ProfilerActivity.CUDA"
        )
    return trace


def on_gpu(events: list[dict]) -> bool:
    """Return whether a trace holds anything that ran on a GPU."""
    return any(event.get("cat") in GPU for event in events)


def load(path: str | Path) -> dict:
    """Return the trace's JSON, of a GPU or of the CPU alone.

    Raises:
        UserError: the file is missing or is not a trace.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        trace = json.loads(text)
        if not isinstance(trace["traceEvents"], list):
            raise TypeError
    except OSError as error:
        raise UserError(
            f"no trace can be read at {path} ({error.strerror or error}): "
            "profile a run first"
        ) from None
    except (ValueError, EOFError, KeyError, TypeError):
        raise UserError(
            f"{path} is not a profiler's Chrome trace: give a file that "
            "export_chrome_trace wrote"
        ) from None
    return trace


def activities(events: list[dict]) -> list[Activity]:
    """Return what the GPUs did, in order of time, sorted into kinds.

    NCCL's kernels and those of torch's symmetric memory are communication
    anywhere.  The compute stream of a device is the one with the most time
    in other kernels, which are compute.  Another stream that moves data
    between GPUs (by such kernels, by copies to a peer or inside device
    memory) is a communication stream: what packs, waits and averages there
    belongs to the communication.  What else runs beside is "other", so it
    hides no communication and is not called compute.
    """
    gpu = [e for e in events if e.get("ph") == "X" and e.get("cat") in GPU]
    compute = compute_streams(gpu)
    carriers = {stream_of(e) for e in gpu if _moves(e)} - compute
    activities = [
        Activity(
            event["name"],
            str(event.get("args", {}).get("grid", "")),
            _kind(event, compute, carriers),
            stream_of(event),
            event["ts"],
            event["ts"] + event["dur"],
        )
        for event in gpu
    ]
    return sorted(activities, key=lambda a: a.begin)


def compute_streams(events: list[dict]) -> set[Stream]:
    """Return each device's stream that computes the most."""
    busy: dict[Stream, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "kernel" and not _certain(event):
            busy[stream_of(event)] += event["dur"]
    best: dict[int, Stream] = {}
    for stream, time in busy.items():
        present = best.setdefault(stream[0], stream)
        if time > busy[present]:
            best[stream[0]] = stream
    return set(best.values())


def _certain(event: dict) -> bool:
    """True for what can only be communication."""
    if event["cat"] == "kernel":
        return bool(_TALKING.search(event["name"]))
    return event["name"].startswith("Memcpy PtoP")


def _moves(event: dict) -> bool:
    """True for what moves data between GPUs or prepares it there.

    A copy from a peer's memory that is mapped here shows as DtoD.
    """
    return _certain(event) or event["name"].startswith("Memcpy DtoD")


def _kind(event: dict, compute: set[Stream], carriers: set[Stream]) -> str:
    stream = stream_of(event)
    if _certain(event):
        return "communication"
    if stream in compute:
        return "compute" if event["cat"] == "kernel" else "other"
    if stream in carriers and (event["cat"] == "kernel" or _moves(event)):
        return "communication"
    return "other"


def stream_of(event: dict) -> Stream:
    """Return the (device, stream) that an event ran on."""
    args = event.get("args", {})
    return (int(args.get("device", 0)), int(args.get("stream", 0)))


def windows(events: list[dict]) -> list[tuple[str, Interval]]:
    """Return each profiled step's name and its time on the GPU.

    A step begins with its first GPU activity and ends where the next one
    begins; the last ends with its own last activity.  A trace without step
    annotations counts as one step.
    """
    spans: dict[str, list[float]] = {}
    for category in ("gpu_user_annotation", "user_annotation"):
        for event in events:
            name = event.get("name", "")
            if event.get("cat") == category and name.startswith(STEP):
                span = spans.setdefault(name, [event["ts"], event["ts"]])
                span[0] = min(span[0], event["ts"])
                span[1] = max(span[1], event["ts"] + event["dur"])
        if spans:
            break
    if not spans:
        gpu = activities(events)
        return [("all", (gpu[0].begin, max(a.end for a in gpu)))]
    order = sorted(spans.items(), key=lambda item: item[1][0])
    ends = [span[0] for _, span in order[1:]] + [order[-1][1][1]]
    return [
        (name, (span[0], end))
        for (name, span), end in zip(order, ends, strict=True)
    ]
