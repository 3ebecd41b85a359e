"""Which operation of a pipeline hands its result to which, and where.

F of stage g hands activations (b, s, h) to F of stage g + 1, and B of
stage g hands the gradient of its input to B of stage g - 1. Stage g is
chunk g // p of rank g % p, so a hand-over from the last rank back to the
first, or the other way, changes the chunk: it wraps around.
"""

from typing import NamedTuple

from workshop.parallel.pipeline.schedule import (
    FORWARD,
    Operation,
    Schedule,
    chunks_of,
)


class Message(NamedTuple):
    """A hand-over: who computes it in which operation, and who needs it."""

    sender: int
    produced: Operation
    receiver: int
    needed: Operation

    @property
    def channel(self) -> tuple[str, bool]:
        """Its kind, F or B, and whether it wraps around.

        Between two ranks each channel has messages in one direction only.
        """
        return self.needed.kind, self.produced.chunk != self.needed.chunk


class Route:
    """The hand-overs of a pipeline of `p` ranks with `v` chunks each."""

    def __init__(self, p: int, v: int) -> None:
        self.p, self.v = p, v

    def outgoing(self, rank: int, operation: Operation) -> Message | None:
        """Return what `operation` sends, None at the end of the way."""
        other = self._neighbour(rank, operation, 1)
        return other and Message(rank, operation, *other)

    def incoming(self, rank: int, operation: Operation) -> Message | None:
        """Return what `operation` waits for, None at the way's start."""
        other = self._neighbour(rank, operation, -1)
        return other and Message(*other, rank, operation)

    def arrivals(self, schedule: Schedule, rank: int) -> list[Message]:
        """Return what `rank` is sent, each sender's in its order."""
        sent = [
            self.outgoing(sender, operation)
            for sender, operations in enumerate(schedule)
            for operation in operations
        ]
        return [message for message in sent if message and
                message.receiver == rank]  # fmt: skip

    def _neighbour(
        self, rank: int, operation: Operation, step: int
    ) -> tuple[int, Operation] | None:
        """Return rank and operation `step` further on the way."""
        ahead = step if operation.kind == FORWARD else -step
        stage = operation.chunk * self.p + rank + ahead
        if not 0 <= stage < self.p * self.v:
            return None
        return stage % self.p, operation._replace(chunk=stage // self.p)


def route_of(schedule: Schedule) -> Route:
    """Return the hand-overs of a schedule."""
    return Route(len(schedule), chunks_of(schedule))
