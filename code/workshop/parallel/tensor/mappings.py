"""Communication primitives of tensor and sequence parallelism.

Activations are either the same on every rank of a group (replicated) or
another part on each (sharded). A mapping leads from one state to the other,
and its backward leads the gradient back (Shoeybi et al. 2019,
arXiv:1909.08053, section 3, where `copy_to` is f and `reduce_from` is g;
Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2, where
`gather_tokens` is g and `reduce_scatter_tokens` is g-bar)::

    mapping                forward          backward
    copy_to                nothing          all-reduce
    reduce_from            all-reduce       nothing
    gather_from            all-gather       own part, last dimension
    gather_tokens          all-gather       reduce-scatter, tokens
    reduce_scatter_tokens  reduce-scatter   all-gather, tokens

The collectives are custom operators, opaque to torch.compile, so that a
compiled block has no graph break and traffic is counted either way. An
operator's arguments cannot hold a process group; it travels by its name,
`group.group_name`.

The last two mappings cut the b·s tokens of a micro-batch, laid end to end,
into t runs of equal length. LayerNorm, dropout and residual treat each token
alone, so any cut of the tokens serves, and this one is contiguous: no
collective needs a transposed copy before or after it. A run has b·s/t tokens
and is kept in the shape (b, s/t, h).
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributed import ProcessGroup, ReduceOp
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.library import custom_op

from workshop import collectives
from workshop.errors import UserError


def group_of(name: str) -> ProcessGroup:
    """Return the process group of a name."""
    return _resolve_process_group(name)


def check_divisible(size: int, ranks: int) -> None:
    """Refuse a dimension that `ranks` cannot share equally.

    Raises:
        UserError: naming both numbers.
    """
    if size % ranks:
        raise UserError(
            f"a dimension of {size} cannot be cut into {ranks} equal parts, "
            "one for each tensor parallel rank: pad it, or change the number "
            "of ranks"
        )


@custom_op("workshop::all_reduce", mutates_args=())
def all_reduce(x: Tensor, group: str, maximum: bool = False) -> Tensor:
    """Return the sum (or the maximum) of `x` over the group, any shape."""
    total = x.clone(memory_format=torch.contiguous_format)
    op = ReduceOp.MAX if maximum else ReduceOp.SUM
    collectives.all_reduce(total, group_of(group), op)
    return total


@all_reduce.register_fake
def _(x: Tensor, group: str, maximum: bool = False) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@custom_op("workshop::all_gather", mutates_args=())
def all_gather(x: Tensor, group: str) -> Tensor:
    """Return every rank's `x`, stacked: (...) to (t, ...)."""
    members = group_of(group)
    parts = x.new_empty(members.size(), *x.shape)
    collectives.all_gather(parts.view(-1), x.contiguous().view(-1), members)
    return parts


@all_gather.register_fake
def _(x: Tensor, group: str) -> Tensor:
    return x.new_empty(group_of(group).size(), *x.shape)


@custom_op("workshop::reduce_scatter_tokens", mutates_args=())
def sum_own_tokens(x: Tensor, group: str) -> Tensor:
    """Return the sum over the group of this rank's tokens.

    (b, s, h) to (b, s/t, h).
    """
    members = group_of(group)
    b, s, h = x.shape
    check_divisible(s, members.size())
    part = x.new_empty(b, s // members.size(), h)
    collectives.reduce_scatter(
        part.view(-1), x.contiguous().view(-1), members
    )
    return part


@sum_own_tokens.register_fake
def _(x: Tensor, group: str) -> Tensor:
    b, s, h = x.shape
    check_divisible(s, group_of(group).size())
    return x.new_empty(b, s // group_of(group).size(), h)


@custom_op("workshop::own_last", mutates_args=())
def own_last(x: Tensor, group: str) -> Tensor:
    """Return this rank's part of the last dimension: (..., n) to n/t."""
    members = group_of(group)
    check_divisible(x.shape[-1], members.size())
    part = x.chunk(members.size(), -1)[members.rank()]
    return part.clone(memory_format=torch.contiguous_format)


@own_last.register_fake
def _(x: Tensor, group: str) -> Tensor:
    size = group_of(group).size()
    check_divisible(x.shape[-1], size)
    return x.new_empty(*x.shape[:-1], x.shape[-1] // size)


def join_last(x: Tensor, group: str) -> Tensor:
    """Return all ranks' parts side by side in the last dimension."""
    return all_gather(x, group).movedim(0, -2).flatten(-2)


def join_tokens(x: Tensor, group: str) -> Tensor:
    """Return the tokens of all ranks: (b, s/t, h) to (b, s, h)."""
    return all_gather(x, group).view(x.shape[0], -1, x.shape[2])


class _CopyTo(Function):
    @staticmethod
    def forward(ctx, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return all_reduce(gradient, ctx.group), None


class _ReduceFrom(Function):
    @staticmethod
    def forward(ctx, x: Tensor, group: str) -> Tensor:
        return all_reduce(x, group)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _GatherFrom(Function):
    @staticmethod
    def forward(ctx, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        return join_last(x, group)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return own_last(gradient, ctx.group), None


class _GatherTokens(Function):
    @staticmethod
    def forward(ctx, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        return join_tokens(x, group)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return sum_own_tokens(gradient, ctx.group), None


class _ReduceScatterTokens(Function):
    @staticmethod
    def forward(ctx, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        return sum_own_tokens(x, group)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return join_tokens(gradient, ctx.group), None


def copy_to(x: Tensor, group: str) -> Tensor:
    """Pass `x` on; backward sums its gradient, partial on each rank."""
    return _CopyTo.apply(x, group)


def reduce_from(x: Tensor, group: str) -> Tensor:
    """Sum `x`, partial on each rank; backward passes the gradient on."""
    return _ReduceFrom.apply(x, group)


def gather_from(x: Tensor, group: str) -> Tensor:
    """Join the parts of the last dimension: (..., n/t) to (..., n)."""
    return _GatherFrom.apply(x, group)


def gather_tokens(x: Tensor, group: str) -> Tensor:
    """Join the tokens of all ranks: (b, s/t, h) to (b, s, h).

    For an input of a sharded computation: its gradient is partial on each
    rank, and backward sums it while scattering it.
    """
    return _GatherTokens.apply(x, group)


def reduce_scatter_tokens(x: Tensor, group: str) -> Tensor:
    """Sum `x`, partial on each rank, and keep own tokens.

    (b, s, h) to (b, s/t, h).
    """
    return _ReduceScatterTokens.apply(x, group)
