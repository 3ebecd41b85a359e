"""What the processor did, read from a torch.profiler trace without a GPU.

Each thread is a lane.  Operations are compute; gloo's ranges (such as
`gloo:all_reduce`) are communication in lanes of their own, since a message
goes on while its thread computes.  They hold the time until the slowest
rank arrives, and that of a message sent ahead the time until it is waited
for.
"""

from workshop.training.intervals import Interval, union
from workshop.training.trace_events import Activity, Stream
from workshop.training.trace_groups import (
    COMMUNICATION,
    ELEMENTWISE,
    OPTIMIZER,
    Share,
    group_of,
)
from workshop.training.trace_ranges import OPTIMIZER_STEP

TALK = ("gloo:", "nccl:", "mpi:")
ENQUEUE = "c10d::"
"""What only hands a message over to the threads that send it."""


def cpu_activities(events: list[dict]) -> list[Activity]:
    """Return what the threads did, in order of time.

    Operations nest; here those of a thread that touch or overlap are one
    activity.  A lane is (0, n), numbered as threads appear.
    """
    lanes: dict[tuple, Stream] = {}
    work: dict[Stream, list[Interval]] = {}
    found = []
    for event in sorted(events, key=lambda event: event.get("ts", 0.0)):
        if not _counts(event):
            continue
        thread = (event["pid"], event["tid"], _talks(event))
        lane = lanes.setdefault(thread, (0, len(lanes)))
        begin, end = event["ts"], event["ts"] + event["dur"]
        if _talks(event):
            found.append(
                Activity(event["name"], "", "communication", lane, begin, end)
            )
        else:
            work.setdefault(lane, []).append((begin, end))
    found += [
        Activity("operations", "", "compute", lane, begin, end)
        for lane, spans in work.items()
        for begin, end in union(spans)
    ]
    return sorted(found, key=lambda a: (a.begin, a.end))


def _counts(event: dict) -> bool:
    if event.get("ph") != "X":
        return False
    if event.get("cat") == "cpu_op":
        return not event["name"].startswith(ENQUEUE)
    return _talks(event)


def _talks(event: dict) -> bool:
    return event.get("cat") == "user_annotation" and event["name"].startswith(
        TALK
    )


def cpu_shares(events: list[dict], window: Interval) -> list[Share]:
    """Return each operation's own time in a window, without its children's.

    The outermost operation whose group is known gives it to those inside,
    so that all of an attention is attention; inside an optimizer's step
    everything is the optimizer's.
    """
    threads: dict[tuple, list[dict]] = {}
    shares = []
    for event in events:
        if not window[0] <= event.get("ts", 0.0) < window[1]:
            continue
        if _talks(event):
            shares.append(Share(event["name"], COMMUNICATION, event["dur"]))
        elif _counts(event) or event["name"].startswith(OPTIMIZER_STEP):
            thread = (event["pid"], event["tid"])
            threads.setdefault(thread, []).append(event)
    for found in threads.values():
        shares += _own_times(found)
    return shares


def _own_times(events: list[dict]) -> list[Share]:
    """Return the own times of the operations of one thread."""
    shares: list[Share] = []
    open_: list[list] = []  # [name, group, end, own time]

    def close_until(ts: float) -> None:
        while open_ and open_[-1][2] <= ts:
            name, group, _, own = open_.pop()
            if not name.startswith(OPTIMIZER_STEP):
                share = Share(name, group or ELEMENTWISE, max(own, 0.0))
                shares.append(share)

    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        close_until(event["ts"])
        name, dur = event["name"], event["dur"]
        outer = open_[-1][1] if open_ else None
        group = outer or group_of(name)
        if name.startswith(OPTIMIZER_STEP):
            group = OPTIMIZER
        if open_:
            open_[-1][3] -= dur
        open_.append([name, group, event["ts"] + dur, dur])
    close_until(float("inf"))
    return shares
