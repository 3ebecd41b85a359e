"""Loss scaling: gradients that float16 would lose, made larger on the way.

Micikevicius et al. 2017 (arXiv:1710.03740), section 3.2: float16 ends at
6e-8, and gradients lie below. The loss times a scale makes all of them so
many times larger; before the update they are divided again. As large as
possible is best, and too large shows itself: a gradient is infinite. That
step is left out, the scale halved, and after many good steps it is doubled.
"""

from typing import Any

import torch
from torch import Tensor

from workshop.errors import UserError

START = 2.0**16
PATIENCE = 2000
"""Good steps in a row after which a larger scale is tried."""


class LossScaler:
    """A dynamic loss scale, the same on every rank.

    Args:
        device: where the losses are.
        start: the first scale.
        patience: good steps in a row after which the scale is doubled.

    Attributes:
        scale: what the next backward multiplies the loss by.
        skipped: how many steps were left out.
    """

    def __init__(
        self,
        device: torch.device,
        start: float = START,
        patience: int = PATIENCE,
    ) -> None:
        self.device, self.patience = device, patience
        self.scale, self.good, self.skipped = start, 0, 0

    def seed(self) -> Tensor:
        """Return the scale as the gradient that backward begins with."""
        return torch.tensor(self.scale, device=self.device)

    def accepts(self, norm: Tensor) -> bool:
        """Tell whether a step can be taken, and set the next scale.

        `norm` is that of the whole gradient, equal on every rank, so that
        all of them decide alike. The host waits for the device to see it.

        Raises:
            UserError: the gradient is infinite although nothing is scaled.
        """
        if bool(torch.isfinite(norm)):
            self.good += 1
            if self.good == self.patience:
                self.scale, self.good = 2 * self.scale, 0
            return True
        if self.scale <= 1:
            raise UserError(
                "the gradient is not finite even without a loss scale: the "
                "training has diverged, lower --lr"
            )
        self.scale, self.good = self.scale / 2, 0
        self.skipped += 1
        return False

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"scale": self.scale, "good": self.good}

    def load(self, state: dict[str, Any]) -> None:
        """Go on as the run that was saved would have."""
        self.scale, self.good = float(state["scale"]), int(state["good"])
