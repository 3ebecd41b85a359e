"""What everything that trains has in common: one step, one state.

The loop, the benches and the checkpoints know a `Trainer` and nothing of
what is inside. It owns the model, its optimizer, clipping and precision, so
whatever changes one of these is another trainer, or another part of one, and
never another loop. What is to come will fit like this:

- **ZeRO** will replace the averaging by a reduce-scatter and let the
  optimizer hold this rank's share. The placement of a state over dp is then
  a `Shard`, from which `state` and `load` put the dense tensors together,
  and by which the norm adds up squares over dp as it does over tp.
- **DeepSpeed** brings an engine with an optimizer and clipping of its own:
  `step` will call it, as `MegatronTrainer` calls megatron-core.
- **Experts** will be parameters with a `Shard` over ep in their placement,
  averaged over the ranks that hold the same ones. Their load-balancing term
  gets its gradient where the layer is, on any stage, and is no part of the
  loss that a step reports.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workshop.errors import UserError

MicroBatch = tuple[Tensor, Tensor]
"""Tokens and targets of a micro-batch, both (b, s)."""


@dataclass(frozen=True)
class Precision:
    """Which numbers a training is made of.

    Args:
        weights: cast the weights, and so their gradients, to this.
        autocast: compute in this, with the weights as they are.
        masters: keep float32 copies of narrow weights in the optimizer.
        wide_gradients: add up and average gradients in float32.
        tensor_cores: let products of float32 round their inputs to TF32.
        fp8: multiply inside blocks in 8 bits.
    """

    weights: torch.dtype | None = None
    autocast: torch.dtype | None = None
    masters: bool = True
    wide_gradients: bool = False
    tensor_cores: bool = False
    fp8: bool = False

    @property
    def scaled(self) -> bool:
        """Whether gradients would vanish without a loss scale."""
        return torch.float16 in (self.weights, self.autocast)


PRECISIONS = {
    "float32": Precision(),
    "tf32": Precision(tensor_cores=True),
    "fp16": Precision(autocast=torch.float16),
    "bf16": Precision(autocast=torch.bfloat16),
    "fp16-weights": Precision(weights=torch.float16),
    "bf16-weights": Precision(weights=torch.bfloat16),
    "bf16-weights-float32-gradients": Precision(
        weights=torch.bfloat16, wide_gradients=True
    ),
    "pure-bf16": Precision(weights=torch.bfloat16, masters=False),
    "fp8": Precision(weights=torch.bfloat16, fp8=True),
}


RECOMPUTE = ("none", "selective", "full")


@dataclass(frozen=True)
class Recipe:
    """How a step computes, whatever the layout.

    Args:
        precision: one of `PRECISIONS`.
        clip: largest norm of the gradient, 0 for any.
        data_parallel: one of `workshop.parallel.data.ways.WAYS`.
        bucket_mib: size of a bucket of gradients in MiB.
        backend: compile each block by this backend of torch.compile.
        recompute: one of `RECOMPUTE`: with `full` blocks keep their input
            alone, with `selective` attention keeps q, k and v alone.
        recompute_every: of every so many blocks one recomputes.
        ignored_targets: a target may be -100 and then counts in no loss,
            for which a step sends one number more over the copies.
    """

    precision: str = "float32"
    clip: float = 1.0
    data_parallel: str = "overlapped"
    bucket_mib: float = 100.0
    backend: str | None = None
    ignored_targets: bool = False
    recompute: str = "none"
    recompute_every: int = 1

    @property
    def kind(self) -> Precision:
        """What the precision means."""
        return PRECISIONS[self.precision]


class Trainer(ABC):
    """One rank's part of a training. All ranks call each method together."""

    @abstractmethod
    def step(self, micro_batches: list[MicroBatch], lr: float) -> Tensor:
        """Update the weights once; return (2,): mean loss, gradient norm.

        `micro_batches` are those of this rank's data parallel index, the
        same on all ranks that share a copy of the model.  The loss is the
        mean over the global batch in nats a token that counts, the norm
        that of the dense model's whole gradient before clipping, both equal
        on every rank.  On CUDA everything is only queued where the trainer
        can.
        """

    @abstractmethod
    def loss(self, micro_batches: list[MicroBatch]) -> Tensor:
        """Return the mean loss of a global batch, without any gradient.

        A scalar, the same on every rank; the model is in evaluation mode.
        Targets of -100 count in no loss.
        """

    def state(self) -> dict[str, Any] | None:
        """Return the dense state on rank 0, on the CPU; None elsewhere.

        It holds `model` and `optimizer` by the dense names, so that it
        loads in any layout.

        Raises:
            UserError: this trainer keeps no checkpoints.
        """
        raise UserError(
            f"{type(self).__name__} keeps no checkpoints: train with "
            "workshop.lab1.pretrain_gpt to have them"
        )

    def load(self, state: dict[str, Any]) -> None:
        """Take this rank's part of a dense `state`, whole on every rank.

        Raises:
            UserError: it is another model's, or as `state` does.
        """
        raise UserError(
            f"{type(self).__name__} loads no checkpoints: train with "
            "workshop.lab1.pretrain_gpt to have them"
        )

    def close(self) -> None:
        """Give back what outlives the object, such as communicators."""
