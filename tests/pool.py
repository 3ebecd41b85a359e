"""A pool of ranks that lives as long as the test session.

Importing torch in every rank of every test is what makes distributed tests
slow, so the ranks of a world stay up, joined in one gloo group over a file
store, and run one function after another. Whatever goes wrong, on whichever
rank, comes back as one `RankError` that shows every rank; the ranks are then
ended, and the next call starts new ones.
"""

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.forkserver import ForkServer
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fork_servers import fork_server, forking_from
from shared_gpu import sharing

LIMIT = 240.0
"""Seconds that ranks have where a test says nothing, on a busy machine."""

GRACE = 3.0
"""Seconds that the other ranks have to answer after one has failed."""


class RankError(RuntimeError):
    """What every rank reported, when at least one did not return.

    Attributes:
        failures: rank -> its traceback, how it died, or where it hangs.
    """

    def __init__(self, what: str, failures: dict[int, str], world: int):
        ranks = ", ".join(str(rank) for rank in sorted(failures))
        parts = [f"{what} failed on rank {ranks} of {world}"]
        for rank, text in sorted(failures.items()):
            parts.append(f"--- rank {rank} ---\n{text.rstrip()}")
        super().__init__("\n".join(parts))
        self.failures = failures


def _serve(
    rank: int, world: int, backend: str, folder: str, calls: Connection
) -> None:
    """Join the group and run what arrives, until the parent says stop."""
    import torch
    import torch.distributed as dist

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = open(Path(folder, f"output.{rank}"), "w", buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    stacks = open(Path(folder, f"stacks.{rank}"), "w")
    faulthandler.register(signal.SIGUSR2, stacks, all_threads=True)
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder, "store")), world)
    if backend == "nccl":
        gpus = torch.cuda.device_count()
        if world > gpus:
            os.environ.update(sharing(rank))
        torch.cuda.set_device(rank % gpus)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend,
        store=store,
        rank=rank,
        world_size=world,
        timeout=timedelta(minutes=5),
    )
    calls.send_bytes(b"ready")
    while (message := calls.recv_bytes()) != b"stop":
        path, call = pickle.loads(message)
        sys.path[:] = path
        try:
            function, args = pickle.loads(call)
            answer = pickle.dumps((True, function(rank, world, *args)))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc()))
        calls.send_bytes(answer)
    # A rank that leaves while another still talks can abort the other.
    dist.barrier()
    dist.destroy_process_group()


@contextlib.contextmanager
def groups_closed() -> Iterator[None]:
    """Close the groups that are made inside, on all ranks of a pool.

    Each holds threads and connections, and the ranks live on: a job leaves
    that to its end.
    """
    import torch.distributed as dist

    known = dist.distributed_c10d._world.pg_map
    before = set(known)
    try:
        yield
        gc.collect()
        # Not where a rank has failed: the others may never come.
        dist.barrier()
    finally:
        # In the order of their making, the same on all ranks: NCCL's ranks
        # meet to close a communicator.
        for group in [group for group in known if group not in before]:
            dist.destroy_process_group(group)


@dataclass
class Pool:
    """`world` ranks on this machine, started at the first call.

    With the backend `nccl` each rank has the GPU of its number, or shares
    one where they are too few, and tensors on the CPU still travel by gloo.
    Use it as a context manager, or call
    `stop` at the end.
    """

    world: int
    backend: str = "gloo"
    server: ForkServer | None = None
    _ranks: list[tuple[BaseProcess, Connection]] = field(default_factory=list)
    _folder: str = ""

    def run(
        self, function: Callable[..., Any], *args: Any, timeout: float = LIMIT
    ) -> list[Any]:
        """Call `function(rank, world, *args)` on all ranks together.

        Args:
            function: importable by name; it and `args` travel by pickle.
            timeout: seconds until a rank that has not returned counts as
                hanging.

        Returns:
            What each rank returned, in the order of the ranks.

        Raises:
            RankError: a rank raised, died or hangs.
        """
        name = f"{function.__module__}.{function.__qualname__}"
        call = pickle.dumps((list(sys.path), pickle.dumps((function, args))))
        try:
            if not self._ranks:
                self._start()
            for _, calls in self._ranks:
                # A rank that died since is reported by _collect.
                with contextlib.suppress(ConnectionError):
                    calls.send_bytes(call)
            answers = self._collect(name, timeout)
        except BaseException:
            self._end()
            raise
        return [pickle.loads(answer)[1] for answer in answers]

    def stop(self) -> None:
        """Let the ranks leave together; the next call starts new ones."""
        for _, calls in self._ranks:
            with contextlib.suppress(ConnectionError):
                calls.send_bytes(b"stop")
        for process, _ in self._ranks:
            process.join(GRACE)
        self._end()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        # A server that has imported torch once forks ranks in no time; a
        # process that will use CUDA must not come from a fork.
        spawn = multiprocessing.get_context("spawn")
        context = fork_server() if self.backend == "gloo" else spawn
        self._folder = tempfile.mkdtemp(prefix="workshop-pool-")
        for rank in range(self.world):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(rank, self.world, self.backend, self._folder, theirs),
                name=f"rank {rank} of {self.world}",
                daemon=True,
            )
            with forking_from(self.server):
                process.start()
            theirs.close()
            self._ranks.append((process, ours))
        self._collect("the start of the ranks", LIMIT)

    def _collect(self, name: str, timeout: float) -> list[bytes]:
        """Wait for one answer of every rank, or explain what came instead."""
        answers: dict[int, bytes] = {}
        failures: dict[int, str] = {}
        waiting = {calls: rank for rank, (_, calls) in enumerate(self._ranks)}
        began = time.monotonic()
        deadline = began + timeout
        while waiting:
            left = deadline - time.monotonic()
            ready = wait(list(waiting), max(left, 0))
            if not ready:
                break
            for calls in ready:
                rank = waiting.pop(calls)
                try:
                    answers[rank] = calls.recv_bytes()
                except (EOFError, ConnectionError):
                    failures[rank] = self._died(rank, name)
                    continue
                if answers[rank] == b"ready":
                    continue
                returned, value = pickle.loads(answers[rank])
                if not returned:
                    failures[rank] = value + self._output(rank)
            if failures:
                deadline = min(deadline, time.monotonic() + GRACE)
        seconds = time.monotonic() - began
        for rank in waiting.values():
            failures[rank] = self._hangs(rank, name, seconds)
        if failures:
            raise RankError(name, failures, self.world)
        return [answers[rank] for rank in range(self.world)]

    def _died(self, rank: int, name: str) -> str:
        process = self._ranks[rank][0]
        process.join(GRACE)
        return (
            f"rank {rank} died in {name}, exit code {process.exitcode}"
            + self._output(rank)
        )

    def _hangs(self, rank: int, name: str, seconds: float) -> str:
        process = self._ranks[rank][0]
        stacks = Path(self._folder, f"stacks.{rank}")
        if process.is_alive() and stacks.exists():
            os.kill(process.pid, signal.SIGUSR2)
            ends = time.monotonic() + GRACE
            while not stacks.stat().st_size and time.monotonic() < ends:
                time.sleep(0.05)
            time.sleep(0.05)
        where = stacks.read_text() if stacks.exists() else "it never started"
        return (
            f"rank {rank} hangs: {name} has not returned after "
            f"{seconds:.1f} s, and the rank is here:\n{where}"
            + self._output(rank)
        )

    def _output(self, rank: int) -> str:
        path = Path(self._folder, f"output.{rank}")
        text = path.read_text()[-4000:] if path.exists() else ""
        return f"\noutput of rank {rank}:\n{text}" if text else ""

    def _end(self) -> None:
        for process, calls in self._ranks:
            process.kill()
            process.join()
            calls.close()
        self._ranks.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
