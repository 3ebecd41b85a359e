"""Activations that are computed twice and not kept.

`full`: of a block only its input is kept, 2sbh bytes in 16 bits, and its
forward runs again when backward needs it (Chen et al. 2016,
arXiv:1604.06174). `selective`: attention's core alone runs again, whose
memory grows with s² and whose operations are few (Korthikanti et al. 2022,
arXiv:2205.05198, section 5).

Random numbers of the second run are those of the first, or dropout would
drop other elements in backward than in forward. Under tensor or sequence
parallelism the second run communicates again.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workshop.errors import UserError
from workshop.models.gpt import Attention


class Recomputed(torch.autograd.Function):
    """A block that keeps nothing but its input, as one operation.

    Outside of a compiled block: forward runs the graph without gradients,
    backward the one with them.
    """

    @staticmethod
    def forward(ctx: Any, block: nn.Module, x: Tensor, one: Tensor) -> Tensor:
        """Run `block` on x (b, s, h).

        `one` needs a gradient, so that the block's parameters get theirs
        even where x needs none.
        """
        ctx.block, ctx.device = block, x.device
        ctx.random = _random_state(x.device)
        kind = x.device.type
        ctx.autocast = {
            "device_type": kind,
            "enabled": torch.is_autocast_enabled(kind),
            "dtype": torch.get_autocast_dtype(kind),
        }
        ctx.save_for_backward(x)
        return block(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        """Run the block again, and backward through it."""
        (kept,) = ctx.saved_tensors
        x = kept.detach().requires_grad_(ctx.needs_input_grad[1])
        devices = [ctx.device] if ctx.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            _set_random_state(ctx.random, ctx.device)
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                y = ctx.block(x)
        if y.requires_grad:
            torch.autograd.backward(y, gradient)
        return None, x.grad, None


class SelectiveAttention(Attention):
    """Attention that keeps q, k and v, and computes its core twice."""

    def core(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `Attention.core`, by torch's own: the compiler knows it."""
        return checkpoint(super().core, q, k, v, use_reentrant=False)


def recompute(chunk: nn.Module, way: str, every: int = 1) -> None:
    """Let a model or a stage recompute, in place.

    Args:
        chunk: with `blocks`, by their numbers in the dense model.
        way: `selective` or `full`.
        every: of every so many blocks one, from block 0.

    Raises:
        UserError: there is nothing that selective recomputation would free.
    """
    chosen = [
        block
        for number, block in chunk.blocks.named_children()
        if int(number) % every == 0
    ]
    if way == "selective":
        if chunk.config.attention != "core":
            raise UserError(
                "flash attention keeps no s × s matrix, so that selective "
                "recomputation frees nothing: choose --attention core, or "
                "--recompute full"
            )
        for block in chosen:
            # Another class and no new attribute: compiled blocks stay alike.
            block.attention.__class__ = SelectiveAttention
        return
    chunk.run = partial(_run, frozenset(chosen))


def _run(chosen: frozenset, block: nn.Module, x: Tensor) -> Tensor:
    if block not in chosen or not torch.is_grad_enabled():
        return block(x)
    one = torch.empty(0, device=x.device, requires_grad=True)
    return Recomputed.apply(block, x, one)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    cuda = device.type == "cuda"
    on_device = torch.cuda.get_rng_state(device) if cuda else None
    return torch.get_rng_state(), on_device


def _set_random_state(
    state: tuple[Tensor, Tensor | None], device: torch.device
) -> None:
    on_host, on_device = state
    torch.set_rng_state(on_host)
    if on_device is not None:
        torch.cuda.set_rng_state(on_device, device)
