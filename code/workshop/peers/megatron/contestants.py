"""Ours and megatron-core in the same layout, one step at a time.

Both begin with the same weights, bfloat16 on CUDA, and take the same
batches.  Ours has compiled blocks; megatron-core runs with the fastest of
its settings that need neither Transformer Engine nor Apex.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from workshop.bench.layouts import (
    CLIP,
    LR,
    SEED,
    Contestant,
    Trainer,
)
from workshop.errors import UserError
from workshop.estimate.layout import from_name
from workshop.job.launch import Job
from workshop.models.gpt import GPT, GPTConfig
from workshop.training.layout import Layout

# megatron-flash is megatron-core with torch's fused attention plugged in.
ATTENTION = {"megatron": "local", "megatron-flash": "flash"}
NAMES = ("ours", *ATTENTION)
Step = Callable[[list[tuple[Tensor, Tensor]]], Tensor]


def named(
    name: str, micro_batch: int, piece: int, num_microbatches: int
) -> Contestant:
    """Return the layout that a name such as `tp2-pp2-sp` stands for.

    Args:
        name: as `workshop.estimate.layout.from_name` takes it.
        micro_batch: sequences of a micro-batch without a pipeline, which
            is all of a rank's step.
        piece: sequences of a pipeline's micro-batch.
        num_microbatches: micro-batches of a pipeline's step.

    Raises:
        UserError: it means none, or one that is cut by hand.
    """
    try:
        spread = from_name(name, num_microbatches=num_microbatches)
        if spread["cut"]:
            raise ValueError(f"{name!r} has a cut, and ours is balanced")
    except ValueError as error:
        raise UserError(f"{error}: choose others with --layouts") from None
    layout = Layout(
        spread["tp"],
        spread["pp"],
        spread["sequence_parallel"],
        spread["schedule"],
        spread["virtual_stages"],
    )
    if layout.pipeline > 1:
        return Contestant(name, layout, piece, num_microbatches)
    return Contestant(name, layout, micro_batch, 1)


@contextmanager
def ready(
    name: str, contestant: Contestant, config: GPTConfig, job: Job
) -> Iterator[Step]:
    """Build one of `NAMES` in a layout and yield its step.

    A step takes this rank's micro-batches and returns mean loss and
    gradient norm, (2,).
    """
    cuda = job.device.type == "cuda"
    if name not in ATTENTION:
        yield Trainer(contestant, config, job, compiled=cuda).step
        return
    # Only where `options.require` has found it.
    from workshop.peers.megatron import training

    # What it fuses serves all layouts of a job; each shape gets a kernel of
    # its own, as if the job had only this layout.
    torch._dynamo.config.automatic_dynamic_shapes = False
    layout = contestant.layout
    dims = layout.dims(job.world_size, config, contestant.num_microbatches)
    settings = training.Settings(
        torch.bfloat16 if cuda else torch.float32,
        LR,
        CLIP,
        attention=ATTENTION[name],
    )
    torch.manual_seed(SEED)
    with torch.device(job.device):
        dense = GPT(config).state_dict()
    with training.model_parallel(layout, dims):
        megatron = training.MegatronTraining(
            config, layout, dims, settings, dense, job.device
        )
        del dense
        yield lambda batches: megatron.step(batches, LR)
