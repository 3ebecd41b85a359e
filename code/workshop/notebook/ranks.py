"""Ranks inside a notebook: engines that share one process group.

`start_ranks(2)` starts two processes beside the kernel and joins them in one
torch.distributed group. A cell that begins with `%%px` then runs on both,
and its output names the rank: `[stdout:0]`, `[stdout:1]`. Every rank finds
`rank`, `world_size` and `device` in its namespace.
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from workshop.errors import UserError

START_TIMEOUT = 120
"""Seconds for the engines to start."""

GROUP_TIMEOUT = 60
"""Seconds until a rank that waits for another in vain gives up."""

# The pipe to its stdin closes however the kernel ends, kill -9 included.
WATCHER = """
import os, shutil, signal, sys
folder, controller, *engines = sys.argv[1:]
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.stdin.read()
# The controller ends its own children if it is asked politely.
ends = [(controller, signal.SIGTERM)]
ends += [(engine, signal.SIGKILL) for engine in engines]
for pid, end in ends:
    try:
        os.kill(int(pid), end)
    except ProcessLookupError:
        pass
shutil.rmtree(folder, ignore_errors=True)
"""


class Ranks:
    """Running ranks; made by `start_ranks`, ended by `stop` or the kernel.

    Attributes:
        size: the number of ranks.
        backend: `nccl` where each rank has a GPU, else `gloo`.
        view: ipyparallel's view of all ranks, in their order.
    """

    def __init__(self, size: int) -> None:
        import ipyparallel
        import torch

        self.size = size
        gpus = torch.cuda.device_count()
        self.backend = "nccl" if gpus >= size else "gloo"
        self._folder = tempfile.mkdtemp(prefix="workshop-ranks-")
        self._cluster = ipyparallel.Cluster(
            n=size,
            profile_dir=self._folder,
            load_profile=False,
            log_level=logging.ERROR,
            delay=0.1,
            # An engine counts as present after two heartbeats, so they come
            # fast, and as lost only after a minute without one.
            controller_args=[
                "--HeartMonitor.period=500",
                "--HeartMonitor.max_heartmonitor_misses=120",
            ],
        )
        self._cluster.start_cluster_sync()
        self._client = self._cluster.connect_client_sync()
        self._client.wait_for_engines(
            size, timeout=START_TIMEOUT, interactive=False
        )
        self.view = self._client[:]
        self.view.block = True
        self._watch()
        self._each(join_group, size, self._folder, self.backend)

    def __repr__(self) -> str:
        place = "a GPU each" if self.backend == "nccl" else "CPU"
        return f"{self.size} ranks, {place}, one {self.backend} group"

    def stop(self) -> None:
        """Let the ranks leave their group together and end them."""
        self._each(leave_group)
        self._client.close()
        self._cluster.stop_cluster_sync()
        self._watcher.communicate()

    def _each(self, function: Callable[..., None], *args: object) -> None:
        """Call `function(rank, *args)` on all ranks at the same time."""
        running = [
            self._client[engine].apply_async(function, rank, *args)
            for rank, engine in enumerate(self.view.targets)
        ]
        for call in running:
            call.get(START_TIMEOUT)

    def _watch(self) -> None:
        """Have all processes ended when the kernel ends, in whatever way."""
        engines = self.view.apply_sync(os.getpid)
        pids = [self._cluster.controller.pid, *engines]
        command = [sys.executable, "-c", WATCHER, self._folder]
        self._watcher = subprocess.Popen(
            [*command, *map(str, pids)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )


def join_group(rank: int, size: int, folder: str, backend: str) -> None:
    """Join the group, on an engine, and name what cells there need."""
    import torch
    import torch.distributed as dist
    from IPython import get_ipython

    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    dist.init_process_group(
        backend,
        store=dist.FileStore(str(Path(folder, "store")), size),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=GROUP_TIMEOUT),
    )
    names = {"rank": rank, "world_size": size, "device": device}
    get_ipython().push(names)


def leave_group(rank: int) -> None:
    """Leave the group, on an engine, once all ranks are there."""
    import torch.distributed as dist

    dist.barrier()
    dist.destroy_process_group()


_running: Ranks | None = None


def start_ranks(n: int = 2) -> Ranks:
    """Start `n` ranks with one group and bind `%%px` to them.

    Called again, for instance because the cell ran again, it replaces the
    ranks that are there. The output of a `%%px` cell is shown when all ranks
    have finished, in the order of the ranks.

    Raises:
        UserError: `n` is below 1, this is no notebook, or ipyparallel is
            not installed.
    """
    global _running
    if n < 1:
        raise UserError(
            f"{n} is not a number of ranks: start_ranks takes 1 or more."
        )
    try:
        import ipyparallel  # noqa: F401
        from IPython import get_ipython
    except ImportError as error:
        raise UserError(
            f"ranks in a notebook need the package {error.name}, which is "
            "not installed: create the environment with 'make book'."
        ) from None
    shell = get_ipython()
    if shell is None:
        raise UserError(
            "start_ranks works inside a notebook, where %%px runs a cell on "
            "every rank: in a terminal use torchrun."
        )
    if _running is not None:
        _running.stop()
        _running = None
    _running = Ranks(n)
    _running.view.activate()
    # Streamed output comes as it happens, in another order in every build.
    shell.run_line_magic("pxconfig", "--no-stream --progress-after -1")
    return _running
