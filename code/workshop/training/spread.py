"""Spread a dense model over the ranks of a layout.

What a layout does not use is not loaded: a run without tensor parallelism
or without a pipeline never imports them.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from workshop.groups import Groups
from workshop.models.gpt import GPT, compile_blocks
from workshop.parallel.data.ways import data_parallel
from workshop.parallel.placement import COPY, Placement
from workshop.training.trainer import Recipe


@dataclass
class Spread:
    """This rank's part of a model.

    Attributes:
        chunks: the whole model, its shards, or some stages of a pipeline;
            parameters keep the dense model's names.
        models: the same, each wrapped for data parallelism.
        placement: of every parameter of the chunks, by its name.
    """

    chunks: list[nn.Module]
    models: list[nn.Module]
    placement: dict[str, Placement]

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return this rank's parameters by their names in the dense GPT."""
        return {
            name: parameter
            for chunk in self.chunks
            for name, parameter in chunk.named_parameters()
        }


def spread(module: GPT, groups: Groups, recipe: Recipe) -> Spread:
    """Take over a dense model's parts that this rank's place has.

    Args:
        module: on this rank's device, the same weights on every rank. What
            other ranks hold is free with the last reference to it.
        groups: of the layout.
        recipe: its precision, backend and way of averaging gradients.

    Raises:
        UserError: the layout does not fit the model.
    """
    config, layout = module.config, groups.layout
    device = next(module.parameters()).device
    if recipe.kind.weights is not None:
        module.to(recipe.kind.weights)
    chunks: list[nn.Module] = [module]
    if layout.pp > 1:
        from workshop.parallel.pipeline.stages import make_stages

        chunks = make_stages(
            module,
            config,
            groups.at.pp,
            layout.pp,
            layout.virtual_stages,
            layers=layout.cut,
        )
    placement: dict[str, Placement] = {}
    for chunk in chunks:
        copies = getattr(chunk, "copies", ())
        for name, lies in _over_tensor_ranks(chunk, groups).items():
            placement[name] = (
                replace(lies, pp=COPY) if name in copies else lies
            )
        if recipe.kind.wide_gradients:
            for parameter in chunk.parameters():
                parameter.grad_dtype = torch.float32
        if recipe.kind.fp8:
            from workshop.training.fp8 import use_fp8

            use_fp8(chunk, layout.micro_batch * config.sequence)
        if recipe.backend is not None:
            compile_blocks(chunk, recipe.backend)
        if recipe.recompute != "none":
            from workshop.training.recompute import recompute

            recompute(chunk, recipe.recompute, recipe.recompute_every)
    models = [
        data_parallel(
            chunk,
            recipe.data_parallel,
            groups.dp,
            device,
            recipe.bucket_mib,
        )
        for chunk in chunks
    ]
    return Spread(chunks, models, placement)


def _over_tensor_ranks(
    chunk: nn.Module, groups: Groups
) -> dict[str, Placement]:
    if groups.layout.tp == 1:
        return {name: Placement() for name, _ in chunk.named_parameters()}
    from workshop.parallel.tensor.transform import PLAN, apply

    return apply(chunk, PLAN, groups.tp, groups.layout.sequence_parallel)
