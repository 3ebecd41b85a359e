"""Losses and speeds as TensorBoard shows them, beside the metrics file.

Run `tensorboard --logdir DIR` to look at them while a run trains.
"""

import os
from pathlib import Path

from workshop.errors import UserError

SHOWN = {
    "loss": "loss/training",
    "grad_norm": "gradient norm",
    "tokens_per_s": "speed/tokens per s",
    "mfu": "speed/MFU",
    "memory_gib": "memory (GiB)",
}
"""Each field of a step event that becomes a scalar, and its tag there."""

MEASURES = {"held_out_loss": "loss/held-out"}


class ScalarLog:
    """Writes scalars into event files in `folder`, for rank 0 alone.

    With `resumed_at=n` TensorBoard drops what an interrupted run wrote
    after step n.

    Raises `UserError` when the package tensorboard is not installed, or
    when the folder cannot be written.
    """

    def __init__(
        self, folder: str | os.PathLike, resumed_at: int = 0
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "TensorBoard's event files need the package tensorboard, "
                "which is not installed here: install it with `pip install "
                "tensorboard`, or leave out --tensorboard"
            ) from None
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._events = SummaryWriter(
                str(folder),
                purge_step=resumed_at + 1 if resumed_at else None,
            )
        except OSError as error:
            raise UserError(
                f"TensorBoard's event files cannot be written to {folder} "
                f"({error.strerror}): name another folder with --tensorboard"
            ) from None

    def step(self, fields: dict) -> None:
        """Write what `SHOWN` names of a step event."""
        for name, tag in SHOWN.items():
            if fields.get(name) is not None:
                self._events.add_scalar(tag, fields[name], fields["step"])

    def measure(self, name: str, value: float, step: int) -> None:
        """Write a measure that belongs to a step."""
        self._events.add_scalar(MEASURES.get(name, name), value, step)

    def close(self) -> None:
        """Write what is still in memory, and end."""
        self._events.close()
