"""The checks on failing jobs know right from wrong, and give hints."""

import pytest

from workshop.exercises import failures as exercises


def blame(entries):
    waiting = {e.rank for e in entries if not e.done}
    return next(
        (rank, e.group, e.number)
        for e in entries
        for rank in e.group
        if not e.done and rank not in waiting
    )


def blame_first(entries):
    e = next(e for e in entries if not e.done)
    return next(rank for rank in e.group if rank != e.rank), e.group, e.number


def blame_waiting(entries):
    e = next(e for e in entries if not e.done)
    return e.rank, e.group, e.number


def elsewhere(entries):
    rank, _, number = blame(entries)
    other = next(e for e in entries if not e.done and rank not in e.group)
    return rank, other.group, number


def interval(dump, hours, nodes, seconds=3600, times=1):
    mtbf = hours * seconds / nodes
    best = (2 * dump * mtbf) ** 0.5
    return best * times, times * (2 * dump / mtbf) ** 0.5


def train(steps, told, all_reduce, save):
    for step in range(1, steps + 1):
        all_reduce(1.0)
        if all_reduce(float(told(step))):
            save(step)
            return


def each_alone(steps, told, all_reduce, save):
    for step in range(1, steps + 1):
        all_reduce(1.0)
        if told(step):
            save(step)
            return


def saves_where_told(steps, told, all_reduce, save):
    for step in range(1, steps + 1):
        if all_reduce(float(told(step))):
            if told(step):
                save(step)
            return


def all_must_hear(steps, told, all_reduce, save):
    for step in range(1, steps + 1):
        if all_reduce(float(told(step))) == 2:
            save(step)
            return


def always_saves(steps, told, all_reduce, save):
    for step in range(1, steps + 1):
        all_reduce(1.0)
    save(steps)


def never_stops(steps, told, all_reduce, save):
    for step in range(1, steps + 1):
        if all_reduce(float(told(step))):
            save(step)


def breaks(steps, told, all_reduce, save):
    save()


FIRST = exercises.check_first
BLAME = exercises.check_blame
INTERVAL = exercises.check_interval
STOP = exercises.check_stop


@pytest.mark.parametrize(
    ("check", "right", "wrong", "says"),
    [
        (FIRST, (3, "data"), (0, "data"), "rank 0 is not the first"),
        (FIRST, (3, "data"), (2, "memory"), "rank 2 is not the first"),
        (FIRST, (3, "data"), (3, "timeout"), "who was it that never came"),
        (FIRST, (3, "data"), (3, "memory"), "killed with signal 9"),
        (FIRST, (3, "data"), (3, "network"), "exception of its own"),
        (FIRST, (3, "data"), (9, "data"), "a rank from 0 to 3"),
        (FIRST, (3, "data"), (3, "gremlins"), "one of data, memory"),
        (BLAME, blame, blame_waiting, "a rank that waits itself"),
        (BLAME, blame, blame_first, "you blame"),
        (BLAME, blame, elsewhere, "not of the group"),
        (
            BLAME,
            blame,
            lambda e: (blame(e)[0], (0, 9), 41),
            "nobody waits in the group",
        ),
        (
            BLAME,
            blame,
            lambda e: (*blame(e)[:2], 40),
            "that number is not waited for",
        ),
        (
            INTERVAL,
            interval,
            lambda *given: interval(*given, seconds=1),
            "an hour is not a second",
        ),
        (
            INTERVAL,
            interval,
            lambda dump, hours, nodes: interval(dump, hours, 1),
            "any of the nodes",
        ),
        (
            INTERVAL,
            interval,
            lambda *given: interval(*given, times=2**0.5),
            "derive it again",
        ),
        (
            INTERVAL,
            interval,
            lambda *given: (interval(*given)[0], interval(*given)[1] / 2),
            "so does repeating",
        ),
        (STOP, train, each_alone, "rank 1 is left alone"),
        (STOP, train, saves_where_told, "not save the same steps"),
        (STOP, train, all_must_hear, "each saves 0 times"),
        (STOP, train, always_saves, "too early or too late"),
        (STOP, train, never_stops, "each saves 7 times"),
        (STOP, train, breaks, "a rank ends with TypeError"),
        (STOP, train, lambda *given: given[3](3), "save all the same"),
    ],
)
def test_a_check_knows_right_from_wrong_and_from_nothing(
    check, right, wrong, says
) -> None:
    assert check(right) == exercises.RIGHT
    assert check(wrong).startswith("Not yet")
    assert says in check(wrong)
    assert check(None) == exercises.MISSING


def test_no_hint_holds_the_answer() -> None:
    for rank in (0, 1, 2):
        assert "3" not in FIRST((rank, "data"))
    for why in ("network", "memory", "timeout"):
        assert "data" not in FIRST((3, why))
    for late in (0, 1, 2, 3):
        said = BLAME(lambda _, late=late: (late, (0, 1), 41))
        assert not any(f"rank {each}" in said for each in range(4))
    due = interval(60, 5000, 1)
    said = INTERVAL(lambda *given: (1.0, 1.0))
    assert f"{due[0]:.0f}" not in said and f"{due[1]:.3f}" not in said
    said = INTERVAL(lambda *given: (interval(*given)[0], 1.0))
    assert f"{due[0]:.0f}" not in said and f"{due[1]:.3f}" not in said


def test_a_record_shows_who_waits_and_not_who_is_to_blame() -> None:
    lines = exercises.shown(exercises.RECORD).splitlines()[1:]
    waits = {line.split()[0] for line in lines if line.endswith("started")}
    assert waits == {"0", "2", "3"}
    assert {line.split()[0] for line in lines} == set("0123")
    assert max(map(len, exercises.LOGS.splitlines())) <= 72
