"""What one rank of a pipeline does in a step, derived from the schedule."""

from workshop.errors import UserError
from workshop.parallel.pipeline.messages import route_of
from workshop.parallel.pipeline.schedule import (
    BACKWARD,
    FORWARD,
    Operation,
    Schedule,
    check,
    chunks_of,
)
from workshop.parallel.pipeline.simulator import Deadlock, early_arrivals


class Plan:
    """The part of rank `rank` in a schedule.

    Attributes:
        rank: the rank.
        operations: in their order.
        route: who hands what to whom.
        arrivals: what the rank is sent, each sender's in its order.
        early: those whose receive can be posted one operation early.
        last_backward: of each chunk.
        num_microbatches: m.

    Raises:
        UserError: the schedule is for another number of ranks than `p` or
            of chunks than `v`, is not complete, or can never finish.
    """

    def __init__(self, schedule: Schedule, rank: int, p: int, v: int) -> None:
        check(schedule)
        if (len(schedule), chunks_of(schedule)) != (p, v):
            raise UserError(
                f"the schedule is for {len(schedule)} ranks with "
                f"{chunks_of(schedule)} chunks each and the pipeline has "
                f"{p} with {v}: make the schedule for these"
            )
        try:
            self.early = early_arrivals(schedule, rank)
        except Deadlock as deadlock:
            raise UserError(
                f"the pipeline schedule can never finish ({deadlock}): "
                "change the order of its operations"
            ) from None
        self.schedule, self.rank = schedule, rank
        self.route = route_of(schedule)
        self.arrivals = self.route.arrivals(schedule, rank)
        self.operations = schedule[rank]
        forward = [o for o in self.operations if o.kind == FORWARD]
        self.num_microbatches = len(forward) // v
        self.last_backward: dict[int, Operation] = {
            o.chunk: o for o in self.operations if o.kind == BACKWARD
        }


def forward_only(schedule: Schedule) -> Schedule:
    """Return the schedule's forward passes alone, for evaluation."""
    return [
        [o for o in operations if o.kind == FORWARD]
        for operations in schedule
    ]
