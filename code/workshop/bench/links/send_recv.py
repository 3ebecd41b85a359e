"""Messages from one rank to another by the group's own send and receive."""

from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist

from workshop.bench.links.timing import time_calls

SMALL = 8


@dataclass(frozen=True)
class Message:
    """One ordered pair of ranks: bytes a second, and seconds.

    `latency` is half of a round trip of a small message.
    """

    source: int
    target: int
    unidirectional: float
    bidirectional: float
    latency: float


def message_matrix(
    device: torch.device,
    size: int,
    control: dist.ProcessGroup,
    repeats: int = 10,
) -> list[Message]:
    """Time every ordered pair of ranks while the others wait.

    All ranks call this and all get the whole list.

    Args:
        size: bytes of the long message.
        control: a CPU group of all ranks: the idle ones wait in it, because
            a waiting GPU kernel would disturb the pair.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    mine = []
    for source in range(world):
        for target in range(world):
            if source == target:
                continue
            dist.barrier(group=control)
            if rank in (source, target):
                timed = _pair(device, source, target, size, repeats)
                if rank == target:
                    mine.append(timed)
    gathered: list[list[Message] | None] = [None] * world
    dist.all_gather_object(gathered, mine, group=control)
    messages = [message for part in gathered for message in part or []]
    return sorted(messages, key=lambda m: (m.source, m.target))


def _pair(
    device: torch.device, source: int, target: int, size: int, repeats: int
) -> Message:
    rank = dist.get_rank()
    sends, peer = rank == source, target if rank == source else source
    out, into = (
        torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2)
    )

    def one_way() -> None:
        _exchange(peer, out if sends else None, None if sends else into)

    def both_ways() -> None:
        _exchange(peer, out, into)

    def round_trip() -> None:
        few, back = out[:SMALL], into[:SMALL]
        for sending in (sends, not sends):
            _exchange(
                peer, few if sending else None, None if sending else back
            )

    forth = median(time_calls(one_way, device, repeats))
    both = median(time_calls(both_ways, device, repeats))
    small = median(time_calls(round_trip, device, 20, inner=5)) / 2
    return Message(source, target, size / forth, 2 * size / both, small)


def _exchange(
    peer: int, out: torch.Tensor | None, into: torch.Tensor | None
) -> None:
    """Send `out` to and receive `into` from `peer`, either may be None."""
    operations = []
    if out is not None:
        operations.append(dist.P2POp(dist.isend, out, peer))
    if into is not None:
        operations.append(dist.P2POp(dist.irecv, into, peer))
    for work in dist.batch_isend_irecv(operations):
        work.wait()
