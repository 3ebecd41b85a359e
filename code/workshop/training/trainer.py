"""What everything that trains has in common: one step, one state.

The loop, the benches and the checkpoints know a `Trainer` and nothing of
what is inside. It owns the model, its optimizer, clipping and precision, so
whatever changes one of these is another trainer, or another part of one, and
never another loop. What is to come will fit like this:

- **Loss scaling** (float16): `step` will hand the scale to the runner, which
  multiplies the loss by it before backward, as it does with a micro-batch's
  share; `update` will divide the gradients and leave the update out where
  the norm is not finite. The scale is one more entry of `state`.
- **Activation checkpointing** will wrap blocks where the model is spread,
  before they are compiled; a field of the recipe will say which.
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

from torch import Tensor

from workshop.errors import UserError

MicroBatch = tuple[Tensor, Tensor]
"""Tokens and targets of a micro-batch, both (b, s)."""


@dataclass(frozen=True)
class Recipe:
    """How a step computes, whatever the layout.

    Args:
        precision: `float32` leaves parameters as they are made, `bf16`
            computes under autocast, `bf16-weights` has weights and gradients
            in bfloat16 and float32 masters in the optimizer,
            `bf16-weights-float32-gradients` adds the gradients of
            micro-batches up, and averages them, in float32.
        clip: largest norm of the gradient, 0 for any.
        data_parallel: one of `workshop.parallel.data.ways.WAYS`.
        bucket_mib: size of a bucket of gradients in MiB.
        backend: compile each block by this backend of torch.compile.
        ignored_targets: a target may be -100 and then counts in no loss,
            for which a step sends one number more over the copies.
    """

    precision: str = "float32"
    clip: float = 1.0
    data_parallel: str = "overlapped"
    bucket_mib: float = 100.0
    backend: str | None = None
    ignored_targets: bool = False

    @property
    def autocast(self) -> bool:
        """Whether products compute in bfloat16 on float32 weights."""
        return self.precision == "bf16"

    @property
    def narrow_weights(self) -> bool:
        """Whether the weights are in bfloat16."""
        return self.precision.startswith("bf16-weights")

    @property
    def wide_gradients(self) -> bool:
        """Whether gradients are wider than the weights."""
        return self.precision == "bf16-weights-float32-gradients"


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
