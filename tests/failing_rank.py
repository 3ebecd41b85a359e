"""torchrun --standalone --nproc-per-node 2 tests/failing_rank.py HOW RANK

A job of which one rank fails while the others wait for its message: it
`raise`s an exception, is `killed`, or runs out of `memory`.
"""

import os
import signal
import sys

import torch
import torch.distributed as dist

from workshop.job.failures import joined, memory_explained


def fail(how: str) -> None:
    """Fail as it was asked for."""
    if how == "raise":
        raise ZeroDivisionError("planted on this rank")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    with memory_explained(1_300_000_000, 2, 1, torch.device("cpu")):
        torch.empty(2**48)


def main() -> None:
    """Fail on one rank, wait on the others."""
    how, rank = sys.argv[1], int(sys.argv[2])
    with joined() as job:
        dist.barrier()
        if job.rank == rank:
            fail(how)
        dist.all_reduce(torch.zeros(1))


if __name__ == "__main__":
    main()
