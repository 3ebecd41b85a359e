"""The layout that a command line asks for, and whether it can be had."""

import os
from dataclasses import dataclass

from workshop.errors import UserError
from workshop.groups import ParallelDims
from workshop.models.gpt import GPTConfig
from workshop.parallel.pipeline.schedule import make_schedule
from workshop.parallel.pipeline.stages import cut
from workshop.parallel.tensor.transform import check


@dataclass(frozen=True)
class Layout:
    """How one model is spread over ranks, and how its copies are averaged.

    Args:
        tensor: tensor parallel size.
        pipeline: pipeline parallel size.
        sequence_parallel: split activations by sequence between the tensor
            parallel regions; needs `tensor` above 1.
        schedule: `1f1b`, `gpipe` or `interleaved`.
        virtual_stages: chunks of a rank, 1 unless interleaved.
        data_parallel: one of `strategy.WAYS`.
        bucket_mib: size of a bucket of gradients in MiB.
    """

    tensor: int = 1
    pipeline: int = 1
    sequence_parallel: bool = False
    schedule: str = "1f1b"
    virtual_stages: int = 1
    data_parallel: str = "overlapped"
    bucket_mib: float = 100.0

    def dims(
        self, world_size: int, config: GPTConfig, num_microbatches: int
    ) -> ParallelDims:
        """Return the sizes, with as many copies as `world_size` has room for.

        Raises:
            UserError: the world, the model or the micro-batches do not fit.
        """
        dims = ParallelDims.for_world(world_size, self.tensor, self.pipeline)
        if self.sequence_parallel and self.tensor == 1:
            raise UserError(
                "--sequence-parallel splits what tensor parallelism leaves "
                "whole, and --tensor-parallel-size is 1: give it 2 or more"
            )
        check(config, self.tensor, self.sequence_parallel)
        if self.pipeline > 1:
            self._check_pipeline(config, num_microbatches)
        elif self.schedule != "1f1b" or self.virtual_stages > 1:
            raise UserError(
                "--schedule and --virtual-stages order the work of a "
                "pipeline, and --pipeline-parallel-size is 1: give it 2 or "
                "more"
            )
        return dims

    def _check_pipeline(
        self, config: GPTConfig, num_microbatches: int
    ) -> None:
        """Refuse what no schedule or no cut fits."""
        make_schedule(
            self.schedule,
            self.pipeline,
            num_microbatches,
            self.virtual_stages,
        )
        cut(config, self.pipeline * self.virtual_stages, ranks=self.pipeline)
        if self.data_parallel == "ddp":
            raise UserError(
                "--data-parallel ddp decides in forward which backward "
                "averages, and a pipeline runs other forwards between the "
                "two: choose overlapped or naive"
            )

    def warning(self, dims: ParallelDims) -> str | None:
        """Return what is legal and slow about this placement, or None.

        torchrun says how many ranks a node has, by `LOCAL_WORLD_SIZE`.
        """
        node = int(os.environ.get("LOCAL_WORLD_SIZE", dims.world_size))
        crossing = any(
            group[0] // node != group[-1] // node
            for group in dims.ranks("tp")
        )
        if not crossing:
            return None
        return (
            f"warning: a tensor parallel group of {dims.tp} ranks crosses "
            f"nodes of {node}, and it communicates inside every layer: a "
            f"--tensor-parallel-size that divides {node} stays on NVLink"
        )
