"""What sequence parallelism adds to tensor parallelism.

Between the split layers every rank holds b·s/t tokens in the place of all
(Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2). LayerNorm, the
bias after a sum, dropout and the residual then cost 1/t of the time and
memory. Their parameters are still replicated, and each rank sees the
gradient of its own tokens alone: `finish_gradients` adds those up.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed import ProcessGroup

from workshop import collectives
from workshop.errors import UserError
from workshop.models.gpt import Embedding
from workshop.parallel.placement import PARTIAL, Placement, placed
from workshop.parallel.tensor.layers import TensorRegion


class SequenceParallelEmbedding(Embedding):
    """Token and position embeddings of this rank's tokens.

    Takes over the parts of a dense embedding whose `token` is already a
    VocabParallelEmbedding.
    """

    def __init__(self, dense: Embedding, region: TensorRegion) -> None:
        nn.Module.__init__(self)
        self.token, self.position = dense.token, dense.position
        self.dropout, self.region = dense.dropout, region

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (b, s) to activations (b, s/t, h) of own tokens.

        Raises:
            UserError: s is not divisible by the size of the group.
        """
        check_sequence(tokens.shape[1], self.region.size)
        return super().forward(tokens)

    def positions(self, tokens: Tensor) -> Tensor:
        """Return the position embeddings of own tokens, (b, s/t, h)."""
        b, s = tokens.shape
        own = b * s // self.region.size
        first = self.region.rank * own
        places = torch.arange(first, first + own, device=tokens.device) % s
        return self.position(places).view(b, s // self.region.size, -1)


def check_sequence(sequence: int, size: int) -> None:
    """Refuse a sequence that `size` ranks cannot share equally.

    Raises:
        UserError: naming both numbers.
    """
    if sequence % size:
        raise UserError(
            f"a sequence of {sequence} tokens is not divisible by the tensor "
            f"parallel size {size}, and sequence parallelism splits it: "
            f"choose a multiple of {size}, or leave sequence parallelism out."
        )


@torch.no_grad()
def finish_gradients(
    model: nn.Module,
    placement: Mapping[str, Placement],
    group: ProcessGroup,
) -> None:
    """Sum the gradients that each rank has of its own tokens alone.

    Call it on every rank of the tensor parallel `group` after the last
    backward pass of a step. It sends one message (one for each dtype) with
    the gradients of all parameters whose placement over tp is `PARTIAL`,
    and nothing when there are none.
    """
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        partial = placed(placement, name).tp == PARTIAL
        if partial and parameter.grad is not None:
            same = by_dtype.setdefault(parameter.grad.dtype, [])
            same.append(parameter.grad)
    for gradients in by_dtype.values():
        flat = _flatten_dense_tensors(gradients)
        collectives.all_reduce(flat, group)
        totals = _unflatten_dense_tensors(flat, gradients)
        torch._foreach_copy_(gradients, list(totals))
