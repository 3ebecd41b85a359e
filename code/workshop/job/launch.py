"""Joining the ranks of a job, and ending them cleanly whatever happens.

A job is started by torchrun, by Slurm's srun under it, or as one plain
process.  Errors that a person can mend are printed as one sentence, once.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel

from workshop import private
from workshop.errors import UserError, fail
from workshop.job import one_world

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """This rank's place in the job, and the device it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which speaks for all."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """The GPU's name as the driver gives it, or cpu."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return "cpu"


class AgreedError(UserError):
    """A `UserError` that every rank raises at the same place."""


def together(action: Callable[[], T]) -> T:
    """Run `action` on every rank; if it fails on any, it fails on all.

    Returns this rank's result.  Raises `AgreedError` with the message of
    the lowest rank whose `action` raised `UserError`.
    """
    returned, message = None, None
    try:
        returned = action()
    except UserError as error:
        message = str(error)
    messages: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, message)
    for failure in messages:
        if failure is not None:
            raise AgreedError(failure)
    return returned


def local_device() -> torch.device:
    """Return this rank's GPU, or the CPU on a machine without one.

    Raises `UserError` when the node has fewer GPUs than ranks.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count()
    if ranks > gpus:
        raise UserError(
            f"{ranks} ranks were launched on a node with {gpus} "
            f"GPU{'s' if gpus > 1 else ''}: launch at most {gpus} a node, "
            "or hide the GPUs with CUDA_VISIBLE_DEVICES= to run on the CPU"
        )
    return torch.device("cuda", local)


@contextmanager
def launched() -> Iterator[Job]:
    """Join the process group, NCCL for GPUs and gloo for the CPU.

    Ctrl-C ends the process at once and without a traceback.  A `UserError`
    ends it with exit code 2 and one sentence: rank 0's when all ranks agree
    on it, else that of the rank it happened on.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        one_world.check()
    except UserError as error:
        if str(error):
            print(f"error: {error}", file=sys.stderr, flush=True)
            leave_sentence(str(error))
        sys.exit(2)
    end_with_launcher()
    stay_on_loopback()
    cuda = torch.cuda.is_available()
    if "RANK" in os.environ:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    else:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=dist.HashStore(),
            rank=0,
            world_size=1,
        )
    try:
        device = together(local_device)
        together(keep_compiled_code_private)
        if cuda:
            torch.cuda.set_device(device)
        with fastest_attention() if cuda else nullcontext():
            yield Job(dist.get_rank(), dist.get_world_size(), device)
        leave()
    except AgreedError as error:
        if dist.get_rank() == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
            leave_sentence(str(error))
        leave()
        sys.exit(2)
    except UserError as error:
        leave_sentence(str(error))
        fail(str(error))


def leave_sentence(message: str) -> None:
    """Make a sentence of ours the last line of what torchrun says."""
    leave_words(f"error: {message}")


def leave_words(said: str) -> None:
    """Make this the end of what torchrun says of a failure.

    torchrun ends with a traceback of its own, whatever its ranks do, and
    closes it with what the first of them left in a file.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file:
        return
    # torchrun takes the earliest failure, and knows whole seconds only.
    begun = int(time.time()) - 1
    more = {"py_callstack": said, "timestamp": str(begun)}
    with suppress(OSError), open(file, "w", encoding="utf-8") as text:
        json.dump({"message": {"message": said, "extraInfo": more}}, text)


def stay_on_loopback() -> None:
    """Let the ranks of one node meet on its loopback interface.

    gloo listens at the address that the machine's own name leads to. That
    may be one that others reach, and a name that leads nowhere takes
    minutes.
    """
    ranks = os.environ.get("WORLD_SIZE")
    if ranks is None or ranks != os.environ.get("LOCAL_WORLD_SIZE"):
        return
    names = [name for _, name in socket.if_nameindex()]
    loopback = [name for name in names if name in ("lo", "lo0")]
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])


def end_with_launcher() -> None:
    """Ask Linux to kill this rank when torchrun dies.

    torchrun puts each rank into a session of its own.  Killed with -9 it
    cannot end them, and they would train on with nobody watching, holding
    their GPUs and writing checkpoints.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        libc = ctypes.CDLL(None)
        libc.prctl(set_parent_death_signal, signal.SIGKILL)


def keep_compiled_code_private() -> None:
    """Have torch.compile keep its programs where nobody else can lay some.

    Its own choice, `torchinductor_USER` under the temporary folder, can be
    guessed, and it runs what it finds there.

    Raises `UserError` when another user was there first.
    """
    name = f"workshop-compiled-{os.getuid()}"
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        remedy = "let TORCHINDUCTOR_CACHE_DIR name a folder of yours"
        folder = private.make(Path(tempfile.gettempdir(), name), remedy)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def fastest_attention() -> AbstractContextManager[None]:
    """Prefer cuDNN's flash attention, on Hopper the faster one.

    The other kernels follow for what it cannot compute (float32, say). A
    compiled block keeps the choice that held when it was compiled.
    """
    return sdpa_kernel(
        [
            SDPBackend.CUDNN_ATTENTION,
            SDPBackend.FLASH_ATTENTION,
            SDPBackend.EFFICIENT_ATTENTION,
            SDPBackend.MATH,
        ],
        set_priority=True,
    )


def leave() -> None:
    """Leave the group once every rank has come here.

    Without the barrier a fast rank closes connections that a slow one still
    uses, and the job can abort at its very end.
    """
    dist.barrier()
    dist.destroy_process_group()
