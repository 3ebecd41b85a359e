"""Copies between the memories of one node, by one process that sees all.

`direct` is a plain `copy_` between two devices.  Where the devices may
access each other's memory (`torch.cuda.can_device_access_peer`) PyTorch
turns peer access on and the bytes take NVLink or PCIe from one to the
other.  PyTorch has no switch to turn peer access off, so `staged` does by
hand what a driver does without it: device to pinned host memory, host
memory to device, in chunks so that the two halves overlap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from workshop.bench.links.timing import time_together

CHUNK_BYTES = 4 * 2**20
SMALL = 8


@dataclass(frozen=True)
class Copy:
    """One entry of the matrix, all values in bytes a second and seconds.

    `bidirectional` counts both directions' bytes and is None for a copy
    inside one device.
    """

    source: int
    target: int
    path: str
    unidirectional: float
    bidirectional: float | None
    latency: float


def copy_matrix(
    devices: list[torch.device], size: int, repeats: int = 10
) -> list[Copy]:
    """Return both paths of every ordered pair of `devices`.

    Args:
        size: bytes of one message.
    """
    return [
        _measure(devices, i, j, path, size, repeats)
        for path in ("direct", "staged")
        for i in range(len(devices))
        for j in range(len(devices))
    ]


def _measure(
    devices: list[torch.device],
    i: int,
    j: int,
    path: str,
    size: int,
    repeats: int,
) -> Copy:
    make = {"direct": direct_copy, "staged": staged_copy}[path]
    pair = [devices[i], devices[j]]
    forth = time_together([make(*pair, size)], pair, repeats, inner=2)
    both = None
    if i != j:
        calls = [make(*pair, size), make(*pair[::-1], size)]
        seconds = time_together(calls, pair, repeats, inner=2)
        both = 2 * size / median(seconds)
    small = time_together([make(*pair, SMALL)], pair, 20, inner=20)
    return Copy(i, j, path, size / median(forth), both, median(small))


def direct_copy(
    source: torch.device, target: torch.device, size: int
) -> Callable[[], object]:
    """Return a call that copies `size` bytes from `source` to `target`."""
    a = torch.ones(size, dtype=torch.uint8, device=source)
    b = torch.empty(size, dtype=torch.uint8, device=target)
    return lambda: b.copy_(a, non_blocking=True)


def staged_copy(
    source: torch.device, target: torch.device, size: int
) -> Callable[[], object]:
    """Return a call that copies through pinned host memory, in chunks.

    The target waits for each chunk's arrival in host memory, so chunk k
    goes up to the target while chunk k + 1 comes down from the source.
    """
    cuda = source.type == "cuda"
    a = torch.ones(size, dtype=torch.uint8, device=source)
    b = torch.empty(size, dtype=torch.uint8, device=target)
    host = torch.empty(size, dtype=torch.uint8, pin_memory=cuda)
    parts = [t.split(CHUNK_BYTES) for t in (a, host, b)]
    # One device cannot send and receive at once on a single stream.
    down = torch.cuda.Stream(source) if cuda else None

    def copy() -> None:
        if down is None:
            for first, middle, last in zip(*parts, strict=True):
                middle.copy_(first)
                last.copy_(middle)
            return
        up = torch.cuda.current_stream(target)
        # the previous call may still read the host's chunks
        down.wait_event(up.record_event())
        for first, middle, last in zip(*parts, strict=True):
            with torch.cuda.stream(down):
                middle.copy_(first, non_blocking=True)
            up.wait_event(down.record_event())
            last.copy_(middle, non_blocking=True)

    return copy
