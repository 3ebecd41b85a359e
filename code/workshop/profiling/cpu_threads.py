"""What the processor did, read from a torch.profiler trace without a GPU.

Each thread is a lane.  Operations are compute; gloo's ranges (such as
`gloo:all_reduce`) are communication in lanes of their own, since a message
goes on while its thread computes.  They hold the time until the slowest
rank arrives, and that of a message sent ahead the time until it is waited
for.  An operation that hands a message over may wait for it, so that only
the operations inside it are compute, and not the rest of its time.
"""

from collections.abc import Iterable

from workshop.profiling.events import Activity
from workshop.profiling.groups import (
    COMMUNICATION,
    ELEMENTWISE,
    OPTIMIZER,
    Share,
    group_of,
)
from workshop.profiling.intervals import Interval, union
from workshop.profiling.ranges import OPTIMIZER_STEP

TALK = ("gloo:", "nccl:", "mpi:")
ENQUEUE = "c10d::"
"""What only hands a message over to the threads that send it."""


def cpu_activities(events: list[dict]) -> list[Activity]:
    """Return what the threads did, in order of time.

    Operations nest; here those of a thread that touch or overlap are one
    activity.  A lane is (0, n): first the threads that compute, then those
    of their messages.
    """
    operations = _by_thread(e for e in events if e.get("cat") == "cpu_op")
    messages = _by_thread(e for e in events if _talks(e))
    activities = []
    for lane, each in enumerate(operations.values()):
        hand_over = _hand_overs(each)
        work = union(_span(e) for e in each if id(e) not in hand_over)
        activities += [
            Activity("operations", "", "compute", (0, lane), *span)
            for span in work
        ]
    for lane, each in enumerate(messages.values(), len(operations)):
        activities += [
            Activity(e["name"], "", "communication", (0, lane), *_span(e))
            for e in each
        ]
    return sorted(activities, key=lambda a: (a.begin, a.end))


def _talks(event: dict) -> bool:
    return event.get("cat") == "user_annotation" and event["name"].startswith(
        TALK
    )


def _span(event: dict) -> Interval:
    return event["ts"], event["ts"] + event["dur"]


def _by_thread(events: Iterable[dict]) -> dict[tuple, list[dict]]:
    """Return each thread's events, outer ones before those inside them."""
    threads: dict[tuple, list[dict]] = {}
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        thread = (event["pid"], event["tid"])
        threads.setdefault(thread, []).append(event)
    return threads


def _hand_overs(operations: list[dict]) -> set[int]:
    """Return the ids of those of a thread that hand a message over."""
    handing: set[int] = set()
    open_: list[dict] = []
    for event in operations:
        while open_ and _span(open_[-1])[1] <= event["ts"]:
            open_.pop()
        open_.append(event)
        if event["name"].startswith(ENQUEUE):
            handing.update(id(outer) for outer in open_)
    return handing


def cpu_shares(events: list[dict], window: Interval) -> list[Share]:
    """Return each operation's own time in a window, without its children's.

    The outermost operation whose group is known gives it to those inside,
    so that all of an attention is attention; inside an optimizer's step
    everything is the optimizer's.
    """
    here = [
        e
        for e in events
        if e.get("ph") == "X" and window[0] <= e["ts"] < window[1]
    ]
    shares = [
        Share(e["name"], COMMUNICATION, e["dur"]) for e in here if _talks(e)
    ]
    operations = _by_thread(
        e
        for e in here
        if e.get("cat") == "cpu_op" or e["name"].startswith(OPTIMIZER_STEP)
    )
    for each in operations.values():
        shares += _own_times(each)
    return shares


def _own_times(events: list[dict]) -> list[Share]:
    """Return the own times of the operations of one thread."""
    hand_over = _hand_overs(events)
    shares: list[Share] = []
    open_: list[list] = []  # [event, group, own time]

    def close_until(ts: float) -> None:
        while open_ and _span(open_[-1][0])[1] <= ts:
            event, group, own = open_.pop()
            name = event["name"]
            if id(event) in hand_over:
                group = COMMUNICATION
            if not name.startswith(OPTIMIZER_STEP):
                shares.append(Share(name, group or ELEMENTWISE, max(own, 0)))

    for event in events:
        close_until(event["ts"])
        outer = open_[-1][1] if open_ else None
        group = outer or group_of(event["name"])
        if event["name"].startswith(OPTIMIZER_STEP):
            group = OPTIMIZER
        if open_:
            open_[-1][2] -= event["dur"]
        open_.append([event, group, event["dur"]])
    close_until(float("inf"))
    return shares
