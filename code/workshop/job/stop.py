"""Stopping when Slurm says so: the ranks agree on a last step and save.

Slurm sends SIGUSR1 some time before a job's limit, where the job asks for
it (--signal), and SIGTERM before it takes the nodes away. A signal reaches
the ranks at different moments, or one of them alone; and a rank that left
the loop a step earlier than the others would leave them waiting for ever.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch.distributed as dist

from workshop.job.launch import Job, leave_sentence

CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later
KEY = "workshop/last-step"
AHEAD = 2
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
NOTHING_KEPT = (
    "nothing of this training is kept when a signal ends it: "
    "name a folder with --checkpoint"
)


class Stop:
    """Whether this rank was told to stop, and which step is the last.

    `keeps` says whether there is something to save. Without it a signal
    ends the rank at once, and rank 0 says what would keep its work.
    """

    def __init__(self, job: Job, keeps: bool, key: str = KEY) -> None:
        self.by: str | None = None
        self.stopped = False
        self._job, self._keeps, self._key = job, keeps, key
        self._last: int | None = None

    def after(self, step: int) -> bool:
        """Tell whether `step` is the last, alike on all ranks.

        Call it once a step, after the values of the step before have been
        read. They need every rank, so that whoever is in step n + 2 knows
        that the others have been in step n + 1, and what they wrote down
        before: the first rank that was told writes n + 2 into the store.
        """
        if self._last is None:
            store = dist.distributed_c10d._get_default_store()
            if self.by:
                wanted = str(step + AHEAD)
                self._last = int(store.compare_set(self._key, "", wanted))
            elif store.check([self._key]):
                self._last = int(store.get(self._key))
        self.stopped = step == self._last
        return self.stopped

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside; a stopped run takes none afterwards.

        Python runs a handler when the main thread comes back to it, and a
        rank that waits for a dead one never does. So a thread reads what
        came from the pipe into which Python writes it at once.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        wakeup = signal.set_wakeup_fd(writer)
        before = [signal.signal(each, _noted) for each in SIGNALS]
        listener = threading.Thread(
            target=self._listen, args=(reader,), daemon=True
        )
        listener.start()
        # The launcher holds it back until somebody listens.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            yield
        finally:
            for each, handler in zip(SIGNALS, before, strict=True):
                ignores = signal.SIG_IGN if self.stopped else handler
                signal.signal(each, ignores)
            signal.set_wakeup_fd(wakeup)
            os.close(writer)
            listener.join()
            os.close(reader)

    def _listen(self, reader: int) -> None:
        while number := os.read(reader, 1):
            if number[0] in SIGNALS:
                self._told(signal.Signals(number[0]))

    def _told(self, by: signal.Signals) -> None:
        if self.stopped:
            return
        lost = by == signal.SIGTERM and misses_a_rank()
        if self._keeps and not lost:
            self.by = by.name
            return
        if self._job.first and not lost:
            sentence = f"stopped by {by.name}, and {NOTHING_KEPT}"
            print(f"error: {sentence}", file=sys.stderr, flush=True)
            leave_sentence(sentence)
        # Only the main thread may do this by Python's own functions.
        ctypes.CDLL(None).signal(int(by), None)
        os.kill(os.getpid(), by)


def misses_a_rank() -> bool:
    """Tell whether a rank that torchrun started beside this one has ended.

    torchrun then ends the others by SIGTERM: they wait for it in vain, and
    have no step left to save.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    alive = [
        each
        for each in psutil.Process(os.getppid()).children()
        if each.status() != psutil.STATUS_ZOMBIE
    ]
    return len(alive) < int(os.environ["LOCAL_WORLD_SIZE"])


def _noted(number: int, frame: object) -> None:
    """Keep the signal from ending the process; the thread answers it."""
