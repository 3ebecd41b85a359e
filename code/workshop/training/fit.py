"""Whether a layout fits a model, and what is legal and slow about it."""

import os

from workshop.errors import UserError
from workshop.layout import Layout
from workshop.models.gpt import GPTConfig


def check_fit(
    config: GPTConfig, layout: Layout, data_parallel: str = "overlapped"
) -> None:
    """Refuse a layout that a model cannot be spread over.

    `data_parallel` is the way in which gradients will be averaged.

    Raises:
        UserError: naming the model's number and the ranks.
    """
    if layout.tp > 1:
        from workshop.parallel.tensor.transform import check

        check(config, layout.tp, layout.sequence_parallel)
    if layout.pp == 1:
        return
    from workshop.parallel.pipeline.stages import cut, cut_by_hand

    if layout.cut is None:
        cut(config, layout.chunks, ranks=layout.pp)
    else:
        cut_by_hand(config, layout.cut)
    if data_parallel == "ddp":
        raise UserError(
            "--data-parallel ddp decides in forward which backward averages, "
            "and a pipeline runs other forwards between the two: choose "
            "overlapped or naive"
        )


def warning(layout: Layout) -> str | None:
    """Return what is legal and slow about a layout's placement, or None.

    torchrun says how many ranks a node has, by `LOCAL_WORLD_SIZE`.
    """
    node = int(os.environ.get("LOCAL_WORLD_SIZE", layout.world_size))
    crossing = any(
        group[0] // node != group[-1] // node for group in layout.ranks("tp")
    )
    if not crossing:
        return None
    return (
        f"warning: a tensor parallel group of {layout.tp} ranks crosses "
        f"nodes of {node}, and it communicates inside every layer: a "
        f"--tensor-parallel-size that divides {node} stays on NVLink"
    )
