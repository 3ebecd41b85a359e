"""Checks for the exercises on the Megatron-LM paper.

An answer of None is one that was not given yet.
"""

from collections.abc import Callable
from fractions import Fraction
from math import isclose

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from workshop.collectives import count, ring_bytes
from workshop.exercises.training import MISSING, RIGHT
from workshop.models.gpt import Attention, GPTConfig


def check_layer_bytes(
    answer: Callable[[int, int, int, int, int], float] | None,
) -> str:
    """Judge a function of b, s, h, bytes of an element and t.

    It returns the bytes that a rank sends in a step for one layer under
    tensor parallelism, forward and backward.
    """
    if answer is None:
        return MISSING
    for b, s, h, size, t in (
        (1, 8, 4, 2, 1),
        (2, 8, 4, 2, 2),
        (3, 5, 6, 4, 8),
    ):
        due = 4 * ring_bytes("all_reduce", b * s * h * size, t)
        sent = answer(b, s, h, size, t)
        if not isclose(sent, due, rel_tol=1e-6, abs_tol=1e-9):
            return (
                f"Not yet: a layer with b={b}, s={s}, h={h}, elements of "
                f"{size} bytes and t={t} sends {float(due):g} bytes a rank, "
                f"not {sent:g}."
            )
    return RIGHT


def check_qkv_cut(
    answer: Callable[[Tensor, int, int, int], Tensor] | None,
) -> str:
    """Judge a function of the fused QKV matrix, heads, rank and t.

    The matrix has the shape (3h, h), as in `models.gpt.Attention`; the
    function returns the rows of this rank, (3h/t, h). With them every rank
    computes heads of its own, and the ranks' outputs add up to the layer's.
    """
    if answer is None:
        return MISSING
    heads, width = 4, 3
    h = heads * width
    torch.manual_seed(0)
    config = GPTConfig(1, h, heads, 5, 16, bias=False)
    dense = Attention(config).double()
    x = torch.randn(2, 5, h, dtype=torch.float64)
    with torch.no_grad():
        due = dense(x)
        for t in (1, 2, 4):
            total = torch.zeros_like(due)
            for rank in range(t):
                rows = answer(dense.qkv.weight, heads, rank, t)
                if tuple(rows.shape) != (3 * h // t, h):
                    return (
                        f"Not yet: rank {rank} of {t} got the shape "
                        f"{tuple(rows.shape)}, not {(3 * h // t, h)}."
                    )
                total += _partial(dense, rows, x, rank, t)
            if not torch.allclose(total, due):
                return (
                    f"Not yet: with {t} ranks the outputs do not add up to "
                    "those of the dense layer."
                )
    return RIGHT


def _partial(
    dense: Attention, rows: Tensor, x: Tensor, rank: int, t: int
) -> Tensor:
    """Return what one rank adds to the output of the layer."""
    b, s, h = x.shape
    qkv = F.linear(x, rows).unflatten(-1, (3, -1, dense.head_size))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    columns = dense.output.weight.chunk(t, dim=1)[rank]
    return F.linear(y.transpose(1, 2).reshape(b, s, h // t), columns)


def check_microbatches(
    answer: Callable[[int, int, float], int] | None,
) -> str:
    """Judge a function of stages p, chunks per stage v and a share.

    It returns the fewest micro-batches m with which the bubble is at most
    that share of the whole step. For v above 1, m is a multiple of p.
    """
    if answer is None:
        return MISSING
    for p, v, share in ((4, 1, 0.11), (8, 1, 0.3), (8, 4, 0.04), (1, 1, 0.1)):
        due = _fewest(p, v, share)
        m = answer(p, v, share)
        if m != due:
            return (
                f"Not yet: p={p} and v={v} need m={due} for a bubble of at "
                f"most {share:g} of the step; your m={m} gives "
                f"{float(_bubble(p, v, m)):.3f}."
                if m > 0
                else f"Not yet: m={m} is no number of micro-batches."
            )
    return RIGHT


def _bubble(p: int, v: int, m: int) -> Fraction:
    """Return the bubble as a share of the whole step."""
    return Fraction(p - 1, v * m + p - 1)


def _fewest(p: int, v: int, share: float) -> int:
    step = p if v > 1 else 1
    m = step
    while _bubble(p, v, m) > share:
        m += step
    return m


def check_split_loss(
    answer: Callable[[Tensor, Tensor, dist.ProcessGroup], Tensor] | None,
    group: dist.ProcessGroup,
    device: torch.device,
) -> str:
    """Judge a cross-entropy over logits that are split by vocabulary.

    Every rank of `group` calls this. The function gets this rank's logits
    (tokens, V/t), the targets (tokens,) of the whole vocabulary and the
    group; it returns the loss of each token, and sends three numbers a
    token at most.
    """
    if answer is None:
        return MISSING
    rank, t = dist.get_rank(group), dist.get_world_size(group)
    tokens, width = 6, 5
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(tokens, t * width, generator=generator)
    targets = torch.arange(tokens) * 3 % (t * width)
    logits = logits.double()
    for what, shift in (("", 0.0), (" of logits near 1000", 1000.0)):
        whole = logits + shift
        due = F.cross_entropy(whole, targets, reduction="none")
        mine = whole.chunk(t, dim=1)[rank].contiguous().to(device)
        with count() as ledger:
            losses = answer(mine, targets.to(device), group).cpu()
        if losses.shape != due.shape or not torch.allclose(losses, due):
            return (
                f"Not yet: the losses{what} are {_brief(losses)} and "
                f"should be {_brief(due)}."
            )
        if ledger.elements > 3 * tokens:
            return (
                f"Not yet: {ledger.elements} numbers travelled for {tokens} "
                f"tokens, and {3 * tokens} are enough."
            )
    return RIGHT


def _brief(losses: Tensor) -> str:
    first = ", ".join(f"{x:.3f}" for x in losses.flatten()[:3].tolist())
    return f"[{first}, ...]"
