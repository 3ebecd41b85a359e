"""Pipelines with one bug each, for the checks to catch.

Each is the real class with one mistake that people make, and with the check
that has to notice it. `ratio` is the ratio of norms (for `traffic`, of
elements) by which the report names the bug, where that is a clean number.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from pipeline_cases import Case
from torch import Tensor

from workshop.parallel.data.overlapped import OverlappedDataParallel
from workshop.parallel.pipeline.executor import Pipeline
from workshop.parallel.pipeline.naive import NaivePipeline
from workshop.parallel.pipeline.schedule import Operation
from workshop.parallel.pipeline.stages import unwrapped

NUM_MICROBATCHES = 3


class ForgetsTheShare(Pipeline):
    """Losses of m micro-batches are added without 1/m."""

    def _forward(self, operation: Operation, x: Tensor | None) -> Tensor:
        self.shares = [1.0] * NUM_MICROBATCHES
        return super()._forward(operation, x)


class DividesByTheStages(Pipeline):
    """Every stage divides what it hands on: right only for one."""

    def _backward(
        self, operation: Operation, gradient: Tensor | None
    ) -> Tensor | None:
        handed = super()._backward(operation, gradient)
        return None if handed is None else handed / self.p


class LogsTheSum(Pipeline):
    """Gradients have their 1/m, the loss that is logged does not."""

    def forward_backward(self, micro_batches, **options) -> Tensor:
        loss = super().forward_backward(micro_batches, **options)
        return loss * len(micro_batches)


class LogsTheLastLoss(Pipeline):
    """The loss that is logged is the last micro-batch's alone."""

    def _forward(self, operation: Operation, x: Tensor | None) -> Tensor:
        self.loss.zero_()
        return super()._forward(operation, x)


class KeepsTheLoss(Pipeline):
    """The last stage has a loss, and the others never hear of it."""

    def _run(self, *args) -> Tensor:
        loss = super()._run(*args)
        return loss if self.rank == self.p - 1 else torch.zeros_like(loss)


class NeverSumsTheTied(Pipeline):
    """First and last stage each update their copy of the embedding."""

    def finish_gradients(self) -> None:
        pass


class SumsTheTiedTwice(Pipeline):
    """The gradient of the tied embedding is summed after each of two."""

    def finish_gradients(self) -> None:
        super().finish_gradients()
        super().finish_gradients()


class DetachesTheStages(Pipeline):
    """A stage computes on a detached input and hands back zeros."""

    def _forward(self, operation: Operation, x: Tensor | None) -> Tensor:
        output = super()._forward(operation, x)
        if x is not None and x.requires_grad:
            x.register_hook(torch.zeros_like)
        return output


class SkipsTheLastBackward(Pipeline):
    """The last micro-batch never goes backward: an off by one."""

    def _backward(
        self, operation: Operation, gradient: Tensor | None
    ) -> Tensor | None:
        if operation.microbatch < NUM_MICROBATCHES - 1:
            return super()._backward(operation, gradient)
        x, _ = self.saved.pop(operation[1:])
        return None if x is None else torch.zeros_like(x)


class MixesMicroBatches(Pipeline):
    """The targets are those of the micro-batch before."""

    def _forward(self, operation: Operation, x: Tensor | None) -> Tensor:
        before, pairs = self.micro_batches, self.micro_batches
        self.micro_batches = [
            (tokens, pairs[i - 1][1]) for i, (tokens, _) in enumerate(pairs)
        ]
        output = super()._forward(operation, x)
        self.micro_batches = before
        return output


class SwapsMessages(Pipeline):
    """The first two results of a stage are sent in the wrong order."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        send = self.channels.send
        other = {0: 1, 1: 0}

        def swapped(message, tensor):
            number = message.needed.microbatch
            needed = message.needed._replace(
                microbatch=other.get(number, number)
            )
            return send(message._replace(needed=needed), tensor)

        self.channels.send = swapped


class RunsGPipe(Pipeline):
    """Says 1F1B and runs all forward passes first: right, and large."""

    def reorder(self, schedule: list[list[Operation]]) -> None:
        super().reorder([sorted(ops, reverse=True, key=lambda o: o.kind)
                         for ops in schedule])  # fmt: skip


class SyncsEveryBackward(Pipeline):
    """Every backward pass averages over the copies, not only the last."""

    def _syncing(self, operation: Operation) -> nullcontext:
        return nullcontext()


class NaiveTakesTheNewest(NaivePipeline):
    """Backward goes through the graph of the newest micro-batch."""

    def _backward(
        self, operation: Operation, gradient: Tensor | None
    ) -> Tensor | None:
        first = max(self.kept)
        self.kept[first], self.kept[operation.microbatch] = (
            self.kept[operation.microbatch],
            self.kept[first],
        )
        return super()._backward(operation, gradient)


class NaiveLeavesItsOwnHalf(NaivePipeline):
    """Each end takes the other's tied gradient in the place of its own."""

    def finish_gradients(self) -> None:
        weight = unwrapped(self.chunks[0]).tied
        own = weight.grad.clone()
        super().finish_gradients()
        weight.grad -= own


class NaiveScalesTwice(NaivePipeline):
    """The 1/m is in the loss, and in the gradient that is handed back."""

    def _backward(
        self, operation: Operation, gradient: Tensor | None
    ) -> Tensor | None:
        handed = super()._backward(operation, gradient)
        return None if handed is None else handed / len(self.micro_batches)


@dataclass(frozen=True)
class Bug:
    """A planted bug, the check that must catch it, and by what ratio."""

    name: str
    pipeline: type[Pipeline | NaivePipeline]
    caught_by: str
    ratio: float | None = None
    dp: int = 1

    @property
    def case(self) -> Case:
        """The step that shows it."""
        wrap = OverlappedDataParallel if self.dp > 1 else None
        return Case("1f1b", NUM_MICROBATCHES, dp=self.dp, wrap=wrap,
                    pipeline=self.pipeline)  # fmt: skip


BUGS = [
    Bug("missing 1/m", ForgetsTheShare, "gradients", NUM_MICROBATCHES),
    Bug("each stage divides once more", DividesByTheStages, "gradients"),
    Bug("loss of a step without 1/m", LogsTheSum, "loss", NUM_MICROBATCHES),
    Bug("loss of the last micro-batch", LogsTheLastLoss, "loss"),
    Bug("loss on the last stage alone", KeepsTheLoss, "loss", 0.0),
    Bug("tied embedding not summed", NeverSumsTheTied, "gradients"),
    Bug("tied embedding summed twice", SumsTheTiedTwice, "gradients", 2.0),
    Bug("stage boundary detached", DetachesTheStages, "gradients"),
    Bug("last backward skipped", SkipsTheLastBackward, "gradients"),
    Bug("targets of another micro-batch", MixesMicroBatches, "gradients"),
    Bug("send order swapped", SwapsMessages, "gradients"),
    Bug("GPipe in the place of 1F1B", RunsGPipe, "trace", 1.0),
    Bug("every backward averages", SyncsEveryBackward, "refusal", dp=2),
    Bug("naive: graphs mixed up", NaiveTakesTheNewest, "gradients"),
    Bug("naive: 1/m twice", NaiveScalesTwice, "gradients", 1 / 3),
    Bug("naive: half of the tied", NaiveLeavesItsOwnHalf, "gradients"),
]
