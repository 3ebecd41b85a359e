"""The simulator: bubbles by the papers' formulas, and deadlocks by name."""

from fractions import Fraction
from itertools import pairwise

import pytest
from pipeline_cases import ALL, INTERLEAVED, PLAIN

from workshop.errors import UserError
from workshop.parallel.pipeline.messages import route_of
from workshop.parallel.pipeline.schedule import (
    Operation,
    gpipe,
    interleaved,
    make_schedule,
    one_f_one_b,
)
from workshop.parallel.pipeline.simulator import (
    Deadlock,
    early_arrivals,
    simulate,
)
from workshop.parallel.pipeline.timeline import Timed, Timeline


def swapped(schedule, rank, a, b):
    """Return the schedule with two operations of a rank exchanged."""
    operations = list(schedule[rank])
    operations[a], operations[b] = operations[b], operations[a]
    return [*schedule[:rank], operations, *schedule[rank + 1 :]]


@pytest.mark.parametrize(("forward", "backward"), [(1, 1), (1, 2)])
def test_the_bubble_is_exactly_that_of_the_papers(forward, backward) -> None:
    for name, p, m, v in ALL:
        timeline = simulate(make_schedule(name, p, m, v), forward, backward)
        ideal = m * v * (forward + backward)
        bubble = Fraction(p - 1, v * m)
        assert timeline.makespan == ideal * (1 + bubble), (name, p, m, v)
        assert timeline.busy == [ideal] * p
        assert timeline.bubble_over_ideal == pytest.approx(float(bubble))
        shares = timeline.shares()
        assert shares.bubble == pytest.approx((p - 1) / (v * m + p - 1))
        assert shares.imbalance == 0
        assert sum(shares) == pytest.approx(1)


def test_operations_keep_their_order_and_wait_for_their_input() -> None:
    for name, p, m, v in ALL[::5]:
        schedule = make_schedule(name, p, m, v)
        timeline = simulate(schedule, 2, 3, communication=1)
        assert [[t.operation for t in r] for r in timeline.ranks] == schedule
        end = {(r, t.operation): t.end
               for r, ops in enumerate(timeline.ranks) for t in ops}  # fmt: skip
        for rank, operations in enumerate(timeline.ranks):
            now = 0
            for operation, start, stop in operations:
                arrival = now
                message = route_of(schedule).incoming(rank, operation)
                if message:
                    sent = end[message.sender, message.produced]
                    arrival = max(now, sent + 1)
                assert start == arrival
                assert stop - start == (2 if operation.kind == "F" else 3)
                now = stop


def test_communication_delays_every_hand_over() -> None:
    # F and B of one micro-batch through p stages: 2 (p - 1) hand-overs.
    assert simulate(gpipe(4, 1), 1, 2, communication=5).makespan == 12 + 30
    blocking = simulate(gpipe(4, 1), 1, 2, 5, sends="blocking")
    assert blocking.makespan == 12 + 30


def test_stages_of_unequal_cost() -> None:
    # Stage 1 computes all the time but before its first F: 8 (2 + 4) + 1.
    timeline = simulate(one_f_one_b(2, 8), [1, 2], [2, 4])
    assert timeline.busy == [24, 48]
    assert timeline.makespan == 48 + 1 + 2
    shares = timeline.shares()
    assert shares.bubble == pytest.approx(3 / 51)
    assert shares.imbalance == pytest.approx(12 / 51)


def test_costs_that_do_not_fit_are_one_sentence() -> None:
    with pytest.raises(UserError, match="3 costs .* 2 pipeline stages"):
        simulate(gpipe(2, 2), forward=[1, 2, 3])
    with pytest.raises(UserError, match="'eager' sends: choose one of"):
        simulate(gpipe(2, 2), sends="eager")


def test_what_survives_blocking_sends() -> None:
    for name, p, m, v in PLAIN:
        blocking = simulate(make_schedule(name, p, m), sends="blocking")
        ideal = 2 * (m + p - 1)
        # What is sent ahead of its time is waited for, if sends block.
        late = name == "eager-1f1b" and p > 1 and m > 2
        assert (blocking.makespan > ideal) == late, (name, p, m)
        assert blocking.makespan >= ideal
    stuck = 0
    for name, p, m, v in INTERLEAVED:
        try:
            simulate(make_schedule(name, p, m, v), sends="blocking")
        except Deadlock:
            stuck += 1
    # A rank there owes activations and gradients at once.
    assert stuck > len(INTERLEAVED) / 2


def every_swap(schedule):
    """Yield the schedules with two results of a rank sent the wrong way."""
    route = route_of(schedule)
    for rank, operations in enumerate(schedule):
        for kind in ("F", "B"):
            sent = [
                place
                for place, operation in enumerate(operations)
                if operation.kind == kind and route.outgoing(rank, operation)
            ]
            for a, b in pairwise(sent):
                yield rank, swapped(schedule, rank, a, b)


def test_a_swapped_send_order_is_always_found_and_its_rank_named(
    record_property,
) -> None:
    swaps = 0
    for name, p, m, _ in PLAIN:
        if p > 5 or m > 6:
            continue
        for rank, wrong in every_swap(make_schedule(name, p, m)):
            swaps += 1
            with pytest.raises((Deadlock, UserError)) as caught:
                simulate(wrong, sends="blocking")
            error = caught.value
            if isinstance(error, UserError):
                # A gradient that is sent before its loss is there.
                assert f"rank {rank} of the pipeline" in str(error)
                continue
            assert rank in error.waiting
            assert len(error.cycle) > 1
            assert f"rank {error.cycle[0]} waits" in str(error)
    assert swaps == 3 * 2 * sum((p - 1) * (m - 1) for p in range(1, 6)
                                for m in range(1, 7))  # fmt: skip
    bug = "send order swapped, as data"
    record_property("planted bug", (bug, "simulator", ""))


def test_the_message_says_who_waits_for_what() -> None:
    wrong = swapped(one_f_one_b(2, 4), 0, 0, 1)
    with pytest.raises(Deadlock) as caught:
        simulate(wrong, sends="blocking")
    assert str(caught.value) == (
        "deadlock: rank 0 waits after F1 until rank 1 takes its result for "
        "F1, and rank 1 waits before F0 for the result of F0 on rank 0"
    )
    assert caught.value.waiting.keys() == {0, 1}


def test_buffered_sends_deadlock_only_where_the_order_has_a_circle() -> None:
    simulate(swapped(one_f_one_b(2, 4), 0, 0, 1))
    # Rank 0 wants B0 back before it has sent F1; rank 1 F1 before B0.
    circle = [
        [
            Operation(k, i)
            for k, i in (("F", 0), ("B", 0), ("F", 1), ("B", 1))
        ],
        [
            Operation(k, i)
            for k, i in (("F", 0), ("F", 1), ("B", 0), ("B", 1))
        ],
    ]
    with pytest.raises(Deadlock, match=r"rank 0 .* B0 .* rank 1 .* F1"):
        simulate(circle)


def early(schedule) -> list[str]:
    """Return the operations of each rank, starred where input is early."""
    return [
        " ".join(
            f"{o}*" if o in early_arrivals(schedule, rank) else str(o)
            for o in operations
        )
        for rank, operations in enumerate(schedule)
    ]


def test_a_message_that_needs_the_operation_before_is_not_early() -> None:
    assert early(one_f_one_b(2, 3)) == [
        "F0 F1 B0* F2 B1* B2*",
        "F0 B0 F1* B1 F2* B2",
    ]
    assert early(gpipe(2, 2)) == ["F0 F1 B0 B1*", "F0 F1* B0 B1"]
    assert early(one_f_one_b(2, 1)) == ["F0 B0", "F0 B0"]


def test_early_is_what_a_slower_operation_does_not_delay() -> None:
    for schedule in (one_f_one_b(4, 5), gpipe(3, 4), interleaved(2, 4, 2)):
        for rank, operations in enumerate(schedule):
            early = early_arrivals(schedule, rank)
            for i, operation in enumerate(operations[1:]):
                message = route_of(schedule).incoming(rank, operation)
                if message is None:
                    assert operation not in early
                    continue
                delayed = cut_off(schedule, rank, i)
                produced = (message.sender, message.produced)
                assert (operation in early) == (produced not in delayed)


def cut_off(schedule, rank: int, place: int) -> set:
    """Return what cannot run if a rank never runs its operation `place`."""
    missing = {(rank, o) for o in schedule[rank][place:]}
    grown = True
    while grown:
        grown = False
        for r, operations in enumerate(schedule):
            for i, operation in enumerate(operations):
                message = route_of(schedule).incoming(r, operation)
                needs = (
                    [(message.sender, message.produced)] if message else []
                )
                needs += [(r, operations[i - 1])] if i else []
                if (r, operation) not in missing and missing & {*needs}:
                    missing.add((r, operation))
                    grown = True
    return missing


def test_a_timeline_may_start_at_any_time() -> None:
    operation = Operation("F", 0)
    timeline = Timeline([[Timed(operation, 5, 7)], [Timed(operation, 7, 11)]])
    assert timeline.makespan == 6
    assert timeline.shares() == pytest.approx((0.5, 1 / 6, 2 / 6))
