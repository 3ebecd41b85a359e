"""Checks for the exercises on the Megatron-LM paper.

An answer of None is one that was not given yet.
"""

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from workshop.collectives import count
from workshop.exercises.verdict import MISSING, RIGHT, judged
from workshop.models.gpt import Attention, GPTConfig
from workshop.parallel.tensor.mappings import copy_to, reduce_from


def check_layers(
    answer: Callable[..., Tensor] | None,
    group: dist.ProcessGroup,
    device: torch.device,
) -> str:
    """Judge a column- and a row-parallel layer, as one MLP on every rank.

    Every rank of `group` calls this. The function gets x (n, h), the whole
    A (h, 4h), B (4h, h), the bias of B (h,) and the group, uses its rank's
    parts of A and B, and returns GeLU(x A) B + bias.
    """
    if answer is None:
        return MISSING
    inputs = x, a, b, bias = _mlp_inputs(device)
    dense = _dense(x, a, b, bias)
    due = torch.autograd.grad(dense.square().sum(), inputs)
    # Every rank runs all of it before any judges: one that stopped early
    # would leave the others waiting for its message.
    with count() as ledger:
        z = answer(x, a, b, bias, group)
        forward = ledger.elements
        if z is None:
            return "Not yet: it returns nothing."
        if z.requires_grad:
            z.square().sum().backward()
    if not torch.allclose(z, dense):
        return (
            "Not yet: the output is not the dense one. What does every "
            "rank add, and what should be added once?"
        )
    if forward > x.numel() or ledger.elements > 2 * x.numel():
        return "Not yet: it is right, and sends more than one sum each way."
    if any(each.grad is None for each in inputs):
        return "Not yet: forward is right, and an input has no gradient."
    ratio = (x.grad.norm() / due[0].norm()).item()
    if not torch.allclose(x.grad, due[0]):
        return (
            "Not yet: forward is right, and the gradient of x has "
            f"{ratio:.3f} times the norm of the dense one. Which of the "
            "two functions sums in backward?"
        )
    rank, t = dist.get_rank(group), dist.get_world_size(group)
    for name, grad, whole, dim in (
        ("columns of A", a.grad, due[1], 1),
        ("rows of B", b.grad, due[2], 0),
    ):
        mine = torch.zeros_like(whole)
        mine.chunk(t, dim)[rank].copy_(whole.chunk(t, dim)[rank])
        if not torch.allclose(grad, mine):
            return (
                f"Not yet: the gradient of this rank's {name} is wrong, or "
                "it computes with others too."
            )
    if not torch.allclose(bias.grad, due[3]):
        return (
            "Not yet: all is right but the gradient of the bias, which "
            "every rank should add to the sum, whole."
        )
    return RIGHT


def _dense(x: Tensor, a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x @ a) @ b + bias


def _mlp_inputs(device: torch.device) -> list[Tensor]:
    """Return x, A, B and the bias of a small MLP, alike on every rank."""
    h = 8
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        .to(device)
        .requires_grad_()
        for shape in ((6, h), (h, 4 * h), (4 * h, h), (h,))
    ]


PLANTED = {
    "A": "g sums backward",
    "B": "bias before g",
    "C": "f left out",
}


def planted(
    letter: str, group: dist.ProcessGroup, device: torch.device
) -> tuple[float, float]:
    """Return what a bug does: errors of output and gradient, as ratios.

    Every rank of `group` calls this for an MLP with one planted bug.

    Returns:
        the norm of the output, and of the gradient of x for the sum of the
        output, over those of the dense MLP.
    """
    x, a, b, bias = _mlp_inputs(device)
    rank, t = dist.get_rank(group), dist.get_world_size(group)
    name, bug = group.group_name, PLANTED[letter]
    due = _dense(x, a, b, bias)
    (gradient,) = torch.autograd.grad(due.sum(), x)
    enter = x if bug == "f left out" else copy_to(x, name)
    z = F.gelu(enter @ a.chunk(t, dim=1)[rank]) @ b.chunk(t)[rank]
    if bug == "bias before g":
        z = reduce_from(z + bias, name)
    else:
        z = reduce_from(z, name) + bias
    if bug == "g sums backward":
        z = copy_to(z, name)
    (mine,) = torch.autograd.grad(z.sum(), x)
    return (
        (z.norm() / due.norm()).item(),
        (mine.norm() / gradient.norm()).item(),
    )


def check_planted(answer: Mapping[str, str] | None) -> str:
    """Judge which bug each letter of `planted` has."""
    hints = {
        "g sums backward": "every gradient is the same factor too long",
        "bias before g": "already the output is wrong",
        "f left out": "the output is right, and no clean factor shows",
    }
    choices = ", ".join(sorted(PLANTED.values()))
    return judged(answer, PLANTED, hints, choices, "With {!r}, {}.")


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
                shape = None if rows is None else tuple(rows.shape)
                if shape != (3 * h // t, h):
                    return (
                        f"Not yet: rank {rank} of {t} got the shape "
                        f"{shape}: it needs the rows of its "
                        "heads, for queries, keys and values."
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
                f"Not yet: the losses{what} are {_brief(losses)}, and not "
                "those of the whole logits: which rank has the target?"
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
