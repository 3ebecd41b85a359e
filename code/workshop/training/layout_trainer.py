"""Train a model in any layout: dp × tp × pp ranks, one step for all."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from workshop.data.counted import refuse_ignored, shares_of
from workshop.groups import Groups
from workshop.models.gpt import GPT
from workshop.training import reshard
from workshop.training.clipping import clipped_step, global_norm
from workshop.training.optimizer import make_optimizer
from workshop.training.spread import Spread, spread
from workshop.training.trainer import MicroBatch, Recipe, Trainer
from workshop.training.whole_model import WholeModel


def runner_of(parts: Spread, groups: Groups) -> Any:
    """Return what runs micro-batches: a `WholeModel` or a `Pipeline`."""
    layout = groups.layout
    if layout.pp == 1:
        return WholeModel(parts.models[0])
    from workshop.parallel.pipeline.executor import Pipeline
    from workshop.parallel.pipeline.schedule import make_schedule

    schedule = make_schedule(
        layout.schedule,
        layout.pp,
        layout.num_microbatches,
        layout.virtual_stages,
    )
    config = parts.chunks[0].config
    share = layout.tp if layout.sequence_parallel else 1
    shape = (layout.micro_batch, config.sequence // share, config.hidden)
    return Pipeline(parts.models, schedule, groups.pp, shape=shape)


class LayoutTrainer(Trainer):
    """A dense model spread over the ranks of a layout, and its optimizer.

    Args:
        make_model: makes the dense model on this rank's device, with the
            same weights on every rank; called once, so that what other
            ranks hold is free before the optimizer's states are made.
        groups: the process groups of the layout.
        recipe: how a step computes.
        make_optimizer: from this rank's part of the model and a learning
            rate, which `step` sets anew.
        make_runner: what runs the micro-batches.
        take_over: from the dense model to this rank's parts.

    Seed random numbers of the training afterwards.

    Raises:
        UserError: the layout does not fit the model.
    """

    def __init__(
        self,
        make_model: Callable[[], GPT],
        groups: Groups,
        recipe: Recipe,
        make_optimizer: Callable[..., Optimizer] = make_optimizer,
        make_runner: Callable[[Spread, Groups], Any] = runner_of,
        take_over: Callable[[GPT, Groups, Recipe], Spread] = spread,
    ) -> None:
        self.groups, self.recipe = groups, recipe
        torch.set_float32_matmul_precision(
            "high" if recipe.kind.tensor_cores else "highest"
        )
        parts = take_over(make_model(), groups, recipe)
        self.chunks, self.models = parts.chunks, parts.models
        self.placement = parts.placement
        self.parameters = parts.named_parameters()
        if not recipe.kind.masters:
            make_optimizer = partial(make_optimizer, masters=False)
        self.optimizer = make_optimizer(nn.ModuleList(self.chunks), lr=0.0)
        self.scaler = None
        if recipe.kind.scaled:
            from workshop.training.precision import LossScaler

            device = next(iter(self.parameters.values())).device
            self.scaler = LossScaler(device)
        self.runner = make_runner(parts, groups)

    def step(self, micro_batches: list[MicroBatch], lr: float) -> Tensor:
        """Queue the gradients, their norm, and the update."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.forward_backward(micro_batches)
        norm = self.update(lr)
        return torch.stack([self.mean(loss), norm])

    def loss(self, micro_batches: list[MicroBatch]) -> Tensor:
        """Run the forward passes alone."""
        training = [chunk.training for chunk in self.chunks]
        for chunk in self.chunks:
            chunk.eval()
        shares = self._shares(micro_batches)
        try:
            loss = self.runner.forward(
                micro_batches, self.recipe.kind.autocast, shares
            )
        finally:
            for chunk, before in zip(self.chunks, training, strict=True):
                chunk.train(before)
        return self.mean(loss)

    def state(self) -> dict[str, Any] | None:
        """Gather weights and optimizer by the placement."""
        dense = reshard.gather(
            self.parameters, self.placement, self.groups, self.optimizer
        )
        if dense is not None and self.scaler is not None:
            dense["loss_scale"] = self.scaler.state()
        return dense

    def load(self, state: dict[str, Any]) -> None:
        """Cut this rank's parts out of a dense state."""
        reshard.scatter(
            state,
            self.parameters,
            self.placement,
            self.groups,
            self.optimizer,
        )
        if self.scaler is not None and "loss_scale" in state:
            self.scaler.load(state["loss_scale"])

    def close(self) -> None:
        """Close the pipeline's communicators."""
        self.runner.close()

    def forward_backward(self, micro_batches: list[MicroBatch]) -> Tensor:
        """Leave each rank's gradients; return its index's mean loss.

        Raises:
            UserError: a target is ignored and the recipe expects none.
        """
        shares = None
        if self.recipe.ignored_targets:
            shares = self._shares(micro_batches)
        else:
            refuse_ignored(micro_batches)
        return self.runner.forward_backward(
            micro_batches,
            self.recipe.kind.autocast,
            shares,
            self.scaler and self.scaler.seed(),
        )

    def update(self, lr: float) -> Tensor:
        """Complete the gradients and apply them; return their norm.

        With a loss scale an infinite one leaves weights and states alone.
        """
        self.finish()
        norm, scale = self.global_norm(), 1.0
        if self.scaler is not None:
            scale = self.scaler.scale
            norm = norm / scale
            if not self.scaler.accepts(norm):
                return norm
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        clipped_step(self.optimizer, norm, self.recipe.clip, scale)
        return norm

    def finish(self) -> None:
        """Make the gradients the dense model's, once after backward."""
        for model in self.models:
            model.finish()
        if self.groups.layout.sequence_parallel:
            from workshop.parallel.tensor.sequence import finish_gradients

            for chunk in self.chunks:
                finish_gradients(chunk, self.placement, self.groups.tp)
        self.runner.finish_gradients()

    def global_norm(self) -> Tensor:
        """Return the norm of the dense model's gradient, a scalar."""
        return global_norm(self.parameters, self.placement, self.groups)

    def _shares(self, micro_batches: list[MicroBatch]) -> Tensor:
        return shares_of(micro_batches, self.groups.layout.dp, self.groups.dp)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the data parallel ranks."""
        if self.groups.layout.dp > 1:
            dist.all_reduce(value, group=self.groups.dp)
            value /= self.groups.layout.dp
        return value
