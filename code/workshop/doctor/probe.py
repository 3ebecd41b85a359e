"""Prove that two ranks on this machine can talk: a tiny all-reduce.

The ranks are processes of their own, joined over a file, so that a backend
which hangs or aborts takes nothing with it.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RANKS = 2


def all_reduce(backend: str, seconds: float = 60.0) -> str | None:
    """Run an all-reduce on two ranks; None when the sum is right.

    Args:
        backend: "gloo" on CPUs, or "nccl" on the first two GPUs.
        seconds: after this long the ranks are ended.

    Returns:
        None, or what went wrong in a few words.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ranks = [_start(backend, rank, folder) for rank in range(RANKS)]
        try:
            return _verdict(ranks, folder, seconds)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()


def resolves(host: str, seconds: float = 5.0) -> float | None:
    """Return the seconds in which a name leads to an address.

    None where it leads nowhere; at most `seconds`, in which case no answer
    has come yet. In a process of its own, since asking cannot be stopped.
    """
    program = "import socket, sys; socket.getaddrinfo(sys.argv[1], None)"
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, host],
            check=False,
            capture_output=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return seconds
    return None if done.returncode else time.monotonic() - begun


def _start(backend: str, rank: int, folder: Path) -> subprocess.Popen:
    store = str(folder / "store")
    with open(folder / f"errors.{rank}", "w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, backend, str(rank), store],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _verdict(
    ranks: list[subprocess.Popen], folder: Path, seconds: float
) -> str | None:
    """Wait for all ranks, but no longer than the first failure."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        states = [rank.poll() for rank in ranks]
        for rank, state in enumerate(states):
            if state:
                words = (folder / f"errors.{rank}").read_text().splitlines()
                last = next(filter(None, reversed(words)), f"exit {state}")
                return f"rank {rank} failed: {last}"
        if all(state == 0 for state in states):
            return None
        time.sleep(0.05)
    return f"no answer within {seconds:.0f} s"


def run_rank(backend: str, rank: int, store: str) -> None:
    """Join, sum, and check the sum; raises when anything is wrong."""
    import torch
    import torch.distributed as dist

    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend,
        store=dist.FileStore(store, RANKS),
        rank=rank,
        world_size=RANKS,
    )
    value = torch.full((4,), float(rank + 1), device=device)
    dist.all_reduce(value)
    if value.tolist() != [3.0] * 4:
        raise ArithmeticError(f"1 + 2 gave {value.tolist()}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    run_rank(sys.argv[1], int(sys.argv[2]), sys.argv[3])
