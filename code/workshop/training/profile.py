"""A trace of a few steps, small enough to keep beside a run's record."""

import os
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from workshop.errors import UserError
from workshop.training import trace
from workshop.training.metrics import MetricsWriter

STEPS = 3


class StepTrace:
    """Records rank 0's steps after `after`, `STEPS` of them.

    On GPUs `trace.record` reads the trace: `folder` gets one step of it,
    `trace.json.gz`, and its summary, `profile.json`; `writer` the measures.
    On the CPU the whole trace goes to `folder/trace.json.gz`.  It is in
    Chrome's format: open it at https://ui.perfetto.dev.
    """

    def __init__(
        self, folder: str | os.PathLike, after: int, writer: MetricsWriter
    ) -> None:
        self.folder = Path(folder)
        self.last = after + STEPS
        self.after = after
        self.writer = writer
        self.profiler: profile | None = None
        self.name: record_function | None = None

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
            self._begin(step + 1)
            return True
        if self.profiler is None:
            return False
        self.name.__exit__(None, None, None)
        if step < self.last:
            self._begin(step + 1)
            return False
        self._wait()
        self.profiler.stop()
        self._export()
        self.profiler = None
        return True

    def _begin(self, step: int) -> None:
        """Name the step in the trace, as torch's own schedule does."""
        self.name = record_function(f"ProfilerStep#{step}")
        self.name.__enter__()

    def _wait(self) -> None:
        """Let the device end what is queued, so that steps stay whole."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _export(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not torch.cuda.is_available():
                kept = self.folder / "trace.json.gz"
                self.profiler.export_chrome_trace(str(kept))
                return
            with tempfile.TemporaryDirectory() as scratch:
                whole = Path(scratch) / "trace.json"
                self.profiler.export_chrome_trace(str(whole))
                trace.record(whole, self.folder, self.writer)
        except OSError as error:
            raise UserError(
                f"no trace can be written to {self.folder} "
                f"({error.strerror}): set WORKSHOP_ARTIFACTS to a folder "
                "with room and permission"
            ) from None
