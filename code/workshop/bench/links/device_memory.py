"""What one device does alone: copy its memory, multiply two matrices.

Both are ceilings: a training step is never faster than its bytes over the
first or its operations over the second.
"""

from dataclasses import dataclass
from statistics import median

import torch

from workshop.bench.links.timing import time_calls


@dataclass(frozen=True)
class Sizes:
    """How much to copy and multiply: less on a CPU, which is slow."""

    copy_bytes: int
    matrix: int
    dtype: torch.dtype

    @classmethod
    def of(cls, device: torch.device, full: bool) -> "Sizes":
        """Return sizes that fill a GPU, or that a CPU does in a second."""
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        if full:
            return cls(4 * 2**30, 8192, dtype)
        return cls(64 * 2**20, 512, dtype)


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Return bytes a second of a copy inside `device`, read plus written.

    `size` is the bytes of the source; a copy moves twice as many.
    """
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = time_calls(lambda: target.copy_(source), device)
    return 2 * size / median(seconds)


def matmul_rate(device: torch.device, n: int, dtype: torch.dtype) -> float:
    """Return FLOP/s of an n × n × n matrix product of random numbers.

    Random, because a product of zeros switches fewer transistors, draws
    less power and so runs at higher clocks.
    """
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    seconds = time_calls(
        lambda: torch.mm(a, b, out=out), device, inner=2, warmup=10
    )
    return 2 * n**3 / median(seconds)
