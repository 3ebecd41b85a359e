"""Run all layers of the model on a rank: any layout without a pipeline."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from workshop.data.counted import weighed
from workshop.training.trainer import MicroBatch


class WholeModel:
    """Micro-batches one after another, as `Pipeline` runs them in stages.

    Args:
        model: wrapped as `workshop.parallel.data.ways` does it, so that the
            gradients of all micro-batches but the last stay local.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def forward_backward(
        self,
        micro_batches: list[MicroBatch],
        autocast: torch.dtype | None = None,
        shares: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        """Add up the gradients of the mean loss, and return it, a scalar.

        The forward runs under `autocast` to that dtype.  `shares` (m,) are
        the micro-batches' in the mean; None weighs them alike.  Gradients
        are `scale` times as large as the loss says, a scalar.
        """
        each = 1 / len(micro_batches)
        device = micro_batches[0][0].device
        total = self._zero(device)
        for i, (tokens, targets) in enumerate(micro_batches, start=1):
            last = i == len(micro_batches)
            with nullcontext() if last else self.model.no_sync():
                with torch.autocast(
                    device.type, autocast, enabled=autocast is not None
                ):
                    loss = self.model(tokens, targets)
                    share = each if shares is None else shares[i - 1]
                    part = weighed(loss, share)
                part.backward(scale)
            total += part.detach()
        return total

    @torch.no_grad()
    def forward(
        self,
        micro_batches: list[MicroBatch],
        autocast: torch.dtype | None = None,
        shares: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss without computing gradients."""
        each = 1 / len(micro_batches)
        device = micro_batches[0][0].device
        total = self._zero(device)
        for i, (tokens, targets) in enumerate(micro_batches):
            with torch.autocast(
                device.type, autocast, enabled=autocast is not None
            ):
                loss = self.model.module(tokens, targets)
            total += weighed(loss, each if shares is None else shares[i])
        return total

    def finish_gradients(self) -> None:
        """Do nothing: no other rank has a parameter of this one's model."""

    def close(self) -> None:
        """Do nothing: there are no communicators."""

    def _zero(self, device: torch.device) -> Tensor:
        """Return where losses add up: never narrower than float32."""
        weights = next(self.model.parameters()).dtype
        dtype = torch.promote_types(weights, torch.float32)
        return torch.zeros((), dtype=dtype, device=device)
