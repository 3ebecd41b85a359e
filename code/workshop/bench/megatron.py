"""Ours and megatron-core in the same layout, one step at a time.

Both begin with the same weights, bfloat16 on CUDA, and take the same
batches.  Ours has compiled blocks; megatron-core runs with the fastest of
its settings that need neither Transformer Engine nor Apex.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import torch

from workshop.bench.contestants import CLIP, SEED, Contestant, trainer_of
from workshop.job.launch import Job
from workshop.models.gpt import GPTConfig, seeded
from workshop.training.trainer import Trainer

# megatron-flash is megatron-core with torch's fused attention plugged in.
ATTENTION = {"megatron": "local", "megatron-flash": "flash"}
NAMES = ("ours", *ATTENTION)


@contextmanager
def ready(
    name: str, contestant: Contestant, config: GPTConfig, job: Job
) -> Iterator[Trainer]:
    """Build one of `NAMES` in a layout and yield its trainer."""
    cuda = job.device.type == "cuda"
    if name not in ATTENTION:
        ours = trainer_of(contestant, config, job, compiled=cuda)
        with closing(ours):
            yield ours
        return
    # Only where `available.require` has found it.
    from workshop.peers.megatron import trainer

    layout = contestant.layout
    settings = trainer.Settings(
        torch.bfloat16 if cuda else torch.float32,
        CLIP,
        attention=ATTENTION[name],
    )
    dense = seeded(config, SEED, job.device).state_dict()
    with (
        # What it fuses serves all layouts of a job; each shape gets a kernel
        # of its own, as if the job had only this layout.
        torch._dynamo.config.patch(automatic_dynamic_shapes=False),
        trainer.model_parallel(layout),
    ):
        megatron = trainer.MegatronTrainer(
            config, layout, settings, dense, job.device
        )
        del dense
        yield megatron
