"""Pipeline schedules as data: complete, in order, within their limits."""

from collections import Counter, defaultdict, deque

import pytest
from pipeline_cases import ALL

from workshop.errors import UserError
from workshop.parallel.pipeline.copies import most_overtaken
from workshop.parallel.pipeline.messages import Route, route_of
from workshop.parallel.pipeline.schedule import (
    BACKWARD,
    FORWARD,
    Operation,
    check,
    chunks_of,
    eager_1f1b,
    gpipe,
    in_flight,
    interleaved,
    make_schedule,
    one_f_one_b,
)
from workshop.schedules import SCHEDULES


def test_every_pass_is_there_once_and_backward_comes_later() -> None:
    for name, p, m, v in ALL:
        schedule = make_schedule(name, p, m, v)
        check(schedule)
        assert (len(schedule), chunks_of(schedule)) == (p, v)
        due = {(kind, i, c) for kind in (FORWARD, BACKWARD)
               for i in range(m) for c in range(v)}  # fmt: skip
        for operations in schedule:
            assert len(operations) == 2 * m * v
            assert set(operations) == due
            for i in range(m):
                for c in range(v):
                    forward = operations.index((FORWARD, i, c))
                    assert forward < operations.index((BACKWARD, i, c))


def test_what_is_in_flight_stays_within_the_limits() -> None:
    for name, p, m, v in ALL:
        for r, operations in enumerate(make_schedule(name, p, m, v)):
            limit = {
                "gpipe": m,
                "1f1b": min(p - r, m),
                "eager-1f1b": min(2 * (p - r) - 1, m),
                "interleaved": min(2 * (p - r - 1) + (v - 1) * p + 1, m * v),
            }[name]
            assert in_flight(operations) == limit, (name, p, m, v, r)


def test_the_orders_that_the_papers_draw() -> None:
    def row(operations: list[Operation]) -> str:
        return " ".join(map(str, operations))

    assert row(gpipe(2, 3)[0]) == "F0 F1 F2 B0 B1 B2"
    assert [row(r) for r in one_f_one_b(3, 4)] == [
        "F0 F1 F2 B0 F3 B1 B2 B3",
        "F0 F1 B0 F2 B1 F3 B2 B3",
        "F0 B0 F1 B1 F2 B2 F3 B3",
    ]
    assert [row(r) for r in eager_1f1b(3, 4)] == [
        "F0 F1 F2 F3 B0 B1 B2 B3",
        "F0 F1 F2 B0 F3 B1 B2 B3",
        "F0 B0 F1 B1 F2 B2 F3 B3",
    ]
    assert [row(r) for r in interleaved(2, 2, 2)] == [
        "F0 F1 F0.1 F1.1 B0.1 B1.1 B0 B1",
        "F0 F1 F0.1 B0.1 F1.1 B1.1 B0 B1",
    ]


def test_hand_overs_are_the_same_seen_from_both_ends() -> None:
    for name, p, m, v in ALL:
        if p * m * v > 64:
            continue
        schedule = make_schedule(name, p, m, v)
        route = route_of(schedule)
        sent, taken = Counter(), Counter()
        for rank, operations in enumerate(schedule):
            for operation in operations:
                sent[route.outgoing(rank, operation)] += 1
                taken[route.incoming(rank, operation)] += 1
        # F ends and B begins on the last stage, and so on the first.
        assert sent == taken
        assert sent.pop(None, 0) == 2 * m
        assert set(sent.values()) <= {1}
        assert len(sent) == 2 * m * (p * v - 1)


def test_a_channel_joins_a_rank_to_one_other_and_one_way() -> None:
    for name, p, m, v in ALL:
        if p * m * v > 64:
            continue
        schedule = make_schedule(name, p, m, v)
        ways = {
            (message.channel, message.sender, receiver)
            for receiver in range(p)
            for message in route_of(schedule).arrivals(schedule, receiver)
        }
        for channel, sender, receiver in ways:
            assert (channel, receiver, sender) not in ways
        assert len({(c, receiver) for c, _, receiver in ways}) == len(ways)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("zigzag", 2, 2), "no pipeline schedule 'zigzag'.*gpipe, 1f1b"),
        (("1f1b", 0, 2), "pipeline parallel size of 0 .* give 1 or more"),
        (("1f1b", 2, 0), "num_microbatches of 0 .* give 1 or more"),
        (("1f1b", 2, 2, 0), "virtual stages of 0 .* give 1 or more"),
        (("gpipe", 2, 2, 2), "gpipe .* one chunk .* choose interleaved"),
        (("interleaved", 2, 2, 1), "2 or more virtual stages .* 1 on 2"),
        (("interleaved", 1, 2, 2), "2 or more virtual stages .* 2 on 1"),
        (("interleaved", 4, 6, 2), "6 micro-batches .* give 8 micro-batches"),
        (("interleaved", 4, 1, 2), "1 micro-batches .* give 4 micro-batches"),
    ],
)
def test_what_no_schedule_can_do_is_one_sentence(arguments, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_schedule(*arguments)
    assert "\n" not in str(caught.value)


def test_every_name_makes_a_schedule() -> None:
    assert len({str(make_schedule(n, 2, 4, 1 + (n == SCHEDULES[-1])))
                for n in SCHEDULES}) == len(SCHEDULES)  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda ops: ops.pop(), "rank 1 .* has B1 0 times"),
        (lambda ops: ops.append(ops[0]), "rank 1 .* has F0 2 times"),
        (lambda ops: ops.reverse(), "rank 1 .* has B0 before F0"),
    ],
)
def test_a_schedule_with_a_gap_is_refused(spoil, message) -> None:
    schedule = one_f_one_b(2, 2)
    spoil(schedule[1])
    with pytest.raises(UserError, match=message):
        check(schedule)


def test_a_schedule_of_forward_passes_alone_is_complete() -> None:
    check([[o for o in ops if o.kind == FORWARD] for ops in gpipe(2, 3)])


def finishes(schedule: list, slots: int) -> bool:
    """Run a schedule whose channels have `slots`, filled in turn."""
    p, v = len(schedule), chunks_of(schedule)
    route, place = Route(p, v), [0] * p
    queues, filled, taken = defaultdict(deque), defaultdict(list), Counter()
    moved = True
    while moved:
        moved = False
        for key, queue in queues.items():
            slot = len(filled[key]) % slots
            free = len(filled[key]) < slots or taken[key, slot] > (
                len(filled[key]) // slots - 1
            )
            if queue and free:
                filled[key].append(queue.popleft())
                moved = True
        for rank, operations in enumerate(schedule):
            if place[rank] == len(operations):
                continue
            operation = operations[place[rank]]
            if message := route.incoming(rank, operation):
                key = (message.sender, rank, message.channel)
                if message not in filled[key]:
                    continue
                taken[key, filled[key].index(message) % slots] += 1
            if message := route.outgoing(rank, operation):
                key = (rank, message.receiver, message.channel)
                queues[key].append(message)
            place[rank] += 1
            moved = True
    return all(n == len(o) for n, o in zip(place, schedule, strict=True))


def test_the_slots_of_copy_engines_are_enough_for_any_schedule() -> None:
    for name, p, m, v in ALL:
        if p * m * v <= 96:
            schedule = make_schedule(name, p, m, v)
            assert finishes(schedule, 1 + most_overtaken(schedule))
    # One that turns its micro-batches round needs room for them all.
    turned = [[Operation(FORWARD, i) for i in range(5)]] + [
        [Operation(FORWARD, i) for i in (4, 3, 2, 1, 0)]
    ]
    assert most_overtaken(turned) == 4
    assert finishes(turned, 5)
    assert not finishes(turned, 4)
