"""A trace of a few steps, small enough to keep beside a run's record."""

import os
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from workshop.errors import UserError

STEPS = 3


class StepTrace:
    """Records rank 0's steps after `after`, `STEPS` of them.

    The trace is in Chrome's format, gzipped, without Python stacks: open it
    at https://ui.perfetto.dev.  It goes to `folder/trace.rank0.json.gz`.
    """

    def __init__(self, folder: str | os.PathLike, after: int) -> None:
        self.path = Path(folder) / "trace.rank0.json.gz"
        self.last = after + STEPS
        self.after = after
        self.profiler: profile | None = None

    def at(self, step: int) -> bool:
        """Start or end the trace; call it when `step` steps are queued.

        Returns whether it took time that belongs to no step.
        """
        if step == self.after:
            self._wait()
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self.profiler = profile(activities=activities)
            self.profiler.start()
            return True
        if step == self.last and self.profiler is not None:
            self._wait()
            self.profiler.stop()
            self._export()
            return True
        return False

    def _wait(self) -> None:
        """Let the device end what is queued, so that steps stay whole."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _export(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.profiler.export_chrome_trace(str(self.path))
        except OSError as error:
            raise UserError(
                f"the trace {self.path} cannot be written "
                f"({error.strerror}): set WORKSHOP_ARTIFACTS to a folder "
                "with room and permission"
            ) from None
        self.profiler = None
