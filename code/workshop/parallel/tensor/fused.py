"""Sequence parallel layers whose tokens travel under their own product.

Under sequence parallelism a column-parallel layer gathers its input and a
row-parallel one scatters its output, and an operator that first communicates
and then multiplies hides neither. Here the product goes in pieces, one for
each rank's tokens: while one is multiplied, copy engines fetch the next, or
take the last one away (torch's symmetric memory; Wang et al. 2023, "Overlap
Communication with Dependent Computation via Decomposition in Large Deep
Learning Models", ASPLOS). Same layers, same sums, as in `linear`.

The pieces are smaller products, and so this is no gain everywhere: `ready`
chooses it for two GPUs of one host, where it was measured to be one.
"""

from collections.abc import Callable

import torch
import torch.distributed._symmetric_memory  # has torch.ops.symm_mem
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.library import custom_op

from workshop import collectives
from workshop.parallel.peer_memory import available
from workshop.parallel.tensor.linear import start_gather
from workshop.parallel.tensor.mappings import group_of

RANKS = 2
"""The size of a group for which pieces were measured to be faster."""


def ready(group: ProcessGroup, device: torch.device) -> bool:
    """Tell whether these layers can be used, and are faster.

    Collective over `group`; all ranks get the same answer.
    """
    return group.size() == RANKS and available(group, device)


def gather_and_multiply(
    x: Tensor, weight: Tensor, group: str
) -> tuple[Tensor, Tensor]:
    """Gather x (n/t, i) to (n, i), times weight (i, o): both results."""
    whole, products = torch.ops.symm_mem.fused_all_gather_matmul(
        x, [weight], 0, group, return_A=True
    )
    collectives.record("all_gather", whole, group_of(group))
    return whole, products[0]


def multiply_and_scatter(x: Tensor, weight: Tensor, group: str) -> Tensor:
    """Sum x (n, i) times weight (i, o) over the ranks: own (n/t, o)."""
    part = torch.ops.symm_mem.fused_matmul_reduce_scatter(
        x, weight, "sum", 0, group
    )
    members = group_of(group)
    message = part.expand(members.size(), *part.shape)
    collectives.record("reduce_scatter", message, members)
    return part


@custom_op("workshop::fused_column_linear", mutates_args=())
def fused_column_linear(x: Tensor, weight: Tensor, group: str) -> Tensor:
    """Return `column_linear(x, weight, None, group, True)`."""
    b, n, h = x.shape
    _, y = gather_and_multiply(
        x.contiguous().view(b * n, h), weight.t(), group
    )
    return y.view(b, -1, weight.shape[0])


@fused_column_linear.register_fake
def _(x, weight, group):
    b, n, _ = x.shape
    return x.new_empty(b, n * group_of(group).size(), weight.shape[0])


@custom_op("workshop::fused_column_linear_backward", mutates_args=())
def fused_column_linear_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    group: str,
    train_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `fused_column_linear`'s input and weight.

    The input's tokens are gathered again under the other product.
    """
    flat = gradient.contiguous().flatten(0, 1)
    if train_weight:
        whole, gathering = start_gather(x, group)
    of_input = multiply_and_scatter(flat, weight, group).view(x.shape)
    if not train_weight:
        return of_input, weight.new_empty(0)
    gathering.wait()
    return of_input, flat.t() @ whole.flatten(0, 1)


@custom_op("workshop::fused_row_linear", mutates_args=())
def fused_row_linear(x: Tensor, weight: Tensor, group: str) -> Tensor:
    """Return `row_linear(x, weight, group, True)`."""
    b = x.shape[0]
    part = multiply_and_scatter(
        x.contiguous().flatten(0, 1), weight.t(), group
    )
    return part.view(b, -1, weight.shape[0])


@fused_row_linear.register_fake
def _(x, weight, group):
    b, s, _ = x.shape
    return x.new_empty(b, s // group_of(group).size(), weight.shape[0])


@custom_op("workshop::fused_row_linear_backward", mutates_args=())
def fused_row_linear_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    group: str,
    train_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `fused_row_linear`'s input and weight."""
    b, n, o = gradient.shape
    whole, of_input = gather_and_multiply(
        gradient.contiguous().view(b * n, o), weight, group
    )
    of_weight = (
        whole.t() @ x.flatten(0, 1) if train_weight else weight.new_empty(0)
    )
    return of_input.view(x.shape), of_weight


def _gradients(gradient, x, weight, group, train_weight):
    size = weight.shape if train_weight else (0,)
    return x.new_empty(x.shape), weight.new_empty(size)


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    x, weight, ctx.group = inputs
    ctx.save_for_backward(x, weight)


def _differentiable(forward: Callable, backward: Callable) -> None:
    """Make an operator's gradients those that another one returns."""

    def run(ctx, gradient: Tensor) -> tuple:
        train = ctx.needs_input_grad[1]
        of_input, of_weight = backward(
            gradient, *ctx.saved_tensors, ctx.group, train
        )
        return of_input, of_weight if train else None, None

    backward.register_fake(_gradients)
    forward.register_autograd(run, setup_context=_keep)


_differentiable(fused_column_linear, fused_column_linear_backward)
_differentiable(fused_row_linear, fused_row_linear_backward)
