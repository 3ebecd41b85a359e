"""Layers of which each rank of a tensor parallel group holds a part.

They take the place of a dense layer, under its name and with parameters of
the same names (Shoeybi et al. 2019, arXiv:1909.08053, section 3). A column-
parallel layer followed by a row-parallel one communicates once forward and
once backward, whatever happens between them element by element.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop.parallel.tensor.cross_entropy import (
    mean_loss,
    vocab_parallel_cross_entropy,
)
from workshop.parallel.tensor.linear import column_linear, row_linear
from workshop.parallel.tensor.mappings import (
    copy_to,
    gather_from,
    gather_tokens,
    reduce_from,
    reduce_scatter_tokens,
)


@dataclass(frozen=True)
class TensorRegion:
    """What a layer knows of its group.

    `group` is the group's name, `rank` this rank's place among its `size`
    ranks. With `overlap` the layers are those of `linear`, with `fused`
    those of that name; without both, a product and a mapping in turn.
    """

    group: str
    rank: int
    size: int
    sequence_parallel: bool = False
    overlap: bool = True
    fused: bool = False


def _autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Cast float32 as autocast does, which does not see our operators."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        tensor.to(dtype)
        if tensor is not None and tensor.dtype == torch.float32
        else tensor
        for tensor in tensors
    )


def column_parallel(
    x: Tensor, weight: Tensor, bias: Tensor | None, region: TensorRegion
) -> Tensor:
    """Map x (b, s, h), replicated, to (b, s, o/t) by weight (o/t, h).

    Under sequence parallelism x is (b, s/t, h). Backward sums the gradient
    of x over the group.
    """
    x, weight, bias = _autocast(x, weight, bias)
    if region.fused:
        from workshop.parallel.tensor.fused import fused_column_linear

        y = fused_column_linear(x, weight, region.group)
        return y if bias is None else y + bias
    if region.overlap:
        return column_linear(
            x, weight, bias, region.group, region.sequence_parallel
        )
    enter = gather_tokens if region.sequence_parallel else copy_to
    return F.linear(enter(x, region.group), weight, bias)


class ColumnParallelLinear(nn.Module):
    """A linear layer split by outputs: weight (o/t, i), bias (o/t)."""

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        region: TensorRegion,
    ) -> None:
        super().__init__()
        self.weight, self.bias, self.region = weight, bias, region

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, s, i), or (b, s/t, i) when tokens are split, to o/t."""
        return column_parallel(x, self.weight, self.bias, self.region)


class RowParallelLinear(nn.Module):
    """A linear layer split by inputs: weight (o, i/t), bias (o).

    Each rank's product is a term of the sum. The bias is not: it is added
    once, after the sum, where the compiler fuses it with the dropout and
    the residual that follow.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        region: TensorRegion,
    ) -> None:
        super().__init__()
        self.weight, self.bias, self.region = weight, bias, region

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, s, i/t) to (b, s, o), or (b, s/t, o) of own tokens."""
        x, weight, bias = _autocast(x, self.weight, self.bias)
        region = self.region
        if region.fused:
            from workshop.parallel.tensor.fused import fused_row_linear

            y = fused_row_linear(x, weight, region.group)
        elif region.overlap:
            y = row_linear(x, weight, region.group, region.sequence_parallel)
        elif region.sequence_parallel:
            y = reduce_scatter_tokens(F.linear(x, weight), region.group)
        else:
            y = reduce_from(F.linear(x, weight), region.group)
        return y if bias is None else y + bias


class VocabParallelEmbedding(nn.Module):
    """An embedding split by tokens: rows `rank * V/t` and on, (V/t, h).

    V is rounded up to a multiple of t; the rows of the padding are zero,
    and stay so.  `vocabulary` is V without the padding: a token that is not
    below it is refused as the dense embedding does, with an IndexError.
    """

    def __init__(
        self, weight: nn.Parameter, region: TensorRegion, vocabulary: int
    ) -> None:
        super().__init__()
        self.weight, self.region = weight, region
        self.vocabulary = vocabulary

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (b, s) to (b, s, h), or to (b, s/t, h) of own tokens."""
        rows = self.weight.shape[0]
        elsewhere = tokens // rows != self.region.rank
        # A token of another rank reads some row here. One and the same for
        # all of them would be written by half the batch in backward.
        known = (tokens >= 0) & (tokens < self.vocabulary)
        x = F.embedding(torch.where(known, tokens % rows, rows), self.weight)
        x = x.masked_fill(elsewhere.unsqueeze(-1), 0.0)
        if self.region.sequence_parallel:
            return reduce_scatter_tokens(x, self.region.group)
        return reduce_from(x, self.region.group)


class VocabParallelHead(nn.Module):
    """The final LayerNorm and the projection onto a split vocabulary.

    Args:
        norm: the dense head's LayerNorm.
        vocabulary: V without the padding.
        weight: the rank's part (V/t, h), None for a tied head.
    """

    def __init__(
        self,
        norm: nn.Module,
        vocabulary: int,
        region: TensorRegion,
        weight: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.norm, self.vocabulary, self.region = norm, vocabulary, region
        self.weight = weight

    def forward(
        self, x: Tensor, tied: Tensor | None, targets: Tensor | None
    ) -> Tensor:
        """Map x to logits or to the mean loss.

        `tied` is the embedding's part (V/t, h), None for a head with a
        weight of its own.  `x` is (b, s, h), or (b, s/t, h) of own tokens.
        With `targets` (b, s) the result is the scalar cross-entropy in nats
        a token, without them the logits (b, s, V); either is the same on
        every rank.
        """
        weight = self.weight if tied is None else tied
        logits = column_parallel(self.norm(x), weight, None, self.region)
        if targets is None:
            whole = gather_from(logits, self.region.group)
            return whole[..., : self.vocabulary]
        rows = weight.shape[0]
        start = self.region.rank * rows
        flat = targets.flatten()
        losses = vocab_parallel_cross_entropy(
            logits.flatten(0, 1),
            flat,
            start,
            min(max(self.vocabulary - start, 0), rows),
            self.region.group,
        )
        return mean_loss(losses, flat)
