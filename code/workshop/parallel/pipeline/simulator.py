"""Predict a pipeline schedule: its time, its bubble, its deadlocks.

The simulator knows two ways to hand over a result. With buffered sends a
rank goes on at once and the message travels beside it; this is how
`pipeline` runs a schedule. With blocking sends a rank goes on when its
result has been taken and the input of its next operation has come, and a
message is taken only where the next operation needs it.

It leaves out contention: messages that share a link do not slow each other,
none slows the computation beside it, and starting an operation is free.
"""

from collections.abc import Sequence

from workshop.errors import UserError
from workshop.parallel.pipeline.messages import Message, route_of
from workshop.parallel.pipeline.schedule import (
    BACKWARD,
    FORWARD,
    Operation,
    Schedule,
    check,
    chunks_of,
)
from workshop.parallel.pipeline.timeline import Timed, Timeline

SENDS = ("buffered", "blocking")
Cost = float | Sequence[float]


class Deadlock(Exception):
    """Ranks that wait for each other.

    Attributes:
        waiting: rank -> the message that keeps it from going on.
        cycle: the ranks among them that wait for each other in a circle.
    """

    def __init__(self, waiting: dict[int, Message]) -> None:
        self.waiting = waiting
        self.cycle = find_cycle(
            {
                rank: message.sender + message.receiver - rank
                for rank, message in waiting.items()
            }
        )
        parts = [describe(rank, waiting[rank]) for rank in self.cycle]
        super().__init__("deadlock: " + ", and ".join(parts))


def describe(rank: int, message: Message) -> str:
    """Say in words where a rank waits."""
    if rank == message.sender:
        return (
            f"rank {rank} waits after {message.produced} until rank "
            f"{message.receiver} takes its result for {message.needed}"
        )
    return (
        f"rank {rank} waits before {message.needed} for the result of "
        f"{message.produced} on rank {message.sender}"
    )


def find_cycle(waits_for: dict[int, int]) -> list[int]:
    """Return the ranks of a circle in who waits for whom.

    There is one: a rank that waits for nobody would have gone on.
    """
    path = [next(iter(waits_for))]
    while (following := waits_for[path[-1]]) not in path:
        path.append(following)
    return path[path.index(following) :]


def simulate(
    schedule: Schedule,
    forward: Cost = 1,
    backward: Cost = 1,
    communication: float = 0,
    sends: str = "buffered",
) -> Timeline:
    """Return when each operation of a schedule runs.

    Args:
        schedule: for every rank its operations.
        forward: the time of a forward pass through a stage, one number or
            one for each of the p·v stages in the model's order.
        backward: the same for the backward pass.
        communication: the time of a hand-over between two ranks.
        sends: `buffered` or `blocking`.

    Integers and fractions stay exact.

    Raises:
        Deadlock: naming who waits for whom.
        UserError: the schedule is incomplete, or the costs do not fit it.
    """
    if sends not in SENDS:
        raise UserError(
            f"there are no {sends!r} sends: choose one of {', '.join(SENDS)}"
        )
    return _Simulation(
        schedule, forward, backward, communication, sends == "blocking"
    ).run()


def early_arrivals(schedule: Schedule, rank: int) -> set[Operation]:
    """Return the operations of a rank whose input can come early.

    That is while the operation before still runs, because nothing on the
    way to it needs that operation's result. Found by vector clocks (Fidge
    1988, Mattern 1989): of every operation, how many of each rank's must
    have run before it has.

    Raises:
        Deadlock: the schedule can never finish.
    """
    route = route_of(schedule)
    ran = [
        (timed.end, r, timed.operation)
        for r, operations in enumerate(simulate(schedule).ranks)
        for timed in operations
    ]
    latest = [[0] * len(schedule) for _ in schedule]
    clocks: dict[tuple[int, Operation], list[int]] = {}
    early = set()
    for _, r, operation in sorted(ran):
        message = route.incoming(r, operation)
        before = latest[r]
        if message:
            needed = clocks[message.sender, message.produced]
            if r == rank and needed[r] < before[r]:
                early.add(operation)
            before = [max(pair) for pair in zip(before, needed, strict=True)]
        clock = [n + (i == r) for i, n in enumerate(before)]
        latest[r] = clocks[r, operation] = clock
    return early


class _Simulation:
    """The state of a simulation: what each rank has done so far."""

    def __init__(
        self,
        schedule: Schedule,
        forward: Cost,
        backward: Cost,
        communication: float,
        blocking: bool,
    ) -> None:
        check(schedule)
        self.schedule = schedule
        self.route = route_of(schedule)
        self.p = len(schedule)
        stages = self.p * chunks_of(schedule)
        self.costs = {
            FORWARD: per_stage(forward, stages),
            BACKWARD: per_stage(backward, stages),
        }
        self.communication = communication
        self.blocking = blocking
        self.done: list[list[Timed]] = [[] for _ in schedule]
        self.place = [
            {operation: i for i, operation in enumerate(operations)}
            for operations in schedule
        ]

    def run(self) -> Timeline:
        """Let every rank go on as far as it can, until nothing moves."""
        progress = True
        while progress:
            progress = False
            for rank, operations in enumerate(self.schedule):
                while len(self.done[rank]) < len(operations) and not (
                    self.missing(rank)
                ):
                    self.execute(rank)
                    progress = True
        waiting = {
            rank: message
            for rank in range(self.p)
            if (message := self.missing(rank))
        }
        if waiting:
            raise Deadlock(waiting)
        return Timeline(self.done)

    def pending(self, rank: int) -> list[Message]:
        """Return what must be handed over before the next operation."""
        operations, reached = self.schedule[rank], len(self.done[rank])
        messages = []
        if self.blocking and reached:
            messages.append(
                self.route.outgoing(rank, operations[reached - 1])
            )
        if reached < len(operations):
            messages.append(self.route.incoming(rank, operations[reached]))
        return [message for message in messages if message]

    def missing(self, rank: int) -> Message | None:
        """Return what keeps a rank from going on, None if nothing does."""
        for message in self.pending(rank):
            if message.receiver == rank:
                place = self.place[message.sender][message.produced]
                if place >= len(self.done[message.sender]):
                    return message
            else:
                place = self.place[message.receiver][message.needed]
                if place > len(self.done[message.receiver]):
                    return message
        return None

    def execute(self, rank: int) -> None:
        """Run the next operation of a rank as early as it can be."""
        operation = self.schedule[rank][len(self.done[rank])]
        start = max(
            [self.end(rank, len(self.done[rank]) - 1)]
            + [self.handed_over(message) for message in self.pending(rank)]
        )
        stage = operation.chunk * self.p + rank
        end = start + self.costs[operation.kind][stage]
        self.done[rank].append(Timed(operation, start, end))

    def handed_over(self, message: Message) -> float:
        """Return when a message is across."""
        place = self.place[message.sender][message.produced]
        ready = self.end(message.sender, place)
        if self.blocking:
            place = self.place[message.receiver][message.needed]
            ready = max(ready, self.end(message.receiver, place - 1))
        return ready + self.communication

    def end(self, rank: int, place: int) -> float:
        """Return when a rank's operation at `place` ends, 0 before all."""
        return self.done[rank][place].end if place >= 0 else 0


def per_stage(cost: Cost, stages: int) -> Sequence[float]:
    """Return one cost for each stage.

    Raises:
        UserError: another number of costs than of stages.
    """
    if not isinstance(cost, Sequence):
        return [cost] * stages
    if len(cost) != stages:
        raise UserError(
            f"{len(cost)} costs were given for {stages} pipeline stages: "
            "give one for each stage, or a single number for all"
        )
    return cost
