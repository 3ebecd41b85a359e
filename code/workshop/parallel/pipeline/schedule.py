"""Pipeline schedules as data: what each rank computes, and in what order.

A model is cut into p·v stages; stage g is chunk g // p of rank g % p, so
that v = 1 is the plain pipeline and v > 1 the interleaved one. A schedule is
a list for every rank of its operations: F, the forward pass of one
micro-batch through one chunk, and B, the backward pass. Nothing here
computes or communicates: `pipeline_simulator` predicts what a schedule
costs, and `pipeline` runs it.

GPipe is of Huang et al. 2019 (arXiv:1811.06965, section 2.3); 1F1B with a
flush and its interleaved form are of Narayanan et al. 2021
(arXiv:2104.04473, section 2.2); eager 1F1B is of Zhuang et al. 2023
(arXiv:2211.05322, section 4).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from workshop.errors import UserError
from workshop.schedules import check_schedule

FORWARD, BACKWARD = "F", "B"


class Operation(NamedTuple):
    """One pass of a micro-batch through a chunk, all counted from 0."""

    kind: str
    microbatch: int
    chunk: int = 0

    def __str__(self) -> str:
        """Return F3, or F3.1 for a chunk other than the first."""
        suffix = f".{self.chunk}" if self.chunk else ""
        return f"{self.kind}{self.microbatch}{suffix}"


Schedule = list[list[Operation]]


def gpipe(p: int, m: int) -> Schedule:
    """Return GPipe's schedule: all forward passes, then all backward.

    Args:
        p: pipeline parallel size, the number of ranks.
        m: num_microbatches.

    Every rank holds the activations of all m micro-batches at once.
    """
    forward = [Operation(FORWARD, i) for i in range(m)]
    backward = [Operation(BACKWARD, i) for i in range(m)]
    return [forward + backward for _ in range(p)]


def one_f_one_b(p: int, m: int) -> Schedule:
    """Return 1F1B: each backward pass as early as it can be.

    The arguments are those of `gpipe`, and so is the time where a message
    takes none; but rank r holds the activations of at most p - r
    micro-batches.
    """
    return _one_chunk(p, m, lambda r: p - r - 1)


def eager_1f1b(p: int, m: int) -> Schedule:
    """Return 1F1B with slack: each forward pass a hand-over earlier.

    The arguments are those of `gpipe`. Rank r warms up with 2 (p - r - 1)
    micro-batches, one more for each border behind it, and so holds the
    activations of at most 2 (p - r) - 1. A message then has a whole pass of
    either neighbour to travel under, where plain 1F1B waits for it.
    """
    return _one_chunk(p, m, lambda r: 2 * (p - r - 1))


def interleaved(p: int, m: int, v: int) -> Schedule:
    """Return interleaved 1F1B: v chunks a rank, and 1/v of the bubble.

    Args:
        p: pipeline parallel size, 2 or more.
        m: num_microbatches, a multiple of p.
        v: chunks a rank, 2 or more.

    Micro-batches go in groups of p: a rank takes a group through its first
    chunk, then the same group through the next. Rank r holds at most
    2 (p - r - 1) + (v - 1) p + 1 activations, each of 1/v of its layers.
    """
    forward = list(_in_groups(p, m, v))
    backward = [
        Operation(BACKWARD, microbatch, v - 1 - chunk)
        for _, microbatch, chunk in forward
    ]
    return [
        _alternate(forward, backward, 2 * (p - r - 1) + (v - 1) * p)
        for r in range(p)
    ]


def _one_chunk(p: int, m: int, warmup: Callable[[int], int]) -> Schedule:
    """Return a schedule of one chunk a rank with `warmup(r)` of rank r."""
    forward = [Operation(FORWARD, i) for i in range(m)]
    backward = [Operation(BACKWARD, i) for i in range(m)]
    return [_alternate(forward, backward, warmup(r)) for r in range(p)]


def _in_groups(p: int, m: int, v: int) -> Iterator[Operation]:
    """Yield the forward passes in an order that all ranks share."""
    for first in range(0, m, p):
        for chunk in range(v):
            for microbatch in range(first, first + p):
                yield Operation(FORWARD, microbatch, chunk)


def _alternate(
    forward: list[Operation], backward: list[Operation], warmup: int
) -> list[Operation]:
    """Return warmup (F), steady state (F, B in turn) and cooldown (B)."""
    warmup = min(warmup, len(forward))
    operations = forward[:warmup]
    for pair in zip(forward[warmup:], backward, strict=False):
        operations += pair
    return operations + backward[len(forward) - warmup :]


def make_schedule(name: str, p: int, m: int, v: int = 1) -> Schedule:
    """Return the schedule called `name`, one of `SCHEDULES`.

    Args:
        name: `gpipe`, `1f1b`, `eager-1f1b` or `interleaved`.
        p: pipeline parallel size.
        m: num_microbatches.
        v: chunks a rank (virtual stages); 1 unless interleaved.

    Raises:
        UserError: the name is unknown, a number is below 1, `v` does not go
            with the schedule, or `m` is not a multiple of `p` where
            interleaving needs it.
    """
    for what, number in (
        ("pipeline parallel size", p),
        ("num_microbatches", m),
        ("number of virtual stages", v),
    ):
        if number < 1:
            raise UserError(
                f"a {what} of {number} is too few: give 1 or more"
            )
    check_schedule(name, p, m, v)
    if name == "interleaved":
        return interleaved(p, m, v)
    plain = {"gpipe": gpipe, "1f1b": one_f_one_b, "eager-1f1b": eager_1f1b}
    return plain[name](p, m)


def check(schedule: Schedule) -> None:
    """Refuse a schedule that is not complete.

    A schedule with no B at all is one for evaluation, and complete.

    Raises:
        UserError: a rank lacks an F or a B of a micro-batch in a chunk, has
            one twice, or has B before F.
    """
    scheduled = {o for operations in schedule for o in operations}
    kinds = sorted({FORWARD} | {o.kind for o in scheduled})
    for rank, operations in enumerate(schedule):
        place = {operation: i for i, operation in enumerate(operations)}
        counts = Counter(operations)
        for one in sorted({o._replace(kind=FORWARD) for o in scheduled}):
            both = [one._replace(kind=kind) for kind in kinds]
            for needed in both:
                if (times := counts[needed]) != 1:
                    raise UserError(
                        f"rank {rank} of the pipeline schedule has {needed} "
                        f"{times} times: give every operation once"
                    )
            if place[both[0]] < place[both[-1]]:
                raise UserError(
                    f"rank {rank} of the pipeline schedule has {both[0]} "
                    f"before {both[-1]}: put the forward pass first"
                )


def chunks_of(schedule: Schedule) -> int:
    """Return v, the number of chunks on each rank of a schedule."""
    return 1 + max(o.chunk for operations in schedule for o in operations)


def in_flight(operations: list[Operation]) -> int:
    """Return the most activations that a rank holds at a time.

    Each is that of one micro-batch in one chunk, from its F to its B.
    """
    held = most = 0
    for operation in operations:
        held += 1 if operation.kind == FORWARD else -1
        most = max(most, held)
    return most
