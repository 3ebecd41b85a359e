"""Linear layers whose communication hides behind their own products.

`column_linear` is `linear(copy_to(x))` and `row_linear` is
`reduce_from(linear(x))`, each as one operator, for two reasons.

Backward of a column-parallel layer has two independent products. The
gradient of the input, which must be summed over the group, is computed
first; while its sum travels, the gradient of the weight is computed. Under
sequence parallelism the input is not kept whole: its tokens are gathered
again while the gradient of the input is computed, and the sum is a
reduce-scatter (Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2).

And a row-parallel layer sums its own fresh output in place, where an
operator that only communicates has to copy its input first.

On CUDA the collective's kernel competes with the product for
multiprocessors, and it is launched first so that it can get its share first.
CUDA_DEVICE_MAX_CONNECTIONS=1 makes the device keep the order of launches.
Under sequence parallelism row's gradient is gathered before its products,
and column's input before forward's; nothing hides these, or row's sum: the
layers of `fused` do, where the ranks can reach each other's memory.

What t ranks do not share of a layer, without sequence parallelism, is what
happens to whole activations. Compiled, the kernels between the products read
or write b·s·h elements 9 times forward (2 for the first LayerNorm, 3 for
bias, residual and second LayerNorm, 4 for the last sum, which the compiler
starts again from x) and about 16 times backward. Sequence parallelism
divides all of these by t.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op

from workshop import collectives
from workshop.parallel.tensor.mappings import group_of, join_tokens


def start_gather(x: Tensor, group: str) -> tuple[Tensor, Any]:
    """Start to gather tokens (b, s/t, h); return (b, s, h) and a handle."""
    members = group_of(group)
    b, n, h = x.shape
    whole = x.new_empty(b, n * members.size(), h)
    work = collectives.all_gather(
        whole.view(-1), x.contiguous().view(-1), members, async_op=True
    )
    return whole, work


def _start_sum(
    x: Tensor, group: str, sequence_parallel: bool
) -> tuple[Tensor, Any]:
    """Start to sum (b, s, h), which is given up; return sum and handle.

    The sum is `x` itself, or this rank's tokens of it in a new tensor.
    """
    members = group_of(group)
    if not sequence_parallel:
        return x, collectives.all_reduce(x, members, async_op=True)
    b, s, h = x.shape
    part = x.new_empty(b, s // members.size(), h)
    work = collectives.reduce_scatter(
        part.view(-1), x.view(-1), members, async_op=True
    )
    return part, work


@custom_op("workshop::column_linear", mutates_args=())
def column_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    group: str,
    sequence_parallel: bool,
) -> Tensor:
    """Multiply the same input on every rank by another part of the weight.

    Args:
        x: (b, s, h), or (b, s/t, h) under sequence parallelism.
        weight: (o/t, h).
        bias: (o/t), added by the product's own epilogue at no cost.

    Returns:
        (b, s, o/t). Backward returns the sum of the input's gradient.
    """
    if sequence_parallel:
        x, work = start_gather(x, group)
        work.wait()
    return F.linear(x, weight, bias)


@column_linear.register_fake
def _(x, weight, bias, group, sequence_parallel):
    b, s, _ = x.shape
    whole = s * group_of(group).size() if sequence_parallel else s
    return x.new_empty(b, whole, weight.shape[0])


@custom_op("workshop::column_linear_backward", mutates_args=())
def column_linear_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    group: str,
    sequence_parallel: bool,
    train_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `column_linear`'s input and weight.

    Args:
        gradient: (b, s, o/t), of the output.
        train_weight: whether the weight needs one; else it is empty.
    """
    gathering = None
    if sequence_parallel and train_weight:
        x, gathering = start_gather(x, group)
    of_input, summing = _start_sum(
        torch.matmul(gradient, weight), group, sequence_parallel
    )
    if gathering is not None:
        gathering.wait()
    of_weight = (
        gradient.flatten(0, 1).t() @ x.flatten(0, 1)
        if train_weight
        else weight.new_empty(0)
    )
    summing.wait()
    return of_input, of_weight


@column_linear_backward.register_fake
def _(gradient, x, weight, group, sequence_parallel, train_weight):
    size = weight.shape if train_weight else (0,)
    return x.new_empty(x.shape), weight.new_empty(size)


def _keep_column(ctx, inputs: tuple, output: Tensor) -> None:
    x, weight, _, ctx.group, ctx.sequence_parallel = inputs
    ctx.save_for_backward(x, weight)


def _column_backward(ctx, gradient: Tensor) -> tuple:
    _, train_weight, train_bias, _, _ = ctx.needs_input_grad
    of_input, of_weight = column_linear_backward(
        gradient,
        *ctx.saved_tensors,
        ctx.group,
        ctx.sequence_parallel,
        train_weight,
    )
    # Outside the operator, where the compiler can fuse it.
    of_bias = gradient.sum((0, 1)) if train_bias else None
    return of_input, of_weight if train_weight else None, of_bias, None, None


column_linear.register_autograd(_column_backward, setup_context=_keep_column)


@custom_op("workshop::row_linear", mutates_args=())
def row_linear(
    x: Tensor, weight: Tensor, group: str, sequence_parallel: bool
) -> Tensor:
    """Multiply each rank's part of the input by its part of the weight.

    Args:
        x: (b, s, i/t).
        weight: (o, i/t).

    Returns:
        The sum over the group: (b, s, o), or this rank's tokens of it,
        (b, s/t, o), under sequence parallelism.
    """
    total, work = _start_sum(F.linear(x, weight), group, sequence_parallel)
    work.wait()
    return total


@row_linear.register_fake
def _(x, weight, group, sequence_parallel):
    b, s, _ = x.shape
    own = s // group_of(group).size() if sequence_parallel else s
    return x.new_empty(b, own, weight.shape[0])


def _keep_row(ctx, inputs: tuple, output: Tensor) -> None:
    x, weight, ctx.group, ctx.sequence_parallel = inputs
    ctx.save_for_backward(x, weight)


def _row_backward(ctx, gradient: Tensor) -> tuple:
    x, weight = ctx.saved_tensors
    if ctx.sequence_parallel:
        gradient = join_tokens(gradient, ctx.group)
    of_weight = None
    if ctx.needs_input_grad[1]:
        of_weight = gradient.flatten(0, 1).t() @ x.flatten(0, 1)
    return gradient @ weight, of_weight, None, None


row_linear.register_autograd(_row_backward, setup_context=_keep_row)
