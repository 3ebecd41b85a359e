"""What a step measured and how long it took, read one step late.

Reading a number from the GPU makes the host wait until the GPU has got
there; the GPU then idles until the host has queued the next kernels.  So a
step is marked on the GPU's own time line, the next step is queued, and only
then is the mark read: the host waits while the GPU has work.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor


BLOCK = 256
"""Steps whose values share a piece of pinned memory."""


@dataclass
class Mark:
    """The end of a step on the device's time line, with its values."""

    step: int
    values: Tensor
    event: torch.cuda.Event | None
    before: "torch.cuda.Event | float"
    at: float

    def read(self) -> tuple[list[float], float]:
        """Wait for the mark; return the values and the step's seconds."""
        if self.event is None:
            return self.values.tolist(), self.at - self.before
        self.event.synchronize()
        seconds = self.before.elapsed_time(self.event) / 1e3
        return self.values.tolist(), seconds


class StepClock:
    """Times the steps of a loop from one mark to the next."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._rows: list[Tensor] = []
        self.restart()

    def restart(self) -> None:
        """Begin anew, so that what happened since is in no step's time."""
        self._last = self._event() if self.cuda else time.perf_counter()

    def mark(self, step: int, values: Tensor) -> Mark:
        """Mark the end of a step whose result is `values`, 1-dimensional."""
        before = self._last
        if not self.cuda:
            self._last = time.perf_counter()
            return Mark(step, values, None, before, self._last)
        host = self._pinned(values)
        host.copy_(values, non_blocking=True)
        self._last = self._event()
        return Mark(step, host, self._last, before, 0.0)

    def _pinned(self, values: Tensor) -> Tensor:
        """Return where to copy values to, so that no copy waits.

        Out of a block for many steps: to pin memory takes the host long.
        """
        like = self._rows[-1] if self._rows else None
        if like is None or (like.shape, like.dtype) != (
            values.shape,
            values.dtype,
        ):
            rows = torch.empty(
                (BLOCK, *values.shape), dtype=values.dtype, pin_memory=True
            )
            self._rows = list(rows)
        return self._rows.pop()

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
