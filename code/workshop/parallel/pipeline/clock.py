"""When each operation of a pipeline step ran, without asking the device."""

import time

import torch
import torch.distributed as dist

from workshop.parallel.pipeline.schedule import Operation
from workshop.parallel.pipeline.timeline import Timed


class PipelineClock:
    """Times of one step: CUDA events on a GPU, the host's clock on a CPU.

    Args:
        device: what computes.
        group: with a group, all its ranks start their clocks together, so
            that the times of different ranks can be compared.
    """

    def __init__(
        self, device: torch.device, group: dist.ProcessGroup | None = None
    ) -> None:
        self.cuda = device.type == "cuda"
        if group is not None:
            # Not a barrier: on a GPU that would make the host wait.
            dist.all_reduce(torch.zeros(1, device=device), group=group)
        self.zero = self.mark()
        self.marks: list[tuple[Operation, object, object]] = []

    def mark(self) -> "torch.cuda.Event | float":
        """Return this moment of the device."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, operation: Operation, start: object) -> None:
        """Note that `operation`, which began at a mark, ends now."""
        self.marks.append((operation, start, self.mark()))

    def times(self) -> list[Timed]:
        """Return the operations with their times in seconds.

        On a GPU this waits until the device has done them all.
        """
        if self.cuda and self.marks:
            self.marks[-1][2].synchronize()
        return [
            Timed(operation, self._since(start), self._since(end))
            for operation, start, end in self.marks
        ]

    def _since(self, mark: "torch.cuda.Event | float") -> float:
        if self.cuda:
            return self.zero.elapsed_time(mark) / 1e3
        return mark - self.zero
