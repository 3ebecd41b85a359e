"""The fused layers of sequence parallelism where there is no GPU.

Their operators are CUDA's; torch keeps what they must equal beside them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric_memory
from torch import nn

from workshop.parallel.tensor import transform

# A library of operators lasts as long as the object.
KEPT: list[torch.library.Library] = []


@contextmanager
def fused_on_cpu() -> Iterator[None]:
    """Let `transform.apply` choose the fused layers."""
    if not KEPT:
        KEPT.append(torch.library.Library("symm_mem", "IMPL"))
        for name in ("all_gather_matmul", "matmul_reduce_scatter"):
            same = getattr(symmetric_memory, f"_fused_{name}_fallback")
            KEPT[0].impl(f"fused_{name}", same, "CPU")
    choose, transform._fused = transform._fused, _always
    try:
        yield
    finally:
        transform._fused = choose


def _always(model: nn.Module, group: dist.ProcessGroup) -> bool:
    return True
