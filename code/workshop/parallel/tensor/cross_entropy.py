"""Cross-entropy of logits that are split along the vocabulary.

With V/t logits of each token on every rank, log-softmax needs three numbers
a token from the group: the maximum, the target's logit, the sum of the
exponentials. So b·s numbers travel three times, and never the b·s·V logits
(Shoeybi et al. 2019, arXiv:1909.08053, section 3, "fuse the output of the
parallel GEMM with the cross entropy loss").
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd import Function

from workshop.data.counted import IGNORED
from workshop.parallel.tensor.mappings import all_reduce

PIECE = 2**24
"""Logits that are in float32 at a time (64 MiB) outside torch.compile."""


def _pieces(logits: Tensor) -> Iterator[slice]:
    """Yield slices of rows whose float32 copies are small.

    Compiled, one slice of all rows: there no copy is ever stored.
    """
    rows = logits.shape[0]
    step = max(1, PIECE // logits.shape[1])
    if torch.compiler.is_compiling():
        step = max(rows, 1)
    for begin in range(0, rows, step):
        yield slice(begin, begin + step)


def _wide(logits: Tensor, real: int) -> Tensor:
    """Return logits as float32 or wider, those of padding as -inf."""
    if logits.itemsize < 4:
        logits = logits.float()
    if real == logits.shape[1]:
        return logits
    columns = torch.arange(logits.shape[1], device=logits.device)
    return logits.masked_fill(columns >= real, -torch.inf)


class _VocabCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx, logits: Tensor, local: Tensor, real: int, group: str
    ) -> Tensor:
        pieces = list(_pieces(logits))
        highest = torch.cat(
            [_wide(logits[rows], real).amax(1) for rows in pieces]
        )
        highest = all_reduce(highest, group, maximum=True)
        inside = (local >= 0) & (local < logits.shape[1])
        index = local.masked_fill(~inside, 0).unsqueeze(1)
        own = logits.gather(1, index).squeeze(1) - highest
        target = all_reduce(own.masked_fill(~inside, 0.0), group)
        exponentials = torch.cat(
            [
                (_wide(logits[rows], real) - highest[rows, None]).exp().sum(1)
                for rows in pieces
            ]
        )
        logarithm = all_reduce(exponentials, group).log()
        ctx.real = real
        ctx.save_for_backward(logits, local, highest + logarithm)
        return logarithm - target

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        logits, local, normaliser = ctx.saved_tensors
        columns = torch.arange(logits.shape[1], device=logits.device)

        def of(rows: slice) -> Tensor:
            wide = _wide(logits[rows], ctx.real)
            softmax = (wide - normaliser[rows, None]).exp()
            hit = columns == local[rows, None]
            return (softmax - hit.to(softmax.dtype)) * gradient[rows, None]

        if torch.compiler.is_compiling():
            return of(slice(None)).to(logits.dtype), None, None, None
        for rows in _pieces(logits):
            logits[rows] = of(rows)
        return logits, None, None, None


class _MeanOverCounted(Function):
    """Keeps the targets alone for backward, which are there anyway."""

    @staticmethod
    def forward(ctx, losses: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(targets)
        return losses.mean() * _scale(targets, losses.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (targets,) = ctx.saved_tensors
        each = gradient * _scale(targets, gradient.dtype)
        return each.expand(len(targets)) / len(targets), None


def _scale(targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how many targets there are for one that counts."""
    return len(targets) / (targets != IGNORED).sum().to(dtype)


def vocab_parallel_cross_entropy(
    logits: Tensor, targets: Tensor, start: int, real: int, group: str
) -> Tensor:
    """Return the cross-entropy of every token, in nats, on every rank.

    That of a target of `IGNORED` is 0, and it has no gradient.

    Backward needs no communication. Outside torch.compile it writes the
    gradient over `logits`, for which there is often no room twice; a second
    backward through the same logits is an error.

    Args:
        logits: (n, V/t), of this rank's part of the vocabulary.
        targets: (n), token ids of the whole vocabulary.
        start: the id of the first logit here.
        real: how many of the logits here belong to tokens; the others are
            padding, never win, and get no gradient.

    Returns:
        (n), float32 for 16-bit logits, else in the type of the logits.
    """
    losses = _VocabCrossEntropy.apply(logits, targets - start, real, group)
    return losses.masked_fill(targets == IGNORED, 0.0)


def mean_loss(losses: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over the tokens (n) whose targets count, a scalar.

    Exactly the plain mean where all of them count.
    """
    return _MeanOverCounted.apply(losses, targets)
