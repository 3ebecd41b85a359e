"""megatron-core on the CPU, for tests: what it asks of CUDA, the CPU does.

megatron-core's model and schedules name the device "cuda" in their code.
`patch` makes this process answer for it; it changes torch for good, so it is
called in ranks of a pool of their own and never in the labs.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch

CPU = torch.device("cpu")
FACTORIES = ("zeros", "ones", "empty", "full", "tensor", "arange")


def is_cuda(device: object) -> bool:
    """Return whether an argument names a GPU."""
    if isinstance(device, int):
        return not isinstance(device, bool)
    return device is not None and str(device).startswith("cuda")


def on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a factory of tensors put on the CPU what is meant for a GPU."""

    @functools.wraps(function)
    def made(*args: Any, **options: Any) -> torch.Tensor:
        if is_cuda(options.get("device")):
            options["device"] = CPU
        return function(*args, **options)

    return made


def name_on_gpu(kind: str) -> str:
    """Return what the optimizer, which sorts tensors by name, calls this.

    It knows no doubles; they take the way of its floats.
    """
    name = kind.replace("torch.", "torch.cuda.")
    return name.replace("DoubleTensor", "FloatTensor")


class Nothing:
    """A stream or an event: on the CPU everything is in order already."""

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., "Nothing"]:
        return lambda *args, **options: self


def patch() -> None:
    """Run megatron-core on the CPU of this process, in double if asked.

    Its fused functions run as they are written, without a compiler.  Its
    cross-entropy calls `.float()`, which here leaves a double as it is.
    """
    if hasattr(torch, "megatron_on_cpu"):
        return
    torch.megatron_on_cpu = True
    torch._dynamo.config.disable = True
    cuda, tensor = torch.cuda, torch.Tensor
    cuda.current_device = lambda: CPU
    for name in ("synchronize", "empty_cache"):
        setattr(cuda, name, lambda *args: None)
    for name in FACTORIES:
        setattr(torch, name, on_cpu(getattr(torch, name)))
    tensor.cuda = lambda self, *args, **options: self
    narrow, kind = tensor.float, tensor.type
    tensor.float = lambda self: (
        self if self.dtype == torch.float64 else narrow(self)
    )
    tensor.type = lambda self, *args: (
        kind(self, *args) if args else name_on_gpu(kind(self))
    )
    cuda.Stream = cuda.Event = Nothing
    cuda.current_stream = cuda.default_stream = Nothing
    cuda.stream = lambda stream: contextlib.nullcontext()
    cuda.manual_seed = torch.manual_seed
    cuda.get_rng_state = lambda *args: torch.get_rng_state()
    cuda.set_rng_state = lambda state, *args: torch.set_rng_state(state)
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = lambda *args, **options: (
        torch.get_rng_state()
    )
    random._set_cuda_rng_state = lambda state, *args, **options: (
        torch.set_rng_state(state)
    )
