"""Checks for the exercises of chapter 03: each says what it found.

An answer of None is one that was not given yet. A check gives a hint and
never the value that it waits for.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from workshop.errors import UserError
from workshop.exercises.verdict import MISSING, RIGHT, judged
from workshop.layout import Layout
from workshop.parallel.pipeline.schedule import (
    Operation,
    in_flight,
    make_schedule,
)
from workshop.parallel.pipeline.simulator import Deadlock, simulate
from workshop.records.load import Run

LAYOUTS = {"A": "pp2", "B": "dp2", "C": "tp2"}
"""Which layout of `lab1/compare-layouts` hides behind a letter."""


def check_schedule(
    answer: Callable[[int, int, int], list[str]] | None,
) -> str:
    """Judge a function of p, m and a rank r that writes its 1F1B.

    It returns the operations in order, as F0 or B0: the pass and the
    micro-batch.
    """
    if answer is None:
        return MISSING
    for p, m in ((2, 4), (4, 8), (4, 2)):
        written = [_listed(answer(p, m, rank)) for rank in range(p)]
        for rank, names in enumerate(written):
            due = {f"{kind}{i}" for kind in "FB" for i in range(m)}
            if Counter(names) != Counter(due):
                return (
                    f"Not yet: with p={p} and m={m}, rank {rank} does not "
                    "run the F and the B of every micro-batch once."
                )
        schedule = [
            [Operation(name[0], int(name[1:])) for name in names]
            for names in written
        ]
        try:
            took = simulate(schedule, 1, 2).makespan
        except (Deadlock, UserError) as error:
            return f"Not yet: with p={p} and m={m}: {error}."
        if took > simulate(make_schedule("1f1b", p, m), 1, 2).makespan:
            return (
                f"Not yet: with p={p} and m={m} it runs, and idles longer "
                "than it must: how many forwards does each rank owe the "
                "ranks behind it before its first backward?"
            )
        for rank, operations in enumerate(schedule):
            if in_flight(operations) > min(m, p - rank):
                return (
                    f"Not yet: with p={p} and m={m}, rank {rank} holds "
                    "more micro-batches than there are ranks from it to "
                    "the end: let a backward go first."
                )
    return RIGHT


def _listed(answer: Iterable | None) -> list:
    """Return what a function gave as a list; nothing is an empty one."""
    return [] if answer is None else list(answer)


def check_rank_order(
    answer: Callable[[int, int, int], tuple[int, int, int]] | None,
) -> str:
    """Judge a function of a rank, t and d that returns its place.

    The place is (tensor, data, stage), each from 0: tensor parallel ranks
    are next to each other, stages furthest apart.
    """
    if answer is None:
        return MISSING
    for t, d, p in ((2, 1, 2), (2, 2, 2), (4, 2, 3)):
        layout = Layout(tp=t, dp=d, pp=p)
        places = [answer(rank, t, d) for rank in range(t * d * p)]
        if any(len(_listed(place)) != 3 for place in places):
            return "Not yet: a place is (tensor, data, stage)."
        places = [tuple(place) for place in places]
        with_sizes = f"with t={t}, d={d} and p={p}"
        if len(set(places)) < len(places):
            return f"Not yet: {with_sizes} two ranks share a place."
        for rank, place in enumerate(places):
            at = layout.coordinate(rank)
            for axis, mine, due in zip(
                ("tensor", "data", "stage"),
                place,
                (at.tp, at.dp, at.pp),
                strict=True,
            ):
                if mine != due:
                    return (
                        f"Not yet: {with_sizes}, rank {rank} has the wrong "
                        f"place on the {axis} axis: which axis turns "
                        "fastest when the rank goes up by one?"
                    )
    return RIGHT


def anonymous_profiles(run: Run) -> str:
    """Return the profiled steps of three layouts, without their names.

    Args:
        run: the record of `lab1/compare-layouts`.
    """
    parts = {
        "step": "step_ms",
        "compute": "compute_ms",
        "messages": "communication_ms",
        "exposed": "exposed_communication_ms",
        "idle": "idle_ms",
    }
    lines = ["    rank" + "".join(f"{part:>10}" for part in parts)]
    for letter, layout in LAYOUTS.items():
        for rank in (0, 1):
            labels = f"{{layout={layout},rank={rank}}}"
            cells = (
                run.summary[name + labels]["median"]
                for name in parts.values()
            )
            row = "".join(f"{cell:10.1f}" for cell in cells)
            lines.append(f"{letter:4}{rank:4}{row}")
    return "\n".join(lines)


def check_profiles(answer: Mapping[str, str] | None) -> str:
    """Judge which letter of `anonymous_profiles` is dp2, tp2 and pp2."""
    hints = {
        "dp2": "one message can hide under all of a backward pass",
        "tp2": "some sums stand between two products, where nothing hides "
        "them, and both ranks do the same work",
        "pp2": "a rank has few messages to send, and much to wait for",
    }
    return judged(answer, LAYOUTS, hints, "dp2, tp2 and pp2", "In {} {}.")
