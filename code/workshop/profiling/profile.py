"""A few steps under torch's profiler, small enough to keep with a record."""

import errno
import gzip
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import (
    ProfilerActivity,
    profile,
    schedule,
)

from workshop.errors import UserError
from workshop.job.launch import Job, together
from workshop.job.metrics import MetricsWriter
from workshop.profiling import report, trace
from workshop.profiling.rank_summary import RankSummary, summarise_rank

WARM_UP, ACTIVE = 2, 3
PROFILED = WARM_UP + ACTIVE
"""The steps that the profiler slows down."""


class Profiler:
    """Profiles a few steps, of every rank or of rank 0 alone.

    torch's own schedule waits until `after` steps are done, warms up for
    `WARM_UP` (the first step includes the profiler's start) and records
    `ACTIVE`.  While it waits it costs nothing.

    With `every_rank` rank 0 then writes what `report.write` says to
    `folder`, and prints the table.  Else `trace.record` reads the trace of
    rank 0: `folder` gets one step of it, `trace.json.gz`, its summary,
    `profile.json`, and `writer` the measures; without a GPU the whole
    trace.  Its steps count from 0, the first after `start`.  Traces are in
    Chrome's format: open one at
    https://ui.perfetto.dev.

    Every rank makes one and calls `at` for every step from `start` on; with
    `every_rank` they meet there.  An evaluation or a checkpoint between two
    of these steps counts with the earlier one.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        job: Job,
        start: int,
        after: int,
        writer: MetricsWriter,
        every_rank: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.job = job
        self.writer = writer
        self.every_rank = every_rank
        self.after, self.start = after, start
        self.active = after + WARM_UP
        self.last = after + PROFILED
        self.clock_us = 0.0
        self.summary: RankSummary | None = None
        self.profiler: profile | None = None

    def at(self, step: int) -> bool:
        """Move the profiler on; call it when `step` steps are queued.

        Returns whether it took time that belongs to no step.
        """
        if not (self.every_rank or self.job.first):
            return False
        if step > self.last or (self.profiler is None and step > self.start):
            return False
        pauses = step in (self.after, self.active, self.last)
        if pauses:
            _wait()
        if step == self.active and self.every_rank:
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
                on_trace_ready=self._read,
                profile_memory=self.every_rank,
            )
            self.profiler.start()
        else:
            self.profiler.step()
        if step == self.last:
            self.profiler.stop()
            self.profiler = None
            if self.every_rank:
                self._report()
        return pauses

    def _meet(self) -> float:
        """Wait for all ranks; return this machine's time then, in µs."""
        dist.all_reduce(torch.zeros(1))
        return time.time_ns() / 1e3

    def _read(self, profiler: profile) -> None:
        if self.every_rank:
            self.summary = together(lambda: self._summarise(profiler))
        else:
            self._record(profiler)

    def _summarise(self, profiler: profile) -> RankSummary:
        with _exported(profiler) as whole:
            return summarise_rank(whole, self.start + 1)

    def _record(self, profiler: profile) -> None:
        """Keep the trace of the one rank that has a profiler."""
        with _exported(profiler) as whole:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                if torch.cuda.is_available():
                    trace.record(whole, self.folder, self.writer)
                    return
                packed = gzip.compress(whole.read_bytes(), mtime=0)
                (self.folder / "trace.json.gz").write_bytes(packed)
            except OSError as error:
                raise UserError(
                    f"no trace can be written to {self.folder} "
                    f"({error.strerror}): set WORKSHOP_ARTIFACTS to a "
                    "folder with room and permission"
                ) from None

    def _report(self) -> None:
        """Send this rank's summary to rank 0, which writes all of them."""
        mine = (machine(), self.clock_us, self.summary)
        everyone = [None] * self.job.world_size if self.job.first else None
        dist.gather_object(mine, everyone)
        ranks = on_one_clock(everyone or [])

        def write() -> None:
            if self.job.first:
                traces = [summary.trace for _, _, summary in everyone]
                text = report.write(ranks, traces, self.folder, self.writer)
                print(text, flush=True)

        together(write)


@contextmanager
def _exported(profiler: profile) -> Iterator[Path]:
    """Give the profiler's trace as a file that lasts as long as the block."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            whole = Path(scratch) / "trace.json"
            profiler.export_chrome_trace(str(whole))
            # torch only logs that it could not write.
            if not whole.is_file():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield whole
    except OSError as error:
        raise UserError(
            f"the profiler has no room for its trace ({error.strerror}): "
            "set TMPDIR to a folder with room"
        ) from None


def on_one_clock(
    everyone: list[tuple[str, float, RankSummary]],
) -> list[dict]:
    """Return each rank's numbers with `offset_ms`: when its step began.

    Args:
        everyone: each rank's machine, its clock in µs at a moment that all
            ranks shared, and its summary.

    Offsets count from the earliest.  Ranks of one machine have one clock;
    another machine's is set by the shared moment, good to about the time of
    a message between them.
    """
    begins = []
    for place, clock, summary in everyone:
        first, reference = everyone[0][:2]
        shift = 0.0 if place == first else clock - reference
        begins.append(summary.numbers["begin_us"] - shift)
    return [
        {
            **{k: v for k, v in summary.numbers.items() if k != "begin_us"},
            "offset_ms": (begin - min(begins)) / 1e3,
        }
        for begin, (_, _, summary) in zip(begins, everyone, strict=True)
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
