r"""A torchrun, with its options, that passes SIGUSR1 on to its ranks.

  python -m workshop.job.torchrun --nnodes 2 --node-rank 0 \
    --nproc-per-node 2 --master-addr node1 --master-port 20000 \
    -m workshop.lab1.pretrain_gpt

The other dies of SIGUSR1, with which Slurm announces the end of a job, and
its ranks with it. And it ends with 1 and a traceback of its own
whatever its ranks do, where this ends with their exit code, and a rank's
sentence is the last thing that a person sees.
"""

import logging
import os
import signal
import socket
import sys
import threading
from typing import NoReturn

import psutil
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
)

ANNOUNCES = {signal.SIGUSR1}


def main(argv: list[str] | None = None) -> None:
    """Start the ranks of this node and end as they did."""
    pass_on_announcements()
    # torch asks for the machine's full name in its records of events, and
    # waits for a name server each time where there is none to answer.
    socket.getfqdn = lambda name="": name or socket.gethostname()
    args = torchrun.parse_args(argv or sys.argv[1:])
    logging.disable(logging.ERROR)
    try:
        torchrun.run(args)
    except ChildFailedError as error:
        report(error.failures)
    except (KeyboardInterrupt, SignalException) as error:
        sys.exit(128 + int(getattr(error, "sigval", 2)))


def pass_on_announcements() -> None:
    """Let every rank that listens for SIGUSR1 have it.

    The ranks inherit that it is held back. So it waits for those that do
    not listen yet, and ends none that never will. Threads that a library
    started before take it as well, and then Python calls the handler.
    """
    signal.signal(signal.SIGUSR1, lambda *_: announce())
    signal.pthread_sigmask(signal.SIG_BLOCK, ANNOUNCES)

    def wait() -> None:
        while True:
            signal.sigwait(ANNOUNCES)
            announce()

    threading.Thread(target=wait, daemon=True).start()


def announce() -> None:
    """Send SIGUSR1 to the ranks of this node."""
    for rank in psutil.Process().children():
        rank.send_signal(signal.SIGUSR1)


def first(failures: dict[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Return the rank that failed first, and how.

    torchrun ends the others with SIGTERM, and its times are whole seconds:
    a rank that left a file comes before one that was ended.
    """

    def order(rank: int) -> tuple:
        failure = failures[rank]
        silent = not os.path.isfile(failure.error_file)
        ended = failure.exitcode == -signal.SIGTERM
        return silent, ended, failure.timestamp, rank

    rank = min(failures, key=order)
    return rank, failures[rank]


def report(failures: dict[int, ProcessFailure]) -> NoReturn:
    """Say which rank failed first, unless one has said so itself, and end.

    A rank that ends with a sentence, or that records its exception, leaves
    a file behind (`workshop.job.failures`); torchrun ends the others by a
    signal.
    """
    told = any(os.path.isfile(f.error_file) for f in failures.values())
    if told:
        sys.exit(max(1, *(f.exitcode for f in failures.values())))
    rank, failure = first(failures)
    code, by = failure.exitcode, failure.signal_name()
    what = f"ended with exit code {code}" if code > 0 else f"got {by}"
    print(f"error: rank {rank} {what}", file=sys.stderr)
    sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    main()
