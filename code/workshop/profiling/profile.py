"""A few steps under torch's profiler, small enough to keep with a record.

`StepTrace` is for one rank, `RankProfile` for all of them together.
"""

import os
import socket
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import (
    ProfilerActivity,
    profile,
    record_function,
    schedule,
)

from workshop.errors import UserError
from workshop.job.launch import Job, together
from workshop.job.metrics import MetricsWriter
from workshop.profiling import report as profile_report
from workshop.profiling import trace
from workshop.profiling.rank_summary import RankSummary, summarise_rank

STEPS = 3
WARM_UP, ACTIVE = 2, 3
PROFILED = WARM_UP + ACTIVE
"""The steps that the profiler slows down; `STEPS` for a `StepTrace`."""


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
            _wait()
            self.profiler = profile(activities=_activities())
            self.profiler.start()
            self._begin(step + 1)
            return True
        if self.profiler is None:
            return False
        self.name.__exit__(None, None, None)
        if step < self.last:
            self._begin(step + 1)
            return False
        _wait()
        self.profiler.stop()
        self._export()
        self.profiler = None
        return True

    def _begin(self, step: int) -> None:
        """Name the step in the trace, as torch's own schedule does."""
        self.name = record_function(f"ProfilerStep#{step}")
        self.name.__enter__()

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


class RankProfile:
    """Profiles the same steps on every rank, by torch's own schedule.

    The profiler waits until `after` steps are done, warms up for `WARM_UP`
    (its first step includes its own start) and records `ACTIVE`.  Rank 0
    then writes what `profile_report.write` says to `folder`, and prints the
    table.  While it waits it costs nothing.

    Every rank makes one and calls `at` for every step: after the last one
    the ranks send what they found to rank 0.  An evaluation or a checkpoint
    between two of these steps counts with the earlier one.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        job: Job,
        start: int,
        after: int,
        writer: MetricsWriter,
    ) -> None:
        self.folder = Path(folder)
        self.job = job
        self.writer = writer
        self.after, self.start = after, start
        self.active = after + WARM_UP
        self.last = after + PROFILED
        self.clock_us = 0.0
        self.found: RankSummary | None = None
        self.profiler: profile | None = None

    def at(self, step: int) -> bool:
        """Move the profiler on; call it when `step` steps are queued.

        Returns whether it took time that belongs to no step.
        """
        if step > self.last or (self.profiler is None and step > self.start):
            return False
        pauses = step in (self.after, self.active, self.last)
        if pauses:
            _wait()
        if step == self.active:
            self.clock_us = self._meet()
        if self.profiler is None:
            self.profiler = profile(
                activities=_activities(),
                schedule=schedule(
                    wait=self.after - self.start,
                    warmup=WARM_UP,
                    active=ACTIVE,
                    repeat=1,
                ),
                on_trace_ready=self._summarise,
                profile_memory=True,
            )
            self.profiler.start()
        else:
            self.profiler.step()
        if step == self.last:
            self.profiler.stop()
            self.profiler = None
            self._report()
        return pauses

    def _meet(self) -> float:
        """Wait for all ranks; return this machine's time then, in µs."""
        dist.all_reduce(torch.zeros(1))
        return time.time_ns() / 1e3

    def _summarise(self, profiler: profile) -> None:
        def summarise() -> RankSummary:
            try:
                with tempfile.TemporaryDirectory() as scratch:
                    whole = Path(scratch) / "trace.json"
                    profiler.export_chrome_trace(str(whole))
                    return summarise_rank(whole, self.start + 1)
            except OSError as error:
                raise UserError(
                    f"the profiler has no room for its trace "
                    f"({error.strerror}): set TMPDIR to a folder with room"
                ) from None

        self.found = together(summarise)

    def _report(self) -> None:
        """Send what was found to rank 0, which writes it."""
        mine = (machine(), self.clock_us, self.found)
        everyone = [None] * self.job.world_size if self.job.first else None
        dist.gather_object(mine, everyone)
        ranks = on_one_clock(everyone or [])

        def write() -> None:
            if self.job.first:
                traces = [found.trace for _, _, found in everyone]
                print(
                    profile_report.write(
                        ranks, traces, self.folder, self.writer
                    ),
                    flush=True,
                )

        together(write)


def on_one_clock(
    everyone: list[tuple[str, float, RankSummary]],
) -> list[dict]:
    """Return each rank's numbers with `offset_ms`: when its step began.

    Args:
        everyone: each rank's machine, its clock in µs at a moment that all
            ranks shared, and what it found.

    Offsets count from the earliest.  Ranks of one machine have one clock;
    another machine's is set by the shared moment, good to about the time of
    a message between them.
    """
    begins = []
    for place, clock, found in everyone:
        first, reference = everyone[0][:2]
        shift = 0.0 if place == first else clock - reference
        begins.append(found.numbers["begin_us"] - shift)
    return [
        {
            **{k: v for k, v in found.numbers.items() if k != "begin_us"},
            "offset_ms": (begin - min(begins)) / 1e3,
        }
        for begin, (_, _, found) in zip(begins, everyone, strict=True)
    ]


def machine() -> str:
    """Return what tells machines apart: containers on one share a clock."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.is_file() else socket.getfqdn()


def _activities() -> list[ProfilerActivity]:
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    return activities


def _wait() -> None:
    """Let the device end what is queued, so that steps stay whole."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
