"""Losses and speeds as TensorBoard shows them, beside the metrics file.

Run `tensorboard --logdir DIR` to look at them while a run trains.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workshop.errors import UserError
from workshop.job.metrics import MetricsWriter

SHOWN = {
    "loss": "loss/training",
    "grad_norm": "gradient norm",
    "tokens_per_s": "speed/tokens per s",
    "mfu": "speed/MFU",
    "memory_gib": "memory (GiB)",
}
"""Each field of a step event that becomes a scalar, and its tag there."""

MEASURES = {"held_out_loss": "loss/held-out"}


class ScalarWriter(MetricsWriter):
    """A `MetricsWriter` whose steps go to TensorBoard in `folder` as well.

    So do the measures that have the label `step`.  For rank 0 alone.  With
    `resumed_at=n` TensorBoard drops what an interrupted run wrote after
    step n.

    Raises `UserError` when the package tensorboard is not installed, or
    when a file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike | None,
        folder: str | os.PathLike,
        resumed_at: int = 0,
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "TensorBoard's event files need the package tensorboard, "
                "which is not installed here: install it with `pip install "
                "tensorboard`, or leave out --tensorboard"
            ) from None
        super().__init__(path, resumed_at)
        self._folder = folder
        with self._room():
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._events = SummaryWriter(
                str(folder),
                purge_step=resumed_at + 1 if resumed_at else None,
            )

    def step(self, **fields: object) -> None:
        """Write a step, and what `SHOWN` names of it as scalars."""
        super().step(**fields)
        for name, tag in SHOWN.items():
            if fields.get(name) is not None:
                self._scalar(tag, fields[name], fields["step"])

    def measure(
        self, name: str, value: float, unit: str, **labels: object
    ) -> None:
        """Write a measure, as a scalar too if it belongs to a step."""
        super().measure(name, value, unit, **labels)
        if "step" in labels:
            tag = MEASURES.get(name, name)
            self._scalar(tag, value, labels["step"])

    def close(self) -> None:
        """Close all files; later events are lost."""
        super().close()
        with self._room():
            self._events.close()

    def _scalar(self, tag: str, value: float, step: int) -> None:
        with self._room():
            self._events.add_scalar(tag, value, step)

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                "TensorBoard's event files cannot be written to "
                f"{self._folder} ({error.strerror}): name another folder "
                "with --tensorboard"
            ) from None
