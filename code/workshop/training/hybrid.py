"""One training for every layout: dp × tp × pp ranks, the same four calls.

    loss = strategy.forward_backward(micro_batches, bf16)
    strategy.finish()                 # gradients are the dense model's
    norm = strategy.global_norm()     # and so is their norm, on every rank
    loss = strategy.mean(loss)        # over the global batch

A rank holds `chunks`: the whole model, its shards under tensor parallelism,
or some stages of a pipeline. Their parameters keep the dense model's names.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from workshop.groups import Groups
from workshop.models.gpt import GPT, compile_blocks
from workshop.parallel.data.ways import data_parallel
from workshop.parallel.pipeline.executor import Pipeline
from workshop.parallel.pipeline.schedule import make_schedule
from workshop.parallel.pipeline.stages import make_stages
from workshop.parallel.tensor import transform as tensor_parallel
from workshop.training.clipping import global_norm
from workshop.training.layout import Layout

MicroBatch = tuple[Tensor, Tensor]


class Strategy(ABC):
    """What all layouts share: gradients, their norm, and the mean loss.

    Args:
        models: this rank's chunks, each wrapped as `data_parallel` does it.
        groups: the process groups of the layout.
    """

    def __init__(self, models: list[nn.Module], groups: Groups) -> None:
        self.models = models
        self.groups = groups
        self.chunks: list[nn.Module] = [model.module for model in models]
        self.parameters = [
            parameter for _, parameter in self.named_parameters()
        ]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return this rank's parameters by their names in the dense GPT."""
        for chunk in self.chunks:
            yield from chunk.named_parameters()

    @abstractmethod
    def forward_backward(
        self, micro_batches: list[MicroBatch], bf16: bool
    ) -> Tensor:
        """Return the mean loss, a scalar; gradients are of this mean.

        `micro_batches` are those of this rank's data parallel index, each
        tokens and targets (b, s).  With `bf16` the forward runs under
        autocast.  The loss is the same on all ranks of the index.
        """

    @abstractmethod
    def loss(self, micro_batches: list[MicroBatch], bf16: bool) -> Tensor:
        """Return the mean loss, as `forward_backward`; no gradients."""

    def finish(self) -> None:
        """Complete the gradients: call it once after `forward_backward`."""
        for model in self.models:
            model.finish()
        if self.groups.dims.tp > 1:
            for chunk in self.chunks:
                tensor_parallel.finish_gradients(chunk, self.groups.tp)

    def global_norm(self) -> Tensor:
        """Return the norm of the dense model's gradient, a scalar."""
        return global_norm(self.parameters, self.groups.tp, self.groups.pp)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the data parallel ranks."""
        if self.groups.dims.dp > 1:
            dist.all_reduce(value, group=self.groups.dp)
            value /= self.groups.dims.dp
        return value


class WholeModel(Strategy):
    """Every rank runs all layers: any layout without a pipeline."""

    def forward_backward(
        self, micro_batches: list[MicroBatch], bf16: bool
    ) -> Tensor:
        """Add up the gradients of the micro-batches, one after another."""
        (model,) = self.models
        share = 1 / len(micro_batches)
        device = micro_batches[0][0].device.type
        loss = self._zero(micro_batches)
        for i, (tokens, targets) in enumerate(micro_batches, start=1):
            last = i == len(micro_batches)
            with nullcontext() if last else model.no_sync():
                with torch.autocast(device, torch.bfloat16, enabled=bf16):
                    part = model(tokens, targets) * share
                part.backward()
            loss += part.detach()
        return loss

    @torch.no_grad()
    def loss(self, micro_batches: list[MicroBatch], bf16: bool) -> Tensor:
        """Run the micro-batches one after another."""
        total = self._zero(micro_batches)
        for tokens, targets in micro_batches:
            with torch.autocast(
                tokens.device.type, torch.bfloat16, enabled=bf16
            ):
                total += self.chunks[0](tokens, targets)
        return total / len(micro_batches)

    def _zero(self, micro_batches: list[MicroBatch]) -> Tensor:
        """Return where losses add up: never narrower than float32."""
        dtype = torch.promote_types(self.parameters[0].dtype, torch.float32)
        return torch.zeros((), dtype=dtype, device=micro_batches[0][0].device)


class Pipelined(Strategy):
    """Every rank runs some stages, in the order of a schedule.

    `pipeline` executes it, over the chunks of `models`.
    """

    def __init__(
        self,
        models: list[nn.Module],
        groups: Groups,
        pipeline: Pipeline,
    ) -> None:
        super().__init__(models, groups)
        self.pipeline = pipeline

    def forward_backward(
        self, micro_batches: list[MicroBatch], bf16: bool
    ) -> Tensor:
        """Run the schedule; its loss reaches all stages."""
        return self.pipeline.forward_backward(micro_batches, bf16)

    def finish(self) -> None:
        """Complete the gradients, those of the tied embedding last."""
        super().finish()
        self.pipeline.finish_gradients()

    def loss(self, micro_batches: list[MicroBatch], bf16: bool) -> Tensor:
        """Run the schedule's forward passes alone."""
        return self.pipeline.forward(micro_batches, bf16)


def make_strategy(
    module: GPT,
    layout: Layout,
    groups: Groups,
    micro_batch: int,
    num_microbatches: int,
    backend: str | None = None,
) -> Strategy:
    """Spread a dense model over the ranks of a layout.

    Args:
        module: on this rank's device, the same weights on every rank; its
            parts are taken over.
        layout: as `groups` were made for.
        micro_batch: sequences of a micro-batch.
        num_microbatches: micro-batches of a step, as a schedule needs it.
        backend: compile each block by this backend of torch.compile.

    Make the optimizer of the result's chunks, and seed random numbers,
    afterwards.

    Raises:
        UserError: the layout does not fit the model.
    """
    config, dims = module.config, groups.dims
    device = next(module.parameters()).device
    chunks = [module]
    if dims.pp > 1:
        v = layout.virtual_stages
        chunks = make_stages(module, config, groups.at.pp, dims.pp, v)
    for chunk in chunks:
        tensor_parallel.apply(
            chunk,
            tensor_parallel.PLAN,
            groups.tp,
            layout.sequence_parallel,
        )
        if backend is not None:
            compile_blocks(chunk, backend)
    models = [
        data_parallel(
            chunk,
            layout.data_parallel,
            groups.dp,
            device,
            layout.bucket_mib,
        )
        for chunk in chunks
    ]
    if dims.pp == 1:
        return WholeModel(models, groups)
    schedule = make_schedule(
        layout.schedule, dims.pp, num_microbatches, layout.virtual_stages
    )
    share = dims.tp if layout.sequence_parallel else 1
    shape = (micro_batch, config.sequence // share, config.hidden)
    pipeline = Pipeline(models, schedule, groups.pp, shape=shape)
    return Pipelined(models, groups, pipeline)
