"""What a rank says that waits for a message which does not come."""

from workshop.parallel.pipeline.messages import Message
from workshop.parallel.pipeline.schedule import Schedule
from workshop.parallel.pipeline.simulator import Deadlock, simulate


class PipelineStuck(RuntimeError):
    """A message did not arrive in time: who waits for whom, and where."""


def stuck(
    rank: int,
    message: Message,
    schedule: Schedule,
    sends: str,
    error: RuntimeError,
) -> PipelineStuck:
    """Return the error of a rank whose wait for a message has failed.

    `sends` is how messages travel, as the simulator calls it: it finds the
    deadlock, if the schedule has one.
    """
    text = f"rank {rank} waited to " + (
        f"send the result of {message.produced} to rank "
        f"{message.receiver}, for {message.needed} there"
        if message.sender == rank
        else f"receive the result of {message.produced} on rank "
        f"{message.sender}, for its own {message.needed}"
    )
    try:
        simulate(schedule, sends=sends)
    except Deadlock as deadlock:
        return PipelineStuck(f"{text}: {deadlock}")
    return PipelineStuck(
        f"{text}; the schedule itself has no deadlock, so the other rank "
        f"is late or has died ({error})"
    )
