r"""Start the ranks of one node, which meet on its loopback address.

  python -m workshop.job.one_node --nproc-per-node 2 \
    -m workshop.lab1.pretrain_gpt

This is torchrun, with its options. Three things differ from `--standalone`:

- the store in which the ranks meet listens on the loopback address alone,
  where that of torchrun listens on every address of the machine;
- it is reached by that address, so that the machine's own name need not
  resolve;
- a rank's sentence is the last thing that a person sees, and its exit code
  is that of the program, where torchrun adds a traceback of its own, and
  ends with 1.
"""

import logging
import os
import signal
import socket
import sys
from typing import NoReturn

from torch.distributed import TCPStore
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
)

HERE = "127.0.0.1"


def main(argv: list[str] | None = None) -> None:
    """Start the ranks and end as they did."""
    # torch asks for the machine's full name in its records of events, and
    # waits for a name server each time where there is none to answer.
    socket.getfqdn = lambda name="": name or socket.gethostname()
    args = torchrun.parse_args([*at_home(), *(argv or sys.argv[1:])])
    logging.disable(logging.ERROR)
    try:
        torchrun.run(args)
    except ChildFailedError as error:
        report(error.failures)
    except (KeyboardInterrupt, SignalException) as error:
        sys.exit(128 + int(getattr(error, "sigval", 2)))


def at_home() -> list[str]:
    """Open the store on the loopback; return the options that lead there.

    torchrun then finds it in this process, by its address and port.
    """
    global _store  # it lives as long as the process
    listener = socket.create_server((HERE, 0))
    port = listener.getsockname()[1]
    _store = TCPStore(
        HERE,
        port,
        is_master=True,
        wait_for_workers=False,
        multi_tenant=True,
        master_listen_fd=listener.detach(),
    )
    address = [f"--local-addr={HERE}", f"--master-addr={HERE}"]
    return ["--nnodes=1", "--node-rank=0", *address, f"--master-port={port}"]


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
