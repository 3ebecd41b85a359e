"""Data parallel strategies with one bug each, for the checks to catch.

Each is the real class with one mistake that people make, and with the check
that has to notice it. `ratio` is the ratio of norms (for `traffic`, of
bytes) by which the report names the bug, where that is a clean number.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.optim.optimizer import register_optimizer_step_post_hook
from training_cases import STEPS

from workshop import collectives
from workshop.parallel.data.naive import NaiveDataParallel
from workshop.parallel.data.overlapped import OverlappedDataParallel


class ReducesTheParameter(OverlappedDataParallel):
    """The hook is handed the parameter, and reduces what it is handed."""

    def _on_gradient(self, parameter: Tensor) -> None:
        if self.syncing:
            collectives.all_reduce(parameter.data, self.group)
            parameter.data /= self.ranks

    def finish(self) -> None:
        pass


class SumsOverlapped(OverlappedDataParallel):
    """Buckets are summed, and nobody divides."""

    def _wait(self) -> None:
        ranks, self.ranks = self.ranks, 1
        super()._wait()
        self.ranks = ranks


class SumsNaively(NaiveDataParallel):
    """Gradients are summed, and nobody divides."""

    def finish(self) -> None:
        ranks, self.ranks = self.ranks, 1
        super().finish()
        self.ranks = ranks


class SumsTwice(OverlappedDataParallel):
    """Hooks have reduced, and the end of the step reduces again."""

    def finish(self) -> None:
        super().finish()
        for _, parameter in self.trainable():
            collectives.all_reduce(parameter.grad, self.group)


class AveragesTwice(OverlappedDataParallel):
    """The same, divided again: right values, for twice the traffic."""

    def finish(self) -> None:
        super().finish()
        for _, parameter in self.trainable():
            collectives.all_reduce(parameter.grad, self.group)
            parameter.grad /= self.ranks


class ForgetsTheMicroBatches(OverlappedDataParallel):
    """Losses of k micro-batches are added without 1/k."""

    def forward(self, *args: Tensor) -> Tensor:
        return super().forward(*args) * 3


class LogsTheSum(OverlappedDataParallel):
    """Gradients have their 1/k, the loss that is logged does not."""

    def forward(self, *args: Tensor) -> Tensor:
        loss = super().forward(*args)
        return loss + 2 * loss.detach()


class StepsTooEarly(NaiveDataParallel):
    """Nobody waits: the averages arrive after the optimizer's step."""

    def finish(self) -> None:
        parameters = [parameter for _, parameter in self.trainable()]
        local = [parameter.grad.clone() for parameter in parameters]
        super().finish()
        means = [parameter.grad for parameter in parameters]

        def arrive(*_: object) -> None:
            handle.remove()
            for parameter, mean in zip(parameters, means, strict=True):
                parameter.grad = mean

        for parameter, gradient in zip(parameters, local, strict=True):
            parameter.grad = gradient
        handle = register_optimizer_step_post_hook(arrive)


class SumsTheUnused(NaiveDataParallel):
    """Where there is no gradient, the parameter itself is reduced."""

    def finish(self) -> None:
        super().finish()
        for _, parameter in self.trainable():
            if parameter.grad is None:
                collectives.all_reduce(parameter.data, self.group)


class SyncsEveryMicroBatch(OverlappedDataParallel):
    """`no_sync` holds nothing back, and every micro-batch is averaged."""

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        yield
        self.finish()


class IgnoresNoSync(OverlappedDataParallel):
    """`no_sync` holds nothing back, in the middle of a step."""

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        yield


class SyncsTheFirstMicroBatch(OverlappedDataParallel):
    """`no_sync` is the wrong way round: the last gradients stay local."""

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        yield
        if self.syncing:
            self.finish()
        self.syncing = False

    def finish(self) -> None:
        if self.syncing:
            super().finish()
        self.syncing = True


class NeverReducesTheTied(OverlappedDataParallel):
    """The tied parameter has two owners, and neither reduces it."""

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        tied = self.module.embedding.token.weight
        return [pair for pair in super().trainable() if pair[1] is not tied]


class ReducesTheTiedTwice(NaiveDataParallel):
    """The tied parameter is reduced once for each of its two names."""

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        named = self.module.named_parameters(remove_duplicate=False)
        return [pair for pair in named if pair[1].requires_grad]

    def finish(self) -> None:
        for _, parameter in self.trainable():
            if parameter.grad is not None:
                collectives.all_reduce(parameter.grad, self.group)
        for _, parameter in super().trainable():
            if parameter.grad is not None:
                parameter.grad /= self.ranks


class NeverBroadcasts(OverlappedDataParallel):
    """Every rank keeps the weights of its own random seed."""

    def __init__(
        self, module: nn.Module, group: ProcessGroup, **options: object
    ) -> None:
        with mock.patch.object(collectives, "broadcast"):
            super().__init__(module, group, **options)


class OverlapsNothing(OverlappedDataParallel):
    """Hooks wait, and `finish` sends every bucket: right, and slow."""

    def _on_gradient(self, parameter: Tensor) -> None:
        pass

    def finish(self) -> None:
        for bucket in self.buckets:
            self._launch(bucket)
        self.next = len(self.buckets)
        super().finish()


@dataclass(frozen=True)
class Bug:
    """A planted bug, the check that must catch it, and by what ratio."""

    name: str
    strategy: Callable[..., nn.Module]
    caught_by: str
    ratio: float | None = None
    awkward: bool = False


RANKS, NUM_MICROBATCHES = 4, 3

BUGS = [
    Bug("hook reduces the parameter", ReducesTheParameter, "gradients"),
    Bug("sum instead of mean", SumsOverlapped, "gradients", RANKS),
    Bug("sum instead of mean, naive", SumsNaively, "gradients", RANKS),
    Bug("double reduction", SumsTwice, "gradients", RANKS),
    Bug("double reduction, mean of means", AveragesTwice, "traffic", 2.0),
    Bug(
        "accumulation without 1/k",
        ForgetsTheMicroBatches,
        "gradients",
        NUM_MICROBATCHES,
    ),
    Bug("loss logged without 1/k", LogsTheSum, "report", NUM_MICROBATCHES),
    Bug("step before the averages arrive", StepsTooEarly, "gradients"),
    Bug(
        "no_sync averages each micro-batch",
        SyncsEveryMicroBatch,
        "traffic",
        NUM_MICROBATCHES,
    ),
    Bug("no_sync ignored within a step", IgnoresNoSync, "refusal"),
    Bug("no_sync reversed", SyncsTheFirstMicroBatch, "gradients"),
    Bug("tied parameter never reduced", NeverReducesTheTied, "gradients"),
    Bug(
        "tied parameter reduced twice",
        ReducesTheTiedTwice,
        "gradients",
        RANKS,
        awkward=True,
    ),
    Bug(
        "unused parameter summed",
        SumsTheUnused,
        "weights",
        RANKS**STEPS,
        awkward=True,
    ),
    Bug("no broadcast at the start", NeverBroadcasts, "start"),
    Bug("nothing overlaps", OverlapsNothing, "overlap", 0.0),
]
