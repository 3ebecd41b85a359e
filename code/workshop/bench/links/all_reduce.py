"""The time of an all-reduce over the size of its message.

Algorithm bandwidth is bytes / time.  Bus bandwidth multiplies it by
2(n−1)/n, the bytes that each of n ranks must send for a byte of message,
so it can be compared with a link's speed whatever n is: the definition of
nccl-tests (https://github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md).
"""

from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist

from workshop.bench.links.timing import time_calls

SMALLEST = 8
LONG = 2**20
WARMUP = 3


@dataclass(frozen=True)
class Point:
    """One message size: `seconds` is the median over the repeats."""

    bytes: int
    seconds: float
    repeats: int
    world: int

    @property
    def algorithm_bandwidth(self) -> float:
        """Bytes of the message a second."""
        return self.bytes / self.seconds

    @property
    def bus_bandwidth(self) -> float:
        """Bytes a second that each rank sends, by nccl-tests' definition."""
        return self.algorithm_bandwidth * 2 * (self.world - 1) / self.world


def message_sizes(largest: int, factor: int = 2) -> list[int]:
    """Return the sizes in bytes: 8, 8·factor … and `largest` itself."""
    sizes = []
    size = SMALLEST
    while size < largest:
        sizes.append(size)
        size *= factor
    return [*sizes, largest]


def repeats_of(size: int) -> int:
    """Return how often a size is timed: 20 times, the longest fewer."""
    if size <= 2**26:
        return 20
    return 10 if size <= 2**28 else 5


def all_reduce_curve(
    device: torch.device, sizes: list[int], control: dist.ProcessGroup
) -> list[Point]:
    """Time a sum over all ranks of float32 messages of `sizes` bytes.

    A repeat counts with the time of its slowest rank.  All ranks call this
    and all get the points.

    Args:
        sizes: in bytes, each a multiple of 4.
        control: a CPU group of all ranks that carries the times.
    """
    world = dist.get_world_size()
    buffer = torch.zeros(max(sizes) // 4, device=device)
    points = []
    for size in sizes:
        message = buffer[: size // 4]
        repeats = repeats_of(size)
        dist.barrier(group=control)
        seconds = time_calls(
            lambda message=message: dist.all_reduce(message),
            device,
            repeats,
            inner=1 if size > LONG else 10,
            warmup=WARMUP,
        )
        slowest = torch.tensor(seconds, dtype=torch.float64)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX, group=control)
        points.append(Point(size, median(slowest.tolist()), repeats, world))
    return points


def check_sum(device: torch.device) -> None:
    """Refuse to time an all-reduce whose sum is wrong.

    Raises:
        RuntimeError: naming the sum and what it should be.
    """
    world = dist.get_world_size()
    value = torch.full((1024,), float(dist.get_rank() + 1), device=device)
    dist.all_reduce(value)
    expected = world * (world + 1) / 2
    if not bool((value == expected).all()):
        raise RuntimeError(
            f"an all-reduce over {world} ranks gave {value[0].item()} "
            f"where the sum is {expected}"
        )
