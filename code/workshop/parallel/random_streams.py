"""Random numbers for dropout: equal where activations are, else different.

On activations that the ranks of a tensor parallel group all hold, dropout
must drop the same elements on every rank, or they stop being the same. On
activations of which each rank holds another part it must not: equal masks
would repeat one pattern t times. Megatron-LM keeps two generators for the
two kinds (Shoeybi et al. 2019, arXiv:1909.08053, section 3 and appendix B).

Our GPT drops at the embedding and at the two outputs of a block, and in one
mode these are all of one kind: all replicated under tensor parallelism, all
split by tokens under sequence parallelism. So the default generator of each
rank is enough. It is also the one that compiled code draws from, and that a
checkpoint holds for every rank.
"""

import torch

from workshop.layout import Coordinate, Layout


def stream(layout: Layout, at: Coordinate) -> int:
    """Return the number of the stream that the rank at `at` draws from.

    Data parallel ranks and pipeline stages never share one. Tensor parallel
    ranks do, unless sequence parallelism gives them different tokens.
    """
    tp = at.tp if layout.sequence_parallel else 0
    return layout.rank(pp=at.pp, dp=at.dp, tp=tp)


def seed_streams(seed: int, layout: Layout, at: Coordinate) -> None:
    """Start the rank's stream, on the CPU and on CUDA.

    Call it on every rank after the model is initialised, with the `seed` of
    the run.
    """
    torch.manual_seed(seed + stream(layout, at))
